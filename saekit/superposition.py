"""Toy models of superposition (Elhage et al. 2022): many small models trained at once, and what their weights say.

A toy model squeezes n sparse features through m < n dimensions and rebuilds them: ``h = W x``, ``x' = W^T h + b``, with
or without a relu at the end. The loss is ``mean over samples of sum_i importance_i (x_i - x'_i)^2``. Every setting
(density, importance) is trained from several starts at once, in one tensor: some starts end in a worse minimum, so
results are read from the `best` of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import finite, one_of, whole
from saekit._base.progress import Progress, Stop, tracked
from saekit.errors import ToyModelError

__all__ = [
    "AbsoluteValueModels",
    "ToyModels",
    "antipodal_loss",
    "dedicated_loss",
    "ideal_loss",
    "in_pairs",
    "train_absolute_value",
    "train_toy_models",
]

Activation = Literal["relu", "linear"]
Sampler = Callable[[Float[Tensor, "setting start batch n"], Float[Tensor, "setting n"]], Tensor]


@dataclass(frozen=True)
class ToyModels:
    """Trained toy models, one setting per row; after `best` the axis of starts has length 1.

    Attributes:
        W: Feature directions, one per column.
        b: Output biases.
        loss: Loss on fresh samples, the same for all starts of a setting.
        density: Chance that a feature is on.
        importance: Weight of each feature's error.
        activation: Function at the output, "relu" or "linear".
    """

    W: Float[Tensor, "setting start m n"]
    b: Float[Tensor, "setting start n"]
    loss: Float[Tensor, "setting start"]
    density: Float[Tensor, "setting n"]
    importance: Float[Tensor, "setting n"]
    activation: Activation

    def best(self) -> "ToyModels":
        """Keep the start with the lowest loss of every setting."""
        chosen = self.loss.argmin(1)
        return replace(self, W=_pick(self.W, chosen), b=_pick(self.b, chosen), loss=_pick(self.loss, chosen))

    @property
    def gram(self) -> Float[Tensor, "setting start n n"]:
        """W^T W: the diagonal says which features are stored, the rest how they get in each other's way."""
        return self.W.mT @ self.W

    @property
    def norms(self) -> Float[Tensor, "setting start n"]:
        """Length of each feature's direction: near 1 if the feature is stored, near 0 if not."""
        return self.W.norm(dim=-2)

    @property
    def interference(self) -> Float[Tensor, "setting start n"]:
        """Sum over the other features j of (unit W_i . W_j)^2: above 0 the feature shares its direction."""
        overlap = _unit(self.W).mT @ self.W
        return overlap.square().sum(-1) - overlap.diagonal(dim1=-2, dim2=-1).square()

    @property
    def dimensionality(self) -> Float[Tensor, "setting start n"]:
        """Share of a dimension that each feature has: |W_i|^2 / sum over j of (unit W_i . W_j)^2; 0 if not stored."""
        overlap = (_unit(self.W).mT @ self.W).square().sum(-1)
        return torch.where(self.norms > 1e-3, self.norms.square() / overlap.clamp(min=1e-12), 0.0)

    @property
    def dimensions_per_feature(self) -> Float[Tensor, "setting start"]:
        """D* = m / |W|^2 (Frobenius): 1 if features have a dimension each, 1/2 for antipodal pairs."""
        return self.W.shape[-2] / self.W.square().sum((-2, -1))

    def __repr__(self) -> str:
        settings, starts, m, n = self.W.shape
        return f"ToyModels({n} features in {m} dimensions, {self.activation}; {settings} settings, {starts} starts)"


def train_toy_models(
    n: int,
    m: int,
    *,
    density: "float | list[float] | np.ndarray | Tensor",
    importance: "float | list[float] | np.ndarray | Tensor" = 1.0,
    activation: Activation = "relu",
    starts: int = 8,
    steps: int = 2000,
    batch_size: int = 256,
    lr: float = 5e-3,
    seed: int = 0,
    sampler: Sampler | None = None,
    progress: Progress = False,
    stop: Stop = None,
) -> ToyModels:
    """Train a toy model for every setting, each from several starts, all in one tensor.

    Args:
        n: Number of features.
        m: Number of hidden dimensions, at most n.
        density: Chance that a feature is on (1 - S in the paper): one number, one per setting ``[setting]``, or one
            for every feature of every setting ``[setting, n]``.
        importance: Weights of the features' errors, in the same forms; ``[1, n]`` gives all settings the same.
        activation: Function at the output, "relu" or "linear".
        starts: Number of random starts per setting.
        steps: Number of steps of Adam, with a cosine decay.
        batch_size: Samples per step; each start has its own.
        lr: Learning rate at the beginning.
        seed: Seed of starts and samples.
        sampler: Function from uniform noise ``[setting, start, batch, n]`` and the densities to which features are on
            (boolean, same shape); None for each by itself. `in_pairs` makes one for correlated features.
        progress: Show a progress bar; or a function that is given (done, total) after each step.
        stop: Function that is asked between steps; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        ToyModelError: A size, density or importance that cannot be.
    """
    density, importance = _settings(n, density, "density"), _settings(n, importance, "importance")
    settings = max(len(density), len(importance))
    _check(n, m, density, importance, starts, steps, batch_size, lr, activation)
    density, importance = density.expand(settings, n).contiguous(), importance.expand(settings, n).contiguous()
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(settings, starts, m, n, generator=generator) / m**0.5 * 0.5
    W.requires_grad_()
    b = torch.zeros(settings, starts, n, requires_grad=True)

    def losses(x: Float[Tensor, "setting start batch n"]) -> Float[Tensor, "setting start"]:
        out = (x @ W.mT) @ W + b[:, :, None]
        out = out.relu() if activation == "relu" else out
        return (importance[:, None, None] * (x - out).square()).sum(-1).mean(-1)

    def draw(starts: int, samples: int) -> Float[Tensor, "setting start batch n"]:
        return _samples((settings, starts, samples, n), density, generator, sampler)

    _minimise([W, b], lambda: losses(draw(starts, batch_size)).sum(), steps, lr, progress, stop)
    with torch.no_grad():
        # One big sample for all starts of a setting, in parts: comparing starts must not depend on luck.
        parts = [losses(draw(1, 2048).expand(-1, starts, -1, -1)) for _ in range(32)]
    return ToyModels(W.detach(), b.detach(), torch.stack(parts).mean(0), density, importance, activation)


def _samples(
    shape: tuple[int, ...], density: Float[Tensor, "setting n"], generator: torch.Generator, sampler: Sampler | None
) -> Float[Tensor, "setting start batch n"]:
    """Draw features that are 0 or uniform between 0 and 1."""
    noise = torch.rand(shape, generator=generator)
    value = torch.rand(shape, generator=generator)
    on = noise < density[:, None, None] if sampler is None else sampler(noise, density)
    return value * on


def in_pairs(kind: Literal["correlated", "anticorrelated"]) -> Sampler:
    """Return a sampler in which features 0 and 1, 2 and 3, ... are on together, or never at the same time.

    Each feature keeps its density (that of the first of its pair); anticorrelated densities may not exceed 1/2.
    sae_lens.synthetic makes correlated features by thresholded Gaussians, which come close to but never reach "always
    together" and "never together".

    Args:
        kind: "correlated" for together, "anticorrelated" for never at the same time.

    Raises:
        ToyModelError: Another kind; later, when it draws, an odd number of features or a density above 1/2.
    """
    one_of("kind", kind, ("correlated", "anticorrelated"), error=ToyModelError)

    def sample(noise: Tensor, density: Tensor) -> Tensor:
        if noise.shape[-1] % 2:
            raise ToyModelError(f"features in pairs must be even in number, not {noise.shape[-1]}")
        first = noise[..., ::2]  # one draw per pair
        p = density[:, None, None, ::2]
        if kind == "correlated":
            on = torch.stack([first < p, first < p], -1)
        elif (p > 0.5).any():
            raise ToyModelError(
                f"two features that exclude each other have a density of at most 0.5, not {p.max():.2f}"
            )
        else:
            on = torch.stack([first < p, (first >= p) & (first < 2 * p)], -1)
        return on.flatten(-2)

    return sample


@dataclass(frozen=True)
class AbsoluteValueModels:
    """Models that compute y = |x| with a hidden relu layer: ``y' = relu(W2 relu(W1 x) + b)``.

    Attributes:
        W1: Weights into the hidden neurons.
        W2: Weights out of them.
        loss: Loss on fresh samples.
        density: Chance that a feature is on; values are uniform between -1 and 1.
    """

    W1: Float[Tensor, "setting start hidden n"]
    W2: Float[Tensor, "setting start n hidden"]
    loss: Float[Tensor, "setting start"]
    density: Float[Tensor, " setting"]

    def best(self) -> "AbsoluteValueModels":
        """Keep the start with the lowest loss of every setting."""
        chosen = self.loss.argmin(1)
        return replace(self, W1=_pick(self.W1, chosen), W2=_pick(self.W2, chosen), loss=_pick(self.loss, chosen))

    @property
    def features_per_neuron(self) -> Float[Tensor, "setting start hidden"]:
        """Effective number of features a neuron reads: (sum of |w|)^2 / sum of w^2; 1 if it reads one, 0 if none."""
        size = self.W1.abs()
        return torch.where(size.amax(-1) > 0.05, size.sum(-1).square() / size.square().sum(-1).clamp(min=1e-12), 0.0)


def train_absolute_value(
    n: int,
    hidden: int,
    *,
    density: "float | list[float]",
    importance: "float | list[float] | np.ndarray" = 1.0,
    starts: int = 8,
    steps: int = 3000,
    batch_size: int = 256,
    lr: float = 5e-3,
    seed: int = 0,
    progress: Progress = False,
    stop: Stop = None,
) -> AbsoluteValueModels:
    """Train models to compute absolute values of sparse features (Elhage et al. 2022, "Computation in Superposition").

    Args:
        n: Number of features.
        hidden: Number of neurons; 2 n would be enough for two per feature, one for each sign.
        density: Chance that a feature is on: one number, or one per setting.
        importance: Weight of the features' errors: one number, or one per feature.
        starts: Number of random starts per setting.
        steps: Number of steps of Adam, with a cosine decay.
        batch_size: Samples per step; each start has its own.
        lr: Learning rate at the beginning.
        seed: Seed of starts and samples.
        progress: Show a progress bar; or a function that is given (done, total) after each step.
        stop: Function that is asked between steps; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        ToyModelError: A size, density or importance that cannot be.
    """
    density = torch.atleast_1d(torch.as_tensor(density, dtype=torch.float32))
    weight = torch.as_tensor(np.asarray(importance), dtype=torch.float32).expand(n)
    _check(n, n, density[:, None].expand(-1, n), weight[None], starts, steps, batch_size, lr, "relu")
    hidden = whole("hidden", hidden, at_least=1, error=ToyModelError)
    generator = torch.Generator().manual_seed(seed)
    W1 = torch.randn(len(density), starts, hidden, n, generator=generator) / n**0.5
    W2 = torch.randn(len(density), starts, n, hidden, generator=generator) / hidden**0.5
    b = torch.zeros(len(density), starts, n)
    parameters = [W1.requires_grad_(), W2.requires_grad_(), b.requires_grad_()]

    def losses(samples: int) -> Float[Tensor, "setting start"]:
        shape = (len(density), starts, samples, n)
        on = torch.rand(shape, generator=generator) < density[:, None, None, None]
        x = on * (2 * torch.rand(shape, generator=generator) - 1)
        out = ((x @ W1.mT).relu() @ W2.mT + b[:, :, None]).relu()
        return (weight * (out - x.abs()).square()).sum(-1).mean(-1)

    _minimise(parameters, lambda: losses(batch_size).sum(), steps, lr, progress, stop)
    with torch.no_grad():
        final = torch.stack([losses(2048) for _ in range(4)]).mean(0)
    return AbsoluteValueModels(W1.detach(), W2.detach(), final, density)


# --- what both kinds of models share -----------------------------------------------------------------------------


def _minimise(
    parameters: Sequence[Tensor], loss: Callable[[], Tensor], steps: int, lr: float, progress: Progress, stop: Stop
) -> None:
    """Move parameters by Adam, with a cosine decay of the learning rate."""
    adam = torch.optim.Adam(parameters, lr=lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in tracked(range(steps), progress, "step", stop=stop, title="Training toy models"):
        adam.zero_grad()
        loss().backward()
        adam.step()
        decay.step()


def _pick(values: Float[Tensor, "setting start ..."], chosen: Tensor) -> Float[Tensor, "setting 1 ..."]:
    """Return one start of each setting."""
    return values[torch.arange(len(values)), chosen][:, None]


def _unit(W: Float[Tensor, "... m n"]) -> Float[Tensor, "... m n"]:
    return W / W.norm(dim=-2, keepdim=True).clamp(min=1e-12)


def _settings(n: int, values: "float | list | np.ndarray | Tensor", name: str) -> Float[Tensor, "setting n"]:
    tensor = torch.as_tensor(np.asarray(values), dtype=torch.float32)
    if tensor.dim() == 0:
        return tensor.expand(1, n)
    if tensor.dim() == 1:
        return tensor[:, None].expand(-1, n)
    if tensor.dim() == 2 and tensor.shape[1] == n:
        return tensor
    raise ToyModelError(f"{name} must be a number, [setting], or [setting, {n}], not of shape {list(tensor.shape)}")


def _check(
    n: int, m: int, density: Tensor, importance: Tensor, starts: int, steps: int, batch_size: int, lr: float, kind: str
) -> None:
    if not 1 <= m <= n:
        raise ToyModelError(f"m must be between 1 and n = {n}, not {m}: a toy model squeezes features into less room")
    if len(density) != len(importance) and 1 not in (len(density), len(importance)):
        raise ToyModelError(
            f"density has {len(density)} settings and importance {len(importance)}: give as many, or one"
        )
    if not len(density) or not len(importance):
        raise ToyModelError("there is no setting: give at least one density and one importance")
    if not ((density > 0) & (density <= 1)).all():  # also catches NaN
        raise ToyModelError(f"density must be above 0 and at most 1, not {density.flatten().tolist()[:8]}")
    if not ((importance >= 0) & importance.isfinite()).all():
        raise ToyModelError(f"importance must be 0 or more, not {importance.flatten().tolist()[:8]}")
    for name, value in {"starts": starts, "steps": steps, "batch_size": batch_size}.items():
        whole(name, value, at_least=1, error=ToyModelError)
    finite("lr", lr, above=0, error=ToyModelError)
    one_of("activation", kind, ("relu", "linear"), error=ToyModelError)


# --- theory: what simple weights would cost, beside which the phase diagrams are read ----------------------------


def dedicated_loss(density: "float | np.ndarray", importance: "float | np.ndarray" = 1.0) -> "float | np.ndarray":
    """Return the loss for n = 2, m = 1 if one feature has the dimension to itself, and the other its best constant.

    The first feature is stored exactly; the other is answered by its mean p / 2: ``importance * (p / 3 - p^2 / 4)``.

    Args:
        density: Chance p that a feature is on.
        importance: Weight of the error of the feature that is not stored.
    """
    return importance * (density / 3 - density**2 / 4)


def antipodal_loss(density: "float | np.ndarray", importance: "float | np.ndarray" = 1.0) -> "float | np.ndarray":
    """Return the loss for n = 2, m = 1 with W = [1, -1] and b = 0: only both at once go wrong.

    With both on, the larger keeps the difference d = |x1 - x2| and the other comes out as 0, so each is off by the
    smaller value: ``p^2 * (1 + importance) * E[min^2] = p^2 (1 + importance) / 6``.

    Args:
        density: Chance p that a feature is on.
        importance: Weight of the error of the second feature; that of the first is 1.
    """
    return density**2 * (1 + importance) / 6


def ideal_loss(
    W: Float[Tensor, "m n"], density: float, importance: Float[Tensor, " n"], *, samples: int = 100_000, seed: int = 0
) -> float:
    """Return the loss of a relu model with given weights and the best bias, found by search.

    Features answer to their own bias alone, so each is searched on a grid from -1 to 1 in steps of 0.02.

    Args:
        W: Feature directions, one per column.
        density: Chance that a feature is on.
        importance: Weight of each feature's error.
        samples: Number of samples on which the loss is measured.
        seed: Seed of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, W.shape[1], generator=generator)
    x = x * (torch.rand(x.shape, generator=generator) < density)
    out = x @ W.T @ W
    grid = torch.linspace(-1, 1, 101)
    error = torch.stack([(x - (out + b).relu()).square().mean(0) for b in grid])  # [bias, n]
    return (error.amin(0) * importance).sum().item()
