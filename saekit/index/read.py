"""Reading an opened feature index: from rows of its arrays to examples with text around them."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from saekit.index.collect import Events, around, first_of_each, priority
from saekit.index.results import Example
from saekit.models import join_pieces


class Reader:
    """The arrays of one index, and how to read them.

    Attributes:
        arrays: By name, memory-mapped.
        n_pos: Tokens a row of the corpus.
        window: Tokens an example carries, ``left`` of them before its peak.
    """

    def __init__(self, manifest: Mapping, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.n_pos: int = arrays["tokens"].shape[1]
        self.window: int = manifest["window"]
        self.left = self.window - 1 - self.window // 3
        self.first_shown = int(manifest["bos_first"])  # windows leave BOS out

    def stored(self, kind: str, feature: int) -> np.ndarray:
        """Return the rows of a feature's stored examples; the ``"top"`` ones strongest first."""
        return np.arange(*np.searchsorted(self.arrays[f"{kind}_feature"], [feature, feature + 1]))

    def stored_example(self, kind: str, row: int) -> Example:
        """Return one stored example."""
        a = self.arrays
        window = np.zeros(self.window, np.float32)
        part = slice(a[f"{kind}_start"][row], a[f"{kind}_start"][row + 1])
        window[a[f"{kind}_offset"][part]] = a[f"{kind}_around"][part]
        return self.example(int(a[f"{kind}_pointer"][row]), float(a[f"{kind}_value"][row]), window)

    def example(self, pointer: int, value: float, window: np.ndarray) -> Example:
        """Return an example, given where its peak stands in the corpus."""
        row, position = divmod(pointer, self.n_pos)
        begin = min(max(position - self.left, self.first_shown), position)
        end = min(position - self.left + self.window, self.n_pos)
        shift = begin - (position - self.left)
        activations = window[shift : shift + end - begin].copy()
        activations[position - begin] = value  # windows are in half precision, the peak is not
        tokens = join_pieces([self.bytes(i) for i in self.arrays["tokens"][row, begin:end]])
        return Example(value, int(self.arrays["sequence_ids"][row]), position, tokens, activations, position - begin)

    def events(self, feature: int) -> Events:
        """Return every event of a feature (full indexes)."""
        part = slice(*self.arrays["event_start"][feature : feature + 2])
        place, value = self.arrays["event_place"][part], self.arrays["event_value"][part]
        return Events(np.full(len(place), feature), np.asarray(place), np.asarray(value))

    def event_examples(self, events: Events, chosen: np.ndarray) -> list[Example]:
        """Return some events as examples."""
        windows = around(events, chosen, left=self.left, window=self.window, n_pos=self.n_pos)
        place = events.place[chosen]
        pointers = np.searchsorted(self.arrays["sequence_ids"], place // self.n_pos) * self.n_pos + place % self.n_pos
        return [
            self.example(int(p), float(v), w.astype(np.float32))
            for p, v, w in zip(pointers, events.value[chosen], windows, strict=True)
        ]

    def interval_rows(self, feature: int, maximum: float, n: int, per: int) -> np.ndarray:
        """Return the stored rows that `FeatureIndex.intervals` shows: of each interval, those of lowest priority."""
        rows = self.stored("sampled", feature)
        which = interval_of(self.arrays["sampled_value"][rows], maximum, n)
        pointer = self.arrays["sampled_pointer"][rows]
        place = self.arrays["sequence_ids"][pointer // self.n_pos] * self.n_pos + pointer % self.n_pos
        return rows[first_of_each(per, priority(place), place, group=(which,))]

    def interval_examples(self, feature: int, maximum: float, n: int, per: int) -> dict[int, list[Example]]:
        """Return up to ``per`` stored examples of each interval, 0 the weakest; the sample first, then the top ones."""
        found: dict[int, list[Example]] = {i: [] for i in range(n)}
        pointers = set()
        sources = (("sampled", self.interval_rows(feature, maximum, n, per)), ("top", self.stored("top", feature)))
        for kind, rows in sources:
            which = interval_of(self.arrays[f"{kind}_value"][rows], maximum, n)
            for row, interval in zip(rows, which.tolist(), strict=True):
                pointer = int(self.arrays[f"{kind}_pointer"][row])
                if len(found[interval]) < per and pointer not in pointers:
                    found[interval].append(self.stored_example(kind, row))
                    pointers.add(pointer)
        return found

    def bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for."""
        start, stop = self.arrays["vocabulary_start"][int(token) : int(token) + 2]
        return self.arrays["vocabulary"][start:stop].tobytes()

    def text(self, token: int) -> str:
        """Return a token on its own as a string."""
        return self.bytes(token).decode("utf-8", errors="replace")

    def rows_peaking_on(self, query: str) -> np.ndarray:
        """Return the top examples whose peak token is a word, whatever its case and outer whitespace."""
        same = [t for t in np.unique(self.peak_tokens) if self.text(t).strip().casefold() == query]
        return np.flatnonzero(np.isin(self.peak_tokens, same))

    @cached_property
    def peak_tokens(self) -> np.ndarray:
        """The token on which each top example peaks."""
        return self.arrays["tokens"].reshape(-1)[self.arrays["top_pointer"]]


def interval_of(value: np.ndarray | float, maximum: float, n: int) -> np.ndarray:
    """Return in which of n equal-width intervals of (0, maximum] values lie, 0 the weakest; an upper edge is inside.

    >>> interval_of(np.array([0.1, 2.0, 2.1, 10.0]), 10.0, 5).tolist()
    [0, 0, 1, 4]
    """
    inner = np.linspace(0, maximum, n + 1)[1:-1]
    return np.searchsorted(inner, np.asarray(value, np.float64), side="left")
