"""Activations as a model gives them, without a disk in between: for a corpus that would not fit on it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit.data import Tokens, counted
from saekit.errors import DataError
from saekit.models import check_hook, hidden_states, special_token_ids
from saekit.training.activations import batch_count

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_ROWS = 8  # sequences a forward pass


@dataclass(frozen=True)
class ActivationStream:
    """Activations of one hook point, computed when they are asked for; made by `stream_activations`."""

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
    def tokens_fingerprint(self) -> str:
        """Of the corpus."""
        return self.tokens.fingerprint()

    def __len__(self) -> int:
        """Return how many tokens a pass has that are text; massive ones among them are made up for from the start."""
        special = np.array(special_token_ids(self.model))
        return int(((self.tokens.document >= 0) & ~np.isin(self.tokens.ids, special)).sum())

    def batches(
        self, batch_size: int, *, passes: float = 1, seed: int = 0, start: int = 0
    ) -> Iterator[Float[Tensor, "batch d_model"]]:
        """Yield float32 batches, mixed within a buffer; the order depends on the seed alone.

        ``start`` leaves out the first batches; the model has to run for them all the same.
        """
        total = batch_count(len(self), batch_size, passes)
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
        special = torch.tensor(special_token_ids(self.model), dtype=torch.long)
        while True:
            for begin in range(0, len(self.tokens), _ROWS):
                rows = self.tokens[begin : begin + _ROWS]
                states = hidden_states(self.model, torch.from_numpy(rows.ids).long(), self.hook_name).float().cpu()
                yield states[counted(rows, states, special)[0]]


def stream_activations(
    model: "SAETransformerBridge", tokens: Tokens, hook_name: str, *, buffer_tokens: int = 100_000
) -> ActivationStream:
    """Return a source of activations for `train_sae` that runs the model as it goes.

    Every pass runs the model again, and tokens mix within the buffer only: `harvest` is better where the disk has
    room.

    Args:
        model: Load it in bfloat16 for speed.
        tokens: The corpus.
        hook_name: For example ``"blocks.18.hook_resid_post"``.
        buffer_tokens: Tokens mixed with each other; they stay in memory, ``4 * d_model`` bytes each.

    Raises:
        DataError: No token of the corpus counts.
        ModelError: No such hook point.
    """
    check_hook(model, hook_name)
    if buffer_tokens < 1:
        raise DataError(f"buffer_tokens must be at least 1, not {buffer_tokens}")
    width = hook_width(model, hook_name)
    stream = ActivationStream(model, tokens, hook_name, buffer_tokens, width)
    if not len(stream):
        raise DataError(f"{tokens!r} has no token that counts: all are BOS, padding or special")
    return stream
