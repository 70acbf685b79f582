"""What one pass over a corpus keeps of it: statistics of all features, their examples, and who fires with whom.

Everything here can be added to in any order and merged: the same corpus gives the same result however it was cut.
An event is one active feature on one token; a place is ``sequence_id * pos + position``, a token's address for good.
"""

from dataclasses import dataclass

import numpy as np

from saekit.index.slots import EMPTY, KEY_BITS, Candidates, Slots

BINS = 64  # of a histogram: linear from 0 to the smallest power of two that is not below the feature's maximum
SAMPLE_BINS = 16  # the same range for the interval candidates
PER_BIN = 4  # interval candidates a bin
SAMPLE = 32_768  # tokens on which co-activation is counted


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
    starts = np.flatnonzero(changes)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return order[rank < limit]


class Statistics:
    """Count, sum, maximum and histogram of every feature's activations above zero."""

    def __init__(self, d_sae: int):
        self.count = np.zeros(d_sae, np.int64)
        self.sum = np.zeros(d_sae, np.float64)
        self.max = np.zeros(d_sae, np.float32)
        self.histogram = np.zeros((d_sae, BINS), np.int64)

    def add(self, events: Events) -> np.ndarray:
        """Count events in; return the histogram bin of each."""
        starts = np.flatnonzero(np.diff(events.feature, prepend=-1))
        present = events.feature[starts]
        before = self.range_exponent()
        self.count[present] += np.diff([*starts, len(events.feature)])
        self.sum[present] += np.add.reduceat(events.value, starts, dtype=np.float64)
        self.max[present] = np.maximum(self.max[present], np.maximum.reduceat(events.value, starts))
        after = self.range_exponent()
        self._widen(before, after)
        bins = bins_of(events.value, events.feature, after)
        counted = np.bincount(events.feature * BINS + bins, minlength=self.histogram.size)
        self.histogram += counted.reshape(self.histogram.shape)
        return bins

    def range_exponent(self) -> np.ndarray:
        """Return e for each feature: its histogram runs from 0 to 2**e."""
        mantissa, exponent = np.frexp(np.maximum(self.max, 2.0**-20))
        return np.where(mantissa == 0.5, exponent - 1, exponent)

    def _widen(self, before: np.ndarray, after: np.ndarray) -> None:
        """Join neighbouring bins of features whose range has doubled, as often as it has."""
        wider = np.flatnonzero((after > before) & self.histogram.any(1))
        for doublings in np.unique((after - before)[wider]):
            rows = wider[(after - before)[wider] == doublings]
            joined = self.histogram[rows]
            for _ in range(min(int(doublings), BINS.bit_length())):
                joined = np.hstack(
                    [joined.reshape(len(rows), -1, 2).sum(2), np.zeros((len(rows), BINS // 2), np.int64)]
                )
            self.histogram[rows] = joined

    def merge(self, other: "Statistics") -> None:
        """Add another's counts."""
        before, theirs = self.range_exponent(), other.range_exponent()
        self.max = np.maximum(self.max, other.max)
        after = self.range_exponent()
        self._widen(before, after)
        widened = Statistics(len(other.count))
        widened.histogram = other.histogram.copy()
        widened._widen(theirs, after)
        self.histogram += widened.histogram
        self.count += other.count
        self.sum += other.sum


def bins_of(value: np.ndarray, feature: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Return in which of `BINS` bins of ``(0, 2 ** exponent[feature]]`` values lie; an upper edge is inside."""
    # Multiplying by a power of two is exact, so the bin of a value does not depend on when it was seen.
    return np.ceil(value.astype(np.float64) * np.ldexp(float(BINS), -exponent)[feature]).astype(np.int64) - 1


class Collector:
    """Examples of every feature: the strongest, one a sequence, and a sample from each bin of its range.

    The sample's bins are the histogram's, joined by fours; when a feature's range doubles, two of them become one.
    """

    def __init__(self, d_sae: int, *, examples: int, window: int, n_pos: int):
        self.d_sae, self.examples, self.window, self.n_pos = d_sae, examples, window, n_pos
        self.left = window - 1 - window // 3  # two thirds of the window come before the peak: what the model had read
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
            sizes = np.diff([*starts, len(rows)])
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
        cut = lambda chosen: around(events, rows[chosen], left=self.left, window=self.window, n_pos=self.n_pos)  # noqa: E731
        slots.offer(group, key, events.place[rows], events.value[rows], cut)

    def merge(self, other: "Collector", exponent: np.ndarray) -> None:
        """Let another's candidates compete too; ``exponent`` is that of the merged statistics."""
        self.restore(other.top, other.sampled, exponent)

    def restore(self, top: Candidates, sampled: Candidates, exponent: np.ndarray) -> None:
        """Let candidates compete that an earlier pass kept."""
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

    def __init__(self):
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
