"""Choices by name or by object: ``"max"`` where there is nothing to set, ``TopN(3)`` where there is.

A choice goes through functions, grids and files in the form in which it was given; printed, it is one short name.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from saekit.errors import ProbeError

T = TypeVar("T")


@dataclass(frozen=True)
class Choices(Generic[T]):
    """All that can be chosen of one kind: the registry to which a new pooling, binarising or classifier is added.

    Attributes:
        kind: Word for the kind in messages: "pooling".
        base: Class of every choice of the kind.
        named: Choices without parameters, by their short name.
        classes: Classes of the choices with parameters.
    """

    kind: str
    base: type[T]
    named: Mapping[str, T]
    classes: tuple[type[T], ...] = ()

    def of(self, choice: Any) -> T:
        """Return the object behind a short name, or the object itself. Raises ProbeError if there is no such choice."""
        if isinstance(choice, self.base):
            return choice
        if not isinstance(choice, str) or choice not in self.named:
            raise ProbeError(f"no {self.kind} {choice!r}: expected {self}")
        return self.named[choice]

    def __str__(self) -> str:
        calls = [f"{c.__name__}({', '.join(inspect.signature(c).parameters)})" for c in self.classes]
        *all_but_last, last = [*map(repr, self.named), *calls]
        return f"{', '.join(all_but_last)} or {last}"
