"""Several processes at one path, and processes that are killed at any moment: the result is right or refused.

What "right" is comes from the same job at a path of its own, undisturbed: its answer, and its files byte for byte.
``SAEKIT_LONG=10`` kills ten times as often.
"""

import json
import os
import random
import signal
import time

import pytest

from tests._base.conftest import contents

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked")]
KILLS = 20 * int(os.environ.get("SAEKIT_LONG", "1"))
JOBS = ["index", "harvest", "checkpoint", "probe", "sae", "download", "folder", "conversion"]
OTHER = {  # the same path, asked for something else
    "index": {"k": 2},  # of the same weights
    "harvest": {"hook": "blocks.0.hook_resid_post"},
    "checkpoint": {"seed": 1},
    "probe": {"folds": 4},
    "sae": {"k": 2},
}


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("job", JOBS)
def test_processes_that_want_the_same_get_the_same(workers, undisturbed, tmp_path, job, n):
    answer, wanted, _ = undisturbed(job)
    pids = [workers.start(job, tmp_path / "x") for _ in range(n)]
    assert [workers.end(pid)["returned"] for pid in pids] == [answer] * n
    assert contents(tmp_path / "x") == wanted


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("job", OTHER)
def test_processes_that_want_different_things_get_their_own_or_are_refused(workers, undisturbed, tmp_path, job, n):
    wishes = [{}, OTHER[job]] * (n // 2)
    pids = [workers.start(job, tmp_path / "x", **wish) for wish in wishes]
    said = [workers.end(pid) for pid in pids]
    assert any("returned" in one for one in said)
    for one, wish in zip(said, wishes, strict=True):
        if job in ("sae", "probe"):  # read back from disk, where the last to write has won
            assert one["returned"] in [undisturbed(job, **wish)[0] for wish in wishes]
        elif "returned" in one:
            assert one["returned"] == undisturbed(job, **wish)[0]
        else:
            assert "of another " in one["refused"] and "Choose another path" in one["refused"], one
    assert contents(tmp_path / "x") in [undisturbed(job, **wish)[1] for wish in wishes]


@pytest.mark.parametrize("job", JOBS)
def test_one_that_is_killed_at_any_moment_leaves_what_the_next_makes_whole(workers, undisturbed, tmp_path, job):
    answer, wanted, seconds = undisturbed(job)
    dice, killed, place = random.Random(job), 0, 0
    while killed < KILLS:
        path, left = tmp_path / str(place), dice.randint(1, 5)  # so many die before one is let alone
        while left:
            pid = workers.start(job, path)
            time.sleep(dice.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            if workers.end(pid) is not None:
                seconds *= 0.8  # it was faster than alone: the machine has less to do now
                break
            killed, left = killed + 1, left - 1
        said = workers.do(job, path)
        assert said.get("returned") == answer, said
        assert contents(path) == wanted
        if job in ("index", "harvest", "checkpoint", "sae"):  # others lock, and clear away, only what they have to make
            assert not list(tmp_path.rglob("*.part"))
        place += 1


@pytest.mark.parametrize("job", ["index", "harvest", "checkpoint"])
def test_what_was_killed_is_not_taken_up_by_another(workers, undisturbed, tmp_path, job):
    for number in range(20):  # until one dies after its first word, and before its last
        path = tmp_path / str(number)
        manifest = path.with_name(f"{number}.partial" if job == "index" else path.name) / "manifest.json"
        pid, began = workers.start(job, path), time.monotonic()
        while not manifest.exists() and time.monotonic() - began < 30:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        workers.end(pid)
        if manifest.exists() and not json.loads(manifest.read_text())["finished"]:
            break
    said = workers.do(job, path, **OTHER[job])
    assert "of another " in said["refused"], said
    assert workers.do(job, path)["returned"] == undisturbed(job)[0]


def test_who_waits_is_told_for_whom_and_then_finds_the_result(workers, undisturbed, tmp_path):
    answer, wanted, _ = undisturbed("harvest")
    first = workers.start("harvest", tmp_path / "x")
    for _ in range(1000):
        if (tmp_path / "x").exists():
            break
        time.sleep(0.001)
    os.kill(first, signal.SIGSTOP)
    second = workers.start("harvest", tmp_path / "x")
    time.sleep(1.5)
    os.kill(first, signal.SIGCONT)
    assert workers.end(first)["returned"] == answer
    said = workers.end(second)
    assert said["returned"] == answer
    assert len(said["warned"]) == 1
    assert f"{tmp_path / 'x'} is being written by process {first} since " in said["warned"][0]
    assert contents(tmp_path / "x") == wanted


def test_who_waits_for_one_that_is_killed_goes_on_in_its_place(workers, undisturbed, tmp_path):
    answer, wanted, seconds = undisturbed("index")
    first = workers.start("index", tmp_path / "x")
    time.sleep(seconds / 3)
    second = workers.start("index", tmp_path / "x")
    time.sleep(seconds / 4)
    os.kill(first, signal.SIGKILL)
    workers.end(first)
    assert workers.end(second)["returned"] == answer
    assert contents(tmp_path / "x") == wanted
