"""What `train_sae` moves at every step: weights and their optimiser, as named tensors that a checkpoint can hold.

`SparseLearner` has the architectures that choose their active features by rank, and takes the sparse step.
`DenseLearner` drives sae-lens's training classes, which a penalty makes sparse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from saekit.training.architectures.sparse import Active, Weights, auxk_gradients, pre_activations, sparse_gradients

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True)
class StepResult:
    """What one step saw, all of it on the scaled activations.

    Attributes:
        loss: Squared error per token, summed over dimensions, without penalties.
        error: Reconstruction minus activation.
        fired: Number of tokens of the batch on which each feature was active.
    """

    loss: Float[Tensor, ""]
    error: Float[Tensor, "batch d_in"]
    fired: Float[Tensor, " d_sae"]


@dataclass(frozen=True)
class Start:
    """What every learner starts from.

    Attributes:
        d_in: Width of the activations.
        d_sae: Number of features.
        sample: Scaled activations; their mean is where the decoder bias starts.
        seed: Seed of the weights.
        device: "cpu" or "cuda".
        encoder_init: "transposed" or "random".
    """

    d_in: int
    d_sae: int
    sample: Float[Tensor, "n d_in"]
    seed: int
    device: str
    encoder_init: str

    def rows(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_in"]]:
        """Return unit decoder rows, and encoder rows: equal to them (which leaves next to no feature dead), or not."""
        generator = torch.Generator().manual_seed(self.seed)
        decoder = F.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)
        if self.encoder_init == "transposed":
            return decoder, decoder.clone()
        return decoder, F.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)

    def sae_lens(self) -> dict[str, Any]:
        """Return what every configuration of sae-lens wants to know."""
        return {"d_in": self.d_in, "d_sae": self.d_sae, "apply_b_dec_to_input": True}


class Learner(Protocol):
    """What the training loop needs."""

    encoder_is_transposed: bool  # W_enc is [d_in, d_sae]

    def step(self, x: Float[Tensor, "batch d_in"], lr: float, warm: float, dead: Bool[Tensor, " d_sae"]) -> StepResult:
        """Move the weights by one batch.

        Args:
            x: Scaled activations.
            lr: Learning rate of this step.
            warm: Share of its penalty that a sparsity loss has by now, 0 to 1.
            dead: Features that have not fired for long.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimiser state, by name: written in place, they resume training to the bit."""

    def rows(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_in"]]:
        """Return views of encoder and decoder with one feature per row."""

    def sae(self, scale: float) -> "SAE":
        """Return sae-lens's inference class, with the scale of the activations folded in."""


class SparseLearner:
    """An SAE whose active features are chosen by rank; decoder rows have unit norm after every step."""

    encoder_is_transposed = False

    def __init__(
        self,
        start: Start,
        choose: Callable[[Float[Tensor, "batch d_sae"]], Active],
        inference: "Callable[[SparseLearner, float], SAE]",
        *,
        auxk: bool,
        widths: tuple[int, ...] = (),
    ) -> None:
        """Begin at ``start``.

        Args:
            start: The sizes, the sample and the seed.
            choose: Function from pre-activations to the active pairs.
            inference: Function that is given this learner and the scale, and makes the inference class; the four
                weights are copied into it afterwards.
            auxk: Whether dead features learn to rebuild what the others miss.
            widths: Widths of nested SAEs, increasing, the last d_sae; empty for one SAE of all features.
        """
        self.start, self.choose, self.inference, self.auxk, self.widths = start, choose, inference, auxk, widths
        decoder, encoder = start.rows()
        parts = (encoder, decoder, torch.zeros(start.d_sae), start.sample.mean(0))
        self.weights = Weights(*(t.clone().to(start.device) for t in parts))
        self.adam = torch.optim.Adam(self.weights.tensors(), lr=1.0, fused=True)
        self.matmul_dtype = torch.bfloat16 if _has_fast_bfloat16(start.device) else None
        _fill_optimiser(self.adam)

    @torch.no_grad()
    def step(self, x: Float[Tensor, "batch d_in"], lr: float, warm: float, dead: Bool[Tensor, " d_sae"]) -> StepResult:
        """Move the weights by one batch."""
        weights = self.weights
        hidden = pre_activations(weights, x, matmul_dtype=self.matmul_dtype)
        active = self.choose(hidden)
        loss, gradients, error = sparse_gradients(weights, x, active, widths=self.widths)
        if self.auxk and dead.any():
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
        return StepResult(loss, error, fired)

    @torch.no_grad()
    def active_on_sample(self) -> Active:
        """Return the active pairs of the sample with the weights as they are."""
        return self.choose(pre_activations(self.weights, self.start.sample.to(self.start.device)))

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimiser state."""
        names = ("W_enc", "W_dec", "b_enc", "b_dec")
        return {**vars(self.weights), **_optimiser_tensors(self.adam, names)}

    def rows(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_in"]]:
        """Return encoder and decoder."""
        return self.weights.W_enc, self.weights.W_dec

    @torch.no_grad()
    def sae(self, scale: float) -> "SAE":
        """Return the inference class of the architecture with these weights."""
        with torch.random.fork_rng(devices=[]):  # sae-lens draws weights that are replaced below
            sae: Any = self.inference(self, scale)
        # f = relu(scale * (x - b) @ W_enc + b_enc), x_hat = f @ W_dec / scale + b. Giving f / scale the name of
        # activation keeps decoder rows at unit norm: W_enc stays, and biases and threshold shrink by the scale.
        sae.W_enc.copy_(self.weights.W_enc.T)
        sae.W_dec.copy_(self.weights.W_dec)
        sae.b_enc.copy_(self.weights.b_enc / scale)
        sae.b_dec.copy_(self.weights.b_dec / scale)
        return sae


class DenseLearner:
    """One of sae-lens's training classes, one autograd step at a time."""

    encoder_is_transposed = True

    def __init__(
        self, start: Start, architecture: str, *, rates: Mapping[str, float] | None = None, **options: Any
    ) -> None:
        """Begin at ``start``.

        Args:
            start: The sizes, the sample and the seed.
            architecture: Name of sae-lens's training class.
            rates: Learning rates by the name of a parameter, in learning rates of the weights; 1 for all others.
            options: Options of sae-lens's configuration, such as the coefficient of a penalty.
        """
        from sae_lens.registry import get_sae_training_class

        sae_class, config_class = get_sae_training_class(architecture)
        config = config_class(**start.sae_lens(), **options)
        with torch.random.fork_rng(devices=[]):  # sae-lens draws weights that are replaced below
            self.module: Any = sae_class(config).to(start.device)
        decoder, encoder = start.rows()
        with torch.no_grad():
            # 0.1 in sae-lens: a wide SAE would start with a far too large output.
            norm = config.decoder_init_norm or 1.0
            self.module.W_dec.copy_(decoder * norm)
            self.module.W_enc.copy_(encoder.T * norm)
            self.module.b_dec.copy_(start.sample.mean(0))
        rates = rates or {}
        named = sorted(self.module.named_parameters(), key=lambda item: item[0] in rates)
        self.names = [name for name, _ in named]
        self.rates = [rates.get(name, 1.0) for name in self.names]
        self.adam = torch.optim.Adam([{"params": [parameter]} for _, parameter in named], lr=1.0, fused=True)
        _fill_optimiser(self.adam)

    def step(self, x: Float[Tensor, "batch d_in"], lr: float, warm: float, dead: Bool[Tensor, " d_sae"]) -> StepResult:
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
        return StepResult(out.losses["mse_loss"].detach(), (out.sae_out - x).detach(), fired)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimiser state."""
        return {**{n: p.data for n, p in self.module.named_parameters()}, **_optimiser_tensors(self.adam, self.names)}

    def rows(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_in"]]:
        """Return the encoder, transposed, and the decoder."""
        return self.module.W_enc.data.T, self.module.W_dec.data

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

    Args:
        learner: What is trained.
        x: Scaled activations of a batch.
        error: Reconstruction minus activation on them.
        dead: Features to move, boolean, ``[d_sae]``.
        seed: Seed of the draw.
    """
    rows = dead.nonzero().squeeze(1)
    weight = error.square().sum(1).square().cpu()
    if not weight.sum() > 0:
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weight, len(rows), replacement=len(rows) > int((weight > 0).sum()), generator=generator)
    tensors = learner.tensors()
    direction = F.normalize(x[drawn.to(x.device)] - tensors["b_dec"], dim=1)
    encoder, decoder = learner.rows()
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
    state = {}
    for name, parameter in zip(names, _parameters(adam), strict=True):
        for part, key in (("mean", "exp_avg"), ("square", "exp_avg_sq"), ("step", "step")):
            state[f"{name}.{part}"] = adam.state[parameter][key]
    return state
