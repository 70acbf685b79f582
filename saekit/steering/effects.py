"""What steering costs: measured beside every steered text, with the same model left alone as the judge."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import listed
from saekit._base.progress import Progress, Step, Stop, progress_of
from saekit.errors import SteeringError
from saekit.models import (
    batches_of_one_length,
    check_hook,
    counted,
    encode_text,
    forward,
    hidden_states,
    logits_from,
    reading,
    special_token_ids,
    stopping,
)
from saekit.saes import check_pair, encoded, sae_hook
from saekit.steering.generation import Generation, Prompt
from saekit.steering.intervention import Intervention, check_feature, check_sae
from saekit.steering.plan import planned
from saekit.steering.prompt import prompt_ids

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

# Everyday sentences of several kinds: text that has nothing to do with what is steered.
NEUTRAL = (
    "The kettle takes about four minutes to boil, so there is time to put two slices of bread in the toaster.",
    "To change a bicycle tyre, first let the remaining air out, then loosen one edge of the tyre with a lever.",
    "In the second half of the year the number of visitors rose by twelve per cent, mostly because of the new line.",
    "She put the letter on the table, looked out of the window for a while, and decided to answer it tomorrow.",
    "A function that calls itself needs a case in which it stops; otherwise it runs until the memory is used up.",
    "The northern coast is colder and wetter than the south, and most farms there keep sheep rather than cattle.",
)
GRAM = 3  # tokens
READ_TOGETHER = 8  # rows in one pass


@dataclass(frozen=True)
class SideEffects:
    """What an intervention did besides what it was meant to, for one row of a `Generation`.

    Attributes:
        kl: Kullback-Leibler divergence of the steered from the unsteered next-token distribution on neutral text,
            KL(unsteered || steered), mean over tokens, in nats; see `neutral_kl`. NaN without neutral text.
        perplexity: Perplexity of the output under the model left alone, after the prompt: low for text that it might
            have written itself, but also for the same word again and again, so read it with ``repetition``. NaN for
            an empty output.
        repetition: Share of the output's runs of three tokens that have occurred in it before: 0 to 1.
        feature_share: Share of the output's tokens on which a target feature is active when the model, left alone,
            reads the text again. NaN without SAE and target features, or for an empty output.
        feature_mean: Mean activation of the strongest target feature on the output's tokens; NaN likewise.
        concept_share: Share of the output's words that match the criterion (of its tokens, if that is a set of
            tokens). NaN without a criterion; 0 for an empty output.
        edit_norm: Length of the edit relative to the residual's, mean over edited positions.
        logprobs: Natural logarithm of each output token's probability under the intervention.
        logprobs_plain: Natural logarithm of each output token's probability in the model left alone, which reads the
            same text. The difference is how much the intervention changed the token's probability.
    """

    kl: float
    perplexity: float
    repetition: float
    feature_share: float
    feature_mean: float
    concept_share: float
    edit_norm: float
    logprobs: tuple[float, ...]
    logprobs_plain: tuple[float, ...]

    def __repr__(self) -> str:
        shown = [f"KL {self.kl:.3f} nats on neutral text", f"perplexity {self.perplexity:.1f}"]
        shown += [f"repetition {self.repetition:.0%}", f"edit {self.edit_norm:.2f} of the residual"]
        shown += [f"feature on {self.feature_share:.0%} of tokens"] if not math.isnan(self.feature_share) else []
        shown += [f"concept in {self.concept_share:.0%}"] if not math.isnan(self.concept_share) else []
        return ", ".join(shown)


def side_effects(
    model: "SAETransformerBridge",
    generation: Generation,
    *,
    sae: "SAE[Any] | None" = None,
    features: Iterable[int] | None = None,
    concept: "str | re.Pattern | Iterable[int] | None" = None,
    neutral: Sequence[str | Tensor] | None = None,
    prompt: Prompt | None = None,
    progress: Progress = False,
    stop: Stop = None,
) -> tuple[SideEffects, ...]:
    """Measure the side effects of every row of a generation.

    Args:
        model: The model that wrote it.
        generation: What `generate` returned.
        sae: The SAE of the target features; None to read none. Another SAE than that of the interventions only with
            ``features`` and ``neutral=[]``.
        features: The target features, read in every row; None: those that each row's intervention edits.
        concept: What the text should be about: a regular expression, in any case, that a word has to contain
            (``r"sea|ocean|ship"``), or token ids.
        neutral: Texts, or rows of tokens, on which the KL is measured; None: six everyday sentences. [] to leave it
            out.
        prompt: Prompt after which the model, left alone, reads the outputs again: text, or token ids. None: the
            prompt that they were written to. For outputs that an instruction asked for, give the prompt without it:
            with the instruction before its eyes the reader expects what was asked for, and the perplexity says less
            than that of a steered text.
        progress: Show a progress bar; or a function that is given (done, total) texts, neutral ones and outputs.
        stop: Function that is asked before every block of the model; once it returns True, `saekit.errors.Stopped`
            is raised.

    Returns:
        Side effects of each row.

    Raises:
        SteeringError: The criterion is no regular expression, a feature is out of range, of another SAE or
            without its SAE, or the prompt is none.
        SAEError: The SAE does not fit the model.
        Stopped: stop() returned True.
    """
    matches = criterion(concept)
    wanted = None if features is None else listed("features", features, "feature numbers", error=SteeringError)
    if wanted is None and sae is not None:
        for one in generation.interventions:
            if one is not None:
                check_sae(one, sae)
    for feature in wanted or ():
        if sae is None:
            raise SteeringError("to read features, the SAE is needed: pass sae=")
        check_feature(sae, feature)
    if sae is not None:
        check_pair(model, sae)
    if prompt is not None:
        generation = replace(generation, prompt_ids=_prompt_before(model, generation, prompt))
    if neutral is None:
        neutral = NEUTRAL if model.tokenizer is not None else ()
    targets: list[list[int]] = [[] for _ in generation.interventions]
    if sae is not None:
        edited = [[] if one is None else one.features for one in generation.interventions]
        targets = edited if wanted is None else [wanted for _ in edited]
    total = len(neutral) + len(generation)
    with stopping(model, stop), progress_of(progress, total, "text", stop=stop, title="Measuring") as step:
        kl = _neutral_kl(model, generation.interventions, sae, neutral, step)
        readings = _read_again(model, generation, sae, targets, step)
    return tuple(
        SideEffects(
            kl=kl[row],
            perplexity=_perplexity(plain),
            repetition=repetition(generation.ids[row]),
            feature_share=math.nan if active is None else (active > 0).float().mean().item(),
            feature_mean=math.nan if active is None else active.mean().item(),
            concept_share=_concept_share(generation.texts[row], generation.ids[row], matches),
            edit_norm=generation.edit_norms[row],
            logprobs=generation.logprobs[row],
            logprobs_plain=tuple(plain.tolist()),
        )
        for row, (plain, active) in enumerate(readings)
    )


def neutral_kl(
    model: "SAETransformerBridge",
    interventions: Sequence[Intervention | None],
    *,
    sae: "SAE[Any] | None" = None,
    neutral: Sequence[str | Tensor] | None = None,
    progress: Progress = False,
    stop: Stop = None,
) -> list[float]:
    """Return KL(unsteered || steered) on neutral text for each intervention, in nats.

    It is the mean over all tokens but special ones and those of massive norm. All tokens but BOS are steered, also by
    an intervention on generated tokens; one on a span keeps its span.

    Args:
        model: The model.
        interventions: The interventions; None, or one of strength 0, changes nothing.
        sae: The SAE of the features; not needed to add them, nor for directions.
        neutral: Texts, or rows of tokens; None: six everyday sentences, or none for a model without a tokenizer.
            Without any, the KL is NaN.
        progress: Show a progress bar; or a function that is given (done, total) texts.
        stop: Function that is asked before every block of the model.

    Raises:
        SteeringError: An intervention that does not fit the model or the SAE.
        Stopped: stop() returned True.
    """
    if neutral is None:
        neutral = NEUTRAL if model.tokenizer is not None else ()
    with stopping(model, stop), progress_of(progress, len(neutral), "text", stop=stop, title="Measuring") as step:
        return _neutral_kl(model, interventions, sae, neutral, step)


@torch.no_grad()
def _neutral_kl(
    model: "SAETransformerBridge",
    interventions: Sequence[Intervention | None],
    sae: "SAE[Any] | None",
    neutral: Sequence[str | Tensor],
    step: Step,
) -> list[float]:
    at: dict[str, dict[int, Intervention]] = {}
    for row, one in enumerate(interventions):
        if one is not None and one.strength != 0:
            everywhere = replace(one, positions="all") if one.positions == "generated" else one
            at.setdefault(check_hook(model, one.hook_name), {})[row] = everywhere
    per_token = {row: [torch.zeros(0, dtype=torch.float64)] for members in at.values() for row in members}
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    for text in neutral:
        ids = (encode_text(model, text) if isinstance(text, str) else torch.as_tensor(text).long())[None]
        for hook, members in at.items():
            # Only the blocks above the hook point run again for each intervention.
            states = hidden_states(model, ids, hook)
            keep = counted(ids, states, special)[0][0].to(states.device)
            clean = logits_from(model, ids, states, hook)[0, keep].double().log_softmax(-1)
            # A span may lie behind the end of a short text: then nothing is edited.
            plan = planned(model, list(members.values()), ids[0], sae=sae)
            edited = plan.edited(hook, states.expand(len(members), -1, -1))
            for row, state in zip(members, edited, strict=True):
                steered = logits_from(model, ids, state[None], hook)[0, keep].double().log_softmax(-1)
                per_token[row].append((clean.exp() * (clean - steered)).sum(-1).cpu())
        step()
    unchanged = 0.0 if len(neutral) else math.nan
    return [
        torch.cat(per_token[row]).mean().item() if row in per_token else unchanged for row in range(len(interventions))
    ]


def _prompt_before(model: "SAETransformerBridge", generation: Generation, prompt: Prompt) -> tuple[int, ...]:
    """Return the tokens of another prompt for outputs that are there already."""
    ids, longest = prompt_ids(model, prompt, None), max(map(len, generation.ids))
    if len(ids) + longest > model.cfg.n_ctx:
        raise SteeringError(
            f"the prompt has {len(ids)} tokens and the output {longest}, but the context has {model.cfg.n_ctx}: "
            f"expected a shorter prompt"
        )
    return tuple(ids.tolist())


def repetition(ids: Sequence[int]) -> float:
    """Return the share of runs of three tokens that have occurred before: 0 if all are new, near 1 for a loop."""
    grams = [tuple(ids[start : start + GRAM]) for start in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@torch.no_grad()
def _read_again(
    model: "SAETransformerBridge",
    generation: Generation,
    sae: "SAE[Any] | None",
    features: list[list[int]],
    step: Step,
) -> list[tuple[Float[Tensor, " out"], Float[Tensor, " out"] | None]]:
    """Let the model, left alone, read prompt and output of every row; rows of one length together.

    Returns:
        Log-probabilities of each row's output tokens, and the activation of its strongest target feature on each;
        None where there is none to read.
    """
    readings: list[tuple[Tensor, Tensor | None]] = [(torch.zeros(0), None) for _ in generation.ids]
    for batch in batches_of_one_length(generation.ids, READ_TOGETHER):
        rows, n = batch.tolist(), len(generation.ids[batch[0]])
        if not n:
            step(len(rows))
            continue
        hooks = [sae_hook(sae)] if sae is not None and any(features[row] for row in rows) else []
        output = torch.tensor([generation.ids[row] for row in rows])
        text = torch.cat([torch.tensor(generation.prompt_ids).expand(len(rows), -1), output], 1)
        with reading(model, hooks) as states:
            logits = forward(model, text)[:, -n - 1 : -1]
        for number, row in enumerate(rows):
            likely = logits[number].double().log_softmax(-1).cpu().gather(1, output[number, :, None])[:, 0]
            active = None
            if sae is not None and features[row]:
                every = encoded(sae, states[hooks[0]][number, -n:])
                active = every[:, features[row]].float().amax(-1).cpu()  # of the strongest
            readings[row] = (likely, active)
        step(len(rows))
    return readings


def _perplexity(logprobs: Float[Tensor, " out"]) -> float:
    return math.exp(min(-logprobs.double().mean().item(), 700)) if len(logprobs) else math.nan


def criterion(concept: "str | re.Pattern | Iterable[int] | None") -> "re.Pattern | frozenset[int] | None":
    """Return a criterion of the concept in its one form, or raise SteeringError."""
    if concept is None:
        return None
    if isinstance(concept, str | re.Pattern):
        text = concept if isinstance(concept, str) else concept.pattern
        try:
            pattern = re.compile(concept, re.IGNORECASE) if isinstance(concept, str) else concept
        except re.error as error:
            raise SteeringError(f"{concept!r} is no regular expression: {error}") from error
        if isinstance(concept, str) and not text.strip():
            raise SteeringError("the concept is empty: expected a regular expression that some words match")
        if pattern.search(""):
            raise SteeringError(
                f"the concept {text!r:.80} matches the empty text, and so every word: what is it to match?"
            )
        return pattern
    try:
        tokens = list(concept)
        if not all(int(token) == token for token in tokens):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise SteeringError(f"concept must be a regular expression or token ids, not {concept!r:.80}") from error
    if not tokens:
        raise SteeringError("the concept is empty: expected at least one token id")
    return frozenset(int(token) for token in tokens)


def _concept_share(text: str, ids: Sequence[int], matches: "re.Pattern | frozenset[int] | None") -> float:
    if matches is None:
        return math.nan
    if isinstance(matches, frozenset):
        hits = [token in matches for token in ids]
    else:
        hits = [matches.search(word) is not None for word in text.split()]
    return sum(hits) / len(hits) if hits else 0.0
