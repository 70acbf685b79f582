"""Generate text token by token, steered or not, several interventions side by side in one batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import finite, listed, seed_of, whole
from saekit._base.progress import Progress, Stop, ask, progress_of
from saekit._base.table import Column, Table
from saekit.errors import SteeringError, Stopped
from saekit.models import CachedReader
from saekit.steering.intervention import Intervention
from saekit.steering.plan import Plan, planned
from saekit.steering.prompt import Decoder, end_tokens, prompt_ids

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Prompt = str | Sequence[int] | Tensor
Interventions = Intervention | Sequence[Intervention | None] | None


@dataclass(frozen=True)
class NextTokens:
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
        interventions: Intervention of each row; None: left alone.
        texts: Output of each row, without the token that ended it.
        ids: Tokens of each row's output, that one included.
        logprobs: Natural logarithm of each token's probability under the intervention, at temperature 1.
        ends: Why each row ended: ``"eos"``, ``"length"`` (max_new_tokens), ``"context"`` (the model's context is
            full), ``"stopped"``.
        edit_norms: Length of the edit relative to the residual's, mean over the edited positions of each row; 0
            where nothing was edited.
        temperature: 0 for greedy.
        seed: Seed of the sampling; None for greedy.
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

    def _rows(self) -> list[dict[str, str]]:
        names = ["no intervention" if one is None else repr(one) for one in self.interventions]
        rows = zip(names, self.texts, self.ends, strict=True)
        return [{"intervention": name, "text": text, "end": end} for name, text, end in rows]

    def __repr__(self) -> str:
        return "\n".join("[{intervention}; {end}]\n{text}".format(**row) for row in self._rows())

    def _repr_html_(self) -> str:
        columns = (Column("intervention", "intervention"), Column("text", "text"), Column("ended by", "end"))
        return Table(tuple(self._rows()), columns, caption=self.prompt or "prompt given as tokens")._repr_html_()


def generate(
    model: "SAETransformerBridge",
    prompt: Prompt,
    intervention: Interventions = None,
    *,
    sae: "SAE[Any] | None" = None,
    on_step: Callable[[NextTokens], object] | None = None,
    progress: Progress = False,
    **options: Any,
) -> Generation:
    """Generate text under an intervention, or several side by side.

    Args:
        model: The model; left as it was, however this ends.
        prompt: Text, or token ids.
        intervention: One, or a list with an intervention for each row of the batch; None (also in the list) leaves a
            row alone.
        sae: The SAE of the features; not needed to add them, nor for directions.
        on_step: Function that is given the `NextTokens` of each step.
        progress: Show a progress bar; or a function that is given (done, total) tokens of a row after each.
        **options: Options of `generate_stream`, ``stop`` among them.

    Raises:
        SteeringError: What `generate_stream` refuses.
    """
    stream = generate_stream(model, prompt, intervention, sae=sae, **options)
    with progress_of(progress, stream.room, "token", title="Writing") as step:
        for tokens in stream:
            if on_step is not None:
                on_step(tokens)
            step()
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
    stop: Stop = None,
) -> "Stream":
    """Generate token by token: iterate over the result for its `NextTokens`, then ask it for its ``result``.

    Hooks are on the model only while a token is computed: between two steps, and when the loop is left half-way, the
    model is clean.

    Args:
        model: The model.
        prompt: Text, or token ids, which are read as they are.
        intervention: One, or a list with an intervention for each row of the batch; None (also in the list) leaves a
            row alone.
        sae: The SAE of the features; not needed to add them, nor for directions.
        strengths: Strengths of a single intervention, for a row each.
        max_new_tokens: Largest number of tokens of output.
        temperature: 0: the most probable token each time. Else tokens are sampled.
        top_k: Number of the most probable tokens among which to sample; None for all.
        seed: Seed of the sampling; required when temperature > 0. All rows draw with the same random numbers, so that
            they differ by their interventions and not by chance.
        chat: Put the prompt into the model's chat template, as the user's words; None: if the model has one.
        stop_at_eos: End a row at the tokenizer's or the model's end-of-text token.
        stop: Function that is asked before every block of the model; once it returns True, generation ends, with the
            text so far.

    Raises:
        SteeringError: An intervention that does not fit model or prompt, or was made with another SAE; an empty
            prompt or one that fills the context; sampling without a seed.
        ModelError: No such hook point; a text for a model without tokenizer.
    """
    rows = _rows(intervention, strengths)
    ids = prompt_ids(model, prompt, chat)
    max_new_tokens = whole("max_new_tokens", max_new_tokens, at_least=1, error=SteeringError)
    temperature = finite("temperature", temperature, at_least=0, error=SteeringError)
    seed = None if seed is None else seed_of(seed, error=SteeringError)
    if temperature and seed is None:
        raise SteeringError(f"temperature={temperature:g} samples: pass seed=, so that the text can be had again")
    top_k = None if top_k is None else whole("top_k", top_k, at_least=1, error=SteeringError)
    room = min(max_new_tokens, model.cfg.n_ctx - len(ids))
    plan = planned(model, rows, ids, sae=sae, end=len(ids) + room)
    ends = end_tokens(model) if stop_at_eos else frozenset()
    sampler = Sampler(temperature, top_k, seed if temperature else None)
    nothing = Generation(
        prompt=prompt if isinstance(prompt, str) else "",
        prompt_ids=tuple(ids.tolist()),
        interventions=tuple(rows),
        texts=(),
        ids=(),
        logprobs=(),
        ends=(),
        temperature=temperature,
        seed=sampler.seed,
    )
    full = "length" if room == max_new_tokens else "context"
    return Stream(model, plan, nothing, sampler, room, full, ends, stop)


@dataclass
class _Row:
    """The output of one row as it grows."""

    decoder: Decoder
    shares: list[float]  # lengths of its edits; a row that has ended reads on, and what is edited then does not count
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end: str = ""
    n_edited: int = 0

    def add(self, token: int, logprob: float, *, in_text: bool) -> str:
        """Take a token; return what it adds to the text, where it is one of its."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.n_edited = len(self.shares)
        return self.decoder.add(token) if in_text else ""

    def finish(self, why: str) -> str:
        """End here; return what is left of the text."""
        self.end = why
        return self.decoder.rest()

    @property
    def edit_norm(self) -> float:
        """Mean length of its edits relative to the residual's."""
        return sum(self.shares[: self.n_edited]) / self.n_edited if self.n_edited else 0.0


class Stream(Iterator[NextTokens]):
    """Tokens as they come; `generate_stream` makes one.

    Args:
        model: The model.
        plan: The interventions of all rows.
        nothing: The result so far, with no output yet.
        sampler: What chooses the tokens.
        room: Largest number of tokens of output.
        full: Why a row ends that has no room left.
        end_ids: Tokens that end a row.
        stop: Function that is asked before every block of the model.
    """

    def __init__(
        self,
        model: "SAETransformerBridge",
        plan: Plan,
        nothing: Generation,
        sampler: "Sampler",
        room: int,
        full: str,
        end_ids: frozenset[int],
        stop: Stop,
    ) -> None:
        self.room = room
        self._nothing, self._sampler, self._full, self._end_ids, self._stop = nothing, sampler, full, end_ids, stop
        plan.shares = [[] for _ in nothing.interventions]
        self._rows = [_Row(Decoder(model), shares) for shares in plan.shares]
        hooks = partial(plan.hooked, model)
        self._reader: CachedReader | None = CachedReader(
            model, len(self._rows), hooks=hooks, alike=plan.first, stop=stop
        )
        self._number = 0

    def __next__(self) -> NextTokens:
        """Compute one token of every row."""
        if self._reader is None or all(row.end for row in self._rows):
            self.close()
            raise StopIteration
        try:
            ask(self._stop)
            if self._number == 0:
                logits = self._reader.begin(torch.tensor(self._nothing.prompt_ids))
            else:
                # A row that has ended reads on, so that the shape of the batch, and with it rounding, stays.
                logits = self._reader.read(torch.tensor([[row.ids[-1]] for row in self._rows]))
        except Stopped:
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise
        return self._take(logits.cpu())

    def _take(self, logits: Float[Tensor, "row d_vocab"]) -> NextTokens:
        """Choose a token for each row, and return what is new of those that go on."""
        chosen = self._sampler.choose(logits)
        logprobs = torch.log_softmax(logits.double(), -1).gather(1, chosen[:, None])[:, 0]
        new: list[tuple] = []
        for row, token, logprob in zip(self._rows, chosen.tolist(), logprobs.tolist(), strict=True):
            if row.end:
                new.append((None, "", None, ""))
                continue
            is_end = token in self._end_ids
            text = row.add(token, logprob, in_text=not is_end)
            if is_end or len(row.ids) == self.room:
                text += row.finish("eos" if is_end else self._full)
            new.append((token, text, logprob, row.end))
        ids, texts, logprobs, ends = zip(*new, strict=True)
        self._number += 1
        return NextTokens(self._number - 1, ids, texts, logprobs, ends)

    def close(self) -> None:
        """End here; rows that were still going count as stopped. Frees the cache."""
        self._reader = None
        for row in self._rows:
            if not row.end:
                row.finish("stopped")

    @property
    def result(self) -> Generation:
        """The text so far."""
        return replace(
            self._nothing,
            texts=tuple(row.decoder.text for row in self._rows),
            ids=tuple(tuple(row.ids) for row in self._rows),
            logprobs=tuple(tuple(row.logprobs) for row in self._rows),
            ends=tuple(row.end for row in self._rows),
            edit_norms=tuple(row.edit_norm for row in self._rows),
        )


class Sampler:
    """The next token of each row from its logits.

    Args:
        temperature: 0 to take the most probable token.
        top_k: Number of the most probable tokens among which to sample; None for all.
        seed: Seed of the sampling; None to take the most probable token.
    """

    def __init__(self, temperature: float, top_k: int | None, seed: int | None) -> None:
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
    rows: list[Any]
    if strengths is None:
        single = isinstance(intervention, Intervention) or not isinstance(intervention, Iterable)
        rows = [intervention] if single else list(intervention)
    elif isinstance(intervention, Intervention):
        rows = [intervention.scaled(one) for one in listed("strengths", strengths, "numbers", error=SteeringError)]
    else:
        raise SteeringError("strengths= goes with one intervention: pass one, or a list of interventions without it")
    wrong = [one for one in rows if one is not None and not isinstance(one, Intervention)]
    if not rows or wrong:
        got = f"{wrong[0]!r:.80}" if wrong else "an empty list"
        raise SteeringError(f"expected interventions or None, got {got}. Intervention.on(sae, features, ...) makes one")
    return rows
