"""A trainer that learns nothing but reports like the real one: curves that fall, densities, a step a call."""

import math
import threading
import time

import torch

from saekit.errors import SAEError
from saekit.training import TrainingStep


class FakeTrainer:
    """Call it like `train_sae`. With ``gated``, it waits before every report until `allow` lets it go on."""

    def __init__(self, *, gated=False, seconds=0.0):
        self.calls = []
        self.gate = threading.Semaphore(0) if gated else None
        self.seconds = seconds
        self.threads = set()

    def allow(self, reports=1):
        for _ in range(reports):
            self.gate.release()

    def __call__(
        self, activations, *, architecture="topk", d_sae, k=None, sparsity_coefficient=None, steps=40, batch_size=256,
        report_every=1, on_step=None,
    ):  # fmt: skip
        if k == 0:
            raise SAEError("k must be between 1 and 63, not 0")
        self.calls.append((architecture, k, sparsity_coefficient))
        self.threads.add(threading.current_thread())
        done = 0
        try:
            for done in range(1, steps + 1):
                if self.gate is not None:
                    assert self.gate.acquire(timeout=300), "the test forgot to allow a report"
                time.sleep(self.seconds)
                if done % report_every == 0 or done == steps:
                    on_step(record(done, steps, d_sae, k or 10 * (sparsity_coefficient or 1), batch_size))
        except KeyboardInterrupt:
            pass
        return f"{architecture} after {done} steps"


def record(step, steps, d_sae=64, k=8, batch_size=256):
    """A record of a training in which everything gets better."""
    fvu = 0.1 + 1.5 * math.exp(-6 * step / steps) + k / 1000
    share = torch.logspace(-7, -0.5, d_sae)
    share[: d_sae // 8] = 0
    return TrainingStep(
        step=step, steps=steps, samples=step * batch_size, loss=500 * fvu, fvu=fvu,
        l0=k + 300 * math.exp(-9 * step / steps), dead_share=0.2 * step / steps, density=share,
    )  # fmt: skip
