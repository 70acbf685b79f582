"""Train an SAE on harvested activations: sae-lens's classes hold the weights, a sparse step moves them.

Of a TopK SAE's work only the encoder product is dense. Each token has k active features, so decoding, every
gradient and the bias updates touch k rows a token. sae-lens's trainer multiplies the full matrices instead;
``topk_gradients`` gives the same numbers (``tests/test_training.py`` compares them with autograd in float64).

    python -m saekit.training          # trains the bundled SAE, writes its card and its index; see --help
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saekit._harvest import harvest, harvest_many
from saekit._harvest_store import Activations, load_activations
from saekit.errors import SAEError

if TYPE_CHECKING:
    from sae_lens import SAE

__all__ = ["Activations", "Progress", "TopKWeights", "harvest", "harvest_many", "load_activations", "topk_gradients", "train_sae"]


@dataclass
class TopKWeights:
    """Weights of a TopK SAE, both matrices with one feature a row, and their gradients in the same form.

    ``x_hat = sum over the k largest relu((x - b_dec) @ W_enc[f] + b_enc[f]) of value * W_dec[f], plus b_dec``.
    """

    W_enc: Float[Tensor, "d_sae d_in"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_enc: Float[Tensor, " d_sae"]
    b_dec: Float[Tensor, " d_in"]

    def tensors(self) -> list[Tensor]:
        """The four tensors, always in this order."""
        return [self.W_enc, self.W_dec, self.b_enc, self.b_dec]


@dataclass(frozen=True)
class Progress:
    """Where training stands: what `train_sae` hands to its callback."""

    step: int
    steps: int
    samples: int
    loss: float  # mean squared error a token, summed over dimensions, in units of the normalised activations
    fvu: float  # of this batch
    dead_share: float  # of features that fired on none of the last million samples


def topk_gradients(
    weights: TopKWeights, x: Float[Tensor, "batch d_in"], k: int, *, matmul_dtype: torch.dtype | None = None
) -> tuple[Float[Tensor, ""], TopKWeights, Tensor]:
    """Return loss, gradients and the chosen features ``[batch, k]`` for one batch.

    The loss is ``mean over the batch of the squared error summed over dimensions``.

    Args:
        weights: Of the SAE.
        x: Activations.
        k: Active features a token.
        matmul_dtype: Of the encoder product alone (bfloat16 is faster where the processor has it).
    """
    centred = x - weights.b_dec
    if matmul_dtype is None:
        hidden = torch.addmm(weights.b_enc, centred, weights.W_enc.T)  # [batch, d_sae], the one dense product
    else:
        hidden = (centred.to(matmul_dtype) @ weights.W_enc.to(matmul_dtype).T).to(x.dtype).add_(weights.b_enc)
    values, chosen = hidden.topk(k, sorted=False)  # [batch, k]
    values = values.relu()

    error = F.embedding_bag(chosen, weights.W_dec, per_sample_weights=values, mode="sum") + weights.b_dec - x
    loss = error.square().sum(1).mean()
    g_out = error * (2 / len(x))  # d loss / d x_hat, [batch, d_in]

    # d loss / d value is the dot product of g_out with the feature's decoder row; zero where relu cut it off.
    weight = values.detach().requires_grad_()
    with torch.enable_grad():
        bag = F.embedding_bag(chosen, weights.W_dec.detach(), per_sample_weights=weight, mode="sum")
    (g_values,) = torch.autograd.grad(bag, weight, g_out)
    g_values = g_values * (values > 0)

    # Both weight gradients are sums over the (token, feature) pairs, bagged by feature.
    pairs = chosen.flatten()
    order = pairs.argsort()
    token = order // k
    counts = pairs.bincount(minlength=len(weights.b_enc))
    offsets = counts.cumsum(0) - counts
    by_feature = lambda table, weight: F.embedding_bag(  # noqa: E731
        token, table, offsets, mode="sum", per_sample_weights=weight.flatten()[order]
    )
    g_b_enc = torch.zeros_like(weights.b_enc).index_add_(0, pairs, g_values.flatten())
    gradients = TopKWeights(
        W_enc=by_feature(centred, g_values),
        W_dec=by_feature(g_out, values),
        b_enc=g_b_enc,
        b_dec=g_out.sum(0) - g_b_enc @ weights.W_enc,
    )
    return loss, gradients, chosen


def train_sae(
    activations: Activations,
    *,
    d_sae: int,
    k: int,
    passes: float = 1,
    batch_size: int = 2048,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    on_step: Callable[[Progress], None] | None = None,
    checkpoint: Path | str | None = None,
) -> "SAE":
    """Train a TopK SAE (Gao et al. 2024) and return it as sae-lens's inference class.

    Activations are scaled to a mean norm of sqrt(d_in) for training and the scale is folded into the weights at the
    end, so the SAE reads raw activations. Decoder rows keep unit norm: an activation is in units of the residual
    stream. ``Ctrl-C`` ends training early and returns what there is.

    Args:
        activations: From `harvest`.
        d_sae: Number of features.
        k: Active features a token.
        passes: Over the activations; may be a fraction.
        batch_size: Tokens a step.
        lr: Peak learning rate of Adam, warmed up over 5 % and decayed linearly over the last half.
        seed: Of the initialisation and of the order of the data.
        device: "cpu" or "cuda".
        on_step: Called after every step.
        checkpoint: A folder to save to every 1,000 steps (an SAE like any other).

    Raises:
        SAEError: k or d_sae cannot be used.
    """
    if not 0 < k < d_sae:
        raise SAEError(f"k must be between 1 and d_sae - 1 (here {d_sae - 1}), not {k}")
    sample = next(activations.batches(min(len(activations), 8192), seed=seed))
    scale = math.sqrt(activations.d_model) / sample.norm(dim=1).mean().item()
    weights = _initial(activations.d_model, d_sae, sample.mean(0) * scale, seed, device)
    parameters = weights.tensors()
    adam = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999), fused=True)
    steps = int(len(activations) * passes) // batch_size
    last_fired = torch.zeros(d_sae, dtype=torch.long, device=device)
    matmul_dtype = torch.bfloat16 if _has_fast_bfloat16(device) else None
    try:
        for step, batch in enumerate(activations.batches(batch_size, passes=passes, seed=seed), start=1):
            x = batch.to(device) * scale
            with torch.no_grad():
                loss, gradients, chosen = topk_gradients(weights, x, k, matmul_dtype=matmul_dtype)
                # Keep decoder rows on the unit sphere: drop the radial part of the gradient, step, renormalise.
                radial = (gradients.W_dec * weights.W_dec).sum(1, keepdim=True)
                gradients.W_dec.addcmul_(weights.W_dec, radial, value=-1)
                for parameter, gradient in zip(parameters, gradients.tensors(), strict=True):
                    parameter.grad = gradient
                adam.param_groups[0]["lr"] = lr * _schedule(step / steps)
                adam.step()
                F.normalize(weights.W_dec, dim=1, out=weights.W_dec)
                last_fired[chosen.flatten()] = step * batch_size
                if on_step is not None:
                    fvu = loss / (x - x.mean(0)).square().sum(1).mean()
                    dead = (last_fired < step * batch_size - 1_000_000).double().mean()
                    on_step(Progress(step, steps, step * batch_size, loss.item(), fvu.item(), dead.item()))
            if checkpoint is not None and step % 1000 == 0:
                _as_sae(weights, scale, k, activations).save_model(str(checkpoint))
    except KeyboardInterrupt:
        pass  # the docstring promises what there is
    return _as_sae(weights, scale, k, activations)


def _schedule(progress: float) -> float:
    """Learning rate as a share of its peak: up over the first 5 %, down over the last half."""
    return min(progress / 0.05, 1, 2 * (1 - progress) + 0.01)


def _has_fast_bfloat16(device: str) -> bool:
    return torch.device(device).type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def _initial(d_in: int, d_sae: int, mean: Tensor, seed: int, device: str) -> TopKWeights:
    """Random unit decoder rows, encoder equal to them, decoder bias at the mean: leaves next to no feature dead."""
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    zeros = torch.zeros(d_sae)
    return TopKWeights(*(t.clone().to(device) for t in (rows, rows, zeros, mean)))


def _as_sae(weights: TopKWeights, scale: float, k: int, activations: Activations) -> "SAE":
    """Build sae-lens's inference class, with the scale of the activations folded in."""
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    d_sae, d_in = weights.W_enc.shape
    metadata = SAEMetadata(
        model_name=activations.model_name,
        hook_name=activations.hook_name,
        prepend_bos=True,
        training_architecture="topk",
    )
    sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, apply_b_dec_to_input=True, metadata=metadata))
    with torch.no_grad():
        # f = relu(scale * (x - b) @ W_enc + b_enc), x_hat = f @ W_dec / scale + b. Giving f / scale the name of
        # activation keeps decoder rows at unit norm: W_enc stays, and both biases shrink by the scale.
        sae.W_enc.copy_(weights.W_enc.T)
        sae.W_dec.copy_(weights.W_dec)
        sae.b_enc.copy_(weights.b_enc / scale)
        sae.b_dec.copy_(weights.b_dec / scale)
    return sae.eval()


def main(arguments: list[str] | None = None) -> None:
    """Harvest, train, measure and index one SAE: the command behind the bundled one."""
    import argparse

    from tqdm.auto import tqdm

    from saekit.data import load_corpus
    from saekit.models import load_model

    parser = argparse.ArgumentParser(prog="python -m saekit.training", description=main.__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--hook", default="blocks.18.hook_resid_post")
    parser.add_argument("--corpus", default="english")
    parser.add_argument("--index-corpus", default="english-open", help="its text is shown in the index")
    parser.add_argument("--max-tokens", type=int, default=None, help="of the corpus; default: all")
    parser.add_argument("--d-sae", type=int, default=4608)
    parser.add_argument("--k", type=int, default=46)
    parser.add_argument("--passes", type=float, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--index-tokens", type=int, default=1_020_000)
    parser.add_argument("--held-out-tokens", type=int, default=60_000, help="for the card")
    parser.add_argument("--out", type=Path, required=True, help="folder for activations/, sae/ and index/")
    args = parser.parse_args(arguments)

    model = load_model(args.model, device=args.device, dtype=torch.bfloat16)
    tokens = load_corpus(args.corpus, model=model, max_tokens=args.max_tokens)
    activations = harvest(model, tokens, args.hook, args.out / "activations")
    with tqdm(total=int(len(activations) * args.passes) // 2048, desc="Training", unit="step") as bar:

        def show(progress: Progress) -> None:
            bar.update()
            if progress.step % 50 == 0:
                bar.set_postfix(fvu=f"{progress.fvu:.3f}", dead=f"{progress.dead_share:.1%}")

        sae = train_sae(
            activations, d_sae=args.d_sae, k=args.k, passes=args.passes, device=args.device, on_step=show,
            checkpoint=args.out / "checkpoint",
        )  # fmt: skip
    training = {
        "command": " ".join(["python -m saekit.training", *(arguments or sys.argv[1:])]),
        "corpus": args.corpus,
        "sources": list(tokens.sources),
        "tokens": len(activations),
        "passes": args.passes,
        "excluded": activations.excluded,
    }
    publish(
        sae, args.model, args.out, corpus=args.corpus, index_corpus=args.index_corpus, training=training,
        index_tokens=args.index_tokens, held_out_tokens=args.held_out_tokens,
    )  # fmt: skip


def publish(
    sae: "SAE",
    model_name: str,
    out: Path,
    *,
    corpus: str,
    index_corpus: str,
    training: dict,
    index_tokens: int = 1_020_000,
    held_out_tokens: int = 60_000,
) -> None:
    """Write ``out/index`` (bounded, compacted) and ``out/sae`` (weights and card); all scores in float32."""
    from saekit.data import load_corpus
    from saekit.evaluation import evaluate
    from saekit.index import FeatureIndex
    from saekit.models import load_model
    from saekit.saes import save_sae

    model = load_model(model_name)
    sae = sae.to("cpu")
    save_sae(sae, out / "sae", card={"training": training})
    shown = load_corpus(index_corpus, model=model, max_tokens=index_tokens)
    index = FeatureIndex.build(model, sae, shown, path=out / "index-mergeable", examples_per_feature=20)
    index.compacted(out / "index")
    held_out = load_corpus(corpus, model=model, split="heldout", max_tokens=held_out_tokens)
    card = evaluate(model, sae, held_out).as_dict()
    dead = {"dead_share_of_index_tokens": float(index.dead.mean()), "index_tokens": index.n_tokens}
    save_sae(sae, out / "sae", card=card | dead | {"training": training})


if __name__ == "__main__":
    main()
