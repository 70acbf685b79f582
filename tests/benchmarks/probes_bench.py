"""What a grid of probes costs beside the extraction that it starts from, and how much memory the extraction takes.

4,000 questions of six types at three layers of the packaged model; the grid is 4 poolings x 3 binarisings x 2
classifiers x 3 layers, each cell cross-validated with its strength chosen, and the test of the best cell; baselines
are not counted. Both times are processor time with one thread, and then once more time on the wall with as many
threads as the libraries take by themselves: there a grid shows whose threads wait for each other. Questions are short,
a dozen tokens: longer texts make the extraction take longer, the grid hardly. Where no SAE is bundled, a random
dictionary of the same width and sparsity stands in, which costs the same.

Memory is the peak of a process that extracts 4,000 longer texts with a small random model of the same width, less that
of one that does the same and keeps nothing.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TEXTS = 4000
LAYERS = (9, 18, 24)


def probe_grid_ratios(texts: int = TEXTS) -> dict[str, float]:
    """Return the grid's time over the extraction's: processor time of one thread, and time on the wall."""
    import torch

    from saekit.data import load_labelled
    from saekit.models import load_model
    from saekit.probes import Quantile, TopN, extract_features, grid
    from saekit.saes import baseline_sae, bundled, load_sae

    model = load_model(progress=False)
    names = [f"blocks.{layer}.hook_resid_post" for layer in LAYERS]
    saes = [
        load_sae(name) if (name := f"smollm2-135m/{hook}") in bundled()
        else baseline_sae(model, hook, kind="random", n_features=4608)
        for hook in names
    ]  # fmt: skip
    data = load_labelled("question-types", progress=False).sample(texts)
    poolings, binarisings = ("max", "mean", "last", TopN(10)), ("none", "above-zero", Quantile(0.5))
    axes = {"poolings": poolings, "binarisings": binarisings, "classifiers": ("logistic", "ridge")}
    extract_features(model, saes, data[:20], progress=False)  # warm up
    threads = torch.get_num_threads()
    results = {}
    for key, clock, n_threads in (("seconds", time.process_time, 1), ("wall", time.perf_counter, threads)):
        torch.set_num_threads(n_threads)
        try:
            start = clock()
            features = extract_features(model, saes, data, progress=False)
            extracted = clock()
            found = grid(features, **axes, baselines=(), progress=False)
            done = clock()
        finally:
            torch.set_num_threads(threads)
        if len(found.cells) != 72:
            raise RuntimeError(f"expected 72 cells, got {len(found.cells)}")
        results[f"probe_grid_{key}_ratio"] = (done - extracted) / (extracted - start)
        results |= {f"probe_grid_{key}": done - extracted, f"probe_extraction_{key}": extracted - start}
    return results


def probe_memory() -> dict[str, float]:
    """Return the peak memory of an extraction over its sparse matrices."""
    with ThreadPoolExecutor(2) as pool:  # memory is the same with company
        held, floor = pool.map(_child_says, ("whole", "floor"))
    return {"probe_memory_over_matrix": (held["peak_bytes"] - floor["peak_bytes"]) / held["matrix_bytes"]}


def _child_says(what: str) -> dict:
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.probes_bench", what]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    out = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def _end_of_floor(done: int, total: int) -> None:
    if done == total:
        raise EOFError  # there is nothing to make matrices of


def _child(what: str) -> None:
    from importlib import import_module

    _probes_extract = import_module("saekit.probes.extract")
    from saekit.models import load_model
    from tests import tiny
    from tests.benchmarks.index_bench import _peak

    words = tiny.TEXT.split()
    texts = [" ".join(words[(i * 7) % 20 :][: 10 + i % 20]) for i in range(TEXTS)]
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(str(tiny.write_model(Path(folder) / "wide", d_model=576, n_layers=2)))
        model.cfg.model_name = "tiny"
        hooks = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
        saes = [tiny.topk_sae(576, 4608, k=46, hook_name=hook) for hook in hooks]
        if what == "floor":
            _probes_extract.Column.add = lambda column, array: None
        features = None
        with contextlib.suppress(EOFError):
            features = _probes_extract.extract_features(
                model, saes, texts, check_hooks=False, progress=_end_of_floor if what == "floor" else False
            )
    print(json.dumps({"peak_bytes": _peak(), "matrix_bytes": features.nbytes if features else 0}))


BENCHES = [probe_grid_ratios, probe_memory]

if __name__ == "__main__":
    _child(*sys.argv[1:])
