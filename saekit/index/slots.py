"""The best few of each of many groups, kept while events stream by: what makes a bounded index bounded."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float16, Int, UInt64

KEY_BITS = 40  # a key is below 2 ** KEY_BITS, which itself means "no entry"; 24 bits are left for the group
EMPTY = np.uint64(1 << KEY_BITS)
_BLOCK = 65_536  # entries that are brought up to date at once: bounds the memory for it


@dataclass
class Candidates:
    """Places that may become examples of a feature, with the feature's activations around them."""

    feature: np.ndarray  # int32 [n]
    value: np.ndarray  # float32 [n]
    place: np.ndarray  # int64 [n]
    around: np.ndarray  # float16 [n, window], 0 outside the sequence

    def __len__(self) -> int:
        return len(self.feature)

    def take(self, rows: np.ndarray) -> "Candidates":
        """Return some of the candidates."""
        return Candidates(*(getattr(self, f.name)[rows] for f in fields(self)))


class Slots:
    """The ``depth`` entries of lowest key in each group; of equal keys, those of lowest place."""

    def __init__(self, groups: int, depth: int, window: int):
        self.depth = depth
        self.bar = np.full(groups, EMPTY)  # the key that a new entry has to reach
        self.key = np.full((groups, depth), EMPTY)
        # np.zeros leaves the pages of groups that stay empty untouched: they cost no memory.
        self.value = np.zeros((groups, depth), np.float32)
        self.place = np.zeros((groups, depth), np.int64)
        self.around = np.zeros((groups, depth, window), np.float16)

    def offer(
        self,
        group: Int[np.ndarray, " offer"],
        key: UInt64[np.ndarray, " offer"],
        place: Int[np.ndarray, " offer"],
        value: Float[np.ndarray, " offer"],
        around: Callable[[Int[np.ndarray, " chosen"]], Float16[np.ndarray, "chosen window"]],
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
        rank = np.arange(len(rows)) - np.repeat(starts, np.diff([*starts, len(rows)]))
        number = np.repeat(np.arange(len(starts)), np.diff([*starts, len(rows)]))  # of the group, among those offered
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

    def fold(self, features: Int[np.ndarray, " n"], doublings: int, per_feature: int) -> None:
        """Join the groups of some features: each ``2 ** doublings`` that stand side by side become one."""
        joined = min(2**doublings, per_feature)
        rows = (features[:, None] * per_feature + np.arange(per_feature)).reshape(len(features), -1, joined)
        n_new, depth = rows.shape[1], self.depth
        pooled = lambda array: array[rows].reshape(len(features), n_new, joined * depth, *array.shape[2:])  # noqa: E731
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
