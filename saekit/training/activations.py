"""What SAEs are trained on: rows of activations, on disk or in memory, and the order in which they are drawn."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import finite, whole
from saekit._base.identity import Identity
from saekit._base.manifest import part_of
from saekit._base.store import Format
from saekit.errors import DataError

HARVEST = Format("harvest", 1, DataError, remedy="harvest again into another folder", fields={"d_model": int})


def identity_of(model: Identity, tokens: Identity, *, buffer_tokens: int | None = None) -> Identity:
    """Return what decides activations of a model on a corpus; those of a stream are mixed in a buffer."""
    facts = {"rows": None, "model": model.facts, "tokens": tokens.facts, "buffer_tokens": buffer_tokens}
    return Identity("activations", facts)


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of one hook point: from `harvest`, `load` or `from_rows`.

    Attributes:
        rows: The activations, ``[token, d_model]``; memory-mapped float16 if they lie on disk.
        hook_name: Name of the hook point; None if that is not known.
        model_name: Name of the model; None if that is not known.
        model_identity: What decides the numbers of the model; None for rows that were in memory.
        tokens_identity: What decides those of the corpus; None likewise.
        excluded: Number of tokens that are not among the rows, by reason: BOS, separators and padding, special
            tokens, massive norms.
        path: Folder on disk; None for rows in memory.
        part: How much of the corpus there is, in words, of a harvest that was broken off; empty if all of it is there.
    """

    rows: Float[np.ndarray, "token d_model"] = field(repr=False)
    hook_name: str | None = None
    model_name: str | None = None
    model_identity: Identity | None = None
    tokens_identity: Identity | None = None
    excluded: dict[str, int] = field(default_factory=dict)
    path: Path | None = None
    part: str = ""

    @classmethod
    def load(cls, path: Path | str, *, verify: bool = True) -> "Activations":
        """Open a folder written by `harvest`; one that was broken off opens with what it has, as a part.

        Args:
            path: The folder.
            verify: Whether to read it all once and compare its checksum, about a second per gigabyte.

        Raises:
            DataError: The folder is no harvest, or one of an earlier saekit, or truncated or damaged.

        Warns:
            UserWarning: It is a part, and of how much; so does every use of it.
        """
        stored = HARVEST.load(path, verify=verify, partial=True)
        about = stored.about
        # A harvest of an earlier saekit knows its model by name only, and its corpus by a hash.
        tokens = about.get("tokens") or {"content": about["tokens_fingerprint"]}
        empty = np.zeros((0, stored.about["d_model"]), np.float16)
        part = "" if stored.finished else part_of(stored.about) or f"{stored.about.get('sequences', 0):,} sequences"
        activations = cls(
            stored.arrays.get("rows", empty),
            about["hook_name"],
            about["model_name"],
            Identity("model", about.get("model", {})),
            Identity("corpus", tokens),
            excluded=stored.about.get("excluded", {}),
            path=Path(path),
            part=part,
        )
        activations.warn_of_part()
        return activations

    def warn_of_part(self) -> None:
        """Warn if this is a part of what was to be harvested."""
        if self.part:
            warnings.warn(
                f"{self.path} is a part of a harvest, which was broken off: {self.part}. Call harvest again with the "
                f"same arguments to have all of it",
                stacklevel=3,
            )

    @classmethod
    def from_rows(
        cls,
        rows: Tensor | np.ndarray | Sequence[Sequence[float]],
        *,
        hook_name: str | None = None,
        model_name: str | None = None,
    ) -> "Activations":
        """Take a tensor, an array or lists of numbers as activations.

        Args:
            rows: Finite numbers, ``[sample, d_in]``.
            hook_name: Name of the hook point that they come from; an SAE that is trained on them keeps it.
            model_name: Name of the model that they come from.

        Raises:
            DataError: The rows have another shape, or numbers that are not finite.
        """
        rows = rows.detach().float().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        if rows.ndim != 2:
            raise DataError(f"activations must be [sample, d_in], not an array of shape {list(rows.shape)}")
        bad = ~np.isfinite(rows).all(1)
        if bad.any():
            raise DataError(
                f"{int(bad.sum())} of {len(rows)} activations hold a number that is not finite, the first in row "
                f"{int(bad.argmax())}: leave those rows out"
            )
        return cls(rows, hook_name, model_name)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.rows.shape[1]

    def identity(self) -> Identity:
        """Return everything that decides the rows, and the order in which they are drawn."""
        if self.model_identity is None or self.tokens_identity is None:
            rows = hashlib.sha256(np.ascontiguousarray(self.rows).data).hexdigest()
            return Identity("activations", {"rows": rows, "model": None, "tokens": None, "buffer_tokens": None})
        return identity_of(self.model_identity, self.tokens_identity)

    def batches(
        self, batch_size: int, *, epochs: float = 1, seed: int = 0, start: int = 0
    ) -> Iterator[Float[Tensor, "batch d_model"]]:
        """Yield float32 batches in an order that depends on the seed alone, a new one for every epoch.

        Rows are drawn without replacement within an epoch; an incomplete last batch is dropped.

        Args:
            batch_size: Rows per batch, at least 2.
            epochs: How often every row is drawn; may be a fraction.
            seed: Seed of the order.
            start: Number of batches to leave out at the beginning, at no cost.

        Raises:
            DataError: There is not one whole batch.
        """
        self.warn_of_part()
        total = batch_count(len(self), batch_size, epochs)
        per_epoch = len(self) // batch_size
        epoch = -1
        for number in range(start, total):
            if number // per_epoch != epoch:
                epoch = number // per_epoch
                order = np.random.default_rng((seed, epoch)).permutation(len(self))
            within = number % per_epoch
            # In file order: fewer page faults.
            chosen = np.sort(order[within * batch_size : (within + 1) * batch_size])
            yield torch.from_numpy(self.rows[chosen].astype(np.float32))


def batch_count(samples: int, batch_size: int, epochs: float) -> int:
    """Return how many whole batches there are, or raise DataError if there is none in an epoch."""
    batch_size = whole("batch_size", batch_size, at_least=2, error=DataError)  # one sample has no variance
    epochs = finite("epochs", epochs, above=0, error=DataError)
    if samples < batch_size:
        raise DataError(f"{samples} activations are fewer than one batch of {batch_size}: use a smaller batch_size")
    if not (total := int(samples * epochs) // batch_size):
        raise DataError(f"{epochs:g} epochs of {samples} activations are less than one batch of {batch_size}")
    return total
