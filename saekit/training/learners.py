"""What `train_sae` moves at every step: weights and their optimiser, as named tensors that a checkpoint can hold.

`SparseLearner` has the architectures that choose their active features by rank (TopK, BatchTopK, Matryoshka) and
takes the sparse step. `DenseLearner` drives sae-lens's training classes for those that a penalty makes sparse.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from saekit.training.sparse import (
    Active,
    Weights,
    auxk_gradients,
    batchtopk_active,
    pre_activations,
    sparse_gradients,
    topk_active,
)

if TYPE_CHECKING:
    from sae_lens import SAE

RANKED = ("topk", "batchtopk", "matryoshka_batchtopk")
PENALISED = ("standard", "gated", "jumprelu")
_THRESHOLD_RATE = 10  # of JumpReLU's thresholds, in learning rates


@dataclass(frozen=True)
class Step:
    """What one step saw: all of it on the scaled activations."""

    loss: Float[Tensor, ""]  # squared error a token, summed over dimensions, without penalties
    error: Float[Tensor, "batch d_in"]  # reconstruction minus activation
    fired: Float[Tensor, " d_sae"]  # tokens of the batch on which each feature was active


@dataclass(frozen=True)
class Start:
    """What every learner starts from."""

    d_in: int
    d_sae: int
    sample: Float[Tensor, "n d_in"]  # scaled activations: their mean is where the decoder bias starts
    seed: int
    device: str
    encoder_init: str  # "transposed" or "random"

    def rows(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_in"]]:
        """Return unit decoder rows, and encoder rows: equal to them (which leaves next to no feature dead), or not."""
        generator = torch.Generator().manual_seed(self.seed)
        decoder = F.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)
        if self.encoder_init == "transposed":
            return decoder, decoder.clone()
        return decoder, F.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)


class Learner(Protocol):
    """What the training loop needs."""

    encoder_is_transposed: bool  # W_enc is [d_in, d_sae]

    def step(self, x: Float[Tensor, "batch d_in"], lr: float, warm: float, dead: Bool[Tensor, " d_sae"] | None) -> Step:
        """Move the weights by one batch; ``warm`` is the share of its penalty that a sparsity loss has by now."""

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimiser state, by name: written in place, they resume training to the bit."""

    def encoder_rows(self) -> Float[Tensor, "d_sae d_in"]:
        """Return a view of the encoder with one feature a row."""

    def decoder_rows(self) -> Float[Tensor, "d_sae d_in"]:
        """Return a view of the decoder with one feature a row."""

    def sae(self, scale: float) -> "SAE":
        """Return sae-lens's inference class, with the scale of the activations folded in."""


class SparseLearner:
    """TopK, BatchTopK and Matryoshka BatchTopK; decoder rows have unit norm after every step."""

    encoder_is_transposed = False

    def __init__(self, start: Start, *, architecture: str, k: float, widths: tuple[int, ...], auxk: bool) -> None:
        self.start, self.architecture, self.k, self.widths, self.auxk = start, architecture, k, widths, auxk
        decoder, encoder = start.rows()
        parts = (encoder, decoder, torch.zeros(start.d_sae), start.sample.mean(0))
        self.weights = Weights(*(t.clone().to(start.device) for t in parts))
        self.adam = torch.optim.Adam(self.weights.tensors(), lr=1.0, fused=True)
        self.matmul_dtype = torch.bfloat16 if _has_fast_bfloat16(start.device) else None
        _fill_optimiser(self.adam)

    @torch.no_grad()
    def step(self, x: Float[Tensor, "batch d_in"], lr: float, warm: float, dead: Bool[Tensor, " d_sae"] | None) -> Step:
        """Move the weights by one batch."""
        weights = self.weights
        hidden = pre_activations(weights, x, matmul_dtype=self.matmul_dtype)
        active = self._active(hidden)
        loss, gradients, error = sparse_gradients(weights, x, active, widths=self.widths)
        if self.auxk and dead is not None and dead.any():
            _, extra = auxk_gradients(weights, x, hidden, error, dead)
            for total, addition in zip(gradients.tensors(), extra.tensors(), strict=True):
                total += addition
        # Keep decoder rows on the unit sphere: drop the radial part of the gradient, step, renormalise.
        radial = (gradients.W_dec * weights.W_dec).sum(1, keepdim=True)
        gradients.W_dec.addcmul_(weights.W_dec, radial, value=-1)
        for parameter, gradient in zip(weights.tensors(), gradients.tensors(), strict=True):
            parameter.grad = gradient
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        F.normalize(weights.W_dec, dim=1, out=weights.W_dec)
        fired = active.feature[active.value > 0].bincount(minlength=len(weights.b_enc)).float()
        return Step(loss, error, fired)

    def _active(self, hidden: Float[Tensor, "batch d_sae"]) -> Active:
        if self.architecture == "topk":
            return topk_active(hidden, int(self.k))
        return batchtopk_active(hidden, int(self.k * len(hidden)))

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimiser state."""
        names = ("W_enc", "W_dec", "b_enc", "b_dec")
        return {**vars(self.weights), **_optimiser_tensors(self.adam, names)}

    def encoder_rows(self) -> Float[Tensor, "d_sae d_in"]:
        """Return the encoder."""
        return self.weights.W_enc

    def decoder_rows(self) -> Float[Tensor, "d_sae d_in"]:
        """Return the decoder."""
        return self.weights.W_dec

    @torch.no_grad()
    def sae(self, scale: float) -> "SAE":
        """Return a TopK SAE; a batch's budget becomes a threshold, so the other two are JumpReLU SAEs.

        The threshold is the one that meets the budget on the sample with the final weights. sae-lens takes a running
        mean from zero over the whole training instead, which is far too low after a short one.
        """
        from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, TopKSAE, TopKSAEConfig

        size: dict[str, Any] = {"d_in": self.start.d_in, "d_sae": self.start.d_sae, "apply_b_dec_to_input": True}
        with torch.random.fork_rng(devices=[]):  # sae-lens draws weights that are replaced below
            if self.architecture == "topk":
                sae = TopKSAE(TopKSAEConfig(k=int(self.k), **size))
            else:
                sae = JumpReLUSAE(JumpReLUSAEConfig(**size))
                active = self._active(pre_activations(self.weights, self.start.sample.to(self.start.device)))
                lowest = active.value.min().item() if len(active.value) else 0.0
                sae.threshold.fill_(lowest / scale)
        # f = relu(scale * (x - b) @ W_enc + b_enc), x_hat = f @ W_dec / scale + b. Giving f / scale the name of
        # activation keeps decoder rows at unit norm: W_enc stays, and biases and threshold shrink by the scale.
        sae.W_enc.copy_(self.weights.W_enc.T)
        sae.W_dec.copy_(self.weights.W_dec)
        sae.b_enc.copy_(self.weights.b_enc / scale)
        sae.b_dec.copy_(self.weights.b_dec / scale)
        return sae


class DenseLearner:
    """sae-lens's training classes for L1 ("standard"), gated and JumpReLU SAEs, one autograd step at a time."""

    encoder_is_transposed = True

    def __init__(self, start: Start, *, architecture: str, coefficient: float) -> None:
        from sae_lens.registry import get_sae_training_class

        sae_class, config_class = get_sae_training_class(architecture)
        penalty: dict[str, Any] = {"l0_coefficient" if architecture == "jumprelu" else "l1_coefficient": coefficient}
        config = config_class(d_in=start.d_in, d_sae=start.d_sae, apply_b_dec_to_input=True, **penalty)
        with torch.random.fork_rng(devices=[]):  # sae-lens draws weights that are replaced below
            self.module = sae_class(config).to(start.device)
        decoder, encoder = start.rows()
        with torch.no_grad():
            # 0.1 in sae-lens: a wide SAE would start with a far too large output.
            norm = config.decoder_init_norm or 1.0
            self.module.W_dec.copy_(decoder * norm)
            self.module.W_enc.copy_(encoder.T * norm)
            self.module.b_dec.copy_(start.sample.mean(0))
        # Adam moves a number by at most the learning rate a step, and a threshold has to travel as far as a
        # pre-activation is large: at the weights' rate a short training would end before it arrives.
        named = sorted(self.module.named_parameters(), key=lambda item: item[0] == "threshold")
        self.names = [name for name, _ in named]
        self.rates = [_THRESHOLD_RATE if name == "threshold" else 1.0 for name in self.names]
        self.adam = torch.optim.Adam([{"params": [parameter]} for _, parameter in named], lr=1.0, fused=True)
        _fill_optimiser(self.adam)

    def step(self, x: Float[Tensor, "batch d_in"], lr: float, warm: float, dead: Bool[Tensor, " d_sae"] | None) -> Step:
        """Move the weights by one batch."""
        from sae_lens.saes.sae import TrainStepInput

        coefficients = {
            name: warm * (value if isinstance(value, float | int) else value.value)
            for name, value in self.module.get_coefficients().items()
        }
        with torch.enable_grad():
            given = TrainStepInput(x, coefficients, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False)
            out = self.module.training_forward_pass(given)
            self.adam.zero_grad()
            out.loss.backward()
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = lr * rate
        self.adam.step()
        fired = (out.feature_acts.detach() > 0).sum(0).float()
        return Step(out.losses["mse_loss"].detach(), (out.sae_out - x).detach(), fired)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimiser state."""
        return {**{n: p.data for n, p in self.module.named_parameters()}, **_optimiser_tensors(self.adam, self.names)}

    def encoder_rows(self) -> Float[Tensor, "d_sae d_in"]:
        """Return the encoder, transposed."""
        return self.module.W_enc.data.T

    def decoder_rows(self) -> Float[Tensor, "d_sae d_in"]:
        """Return the decoder."""
        return self.module.W_dec.data

    @torch.no_grad()
    def sae(self, scale: float) -> "SAE":
        """Return the inference class; decoder rows get unit norm, so an activation is in units of the model."""
        from copy import deepcopy

        from sae_lens import SAE

        module = deepcopy(self.module)
        module.fold_activation_norm_scaling_factor(scale)
        module.fold_W_dec_norm()
        weights = dict(module.state_dict())
        module.process_state_dict_for_saving_inference(weights)
        with torch.random.fork_rng(devices=[]):
            sae = SAE.from_dict(module.cfg.get_inference_sae_cfg_dict())
        sae.load_state_dict(weights)
        return sae


def resample(
    learner: Learner, x: Float[Tensor, "batch d_in"], error: Float[Tensor, "batch d_in"], dead: Tensor, seed: int
) -> None:
    """Point dead features at inputs that are rebuilt badly, in place (Bricken et al. 2023, "neuron resampling").

    Inputs are drawn with a chance that grows with their squared loss. The encoder row gets a fifth of the mean norm
    of the living ones, the encoder bias 0, and Adam forgets both.
    """
    rows = dead.nonzero().squeeze(1)
    weight = error.square().sum(1).square().cpu()
    if not weight.sum() > 0:
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weight, len(rows), replacement=len(rows) > int((weight > 0).sum()), generator=generator)
    tensors = learner.tensors()
    direction = F.normalize(x[drawn.to(x.device)] - tensors["b_dec"], dim=1)
    encoder, decoder = learner.encoder_rows(), learner.decoder_rows()
    alive = ~dead if (~dead).any() else torch.ones_like(dead)
    encoder[rows] = direction * encoder[alive].norm(dim=1).mean() * 0.2
    decoder[rows] = direction * decoder[alive].norm(dim=1).mean()
    for name, tensor in tensors.items():
        weight, _, part = name.partition(".")
        if part in ("mean", "square") and weight != "b_dec":
            (tensor.T if weight == "W_enc" and learner.encoder_is_transposed else tensor)[rows] = 0
        elif weight in ("b_enc", "b_gate", "b_mag") and not part:
            tensor[rows] = 0


def _has_fast_bfloat16(device: str) -> bool:
    return torch.device(device).type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def _parameters(adam: torch.optim.Adam) -> list[Tensor]:
    return [parameter for group in adam.param_groups for parameter in group["params"]]


def _fill_optimiser(adam: torch.optim.Adam) -> None:
    """Make Adam's state now rather than at its first step, so that a checkpoint can be written into it."""
    for parameter in _parameters(adam):
        adam.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def _optimiser_tensors(adam: torch.optim.Adam, names: list[str] | tuple[str, ...]) -> dict[str, Tensor]:
    found = {}
    for name, parameter in zip(names, _parameters(adam), strict=True):
        for part, key in (("mean", "exp_avg"), ("square", "exp_avg_sq"), ("step", "step")):
            found[f"{name}.{part}"] = adam.state[parameter][key]
    return found


def scale_of(sample: Float[Tensor, "n d_in"]) -> float:
    """Return the factor that brings activations to a mean norm of sqrt(d_in)."""
    return math.sqrt(sample.shape[1]) / sample.norm(dim=1).mean().item()
