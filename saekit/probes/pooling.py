"""From tokens to texts: poolings of feature activations, and what makes them 0 or 1."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import ProbeError
from saekit.probes.features import SAEFeatures

if TYPE_CHECKING:
    from scipy.sparse import csr_array

POOLINGS = "'max', 'mean', 'sum', 'last', 'top-N' (how often among the N largest of a token) or 'first-K'"
BINARISINGS = "'none', 'above-zero', 'threshold-T' or 'quantile-Q' (Q between 0 and 1)"
_ROWS = 8192  # tokens that are ranked at once


@dataclass(frozen=True)
class Binariser:
    """Turns pooled activations to 0 or 1; what it has to know it has learned from the training part.

    Attributes:
        how: What was asked for.
        threshold: A feature is 1 above this, ``[feature]``; None leaves the values as they are.
    """

    how: str
    threshold: Float[np.ndarray, " feature"] | None

    def __call__(self, pooled: "csr_array") -> "csr_array":
        """Return 0 or 1 for each entry; the matrix itself if nothing is to be done."""
        if self.threshold is None:
            return pooled
        on = (pooled.data > self.threshold[pooled.indices]).astype(np.float32)
        made = type(pooled)((on, pooled.indices.copy(), pooled.indptr.copy()), shape=pooled.shape)
        made.eliminate_zeros()
        return made


def pool(sae: SAEFeatures, how: str = "max") -> "csr_array":
    """Return one row a text, ``[text, feature]``, made of the rows of its tokens.

    Only tokens that count take part; a text without any is all 0.

    Args:
        sae: What an SAE says about the tokens.
        how: ``"max"``; ``"mean"`` over the tokens; ``"sum"``; ``"last"``: the last token alone; ``"top-N"``: in how
            many tokens a feature is among the N with the largest activations; ``"first-K"``: the maximum over the
            first K tokens.

    Raises:
        ProbeError: No such pooling.
    """
    check_pooling(how)
    starts = sae.hook.starts
    if how == "last":
        has = np.diff(starts) > 0
        return _row_sums(_one_row_each(starts[1:] - 1, has), sae.events)
    if how in ("sum", "mean"):
        counts = np.diff(starts)
        summed = _row_sums(_ranges(starts, counts), sae.events)
        if how == "mean":
            summed.data /= np.repeat(np.maximum(counts, 1), np.diff(summed.indptr)).astype(np.float32)
        return summed
    if how == "max":
        return _maximum(sae.events, starts[:-1], starts[1:])
    kind, number = how.split("-")[0], int(how.split("-")[1])
    if kind == "first":
        return _maximum(sae.events, starts[:-1], np.minimum(starts[1:], starts[:-1] + number))
    return _row_sums(_ranges(starts, np.diff(starts)), _largest(sae.events, number))


def ranked_tokens(sae: SAEFeatures, how: str) -> "csr_array":
    """Return 1 where a feature is among the N largest of its token, for the pooling ``"top-N"``."""
    return _largest(sae.events, int(how.split("-")[1]))


def check_pooling(how: str) -> None:
    """Raise ProbeError for a pooling that does not exist."""
    if not re.fullmatch(r"max|mean|sum|last|(top|first)-[1-9]\d*", how):
        raise ProbeError(f"no pooling {how!r}: expected {POOLINGS}")


def check_binarise(how: str) -> "re.Match[str]":
    """Return the parts of a binarising: plain name, threshold, quantile. Raises ProbeError if it does not exist."""
    match = re.fullmatch(r"(none|above-zero)|threshold-(\d*\.?\d+)|quantile-(\d*\.?\d+)", how)
    if match is None or (match[3] is not None and not 0 < float(match[3]) < 1):
        raise ProbeError(f"no binarising {how!r}: expected {BINARISINGS}")
    return match


def fit_binariser(how: str, pooled: "csr_array", rows: Int[np.ndarray, " row"]) -> Binariser:
    """Learn what turns pooled activations to 0 or 1, from the training part alone.

    Args:
        how: ``"none"``; ``"above-zero"``; ``"threshold-1.0"``: above 1, in units of the pooled activations;
            ``"quantile-0.5"``: above the median of those training texts in which the feature is active at all, for
            each feature its own; one that is never active there is 1 whenever it is active.
        pooled: Pooled activations of all texts.
        rows: Which of them are the training part.

    Raises:
        ProbeError: No such binarising.
    """
    match = check_binarise(how)
    width = pooled.shape[1]
    if match[1] == "none":
        return Binariser(how, None)
    if match[1] == "above-zero":
        return Binariser(how, np.zeros(width, np.float32))
    if match[2] is not None:
        return Binariser(how, np.full(width, float(match[2]), np.float32))
    return Binariser(how, _quantiles(pooled[rows], float(match[3])))


def _quantiles(pooled: "csr_array", q: float) -> Float[np.ndarray, " feature"]:
    """Return for each column the smallest of its values above zero that a share of q does not exceed."""
    positive = pooled.data > 0
    # One sort for all columns: floats above zero are in the order of their bits.
    key = pooled.indices[positive].astype(np.uint64) << np.uint64(32)
    key |= pooled.data[positive].astype(np.float32).view(np.uint32).astype(np.uint64)
    key.sort()
    count = np.bincount(pooled.indices[positive], minlength=pooled.shape[1])
    first = np.cumsum(count) - count
    at = np.minimum(first + np.maximum(np.ceil(q * count).astype(np.int64) - 1, 0), max(len(key) - 1, 0))
    found = np.zeros(pooled.shape[1], np.float32)
    some = count > 0
    found[some] = (key[at[some]] & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    return found


def _ranges(starts: Int[np.ndarray, " text1"], counts: Int[np.ndarray, " text"]) -> "csr_array":
    """Return the matrix ``[text, token]`` that adds up the tokens of each text."""
    from scipy.sparse import csr_array

    total = int(starts[-1])
    ones = np.ones(total, np.float32)
    return csr_array((ones, np.arange(total, dtype=np.int32), starts.astype(np.int32)), shape=(len(counts), total))


def _one_row_each(rows: Int[np.ndarray, " text"], has: np.ndarray) -> "csr_array":
    from scipy.sparse import csr_array

    starts = np.concatenate([[0], np.cumsum(has)]).astype(np.int32)
    chosen = rows[has].astype(np.int32)
    return csr_array(
        (np.ones(len(chosen), np.float32), chosen, starts), shape=(len(rows), int(rows.max(initial=0)) + 1)
    )


def _row_sums(adding: "csr_array", events: "csr_array") -> "csr_array":
    """Multiply; the tokens after the last that is used are left out of ``adding``'s width."""
    summed = adding @ events[: adding.shape[1]]
    summed.sort_indices()
    return summed


def _maximum(events: "csr_array", first: Int[np.ndarray, " text"], last: Int[np.ndarray, " text"]) -> "csr_array":
    """Return the maximum of each column over the rows from ``first`` to ``last`` of each text."""
    from scipy.sparse import csr_array

    begin, end = events.indptr[first].astype(np.int64), events.indptr[last].astype(np.int64)
    if len(first) and (begin[1:] == end[:-1]).all():
        at = slice(int(begin[0]), int(end[-1]))
    else:
        at = np.concatenate([np.arange(b, e) for b, e in zip(begin, end, strict=True)] or [np.zeros(0, np.int64)])
    starts = np.concatenate([[0], np.cumsum(end - begin)]).astype(np.int32)
    repeated = csr_array((events.data[at], events.indices[at], starts), shape=(len(first), events.shape[1]))
    # By columns, the same text's entries of one feature stand side by side: one pass finds their maximum.
    columns = repeated.tocsc()
    feature = np.repeat(np.arange(events.shape[1], dtype=np.int32), np.diff(columns.indptr))
    new = np.ones(len(feature), bool)
    new[1:] = (feature[1:] != feature[:-1]) | (columns.indices[1:] != columns.indices[:-1])
    at = np.flatnonzero(new)
    highest = np.maximum.reduceat(columns.data, at) if len(at) else columns.data
    starts = np.concatenate([[0], np.cumsum(np.bincount(feature[at], minlength=events.shape[1]))]).astype(np.int32)
    made = type(columns)((highest, columns.indices[at], starts), shape=columns.shape).tocsr()
    made.sort_indices()
    return made


def _largest(events: "csr_array", number: int) -> "csr_array":
    """Return 1 where an entry is among the ``number`` largest of its row; equal ones by the lower feature."""
    length = np.diff(events.indptr)
    if not len(length) or length.max(initial=0) <= number:
        keep = np.ones(len(events.data), bool)
    else:
        keep = np.zeros(len(events.data), bool)
        wide = int(length.max())
        for start in range(0, len(length), _ROWS):
            rows = length[start : start + _ROWS]
            there = np.arange(wide) < rows[:, None]
            part = slice(int(events.indptr[start]), int(events.indptr[start + len(rows)]))
            value = np.full(there.shape, -np.inf, np.float32)
            feature = np.full(there.shape, np.iinfo(np.int32).max, np.int32)
            value[there], feature[there] = events.data[part], events.indices[part]
            order = np.lexsort((feature, -value), axis=1)[:, :number]
            chosen = np.zeros(there.shape, bool)
            np.put_along_axis(chosen, order, True, 1)
            keep[part] = (chosen & there)[there]
    starts = np.concatenate([[0], np.cumsum(keep)])[events.indptr].astype(events.indptr.dtype)
    ones = np.ones(int(keep.sum()), np.float32)  # counted in float32: exact to 16 million, where 8 bits wrap at 256
    return type(events)((ones, events.indices[keep], starts), shape=events.shape)
