"""Benchmarks: `make bench` runs every `*_bench.py` here, or `python -m tests.benchmarks import` those named.

A bench module has a list BENCHES of functions that take nothing and return ``{key: number}``. Numbers are ratios,
measured side by side on the same work, wherever that is possible, so that they mean the same on every machine. A key
with a bound stands in `BOUNDS`; a variant of it (``index_over_floor_16384``) is held to the same bound; other keys
are shown for information.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """How large or small a number may be, and what it means."""

    sign: str  # "<=" or ">="
    limit: float
    meaning: str

    def holds(self, value: float) -> bool:
        """Return whether a value keeps the bound; NaN does not."""
        return value <= self.limit if self.sign == "<=" else value >= self.limit


BOUNDS = {
    "import_over_torch": Bound("<=", 1.5, "import saekit and every public name / import torch"),
    "index_over_floor": Bound("<=", 1.15, "build / bare forward to the layer + encode"),
    "index_view_ms": Bound("<=", 20, "everything one feature's card needs, median, ms"),
    "prompt_view_over_floor": Bound("<=", 1.3, "a prompt in TopActivations / one forward to the layer + encode"),
    "index_rss_over_floor": Bound("<=", 1.3, "peak memory of a build / of the bare pass"),
    "training_speedup": Bound(">=", 5, "TopK samples a second / sae-lens SAETrainer"),
    "training_speedup_elsewhere": Bound(">=", 0.95, "the slowest other architecture / sae-lens SAETrainer"),
    "training_fvu_ratio": Bound("<=", 1.02, "held-out FVU / sae-lens's, same samples"),
    "training_view_overhead": Bound("<=", 1.05, "training with the live view / without"),
    "attribution_over_backward": Bound("<=", 1.3, "patched attribution / a forward and backward of each run"),
    "exact_patching_over_floor": Bound("<=", 1.3, "features patched one by one / as many batched forwards"),
    "attribution_view_ms": Bound("<=", 700, "the view after an edited prompt of 20 tokens, median, ms"),
    "steering_tokens_ratio": Bound(">=", 0.9, "tokens a second, steered / plain, both with the KV cache"),
    "steering_first_token_ratio": Bound("<=", 1.5, "first token, steered / plain"),
    "steering_eight_strengths_ratio": Bound("<=", 3, "eight strengths in one batch / one generation"),
    "probe_grid_seconds_ratio": Bound("<=", 1.0, "the whole probe grid / extracting the features once"),
    "probe_grid_wall_ratio": Bound("<=", 1.0, "the same in wall time, with the machine's own number of threads"),
}


def bound_of(key: str) -> Bound | None:
    """Return the bound of a key or of the key that it is a variant of, None if it has none."""
    return BOUNDS.get(key) or BOUNDS.get(re.sub(r"_\d+$", "", key))
