"""A disk of a few pages: every writer says what it needs and what is kept, and goes on when there is room again."""

import os
import subprocess
import sys

import pytest

from tests._base.conftest import contents, remount

JOBS = ["index", "harvest", "checkpoint", "probe", "sae", "download", "folder", "conversion"]


@pytest.mark.parametrize("job", JOBS)
def test_what_does_not_fit_is_refused_in_words_and_made_whole_when_there_is_room(workers, undisturbed, small_disk, job):
    answer, wanted, _ = undisturbed(job)
    refusals = 0
    for size in ("4k", "16k", "48k", "96k", "160k"):
        remount(small_disk, f"size={size}")
        said = workers.do(job, small_disk / "x")
        if "refused" not in said:
            assert said["returned"] == answer
            break
        refusals += 1
        words = said["refused"]
        assert str(small_disk) in words, words
        assert "the disk is full" in words or ("needs another" in words and "its disk has" in words), words
        assert any(end in words for end in ("nothing was", "is kept", "last checkpoint", "free some space")), words
        assert "0.0 GB" not in words
    assert refusals
    remount(small_disk, "size=20m")
    assert workers.do(job, small_disk / "x")["returned"] == answer
    assert contents(small_disk / "x") == wanted


@pytest.mark.parametrize("job", JOBS)
def test_a_disk_that_is_read_only_is_refused_in_words(workers, undisturbed, small_disk, job):
    remount(small_disk, "ro,size=20m")
    said = workers.do(job, small_disk / "x")
    assert "cannot be written" in said["refused"], said
    assert str(small_disk) in said["refused"]
    remount(small_disk, "rw,size=20m")
    assert workers.do(job, small_disk / "x")["returned"] == undisturbed(job)[0]
    remount(small_disk, "ro,size=20m")
    if job in ("download", "folder", "conversion"):  # what is there is read without a word
        assert workers.do(job, small_disk / "x") == {"returned": undisturbed(job)[0], "warned": []}


def test_a_file_larger_than_allowed_is_refused_in_words(tmp_path):
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from saekit._base.store import Format\n"
        "from saekit.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    Format('thing', 1, DataError, remedy='').save_folder(sys.argv[1], {}, {'x': np.zeros(5000)})\n"
        "except DataError as problem:\n"
        "    print(problem)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], env=environment, capture_output=True, text=True, check=True
    )
    assert f"{tmp_path / 'x'} needs another 40 kB, and a file so large is not allowed here; nothing" in done.stdout
    assert not (tmp_path / "x").exists()
