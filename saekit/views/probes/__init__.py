"""The probes view: which choices matter and which are noise, one of them opened, and your own text classified."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import traitlets as t

from saekit._base.checks import whole
from saekit.errors import ProbeError
from saekit.views._shared.nodes import Node, el, line
from saekit.views._shared.view import Changes, View
from saekit.views._shared.words import number
from saekit.views._shared.worker import Stopped
from saekit.views.probes import state
from saekit.views.probes.ask import grid_and_features, indexes_by_site, saes_by_site
from saekit.views.probes.heat import heat_maps
from saekit.views.probes.words import FIGURE_NAMES, HOW
from saekit.views.probes.work import Reader

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.probes import Cell, Classified, Estimate, Grid, ProbeResult, TextFeatures


class Probes(View):
    """See a grid of probes as a heat map beside its baselines, open one cell, and classify your own text with it.

    Takes a finished grid, or an extraction from which it computes the grid in the background. Fits, and texts of your
    own, run in one worker thread, on hook points of its own, so that other cells may run the model meanwhile.

    Showing the view waits up to a minute for fits that are under way, but not for a search: in a notebook that is
    stored, write ``view.wait(None)`` before the view.

    Traits (typed, checked, linkable with ``ipywidgets.link``; observe with ``names=``):
        value: Name of the selected cell or baseline, as in ``grid.cells[i].name``; None before there is a grid.
        feature: The selected feature of the cell's SAE, None for none. To link it to a `TopActivations` of the same
            SAE, name that one first: ``link((top, "value"), (view, "feature"))``.
        figure: ``"macro_f1"``, ``"auroc"`` or ``"accuracy"``: what the heat map shows, in validation. Choices and
            verdicts rest on macro F1.
        text: Your own text, at most 2000 characters of it are used.

    >>> view = Probes(grid, features, model=model, sae=sae, index=index)  # doctest: +SKIP
    >>> view.text = "You have won a prize"; view.wait()                    # doctest: +SKIP
    >>> view.verdict, view.classified.label                                # doctest: +SKIP
    """

    _name = "probes"
    value = t.Unicode(None, allow_none=True).tag(sync=True)
    feature = t.Int(None, allow_none=True).tag(sync=True)
    figure = t.Enum(tuple(FIGURE_NAMES), "macro_f1").tag(sync=True)
    text = t.Unicode("").tag(sync=True)

    _facts = t.Dict(help="the head; names of figures; whether own texts can be read").tag(sync=True)
    _said = t.List(help="panels: what the grid says in words").tag(sync=True)
    _maps = t.Dict(help="the heat map of every figure known so far").tag(sync=True)
    _card = t.Dict(help="the selected cell: its name, its site, its panel").tag(sync=True)
    _contexts = t.Dict(help='the panel of every feature read so far, by "site/feature"').tag(sync=True)
    _outcome = t.Dict(help="the classified text: by which cell, its class, in words, its panel").tag(sync=True)
    _csv = t.Unicode("", help="what `to_csv` returns").tag(sync=True)
    _progress = t.List(help="[cells done, cells]; [] if no search is under way").tag(sync=True)
    _starts = t.Int(0, help="counts presses of Compute").tag(sync=True)

    def __init__(
        self,
        features_or_grid: "TextFeatures | Grid",
        features: "TextFeatures | None" = None,
        *,
        model: "SAETransformerBridge | None" = None,
        sae: "SAE[Any] | Sequence[SAE[Any]] | Mapping[str, SAE[Any]] | None" = None,
        index: "FeatureIndex | Sequence[FeatureIndex] | None" = None,
        cell: str | None = None,
        figure: str = "macro_f1",
        text: str = "",
        autostart: bool = True,
        **options: Any,
    ) -> None:
        """Show a grid, or compute it first.

        Args:
            features_or_grid: What `saekit.probes.search` returned, or an extraction to search.
            features: The extraction that a finished grid was made from: a cell then shows its features.
            model: With ``sae``, brings the box for your own text to life; spells contexts.
            sae: The SAE, or all of the extraction, in the form in which `saekit.probes.extract_features` took them.
            index: Feature indexes of some of the SAEs: features then show their contexts there, else those in the
                labelled texts.
            cell: Name of the cell that is selected at first; by default the best in validation.
            figure: See the trait.
            text: A first text.
            autostart: Begin the search at once; otherwise its button, or `compute`, does.
            **options: Of the search, as in `saekit.probes.search`: ``poolings=``, ``baselines=``, ``seed=`` and others.

        Raises:
            ProbeError: The parts do not belong together, or there is no such cell, setting or option.
            SAEError: An SAE does not fit the model.
            TraitError: No such figure.
        """
        from saekit.models import twin

        grid, extraction, sites = grid_and_features(features_or_grid, features, options)
        made_with = {k: v for one in (grid, extraction) if one is not None for k, v in one.made_with.items()}
        saes = saes_by_site(model, sae, sites, extraction, made_with)
        indexes = indexes_by_site(model, index, saes, extraction, sites)
        self._reader: Reader | None = None  # once there is a grid
        own = twin(model) if model is not None else None
        self._reader_of = partial(Reader, features=extraction, model=own, saes=saes, indexes=indexes)
        self._features, self._options, self._wanted = extraction, options, cell
        self._figures: Mapping[str, Sequence[Estimate]] = {}
        self._found: dict[str, dict[str, Any]] = {}  # contexts, by "site/feature"
        self._classified: dict[tuple[str, str | None], Classified] = {}  # the last one, by text and cell
        self._data = cast("TextFeatures", extraction).data.name if grid is None else grid.data_name
        facts = {
            "head": state.head(self._data),
            "nothing": state.nothing(),
            "figures": list(FIGURE_NAMES.items()),
            "own_text": "live" if model is not None and extraction is not None else "off",
        }
        super().__init__(_facts=facts, figure=figure)
        if grid is not None:
            first = self._first(grid)
            for name, made in self._shown(grid).items():
                setattr(self, name, made)
            self.value = first
        elif autostart:
            self.compute()
        if text:
            self.text = text

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def grid(self) -> "Grid | None":
        """The grid; None while it is computed."""
        return None if self._reader is None else self._reader.grid

    @property
    def verdict(self) -> str | None:
        """Best cell against best baseline on the test part; None where the interval of their difference holds 0."""
        return None if self.grid is None else self.grid.verdict

    @property
    def cell(self) -> "Cell | None":
        """The selected cell or baseline of the grid."""
        selected = self._number()
        return None if selected is None or self.grid is None else self.grid.lines[selected]

    @property
    def probe(self) -> "ProbeResult | None":
        """The selected cell, fitted on all texts outside the test part; None without features."""
        selected = self._number()
        if selected is None or self._reader is None or self._features is None:
            return None
        self.wait()
        with self._guard:
            return self._reader.fit(selected).result

    @property
    def classified(self) -> "Classified | None":
        """Your text, classified by the selected cell and taken apart; None before it is done."""
        return self._classified.get((self.text, self.value))

    def to_csv(self) -> str:
        """Return every cell and baseline as CSV: settings, the figures computed so far, the gap to the best cell."""
        return self._csv

    # --- traits -----------------------------------------------------------------------------------------------

    @t.validate("value")
    def _check_value(self, proposal: dict) -> str | None:
        from saekit.probes import number_of

        name = proposal["value"]
        if name is None:
            return None
        if self.grid is None:
            raise t.TraitError("value: there is no grid yet, so no cell of it can be selected; view.wait(None) waits")
        try:
            number_of(self.grid, name)
        except ProbeError as error:
            raise t.TraitError(f"value: {error}") from error
        return name

    @t.validate("feature")
    def _check_feature(self, proposal: dict) -> int | None:
        if proposal["value"] is None:
            return None
        widths = [] if self._features is None else [sae.d_sae for sae in self._features.saes.values()]
        most = max(widths) - 1 if widths else None
        return whole("feature", proposal["value"], at_least=0, at_most=most, error=t.TraitError)

    @t.observe("value")
    def _on_value(self, _change: Any) -> None:
        with self._guard:
            if (selected := self._number()) is None:
                self._card, self._outcome = {}, {}
                return
            self._card = self._card_of(selected)
            if self._features is not None:
                self._background("open", self._open)
            self._begin_text()

    @t.observe("feature")
    def _on_feature(self, _change: Any) -> None:
        with self._guard:
            if self.feature is not None and self._card.get("unread"):
                self._background("feature", self._read_feature)

    @t.observe("figure", "_maps")
    def _on_figure(self, _change: Any) -> None:
        with self._guard:
            if self.grid is not None and self.figure not in self._figures:
                self._background("figure", self._measure)

    @t.observe("text")
    def _begin_text(self, _change: Any = None) -> None:
        """Classify what is typed, or say why not."""
        with self._guard:
            typed = bool(self.text.strip())
            refused = self._refused() if typed else ""
            with self.hold_sync():
                if self.grid is not None:  # what a search has to say stays until there is something new
                    self.error = refused
                if refused or not typed:
                    self._outcome = {}
            if typed and not refused:
                self._background("text", self._read_text)

    @t.observe("_starts")
    def _on_start(self, _change: Any) -> None:
        self.compute()

    # --- what is computed -------------------------------------------------------------------------------------

    def compute(self) -> None:
        """Search the grid in the background, if there is none yet; see `wait` and `stop`."""
        with self._guard:
            if self.grid is None and not self._progress:
                self.error, self._progress = "", [0, 0]
                self._background("grid", self._search)

    def stop(self) -> None:
        """End what is under way, without a result. The Stop button calls this."""
        with self._guard:
            super().stop()
            self._progress = []

    def _search(self, stopped: Stopped) -> Changes:
        from saekit.probes import grid

        def report(done: int, total: int | None) -> None:
            self._publish(stopped, _progress=[done, total])

        try:
            found = grid(cast("TextFeatures", self._features), **self._options, progress=report, stop=stopped)
            shown = self._shown(found)
        except Exception:
            self._publish(stopped, _progress=[])
            raise
        wrong, first = {}, found.best_cell.name
        try:
            first = self._first(found)
        except ProbeError as error:  # the search was long: what it found is shown all the same
            wrong = {"error": str(error)}
        yield {**shown, "_progress": [], "value": first, **wrong}

    def _first(self, grid: "Grid") -> str:
        """Return the cell that is selected at first: the one that was asked for, else the best."""
        from saekit.probes import number_of

        return grid.lines[number_of(grid, self._wanted or grid.best_cell.name)].name

    def _measure(self, stopped: Stopped) -> Changes:
        """Compute the figure that takes a moment: AUROC."""
        from saekit.probes import cell_figures

        if self.grid is not None and self.figure not in self._figures:
            yield self._drawn(self.grid, {**self._figures, self.figure: cell_figures(self.grid, self.figure)})
            yield self._card_again()

    def _open(self, stopped: Stopped) -> Changes:
        """Fit the selected cell and show what it weighs, with a context of each of its features."""
        selected = self._number()
        if selected is None or self._reader is None:
            return
        listed = [weight.column for rows in self._reader.fit(selected).features.values() for weight in rows]
        yield self._with_contexts(selected, [*listed, *([] if self.feature is None else [self.feature])], stopped)
        yield self._card_again()

    def _read_feature(self, stopped: Stopped) -> Changes:
        selected = self._number()
        if selected is not None and self.feature is not None:
            yield self._with_contexts(selected, [self.feature], stopped)

    def _read_text(self, stopped: Stopped) -> Changes:
        """Classify the text with the selected cell, and lay its score on the tokens."""
        with self._guard:
            text, name, selected = self.text, self.value, self._number()
        if self._reader is None or selected is None or not text.strip() or self._refused():
            return
        found, told = self._reader.read(text, selected)
        parts = self._reader.fit(selected), found

        def shown() -> dict[str, Any]:
            return {"cell": name, **state.outcome(*parts, self._found)}

        yield {"_classified": {(text, name): found}, "_outcome": shown(), "error": told}
        yield self._with_contexts(selected, [feature for feature, *_ in found.features[: state.STRONGEST]], stopped)
        yield {"_outcome": shown()}

    def _refused(self) -> str:
        """Say why the text cannot be classified, or ``""``."""
        if self._facts["own_text"] == "off":
            return f"Your own text needs the features, the model and its SAE: {HOW}"
        if self._reader is None:
            return "There is no grid yet: the text is classified once it is computed."
        return self._reader.refused(self._number())

    def _with_contexts(self, selected: int, features: Sequence[int], stopped: Stopped) -> dict[str, Any]:
        """Return the traits that hold contexts, with those of more features of a cell."""
        assert self._reader is not None
        found = self._reader.contexts(selected, features, self._found, stopped)
        return {"_found": found, "_contexts": {key: state.contexts_panel(one) for key, one in found.items()}}

    # --- what is shown ----------------------------------------------------------------------------------------

    def _number(self) -> int | None:
        """Return the number of the selected cell or baseline."""
        names = [] if self.grid is None else [line.name for line in self.grid.lines]
        return names.index(self.value) if self.value in names else None

    def _shown(self, grid: "Grid") -> dict[str, Any]:
        """Return the traits of a grid, with the figures that cost little; a second's work."""
        from saekit.probes import cell_figures

        figures = {figure: cell_figures(grid, figure) for figure in ("macro_f1", "accuracy")}
        return {"_reader": self._reader_of(grid), "_said": [state.said(grid)], **self._drawn(grid, figures)}

    def _drawn(self, grid: "Grid", figures: "Mapping[str, Sequence[Estimate]]") -> dict[str, Any]:
        maps = {name: heat_maps(grid, name, found) for name, found in figures.items()}
        return {"_figures": figures, "_maps": maps, "_csv": csv_of(grid, figures)}

    def _card_of(self, number: int, *, waits: bool = True) -> dict[str, Any]:
        """Return a cell as it is shown; ``waits`` says whether its weights will be read, if they are not yet."""
        assert self._reader is not None
        grid, site, fit = self._reader.grid, self._reader.site(number), self._reader.fitted(number)
        unread = None
        if site is not None and self._features is not None:
            unread = state.no_contexts(self._reader.reads_contexts(site))
        weights = state.no_weights(self._features is not None) if fit is None else state.weights(fit, self._found)
        panel = state.card(grid, number, self._figures, weights if waits or fit is not None else [])
        return {"name": grid.lines[number].name, "site": site, "unread": unread, "panel": panel}

    def _card_again(self) -> dict[str, Any]:
        """Return the trait of the selected cell, with what is known by now."""
        number = self._number()
        return {} if number is None else {"_card": self._card_of(number)}

    def _settle(self) -> None:
        """Wait for fits and texts, not for a search: it may take an hour, and a cell that shows the view must not."""
        if not self._progress:
            self.wait()

    def __repr__(self) -> str:
        with self._guard:
            if self.grid is None:  # no counts: they would be others at the next execution
                return f"Probes({self._data!r}: {'computing' if self._progress else 'not computed'})"
            cells, lines = len(self.grid.cells), len(self.grid.baselines)
            return (
                f"Probes({self._data!r}: {cells} cell{'s' * (cells != 1)} beside {lines} "
                f"baseline{'s' * (lines != 1)}, selected {self.value!r})"
            )

    def _title(self) -> str:
        return f"Probes · {self._data}"

    def state(self) -> dict[str, Node]:
        """Return what the view shows as plain data, panel by panel; see `saekit.views._shared.nodes`."""
        with self._guard:
            head = {"head": self._facts["head"]}
            error = {"error": line(el("b", {}, self.error))} if self.error else {}
            if self.grid is None:
                return {**head, **error, "nothing": self._facts["nothing"]}
            figure = self.figure if self.figure in self._figures else "macro_f1"
            panels = {**head, **error, "said": self._said[0]}
            panels["maps"] = heat_maps(self.grid, figure, self._figures[figure], self._number())
            if self._card:
                panels["cell"] = self._card["panel"]
            if self.feature is not None and self._card.get("unread"):
                contexts = self._contexts.get(f"{self._card['site']}/{self.feature}", self._card["unread"])
                panels["feature"] = el("div", {}, el("h4", {}, f"Feature {self.feature}"), contexts)
            if self._outcome:
                panels["text"] = el("div", {}, line(self._outcome["said"], look="strong"), self._outcome["panel"])
            return panels

    def to_html(self) -> str:
        """Return a self-contained interactive page: every cell's confusion matrix, and what was opened so far."""
        self._settle()
        with self._guard:
            cells = [] if self.grid is None else [self._card_of(i, waits=False) for i in range(len(self.grid.lines))]
            replies = {json.dumps(cell["name"], ensure_ascii=False): {"_card": cell} for cell in cells}
            facts = {**self._facts, "own_text": "page"}
        return self._page(replies={"value": replies}, _facts=facts, _progress=[])


def csv_of(grid: "Grid", figures: "Mapping[str, Sequence[Estimate]]") -> str:
    """Return every cell and baseline of a grid as CSV; see `Probes.to_csv`."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    ends = [f"{figure}{end}" for figure in figures for end in ("", "_low", "_high")]
    write.writerow(["kind", "name", *grid.axes, *ends, "behind_best", "behind_best_low", "behind_best_high"])
    for i, cell in enumerate(grid.lines):
        baseline = i >= len(grid.cells)
        levels = ["" if baseline else str(cell.setting[axis]) for axis in grid.axes]
        found = [*(known[i] for known in figures.values()), grid.behind_best(i)]
        values = [number(value) for one in found for value in (one.value, one.low, one.high)]
        write.writerow(["baseline" if baseline else "cell", cell.name, *levels, *values])
    return out.getvalue()
