"""What an architecture says of itself, so that the training loop need not know its name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saekit._base.checks import finite
from saekit.errors import SAEError
from saekit.training.architectures.learners import Learner, Start

if TYPE_CHECKING:
    from saekit.training.config import TrainConfig

# Fields of TrainConfig that only some architectures take, in words.
OPTIONS = {
    "k": "the number of active features per token",
    "sparsity_coefficient": "the weight of its sparsity penalty",
    "matryoshka_widths": "the widths of the nested SAEs",
}


@dataclass(frozen=True)
class Architecture:
    """One kind of SAE that `train_sae` can train: an entry of `ARCHITECTURES`.

    Attributes:
        name: Its name, that of sae-lens's training class.
        paper: Where it is from.
        takes: Fields of `TrainConfig` that are for it among `OPTIONS`. The first says how sparse it is, and must be
            given.
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


def checked_coefficient(config: "TrainConfig") -> dict[str, Any]:
    """Return the coefficient of the sparsity penalty: any number from 0 on."""
    value = finite("sparsity_coefficient", config.sparsity_coefficient, at_least=0, error=SAEError)
    return {"sparsity_coefficient": value}
