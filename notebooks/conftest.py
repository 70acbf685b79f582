"""nbval, made to agree with how Jupyter itself runs a cell."""

from nbval.kernel import RunningKernel


def _execute(self, source, allow_stdin=None):
    # nbval 0.11 passes store_history=False, which makes IPython print the value of a line that ends with `;`
    # (computationalmodelling/nbval#194). Jupyter itself stores history.
    return self.kc.execute(source, allow_stdin=allow_stdin, stop_on_error=False)


RunningKernel.execute_cell_input = _execute


def pytest_collectstart(collector):
    """Pictures differ between machines: compare what was said, not how it was drawn."""
    if getattr(collector, "skip_compare", None):
        collector.skip_compare += ("image/svg+xml", "image/png")
