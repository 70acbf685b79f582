"""What one pass over a corpus keeps of it: statistics of all features, their examples, and who fires with whom.

Everything here can be added to in any order and merged: the same corpus gives the same result however it was cut.
An event is one active feature on one token; a place is ``sequence_id * pos + position``, a token's address for good.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float16, Integer, UInt64

BINS = 64  # of a histogram: linear from 0 to the smallest power of two that is not below the feature's maximum
SAMPLE_BINS = 16  # the same range for the interval candidates
PER_BIN = 4  # interval candidates a bin
SAMPLE = 32_768  # tokens on which co-activation is counted
KEY_BITS = 40  # a key is below 2 ** KEY_BITS, which itself means "no entry"; 24 bits are left for the group
EMPTY = np.uint64(1 << KEY_BITS)
_BLOCK = 65_536  # entries of slots that are brought up to date at once: bounds the memory for it


@dataclass
class Events:
    """Active features of some tokens, sorted by feature, then place."""

    feature: np.ndarray  # int64 [event]
    place: np.ndarray  # int64 [event]
    value: np.ndarray  # float32 [event]


def priority(place: np.ndarray) -> np.ndarray:
    """Return a pseudo-random number for each place (splitmix64): who has the lowest is sampled, in any shard."""
    with np.errstate(over="ignore"):
        z = place.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))) >> np.uint64(64 - KEY_BITS)


def first_of_each(limit: int, *keys: np.ndarray, group: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the rows that are among the first ``limit`` of their group, ordered by group and keys."""
    order = np.lexsort((*keys[::-1], *group[::-1]))
    changes = np.zeros(len(order), bool)
    changes[:1] = True
    for column in group:
        changes[1:] |= column[order][1:] != column[order][:-1]
    return order[rank_in_run(np.flatnonzero(changes), len(order)) < limit]


def rank_in_run(starts: Integer[np.ndarray, " run"], n: int) -> Integer[np.ndarray, " n"]:
    """Return for each of ``n`` rows how many of its run come before it, given the row at which each run starts.

    >>> rank_in_run(np.array([0, 3]), 5).tolist()
    [0, 1, 2, 0, 1]
    """
    return np.arange(n) - np.repeat(starts, np.diff(starts, append=n))


def narrow(ids: Integer[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
    """Return ids in 16 bits where they fit, as they are stored."""
    return ids.astype(np.uint16 if ids.max(initial=0) <= 65535 else np.int32)


class Statistics:
    """Count, sum, maximum and histogram of every feature's activations above zero."""

    def __init__(self, d_sae: int) -> None:
        self.count = np.zeros(d_sae, np.int64)
        self.sum = np.zeros(d_sae, np.float64)
        self.max = np.zeros(d_sae, np.float32)
        self.histogram = np.zeros((d_sae, BINS), np.int64)

    def add(self, events: Events) -> np.ndarray:
        """Count events in; return the histogram bin of each."""
        starts = np.flatnonzero(np.diff(events.feature, prepend=-1))
        present = events.feature[starts]
        before = self.range_exponent()
        self.count[present] += np.diff(starts, append=len(events.feature))
        self.sum[present] += np.add.reduceat(events.value, starts, dtype=np.float64)
        self.max[present] = np.maximum(self.max[present], np.maximum.reduceat(events.value, starts))
        after = self.range_exponent()
        _widen(self.histogram, after - before)
        bins = bins_of(events.value, events.feature, after)
        counted = np.bincount(events.feature * BINS + bins, minlength=self.histogram.size)
        self.histogram += counted.reshape(self.histogram.shape)
        return bins

    def range_exponent(self) -> np.ndarray:
        """Return e for each feature: its histogram runs from 0 to 2**e."""
        mantissa, exponent = np.frexp(np.maximum(self.max, 2.0**-20))
        return np.where(mantissa == 0.5, exponent - 1, exponent)

    def merge(self, other: "Statistics") -> None:
        """Add another's counts."""
        mine, theirs = self.range_exponent(), other.range_exponent()
        self.max = np.maximum(self.max, other.max)
        after, histogram = self.range_exponent(), other.histogram.astype(np.int64)
        _widen(self.histogram, after - mine)
        _widen(histogram, after - theirs)
        self.histogram += histogram
        self.count += other.count
        self.sum += other.sum


def _widen(histogram: np.ndarray, doublings: np.ndarray) -> None:
    """Join neighbouring bins of features whose range has doubled, as often as it has; in place."""
    wider = np.flatnonzero((doublings > 0) & histogram.any(1))
    for times in np.unique(doublings[wider]):
        rows = wider[doublings[wider] == times]
        joined = histogram[rows]
        for _ in range(min(int(times), BINS.bit_length())):
            joined = np.hstack([joined.reshape(len(rows), -1, 2).sum(2), np.zeros((len(rows), BINS // 2), np.int64)])
        histogram[rows] = joined


def bins_of(value: np.ndarray, feature: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Return in which of `BINS` bins of ``(0, 2 ** exponent[feature]]`` values lie; an upper edge is inside."""
    # Multiplying by a power of two is exact, so the bin of a value does not depend on when it was seen.
    return np.ceil(value.astype(np.float64) * np.ldexp(float(BINS), -exponent)[feature]).astype(np.int64) - 1


@dataclass
class Candidates:
    """Places that may become examples of a feature, with the feature's activations around them."""

    feature: np.ndarray  # int32 [n]
    value: np.ndarray  # float32 [n]
    place: np.ndarray  # int64 [n]
    around: np.ndarray  # float16 [n, window], 0 outside the sequence

    def __len__(self) -> int:
        return len(self.feature)


class Slots:
    """The ``depth`` entries of lowest key in each of many groups; of equal keys, those of lowest place.

    They are kept while events stream by, so that what a bounded index needs does not grow with the corpus.
    """

    def __init__(self, groups: int, depth: int, window: int) -> None:
        self.depth = depth
        self.bar = np.full(groups, EMPTY)  # the key that a new entry has to reach
        self.key = np.full((groups, depth), EMPTY)
        # np.zeros leaves the pages of groups that stay empty untouched: they cost no memory.
        self.value = np.zeros((groups, depth), np.float32)
        self.place = np.zeros((groups, depth), np.int64)
        self.around = np.zeros((groups, depth, window), np.float16)

    def offer(
        self,
        group: Integer[np.ndarray, " offer"],
        key: UInt64[np.ndarray, " offer"],
        place: Integer[np.ndarray, " offer"],
        value: Float[np.ndarray, " offer"],
        around: Callable[[Integer[np.ndarray, " chosen"]], Float16[np.ndarray, "chosen window"]],
    ) -> None:
        """Let new entries compete; ``around`` is asked for the windows of those that win, and of no others."""
        rows = np.flatnonzero(key <= self.bar[group])
        if not len(rows):
            return
        packed = (group[rows].astype(np.uint64) << np.uint64(KEY_BITS)) | key[rows]
        order = np.argsort(packed)
        if (packed[order[1:]] == packed[order[:-1]]).any():
            order = np.lexsort((place[rows], packed))
        rows = rows[order]
        starts = np.flatnonzero(np.diff(group[rows], prepend=-1))
        rank = rank_in_run(starts, len(rows))
        number = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(rows)))  # of the group, among the offered
        groups = group[rows[starts]]
        best = rank < self.depth
        rows, rank, number = rows[best], rank[best], number[best]
        size = max(_BLOCK // self.depth, 1)
        cuts = np.searchsorted(number, np.arange(0, len(groups) + size, size))
        for block, (first, last) in enumerate(pairwise(cuts)):
            part, begin = slice(first, last), block * size
            touched = groups[begin : begin + size]
            new = np.full((len(touched), self.depth), -1)
            new[number[part] - begin, rank[part]] = rows[part]
            self._join(touched, new, key, place, value, around)

    def _join(self, touched: np.ndarray, new: np.ndarray, key, place, value, around) -> None:
        """Bring some groups up to date; ``new`` has the rows of what is offered to each, -1 where there is none."""
        there = new >= 0
        keys = np.hstack([self.key[touched], np.where(there, key[new], EMPTY)])
        places = np.hstack([self.place[touched], place[new]])
        order = np.lexsort((places, keys), axis=1)[:, : self.depth]
        group, slot = np.nonzero((order >= self.depth) & (np.take_along_axis(keys, order, 1) < EMPTY))
        winners = new[group, order[group, slot] - self.depth]
        old = np.minimum(order, self.depth - 1)
        moved = (old != np.arange(self.depth)).any(1)
        moving = touched[moved]
        self.value[moving] = np.take_along_axis(self.value[moving], old[moved], 1)
        self.around[moving] = np.take_along_axis(self.around[moving], old[moved][..., None], 1)
        self.key[touched] = np.take_along_axis(keys, order, 1)
        self.place[touched] = np.take_along_axis(places, order, 1)
        self.value[touched[group], slot] = value[winners]
        self.around[touched[group], slot] = around(winners)
        self.bar[touched] = self.key[touched, -1]

    def entries(self, per_feature: int) -> Candidates:
        """Return what is kept, in the order of groups and keys; a feature has ``per_feature`` groups."""
        group, slot = np.nonzero(self.key < EMPTY)
        kept = (self.value, self.place, self.around)
        return Candidates((group // per_feature).astype(np.int32), *(array[group, slot] for array in kept))

    def fold(self, features: Integer[np.ndarray, " n"], doublings: int, per_feature: int) -> None:
        """Join the groups of some features: each ``2 ** doublings`` that stand side by side become one."""
        joined = min(2**doublings, per_feature)
        rows = (features[:, None] * per_feature + np.arange(per_feature)).reshape(len(features), -1, joined)
        n_new, depth = rows.shape[1], self.depth

        def pooled(array: np.ndarray) -> np.ndarray:
            return array[rows].reshape(len(features), n_new, joined * depth, *array.shape[2:])

        keys, places = pooled(self.key), pooled(self.place)
        order = np.lexsort((places, keys), axis=2)[..., :depth]
        target = features[:, None] * per_feature + np.arange(n_new)
        value, window = pooled(self.value), pooled(self.around)
        rest = features[:, None] * per_feature + np.arange(n_new, per_feature)
        self.key[rest] = self.bar[rest] = EMPTY
        self.key[target] = np.take_along_axis(keys, order, 2)
        self.place[target] = np.take_along_axis(places, order, 2)
        self.value[target] = np.take_along_axis(value, order, 2)
        self.around[target] = np.take_along_axis(window, order[..., None], 2)
        self.bar[target] = self.key[target, -1]


class Collector:
    """Examples of every feature: the strongest, one a sequence, and a sample from each bin of its range.

    The sample's bins are the histogram's, joined by fours; when a feature's range doubles, two of them become one.
    """

    def __init__(self, d_sae: int, *, examples: int, window: int, n_pos: int) -> None:
        self.d_sae, self.examples, self.window, self.n_pos = d_sae, examples, window, n_pos
        self.left = left_of(window)
        self._top = Slots(d_sae, examples, window)
        self._sampled = Slots(d_sae * SAMPLE_BINS, PER_BIN, window)
        self._exponent: np.ndarray | None = None  # of the sample's bins, from the first event on

    @property
    def top(self) -> Candidates:
        """The strongest examples so far, by feature, strongest first."""
        return self._top.entries(1)

    @property
    def sampled(self) -> Candidates:
        """The interval candidates so far, by feature and bin."""
        return self._sampled.entries(SAMPLE_BINS)

    def add(self, events: Events, bins: np.ndarray, exponent: np.ndarray, *, sample: bool = True) -> None:
        """Let events compete; they are whole sequences. Bins and exponents are those of the `Statistics`."""
        feature, value = events.feature, events.value
        key = _strength(value)
        # Only what reaches its feature's last example counts, and that can be seen before anything is sorted.
        rows = np.flatnonzero(key <= self._top.bar[feature])
        sequence = events.place[rows] // self.n_pos
        starts = np.flatnonzero((np.diff(feature[rows], prepend=-1) != 0) | (np.diff(sequence, prepend=-1) != 0))
        if len(starts):
            best = np.minimum.reduceat(key[rows], starts)
            sizes = np.diff(starts, append=len(rows))
            equal = np.flatnonzero(key[rows] == np.repeat(best, sizes))
            owner = np.repeat(np.arange(len(starts)), sizes)[equal]
            rows = rows[equal[np.diff(owner, prepend=-1) != 0]]  # the earliest of equals
            self._offer(self._top, events, rows, feature[rows], key[rows])
        if sample:
            self._widen(exponent)
            group = feature * SAMPLE_BINS + bins // (BINS // SAMPLE_BINS)
            rank = priority(events.place)
            rows = np.flatnonzero(rank <= self._sampled.bar[group])
            self._offer(self._sampled, events, rows, group[rows], rank[rows])

    def _offer(self, slots: Slots, events: Events, rows: np.ndarray, group: np.ndarray, key: np.ndarray) -> None:
        def cut(chosen: np.ndarray) -> np.ndarray:
            return around(events, rows[chosen], left=self.left, window=self.window, n_pos=self.n_pos)

        slots.offer(group, key, events.place[rows], events.value[rows], cut)

    def offer(self, top: Candidates, sampled: Candidates, exponent: np.ndarray) -> None:
        """Let candidates compete that another pass kept; exponents are those of the statistics of both."""
        self._widen(exponent)
        feature = top.feature.astype(np.int64)
        self._top.offer(feature, _strength(top.value), top.place, top.value, top.around.__getitem__)
        feature = sampled.feature.astype(np.int64)
        group = feature * SAMPLE_BINS + bins_of(sampled.value, feature, exponent) // (BINS // SAMPLE_BINS)
        rank = priority(sampled.place)
        self._sampled.offer(group, rank, sampled.place, sampled.value, sampled.around.__getitem__)

    def _widen(self, exponent: np.ndarray) -> None:
        """Join sample bins of features whose range has doubled, as often as it has."""
        if self._exponent is not None:
            seen = (self._sampled.key.reshape(self.d_sae, -1) < EMPTY).any(1)
            wider = np.where(seen, exponent - self._exponent, 0)
            for doublings in np.unique(wider[wider > 0]):
                self._sampled.fold(np.flatnonzero(wider == doublings), int(doublings), SAMPLE_BINS)
        self._exponent = exponent


def _strength(value: np.ndarray) -> np.ndarray:
    """Return a key that is lower for a stronger activation: the bits of a positive float sort like the float."""
    return np.uint64(0x7F800000) - value.astype(np.float32).view(np.uint32).astype(np.uint64)


def left_of(window: int) -> int:
    """Return how many tokens of a window come before the peak: two thirds, for that is what the model had read."""
    return window - 1 - window // 3


def around(events: Events, chosen: np.ndarray, *, left: int, window: int, n_pos: int) -> np.ndarray:
    """Return each chosen event's feature on the tokens around it, ``[chosen, window]``, peak at index ``left``.

    Events are sorted by feature and place, so the neighbours of an event stand next to it.
    """
    out = np.zeros((len(chosen), window), np.float16)
    place, feature = events.place, events.feature
    out[:, left] = np.minimum(events.value[chosen], 65504)
    begin = place[chosen] // n_pos * n_pos  # of the sequence
    first = np.maximum(place[chosen] - left, begin)
    last = np.minimum(place[chosen] - left + window, begin + n_pos) - 1
    for step in (-1, 1):
        rows, at = np.arange(len(chosen)), chosen
        while len(rows):  # the next neighbour of all whose last one was still in the window: few after two or three
            at = at + step
            ahead = np.clip(at, 0, len(place) - 1)
            there = place[ahead]
            fits = (ahead == at) & (feature[ahead] == feature[chosen[rows]])
            fits &= (there >= first[rows]) & (there <= last[rows])
            rows, at = rows[fits], at[fits]
            out[rows, place[at] - place[chosen[rows]] + left] = np.minimum(events.value[at], 65504)
    return out


class TokenSample:
    """The ``SAMPLE`` tokens of lowest priority, with their active features: enough to see who fires with whom."""

    def __init__(self) -> None:
        self.place = np.zeros(0, np.int64)
        self.features: np.ndarray = np.zeros(0, np.int32)  # of all tokens, one after the other
        self.length = np.zeros(0, np.int64)

    def add(self, place: np.ndarray, length: np.ndarray, features: np.ndarray) -> None:
        """Offer tokens: their places, how many features are active on each, and which."""
        rank = priority(place)
        bar = np.inf if len(self.place) < SAMPLE else priority(self.place).max()
        offered = np.flatnonzero(rank <= bar)
        rows = np.repeat(rank <= bar, length)
        place = np.concatenate([self.place, place[offered]])
        length = np.concatenate([self.length, length[offered]])
        features = np.concatenate([self.features, features[rows].astype(np.int32)])
        kept = np.lexsort((place, priority(place)))[:SAMPLE]
        kept.sort()
        mask = np.zeros(len(place), bool)
        mask[kept] = True
        self.place, self.length, self.features = place[mask], length[mask], features[np.repeat(mask, length)]

    def merge(self, other: "TokenSample") -> None:
        """Offer another sample's tokens."""
        self.add(other.place, other.length, other.features)
