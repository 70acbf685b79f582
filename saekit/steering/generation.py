"""Generate text token by token, steered or not, several interventions side by side in one batch."""

import html
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.errors import SteeringError
from saekit.steering.edit import checked_seed, listed, whole
from saekit.steering.intervention import Intervention
from saekit.steering.plan import Plan, planned
from saekit.steering.prompt import Decoder, end_tokens, prompt_ids
from saekit.steering.reader import CachedReader, Interrupted

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Prompt = str | Sequence[int] | Tensor
Interventions = Intervention | Sequence[Intervention | None] | None


@dataclass(frozen=True)
class Step:
    """One more token in every row that goes on.

    Attributes:
        number: Which token of the output, from 0 on.
        ids: The token of each row, None where the row has ended.
        texts: What to append to each row's text. It lags behind while a character is incomplete.
        logprobs: Natural logarithm of the token's probability in the run that chose it, None where the row has ended.
        ends: Why each row ends with this token ("" if it goes on): see `Generation.ends`.
    """

    number: int
    ids: tuple[int | None, ...]
    texts: tuple[str, ...]
    logprobs: tuple[float | None, ...]
    ends: tuple[str, ...]


@dataclass(frozen=True)
class Generation:
    """What `generate` wrote: one row for each intervention.

    Attributes:
        prompt: The prompt as given; "" if it was given as tokens.
        prompt_ids: The tokens that the model read, with BOS and the markers of a chat template.
        interventions: Of each row; None: left alone.
        texts: The output of each row, without the token that ended it.
        ids: Tokens of each row, that one included.
        logprobs: Natural logarithm of each token's probability under the intervention, at temperature 1.
        ends: Why each row ended: ``"eos"``, ``"length"`` (max_new_tokens), ``"context"`` (the model's context is
            full), ``"stopped"``.
        edit_norms: Length of the edit relative to the residual's, mean over the edited positions of each row; 0
            where nothing was edited.
        temperature: 0 for greedy.
        seed: Of the sampling; None for greedy.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    interventions: tuple[Intervention | None, ...]
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    ends: tuple[str, ...]
    edit_norms: tuple[float, ...] = ()
    temperature: float = 0.0
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def _rows(self) -> list[tuple[str, str, str]]:
        names = ["no intervention" if one is None else repr(one) for one in self.interventions]
        return list(zip(names, self.texts, self.ends, strict=True))

    def __repr__(self) -> str:
        return "\n".join(f"[{name}; {end}]\n{text}" for name, text, end in self._rows())

    def _repr_html_(self) -> str:
        cell = lambda tag, text: f'<{tag} style="text-align:left;white-space:pre-wrap">{html.escape(text)}</{tag}>'  # noqa: E731
        rows = "".join(f"<tr>{''.join(cell('td', text) for text in row)}</tr>" for row in self._rows())
        head = "".join(cell("th", text) for text in ("intervention", "text", "ended by"))
        caption = f"<caption>{html.escape(self.prompt or 'prompt given as tokens')}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def generate(
    model: "SAETransformerBridge",
    prompt: Prompt,
    intervention: Interventions = None,
    *,
    sae: "SAE[Any] | None" = None,
    on_step: Callable[[Step], object] | None = None,
    **options: Any,
) -> Generation:
    """Generate text under an intervention, or several side by side.

    Args:
        model: The model; left as it was, however this ends.
        prompt: Text, or token ids.
        intervention: One, or a list with a row of the batch for each; None (also in the list) leaves a row alone.
        sae: Of the features; not needed for directions only.
        on_step: Called after every token with its `Step`.
        **options: See `generate_stream`.

    Raises:
        SteeringError: As `generate_stream`.
    """
    stream = generate_stream(model, prompt, intervention, sae=sae, **options)
    for step in stream:
        if on_step is not None:
            on_step(step)
    return stream.result


def generate_stream(
    model: "SAETransformerBridge",
    prompt: Prompt,
    intervention: Interventions = None,
    *,
    sae: "SAE[Any] | None" = None,
    strengths: Sequence[float] | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int | None = None,
    chat: bool | None = None,
    stop_at_eos: bool = True,
    stop: Callable[[], bool] | None = None,
) -> "Stream":
    """Generate token by token: iterate over the result for one `Step` each, then ask it for its ``result``.

    Hooks are on the model only while a token is computed: between two steps, and when the loop is left half-way, the
    model is clean.

    Args:
        model: The model.
        prompt: Text, or token ids, which are read as they are.
        intervention: One, or a list with a row of the batch for each; None (also in the list) leaves a row alone.
        sae: Of the features; not needed for directions only.
        strengths: Run a single intervention with each of these strengths, a row each.
        max_new_tokens: Most tokens of output.
        temperature: 0: the most probable token each time. Else tokens are sampled.
        top_k: Sample among so many of the most probable tokens only.
        seed: Of the sampling, which does not go without. All rows draw with the same random numbers, so that they
            differ by their interventions and not by chance.
        chat: Put the prompt into the model's chat template, as the user's words; None: if the model has one.
        stop_at_eos: End a row at the tokenizer's or the model's end-of-text token.
        stop: Asked before every block of the model; when it says True, generation ends, with the text so far.

    Raises:
        SteeringError: An intervention that does not fit model or prompt, or was made with another SAE; an empty
            prompt or one that fills the context; sampling without a seed.
        ModelError: No such hook point; a text for a model without tokenizer.
    """
    rows = _rows(intervention, strengths)
    ids = prompt_ids(model, prompt, chat)
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise SteeringError(f"max_new_tokens must be a whole number from 1 on, not {max_new_tokens!r}")
    try:
        warmth = math.nan if isinstance(temperature, str) else float(temperature)
    except (TypeError, ValueError):
        warmth = math.nan
    if not 0 <= warmth < math.inf:
        raise SteeringError(f"temperature must be 0 (greedy) or a positive number, not {temperature!r}")
    seed = None if seed is None else checked_seed(seed)
    if warmth and seed is None:
        raise SteeringError(f"temperature={warmth:g} samples: pass seed=, so that the text can be had again")
    if top_k is not None and (isinstance(top_k, bool) or not whole(top_k) or top_k < 1):
        raise SteeringError(f"top_k must be a whole number from 1 on, not {top_k!r:.80}")
    room = min(max_new_tokens, model.cfg.n_ctx - len(ids))
    plan = planned(model, rows, ids, sae=sae, end=len(ids) + room)
    chooser = _Chooser(warmth, None if top_k is None else int(top_k), seed if warmth else None)
    last = "length" if room == max_new_tokens else "context"
    ends = end_tokens(model) if stop_at_eos else frozenset()
    return Stream(model, plan, rows, prompt, ids, chooser, room, last, ends, stop)


class Stream(Iterator[Step]):
    """Tokens as they come; `generate_stream` makes one."""

    def __init__(self, model, plan: Plan, rows, prompt, ids: Tensor, chooser, room: int, last: str, end_ids, stop):
        self._prompt, self._prompt_ids, self._interventions = prompt, ids, tuple(rows)
        self._chooser, self._room, self._last, self._end_ids, self._stop = chooser, room, last, end_ids, stop
        self._ids: list[list[int]] = [[] for _ in rows]
        self._logprobs: list[list[float]] = [[] for _ in rows]
        self._ends = [""] * len(rows)
        self._decoders = [Decoder(model) for _ in rows]
        self._shares: list[list[float]] = [[] for _ in rows]
        plan.shares = self._shares
        self._edited = [0] * len(rows)  # how many positions count, for a row that has ended
        self._reader: CachedReader | None = CachedReader(model, plan, len(rows), stop)
        self._number = 0

    def __next__(self) -> Step:
        """Compute one token of every row."""
        if self._reader is None or all(self._ends):
            self.close()
            raise StopIteration
        try:
            if self._stop is not None and self._stop():
                raise Interrupted
            if self._number == 0:
                logits = self._reader.begin(self._prompt_ids)
            else:
                # A row that has ended reads on, so that the shape of the batch, and with it rounding, stays.
                logits = self._reader.read(torch.tensor([[row[-1]] for row in self._ids]))
        except Interrupted:
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise
        return self._taken(logits.cpu())

    def _taken(self, logits: Float[Tensor, "row d_vocab"]) -> Step:
        chosen = self._chooser.choose(logits)
        logprobs = torch.log_softmax(logits.double(), -1).gather(1, chosen[:, None])[:, 0]
        before = list(self._ends)
        texts = [
            self._add(row, token, likely)
            for row, (token, likely) in enumerate(zip(chosen.tolist(), logprobs.tolist(), strict=True))
        ]
        going = [not end for end in before]
        step = Step(
            self._number,
            tuple(row[-1] if on else None for row, on in zip(self._ids, going, strict=True)),
            tuple(texts),
            tuple(row[-1] if on else None for row, on in zip(self._logprobs, going, strict=True)),
            tuple(end if on else "" for end, on in zip(self._ends, going, strict=True)),
        )
        self._number += 1
        return step

    def _add(self, row: int, token: int, likely: float) -> str:
        """Add a token to a row that goes on; return what it adds to the text."""
        if self._ends[row]:
            return ""
        self._ids[row].append(token)
        self._edited[row] = len(self._shares[row])
        self._logprobs[row].append(likely)
        if token in self._end_ids:
            self._ends[row] = "eos"
            return self._decoders[row].rest()
        text = self._decoders[row].add(token)
        if len(self._ids[row]) == self._room:
            self._ends[row] = self._last
            text += self._decoders[row].rest()
        return text

    def close(self) -> None:
        """End here; rows that were still going count as stopped. Frees the cache."""
        self._reader = None
        for row, end in enumerate(self._ends):
            if not end:
                self._ends[row] = "stopped"
                self._decoders[row].rest()

    @property
    def result(self) -> Generation:
        """The text so far."""
        return Generation(
            self._prompt if isinstance(self._prompt, str) else "",
            tuple(self._prompt_ids.tolist()),
            self._interventions,
            tuple(decoder.text for decoder in self._decoders),
            tuple(map(tuple, self._ids)),
            tuple(map(tuple, self._logprobs)),
            tuple(self._ends),
            tuple(sum(row[:n]) / n if n else 0.0 for row, n in zip(self._shares, self._edited, strict=True)),
            self._chooser.temperature,
            self._chooser.seed,
        )


class _Chooser:
    """The next token of each row from its logits."""

    def __init__(self, temperature: float, top_k: int | None, seed: int | None):
        self.temperature, self.top_k, self.seed = temperature, top_k, seed
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def choose(self, logits: Float[Tensor, "row d_vocab"]) -> Int[Tensor, "row"]:
        """Take the best, or sample by the Gumbel-max trick with one noise for all rows.

        With common noise two rows differ only where their probabilities do.
        """
        if self._generator is None:
            return logits.argmax(-1)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            worst = logits.topk(self.top_k, -1).values[:, -1:]
            logits = logits.masked_fill(logits < worst, -torch.inf)
        noise = torch.empty(logits.shape[-1]).exponential_(generator=self._generator)
        return (logits.double() / self.temperature - noise.double().clamp_min(1e-30).log()).argmax(-1)


def _rows(intervention: Interventions, strengths: Sequence[float] | None) -> list[Intervention | None]:
    single = intervention is None or isinstance(intervention, Intervention)
    rows: list[Any]
    if strengths is None:
        several = isinstance(intervention, Iterable)
        rows = list(intervention) if several and not single else [intervention]
    elif not isinstance(intervention, Intervention):
        raise SteeringError("strengths= goes with one intervention: pass one, or a list of interventions without it")
    else:
        rows = [intervention.scaled(strength) for strength in listed(strengths, "strengths", "numbers")]
    wrong = [one for one in rows if one is not None and not isinstance(one, Intervention)]
    if not rows or wrong:
        got = f"{wrong[0]!r:.80}" if wrong else "an empty list"
        raise SteeringError(f"expected interventions or None, got {got}. Intervention.on(sae, features, ...) makes one")
    return rows
