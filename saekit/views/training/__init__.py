"""The training view: one or several SAEs learn in a worker thread, and their curves grow in the notebook."""

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets as t

from saekit.errors import SAEError
from saekit.views._shared.nodes import Node, el
from saekit.views._shared.view import View
from saekit.views._shared.words import rough
from saekit.views._shared.worker import Stopped
from saekit.views.training.runs import Run, Trainer, checked_runs, in_short
from saekit.views.training.state import density, legend, panels, progress
from saekit.views.training.work import Course

if TYPE_CHECKING:
    from jaxtyping import Float
    from sae_lens import SAE
    from torch import Tensor

    from saekit.training import Activations, ActivationStream, TrainingStep

EVERY_SECONDS = 0.3  # between two messages to the browser, which has to draw them on the same processor

RESCALED = 4  # runs up to which an exported page holds the curves of every choice of them on axes of their own


class Training(View):
    """Train SAEs and watch loss, FVU, L0, dead share and feature density live. The kernel stays free meanwhile.

    The runs learn one after another in one worker thread: two at once would slow each other down.

    * Start, or `start`, trains the runs that were not trained yet.
    * Stop, or `stop`, ends the run under way at its next report and keeps what it has learnt; runs behind it stay as
      they are, and Start goes on with them.
    * Once no run is left, Train again trains those that were stopped or failed anew: from the beginning, or, with
      the option ``checkpoint=``, from where they were. A run that is done is trained again only when it is named:
      ``view.start("TopK")``.
    * A run that fails says why in `error`, and the others go on.
    * Closing the view stops training.

    Traits (typed, checked, linkable with ``ipywidgets.link``; observe with ``names=``):
        value: The name of the selected run, whose feature densities are shown.
        hidden: Names of the runs whose curves are switched off.

    >>> l1 = dict(architecture="standard", sparsity_coefficient=2.0)
    >>> view = Training(activations, {"TopK": dict(k=46), "L1": l1}, d_sae=1152, epochs=1, seed=0)   # doctest: +SKIP
    >>> view.start(); view.wait(None)                   # doctest: +SKIP
    >>> view.saes["TopK"], view.history["TopK"][-1]     # doctest: +SKIP
    """

    _name = "training"
    value = t.Unicode().tag(sync=True)
    hidden = t.List(t.Unicode()).tag(sync=True)

    _about = t.Dict(help="names of the runs, and what does not change: the legend").tag(sync=True)
    _panels = t.Dict(help="what is shown, panel by panel").tag(sync=True)
    _densities = t.Dict(help="the feature densities of every run, by its name").tag(sync=True)
    _progress = t.Dict(help="how training is getting on, in words").tag(sync=True)
    _starts = t.Int(0, help="counts presses of Start").tag(sync=True)
    _stopping = t.Bool(False).tag(sync=True)

    def __init__(
        self,
        activations: "Activations | ActivationStream | Float[Tensor, 'sample d_in'] | Float[np.ndarray, 'sample d_in']",
        runs: Mapping[str, Mapping[str, Any]] | Iterable[tuple[str, Mapping[str, Any]]],
        *,
        autostart: bool = False,
        train: Trainer | None = None,
        **options: Any,
    ) -> None:
        """Get ready to train ``runs`` on ``activations``.

        Args:
            activations: From `harvest` or `stream_activations`, or any tensor ``[sample, d_in]``.
            runs: ``{name: fields of TrainConfig}``, in the order of training.
            autostart: Begin at once instead of waiting for Start.
            train: Your own trainer instead of `train_sae`; called ``train(activations, **options, on_step=...)``, it
                gives `TrainingStep` records to ``on_step`` and must let a KeyboardInterrupt from it end training.
            options: Options for all runs; a run's own win.

        Raises:
            SAEError: No run, a blank or repeated name, an option that the trainer does not have, or lacks.
        """
        if train is None:
            from saekit.training import train_sae as train
        self._work = Course(checked_runs(runs, options, train), train, activations)
        self._common, self._sent_at = in_short(options), 0.0
        names = [run.name for run in self._work.runs]
        super().__init__(value=names[0], _about={"names": names, "legend": legend(self._work.runs)})
        self._show_all()
        if autostart:
            self.start()

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def saes(self) -> dict[str, "SAE"]:
        """The trained SAEs by run; after Stop, what the stopped run had learnt."""
        return {run.name: run.sae for run in self._work.runs if run.sae is not None}

    @property
    def history(self) -> dict[str, tuple["TrainingStep", ...]]:
        """All records of each run; only its last one holds the densities, the others an empty tensor."""
        return {run.name: tuple(run.history) for run in self._work.runs}

    # --- traits -----------------------------------------------------------------------------------------------

    @t.validate("value")
    def _check_value(self, proposal: dict) -> str:
        return self._known(proposal["value"])

    @t.validate("hidden")
    def _check_hidden(self, proposal: dict) -> list[str]:
        return [self._known(name) for name in dict.fromkeys(proposal["value"])]

    def _known(self, name: str) -> str:
        names = [run.name for run in self._work.runs]
        if name not in names:
            raise t.TraitError(f"there is no run {name!r}: the runs are {', '.join(map(repr, names))}")
        return name

    # --- training ---------------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Train in the background and return at once; while training is under way, do nothing.

        Args:
            names: Runs to train, anew if need be. By default those that were not trained yet or, if there are none,
                those that were stopped or failed.

        Raises:
            SAEError: There is no run of that name.
        """
        with self._guard:
            known = {run.name: run for run in self._work.runs}
            for name in names:
                if name not in known:
                    raise SAEError(f"there is no run {name!r}: the runs are {', '.join(map(repr, known))}")
            waiting = [run for run in known.values() if run.state == "waiting"]
            again = [run for run in known.values() if run.state in ("stopped", "failed")]
            queue = [known[name] for name in dict.fromkeys(names)] if names else waiting or again
            if self.busy or not queue:
                return
            for run in queue:
                if run.state == "failed":
                    run.state, run.error = "waiting", ""
            with self.hold_sync():
                self._stopping, self.error = False, ""
                self._background("train", lambda stopped: self._train(queue, stopped))

    def stop(self) -> None:
        """End the run under way at its next report, keeping what it has learnt; begin no other."""
        with self._guard:
            self._stopping = self.busy

    def close(self) -> None:
        """Stop training and remove the view; `saes` and `history` stay."""
        with self.__dict__.get("_guard") or nullcontext():  # absent where __init__ refused its arguments
            if "_guard" in self.__dict__:
                self.stop()
            super().close()

    @t.observe("_starts")
    def _on_start(self, _change: Any) -> None:
        self.start()

    def _train(self, queue: list[Run], stopped: Stopped) -> None:
        def tell(changed: bool) -> None:
            """Show a change of state at once, what grows unless it was shown a moment ago."""
            now = time.perf_counter()
            if changed or now - self._sent_at >= EVERY_SECONDS:
                self._sent_at = 0.0 if changed else now
                self._work.measure()
                with self._guard, self.hold_sync():
                    if not stopped():
                        self._show_all()

        self._work.train(queue, stopping=lambda: self._stopping, tell=tell)
        self._publish(stopped, _stopping=False)

    # --- what is shown ----------------------------------------------------------------------------------------

    def _show_all(self) -> None:
        runs = self._work.runs
        with self.hold_sync():
            self._show()
            self._densities = {run.name: density(run, number) for number, run in enumerate(runs)}
            self.error = "\n".join(f"{run.name}: {run.error}" for run in runs if run.state == "failed")

    @t.observe("hidden", "busy", "_stopping")
    def _show(self, _change: Any = None) -> None:
        with self._guard, self.hold_sync():
            self._panels = panels(self._work.runs, self._common, self.hidden, busy=self.busy)
            self._progress = progress(self._work.runs, self._work.rate, busy=self.busy, stopping=self._stopping)

    def state(self) -> dict[str, Node]:
        """Return what the view shows as plain data, panel by panel; see `saekit.views._shared.nodes`."""
        with self._guard:
            return {**self._panels, "density": el("div", {"only": "live"}, self._densities[self.value])}

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def _settle(self) -> None:
        """Show what there is now: training may take an hour, and a cell that shows the view must not."""

    def __repr__(self) -> str:
        with self._guard:
            if self.busy:  # no figures: they would be others at the next execution
                return f"Training({', '.join(run.name for run in self._work.runs)}: training)"
            return f"Training({'; '.join(map(_in_short, self._work.runs))})"

    def _title(self) -> str:
        return f"Training · {', '.join(run.name for run in self._work.runs)}"

    def to_html(self) -> str:
        """Return a self-contained page with the curves as they are now, which needs no kernel and no network."""
        runs = self._work.runs
        names = [run.name for run in runs] if len(runs) <= RESCALED else []
        with self._guard:
            told = progress(runs, 0.0, busy=False, stopping=False)
            shown = panels(runs, self._common, self.hidden, busy=False)
            replies = {
                json.dumps(hidden, ensure_ascii=False, separators=(",", ":")): {
                    "_panels": panels(runs, self._common, hidden, busy=False)
                }
                for count in range(len(names) + 1)
                for hidden in map(list, combinations(names, count))
            }
        replies = {"hidden": replies} if names else {}
        return self._page(replies=replies, _panels=shown, _progress=told, _stopping=False)


def _in_short(run: Run) -> str:
    if run.state not in ("done", "stopped") or run.last is None:
        return f"{run.name}: {'not trained' if run.state == 'waiting' else run.state}"
    return f"{run.name}: {run.state}, FVU {rough(run.last.fvu)}, L0 {rough(run.last.l0)}"
