"""What a feature index answers with: small frozen objects that print and render."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int


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
        text = "".join(f"«{self.tokens[i]}»" if i == self.peak else self.tokens[i] for i in near)
        return f"{self.value:7.2f}  {text!r}" + (f"  (+{self.duplicates} alike)" if self.duplicates else "")


@dataclass(frozen=True)
class Examples(Sequence):
    """Examples of one feature, strongest first; empty for a dead one, which says so."""

    feature: int
    items: tuple[Example, ...]
    n_tokens: int
    dead: bool = False

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item):
        return self.items[item]

    def __repr__(self) -> str:
        if self.dead:
            return f"feature {self.feature} is dead: active on none of {self.n_tokens:,} tokens"
        return "\n".join([f"feature {self.feature}, {len(self)} examples", *map(repr, self.items)])

    def _repr_html_(self) -> str:
        if not self.items:
            return f"<p>{html.escape(repr(self))}</p>"
        scale = max(e.value for e in self.items)
        rows = "".join(f"<tr><td>{e.value:.2f}</td><td>{_strip(e, scale)}</td></tr>" for e in self.items)
        return (
            f"<table><caption>feature {self.feature}; shade = activation / {scale:.3g}</caption>"
            f"<thead><tr><th>peak</th><th>context</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def _strip(example: Example, scale: float) -> str:
    spans = (
        f'<span style="background:hsl(205 88% 48% / {0.75 * float(a) / scale:.2f})">{html.escape(t)}</span>'
        for t, a in zip(example.tokens, example.activations, strict=True)
    )
    return f'<code style="white-space:pre-wrap">{"".join(spans)}</code>'


@dataclass(frozen=True)
class Interval:
    """One equal-width interval ``(low, high]`` of a feature's activation, with examples sampled from it.

    ``share`` is the share of the feature's active tokens that lie in it.
    """

    low: float
    high: float
    share: float
    examples: Examples


@dataclass(frozen=True)
class Histogram:
    """How often a feature is active how strongly: ``counts[i]`` tokens in ``(edges[i], edges[i + 1]]``."""

    edges: Float[np.ndarray, " edges"]
    counts: Int[np.ndarray, " bins"]


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

    Logits a unit of activation, through the final norm with its scale frozen at 1, less their mean over the
    vocabulary (softmax ignores it).
    """

    promoted: list[tuple[int, str, float]]
    suppressed: list[tuple[int, str, float]]

    def __repr__(self) -> str:
        line = lambda items: ", ".join(f"{text!r} {value:+.2f}" for _, text, value in items)  # noqa: E731
        return f"promoted:   {line(self.promoted)}\nsuppressed: {line(self.suppressed)}"


@dataclass(frozen=True)
class PromptActivations:
    """One feature on every token of a text of your own.

    ``excluded`` marks tokens that the index's statistics leave out (BOS, special, massive norm): their activations
    are shown and mean little. ``truncated``: the text was longer than the model's context.
    """

    tokens: list[str]
    values: Float[np.ndarray, " pos"]
    excluded: np.ndarray
    truncated: bool = False


@dataclass(frozen=True)
class PromptFeatures:
    """The strongest features at every token of a text: ``features`` and ``values`` are ``[pos, k]``."""

    tokens: list[str]
    features: np.ndarray
    values: Float[np.ndarray, "pos k"]
    excluded: np.ndarray
    truncated: bool = field(default=False)


@dataclass(frozen=True)
class PromptReading:
    """All features at every token of a text of your own, from one pass of the model and the SAE.

    ``excluded`` marks tokens that the index's statistics leave out (BOS, special, massive norm): their activations
    are shown and mean little. ``truncated``: the text was longer than the model's context.
    """

    tokens: list[str]
    features: Float[np.ndarray, "pos d_sae"]
    excluded: np.ndarray
    truncated: bool = False

    def activations(self, feature: int) -> PromptActivations:
        """Return one feature on every token."""
        return PromptActivations(self.tokens, self.features[:, feature], self.excluded, self.truncated)

    def strongest(self, k: int = 10) -> PromptFeatures:
        """Return the k strongest features at every token; of equals the lower number first."""
        k = min(k, self.features.shape[1])
        part = np.argpartition(-self.features, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(self.features, part, 1)
        order = np.lexsort((part, -values), axis=1)
        best, values = np.take_along_axis(part, order, 1), np.take_along_axis(values, order, 1)
        return PromptFeatures(self.tokens, best, values, self.excluded, self.truncated)
