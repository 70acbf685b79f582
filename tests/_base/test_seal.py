"""Sealed folders: what is not as it was written is found, whatever its size; what nobody sealed is taken as it is."""

import json
import os

import numpy as np
import pytest

from saekit._base import seal as module
from saekit._base.seal import SEAL, check_seal, is_sealed, seal
from saekit.errors import ChecksumError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub/part.bin").write_bytes(bytes(70_000_000))  # more than is read at a time
    seal(folder)
    return folder


def test_a_folder_as_it_was_sealed_is_read_once(folder, monkeypatch):
    assert is_sealed(folder)
    check_seal(folder, "again")
    monkeypatch.setattr(module, "_digest", lambda file: pytest.fail("read twice"))
    check_seal(folder, "again")


def test_a_changed_bit_is_found_also_after_a_look(folder):
    check_seal(folder, "again")
    with (folder / "sub/part.bin").open("r+b") as file:
        file.seek(68_000_000)
        file.write(b"\1")
    os.utime(folder / "sub/part.bin", ns=(1, 1))
    with pytest.raises(ChecksumError, match=r"model is damaged \(1 files\): sub/part.bin was altered. Remedy: again"):
        check_seal(folder, "again")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text(""), "config.json was altered"),
        (lambda folder: (folder / "sub/more.bin").write_bytes(b""), "sub/more.bin is not of it"),
        (lambda folder: (folder / SEAL).write_text((folder / SEAL).read_text().replace("a", "b")), "checksums.json"),
        (lambda folder: (folder / SEAL).write_text(""), "checksums.json is damaged or foreign"),
    ],
)
def test_what_is_missing_altered_or_added_is_named(folder, harm, said):
    harm(folder)
    with pytest.raises(ChecksumError, match=said):
        check_seal(folder, "again")


def test_what_no_reader_would_take_for_one_of_the_files_may_be_added(folder):
    for name in ("README.md", ".DS_Store", "sub/.x.lock", "other/part.bin", "sub/" + SEAL):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    check_seal(folder, "again")


def test_a_folder_without_a_list_is_taken_as_it_is(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert not is_sealed(tmp_path)
    check_seal(tmp_path, "again")


def test_a_list_that_names_files_elsewhere_reads_none(folder):
    listed = json.loads((folder / SEAL).read_text())
    listed["files"]["../secret"] = "0" * 64
    (folder / SEAL).write_text(json.dumps(listed))
    with pytest.raises(ChecksumError, match="altered"):
        check_seal(folder, "again")
