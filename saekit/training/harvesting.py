"""Activations from a model: kept on disk by one pass over a corpus (`harvest`), or as they come (a stream).

A harvest can be trained on as often as one likes, in any order. A stream needs no disk: for a corpus that would not
fit on it. Both leave out the same tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import whole
from saekit._base.identity import Identity
from saekit._base.progress import Progress, Stop, progress_of
from saekit._base.writer import Writer
from saekit.data import Tokens, counted
from saekit.errors import DataError
from saekit.models import hidden_states_at, hook_width, model_identity, special_token_ids
from saekit.training.activations import HARVEST, Activations, batch_count, identity_of

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_MOST = 65504  # the largest number in half precision
_STREAMED = 8  # sequences per forward pass of a stream


def harvest(
    model: "SAETransformerBridge",
    tokens: Tokens,
    hook_name: str,
    path: Path | str,
    *,
    batch_size: int = 8,
    progress: Progress = True,
    stop: Stop = None,
) -> Activations:
    """Keep the activations of ``hook_name`` on every token of a corpus, in half precision.

    Interrupted (Ctrl-C, a crash, a full disk), the folder holds what was done; the same call goes on from there. Of
    several processes that harvest into one folder, one does and the others wait for it.

    Args:
        model: The language model. In bfloat16 it is faster, and training does not need more.
        tokens: The corpus.
        hook_name: Name of the hook point, for example ``"blocks.18.hook_resid_post"``.
        path: Folder to write. It takes ``2 * d_model`` bytes per token.
        batch_size: Sequences per forward pass.
        progress: Show a progress bar; or a function that is given (done, total) after each part.
        stop: Function that is asked between parts; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        DataError: The folder holds something else; the disk is too full.
        ModelError: The model has no such hook point, cannot read these tokens, or an activation is not finite.
    """
    return _harvest(model, tokens, {hook_name: Path(path)}, batch_size, progress, stop)[hook_name]


def harvest_many(
    model: "SAETransformerBridge",
    tokens: Tokens,
    hook_names: Sequence[str],
    path: Path | str,
    *,
    batch_size: int = 8,
    progress: Progress = True,
    stop: Stop = None,
) -> dict[str, Activations]:
    """Keep the activations of several hook points from one pass of the model.

    Each hook point gets a folder of its own name in ``path``; otherwise like `harvest`.
    """
    if not hook_names or len(set(hook_names)) < len(hook_names):
        raise DataError(f"name at least one hook point, and each once, not {list(hook_names)}")
    return _harvest(model, tokens, {name: Path(path) / name for name in hook_names}, batch_size, progress, stop)


def _harvest(
    model: "SAETransformerBridge",
    tokens: Tokens,
    folders: dict[str, Path],
    batch_size: int,
    progress: Progress,
    stop: Stop,
) -> dict[str, Activations]:
    batch_size = whole("batch_size", batch_size, at_least=1, error=DataError)
    widths = _widths(model, list(folders))
    common = {
        "model_name": model.cfg.model_name,
        "model": model_identity(model).facts,
        "tokens": tokens.identity().facts,
    }
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                HARVEST.resume(path, {"hook_name": name, "d_model": widths[name], **common}, stop=stop)
            )
            for name, path in sorted(folders.items())  # in one order in every process: they wait, and never in a ring
        }
        left = {name: len(tokens) - _done(writer) for name, writer in writers.items()}
        needed = sum(2 * widths[name] * left[name] * tokens.ids.shape[1] for name in folders)
        HARVEST.check_room(next(iter(folders.values())), needed)  # before an hour's work, not after it
        start, title = len(tokens) - max(left.values()), ", ".join(folders)
        with progress_of(progress, len(tokens), "sequence", stop=stop, title=title, start=start) as step:
            while step.done < len(tokens):
                # A folder may be ahead of the others after an interrupt: stop where it takes up again.
                ahead = [_done(writer) for writer in writers.values() if _done(writer) > step.done]
                batch = tokens[step.done : min(step.done + batch_size, len(tokens), *ahead)]
                behind = [name for name, writer in writers.items() if _done(writer) == step.done]
                for name, (states, left_out) in _counted_states(model, batch, behind).items():
                    _append(writers[name], states, left_out, len(batch), len(tokens))
                for writer in writers.values():
                    if writer.due:
                        writer.checkpoint()
                step(len(batch))
        for writer in writers.values():
            if not writer.finished:
                writer.finish(writer.about | {"of": len(tokens)})
    return {name: Activations.load(path, verify=False) for name, path in folders.items()}


def _widths(model: "SAETransformerBridge", hook_names: list[str]) -> dict[str, int]:
    return {name: hook_width(model, name) for name in hook_names}


def _done(writer: Writer) -> int:
    """Return how many sequences of the corpus are in a folder."""
    return writer.about.get("sequences", 0)


def _append(
    writer: Writer, states: Float[Tensor, "n d_model"], left_out: dict[str, int], sequences: int, of: int
) -> None:
    """Add what counts of some sequences, of so many in all, to a folder."""
    writer.append("rows", states.clamp(-_MOST, _MOST).numpy().astype("<f2"))
    excluded = writer.about.get("excluded", {})
    excluded = {reason: n + excluded.get(reason, 0) for reason, n in left_out.items()}
    writer.mark({"sequences": _done(writer) + sequences, "of": of, "excluded": excluded})


def _counted_states(
    model: "SAETransformerBridge", batch: Tokens, hook_names: Sequence[str]
) -> dict[str, tuple[Float[Tensor, "n d_model"], dict[str, int]]]:
    """Run some sequences; return the activations that count, and how many were left out by reason."""
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    kept = {}
    for name, states in hidden_states_at(model, torch.from_numpy(batch.ids).long(), hook_names).items():
        states = states.float().cpu()
        keep, left_out = counted(batch, states, special)
        kept[name] = states[keep], left_out
    return kept


# --- streams -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActivationStream:
    """Activations of one hook point, computed when they are asked for; made by `stream_activations`.

    Attributes:
        model: The language model.
        tokens: The corpus.
        hook_name: Name of the hook point.
        buffer_tokens: Number of tokens that are mixed with each other.
        d_model: Width of the activations.
    """

    model: "SAETransformerBridge" = field(repr=False)
    tokens: Tokens
    hook_name: str
    buffer_tokens: int
    d_model: int

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self.model.cfg.model_name

    @property
    def model_identity(self) -> Identity:
        """What decides the numbers of the model."""
        return model_identity(self.model)

    def identity(self) -> Identity:
        """Return everything that decides the rows, and the order in which they come."""
        return identity_of(self.model_identity, self.tokens.identity(), buffer_tokens=self.buffer_tokens)

    def __len__(self) -> int:
        """Return how many tokens of an epoch are text; massive ones among them are made up for from the start."""
        special = np.array(special_token_ids(self.model))
        return int(((self.tokens.document >= 0) & ~np.isin(self.tokens.ids, special)).sum())

    def batches(
        self, batch_size: int, *, epochs: float = 1, seed: int = 0, start: int = 0
    ) -> Iterator[Float[Tensor, "batch d_model"]]:
        """Yield batches as `Activations.batches` does, but mixed within a buffer only.

        For the batches that ``start`` leaves out the model has to run all the same.
        """
        total = batch_count(len(self), batch_size, epochs)
        generator = torch.Generator().manual_seed(seed)
        states = self._states()
        buffer = torch.empty(0, self.d_model)
        for number in range(total):
            if len(buffer) < max(self.buffer_tokens // 2, batch_size):
                parts = [buffer]
                while sum(map(len, parts)) < max(self.buffer_tokens, batch_size):
                    parts.append(next(states))
                buffer = torch.cat(parts)
                buffer = buffer[torch.randperm(len(buffer), generator=generator)]
            batch, buffer = buffer[:batch_size], buffer[batch_size:]
            if number >= start:
                yield batch

    def _states(self) -> Iterator[Float[Tensor, "n d_model"]]:
        """Yield what counts of the corpus, over and over."""
        while True:
            for begin in range(0, len(self.tokens), _STREAMED):
                batch = self.tokens[begin : begin + _STREAMED]
                yield _counted_states(self.model, batch, [self.hook_name])[self.hook_name][0]


def stream_activations(
    model: "SAETransformerBridge", tokens: Tokens, hook_name: str, *, buffer_tokens: int = 100_000
) -> ActivationStream:
    """Return a source of activations for `train_sae` that runs the model as it goes.

    Every epoch runs the model again, and tokens mix within the buffer only: `harvest` is better where the disk has
    room.

    Args:
        model: The language model; in bfloat16 it is faster.
        tokens: The corpus.
        hook_name: Name of the hook point, for example ``"blocks.18.hook_resid_post"``.
        buffer_tokens: Number of tokens that are mixed with each other; they take ``4 * d_model`` bytes of memory each.

    Raises:
        DataError: No token of the corpus counts.
        ModelError: The model has no such hook point.
    """
    width = _widths(model, [hook_name])[hook_name]
    buffer_tokens = whole("buffer_tokens", buffer_tokens, at_least=1, error=DataError)
    stream = ActivationStream(model, tokens, hook_name, buffer_tokens, width)
    if not len(stream):
        raise DataError(f"{tokens!r} has no token that counts: all are BOS, padding or special")
    return stream
