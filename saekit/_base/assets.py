"""Find the front-end sources and link each view into the one ES module that anywidget wants.

A view has a folder of its own, ``<view>/index.js`` and ``<view>/style.css``; what several views share lies in
``_shared``. Files are named by their path below `ROOT` without its suffix: ``"_shared/draw"``, ``"circuit/index"``.
"""

import posixpath
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

_IMPORT_STYLE = re.compile(r'^@import "(\.\.?/[\w/-]+)\.css";\n', re.MULTILINE)
_IMPORT = re.compile(r'^import \{[^}]*\} from "(\.\.?/[\w/-]+)\.js";\n', re.MULTILINE)


@cache
def module(view: str) -> str:
    """Return the source of a view with the modules that it imports inlined, ready for ``_esm``.

    anywidget loads ``_esm`` from a blob: URL, where a relative import cannot resolve. Linking is by text, so
    imports are named imports without ``as``, on one line or several, and top-level names are unique over all linked
    files.
    """
    *parts, index = dependencies(view)
    return "\n".join([*map(_without_exports, parts), _without_imports(index)])


def dependencies(view: str) -> list[str]:
    """Return the files of a view's module, each after those that it imports itself, ``<view>/index`` last."""
    return _in_order(f"{view}/index", source, _IMPORT)


def source(file: str) -> str:
    """Return one front-end module as it is written."""
    return (ROOT / f"{file}.js").read_text(encoding="utf-8")


@cache
def style(view: str) -> str:
    """Return the stylesheet of a view after those that it imports, directly or not, each of them once."""
    files = _in_order(f"{view}/style", rules, _IMPORT_STYLE)
    return "".join(_IMPORT_STYLE.sub("", rules(file)) for file in files)


def rules(file: str) -> str:
    """Return one stylesheet as it is written."""
    return (ROOT / f"{file}.css").read_text(encoding="utf-8")


def _in_order(file: str, read: Callable[[str], str], imports: re.Pattern[str]) -> list[str]:
    """Return the files that ``file`` needs, each after those that it needs itself, and ``file`` last."""
    ordered: list[str] = []

    def visit(current: str) -> None:
        for path in imports.findall(read(current)):
            needed = posixpath.normpath(posixpath.join(posixpath.dirname(current), path))
            if needed not in ordered:
                visit(needed)
        ordered.append(current)

    visit(file)
    return ordered


def _without_imports(file: str) -> str:
    return _IMPORT.sub("", source(file))


def _without_exports(file: str) -> str:
    return re.sub(r"^export (?=function|const)", "", _without_imports(file), flags=re.MULTILINE)
