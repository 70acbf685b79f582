"""Rows of tables that somebody else wrote: files, frames and data sets, each row with words on where it stands.

    rows = open_rows("corpus.jsonl")
    for place, cells in rows.cells:          # "corpus.jsonl, line 3", {"text": "...", ...}
        text = rows.cell("text", column, place, cells)

Nothing is skipped but blank lines: what cannot be read is refused, with its file and line.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from saekit.errors import DataError, OfflineError

TABLES = (".jsonl", ".csv", ".tsv", ".parquet")  # files of rows; others are files of text
_BOM = "\ufeff"


@dataclass(frozen=True)
class Rows:
    """The rows of a table.

    Attributes:
        name: Name of the table in messages.
        columns: Names of its columns; None where each row has its own.
        cells: Words on where each row stands, and its cells by column, one row after the other.
        classes: Names of the classes of columns that hold them by number, as data sets of the hub do.
    """

    name: str
    columns: tuple[str, ...] | None
    cells: Iterator[tuple[str, Mapping[str, Any]]]
    classes: Mapping[str, list[str]] = field(default_factory=dict)

    def expect(self, **wanted: str) -> None:
        """Check that columns exist, once each; the names of the arguments are those that choose other ones.

        Raises:
            DataError: One of them does not; the message says which columns there are.
        """
        if self.columns is not None:
            _expect(self.name, self.columns, wanted)

    def cell(self, argument: str, column: str, place: str, cells: Mapping[str, Any]) -> Any:
        """Return a cell of a row; of a table whose rows have columns of their own, a missing one is refused here."""
        if column not in cells:
            _expect(place, tuple(cells), {argument: column})
        return cells[column]


def _expect(what: str, columns: tuple[str, ...], wanted: Mapping[str, str]) -> None:
    if gone := [name for name in wanted.values() if name not in columns]:
        arguments = " and ".join(f"{argument}=" for argument in wanted)
        raise DataError(
            f"{what} has columns {', '.join(map(str, columns)) or 'none'}: expected {' and '.join(map(repr, gone))}. "
            f"Say which to take with {arguments}"
        )
    for name in wanted.values():
        if (times := columns.count(name)) > 1:
            raise DataError(f"{what} has {times} columns {name!r}: rename or drop all but one")


def is_table(source: Any) -> bool:
    """Return whether `open_rows` reads a source that is no path: a data frame or a data set."""
    return hasattr(source, "columns") or hasattr(source, "column_names")


def open_rows(source: Any) -> Rows:
    """Open the rows of a .jsonl, .csv, .tsv or .parquet file, a data frame, or a data set of ``datasets``.

    Raises:
        DataError: It cannot be read; while the rows are read, with the line that cannot.
    """
    if hasattr(source, "to_batches"):
        return _of_arrow("the table", source.schema, source.to_batches())
    if hasattr(source, "column_names"):
        return _of_data_set(source, "the data set")
    if hasattr(source, "columns"):
        return _of_frame(source)
    path = Path(source)
    read = {".jsonl": _of_jsonl, ".parquet": _of_parquet}.get(path.suffix.lower(), _of_csv)
    return read(path)


def decoded(path: Path, data: bytes, line: int = 1) -> str:
    """Return bytes of a file as text, without a byte-order mark at its beginning.

    Args:
        path: The file.
        data: The bytes, from the beginning of a line on.
        line: Number of that line.

    Raises:
        DataError: They are not UTF-8; the message has the line.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data[: error.start].count(b"\n")
        raise DataError(
            f"{path}, line {line} is not UTF-8 (byte 0x{data[error.start]:02X}): save the file in UTF-8"
        ) from error
    return text.removeprefix(_BOM) if line == 1 else text


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield number, decoded(path, line, number)


def _of_jsonl(path: Path) -> Rows:
    def cells() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, line in _lines(path):
            if line.strip():
                place = f"{path}, line {number}"
                yield place, _object(place, line)

    return Rows(str(path), None, cells())


def _object(place: str, line: str) -> Mapping[str, Any]:
    """Return the JSON object that a line of JSON Lines is."""
    wanted = 'expected JSON Lines, a whole object on every line: {"text": "..."}, without commas between the lines'
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is no JSON object ({error}): {line.strip()!r:.60}; {wanted}") from error
    if not isinstance(found, dict):
        raise DataError(f"{place} is a JSON {type(found).__name__}, no object: {line.strip()!r:.60}; {wanted}")
    return found


def _of_csv(path: Path) -> Rows:
    csv.field_size_limit(1 << 24)  # a text may be long
    reader = csv.reader((line for _, line in _lines(path)), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    rows = _csv_rows(path, reader)
    columns = tuple(next(rows, ("", []))[1])

    def cells() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for place, row in rows:
            if len(row) != len(columns):
                raise DataError(f'{place} has {len(row)} cells, the table {len(columns)} columns: quote cells with "')
            yield place, dict(zip(columns, row, strict=True))

    return Rows(str(path), columns, cells())


def _csv_rows(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[str, list[str]]]:
    line = 0
    while True:
        line = getattr(reader, "line_num", line) + 1  # a row may span several
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {line} cannot be read as a row of a table ({error})") from error
        if row is None:
            return
        if row:
            yield f"{path}, line {line}", row


def _of_parquet(path: Path) -> Rows:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
    except ArrowException as error:
        raise DataError(f"{path} cannot be read as a parquet file ({error})") from error
    return _of_arrow(str(path), file.schema_arrow, file.iter_batches(1000))


def _of_arrow(name: str, schema: Any, batches: Iterable[Any]) -> Rows:
    return Rows(name, tuple(schema.names), _numbered(name, (row for batch in batches for row in batch.to_pylist())))


def _of_frame(frame: Any) -> Rows:
    columns = tuple(map(str, frame.columns))
    # Of two columns with one name neither is meant: whoever asks for it is refused.
    values: list[Any] = [
        frame[own] if columns.count(name) == 1 else [None] * len(frame)
        for own, name in zip(frame.columns, columns, strict=True)
    ]
    lists = [column.tolist() if hasattr(column, "tolist") else list(column) for column in values]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True))
    return Rows("the data frame", columns, _numbered("the data frame", rows))


def _of_data_set(rows: Any, name: str) -> Rows:
    columns = getattr(rows, "column_names", None)
    if isinstance(columns, Mapping):
        raise DataError(
            f"{name} has splits {', '.join(columns)}: pass one of them, such as data[{next(iter(columns))!r}]"
        )
    found = iter(rows)
    if columns is None:  # some streams do not say
        first = next(found, {})
        columns, found = list(first), chain([first] if first else [], found)
    features = getattr(rows, "features", None) or {}
    classes = {column: names for column in features if (names := getattr(features[column], "names", None))}
    return Rows(name, tuple(columns), _numbered(name, found), classes)


def _numbered(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, row in enumerate(rows):
        yield f"{name}, row {number}", row


def open_hub(name: str, *, configuration: str | None = None, split: str = "train", instead: str) -> Rows:
    """Open a data set on the hub, which streams.

    Args:
        name: Name on the hub, "owner/name".
        configuration: Part of a data set that has several.
        split: Split of the data set.
        instead: What to pass instead where the hub cannot be reached, for the message.

    Raises:
        DataError: No such configuration; the message names those there are.
        OfflineError: It cannot be opened.
    """
    from datasets import load_dataset

    try:
        found = load_dataset(name, configuration, split=split, streaming=True)
        rows = _of_data_set(found, f"data set {name!r}")
        first = next(rows.cells, None)  # a stream that cannot be reached says so at its first row
    except DataError:
        raise
    except Exception as error:  # upstream's clients raise errors of many libraries
        said = " ".join(str(error).split())
        if isinstance(error, ValueError) and re.search("config", said, re.I):
            raise DataError(f"data set {name!r}: {said[:300]}. Say which to take with configuration=") from error
        raise OfflineError(
            f"could not open {name!r} on the data hub: {said[:200]}. Connect and try again, pass a local file, or use "
            f"{instead}"
        ) from error
    return Rows(rows.name, rows.columns, chain([first] if first else [], rows.cells), rows.classes)
