"""One hash for all weights of a model or an SAE, asked for anew only when one of them has changed."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor

_SMALL = 64 * 2**20  # bytes that are read in some milliseconds: so many are looked at as a whole on every call
_WIDTH = 1024  # words in a row of what is summed
_KNOWN: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()


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
        if look is _glance:
            digest.update(f"{tensor.data_ptr()} {0 if tensor.is_inference() else tensor._version}".encode())
        for part in look(tensor.detach()):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
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
    """Return a row and a column of a tensor: they change with nearly all that may change."""
    if tensor.dim() < 2 or not tensor.numel():
        return [tensor.reshape(-1)]
    table = tensor if tensor.dim() == 2 else tensor.flatten(1)
    rows, columns = table.shape
    return [table[rows // 2], table[:, columns // 2]]
