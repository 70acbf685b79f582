"""nbval, made to agree with how Jupyter itself runs a cell."""

import os
import tempfile
from pathlib import Path

import nbval.kernel
from execute import THREADS
from nbval.kernel import KernelManager, RunningKernel

# Pictures differ between machines: what was said is compared, not how it was drawn. What goes to stderr (a
# library's warning about this machine) is no part of a notebook: execute.py stores none of it.
NOT_COMPARED = ("image/svg+xml", "image/png", "stderr")


def _execute(self, source, allow_stdin=None):
    # nbval 0.11 passes store_history=False, which makes IPython print the value of a line that ends with `;`
    # (computationalmodelling/nbval#194). Jupyter itself stores history.
    return self.kc.execute(source, allow_stdin=allow_stdin, stop_on_error=False)


RunningKernel.execute_cell_input = _execute
os.environ.update(THREADS)


def _kernel_on_sockets(**options):
    # A kernel's ports are chosen before it takes them: of two that start at once, one may find its port taken.
    return KernelManager(transport="ipc", ip=str(Path(tempfile.mkdtemp()) / "kernel"), **options)


if os.name != "nt":
    nbval.kernel.KernelManager = _kernel_on_sockets


def pytest_collectstart(collector):
    """Leave out of the comparison what differs between machines."""
    if getattr(collector, "skip_compare", None):
        collector.skip_compare += NOT_COMPARED
