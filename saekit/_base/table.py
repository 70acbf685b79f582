"""One table for Jupyter: printed as text and rendered as HTML from the same rows and columns.

    COLUMNS = (
        Column("release or name", "release"),                   # an attribute of the row, or a key of a mapping
        Column("where", lambda e: "bundled" if e.bundled else "hub"),
        Column("L0", "l0", ".0f"),                              # numbers are right-aligned, None stays blank
        Column("licence", "licence", text=False),               # in HTML only
    )
    list_saes() -> Table(entries, COLUMNS, caption="2,316 SAEs", hint="narrow them with list_saes('words')")

A `Table` is a sequence of its rows (frozen dataclasses): ``table[0].l0``, ``len(table)``, iteration, and a slice is a
table again. Long ones show their first rows and say how many more there are. An object that is more than a table has
one and shows it, with whatever text goes below:

    @dataclass(frozen=True, repr=False)                         # repr=False: else dataclass writes its own
    class GateCard(Shown):
        def _table(self) -> Table: return Table(self.gates, _COLUMNS, caption=self._counted())

Every cell is escaped in HTML and made one line in text; only ``Column(html=...)`` puts in markup, and must escape.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Generic, TypeVar, overload

from saekit._base.text import escape, one_line, width

Row = TypeVar("Row")
MOST_LINES, MOST_ROWS = 20, 100  # rows that are printed, and rendered
_WIDEST = 60  # columns of the terminal that a printed cell may take


@dataclass(frozen=True)
class Column:
    """One column of a `Table`.

    Attributes:
        head: Words at its top.
        value: Attribute or key of a row, or a function of the row.
        form: Format of numbers, as `format` takes it: ".3f", "+.2f", ".0%", ",".
        text: Whether it is printed too; otherwise it is in HTML alone.
        html: Function from a row to markup, where a cell is more than text. What is not trusted must be escaped.
    """

    head: str
    value: str | Callable[[Any], Any]
    form: str = ""
    text: bool = True
    html: Callable[[Any], str] | None = None

    def of(self, row: Any) -> Any:
        """Return the value in a row."""
        if callable(self.value):
            return self.value(row)
        return row[self.value] if isinstance(row, Mapping) else getattr(row, self.value)

    def cell(self, row: Any) -> str:
        """Return the value in a row as text: "" for None, "–" for a number that does not exist."""
        value = self.of(row)
        if value is None:
            return ""
        if not _is_number(value):
            return str(value)
        return "–" if math.isnan(value) else format(value, self.form).replace("-", "−")


@dataclass(frozen=True, repr=False)
class Table(Sequence[Row], Generic[Row]):
    """Rows that print as text and render as a table; a sequence of the rows themselves.

    Attributes:
        rows: The rows: frozen dataclasses, mappings, or whatever the columns read.
        columns: What is shown of each.
        caption: Words above it.
        note: Words below it.
        hint: What to do about rows that are not shown.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...] = field(default=())
    caption: str = ""
    note: str = ""
    hint: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        object.__setattr__(self, "columns", tuple(self.columns))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, item: int) -> Row: ...
    @overload
    def __getitem__(self, item: slice) -> "Table[Row]": ...
    def __getitem__(self, item: int | slice) -> "Row | Table[Row]":
        return replace(self, rows=self.rows[item]) if isinstance(item, slice) else self.rows[item]

    def __repr__(self) -> str:
        columns = [column for column in self.columns if column.text]
        cells = [[_cut(one_line(column.cell(row))) for column in columns] for row in self.rows[:MOST_LINES]]
        grid = [[column.head for column in columns], *cells]
        wide = [max(map(width, cells)) for cells in zip(*grid, strict=True)]
        right = [self._is_numeric(column) for column in columns]
        lines = ["  ".join(map(_padded, line, wide, right)).rstrip() for line in grid]
        return "\n".join(filter(None, [self.caption, *lines, self._more(MOST_LINES), self.note]))

    def _repr_html_(self) -> str:
        left = [column.html is None and not self._is_numeric(column) for column in self.columns]
        head = "".join(_tag("th", escape(column.head), one) for column, one in zip(self.columns, left, strict=True))
        body = ""
        for row in self.rows[:MOST_ROWS]:
            cells = [column.html(row) if column.html else escape(column.cell(row)) for column in self.columns]
            body += f"<tr>{''.join(_tag('td', cell, one) for cell, one in zip(cells, left, strict=True))}</tr>"
        above = "; ".join(filter(None, [self.caption, self._more(MOST_ROWS)]))
        caption = f"<caption>{escape(above)}</caption>" if above else ""
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def _is_numeric(self, column: Column) -> bool:
        """Say whether a column is one of numbers: they stand to the right."""
        values = [column.of(row) for row in self.rows[:MOST_ROWS]]
        return any(map(_is_number, values)) and all(value is None or _is_number(value) for value in values)

    def _more(self, most: int) -> str:
        hidden = len(self) - most
        return "" if hidden <= 0 else f"and {hidden:,} more rows" + (f": {self.hint}" if self.hint else "")


class Shown:
    """An object that is shown as the table that its ``_table()`` makes."""

    def _table(self) -> Table:
        raise NotImplementedError

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _padded(cell: str, wide: int, right: bool) -> str:
    space = " " * (wide - width(cell))
    return space + cell if right else cell + space


def _cut(cell: str) -> str:
    """Shorten a cell that would make its row more than a line."""
    short = cell[:_WIDEST]
    while width(short) >= _WIDEST:
        short = short[:-1]
    return cell if width(cell) <= _WIDEST else short + "…"


def _tag(name: str, inside: str, left: bool) -> str:
    style = ' style="text-align:left;white-space:pre-wrap"' if left else ""  # Jupyter aligns cells to the right
    return f"<{name}{style}>{inside}</{name}>"
