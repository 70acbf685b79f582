"""Checksums of a folder whose files other libraries read: a model, an SAE, a data set.

A sealed folder holds a list of its files, with the size and SHA-256 of each, in ``checksums.json``. A folder without
one, from elsewhere or from an earlier saekit, is taken as it is.
"""

import fnmatch
import os
from pathlib import Path, PurePosixPath

from saekit._base.files import file_digest
from saekit._base.store import Format
from saekit.errors import ChecksumError, SaekitError

SEAL = "checksums.json"
_LIST = Format(
    "list of checksums", 1, ChecksumError, remedy="fetch, convert or save its folder again", fields={"files": dict}
)
_Versions = dict[str, tuple[int, int]]
_read: dict[Path, _Versions] = {}  # folders that this process has found intact, as their files were then


def seal(folder: Path, pattern: str = "*") -> None:
    """Write the list of a folder that is complete, before it takes its name; of the files whose names match."""
    names = fnmatch.filter(_files(folder), pattern)
    _LIST.save_file(folder / SEAL, {"files": {name: _digest(folder / name) for name in names}})


def is_sealed(folder: Path) -> bool:
    """Say whether a folder has its list: it is complete then."""
    return (folder / SEAL).is_file()


def check_seal(folder: Path, remedy: str, *, error: type[SaekitError] = ChecksumError) -> None:
    """Compare every file of a sealed folder with the list, once in a process as long as sizes and times stay.

    Args:
        folder: The folder; one without a list is not looked at.
        remedy: What to do if it was altered.
        error: Class of the error.

    Raises:
        SaekitError: Of the class ``error``: a file is missing or was altered; one that the list lacks lies among
            those of its kind; or the list itself was altered.
    """
    if not is_sealed(folder):
        return
    versions = _files(folder, with_list=True)
    if _read.get(folder.absolute()) == versions:
        return
    try:
        listed = _LIST.load(folder / SEAL).about["files"]
    except ChecksumError as problem:
        raise error(str(problem)) from problem
    kinds = {_kind(name) for name in listed}
    wrong = {name: "is missing" for name in listed if name not in versions}
    wrong |= {name: "is not of it" for name in versions if name not in listed and name != SEAL and _kind(name) in kinds}
    wrong = wrong or {name: "was altered" for name, digest in listed.items() if _digest(folder / name) != digest}
    if wrong:
        said = ", ".join(f"{name} {what}" for name, what in list(wrong.items())[:3])
        raise error(f"{folder} is damaged ({len(wrong)} files): {said}. Remedy: {remedy}")
    _read[folder.absolute()] = versions


def _kind(name: str) -> tuple[PurePosixPath, str]:
    """Return what tells whether a reader would take a file for one of the others: its folder and its suffix."""
    return PurePosixPath(name).parent, PurePosixPath(name).suffix


def _digest(file: Path) -> str:
    return file_digest(file, file.stat().st_size).hexdigest()


def _files(folder: Path, *, with_list: bool = False) -> _Versions:
    """Return size and time of every file, by its name within the folder, but for hidden ones and other lists."""
    versions = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file = Path(place, name)
            if name.startswith(".") or (name == SEAL and not (with_list and file.parent == folder)):
                continue
            state = file.lstat()
            versions[file.relative_to(folder).as_posix()] = (state.st_size, state.st_mtime_ns)
    return dict(sorted(versions.items()))
