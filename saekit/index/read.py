"""Reading an opened feature index: from rows of its arrays to the small frozen objects that it answers with."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from saekit._base.table import Column, Shown, Table
from saekit.index.collect import BINS, Events, around, first_of_each, left_of, priority
from saekit.index.text import SearchText, search_text
from saekit.models import join_pieces, readable

PIECES = 3  # further tokens that a character may take


@dataclass(frozen=True)
class Example:
    """One place where a feature is active, and the text around it.

    Attributes:
        value: Activation at the peak, in units of the SAE.
        sequence_id: Which row of the corpus.
        position: Token position within the row.
        tokens: The window as readable strings; ``""`` continues the character of the token before.
        activations: Of this feature on the window, ``[window]``.
        peak: Index of the peak in the window.
        duplicates: Further examples with the same text around the peak, folded into this one.
    """

    value: float
    sequence_id: int
    position: int
    tokens: list[str]
    activations: Float[np.ndarray, " window"]
    peak: int
    duplicates: int = 0

    def __repr__(self) -> str:
        near = range(max(0, self.peak - 6), min(len(self.tokens), self.peak + 5))
        whole = max((i for i in near if i <= self.peak and self.tokens[i]), default=self.peak)  # where its text stands
        text = "".join(f"«{self.tokens[i]}»" if i == whole else self.tokens[i] for i in near)
        return f"{self.value:7.2f}  {text!r}" + (f"  (+{self.duplicates} alike)" if self.duplicates else "")


@dataclass(frozen=True, repr=False)
class Examples(Sequence[Example]):
    """Examples of one feature, strongest first; empty for a dead one, which says so.

    Attributes:
        feature: Number of the feature.
        items: The examples.
        n_tokens: Number of tokens that were looked at.
        dead: Whether the feature is active on none of them.
    """

    feature: int
    items: tuple[Example, ...]
    n_tokens: int
    dead: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, item: int) -> Example: ...
    @overload
    def __getitem__(self, item: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, item: int | slice) -> Example | tuple[Example, ...]:
        return self.items[item]

    def __repr__(self) -> str:
        if self.dead:
            return f"feature {self.feature} is dead: active on none of {self.n_tokens:,} tokens"
        return "\n".join([f"feature {self.feature}, {len(self)} examples", *map(repr, self.items)])

    def _repr_html_(self) -> str:
        if not self.items:
            return f"<p>{html.escape(repr(self))}</p>"
        scale = max(e.value for e in self.items)
        columns = (Column("peak", "value", ".2f"), Column("context", "tokens", html=lambda e: _strip(e, scale)))
        caption = f"feature {self.feature}; shade = activation / {scale:.3g}"
        return Table(self.items, columns, caption)._repr_html_()


def _strip(example: Example, scale: float) -> str:
    spans = (
        f'<span style="background:hsl(205 88% 48% / {0.75 * float(a) / scale:.2f})">{html.escape(t)}</span>'
        for t, a in zip(example.tokens, example.activations, strict=True)
    )
    return f'<code style="white-space:pre-wrap">{"".join(spans)}</code>'


@dataclass(frozen=True)
class Interval:
    """One equal-width interval of a feature's activation, with examples sampled from it.

    Attributes:
        low: Lower edge, outside.
        high: Upper edge, inside.
        share: Share of the feature's active tokens that lie in it.
        examples: Some of them.
    """

    low: float
    high: float
    share: float
    examples: Examples


@dataclass(frozen=True, repr=False)
class Histogram(Shown):
    """How often a feature is active how strongly: ``counts[i]`` tokens in ``(edges[i], edges[i + 1]]``."""

    edges: Float[np.ndarray, " edges"]
    counts: Integer[np.ndarray, " bins"]

    def _table(self) -> Table:
        columns = (
            Column("above", itemgetter(0), ".4g"),
            Column("up to", itemgetter(1), ".4g"),
            Column("tokens", itemgetter(2), ","),
        )
        return Table(tuple(zip(self.edges[:-1], self.edges[1:], self.counts, strict=True)), columns)


@dataclass(frozen=True)
class Hit:
    """A feature found by `FeatureIndex.search`, how well it fits (0 to 1), and one of its examples."""

    feature: int
    score: float
    example: Example


@dataclass(frozen=True)
class Neighbour:
    """Another feature, and how close it is: cosine of decoder rows, or Jaccard overlap of active tokens."""

    feature: int
    score: float


@dataclass(frozen=True)
class Logits:
    """Tokens that a feature's decoder row pushes up and down most, as ``(token id, text, logit)``.

    Logits per unit of activation, through the final norm with its scale frozen at 1, less their mean over the
    vocabulary (softmax ignores it).
    """

    promoted: list[tuple[int, str, float]]
    suppressed: list[tuple[int, str, float]]

    def __repr__(self) -> str:
        up, down = (
            ", ".join(f"{text!r} {value:+.2f}" for _, text, value in side) for side in (self.promoted, self.suppressed)
        )
        return f"promoted:   {up}\nsuppressed: {down}"


@dataclass(frozen=True)
class PromptActivations:
    """One feature on every token of a text of your own.

    Attributes:
        tokens: The tokens as readable strings.
        values: Activation on each.
        excluded: Whether the statistics of the index leave a token out (BOS, special, massive norm): its activation
            is shown and means little.
        truncated: Whether the text was longer than what was read of it.
    """

    tokens: list[str]
    values: Float[np.ndarray, " pos"]
    excluded: Bool[np.ndarray, " pos"]
    truncated: bool = False


@dataclass(frozen=True)
class PromptFeatures:
    """The strongest features at every token of a text of your own, strongest first; otherwise `PromptActivations`."""

    tokens: list[str]
    features: Integer[np.ndarray, "pos k"]
    values: Float[np.ndarray, "pos k"]
    excluded: Bool[np.ndarray, " pos"]
    truncated: bool = False


@dataclass(frozen=True)
class PromptReading:
    """All features at every token of a text of your own, from one pass; otherwise `PromptActivations`."""

    tokens: list[str]
    features: Float[np.ndarray, "pos d_sae"]
    excluded: Bool[np.ndarray, " pos"]
    truncated: bool = False

    def activations(self, feature: int) -> PromptActivations:
        """Return one feature on every token."""
        return PromptActivations(self.tokens, self.features[:, feature], self.excluded, self.truncated)

    def strongest(self, k: int = 10) -> PromptFeatures:
        """Return the k strongest features at every token; of equals the lower number first."""
        k = min(k, self.features.shape[1])
        part = np.argpartition(-self.features, k - 1, axis=1)[:, :k]
        order = np.lexsort((part, -np.take_along_axis(self.features, part, 1)), axis=1)
        best = np.take_along_axis(part, order, 1)
        values = np.take_along_axis(self.features, best, 1)
        return PromptFeatures(self.tokens, best, values, self.excluded, self.truncated)


class Reader:
    """The arrays of one index, and how to read them.

    Attributes:
        about: What the manifest says.
        arrays: Arrays by name, memory-mapped.
        d_sae: Number of features.
        bounded: Whether it holds a bounded number of examples, not every event.
        compacted: Whether it holds neighbours in place of what they are computed from.
        n_pos: Number of tokens in a row of the corpus.
        window: Number of tokens that an example carries, ``left`` of them before its peak.
    """

    def __init__(self, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.about, self.arrays = about, arrays
        self.d_sae: int = about["d_sae"]
        self.bounded, self.compacted = about["kind"] == "bounded", "coactivation_ids" in arrays
        self.n_pos: int = arrays["tokens"].shape[1]
        self.window: int = about["window"]
        self.left = left_of(self.window)
        self.first_shown = int(about.get("bos_first", False))  # windows leave BOS out

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
        # A character that the window cuts is whole in the row.
        wide = range(max(begin - PIECES, 0), min(end + PIECES, self.n_pos))
        tokens = join_pieces([self.piece(i) for i in self.arrays["tokens"][row, wide.start : wide.stop]])
        tokens = tokens[begin - wide.start : end - wide.start]
        return Example(value, int(self.arrays["sequence_ids"][row]), position, tokens, activations, position - begin)

    def places(self, pointers: Integer[np.ndarray, " row"]) -> Integer[np.ndarray, " row"]:
        """Return the addresses of tokens, given where they stand in the corpus."""
        row, position = np.divmod(np.asarray(pointers, np.int64), self.n_pos)
        return self.arrays["sequence_ids"][row] * self.n_pos + position

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
        place = self.places(self.arrays["sampled_pointer"][rows])
        return rows[first_of_each(per, priority(place), place, group=(which,))]

    def top_examples(self, feature: int, k: int) -> list[Example]:
        """Return the k strongest examples, one per sequence."""
        if self.bounded:
            return [self.stored_example("top", row) for row in self.stored("top", feature)[:k]]
        events = self.events(feature)
        order = first_of_each(1, -events.value, events.place, group=(events.place // self.n_pos,))
        order = order[np.lexsort((events.place[order], -events.value[order]))][:k]
        return self.event_examples(events, order)

    def interval_examples(
        self, feature: int, edges: Float[np.ndarray, " edge"], per: int
    ) -> tuple[list[list[Example]], Float[np.ndarray, " interval"]]:
        """Return up to ``per`` examples of each interval, the weakest interval first, and its share of the events."""
        n, maximum = len(edges) - 1, float(edges[-1])
        examples: list[list[Example]] = [[] for _ in range(n)]
        if not self.bounded:
            events = self.events(feature)
            which = interval_of(events.value, maximum, n)
            for row in first_of_each(per, priority(events.place), events.place, group=(which,)):
                examples[which[row]] += self.event_examples(events, np.array([row]))
            return examples, np.bincount(which, minlength=n) / len(which)
        pointers = set()  # the sample first, then the strongest where it leaves an interval short
        rows = (("sampled", self.interval_rows(feature, maximum, n, per)), ("top", self.stored("top", feature)))
        for kind, rows_of_kind in rows:
            which = interval_of(self.arrays[f"{kind}_value"][rows_of_kind], maximum, n)
            for row, interval in zip(rows_of_kind, which.tolist(), strict=True):
                pointer = int(self.arrays[f"{kind}_pointer"][row])
                if len(examples[interval]) < per and pointer not in pointers:
                    examples[interval].append(self.stored_example(kind, row))
                    pointers.add(pointer)
        # Shares are read off the histogram: exact up to the bin that an edge cuts, which is split evenly.
        histogram = self.histogram(feature)
        below = np.concatenate([[0], np.cumsum(histogram.counts)]) / histogram.counts.sum()
        return examples, np.diff(np.interp(edges, np.minimum(histogram.edges, maximum), below))

    def histogram(self, feature: int) -> Histogram:
        """Return a feature's histogram, up to the last bin that is not empty."""
        top = 2.0 ** int(self.arrays["range_exponent"][feature])
        used = max(int(np.ceil(float(self.arrays["max"][feature]) / top * BINS)), 1)
        counts = np.asarray(self.arrays["histogram"][feature][:used]).astype(np.int64)
        return Histogram(np.arange(used + 1) * top / BINS, counts)

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token stands for."""
        start, stop = self.arrays["vocabulary_start"][int(token) : int(token) + 2]
        return self.arrays["vocabulary"][start:stop].tobytes()

    def text(self, token: int) -> str:
        """Return a token on its own as a string."""
        return readable(self.piece(token))

    # --- computed once, when they are first asked for ---------------------------------------------------------

    @cached_property
    def peak_tokens(self) -> Integer[np.ndarray, " example"]:
        """Token on which each top example peaks."""
        return self.arrays["tokens"].reshape(-1)[self.arrays["top_pointer"]]

    @cached_property
    def documents(self) -> tuple[Integer[np.ndarray, "sequence pos"], Bool[np.ndarray, "sequence pos"]]:
        """The number of each token's document, -1 where it is no text, and whether a document or row begins there.

        An index from before documents were stored knows BOS alone: each of its rows is one document.
        """
        ids = np.asarray(self.arrays["tokens"])
        if "document_length" in self.arrays:
            number, length = (
                np.asarray(self.arrays[name], np.int64) for name in ("document_number", "document_length")
            )
            document = np.repeat(number, length).astype(np.int32).reshape(ids.shape)
        else:
            document = np.repeat(np.asarray(self.arrays["sequence_ids"])[:, None], ids.shape[1], 1).astype(np.int32)
            if self.first_shown:
                document[ids == ids[0, 0]] = -1
        first = np.ones(ids.shape, bool)
        first[:, 1:] = document[:, 1:] != document[:, :-1]
        return document, first

    @cached_property
    def search_text(self) -> SearchText:
        """The whole corpus as it is searched."""
        document, first = self.documents
        pieces = [self.piece(token) for token in range(len(self.arrays["vocabulary_start"]) - 1)]
        return search_text(np.asarray(self.arrays["tokens"]), document >= 0, first, pieces)

    @cached_property
    def active(self) -> "Active":
        """Which features are active on which tokens: on all of a full index, on a sample in a bounded one."""
        return Active(self)


class Active:
    """Which features are active on which tokens: what co-activation is counted on.

    Attributes:
        features: Active features of all tokens, one token after the other.
        start: Place of each token's first feature in it, and its end ``[token + 1]``.
        count: Number of tokens on which each feature is active ``[d_sae]``.
    """

    def __init__(self, index: Reader) -> None:
        a, self._bounded = index.arrays, index.bounded
        self.features = a["sample_features" if self._bounded else "token_feature"]
        length = a["sample_length" if self._bounded else "token_length"]
        self.start = offsets(length)
        if self._bounded:
            self.count = np.bincount(self.features, minlength=index.d_sae)
            owner = np.repeat(np.arange(len(length), dtype=np.int32), length)
            self._token, self._first = owner[np.argsort(self.features, kind="stable")], offsets(self.count)
        else:
            self.count = a["count"]
            self._place, self._token, self._first = a["token_place"], a["event_place"], a["event_start"]

    def tokens_of(self, feature: int) -> Integer[np.ndarray, " token"]:
        """Return the tokens on which a feature is active, by their order in ``start``."""
        tokens = self._token[slice(*self._first[feature : feature + 2])]
        return tokens if self._bounded else np.searchsorted(self._place, tokens)


def interval_of(value: np.ndarray | float, maximum: float, n: int) -> np.ndarray:
    """Return in which of n equal-width intervals of (0, maximum] values lie, 0 the weakest; an upper edge is inside.

    >>> interval_of(np.array([0.1, 2.0, 2.1, 10.0]), 10.0, 5).tolist()
    [0, 0, 1, 4]
    """
    inner = np.linspace(0, maximum, n + 1)[1:-1]
    return np.searchsorted(inner, np.asarray(value, np.float64), side="left")


def offsets(length: Integer[np.ndarray, " row"]) -> Integer[np.ndarray, " row1"]:
    """Return where each row of a ragged array begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(length, dtype=np.int64)])


def gather(
    values: Shaped[np.ndarray, " all"], start: Integer[np.ndarray, " row1"], rows: Integer[np.ndarray, " chosen"]
) -> Shaped[np.ndarray, " some"]:
    """Return the values of some rows of a ragged array, one row after the other."""
    length = start[rows + 1] - start[rows]
    end = np.cumsum(length)
    index = np.arange(end[-1] if len(end) else 0) - np.repeat(end - length, length) + np.repeat(start[rows], length)
    return np.asarray(values[index])
