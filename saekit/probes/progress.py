"""Saying how far a long computation is: a bar, a function of the caller's, or nothing."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # takes (done, of how many)


class Reporting:
    """Turns ``progress`` into a function of what is done; a bar is closed whatever happens."""

    def __init__(self, progress: bool | Progress, total: int, unit: str):
        self.progress, self.total, self.unit = progress, total, unit

    def __enter__(self) -> Callable[[int], None]:
        report = self.progress
        if callable(report):
            return lambda done: report(done, self.total)
        from tqdm.auto import tqdm

        self.bar = tqdm(total=self.total, unit=self.unit, disable=not self.progress)
        return lambda done: self.bar.update(done - self.bar.n)

    def __exit__(self, *error) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
