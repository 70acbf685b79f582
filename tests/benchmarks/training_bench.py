"""Training against sae-lens's own trainer: samples a second, and what is left unexplained after the same samples."""

import math
import time
from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor

D_IN, D_SAE, K, BATCH = 576, 4608, 46, 2048
LR = 1e-3
TIMED, REPEATS = 8, 5  # steps a run, runs of each trainer, in turn
FVU_STEPS = 150
ELSEWHERE = {
    "batchtopk": {"k": 16},
    "matryoshka_batchtopk": {"k": 16},
    "standard": {"sparsity_coefficient": 1.0},
    "gated": {"sparsity_coefficient": 1.0},
    "jumprelu": {"sparsity_coefficient": 0.1},
}


def training() -> dict[str, float]:
    """Measure the TopK step at the size of the bundled SAE."""
    data = activations(BATCH * FVU_STEPS + 20_000, D_IN, D_SAE)
    train, held_out = data[:-20_000], data[-20_000:]
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(REPEATS):
        part = train[: BATCH * TIMED]
        seconds["theirs"].append(_seconds(sae_lens, part, "topk", D_SAE, k=K))
        seconds["ours"].append(_seconds(saekit, part, "topk", D_SAE, k=K))
    left = {
        name: fvu(fit(train, "topk", D_SAE, k=K), held_out) for name, fit in (("ours", saekit), ("theirs", sae_lens))
    }
    return {
        "training_speedup": median(seconds["theirs"]) / median(seconds["ours"]),
        "training_samples_per_second": BATCH * TIMED / median(seconds["ours"]),
        "training_fvu_ratio": left["ours"] / left["theirs"],
    }


def elsewhere() -> dict[str, float]:
    """Measure the other architectures, smaller: the slowest against sae-lens must not be slower."""
    data = activations(BATCH * 6, 256, 1024)
    found = {}
    for architecture, sparsity in ELSEWHERE.items():
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(REPEATS):
            seconds["theirs"].append(_seconds(sae_lens, data, architecture, 1024, **sparsity))
            seconds["ours"].append(_seconds(saekit, data, architecture, 1024, **sparsity))
        found[f"training_speedup_of_{architecture}"] = median(seconds["theirs"]) / median(seconds["ours"])
    return {"training_speedup_elsewhere": min(found.values()), **found}


def activations(n: int, d_in: int, n_features: int) -> Tensor:
    """Return sparse sums of random directions around a mean, with a spectrum that falls off, and some noise."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    directions = torch.nn.functional.normalize(draw(n_features, d_in), dim=1)
    directions *= torch.linspace(2, 0.5, n_features)[:, None]
    chosen = torch.randint(0, n_features, (n, 40), generator=generator)
    weights = torch.rand(n, 40, generator=generator)
    sums = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=weights, mode="sum")
    return sums + 3 * draw(d_in) + 0.1 * draw(n, d_in)


def saekit(data: Tensor, architecture: str, d_sae: int, **sparsity: float):
    """Train by saekit, one pass."""
    from saekit.training import train_sae

    return train_sae(data, architecture=architecture, d_sae=d_sae, **sparsity, batch_size=BATCH, lr=LR)


def sae_lens(data: Tensor, architecture: str, d_sae: int, **sparsity: float):
    """Train by sae-lens, one pass over the same batches, with its own defaults otherwise."""
    from sae_lens import LoggingConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    from saekit.training import Activations

    if "sparsity_coefficient" in sparsity:
        penalty = "l0_coefficient" if architecture == "jumprelu" else "l1_coefficient"
        sparsity = {penalty: sparsity["sparsity_coefficient"]}
    if architecture == "matryoshka_batchtopk":
        sparsity |= {"matryoshka_widths": [d_sae // n for n in (16, 8, 4, 2, 1)]}
    sae_class, config = get_sae_training_class(architecture)
    steps = len(data) // BATCH
    with torch.random.fork_rng(devices=[]):
        sae = sae_class(config(d_in=data.shape[1], d_sae=d_sae, apply_b_dec_to_input=True, **sparsity))
    scale = math.sqrt(data.shape[1]) / data[:8192].norm(dim=1).mean().item()  # what its normaliser would find
    with torch.no_grad():
        sae.b_dec.copy_(data[:8192].mean(0) * scale)

    def batches() -> Iterator[Tensor]:
        for batch in Activations.from_rows(data).batches(BATCH, seed=0):
            yield batch * scale

    settings = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False, total_training_samples=steps * BATCH,
        device="cpu", autocast=False, lr=LR, lr_end=LR / 100, lr_scheduler_name="constant",
        lr_warm_up_steps=steps // 20, adam_beta1=0.9, adam_beta2=0.999, lr_decay_steps=steps // 2, n_restart_cycles=1,
        train_batch_size_samples=BATCH, dead_feature_window=1000, feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trained = SAETrainer(cfg=settings, sae=sae, data_provider=batches()).fit()
    trained.fold_activation_norm_scaling_factor(float(scale))
    return trained


def fvu(sae, x: Tensor) -> float:
    """Return the share of variance that an SAE leaves unexplained."""
    with torch.no_grad():
        return ((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item()


def _seconds(fit, *args, **sparsity) -> float:
    start = time.perf_counter()
    fit(*args, **sparsity)
    return time.perf_counter() - start


BENCHES = [training, elsewhere]
