"""Find the front-end sources and link each view into the one ES module that anywidget wants."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parents[1]  # the package
# In a wheel the sources sit inside the package; in a checkout, beside it.
ROOT = next(
    (p for p in (_HERE / "_widgets", _HERE.parent / "widgets") if p.is_dir()),
    _HERE.parent / "widgets",
)

_IMPORT_STYLE = re.compile(r'^@import "\./([\w-]+)\.css";\n', re.MULTILINE)
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w-]+)\.js";\n', re.MULTILINE)


@cache
def module(name: str) -> str:
    """Return the source of view ``name`` with its ``./*.js`` imports inlined, ready for ``_esm``.

    anywidget loads ``_esm`` from a blob: URL, where a relative import cannot resolve. Linking is by text, so
    imports are named imports without ``as``, on one line or several, and top-level names are unique over all linked
    files.
    """
    return "\n".join([*(_without_exports(dep) for dep in dependencies(name)), _without_imports(name)])


def dependencies(name: str) -> list[str]:
    """Return the modules that ``name`` imports, directly or not, each after those that it needs itself."""
    return _in_order(name, source, _IMPORT)[:-1]


def source(name: str) -> str:
    """Return one front-end module as it is written."""
    return (ROOT / f"{name}.js").read_text(encoding="utf-8")


@cache
def style(name: str) -> str:
    """Return the stylesheet of view ``name`` after those that it imports, directly or not, each of them once."""
    return "".join(_IMPORT_STYLE.sub("", rules(file)) for file in _in_order(name, rules, _IMPORT_STYLE))


def rules(name: str) -> str:
    """Return one stylesheet as it is written."""
    return (ROOT / f"{name}.css").read_text(encoding="utf-8")


def _in_order(name: str, read: Callable[[str], str], imports: re.Pattern[str]) -> list[str]:
    """Return the files that ``name`` needs, each after those that it needs itself, and ``name`` last."""
    found: list[str] = []

    def visit(current: str) -> None:
        for dep in imports.findall(read(current)):
            if dep not in found:
                visit(dep)
        found.append(current)

    visit(name)
    return found


def _without_imports(name: str) -> str:
    return _IMPORT.sub("", source(name))


def _without_exports(name: str) -> str:
    return re.sub(r"^export (?=function|const)", "", _without_imports(name), flags=re.MULTILINE)
