"""What one pass over a corpus keeps of it: statistics of all features, their examples, and who fires with whom.

Everything here can be added to in any order and merged: the same corpus gives the same result however it was cut.
An event is one active feature on one token; a place is ``sequence_id * pos + position``, a token's address for good.
"""

from dataclasses import dataclass, fields

import numpy as np

BINS = 64  # of a histogram: linear from 0 to the smallest power of two that is not below the feature's maximum
PER_BIN = 6  # interval candidates a feature and half-octave of activation
OCTAVES = 5  # below the maximum for which interval candidates are kept
_BIN_SLOTS = 16  # more than the bins alive at once (2 * OCTAVES), so bin modulo slots is unique among them
SAMPLE = 32_768  # tokens on which co-activation is counted


@dataclass
class Events:
    """Active features of some tokens, sorted by feature, then place."""

    feature: np.ndarray  # int64 [event]
    place: np.ndarray  # int64 [event]
    value: np.ndarray  # float32 [event]


@dataclass
class Candidates:
    """Places that may become examples of a feature, with the feature's activations around them."""

    feature: np.ndarray  # int32 [n]
    bin: np.ndarray  # int16 [n]: half-octave of the value; 0 among the top candidates
    value: np.ndarray  # float32 [n]
    place: np.ndarray  # int64 [n]
    around: np.ndarray  # float16 [n, window], 0 outside the sequence

    @classmethod
    def empty(cls, window: int) -> "Candidates":
        """Return no candidates."""
        return cls(
            np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32), np.zeros(0, np.int64),
            np.zeros((0, window), np.float16),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.feature)

    def take(self, rows: np.ndarray) -> "Candidates":
        """Return some of the candidates."""
        return Candidates(*(getattr(self, f.name)[rows] for f in fields(self)))

    def plus(self, *others: "Candidates") -> "Candidates":
        """Return these and others."""
        return Candidates(*(np.concatenate([getattr(c, f.name) for c in (self, *others)]) for f in fields(self)))


def priority(place: np.ndarray) -> np.ndarray:
    """Return a pseudo-random number for each place (splitmix64): who has the lowest is sampled, in any shard."""
    with np.errstate(over="ignore"):
        z = place.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))) >> np.uint64(32)


def half_octave(value: np.ndarray) -> np.ndarray:
    """Return floor(2 log2 value), the bin in which interval candidates compete."""
    return np.floor(2 * np.log2(value)).astype(np.int16)


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

    def add(self, events: Events) -> None:
        """Count events in."""
        starts = np.flatnonzero(np.diff(events.feature, prepend=-1))
        present = events.feature[starts]
        top = np.maximum.reduceat(events.value, starts)
        before = self.range_exponent()
        self.count[present] += np.diff([*starts, len(events.feature)])
        self.sum[present] += np.add.reduceat(events.value.astype(np.float64), starts)
        self.max[present] = np.maximum(self.max[present], top)
        after = self.range_exponent()
        self._widen(before, after)
        # Multiplying by a power of two is exact, so the bin of a value does not depend on when it was seen.
        scaled = np.ldexp(events.value.astype(np.float64) * BINS, -after[events.feature])
        bins = np.ceil(scaled).astype(np.int64) - 1
        counted = np.bincount(events.feature * BINS + bins, minlength=self.histogram.size)
        self.histogram += counted.reshape(self.histogram.shape)

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


class Collector:
    """Examples of every feature: the strongest, one a sequence, and a sample from each half-octave of strength."""

    def __init__(self, d_sae: int, *, examples: int, window: int, n_pos: int):
        self.d_sae, self.examples, self.window, self.n_pos = d_sae, examples, window, n_pos
        self.left = window - 1 - window // 3  # two thirds of the window come before the peak: what the model had read
        self.top = Candidates.empty(window)
        self.sampled = Candidates.empty(window)

    def add(self, events: Events, maximum: np.ndarray) -> None:
        """Let the events of whole sequences compete; ``maximum`` is each feature's so far."""
        sequence = events.place // self.n_pos
        # The strongest of each (feature, sequence), the earliest of equals.
        changes = (np.diff(events.feature, prepend=-1) != 0) | (np.diff(sequence, prepend=-1) != 0)
        starts = np.flatnonzero(changes)
        group = np.cumsum(changes) - 1
        peak = np.maximum.reduceat(events.value, starts)
        is_peak = np.flatnonzero(events.value == peak[group])
        is_peak = is_peak[np.unique(group[is_peak], return_index=True)[1]]
        is_peak = is_peak[events.value[is_peak] >= self._bar()[events.feature[is_peak]]]
        self.top = self._best(self.top.plus(self._candidates(events, is_peak, np.zeros(len(is_peak), np.int16))))

        bins = half_octave(events.value)
        rank = priority(events.place)
        inside = np.flatnonzero(bins > half_octave(np.maximum(maximum, 1e-30))[events.feature] - 2 * OCTAVES)
        chosen = first_of_each(
            PER_BIN, rank[inside], events.place[inside], group=(events.feature[inside], bins[inside])
        )
        chosen = inside[chosen]
        # Most can no longer win: a full bin only takes a lower priority than its last.
        chosen = chosen[rank[chosen] <= self._sample_bar()[events.feature[chosen], bins[chosen] % _BIN_SLOTS]]
        self.sampled = self._sample(self.sampled.plus(self._candidates(events, chosen, bins[chosen])), maximum)

    def merge(self, other: "Collector", maximum: np.ndarray) -> None:
        """Let another's candidates compete too."""
        self.top = self._best(self.top.plus(other.top))
        self.sampled = self._sample(self.sampled.plus(other.sampled), maximum)

    def _bar(self) -> np.ndarray:
        """Return the value each feature's next example must reach: that of its last one, once it has enough."""
        bar = np.zeros(self.d_sae, np.float32)
        full = np.bincount(self.top.feature, minlength=self.d_sae) >= self.examples
        lowest = np.full(self.d_sae, np.inf, np.float32)
        np.minimum.at(lowest, self.top.feature, self.top.value)
        bar[full] = lowest[full]
        return bar

    def _sample_bar(self) -> np.ndarray:
        bar = np.full((self.d_sae, _BIN_SLOTS), 2**32, np.uint64)
        c = self.sampled
        slots = (c.feature, c.bin % _BIN_SLOTS)
        taken, worst = np.zeros(bar.shape, np.int8), np.zeros(bar.shape, np.uint64)
        np.add.at(taken, slots, 1)
        np.maximum.at(worst, slots, priority(c.place))
        full = taken >= PER_BIN
        bar[full] = worst[full]
        return bar

    def _best(self, c: Candidates) -> Candidates:
        return c.take(first_of_each(self.examples, -c.value, c.place, group=(c.feature,)))

    def _sample(self, c: Candidates, maximum: np.ndarray) -> Candidates:
        c = c.take(np.flatnonzero(c.bin > half_octave(np.maximum(maximum, 1e-30))[c.feature] - 2 * OCTAVES))
        return c.take(first_of_each(PER_BIN, priority(c.place), c.place, group=(c.feature, c.bin)))

    def _candidates(self, events: Events, chosen: np.ndarray, bins: np.ndarray) -> Candidates:
        return Candidates(
            feature=events.feature[chosen].astype(np.int32),
            bin=bins.astype(np.int16),
            value=events.value[chosen],
            place=events.place[chosen],
            around=around(events, chosen, left=self.left, window=self.window, n_pos=self.n_pos),
        )


def around(events: Events, chosen: np.ndarray, *, left: int, window: int, n_pos: int) -> np.ndarray:
    """Return each chosen event's feature on the tokens around it, ``[chosen, window]``, peak at index ``left``.

    Events are sorted by feature and place, so the neighbours of an event stand next to it.
    """
    out = np.zeros((len(chosen), window), np.float16)
    place, feature = events.place, events.feature
    sequence = place[chosen] // n_pos
    for step in range(-left, window - left):  # the s-th neighbour in the list, not yet the s-th token
        at = np.clip(chosen + step, 0, len(place) - 1)
        offset = place[at] - place[chosen] + left
        fits = (
            (chosen + step >= 0) & (chosen + step < len(place)) & (feature[at] == feature[chosen])
            & (place[at] // n_pos == sequence) & (offset >= 0) & (offset < window)
        )  # fmt: skip
        out[np.flatnonzero(fits), offset[fits]] = np.minimum(events.value[at[fits]], 65504)
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
