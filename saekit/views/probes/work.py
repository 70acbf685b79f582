"""The slow part of the probes view: the search, opening a cell, classifying a text, in the view's worker thread."""

from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit.errors import ProbeError
from saekit.views._shared.view import View
from saekit.views._shared.worker import Stopped
from saekit.views.probes.ask import HOW
from saekit.views.probes.state import bounds, classified_row, feature_contexts, grid_state, opened_cell

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.probes import Classified, Grid, ProbeResult, TextFeatures

FIGURES = ("macro_f1", "auroc", "accuracy")
LONGEST_CHARACTERS = 2_000  # of a text; more is a data set
KEPT = 16  # cells that stay fitted


class _Interrupted(Exception):
    """Nobody wants the grid any more."""


class ProbesWork(View):
    """What `saekit.views.probes.Probes` computes, and the traits in which the results travel."""

    value = t.Unicode(None, allow_none=True).tag(sync=True)
    feature = t.Int(None, allow_none=True).tag(sync=True)
    figure = t.Enum(FIGURES, "macro_f1").tag(sync=True)
    text = t.Unicode("").tag(sync=True)

    _facts = t.Dict().tag(sync=True)
    _cells = t.List(help="cells, then baselines").tag(sync=True)
    _figures = t.Dict(help='{"macro_f1": [[value, low, high] of every cell and baseline], ...}').tag(sync=True)
    _opened = t.Dict(help="the selected cell").tag(sync=True)
    _contexts = t.Dict(help='{"site/feature": {source, dead, rows}}').tag(sync=True)
    _result = t.Dict(help="the classified text").tag(sync=True)
    _progress = t.List(help="[cells done, cells]; [] if none is under way").tag(sync=True)
    _starts = t.Int(0, help="counts presses of Compute").tag(sync=True)
    _has_kernel = t.Bool(True).tag(sync=True)

    _grid: "Grid | None"
    _features: "TextFeatures | None"
    _model: "SAETransformerBridge | None"
    _saes: "dict[str, SAE[Any]]"
    _indexes: "dict[str, FeatureIndex]"
    _options: dict[str, Any]
    _wanted: str | None  # the cell to begin with
    _fitted: "dict[int, tuple[ProbeResult, TextFeatures]]"
    _classified: "Classified | None"
    _pieces: list[bytes] | None = None

    def compute(self) -> None:
        """Search the grid in the background, if there is none yet; see `wait` and `stop`."""
        with self._guard:
            if self._grid is None and not self._progress:
                self.error, self._progress = "", [0, 0]
                self._background("grid", self._search)

    def stop(self) -> None:
        """End what is under way, without a result. The Stop button calls this."""
        with self._guard:
            super().stop()
            self._progress = []

    # --- the grid ---------------------------------------------------------------------------------------------

    def _search(self, stopped: Stopped) -> None:
        from saekit.probes import grid

        def report(done: int, total: int | None) -> None:
            if not self._publish(stopped, _progress=[done, total]):
                raise _Interrupted

        assert self._features is not None
        try:
            found = grid(self._features, **self._options, progress=report)
        except _Interrupted:
            return
        except Exception:
            self._publish(stopped, _progress=[])
            raise
        state = grid_state(found)
        with self._guard:
            if stopped():
                return
            first, wrong = found.best_cell.name, ""
            try:
                first = self._first(found)
            except ProbeError as error:  # the search was long: what it found is shown all the same
                wrong = str(error)
            self._show_grid(found, state, first)
            self.error = self.error or wrong

    def _first(self, grid: "Grid") -> str:
        """Return the cell that is selected at first: the one that was asked for, else the best."""
        from saekit.probes import number_of

        name = self._wanted or grid.best_cell.name
        number_of(grid, name)
        return name

    def _show_grid(self, grid: "Grid", state: dict[str, Any], first: str) -> None:
        """Send the grid, and select a cell."""
        self._grid = grid
        with self.hold_sync():
            self._facts = {**self._facts, **state["facts"]}
            self._cells, self._figures, self._progress = state["cells"], state["figures"], []
            self.value = first
        if self.figure not in self._figures:
            self._background("figure", self._measure)

    def _measure(self, stopped: Stopped) -> None:
        """Compute the figure that takes a moment: AUROC."""
        from saekit.probes import cell_figures

        if self._grid is not None and "auroc" not in self._figures:
            found = [bounds(i) for i in cell_figures(self._grid, "auroc")]
            self._publish(stopped, _figures={**self._figures, "auroc": found})

    # --- one cell ---------------------------------------------------------------------------------------------

    def _number(self) -> int | None:
        """Return the number of the selected cell or baseline."""
        return next((i for i, row in enumerate(self._cells) if row["name"] == self.value), None)

    def _site(self) -> str | None:
        """Return the site of the selected cell; None for a baseline."""
        number, grid = self._number(), self._grid
        if number is None or grid is None or number >= len(grid.cells):
            return None
        return grid.cells[number].setting["sae"]

    def _fit(self, number: int) -> "tuple[ProbeResult, TextFeatures]":
        from saekit.probes import fit_cell, training_part

        assert self._grid is not None and self._features is not None
        if number not in self._fitted:
            part = training_part(self._grid, self._features, number)
            while len(self._fitted) >= KEPT:
                self._fitted.pop(next(iter(self._fitted)))
            self._fitted[number] = fit_cell(self._grid, part, number), part
        return self._fitted[number]

    def _open(self, stopped: Stopped) -> None:
        """Fit the selected cell and show what it weighs, with a context of each of its features."""
        with self._guard:
            number, site = self._number(), self._site()
        if number is None or self._grid is None or self._features is None:
            return
        result, part = self._fit(number)
        opened = opened_cell(number, self._grid, result, part)
        listed = [row[0] for rows in opened["features"] or [] for row in rows]
        known = dict(self._contexts)
        for feature in dict.fromkeys([*listed, *([] if self.feature is None else [self.feature])]):
            if stopped():
                return
            self._add_contexts(known, site, feature, part)
        self._publish(stopped, _opened=opened, _contexts=known)

    def _add_contexts(self, known: dict[str, dict], site: str | None, feature: int, part: "TextFeatures") -> None:
        """Read where a feature fires, unless that is known; words need an index, or a model that can spell."""
        key = f"{site}/{feature}"
        index = self._indexes.get(site or "")
        readable = site is not None and (index is not None or self._model is not None)
        if key in known or not readable or feature >= part.sae(site).d_sae:
            return
        known[key] = feature_contexts(feature, index, part, site, self._model)

    def _read_feature(self, stopped: Stopped) -> None:
        with self._guard:
            number, site, feature = self._number(), self._site(), self.feature
        if number is None or site is None or feature is None:
            return
        known = dict(self._contexts)
        self._add_contexts(known, site, feature, self._fit(number)[1])
        self._publish(stopped, _contexts=known)

    # --- a text -----------------------------------------------------------------------------------------------

    def _refused(self) -> str:
        """Say why the text cannot be classified, or ``""``."""
        if self._model is None or self._features is None:
            return f"Your own text needs the features, the model and its SAE: {HOW}"
        if self._grid is None:
            return "There is no grid yet: the text is classified once it is computed."
        if (site := self._site()) is None:
            return "A baseline reads no features: choose a cell of the heat map to classify your own text."
        if site not in self._saes:
            return f"Your own text needs the SAE of {site}; given were those of {', '.join(self._saes)}"
        return ""

    def _read_text(self, stopped: Stopped) -> None:
        """Classify the text with the selected cell, and lay its score on the tokens."""
        from saekit.models import token_bytes
        from saekit.probes import classify

        with self._guard:
            text, name, number, site = self.text, self.value, self._number(), self._site()
            if not text.strip() or self._refused():
                return
        assert name is not None and number is not None and site is not None and self._model is not None
        used = text[:LONGEST_CHARACTERS]
        result, part = self._fit(number)
        if self._pieces is None:
            self._pieces = token_bytes(self._model)
        found = classify(self._model, self._saes[site], result, used, pieces=self._pieces)
        told = ""
        if found.truncated:
            told = (
                f"The text is longer than what the probe was trained on, {part.context_size:,} tokens: only its first "
                f"{len(found.tokens):,} are used."
            )
        elif len(used) < len(text):
            told = f"The text has {len(text):,} characters: only the first {LONGEST_CHARACTERS:,} are used."
        row = classified_row(found, result, name, told)
        with self._guard:
            if stopped():
                return
            self._classified = found
            self._publish(stopped, _result={**row, "typed": text}, error=told)
        known = dict(self._contexts)
        for feature, *_ in row["features"]:
            if stopped():
                return
            self._add_contexts(known, site, feature, part)
        if known != self._contexts:
            self._publish(stopped, _contexts=known)
