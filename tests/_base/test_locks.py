"""Locks: who waits is told for whom, nobody waits for himself, and a disk without locks is no reason to mix."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from saekit._base.locks import locked
from saekit.errors import DataError, Stopped

HOLD = """
import sys
from pathlib import Path
from saekit._base.locks import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of ``x`` until its input ends."""
    command = [sys.executable, "-W", "ignore", "-c", HOLD, str(tmp_path / "x")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_waits_a_second_is_told_for_whom_once_and_goes_on_when_the_other_is_killed(tmp_path, holder):
    threading.Timer(1.5, holder.kill).start()
    with pytest.warns(UserWarning) as heard, locked(tmp_path / "x"):
        pass
    (word,) = heard
    assert f"{tmp_path / 'x'} is being written by process {holder.pid} since " in str(word.message)


def test_who_waits_no_longer_is_refused_with_who_it_is(tmp_path, holder):
    began = time.monotonic()
    with pytest.raises(DataError, match=rf"x is being written by process {holder.pid} since .*: wait until it is done"):
        with locked(tmp_path / "x", error=DataError, wait_seconds=0.2):
            pass
    assert time.monotonic() - began < 5


def test_waiting_hears_stop(tmp_path, holder):
    asked = []
    with pytest.raises(Stopped), locked(tmp_path / "x", stop=lambda: asked.append(1) or len(asked) > 2):
        pass


def test_nobody_waits_for_himself(tmp_path):
    with locked(tmp_path / "x"), pytest.raises(DataError, match="by this very thread: that has to end first"):
        with locked(tmp_path / "x", error=DataError):
            pass
    with locked(tmp_path / "x"):
        pass


def test_a_folder_has_one_lock_by_whatever_name_it_is_called(tmp_path, holder):
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    with pytest.raises(DataError, match=f"link is being written by process {holder.pid}"):
        with locked(tmp_path / "link", error=DataError, wait_seconds=0):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_on_a_disk_without_locks_a_file_stands_for_one_and_this_is_said(tmp_path, monkeypatch, number):
    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    order = []

    def write(name):
        with locked(tmp_path / "x"):
            order.append(name)
            time.sleep(0.1)
            order.append(name)

    with pytest.warns(UserWarning) as heard:
        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "".join(order) in ("aabb", "bbaa")
    assert "lock" in str(heard[0].message)
    assert not [file for file in tmp_path.iterdir() if file.stat().st_size], "what is left blocks nobody"


def test_what_a_file_that_stands_for_a_lock_leaves_when_its_process_is_killed_does_not_block(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(fcntl, "flock", lambda *args: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "no locks")))
    from filelock import SoftFileLock

    lock = SoftFileLock(tmp_path / ".x.softlock")
    lock.acquire()
    held = (tmp_path / ".x.softlock").read_text()
    lock.release()
    (tmp_path / ".x.softlock").write_text(held.replace(str(os.getpid()), str(gone.pid), 1))
    with pytest.warns(UserWarning, match="has no locks"), locked(tmp_path / "x", error=DataError, wait_seconds=10):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_lock_that_cannot_be_written_is_refused_with_the_path(tmp_path, monkeypatch, number):
    real = os.open

    def deny(path, *args, **kwargs):
        if str(path).endswith(".x.lock"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", deny)
    with (
        pytest.raises(DataError, match=rf"{tmp_path / 'x'} .*nothing was written"),
        locked(tmp_path / "x", error=DataError),
    ):
        pass


def test_a_parent_that_is_a_file_is_refused_with_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/x cannot be written"), locked(tmp_path / "file/x", error=DataError):
        pass


def test_an_old_folder_whose_replacement_was_killed_midway_is_back(tmp_path):
    left = tmp_path / ".x.abcd1234.part"
    (left / "x.before").mkdir(parents=True)
    (left / "x.before/data").write_text("old")
    (left / "x").mkdir()
    with locked(tmp_path / "x"):
        assert (tmp_path / "x/data").read_text() == "old"
    assert not left.exists()
