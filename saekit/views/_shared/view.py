"""What every saekit view shares: static HTML beside the widget, a stable repr, a page, background work."""

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import anywidget
import traitlets as t

from saekit import errors
from saekit._base.assets import module, style
from saekit.errors import SaekitError
from saekit.views._shared.nodes import Node
from saekit.views._shared.page import page
from saekit.views._shared.palette import rules
from saekit.views._shared.still import still
from saekit.views._shared.worker import Stopped, Worker

Changes = Generator[Mapping[str, Any], None, None]  # traits to set, as they come
_log = logging.getLogger(__name__)


class View(anywidget.AnyWidget):
    """Base of all views. Subclasses set ``_name`` (their front-end folder) and implement ``state`` and ``_title``.

    Traits:
        busy: Background work is under way.
        error: What went wrong, in words, or ``""``. Exceptions in callbacks would be lost in JupyterLab's log.
    """

    _name = ""
    busy = t.Bool(False).tag(sync=True)
    error = t.Unicode("").tag(sync=True)
    _stops = t.Int(0, help="counts presses of Stop").tag(sync=True)
    _doing = t.Unicode("", help="what is under way, in words").tag(sync=True)
    _has_kernel = t.Bool(True).tag(sync=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "_name" in cls.__dict__:  # not for the subclass that anywidget makes of each instance
            cls._esm, cls._css = module(cls._name), _stylesheet(cls._name)
        super().__init_subclass__(**kwargs)

    def __init__(self, **traits: Any) -> None:
        # Traits change in two threads; ipywidgets itself does not lock.
        self._guard = threading.RLock()
        self._worker = Worker(self._guard, on_idle=lambda: self.set_trait("busy", False))
        super().__init__(**traits)

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        html = self._repr_html_()  # first: it waits for what is under way, which the text then tells too
        return {**data, "text/plain": repr(self), "text/html": html}, metadata

    def _repr_html_(self) -> str:
        """Return static HTML for GitHub, nbviewer and exported pages: no script and no external file."""
        self._settle()
        return self._static()

    def _settle(self) -> None:
        """Wait before something is stored: it should show the finished state, the same in every run."""
        self.wait()

    def state(self) -> dict[str, Node]:
        """Return what the view shows as plain data, panel by panel: the browser and the still draw the same.

        See `saekit.views._shared.nodes` for what a panel is.
        """
        raise NotImplementedError

    def _static(self) -> str:
        with self._guard:
            return still(self.state().values())

    def _title(self) -> str:
        raise NotImplementedError

    def _page(self, *, replies: Mapping[str, Mapping[str, dict | str]] | None = None, **changes: Any) -> str:
        """Return a self-contained page of this view; see `saekit.views._shared.page.page` for ``replies``."""
        self._settle()
        keys = [k for k in self.keys if not k.startswith(("_model", "_view", "_esm", "_css", "_dom", "_anywidget"))]
        state = {key: getattr(self, key) for key in keys if key not in ("layout", "tabbable", "tooltip")}
        return page(
            title=self._title(),
            css=_stylesheet(self._name),
            esm=module(self._name),
            state={**state, "busy": False, "_doing": "", "_has_kernel": False, **changes},
            replies=replies or {},
            static=self._static(),
        )

    # --- background work --------------------------------------------------------------------------------------

    def wait(self, timeout_seconds: float | None = 60) -> bool:
        """Wait until background work is done; return whether it was done in time."""
        return self._worker.wait(timeout_seconds)

    def stop(self) -> None:
        """Drop background work: its results will not be shown. The Stop button calls this."""
        with self._guard:
            self._worker.stop()
            self.busy, self._doing = False, ""

    @t.observe("_stops")
    def _on_stop(self, _change: Any) -> None:
        self.stop()

    def _background(self, kind: str, job: Callable[[Stopped], Changes | None]) -> None:
        """Run ``job`` in the worker thread; `busy` while it lasts, `error` when it fails.

        Args:
            kind: What kind of work it is: newer work of a kind replaces what is under way.
            job: The work. Where it is a generator, the traits that it yields are set as they come, and it is closed
                once nobody wants its results any more.
        """

        def guarded(stopped: Stopped) -> None:
            try:
                if (changes := job(stopped)) is None:
                    return
                for traits in changes:
                    if not self._publish(stopped, **traits):
                        changes.close()
                        break
            except errors.Stopped:
                pass  # nobody wants the result any more
            except Exception as failure:  # whatever it was, the reader of the view is told
                _log.debug("background work failed", exc_info=True)
                self._publish(stopped, error=in_words(failure))

        with self._guard:
            self._worker.submit(kind, guarded)
            self.busy = True

    def _publish(self, stopped: Stopped, **traits: Any) -> bool:
        """Set traits from the worker thread, in one message, unless the work is no longer wanted."""
        with self._guard:
            if stopped():
                return False
            with self.hold_sync():
                for name, value in traits.items():
                    setattr(self, name, value)
            return True

    def get_state(self, key: str | Iterable[str] | None = None, drop_defaults: bool = False) -> dict:
        """Return traits by name, in the order of their names: the browser then hears of changes in a fixed order."""
        names = key if key is None or isinstance(key, str) else sorted(key)
        return super().get_state(names, drop_defaults)

    def set_state(self, sync_data: dict) -> None:
        """Take over a change made in the browser."""
        with self._guard:
            super().set_state(sync_data)


def _stylesheet(name: str) -> str:
    return rules() + style(name)


def in_words(failure: Exception) -> str:
    """Return an exception as a sentence for the reader: saekit's own messages stand for themselves."""
    message = str(failure).strip() or "no message"
    return message if isinstance(failure, SaekitError | t.TraitError) else f"{type(failure).__name__}: {message}"
