"""What an architecture says of itself, so that the training loop need not know its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saekit._base.checks import finite
from saekit.errors import SAEError
from saekit.training.architectures.learners import DenseLearner, Learner, Start

if TYPE_CHECKING:
    from saekit.training.config import TrainConfig


@dataclass(frozen=True)
class Architecture:
    """One kind of SAE that `train_sae` can train: an entry of `ARCHITECTURES`.

    Attributes:
        name: Its name, that of sae-lens's training class.
        paper: Where it is from.
        takes: Fields of `TrainConfig` that are for it, among those that not every architecture has. The first says
            how sparse it is, and must be given.
        checked: Function that returns those fields, checked, with its own defaults in the place of None; it raises
            SAEError.
        dead_features: What can be done against its dead features, the default first.
        learner: Function that makes what the training loop moves.
    """

    name: str
    paper: str
    takes: tuple[str, ...]
    checked: "Callable[[TrainConfig], dict[str, Any]]"
    dead_features: tuple[str, ...]
    learner: "Callable[[TrainConfig, Start], Learner]"

    @property
    def sparsity(self) -> str:
        """The field of `TrainConfig` that says how sparse it is: "k" or "sparsity_coefficient"."""
        return self.takes[0]


def checked_mean_k(config: "TrainConfig") -> dict[str, Any]:
    """Return k where it is a mean over the batch: any number above 0 and below d_sae."""
    return {"k": finite("k", config.k, above=0, below=config.d_sae, error=SAEError)}


def penalised(
    name: str,
    paper: str,
    penalty: str,
    *,
    dead_features: tuple[str, ...] = ("resample", "none"),
    rates: Mapping[str, float] | None = None,
) -> Architecture:
    """Return an architecture that a penalty makes sparse: a training class of sae-lens does the work.

    Args:
        name: Its name in sae-lens's registry.
        paper: Where it is from.
        penalty: Name of the penalty's coefficient in sae-lens's configuration.
        dead_features: What can be done against its dead features, the default first.
        rates: Learning rates of single parameters, in learning rates of the weights.
    """

    def checked(config: "TrainConfig") -> dict[str, Any]:
        value = finite("sparsity_coefficient", config.sparsity_coefficient, at_least=0, error=SAEError)
        return {"sparsity_coefficient": value}

    def learner(config: "TrainConfig", start: Start) -> DenseLearner:
        return DenseLearner(start, name, rates=rates, **{penalty: config.sparsity_coefficient})

    return Architecture(name, paper, ("sparsity_coefficient",), checked, dead_features, learner)
