"""Reading corpora of the user's own: local files, and data sets that stream from the hub."""

import json
from collections.abc import Iterator
from pathlib import Path

from saekit.errors import DataError, OfflineError


def documents(name: str) -> Iterator[str]:
    """Yield the documents of a ``.txt`` or ``.jsonl`` file, a folder of ``.txt`` files, or a data set on the hub.

    Raises DataError for a file that cannot be read, OfflineError for a hub that cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        if not files:
            raise DataError(f"{path} has no .txt file")
        for file in files:
            yield file.read_text(encoding="utf-8", errors="replace")
    elif path.suffix == ".jsonl" and path.is_file():
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield json.loads(line)["text"]
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{path}, line {number}: expected an object with a 'text' ({error!r})") from error
    elif path.is_file():
        yield path.read_text(encoding="utf-8", errors="replace")
    else:
        yield from _hub(name)


def _hub(name: str) -> Iterator[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train", streaming=True)
        columns = rows.column_names or list(next(iter(rows)))
    except Exception as error:
        raise OfflineError(
            f"could not open {name!r} on the data hub: {str(error).strip().splitlines()[0][:200]}. Connect and try "
            f"again, pass a local file, or use a packaged corpus (list_corpora() shows them)"
        ) from error
    if "text" not in columns:
        raise DataError(f"data set {name!r} has columns {', '.join(columns)}: expected one named 'text'")
    for row in rows:
        yield row["text"]
