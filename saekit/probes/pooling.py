"""From tokens to texts: poolings of feature activations, and what makes them 0 or 1.

A new pooling is a subclass of `Pooling` (what makes 0 or 1: of `Binarising`), named in the registry below it; where it
has parameters, the room exports its class too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from saekit._base.checks import finite, whole
from saekit.errors import ProbeError
from saekit.probes.choices import Choices
from saekit.probes.features import SAEFeatures

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_ROWS = 8192  # tokens that are ranked at once


class Pooling:
    """How the tokens of a text become one row of features: which activations take part, and what is made of them.

    Attributes:
        reduce: What is made of the activations that take part: their "sum", "mean" or "max".
        one_token: Whether a given token is read, whatever the activations.
        keeps_support: Whether a pooled value is above zero exactly where the feature is active on any token.
    """

    reduce: ClassVar[Literal["sum", "mean", "max"]] = "sum"
    one_token: ClassVar[bool] = False
    keeps_support: ClassVar[bool] = False

    def taking_part(self, features: SAEFeatures) -> "csr_array":
        """Return the activations that take part, ``[token, feature]``; all of them unless a pooling says otherwise."""
        return features.events

    def __call__(self, features: SAEFeatures) -> "csr_array":
        """Return one row per text, ``[text, feature]``; a text without any token is all 0."""
        starts, events = features.hook.starts, self.taking_part(features)
        if self.reduce == "max":
            return _maximum(events, starts)
        pooled = _sum(events, starts)
        if self.reduce == "mean":
            counts = np.maximum(np.diff(starts), 1)
            pooled.data /= np.repeat(counts, np.diff(pooled.indptr)).astype(np.float32)
        return pooled

    def shares(self, features: SAEFeatures, used: Int[np.ndarray, " u"]) -> Float[np.ndarray, "token u"]:
        """Return which share of each pooled feature of a single text comes from each token; columns add up to 1.

        A sum or mean comes from all tokens by their activations, a maximum from the first token that has it.
        """
        dense = self.taking_part(features)[:, used].toarray().astype(np.float64)
        if self.reduce == "max":
            dense = (np.arange(len(dense))[:, None] == dense.argmax(0)).astype(np.float64)
        return dense / np.maximum(dense.sum(0), 1e-300)


class Sum(Pooling):
    """Sum over all tokens."""

    keeps_support = True


class Mean(Sum):
    """Mean over all tokens."""

    reduce = "mean"


class Max(Sum):
    """Maximum over all tokens."""

    reduce = "max"


class Last(Pooling):
    """Activations of the last token alone."""

    one_token = True

    def taking_part(self, features: SAEFeatures) -> "csr_array":
        """Return the activations of the last token of each text."""
        starts = features.hook.starts
        return _only(features.events, np.isin(np.arange(starts[-1]), starts[1:] - 1))


@dataclass(frozen=True)
class TopN(Pooling):
    """Number of tokens in which a feature is among the n with the largest activations; "top-n" in print.

    Attributes:
        n: Number of features that are counted per token; of equal ones those with the lower numbers.
    """

    n: int

    def __post_init__(self) -> None:
        whole("n of TopN", self.n, at_least=1, error=ProbeError)

    def __str__(self) -> str:
        return f"top-{self.n}"

    def taking_part(self, features: SAEFeatures) -> "csr_array":
        """Return 1 where a feature is counted."""
        return _largest(features.events, self.n)


@dataclass(frozen=True)
class FirstK(Pooling):
    """Largest activation among the first k tokens; "first-k" in print.

    Attributes:
        k: Number of tokens that are read.
    """

    k: int
    reduce: ClassVar[Literal["sum", "mean", "max"]] = "max"

    def __post_init__(self) -> None:
        whole("k of FirstK", self.k, at_least=1, error=ProbeError)

    def __str__(self) -> str:
        return f"first-{self.k}"

    def taking_part(self, features: SAEFeatures) -> "csr_array":
        """Return the activations of the first k tokens of each text."""
        starts = features.hook.starts
        return _only(features.events, np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts)) < self.k)


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
    """What turns pooled activations to 0 or 1; this one leaves them as they are."""

    def thresholds(self, pooled: "csr_array", rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, " feature"] | None:
        """Return the value above which each feature is 1, learned from some rows; None leaves values as they are."""
        return None


@dataclass(frozen=True)
class Threshold(Binarising):
    """1 above one value for all features; "threshold-value" in print.

    Attributes:
        value: The threshold, 0 or more, in units of the pooled activations.
    """

    value: float

    def __post_init__(self) -> None:
        finite("value of Threshold", self.value, at_least=0, error=ProbeError)

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
        finite("q of Quantile", self.q, above=0, below=1, error=ProbeError)

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
    "binarising", Binarising, {"none": Binarising(), "above-zero": Threshold(0)}, (Threshold, Quantile)
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


def _only(events: "csr_array", tokens: Bool[np.ndarray, " token"]) -> "csr_array":
    """Return the events of some tokens, with empty rows in the place of all others."""
    return _kept(events, np.repeat(tokens, np.diff(events.indptr)))


def _kept(events: "csr_array", keep: Bool[np.ndarray, " event"], values: "np.ndarray | None" = None) -> "csr_array":
    """Return some of the events, with other values if there are any."""
    starts = np.concatenate([[0], np.cumsum(keep)])[events.indptr].astype(events.indptr.dtype)
    values = events.data[keep] if values is None else values
    return type(events)((values, events.indices[keep], starts), shape=events.shape)


def _sum(events: "csr_array", starts: Int[np.ndarray, " text1"]) -> "csr_array":
    """Return the sum of the rows of each text."""
    from scipy.sparse import csr_array

    total = int(starts[-1])
    ones, tokens = np.ones(total, np.float32), np.arange(total, dtype=np.int32)
    pooled = csr_array((ones, tokens, starts.astype(np.int32)), shape=(len(starts) - 1, total)) @ events
    pooled.sort_indices()
    return pooled


def _maximum(events: "csr_array", starts: Int[np.ndarray, " text1"]) -> "csr_array":
    """Return the maximum of each column over the rows of each text."""
    at, shape = events.indptr[starts], (len(starts) - 1, events.shape[1])
    repeated = type(events)((events.data, events.indices, at), shape=shape)
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
    ones = np.ones(int(keep.sum()), np.float32)  # counted in float32: exact to 16 million, where 8 bits wrap at 256
    return _kept(events, keep, ones)
