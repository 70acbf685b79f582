"""One thread for small linear algebra.

A BLAS library gives a matrix product of a thousand numbers to as many threads as the machine has cores. On a machine
that has other work too, they then wait for each other: a product that takes a tenth of a millisecond on one thread
takes sixteen on two. Probes are made of such products, some hundred thousand of them in a grid.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Generator[None]:
    """Let NumPy and SciPy compute on one thread inside the block or the decorated function; torch keeps its threads."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    """Return the BLAS libraries of this process; finding them takes milliseconds, so once."""
    import scipy.linalg  # noqa: F401 (loads SciPy's own, so that it is found)

    return ThreadpoolController()
