"""The training view: one or several SAEs learn in a worker thread, and their curves grow in the notebook."""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets as t

from saekit.errors import SAEError
from saekit.views._shared.view import View, in_words
from saekit.views._shared.worker import Stopped
from saekit.views.training.state import Run, Trainer, checked_runs, in_short
from saekit.views.training.still import rough, training_html

if TYPE_CHECKING:
    from jaxtyping import Float
    from sae_lens import SAE
    from torch import Tensor

    from saekit.training import Activations, ActivationStream, TrainingStep

EVERY_SECONDS = 0.3  # between two messages to the browser, which has to draw them on the same processor
RATE_SECONDS = 5  # over which samples a second are measured


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

    _runs = t.List(t.Dict(), help="what there is of each run, but for the one under way").tag(sync=True)
    _live = t.Dict(help="the run under way, its speed and the time it has left").tag(sync=True)
    _common = t.Unicode("", help="options of all runs").tag(sync=True)
    _starts = t.Int(0, help="counts presses of Start").tag(sync=True)
    _stopping = t.Bool(False).tag(sync=True)
    _has_kernel = t.Bool(True).tag(sync=True)

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
        self._train, self._activations = train, activations
        self._plan = checked_runs(runs, options, train)
        self._speed: deque[tuple[float, int]] = deque()
        self._sent_at = 0.0
        super().__init__(
            value=self._plan[0].name,
            _runs=[run.payload() for run in self._plan],
            _common=in_short(options),
        )
        if autostart:
            self.start()

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def saes(self) -> dict[str, "SAE"]:
        """The trained SAEs by run; after Stop, what the stopped run had learnt."""
        return {run.name: run.sae for run in self._plan if run.sae is not None}

    @property
    def history(self) -> dict[str, tuple["TrainingStep", ...]]:
        """All records of each run; only its last one holds the densities, the others an empty tensor."""
        return {run.name: tuple(run.history) for run in self._plan}

    # --- traits -----------------------------------------------------------------------------------------------

    @t.validate("value")
    def _check_value(self, proposal: dict) -> str:
        return self._known(proposal["value"])

    @t.validate("hidden")
    def _check_hidden(self, proposal: dict) -> list[str]:
        return [self._known(name) for name in dict.fromkeys(proposal["value"])]

    def _known(self, name: str) -> str:
        names = [run.name for run in self._plan]
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
            known = {run.name: run for run in self._plan}
            if unknown := [name for name in names if name not in known]:
                raise SAEError(f"there is no run {unknown[0]!r}: the runs are {', '.join(map(repr, known))}")
            waiting = [run for run in self._plan if run.state == "waiting"]
            again = [run for run in self._plan if run.state in ("stopped", "failed")]
            queue = [known[name] for name in dict.fromkeys(names)] if names else waiting or again
            if self.busy or not queue:
                return
            for run in queue:
                if run.state == "failed":
                    run.state, run.error = "waiting", ""
            with self.hold_sync():
                self._stopping, self.error = False, ""
                self._background("train", lambda stopped: self._train_all(queue, stopped))
                self._runs = [run.payload() for run in self._plan]

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

    def _train_all(self, queue: list[Run], stopped: Stopped) -> None:
        for run in queue:
            if self._stopping:
                break
            self._train_one(run, stopped)
        self._publish(stopped, _stopping=False)

    def _train_one(self, run: Run, stopped: Stopped) -> None:
        self._speed.clear()
        self._sent_at = 0.0
        with self._guard:
            run.begin()
            self._publish(stopped, _runs=[r.payload() for r in self._plan], _live={"name": run.name})
        ended: dict[str, Any] = {"state": "done"}

        def on_step(progress: "TrainingStep") -> None:
            run.record(progress)
            if self._stopping and progress.step < progress.steps:
                ended["state"] = "stopped"
                raise KeyboardInterrupt  # trainers end on it and return what they have
            self._show(run, stopped)

        try:
            ended["sae"] = self._train(self._activations, **run.options, on_step=on_step)
        except KeyboardInterrupt:
            ended["state"] = "stopped"  # a trainer of another kind: nothing but the curves is left
        except Exception as failure:
            ended |= {"state": "failed", "error": in_words(failure)}
        with self._guard:
            vars(run).update(ended)
            told = [f"{r.name}: {r.error}" for r in self._plan if r.state == "failed"]
            self._publish(stopped, _runs=[r.payload() for r in self._plan], _live={}, error="\n".join(told))

    def _show(self, run: Run, stopped: Stopped) -> None:
        """Send the run under way to the browser, unless it was sent a moment ago."""
        now = time.perf_counter()
        if now - self._sent_at < EVERY_SECONDS:
            return
        self._sent_at = now
        sent = run.payload()
        speed = self._speed
        speed.append((now, sent["last"]["samples"]))
        while len(speed) > 2 and now - speed[0][0] > RATE_SECONDS:
            speed.popleft()
        seconds, samples = speed[-1][0] - speed[0][0], speed[-1][1] - speed[0][1]
        rate = samples / seconds if seconds > 0 else 0.0
        left = (sent["last"]["all_samples"] - sent["last"]["samples"]) / rate if rate else None
        self._publish(stopped, _live={**sent, "rate": rate, "seconds_left": left})

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def _settle(self) -> None:
        """Show what there is now: training may take an hour, and a cell that shows the view must not."""

    def __repr__(self) -> str:
        with self._guard:
            if self.busy:  # no figures: they would be others at the next execution
                return f"Training({', '.join(run.name for run in self._plan)}: training)"
            return f"Training({'; '.join(map(_in_short, self._plan))})"

    def _title(self) -> str:
        return f"Training · {', '.join(run.name for run in self._plan)}"

    def _static(self) -> str:
        with self._guard:
            return training_html(self._plan, self._common, busy=self.busy)

    def to_html(self) -> str:
        """Return a self-contained page with the curves as they are now, which needs no kernel and no network."""
        with self._guard:
            runs = [run.payload() for run in self._plan]
        return self._page(_runs=runs, _live={}, busy=False, _stopping=False, _has_kernel=False)


def _in_short(run: Run) -> str:
    if run.state not in ("done", "stopped") or run.last is None:
        return f"{run.name}: {'not trained' if run.state == 'waiting' else run.state}"
    return f"{run.name}: {run.state}, FVU {rough(run.last.fvu)}, L0 {rough(run.last.l0)}"
