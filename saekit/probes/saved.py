"""Results on disk: a dataclass with all that it holds in one file, arrays as arrays, the rest as JSON. Never pickle."""

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from saekit._base.store import Format
from saekit.errors import ProbeError


class Saved:
    """A result that can be written to one file and read back as it was.

    Each subclass is a dataclass; it says what it is called in messages, and names the classes of the objects that it
    may hold: ``class Curve(Saved, kind="curve", holds=(Estimate,))``. No others are made when a file is read.
    """

    _format: ClassVar[Format]
    _holds: ClassVar[dict[str, type]]

    def __init_subclass__(cls, *, kind: str, holds: tuple[type, ...], **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._format = Format(kind, 1, ProbeError, remedy="compute it again, and save it")
        cls._holds = {each.__name__: each for each in holds}

    def save(self, path: Path | str) -> None:
        """Write one safetensors file; it is complete or absent, whatever interrupts."""
        arrays: dict[str, np.ndarray] = {}
        held = {name: self._plain(value, name, arrays) for name, value in _inside(self).items()}
        self._format.save_file(path, {"held": held}, arrays)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` has written. Raises ProbeError if the file is missing, damaged, or holds something else."""
        stored = cls._format.load(path)
        try:
            return cls(**{name: cls._restored(value, stored.arrays) for name, value in stored.about["held"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise ProbeError(f"{path} is no {cls._format.kind} that this saekit can read ({problem!r})") from problem

    def _plain(self, value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
        """Return a value as JSON knows it: what is no list, number, text or None is ``{kind: content}``."""
        if isinstance(value, np.ndarray):
            arrays[place] = value
            return {"array": place}
        if isinstance(value, list | tuple):
            items = [self._plain(item, f"{place}.{i}", arrays) for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, dict):
            return {"dict": {key: self._plain(item, f"{place}.{key}", arrays) for key, item in value.items()}}
        if type(value) is self._holds.get(name := type(value).__name__):
            return {name: self._plain(_inside(value), place, arrays)["dict"]}
        value = value.item() if isinstance(value, np.generic) else value
        if value is not None and not isinstance(value, str | int | float):
            raise ProbeError(f"a {self._format.kind} with a {name} cannot be saved: it could not be read back")
        return value

    @classmethod
    def _restored(cls, value: Any, arrays: dict[str, np.ndarray]) -> Any:
        if isinstance(value, list):
            return [cls._restored(item, arrays) for item in value]
        if not isinstance(value, dict):
            return value
        ((kind, inside),) = value.items()
        if kind == "array":
            return arrays[inside]
        if kind == "tuple":
            return tuple(cls._restored(item, arrays) for item in inside)
        restored = {key: cls._restored(item, arrays) for key, item in inside.items()}
        return restored if kind == "dict" else cls._holds[kind](**restored)


def _inside(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}
