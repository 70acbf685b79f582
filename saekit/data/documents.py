"""From a source of texts to its documents: by blank lines, by a separator, by file, or by row."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saekit._base.checks import unicode_text
from saekit.data.files import TABLES, Rows, decoded, is_table, open_hub, open_rows
from saekit.errors import DataError


@dataclass(frozen=True)
class Documents:
    """The documents of a source.

    Attributes:
        name: Name of the source.
        how: What a document of it is, in words: "by blank lines", "by row".
        texts: The documents one after the other, each a str of whole characters.
    """

    name: str
    how: str
    texts: Iterator[str]


def documents(
    source: Any, *, text: str = "text", separator: str | None = None, configuration: str | None = None
) -> Documents:
    """Read the documents of a corpus of your own.

    Args:
        source: A file of text (documents by blank lines), a .jsonl, .csv, .tsv or .parquet file (by row), a folder of
            such files (a document per file of text), a data frame or a data set of ``datasets`` (by row), any other
            iterable of texts, or the name of a data set on the hub, which streams.
        text: Name of the column that holds the text.
        separator: What parts the documents of a file of text, in place of blank lines.
        configuration: Part of a hub data set that has several.

    Raises:
        DataError: It cannot be read, has no such column, or holds what is no text; while the documents are read, with
            file and line.
        OfflineError: A data set of the hub cannot be reached.
    """
    if separator == "":
        raise DataError("separator must be at least one character, such as '<|endoftext|>'; None for blank lines")
    if is_table(source):
        rows = open_rows(source)
        return Documents(rows.name.removeprefix("the "), "by row", _of_rows(rows, text))
    if not isinstance(source, str | Path):
        return Documents("texts", "one per text", _of_iterable(source))
    path = existing(source)
    if path is None:
        rows = open_hub(str(source), configuration=configuration, instead="a packaged corpus (list_corpora())")
        return Documents(str(source), "by row", _of_rows(rows, text))
    if path.is_dir():
        return Documents(str(source), *_of_folder(path, text, separator))
    if path.suffix.lower() in TABLES:
        return Documents(str(source), "by row", _of_rows(open_rows(path), text))
    if path.suffix.lower() in (".json", ".gz", ".zip", ".bz2", ".xz", ".zst", ".arrow", ".pdf", ".docx", ".html"):
        raise DataError(
            f"{path} is no file of text: expected .txt, {', '.join(TABLES)}. Of a .json file make .jsonl, an object "
            f"per line: pandas.read_json(path).to_json(new_path, orient='records', lines=True)"
        )
    how = "by blank lines" if separator is None else f"by {separator!r}"
    return Documents(str(source), how, _of_text(path, separator))


def existing(source: str | Path) -> Path | None:
    """Return the file or folder that a source names; None for one that is none, such as a name on the hub."""
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # a text in place of a path: too long, with NUL; a home that is none
        return None


def _of_iterable(source: Iterable[Any]) -> Iterator[str]:
    if isinstance(source, bytes | dict) or not isinstance(source, Iterable):
        raise DataError(
            f"a corpus must be a name, file, folder, data frame, data set or list of texts, not {source!r:.80}"
        )
    return (unicode_text(f"text {number}", one, error=DataError) for number, one in enumerate(source))


def _of_rows(rows: Rows, text: str) -> Iterator[str]:
    rows.expect(text=text)
    return (
        unicode_text(f"{place}: {text!r}", rows.cell("text", text, place, cells), error=DataError)
        for place, cells in rows.cells
    )


def _of_text(path: Path, separator: str | None) -> Iterator[str]:
    text = _whole(path)
    parts = re.split(r"\n(?:[^\S\n]*\n)+", text) if separator is None else text.split(separator)
    return (part.strip("\n") for part in parts if part.strip())


def _whole(path: Path) -> str:
    return decoded(path, path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")


def _of_folder(folder: Path, text: str, separator: str | None) -> tuple[str, Iterator[str]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    tables = [path for path in files if path.suffix.lower() in TABLES]
    if not texts and not tables:
        raise DataError(f"{folder} has no .txt file, and none of {', '.join(TABLES)}")
    read: dict[Path, Callable[[Path], Iterator[str]]] = dict.fromkeys(
        tables, lambda path: _of_rows(open_rows(path), text)
    )
    read |= dict.fromkeys(texts, lambda path: iter([_whole(path)]) if separator is None else _of_text(path, separator))
    how = ["by file" if separator is None else f"by {separator!r}"] * bool(texts) + ["by row"] * bool(tables)
    left = len(files) - len(read)
    said = f" ({left} other file{'s' * (left > 1)} left out)" if left else ""
    return " and ".join(how) + said, (one for path in sorted(read) for one in read[path](path))
