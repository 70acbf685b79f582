"""From tokens to texts: poolings of feature activations, and what makes them 0 or 1.

A new pooling is a subclass of `Pooling` (of `Binarising`, what makes 0 or 1), named in the registry below it; where it
has parameters, the room exports its class too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import ProbeError
from saekit.probes.choices import Choices
from saekit.probes.features import SAEFeatures

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_ROWS = 8192  # tokens that are ranked at once


class Pooling:
    """How the tokens of a text become one row of features; only tokens that count take part.

    Attributes:
        reads: What a pooled value rests on: "all" tokens, the "strongest" of several, or "one" that is given.
        keeps_support: Whether a pooled value is above zero exactly where the feature is active on any token.
    """

    reads: ClassVar[Literal["all", "strongest", "one"]] = "all"
    keeps_support: ClassVar[bool] = False

    def __call__(self, features: SAEFeatures) -> "csr_array":
        """Return one row per text, ``[text, feature]``; a text without any token is all 0."""
        raise NotImplementedError

    def parts(self, features: SAEFeatures, used: Int[np.ndarray, " u"]) -> Float[np.ndarray, "token u"]:
        """Return how much each token of a single text has of its pooled features, up to a factor per feature."""
        return features.events[:, used].toarray().astype(np.float64)


class Max(Pooling):
    """Largest activation among the tokens."""

    reads, keeps_support = "strongest", True

    def __call__(self, features: SAEFeatures) -> "csr_array":
        """Return the maximum over the tokens of each text."""
        starts = features.hook.starts
        return _maximum(features.events, starts[:-1], starts[1:])

    def parts(self, features: SAEFeatures, used: Int[np.ndarray, " u"]) -> Float[np.ndarray, "token u"]:
        """Return 1 at the token with the largest activation, the first of equal ones."""
        return _strongest(super().parts(features, used))


class Sum(Pooling):
    """Sum of the activations."""

    keeps_support = True

    def __call__(self, features: SAEFeatures) -> "csr_array":
        """Return the sum over the tokens of each text."""
        return _sums(features.hook.starts, features.events)


class Mean(Sum):
    """Mean activation over the tokens."""

    def __call__(self, features: SAEFeatures) -> "csr_array":
        """Return the mean over the tokens of each text."""
        summed = super().__call__(features)
        counts = np.maximum(np.diff(features.hook.starts), 1)
        summed.data /= np.repeat(counts, np.diff(summed.indptr)).astype(np.float32)
        return summed


class Last(Pooling):
    """Activations of the last token alone."""

    reads = "one"

    def __call__(self, features: SAEFeatures) -> "csr_array":
        """Return the row of the last token of each text."""
        starts = features.hook.starts
        has = np.diff(starts) > 0
        at = np.where(has, starts[1:] - 1, 0)
        return _adding(at[has], np.concatenate([[0], np.cumsum(has)]), features.events.shape[0], features.events)

    def parts(self, features: SAEFeatures, used: Int[np.ndarray, " u"]) -> Float[np.ndarray, "token u"]:
        """Return the activations of the last token; 0 for all others."""
        dense = super().parts(features, used)
        dense[:-1] = 0
        return dense


@dataclass(frozen=True)
class TopN(Pooling):
    """Number of tokens in which a feature is among the n with the largest activations; "top-n" in print.

    Attributes:
        n: Number of features that are counted per token; of equal ones those with the lower numbers.
    """

    n: int

    def __post_init__(self) -> None:
        _check_count("TopN", self.n)

    def __str__(self) -> str:
        return f"top-{self.n}"

    def __call__(self, features: SAEFeatures) -> "csr_array":
        """Return the counts for each text."""
        return _sums(features.hook.starts, _largest(features.events, self.n))

    def parts(self, features: SAEFeatures, used: Int[np.ndarray, " u"]) -> Float[np.ndarray, "token u"]:
        """Return 1 at the tokens that are counted."""
        return _largest(features.events, self.n)[:, used].toarray().astype(np.float64)


@dataclass(frozen=True)
class FirstK(Max):
    """Largest activation among the first k tokens; "first-k" in print.

    Attributes:
        k: Number of tokens that are read.
    """

    k: int
    keeps_support: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_count("FirstK", self.k)

    def __str__(self) -> str:
        return f"first-{self.k}"

    def __call__(self, features: SAEFeatures) -> "csr_array":
        """Return the maximum over the first k tokens of each text."""
        starts = features.hook.starts
        return _maximum(features.events, starts[:-1], np.minimum(starts[1:], starts[:-1] + self.k))

    def parts(self, features: SAEFeatures, used: Int[np.ndarray, " u"]) -> Float[np.ndarray, "token u"]:
        """Return 1 at that of the first k tokens that has the largest activation."""
        dense = Pooling.parts(self, features, used)
        dense[self.k :] = 0
        return _strongest(dense)


POOLINGS = Choices("pooling", Pooling, {"max": Max(), "mean": Mean(), "sum": Sum(), "last": Last()}, (TopN, FirstK))


def pool(features: SAEFeatures, how: "str | Pooling" = "max") -> "csr_array":
    """Return one row per text, ``[text, feature]``, made of the rows of its tokens.

    Only tokens that count take part; a text without any is all 0.

    Args:
        features: Activations of one SAE, from an extraction: ``extraction.sae(name)``.
        how: ``"max"``; ``"mean"`` over the tokens; ``"sum"``; ``"last"``: the last token alone; ``TopN(n)``: in how
            many tokens a feature is among the n with the largest activations; ``FirstK(k)``: the maximum over the
            first k tokens.

    Raises:
        ProbeError: No such pooling.
    """
    return POOLINGS.of(how)(features)


class Binarising:
    """What turns pooled activations to 0 or 1."""

    def thresholds(self, pooled: "csr_array", rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, " feature"] | None:
        """Return the value above which each feature is 1, learned from some rows; None leaves values as they are."""
        return None


class AboveZero(Binarising):
    """1 wherever a feature is active at all."""

    def thresholds(self, pooled: "csr_array", rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, " feature"]:
        """Return zeros."""
        return np.zeros(pooled.shape[1], np.float32)


@dataclass(frozen=True)
class Threshold(Binarising):
    """1 above one value for all features; "threshold-value" in print.

    Attributes:
        value: The threshold, 0 or more, in units of the pooled activations.
    """

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value < np.inf:
            raise ProbeError(f"Threshold: the value must be a number of at least 0, not {self.value!r}")

    def __str__(self) -> str:
        return f"threshold-{self.value}"

    def thresholds(self, pooled: "csr_array", rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, " feature"]:
        """Return the same value for each feature."""
        return np.full(pooled.shape[1], self.value, np.float32)


@dataclass(frozen=True)
class Quantile(Binarising):
    """1 above a quantile of a feature's own values above zero; "quantile-q" in print.

    It is taken over those training texts in which the feature is active; a feature that is never active there is 1
    whenever it is active.

    Attributes:
        q: Share of the values that lie at or below the threshold, between 0 and 1; 0.5 for the median.
    """

    q: float

    def __post_init__(self) -> None:
        if not 0 < self.q < 1:
            raise ProbeError(f"Quantile: q must lie between 0 and 1, not {self.q!r}")

    def __str__(self) -> str:
        return f"quantile-{self.q}"

    def thresholds(self, pooled: "csr_array", rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, " feature"]:
        """Return for each feature the smallest of its values above zero that a share of q does not exceed."""
        pooled = pooled[rows]
        positive = pooled.data > 0
        # One sort for all columns: floats above zero are in the order of their bits.
        key = pooled.indices[positive].astype(np.uint64) << np.uint64(32)
        key |= pooled.data[positive].astype(np.float32).view(np.uint32).astype(np.uint64)
        key.sort()
        count = np.bincount(pooled.indices[positive], minlength=pooled.shape[1])
        first = np.cumsum(count) - count
        at = np.minimum(first + np.maximum(np.ceil(self.q * count).astype(np.int64) - 1, 0), max(len(key) - 1, 0))
        thresholds = np.zeros(pooled.shape[1], np.float32)
        some = count > 0
        thresholds[some] = (key[at[some]] & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
        return thresholds


BINARISINGS = Choices(
    "binarising", Binarising, {"none": Binarising(), "above-zero": AboveZero()}, (Threshold, Quantile)
)


def learn_thresholds(
    how: "str | Binarising", pooled: "csr_array", rows: Int[np.ndarray, " row"]
) -> Float[np.ndarray, " feature"] | None:
    """Learn above which value each feature is 1, from the training part alone; None where values stay as they are.

    Args:
        how: ``"none"``; ``"above-zero"``; ``Threshold(1.0)``: above 1, in units of the pooled activations;
            ``Quantile(0.5)``: above the median of those training texts in which the feature is active at all, for
            each feature its own; one that is never active there is 1 whenever it is active.
        pooled: Pooled activations of all texts, ``[text, feature]``.
        rows: Numbers of the texts of the training part.

    Raises:
        ProbeError: No such binarising.
    """
    return BINARISINGS.of(how).thresholds(pooled, rows)


def binarised(pooled: "csr_array", thresholds: Float[np.ndarray, " feature"] | None) -> "csr_array":
    """Return 1 where a pooled activation is above its feature's threshold, else 0; the matrix itself if None."""
    if thresholds is None:
        return pooled
    on = (pooled.data > thresholds[pooled.indices]).astype(np.float32)
    zeros_and_ones = type(pooled)((on, pooled.indices.copy(), pooled.indptr.copy()), shape=pooled.shape)
    zeros_and_ones.eliminate_zeros()
    return zeros_and_ones


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ProbeError(f"{name} takes a whole number from 1 on, not {value!r}")


def _strongest(dense: Float[np.ndarray, "token u"]) -> Float[np.ndarray, "token u"]:
    """Return 1 at the largest value of each column, the first of equal ones, and 0 elsewhere."""
    return (np.arange(len(dense))[:, None] == dense.argmax(0)).astype(np.float64)


def _sums(starts: Int[np.ndarray, " text1"], events: "csr_array") -> "csr_array":
    """Return the sum of each text's rows."""
    total = int(starts[-1])
    return _adding(np.arange(total), starts, total, events)


def _adding(tokens: np.ndarray, starts: np.ndarray, n_tokens: int, events: "csr_array") -> "csr_array":
    """Return for text i the sum of the rows ``tokens[starts[i]:starts[i + 1]]``."""
    from scipy.sparse import csr_array

    ones = np.ones(len(tokens), np.float32)
    adding = csr_array((ones, tokens.astype(np.int32), starts.astype(np.int32)), shape=(len(starts) - 1, n_tokens))
    summed = adding @ events
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
    pooled = type(columns)((highest, columns.indices[at], starts), shape=columns.shape).tocsr()
    pooled.sort_indices()
    return pooled


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
