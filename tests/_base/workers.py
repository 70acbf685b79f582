"""A process that forks workers: torch is imported and the small model read once, and a worker begins in milliseconds.

Lines in, lines out: ``{"job": ..., "path": ...}`` starts a worker and answers its process id, ``{"wait": pid}`` waits
for one and answers what it returned, what it was warned of, or the saekit error that refused it; null if it was killed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import torch

import saekit.index.build as build_module
from saekit._base import cache, writer
from saekit.errors import SaekitError
from saekit.index import FeatureIndex
from saekit.models import load_model, packaged
from saekit.probes import ProbeResult, probe
from saekit.saes import load_sae, save_sae
from saekit.training import harvest, train_sae
from tests import tiny
from tests.planted_texts import planted

HOOK = "blocks.1.hook_resid_post"
HERE = Path(tempfile.mkdtemp(prefix="saekit-workers-"))
build_module._CHUNK, writer._CHECKPOINT_SECONDS = 1, 0  # many checkpoints: many moments to die at


def sha(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def index(path: Path, k: int = 8, kept: int | None = None, seed: int = 0) -> object:
    sae = tiny.topk_sae(32, 64, k=k, seed=seed)
    built = FeatureIndex.build(MODEL, sae, TOKENS, path=path, batch_size=8, examples_per_feature=kept, progress=False)
    return [round(built.l0, 3), built.count.tolist(), [e.sequence_id for e in built.top(3, 5, fold=False)]]


def harvested(path: Path, hook: str = HOOK) -> object:
    rows = harvest(MODEL, TOKENS, hook, path, batch_size=2, progress=False)
    return [rows.part, sha(rows.rows.tobytes())]


def checkpoint(path: Path, seed: int = 0) -> object:
    settings = {"d_sae": 48, "k": 4, "batch_size": 128, "seed": seed, "lr": 1e-3}
    sae = train_sae(ROWS, checkpoint=path, checkpoint_every=1, **settings)
    return sha(*(p.detach().numpy().tobytes() for p in sae.parameters()))


def probe_file(path: Path, folds: int = 3) -> object:
    for _ in range(20):
        PROBES[folds].save(path)
    return repr(ProbeResult.load(path))  # of whoever wrote last


def sae_folder(path: Path, k: int = 8) -> object:
    for _ in range(5):
        save_sae(tiny.topk_sae(32, 64, k=k), path)
    return load_sae(str(path)).cfg.k  # of whoever wrote last


def slow_pip(command: list[str], **options: object) -> subprocess.CompletedProcess:
    """Write a wheel in pieces, as a network would."""
    data, target = WHEEL.read_bytes(), Path(command[command.index("--dest") + 1]) / WHEEL.name
    with target.open("wb") as file:
        for start in range(0, len(data), 1 + len(data) // 20):
            file.write(data[start : start + 1 + len(data) // 20])
            file.flush()
            time.sleep(0.002)
    return subprocess.CompletedProcess(command, 0, "", "")


def package(path: Path) -> cache.PackageFile:
    os.environ["SAEKIT_CACHE"] = str(path)
    cache.subprocess.run = slow_pip
    return cache.PackageFile("demo==1.0", "demo/data.bin", sha(DATA))


def download(path: Path) -> object:
    return sha(cache.package_file(package(path), progress=False).read_bytes())


def folder(path: Path) -> object:
    package(path)
    demo = cache.PackageFolder("demo==1.0", "demo/texts", sha(WHEEL.read_bytes()))
    texts = cache.package_folder(demo, progress=False)
    return [sha(*(text.read_bytes() for text in sorted(texts.rglob("*.txt")))), len(list(texts.rglob("*.txt")))]


def conversion(path: Path) -> object:
    file = package(path)
    model = packaged.PackagedModel("demo", (file,), file.sha256, "MIT")
    packaged._convert = convert
    return sha(
        *(
            part.read_bytes()
            for part in sorted(packaged.converted(model, accept_licence=True, progress=False).iterdir())
        )
    )


def convert(gguf: Path, draft: Path, name: str, *, progress: bool) -> None:
    """Write a model as transformers does, file by file."""
    assert sha(gguf.read_bytes()) == sha(DATA)
    draft.mkdir()
    for part in sorted(MODEL_FOLDER.iterdir()):
        shutil.copyfile(part, draft / part.name)
        time.sleep(0.005)


JOBS = {
    "index": index, "harvest": harvested, "checkpoint": checkpoint, "probe": probe_file, "sae": sae_folder,
    "download": download, "folder": folder, "conversion": conversion,
}  # fmt: skip


def work(job: str, path: str, **options: object) -> dict:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            said = {"returned": JOBS[job](Path(path), **options)}
        except SaekitError as problem:
            said = {"refused": f"{type(problem).__name__}: {problem}"}
        except Exception:
            said = {"failed": traceback.format_exc()}
    return said | {"warned": [str(warning.message) for warning in heard]}


def serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "job" in asked:
            if not (pid := os.fork()):
                said = work(**asked)
                (HERE / f"{os.getpid()}.part").write_text(json.dumps(said))
                (HERE / f"{os.getpid()}.part").rename(HERE / str(os.getpid()))
                os._exit(0)
            print(pid, flush=True)
        else:
            os.waitpid(asked["wait"], 0)
            said = HERE / str(asked["wait"])
            print(said.read_text() if said.exists() else "null", flush=True)
    shutil.rmtree(HERE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    MODEL_FOLDER = tiny.write_model(HERE / "model")
    MODEL, TOKENS = load_model(str(MODEL_FOLDER)), tiny.random_tokens(24, 20, 400)
    ROWS = torch.randn(640, 16, generator=torch.Generator().manual_seed(0))
    DATA, WHEEL = bytes(range(256)) * 40, HERE / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(WHEEL, "w") as archive:
        archive.writestr("demo/data.bin", DATA)
        for number in range(30):
            archive.writestr(f"demo/texts/{number % 3}/{number}.txt", f"text {number} " * 50)
    PROBES = {folds: probe(planted(), folds=folds) for folds in (3, 4)}
    for job in JOBS:  # imports what is imported on first use, for all workers to come
        if "failed" in (said := work(job, str(HERE / "first" / job))):
            print(said["failed"], file=sys.stderr)
    print("ready", flush=True)
    serve()
