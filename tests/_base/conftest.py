"""Workers that write into folders, and what they leave there when nobody disturbs them."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


class Workers:
    def __init__(self):
        root = Path(__file__).parents[2]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-m", "tests._base.workers"]
        self.process = subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.line() == "ready"

    def line(self):
        return self.process.stdout.readline().strip()

    def ask(self, **words):
        self.process.stdin.write(json.dumps(words, default=str) + "\n")
        self.process.stdin.flush()
        return self.line()

    def start(self, job, path, **options):
        return int(self.ask(job=job, path=path, **options))

    def end(self, pid):
        said = json.loads(self.ask(wait=pid))
        assert said is None or "failed" not in said, said["failed"]
        return said

    def do(self, job, path, **options):
        return self.end(self.start(job, path, **options))


@pytest.fixture(scope="session")
def workers():
    workers = Workers()
    yield workers
    workers.process.communicate()


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of one megabyte; return its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be made by root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, options):
    """Give a `small_disk` another size, or make it read-only."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def contents(path):
    """Return a digest of every file that is no lock, nor left by somebody who was killed."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    shown = {file.relative_to(path.parent).parts[1:]: file for file in files}
    return {
        parts: hashlib.sha256(file.read_bytes()).hexdigest()
        for parts, file in shown.items()
        if not any(part.startswith(".") for part in parts)
    }


@pytest.fixture(scope="session")
def undisturbed(workers, tmp_path_factory):
    """Return a function that says what a job answers and leaves on disk, and how long it takes."""
    known = {}

    def of(job, **options):
        key = job, *sorted(options.items())
        if key not in known:
            path, began = tmp_path_factory.mktemp("alone") / "x", time.monotonic()
            said = workers.do(job, path, **options)
            known[key] = said["returned"], contents(path), time.monotonic() - began
        return known[key]

    return of
