"""The probes view: which choices matter and which are noise, one of them opened, and your own text classified."""

import csv
import io
import json
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import traitlets as t

from saekit.errors import ProbeError
from saekit.views.probes.ask import grid_and_features, indexes_by_site, saes_by_site
from saekit.views.probes.state import FIGURE_NAMES, grid_state, opened_cell
from saekit.views.probes.still import probes_html
from saekit.views.probes.work import ProbesWork

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.probes import Cell, Classified, Grid, ProbeResult, TextFeatures


class Probes(ProbesWork):
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
        self._saes = saes_by_site(model, sae, sites, extraction)
        self._indexes = indexes_by_site(model, index, self._saes, extraction, sites)
        self._grid, self._features, self._options, self._wanted = None, extraction, options, cell
        self._model = None if model is None else twin(model)
        self._fitted, self._classified = {}, None
        facts = {
            "data": grid.data_name if grid is not None else cast("TextFeatures", extraction).data.name,
            "readable": extraction is not None,
            "own_text": "live" if model is not None and extraction is not None else "off",
            "site_names": list(sites),
        }
        super().__init__(_facts=facts, figure=figure)
        if grid is not None:
            self._show_grid(grid, grid_state(grid), self._first(grid))
        elif autostart:
            self.compute()
        if text:
            self.text = text

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def grid(self) -> "Grid | None":
        """The grid; None while it is computed."""
        return self._grid

    @property
    def verdict(self) -> str | None:
        """Best cell against best baseline on the test part; None where the interval of their difference holds 0."""
        return None if self._grid is None else self._grid.verdict

    @property
    def cell(self) -> "Cell | None":
        """The selected cell or baseline of the grid."""
        number, grid = self._number(), self._grid
        return None if number is None or grid is None else (*grid.cells, *grid.baselines)[number]

    @property
    def probe(self) -> "ProbeResult | None":
        """The selected cell, fitted on all texts outside the test part; None without features."""
        number = self._number()
        if number is None or self._features is None:
            return None
        self.wait()
        with self._guard:
            return self._fit(number)[0]

    @property
    def classified(self) -> "Classified | None":
        """Your text, classified by the selected cell and taken apart; None before it is done."""
        here = (self._result.get("typed"), self._result.get("cell"))
        return self._classified if here == (self.text, self.value) else None

    def to_csv(self) -> str:
        """Return every cell and baseline as CSV: settings, the figures computed so far, the gap to the best cell."""
        out = io.StringIO()
        write = csv.writer(out, lineterminator="\n")
        ends = [f"{f}{end}" for f in self._figures for end in ("", "_low", "_high")]
        write.writerow(["kind", "name", *self._axes(), *ends, "behind_best", "behind_best_low", "behind_best_high"])
        for i, row in enumerate(self._cells):
            levels = [""] * 4
            if row["at"] is not None:
                levels = [names[k] for names, k in zip(self._axes().values(), row["at"], strict=True)]
            values = [v for found in self._figures.values() for v in found[i]]
            kind = "baseline" if row["at"] is None else "cell"
            write.writerow([kind, row["name"], *levels, *values, *row["behind"]])
        return out.getvalue()

    def _axes(self) -> dict[str, list[str]]:
        return self._facts.get("axes", {})

    # --- traits -----------------------------------------------------------------------------------------------

    @t.validate("value")
    def _check_value(self, proposal: dict) -> str | None:
        name = proposal["value"]
        if name is None:
            return None
        if self._grid is None:
            raise t.TraitError("value: there is no grid yet, so no cell of it can be selected; view.wait(None) waits")
        from saekit.probes import number_of

        try:
            number_of(self._grid, name)
        except ProbeError as error:
            raise t.TraitError(f"value: {error}") from error
        return name

    @t.validate("feature")
    def _check_feature(self, proposal: dict) -> int | None:
        feature = proposal["value"]
        if feature is None:
            return None
        widths = [] if self._features is None else [site.d_sae for site in self._features.saes.values()]
        if feature < 0 or (widths and feature >= max(widths)):
            most = f" to {max(widths) - 1}" if widths else " or more"
            raise t.TraitError(f"feature must be a whole number from 0{most}, or None, not {feature}")
        return operator.index(feature)

    @t.observe("value")
    def _on_value(self, change: Any) -> None:
        with self._guard:
            number, grid = self._number(), self._grid
            self._opened = {} if number is None or grid is None else opened_cell(number, grid)
            if number is None:
                self._result = {}
                return
            if self._features is not None:
                self._background("open", self._open)
            self._begin_text()

    @t.observe("feature")
    def _on_feature(self, _change: Any) -> None:
        with self._guard:
            if self.feature is not None and self._grid is not None and self._features is not None:
                if f"{self._site()}/{self.feature}" not in self._contexts:
                    self._background("feature", self._read_feature)

    @t.observe("figure")
    def _on_figure(self, _change: Any) -> None:
        with self._guard:
            if self._grid is not None and self.figure not in self._figures:
                self._background("figure", self._measure)

    @t.observe("text")
    def _on_text(self, _change: Any) -> None:
        with self._guard:
            self._begin_text()

    def _begin_text(self) -> None:
        """Classify what is typed, or say why not."""
        typed = bool(self.text.strip())
        refused = self._refused() if typed else ""
        with self.hold_sync():
            if self._grid is not None:  # what a search has to say stays until there is something new
                self.error = refused
            if refused or not typed:
                self._result = {}
        if typed and not refused:
            self._background("text", self._read_text)

    @t.observe("_starts")
    def _on_start(self, _change: Any) -> None:
        self.compute()

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def _settle(self) -> None:
        """Wait for fits and texts, not for a search: it may take an hour, and a cell that shows the view must not."""
        if not self._progress:
            self.wait()

    def __repr__(self) -> str:
        with self._guard:
            if self._grid is None:  # no counts: they would be others at the next execution
                return f"Probes({self._facts['data']!r}: {'computing' if self._progress else 'not computed'})"
            cells, lines = len(self._grid.cells), len(self._grid.baselines)
            return (
                f"Probes({self._facts['data']!r}: {cells} cell{'s' * (cells != 1)} beside {lines} "
                f"baseline{'s' * (lines != 1)}, selected {self.value!r})"
            )

    def _title(self) -> str:
        return f"Probes · {self._facts['data']}"

    def _state(self) -> dict[str, Any]:
        return {
            "facts": self._facts,
            "cells": self._cells,
            "figures": self._figures,
            "figure": self.figure if self.figure in self._figures else "macro_f1",
            "names": FIGURE_NAMES,
            "opened": self._opened,
            "contexts": self._contexts,
            "result": self._result,
            "site": self._site() if self._grid is not None else None,
        }

    def _static(self) -> str:
        with self._guard:
            return probes_html(self._state())

    def to_html(self) -> str:
        """Return a self-contained interactive page: every cell's confusion matrix, and what was opened so far."""
        self._settle()
        replies: dict[str, dict[str, dict]] = {}
        with self._guard:
            if self._grid is not None:
                fitted = {n: (r, p) for n, (r, p) in self._fitted.items()}
                opened = {
                    json.dumps(row["name"], ensure_ascii=False): opened_cell(i, self._grid, *fitted.get(i, ()))
                    for i, row in enumerate(self._cells)
                }
                replies = {"value": {name: {"_opened": made} for name, made in opened.items()}}
            facts = {**self._facts, "own_text": "page"}
        return self._page(replies=replies, _facts=facts, busy=False, _progress=[], _has_kernel=False)
