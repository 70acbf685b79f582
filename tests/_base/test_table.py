"""Tables: text and HTML from the same rows, and nothing in them that a hostile text could do."""

import math
import re
from dataclasses import FrozenInstanceError, dataclass
from html.parser import HTMLParser

import numpy as np
import pytest

from saekit._base.table import Column, Shown, Table
from saekit._base.text import byte_size, escape, one_line, visible, width

HOSTILE = '<img src=x onerror="alert(1)">\n\x1b[31m\u202e\x00\ud800 &amp;'


@dataclass(frozen=True)
class Row:
    name: str
    l0: float | None
    tokens: int = 1000


COLUMNS = (
    Column("name", "name"),
    Column("L0", "l0", ".1f"),
    Column("tokens", "tokens", ","),
    Column("long", lambda row: row.name * 2, text=False),
)
ROWS = (Row("a", 12.345), Row("bcd", None), Row("é\u0301日本", -1.0, 2_000_000))


class Cells(HTMLParser):
    """Reads a table as a browser would."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self.styles = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.styles.append(dict(attributes).get("style", ""))

    def handle_data(self, data):
        if self.rows and self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_text_is_aligned_by_column_and_numbers_to_the_right():
    lines = repr(Table(ROWS, COLUMNS, caption="3 SAEs", note="of two models")).split("\n")
    assert lines[0] == "3 SAEs"
    assert lines[-1] == "of two models"
    assert lines[1:-1] == ["name     L0     tokens", "a      12.3      1,000", "bcd              1,000",
                           "é\u0301日本  −1.0  2,000,000"]  # fmt: skip
    assert {width(line) for line in lines[1:-1]} == {width(lines[1])}


def test_html_has_the_same_cells_and_those_that_are_not_printed():
    cells = Cells(Table(ROWS, COLUMNS, caption="a < b", note="c < d")._repr_html_())
    assert cells.rows == [
        ["name", "L0", "tokens", "long"],
        ["a", "12.3", "1,000", "aa"],
        ["bcd", "", "1,000", "bcdbcd"],
        ["é\u0301日本", "−1.0", "2,000,000", "é\u0301日本" * 2],
    ]
    assert [("left" in style) for style in cells.styles] == [True, False, False, True] * 4
    page = Table(ROWS, COLUMNS, caption="a < b", note="c < d")._repr_html_()
    assert "<caption>a &lt; b</caption>" in page
    assert page.endswith("<p>c &lt; d</p>")


def test_a_table_is_a_sequence_of_its_frozen_rows():
    table = Table(ROWS, COLUMNS, caption="c")
    assert len(table) == 3
    assert list(table) == list(ROWS)
    assert table[1] is ROWS[1]
    assert table[-1].tokens == 2_000_000
    assert ROWS[0] in table
    assert table[:2] == Table(ROWS[:2], COLUMNS, caption="c")
    assert Table([], COLUMNS)._repr_html_().endswith("<tbody></tbody></table>")
    assert repr(Table([], COLUMNS)) == "name  L0  tokens"
    with pytest.raises(FrozenInstanceError):
        table.rows = ()


def test_a_hostile_text_is_only_text():
    table = Table([Row(HOSTILE, 1.0)], COLUMNS, caption=HOSTILE, note=HOSTILE)
    cells = Cells(table._repr_html_())
    assert set(cells.tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
    assert cells.rows[1][0] == HOSTILE.replace("\x1b", "\ufffd").replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    (line,) = [line for line in repr(Table([Row(HOSTILE, 1.0)], COLUMNS)).split("\n") if "img" in line]
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e\ud800]", line)
    line.encode()
    table._repr_html_().encode()


def test_long_cells_are_cut_and_long_tables_say_what_is_missing():
    table = Table([Row("日" * 300, 1.0)] * 130, COLUMNS, hint="narrow them")
    lines = repr(table).split("\n")
    assert len(lines) == 22
    assert lines[-1] == "and 110 more rows: narrow them"
    assert all(width(line) < 80 for line in lines)
    cells = Cells(table._repr_html_())
    assert len(cells.rows) == 101
    assert "and 30 more rows: narrow them" in table._repr_html_()


def test_markup_comes_from_a_column_that_makes_it():
    columns = (
        Column("peak", "l0", ".2f"),
        Column("context", "name", html=lambda row: f"<code>{escape(row.name)}</code>"),
    )
    page = Table([Row("<a>", 1.0)], columns)._repr_html_()
    assert page.endswith("<tbody><tr><td>1.00</td><td><code>&lt;a&gt;</code></td></tr></tbody></table>")


def test_numbers_that_do_not_exist_and_numbers_of_numpy_are_numbers():
    rows = [{"v": math.nan}, {"v": np.float32(0.25)}, {"v": np.int64(2)}]
    assert repr(Table(rows, [Column("v", "v", ".2f")])).split("\n") == ["   v", "   –", "0.25", "2.00"]
    assert repr(Table([{"v": True}], [Column("verdict", "v")])).split("\n") == ["verdict", "True"]


def test_an_object_can_show_itself_as_a_table():
    @dataclass(frozen=True, repr=False)
    class Card(Shown):
        rows: tuple

        def _table(self):
            return Table(self.rows, COLUMNS[:1], note="read this")

    card = Card(ROWS[:1])
    assert repr(card) == "name\na\nread this"
    assert card._repr_html_().endswith("<p>read this</p>")


def test_characters_that_break_pages_and_lines_are_replaced():
    assert visible("a b\n\t\x00\x85") == "a·b↵⇥\ufffd\ufffd"
    assert one_line("a\r\nb\u2028c\u2066d") == "a␍↵b↵c\ufffdd"
    assert escape("\"<'>\t\n\x07") == "&quot;&lt;&#x27;&gt;\t\n\ufffd"


@pytest.mark.parametrize(
    ("n", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_999, "1 MB"), (1.5e9, "1.5 GB"), (1e16, "1e+04 TB")],
)
def test_sizes_are_said_in_the_unit_that_suits_them(n, said):
    assert byte_size(n) == said
