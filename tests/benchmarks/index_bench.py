"""What a feature index costs on top of the forward pass and the encoder, and how fast it answers.

The floor is the bare forward to the hook's layer plus ``sae.encode``, nothing else. Time is processor time with one
thread: on a machine that does other things as well, wall time measures those. Memory is the peak of a process that
does nothing else, one for the floor and one for the build.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

BATCH = 8
POS = 128
ROWS = {"real": 256, "random": 512}  # 32 and 64 thousand tokens; memory is measured on half of them
VIEWED = 100  # features


def index_cost_real() -> dict[str, float]:
    """Measure a bounded index of the packaged model and the bundled SAE (a random one if there is none)."""
    return _run("real", {"bounded": 20})


def index_cost_random() -> dict[str, float]:
    """Measure both kinds on a random model with 16,384 features, which needs no download."""
    return {f"{key}_16384": value for key, value in _run("random", {"bounded": 20, "full": None}).items()}


BENCHES = [index_cost_real, index_cost_random]


def run(model, sae, tokens, kinds: dict[str, int | None]) -> dict[str, float]:
    """Return build time over the floor and milliseconds for one feature's card, the worse of the kinds of index.

    A build stands between two floors and is compared with their mean, so that a slower minute slows both.
    """
    from saekit.index import FeatureIndex

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ratios, views = {}, {}
    try:
        floor(model, sae, tokens[: 2 * BATCH])  # warm up
        before = _seconds(floor, model, sae, tokens)
        for kind, examples in kinds.items():
            start = time.process_time()
            index = FeatureIndex.build(
                model, sae, tokens, examples_per_feature=examples, batch_size=BATCH, progress=False
            )
            seconds = time.process_time() - start
            after = _seconds(floor, model, sae, tokens)
            ratios[kind], before = 2 * seconds / (before + after), after
            views[kind] = 1000 * _view_seconds(index)
    finally:
        torch.set_num_threads(threads)
    return {"index_over_floor": max(ratios.values()), "index_view_ms": max(views.values())} | {
        f"index_{kind}_over_floor": ratio for kind, ratio in ratios.items() if len(ratios) > 1
    }


def floor(model, sae, tokens) -> None:
    """Run the model to the hook's layer and the encoder, and drop the result."""
    from saekit.models import hidden_states

    with torch.no_grad():
        for start in range(0, len(tokens), BATCH):
            ids = torch.from_numpy(tokens.ids[start : start + BATCH]).long()
            sae.encode(hidden_states(model, ids, sae.cfg.metadata.hook_name).to(sae.dtype))


def random_parts(rows: int):
    """Return a random model of four layers, a TopK SAE with 16,384 features, and tokens of a Zipf law."""
    from sae_lens import SAETransformerBridge, TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    from saekit.data import Tokens

    config = TransformerBridgeConfig(
        d_model=256, d_head=32, n_heads=8, n_layers=4, n_ctx=POS, d_vocab=8192, d_mlp=1024, act_fn="gelu",
        normalization_type="LN", seed=0,
    )  # fmt: skip
    model = TransformerBridge.boot_native(config)
    model.__class__ = SAETransformerBridge
    model._acts_to_saes, model._transcoder_output_hooks = {}, {}
    model.cfg.model_name = "random"
    metadata = SAEMetadata(model_name="random", hook_name="blocks.2.hook_resid_post")
    sae = TopKSAE(TopKSAEConfig(d_in=256, d_sae=16384, k=46, metadata=metadata))
    rows_of_decoder = torch.nn.functional.normalize(
        torch.randn(16384, 256, generator=torch.Generator().manual_seed(0)), dim=1
    )
    with torch.no_grad():
        sae.W_dec.copy_(rows_of_decoder)
        sae.W_enc.copy_(rows_of_decoder.T)
    ids = np.random.default_rng(0).zipf(1.2, (rows, POS)).astype(np.int64) % 8192
    document = np.zeros((rows, POS), np.int32)
    document[:, 0] = -1
    return _frozen(model), _frozen(sae), Tokens(ids.astype(np.int32), document, np.arange(rows, dtype=np.int64))


def real_parts(rows: int):
    """Return the packaged model, its SAE and text."""
    from saekit.data import load_corpus
    from saekit.models import load_model
    from saekit.saes import DEFAULT, baseline_sae, bundled, load_sae

    model = load_model(progress=False)
    hook = DEFAULT.split("/")[1]
    sae = load_sae(model=model) if DEFAULT in bundled() else baseline_sae(model, hook, kind="random", n_features=4608)
    return model, sae, load_corpus("english-open", model=model, progress=False)[:rows]


PARTS = {"real": real_parts, "random": random_parts}


def _run(which: str, kinds: dict[str, int | None]) -> dict[str, float]:
    result = run(*PARTS[which](ROWS[which]), kinds)
    with ThreadPoolExecutor(2) as pool:  # memory is the same with company
        floor_bytes, *builds = pool.map(partial(_peak_bytes, which), ("floor", *kinds))
    result["index_rss_over_floor"] = max(builds) / floor_bytes
    return result


def _view_seconds(index) -> float:
    """Return the median time of all queries behind one feature's card, each feature asked for the first time."""
    live = np.flatnonzero(~index.dead)
    features = live[np.linspace(0, len(live) - 1, VIEWED).astype(int)]
    seconds = []
    for feature in map(int, features):
        start = time.perf_counter()
        index.top(feature, 20)
        index.intervals(feature, 5, 4)
        index.histogram(feature)
        index.logits(feature, 10)
        index.neighbours(feature, "decoder", 8)
        index.neighbours(feature, "coactivation", 8)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _peak_bytes(which: str, what: str) -> int:
    """Return the peak memory of a process of its own that does the floor or a build."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.index_bench", which, what]
    root = Path(__file__).parents[2]
    out = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])["peak_bytes"]


def _child(which: str, what: str) -> None:
    from saekit.index import FeatureIndex

    model, sae, tokens = PARTS[which](ROWS[which] // 2)
    if what == "floor":
        floor(model, sae, tokens)
    else:
        examples = 20 if what == "bounded" else None
        FeatureIndex.build(model, sae, tokens, examples_per_feature=examples, batch_size=BATCH, progress=False)
    print(json.dumps({"peak_bytes": _peak()}))


def _peak() -> int:
    """Return this process's peak resident memory in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux hands a parent's ru_maxrss on to its children; VmHWM is the process's own
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


def _seconds(work, *args) -> float:
    start = time.process_time()
    work(*args)
    return time.process_time() - start


def _frozen(module):
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()


if __name__ == "__main__":
    _child(*sys.argv[1:])
