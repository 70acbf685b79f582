"""The store: what is written comes back, nothing is half there, and what cannot be used says why."""

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import safe_open

from saekit._base.store import Format
from saekit.errors import DataError, FeatureIndexError

THINGS = Format("thing", 2, DataError, remedy="make it again")
INDEX = Format("feature index", 1, FeatureIndexError, remedy="build it again")
SWEEP = Format("sweep", 1, DataError, remedy="sweep again")
ASSETS = Path(__file__).parents[2] / "saekit/assets"
ARRAYS = {
    "bits": np.array([True, False]),
    "half.row": np.arange(6, dtype=np.float16).reshape(2, 3),
    "big": np.arange(5, dtype=">i8"),
    "none": np.zeros((0, 7), np.float32),
    "one": np.array(2.5),
    "columns": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    "complex": np.array([1 + 2j], np.complex64),
}
ABOUT = {"z": {"b": 1, "a": [1.5, None, "é"]}, "n": np.int64(3), "tuple": (1, 2), "nan": float("nan")}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert found[name].shape == array.shape


def flip(file, at=-1):
    """Flip one bit of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def siblings(path):
    """Return what lies beside a path, but for its lock."""
    return sorted(p.name for p in path.parent.iterdir() if p != path and not p.name.endswith(".lock"))


@pytest.mark.parametrize("folder", [True, False])
def test_what_is_saved_comes_back(tmp_path, folder):
    path = tmp_path / "new" / "thing"
    arrays = {name: array for name, array in ARRAYS.items() if folder or array.dtype.kind != "c"}
    for number in (1, 2):  # over the one before
        (THINGS.save_folder if folder else THINGS.save_file)(path, {**ABOUT, "number": number}, arrays)
        stored = THINGS.load(path)
        about = dict(stored.about)
        assert np.isnan(about.pop("nan"))
        assert about == {"z": {"b": 1, "a": [1.5, None, "é"]}, "n": 3, "tuple": [1, 2], "number": number}
        assert list(stored.about["z"]) == ["b", "a"]  # in the order in which it was given
        assert stored.finished
        same(stored.arrays, arrays)
        assert siblings(path) == []


def test_a_folder_is_mapped_and_a_file_is_one_that_safetensors_reads(tmp_path):
    THINGS.save_folder(tmp_path / "a", {}, {"x": np.arange(3)})
    mapped = THINGS.load(tmp_path / "a").arrays["x"]
    assert isinstance(mapped, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1
    THINGS.save_file(tmp_path / "b", {"k": 8}, {"x": np.arange(3)})
    with safe_open(tmp_path / "b", framework="np") as file:
        assert file.get_tensor("x").tolist() == [0, 1, 2]
        assert json.loads(file.metadata()["saekit"])["k"] == 8


def test_words_alone_are_a_json_file_if_it_is_called_so(tmp_path):
    THINGS.save_file(tmp_path / "a.json", {"a": {"b": 1}, "points": [[1, 2]]})
    assert json.loads((tmp_path / "a.json").read_text())["points"] == [[1, 2]]
    assert THINGS.load(tmp_path / "a.json").about == {"a": {"b": 1}, "points": [[1, 2]]}


def test_indexes_and_sweeps_of_before_are_of_this_format():
    folders = sorted(ASSETS.glob("*/*/index"))
    assert folders
    for folder in folders:
        stored = INDEX.load(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert stored.about["d_sae"] == manifest["d_sae"]
        assert stored.arrays["count"].shape == (manifest["d_sae"],)
        assert INDEX.holds(folder, {"sae_hash": manifest["sae_hash"]})
    assert SWEEP.load(ASSETS / "smollm2-135m/sweep.json").about["points"]


@pytest.mark.parametrize("big", [False, True])
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path, big):
    numbers = np.zeros((1 << 27) + 8 if big else 64, np.uint8)  # more than is read at a time
    THINGS.save_folder(tmp_path / "folder", {"k": 8}, {"x": numbers})
    flip(tmp_path / "folder/x.bin", at=numbers.size - 3)
    with pytest.raises(DataError, match=r"folder is damaged or foreign: x\.bin was altered.*make it again"):
        THINGS.load(tmp_path / "folder")
    assert THINGS.load(tmp_path / "folder", verify=False).arrays["x"][-3] == 1
    assert not THINGS.holds(tmp_path / "folder", {"k": 8})
    if not big:
        for file, write in (("a", THINGS.save_file), ("a.json", lambda p, about, _: THINGS.save_file(p, about))):
            write(tmp_path / file, {"k": 8}, {"x": numbers})
            whole = (tmp_path / file).read_bytes()
            for at in range(len(whole)):
                (tmp_path / file).write_bytes(whole)
                flip(tmp_path / file, at)
                try:
                    assert THINGS.load(tmp_path / file).about == {"k": 8}  # a blank of the header
                except DataError as error:
                    assert str(tmp_path / file) in str(error)


def test_an_altered_manifest_is_found(tmp_path):
    THINGS.save_folder(tmp_path / "a", {"k": 8}, {})
    manifest = tmp_path / "a/manifest.json"
    manifest.write_text(manifest.read_text().replace('"k": 8', '"k": 9'))
    with pytest.raises(DataError, match="its manifest was altered"):
        THINGS.load(tmp_path / "a")


def test_what_is_no_thing_says_what_it_is(tmp_path):
    for name, text, message in (
        ("empty", "", "cannot be read"),
        ("half.json", '{"format": "sae', "cannot be read"),
        ("list.json", "[1]", "nothing that saekit wrote, expected a saekit thing"),
        ("other.json", '{"format": "saekit probe 2"}', "a 'saekit probe 2', expected a saekit thing"),
        ("old.json", '{"format": "saekit thing 1"}', "version 1, and this saekit reads version 2: make it again"),
        ("noise", "\x00" * 8 + "{" * 50, "cannot be read"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message) as caught:
            THINGS.load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(DataError, match="there is no saekit thing at"):
        THINGS.load(tmp_path / "absent")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"is not a saekit thing: it has no manifest\.json"):
        THINGS.load(tmp_path / "folder")
    THINGS.save_folder(tmp_path / "short", {}, {"x": np.arange(9)})
    (tmp_path / "short/x.bin").write_bytes(b"123")
    with pytest.raises(DataError, match=r"x\.bin has 3 bytes, expected 72"):
        THINGS.load(tmp_path / "short")
    (tmp_path / "short/x.bin").unlink()
    with pytest.raises(DataError, match=r"x\.bin is missing, expected 72"):
        THINGS.load(tmp_path / "short")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "|O", "shape": [1]},
        {"dtype": "<f4", "shape": [-1]},
        {"dtype": "<f4", "shape": [2**62, 2**62]},
        {"dtype": "<f4", "shape": [1.5]},
        {"dtype": "nonsense", "shape": [1]},
        {"dtype": "<f4"},
        {"dtype": "<f4", "shape": [1], "file": "../secret.bin"},
        {"dtype": "<f4", "shape": [1], "file": "/etc/passwd"},
        {"dtype": "<f4", "shape": [1], "file": 3},
        [],
    ],
)
def test_a_hostile_manifest_reads_nothing_but_numbers_within_its_folder(tmp_path, entry):
    (tmp_path / "secret.bin").write_bytes(b"1234")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.bin").write_bytes(b"12345678")
    (folder / "manifest.json").write_text(json.dumps({"format": "saekit thing 2", "arrays": {"x": entry}}))
    with pytest.raises(DataError, match="damaged or foreign"):
        THINGS.load(folder)
    (folder / "manifest.json").write_text(json.dumps({"format": "saekit thing 2", "arrays": {"../secret": {}}}))
    with pytest.raises(DataError, match="damaged or foreign"):
        THINGS.load(folder)


def test_what_is_not_a_thing_is_never_replaced(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    for write in (THINGS.new, lambda path: THINGS.resume(path, {})):
        with pytest.raises(DataError, match="is there already and is not a saekit thing"), write(precious):
            pass
    with pytest.raises(DataError, match="is a folder: name a file in it"):
        THINGS.save_file(precious, {})
    assert (precious / "thesis.txt").read_text() == "years"
    THINGS.save_folder(tmp_path / "a", {"k": 1}, {"x": np.arange(3)})
    with pytest.raises(KeyboardInterrupt), THINGS.new(tmp_path / "a") as out:
        out.empty("x", "<f4", 3)
        raise KeyboardInterrupt
    assert THINGS.load(tmp_path / "a").about == {"k": 1}
    assert siblings(tmp_path / "a") == ["precious"]


def test_arrays_that_lie_in_the_folder_are_filled_in_any_order(tmp_path):
    with THINGS.new(tmp_path / "a") as out:
        squares, nothing = out.empty("squares", "i4", (4, 2)), out.empty("nothing", np.float64, 0)
        for i in (3, 1, 0, 2):
            squares[i] = i * i
        out.finish({"k": 1}, {"squares": squares, "nothing": nothing, "other": np.arange(2)})
    assert THINGS.load(tmp_path / "a").arrays["squares"].tolist() == [[0, 0], [1, 1], [4, 4], [9, 9]]
    assert THINGS.load(tmp_path / "a").arrays["nothing"].shape == (0,)


def test_a_folder_that_grows_counts_up_to_its_last_mark(tmp_path):
    path = tmp_path / "rows"
    with pytest.raises(KeyboardInterrupt), THINGS.resume(path, {"model": "a"}) as out:
        assert out.about == {"model": "a"}
        out.append("rows", np.ones((2, 3), np.float16))
        out.append("ids", np.arange(2))
        out.mark({"done": 2})
        out.append("rows", np.full((5, 3), 7, np.float16))  # not marked
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="is an unfinished thing: call what writes it again"):
        THINGS.load(path)
    part = THINGS.load(path, partial=True)
    assert not part.finished
    assert part.about == {"model": "a", "done": 2}
    same(part.arrays, {"rows": np.ones((2, 3), np.float16), "ids": np.arange(2)})
    with THINGS.resume(path, {"model": "a"}) as out:
        assert out.about["done"] == 2
        out.append("rows", np.zeros((1, 3), np.float16))
        out.append("ids", np.arange(2, 3))
        out.finish({"done": 3})
    whole = THINGS.load(path)
    assert whole.finished
    same(whole.arrays, {"rows": np.array([[1] * 3, [1] * 3, [0] * 3], np.float16), "ids": np.arange(3)})
    with THINGS.resume(path, {"model": "a"}) as out:
        assert out.finished
    assert THINGS.load(path).finished


def test_whole_arrays_are_replaced_together_with_what_belongs_to_them(tmp_path):
    path = tmp_path / "state"
    for turn in range(4):
        with THINGS.resume(path, {"lr": 0.1}) as out:
            assert out.about.get("step", 0) == 10 * turn
            assert turn == 0 or out.state["w"].tolist() == [10 * turn] * 3
            out.append("log", np.arange(turn, turn + 1))
            for step in (10 * turn + 5, 10 * turn + 10):
                out.checkpoint({"step": step}, {"w": np.full(3, step), "m": np.zeros(2)})
        assert sum(file.suffix == ".bin" for file in path.iterdir()) == 3  # the ones before are gone
    with pytest.raises(KeyboardInterrupt), THINGS.resume(path, {"lr": 0.1}) as out:
        monkey = iter([np.full(3, 99)])

        class Breaks(dict):
            def items(self):
                yield "w", next(monkey)
                raise KeyboardInterrupt

        out.checkpoint({"step": 99}, Breaks(w=1))
    stored = THINGS.load(path, partial=True)
    assert stored.about["step"] == 40
    assert stored.arrays["w"].tolist() == [40] * 3
    assert stored.arrays["log"].tolist() == [0, 1, 2, 3]


def test_one_of_another_identity_is_refused_by_name(tmp_path):
    with THINGS.resume(tmp_path / "a", {"k": 8, "layers": (1, 2), "nan": float("nan")}) as out:
        out.finish({"done": 1})
    with THINGS.resume(tmp_path / "a", {"k": np.int64(8), "layers": [1, 2], "nan": float("nan")}) as out:
        assert out.about["done"] == 1
    with pytest.raises(DataError, match="a thing of another k 2 against 8 "):
        with THINGS.resume(tmp_path / "a", {"k": 2, "layers": [1, 2]}):
            pass
    with pytest.raises(DataError, match="of another tokenizer 'abc' against one that is not recorded"):
        with THINGS.resume(tmp_path / "a", {"k": 8, "tokenizer": "abc"}):
            pass
    assert THINGS.holds(tmp_path / "a", {"k": 8})
    assert not THINGS.holds(tmp_path / "a", {"k": 2})
    assert not THINGS.holds(tmp_path / "a", {"tokenizer": "abc"})
    assert not THINGS.holds(tmp_path / "b", {})


def test_a_damaged_folder_does_not_grow(tmp_path):
    with THINGS.resume(tmp_path / "a", {}) as out:
        out.append("rows", np.arange(100))
        out.mark({})
    flip(tmp_path / "a/rows.bin", 5)
    with pytest.raises(DataError, match=r"rows\.bin was altered"), THINGS.resume(tmp_path / "a", {}):
        pass


WRITER = """
import sys, time
import numpy as np
from saekit._base.store import Format
from saekit.errors import DataError
with Format("thing", 2, DataError, remedy="make it again").resume(sys.argv[1], {"model": "a"}) as out:
    start = out.about.get("done", 0)
    assert not start or out.finished or (out.state["sum"] == start * (start - 1) // 2).all()
    print("writing", flush=True)
    if len(sys.argv) > 2:
        sys.stdin.readline()
    for number in range(start, 60):
        out.append("rows", np.full((300, 50), number, np.int32))
        time.sleep(0.002)
        if number % 2:
            out.checkpoint({"done": number + 1}, {"sum": np.full(20000, (number + 1) * number // 2)})
    out.finish({"done": 60}, {})
"""


def writer(path, *words):
    """Start a process that writes 60 parts, from where the one before has ended; with "wait" it begins when told."""
    options = {"cwd": Path(__file__).parents[2], "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), *words], stdin=subprocess.PIPE, text=True, **options
    )


def test_a_writer_that_is_killed_again_and_again_ends_at_the_same_bytes(tmp_path):
    path, dice = tmp_path / "rows", random.Random(0)
    kills = 0
    while True:
        process = writer(path)
        assert process.stdout.readline() == "writing\n", process.stderr.read()
        try:
            _, problem = process.communicate(
                timeout=dice.uniform(0.01, 0.1) * (kills + 1)
            )  # on a slow disk too it ends
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert not process.returncode, problem
        break
    assert kills
    rows = THINGS.load(path).arrays["rows"]
    np.testing.assert_array_equal(rows, np.repeat(np.arange(60), 300)[:, None].repeat(50, 1))
    assert sorted(file.name for file in path.iterdir()) in (["manifest.json", "rows.bin"],)


@pytest.mark.filterwarnings("ignore:.*is being written by")  # on a slow machine
def test_of_two_writers_one_is_refused_and_nothing_is_mixed(tmp_path):
    path = tmp_path / "rows"
    with writer(path, "wait") as process:
        assert process.stdout.readline() == "writing\n", process.stderr.read()
        refused = rf"rows is being written by process {process.pid} since \d\d:\d\d:\d\d: wait until"
        with pytest.raises(DataError, match=refused), THINGS.resume(path, {"model": "a"}, wait_seconds=0):
            pass
        with pytest.raises(DataError, match=refused), THINGS.new(path, wait_seconds=0):
            pass
        process.stdin.write("\n")
        process.stdin.flush()
        with THINGS.resume(path, {"model": "a"}, wait_seconds=-1) as out:
            assert out.finished
    assert process.returncode == 0


@pytest.mark.filterwarnings("ignore:.*is being written by")  # on a slow machine
def test_threads_that_save_to_one_path_wait_for_each_other(tmp_path):
    threads, errors = [], []

    def save(number):
        try:
            THINGS.save_folder(tmp_path / "b", {"number": number}, {"x": np.full(1000, number)})
        except DataError as error:
            errors.append(error)

    for number in range(8):
        threads.append(threading.Thread(target=save, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    stored = THINGS.load(tmp_path / "b")
    assert not errors
    assert set(stored.arrays["x"]) == {stored.about["number"]}


def test_what_a_killed_process_has_left_beside_a_folder_goes_with_the_next(tmp_path):
    left = tmp_path / ".a.abcd1234.part"
    others = [tmp_path / ".a.b.abcd1234.part", tmp_path / ".other.abcd1234.part"]
    for folder in (left, *others):
        (folder / "x").mkdir(parents=True)
    THINGS.save_folder(tmp_path / "a", {}, {})
    assert not left.exists()
    assert all(folder.exists() for folder in others)


def test_a_small_disk_that_is_full_names_path_need_and_what_is_kept(small_disk):
    path = small_disk / "rows"
    kept = r"rows needs another 400 kB, and .* are left; it keeps what was done up to the last checkpoint: call again"
    with pytest.raises(DataError, match=kept), THINGS.resume(path, {}) as out:
        for number in range(9):
            out.append("rows", np.full(100_000, number, np.int32))
            out.mark({"done": number + 1})
    stored = THINGS.load(path, partial=True)
    assert stored.about["done"] == 2
    assert stored.arrays["rows"][[0, -1]].tolist() == [0, 1]
    for write in (THINGS.save_folder, THINGS.save_file):
        with pytest.raises(DataError, match=r"the disk is full: .* needs another 8.*MB, .*; nothing was written"):
            write(small_disk / "b", {}, {"x": np.arange(1_000_000)})
    with pytest.raises(DataError, match="needs another 40 MB, "), THINGS.new(small_disk / "b") as out:
        out.empty("x", "<f4", 10_000_000)
    with pytest.raises(DataError, match=r"needs another 5 GB, and its disk has .* left: free some space"):
        THINGS.check_room(small_disk / "b", 5_000_000_000)
    assert sorted(file.name for file in small_disk.iterdir() if not file.name.endswith(".lock")) == ["rows"]
    (path / "rows.bin").write_bytes((path / "rows.bin").read_bytes()[:800_000])
    with THINGS.resume(path, {}) as out:
        assert out.about["done"] == 2


def test_a_full_disk_names_path_need_and_what_is_kept(tmp_path):
    """The same where nobody may mount: one array's file is a device that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with THINGS.resume(tmp_path / "rows", {}) as out:
        out.append("ids", np.arange(3))
        out.mark({"done": 1})
    (tmp_path / "rows/rows.bin").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"rows needs another 24 bytes, and .* are left; it keeps what was done"):
        with THINGS.resume(tmp_path / "rows", {}) as out:
            out.append("ids", np.arange(2))
            out.mark({"done": 2})
            out.append("rows", np.arange(3))
    stored = THINGS.load(tmp_path / "rows", partial=True)
    assert stored.about == {"done": 2}
    assert stored.arrays["ids"].tolist() == [0, 1, 2, 0, 1]


def test_a_checkpoint_is_due_after_a_minute(tmp_path, monkeypatch):
    with THINGS.resume(tmp_path / "a", {}) as out:
        assert not out.due
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 61)
        assert out.due
        out.checkpoint({})
        assert not out.due


def test_mistakes_of_a_room_are_found_at_once(tmp_path):
    with pytest.raises(ValueError, match="the manifest uses these keys itself"):
        THINGS.save_file(tmp_path / "a", {"arrays": 1})
    with pytest.raises(ValueError, match="only arrays of numbers"):
        THINGS.save_folder(tmp_path / "a", {}, {"x": np.array(["text"])})
    with pytest.raises(ValueError, match="cannot be the name of an array"):
        THINGS.save_folder(tmp_path / "a", {}, {"../x": np.zeros(1)})
    with pytest.raises(TypeError, match="set is not plain data"):
        THINGS.save_folder(tmp_path / "a", {"x": {1}}, {})
    with pytest.raises(RuntimeError, match=r"ended without finish\(\)"), THINGS.new(tmp_path / "a"):
        pass
    with THINGS.resume(tmp_path / "a", {}) as out:
        out.append("x", np.zeros((1, 2)))
        with pytest.raises(ValueError, match="x grows by float64"):
            out.append("x", np.zeros((1, 3)))
        with pytest.raises(ValueError, match="x is appended to"):
            out.checkpoint({}, {"x": np.zeros(1)})
    shutil.rmtree(tmp_path / "a")


@pytest.mark.parametrize("value", [None, "8", 8.0, -1, True, [8]])
def test_what_a_manifest_has_to_say_is_asked_for_in_plain_words(tmp_path, value):
    things = Format("thing", 2, DataError, remedy="make it again", fields={"k": int, "name": str})
    THINGS.save_folder(tmp_path / "a", {"k": value, "name": "x"}, {})
    with pytest.raises(
        DataError, match=r"a is damaged or foreign: its manifest says k = .*, expected a whole number, 0"
    ):
        things.load(tmp_path / "a")
    THINGS.save_folder(tmp_path / "a", {"k": 3}, {})
    with pytest.raises(DataError, match="its manifest says name = None, expected text"):
        things.load(tmp_path / "a")
    with THINGS.resume(tmp_path / "b", {"name": "x"}) as out:
        out.checkpoint({"sequences": 3, "of": 1200})
    assert things.load(tmp_path / "b", partial=True).about["of"] == 1200
    with pytest.raises(DataError, match="b is an unfinished thing, 3 of 1,200 sequences: call what writes it again"):
        things.load(tmp_path / "b")


def test_a_folder_whose_writer_was_killed_over_its_first_word_is_begun_again(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/manifest.json.part").write_text('{"form')
    with THINGS.resume(tmp_path / "a", {}) as out:
        out.finish({"k": 1})
    assert THINGS.load(tmp_path / "a").about == {"k": 1}


def test_a_folder_that_is_replaced_while_it_is_read_is_read_as_one_of_the_two(tmp_path, monkeypatch):
    THINGS.save_folder(tmp_path / "a", {"number": 1}, {"x": np.full(9, 1)})
    real, writers = Format._mapped, [lambda: THINGS.save_folder(tmp_path / "a", {"number": 2}, {"x": np.full(9, 2)})]

    def mapped(*args):
        if writers:
            writers.pop()()
        return real(*args)

    monkeypatch.setattr(Format, "_mapped", mapped)
    stored = THINGS.load(tmp_path / "a", verify=False)
    assert stored.about["number"] == 2
    assert set(stored.arrays["x"]) == {2}
