"""Saying how far a long computation is, and hearing that nobody wants it any more.

Every function that takes long has two arguments, documented in these words:

    progress: Show a progress bar; or a function that is given (done, total) after each part.
    stop: Function that is asked between parts; once it returns True, `saekit.errors.Stopped` is raised.

and one of these two forms inside:

    with progress_of(progress, len(texts), "text", stop=stop, title="Reading") as step:
        for batch in batches:
            ...
            step(len(batch))                           # or step(len(batch), fvu="0.31"): figures beside the bar

    for recipe in tracked(recipes, progress, "recipe", stop=stop):
        ...

``stop`` is asked once before the first part and after every part but the last: what is complete is returned. A part
of many seconds asks in between, with `ask(stop)`. What ``progress`` raises ends the computation, as Stopped does.
Work that has something to give when it is stopped (a half-trained SAE, text so far) catches `Stopped` and says so.
Sizes in bytes: unit "B". A total that is not known: None, which the caller's function is given as it is. Work that
goes on where an earlier run has ended: ``start``.

A view's job passes what its worker gave it on: ``extract_features(..., stop=stopped, progress=self._on_progress)``.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from saekit.errors import Stopped

Progress = bool | Callable[[int, int | None], object]
Stop = Callable[[], bool] | None
T = TypeVar("T")


class Step:
    """Counts what is done: call it after each part. ``done`` says how much that is by now."""

    def __init__(self, show: Callable[..., object], total: int | None, start: int, stop: Stop) -> None:
        self._show, self._total, self._stop, self.done = show, total, stop, start

    def __call__(self, n: int = 1, **figures: Any) -> None:
        """Add ``n`` to what is done, show the figures, and raise `Stopped` if there is more to do and stop says so."""
        self.done += n
        self._show(self.done, n, figures)
        if self.done != self._total:
            ask(self._stop)


@contextmanager
def progress_of(
    progress: Progress, total: int | None, unit: str, *, stop: Stop = None, title: str | None = None, start: int = 0
) -> Generator[Step]:
    """Yield a `Step` to be called after each part; the bar goes when the block ends, however it ends.

    Args:
        progress: Whether to draw a bar, or a function that is given (done, total) after each part.
        total: How many units there are; None if that is not known.
        unit: What is counted, in the singular; "B" for bytes.
        stop: Function that says whether to stop.
        title: Words in front of the bar.
        start: How many units were done before.

    Raises:
        Stopped: stop() returned True.
    """
    ask(stop)
    if callable(progress):
        yield Step(lambda done, n, figures: progress(done, total), total, start, stop)
        return
    from tqdm.auto import tqdm

    with tqdm(
        total=total, initial=start, desc=title, unit=unit, unit_scale=unit == "B", leave=False, disable=not progress
    ) as bar:

        def show(done: int, n: int, figures: dict) -> None:
            if figures:
                bar.set_postfix(figures, refresh=False)
            bar.update(n)

        yield Step(show, total, start, stop)


def tracked(
    items: Iterable[T],
    progress: Progress,
    unit: str,
    *,
    total: int | None = None,
    size: Callable[[T], int] | None = None,
    stop: Stop = None,
    title: str | None = None,
) -> Iterator[T]:
    """Yield items, counting each when the next one is asked for; otherwise like `progress_of`.

    Args:
        items: What to go through.
        progress: Whether to draw a bar, or a function that is given (done, total) after each item.
        unit: What is counted, in the singular.
        total: How many units there are, where ``size`` is given or the number of items is not known.
        size: How many units an item is; None for one.
        stop: Function that says whether to stop.
        title: Words in front of the bar.
    """
    if total is None and size is None and isinstance(items, Collection):
        total = len(items)
    with progress_of(progress, total, unit, stop=stop, title=title) as step:
        for item in items:
            yield item
            step(1 if size is None else size(item))


def ask(stop: Stop) -> None:
    """Raise `Stopped` if stop() returns True; for places within a part, such as before each block of a model."""
    if stop is not None and stop():
        raise Stopped("stopped on request: the result was no longer wanted")
