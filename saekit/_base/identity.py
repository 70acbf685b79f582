"""What decides the numbers of something, said in words: stored beside a result, and compared before it is used again.

A room says what decides its numbers: `models.model_identity`, `saes.sae_identity`, `data.Tokens.identity`. Weights are
among it as one hash; `remembered` asks for it anew only when one of them has changed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor

_SMALL = 64 * 2**20  # bytes that are read in some milliseconds: so many are looked at as a whole on every call
_WIDTH = 1024  # words in a row of what is summed
_KNOWN: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Identity:
    """Everything that decides the numbers of a model, an SAE, a corpus or of what was made with them.

    Attributes:
        kind: What it is the identity of, in messages: "SAE".
        facts: Value by name, as JSON knows it. Names and values are read by people: "k", 8.
    """

    kind: str
    facts: Mapping[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        """Keep the facts as a file gives them back."""
        object.__setattr__(self, "facts", json.loads(json.dumps(dict(self.facts), default=str)))

    @property
    def digest(self) -> str:
        """A SHA-256 over all facts."""
        return hashlib.sha256(json.dumps([self.kind, self.facts], sort_keys=True).encode()).hexdigest()

    def difference(self, other: "Identity | Mapping[str, Any]") -> list[str]:
        """Say in what two differ, "k 8 against k 2", by the facts that both know: an older file may know few.

        Args:
            other: The other identity, or its facts as they were stored.
        """
        return differences(self.facts, other.facts if isinstance(other, Identity) else other)


def differences(facts: Mapping[str, Any], others: Mapping[str, Any], *, whole: bool = False) -> list[str]:
    """Return in words what differs between facts of the same names, those within a fact too.

    Args:
        facts: The ones, as JSON knows them.
        others: The others.
        whole: Whether what only the first know is a difference too, on the top level.
    """
    words = []
    for name, value in facts.items():
        if name not in others:
            words += [f"{name} {_said(value)} against one that is not recorded"] if whole else []
        elif isinstance(value, Mapping) and isinstance(others[name], Mapping):
            words += [f"{name} {word}" for word in differences(value, others[name])]
        # As text: a number that does not exist is unlike itself, and it is the same setting all the same.
        elif json.dumps(value, sort_keys=True) != json.dumps(others[name], sort_keys=True):
            words.append(f"{name} {_said(value)} against {_said(others[name])}")
    return words


def short_hash(value: Any) -> str:
    """Return 16 hexadecimal digits that stand for plain data too long to be said."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def weights_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a SHA-256 over names, dtypes, shapes and sums over all bytes of tensors: some 10 GB a second.

    The bytes are laid out in rows of 8 KiB and summed along and across, as whole numbers: no single change, no two
    that were exchanged, and no row that moved leaves all sums as they were.
    """
    return _digest(tensors, _sums)


def remembered(owner: Any, tensors: Iterable[tuple[str, Tensor]], compute: Callable[[], str]) -> str:
    """Return what ``compute`` returns, and call it again only once a tensor has changed.

    Up to 64 MiB everything is looked at, so no change is missed. Of more, each tensor's address, its count of changes
    and a row and a column of its numbers: only what is written past PyTorch's count (through ``.data``) to other
    places stays unseen.

    Args:
        owner: The object that the tensors belong to.
        tensors: Tensors by name.
        compute: Function that needs longer, of the same tensors.
    """
    tensors = list(tensors)
    whole = sum(tensor.nbytes for _, tensor in tensors) <= _SMALL
    state = _digest(tensors, _sums if whole else _glance)
    known = _KNOWN.get(owner)
    if known is None or known[0] != state:
        known = _KNOWN[owner] = (state, compute())
    return known[1]


@torch.no_grad()
def _digest(tensors: Iterable[tuple[str, Tensor]], look: Callable[[Tensor], list[Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        for part in look(tensor.detach()):
            digest.update(part.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sums(tensor: Tensor) -> list[Int[Tensor, "..."]]:
    """Return what is summed along and across the bytes of a tensor, and those that fill no row."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    if raw.numel() % 8 or raw.storage_offset() % 8:
        raw = torch.nn.functional.pad(raw, (0, -raw.numel() % 8))
    words = raw.view(torch.int64)
    full = len(words) // _WIDTH * _WIDTH
    body = words[:full].view(-1, _WIDTH)
    return [body.sum(0), body.sum(1), words[full:]] if full else [words]


def _glance(tensor: Tensor) -> list[Tensor]:
    """Return what is quick to read of a tensor, and changes with nearly all that may change."""
    place = torch.tensor([tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version])
    if tensor.dim() < 2 or not tensor.numel():
        return [place, tensor]
    table = tensor.flatten(1)
    return [place, table[len(table) // 2], table[:, table.shape[1] // 2]]


def _said(value: Any) -> str:
    """Return a value as it stands in a message: a hash by its first digits, a text in quotation marks."""
    if isinstance(value, str):
        return value[:8] if re.fullmatch("[0-9a-f]{16,}", value) else f"{value!r:.60}"
    return "none" if value is None else f"{json.dumps(value):.60}"
