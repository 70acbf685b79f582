"""The slow work of the probes view: fits, contexts and texts of one grid. It knows no widget."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saekit.errors import Stopped
from saekit.views.probes.state import STRONGEST, feature_contexts

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.probes import Classified, Grid, ProbeResult, TextFeatures, Weight

LONGEST_CHARACTERS = 2_000  # of a text; more is a data set
KEPT = 16  # cells that stay fitted


@dataclass(frozen=True)
class Fit:
    """One cell or baseline, fitted on all texts outside the test part.

    Attributes:
        result: The fitted probe.
        part: The texts that it was fitted on.
        features: Its strongest features by class; {} of a baseline, and of a tree that never splits.
        words: Its strongest words by class; {} of what reads no words.
    """

    result: "ProbeResult"
    part: "TextFeatures"
    features: "Mapping[str, tuple[Weight, ...]]"
    words: Mapping[str, tuple[tuple[str, float], ...]]


class Reader:
    """Fits cells of a grid, reads contexts of their features, and classifies texts, on hook points of its own."""

    def __init__(
        self,
        grid: "Grid",
        *,
        features: "TextFeatures | None",
        model: "SAETransformerBridge | None",
        saes: "Mapping[str, SAE[Any]]",
        indexes: "Mapping[str, FeatureIndex]",
    ) -> None:
        """Get ready; that the parts belong together is checked in `saekit.views.probes.ask`."""
        self.grid = grid
        self._features, self._model, self._saes, self._indexes = features, model, saes, indexes
        self._fitted: dict[int, Fit] = {}
        self._pieces: list[bytes] | None = None

    def site(self, number: int | None) -> str | None:
        """Return the site of a cell; None for a baseline."""
        is_cell = number is not None and number < len(self.grid.cells)
        return self.grid.cells[number].setting["sae"] if is_cell else None

    def fit(self, number: int) -> Fit:
        """Return a cell or baseline by its number, fitted; the last of them are kept."""
        from saekit.probes import fit_cell, top_features, top_words, training_part

        if number not in self._fitted:
            assert self._features is not None
            part = training_part(self.grid, self._features, number)
            result = fit_cell(self.grid, part, number)
            fitted = result.fitted
            reads_features = fitted is not None and "pooling" in result.setting
            reads_words = fitted is not None and fitted.weights is not None and result.columns and not reads_features
            features = top_features(result, part, k=STRONGEST) if reads_features else {}
            words = top_words(result, k=STRONGEST) if reads_words else {}
            while len(self._fitted) >= KEPT:
                self._fitted.pop(next(iter(self._fitted)))
            self._fitted[number] = Fit(result, part, features, words)
        return self._fitted[number]

    def fitted(self, number: int) -> Fit | None:
        """Return a cell that is fitted already."""
        return self._fitted.get(number)

    def reads_contexts(self, site: str | None) -> bool:
        """Whether contexts of a site's features can be read: words need an index, or a model that can spell."""
        return site is not None and (site in self._indexes or self._model is not None)

    def contexts(
        self, number: int, features: Iterable[int], known: Mapping[str, Any], stop: Callable[[], bool]
    ) -> dict[str, dict[str, Any]]:
        """Return contexts of features of a cell's SAE by ``"site/feature"``, those that are known and new ones."""
        site, fit, found = self.site(number), self.fit(number), dict(known)
        if site is None or not self.reads_contexts(site):
            return found
        for feature in dict.fromkeys(features):
            if stop():
                raise Stopped
            if (key := f"{site}/{feature}") not in found and feature < fit.part.sae(site).d_sae:
                found[key] = feature_contexts(feature, self._indexes.get(site), fit.part, site, self._model)
        return found

    def refused(self, number: int | None) -> str:
        """Say why a text cannot be classified by this cell or baseline, or ``""``."""
        if (site := self.site(number)) is None:
            return "A baseline reads no features: choose a cell of the heat map to classify your own text."
        if site not in self._saes:
            return f"Your own text needs the SAE of {site}; given were those of {', '.join(self._saes)}"
        return ""

    def read(self, text: str, number: int) -> "tuple[Classified, str]":
        """Return a text, classified by a cell, its score laid on the tokens; and what was cut of it, or ``""``."""
        from saekit.models import token_bytes
        from saekit.probes import classify

        site, fit = self.site(number), self.fit(number)
        assert site is not None and self._model is not None
        self._pieces = self._pieces or token_bytes(self._model)
        used = text[:LONGEST_CHARACTERS]
        found = classify(self._model, self._saes[site], fit.result, used, pieces=self._pieces)
        if found.truncated:
            return found, (
                f"The text is longer than what the probe was trained on, {fit.part.context_size:,} tokens: only its "
                f"first {len(found.tokens):,} are used."
            )
        cut = f"The text has {len(text):,} characters: only the first {LONGEST_CHARACTERS:,} are used."
        return found, cut if len(used) < len(text) else ""
