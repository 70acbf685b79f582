"""Check the shapes in saekit's signatures while tests run: jaxtyping's import hook, arrays only."""

from collections.abc import Callable
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook

_NUMBERS = BeartypeConf(is_pep484_tower=True)  # an int may stand for a float


def has_shape(annotation: Any) -> bool:
    """Return whether a type is an array with a shape, or an alternative or container of such arrays."""
    return (isinstance(annotation, type) and issubclass(annotation, AbstractArray)) or any(
        map(has_shape, get_args(annotation))
    )


def check_shapes(function: Callable) -> Callable:
    """Check a function's array arguments and results at every call.

    Other types are left alone: tests pass wrong ones on purpose, to see saekit's own message, and a NumPy number
    is as good as an int.
    """
    if isinstance(function, type):
        return function
    function.__annotations__ = {name: type_ for name, type_ in function.__annotations__.items() if has_shape(type_)}
    return beartype(conf=_NUMBERS)(function)


def install() -> None:
    """Check everything in saekit that is imported from now on."""
    install_import_hook("saekit", "tests._shapes.check_shapes")
