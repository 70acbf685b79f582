"""What watching costs: training in the live view beside the same training with nobody looking.

Time is processor time of the whole process with one thread: the view's messages are made in it, and on a machine that
does other things as well, wall time measures those. The plain training has a thread of its own too, as memory is
handed out otherwise in the main thread. The messages go to a comm that packs them as Jupyter would and drops them;
what the browser draws is its own affair.
"""

import json
import threading
import time
from itertools import pairwise
from statistics import median

import torch

SAMPLES, D_IN, D_SAE, K, BATCH = 8192, 576, 1152, 46, 2048
EPOCHS = 3
REPORT_EVERY = 4  # steps; by default 10
REPEATS = 12


def training_view_overhead() -> dict[str, float]:
    """Return training in the view over plain training: each watched run between two plain ones."""
    from saekit.training import train_sae
    from saekit.views.training import Training

    activations = torch.randn(SAMPLES, D_IN, generator=torch.Generator().manual_seed(0))
    options = {"d_sae": D_SAE, "k": K, "batch_size": BATCH, "seed": 0}
    messages = []

    def plain(epochs: float = EPOCHS) -> None:
        thread = threading.Thread(target=lambda: train_sae(activations, epochs=epochs, **options))
        thread.start()
        thread.join()

    def watched(epochs: float = EPOCHS) -> None:
        view = Training(activations, {"TopK": {"epochs": epochs, "report_every": REPORT_EVERY}}, **options)
        view.comm.send = lambda data=None, buffers=None, **_: messages.append(_packed(data, buffers))
        view.start()
        view.wait(None)
        if view.error or len(view.history["TopK"]) < epochs * SAMPLES // BATCH // REPORT_EVERY:
            raise RuntimeError(f"the watched training did not run: {view.error!r}")
        view.close()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain(1), watched(1)  # warm up
        messages.clear()
        floors, views = [_seconds(plain)], []
        for _ in range(REPEATS):
            views.append(_seconds(watched))
            floors.append(_seconds(plain))
    finally:
        torch.set_num_threads(threads)
    return {
        "training_view_overhead": median(
            2 * view / sum(pair) for view, pair in zip(views, pairwise(floors), strict=True)
        ),
        "training_view_kilobytes": sum(messages) / REPEATS / 1000,
    }


def _packed(data: dict, buffers: list | None) -> int:
    return len(json.dumps(data).encode() + b"".join(bytes(buffer) for buffer in buffers or []))


def _seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


BENCHES = [training_view_overhead]
