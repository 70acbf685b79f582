"""Train SAEs on harvested, streamed or any other activations: six architectures, one call.

sae-lens's classes hold the weights and are what comes out. TopK, BatchTopK and Matryoshka SAEs learn by a sparse step,
the others by sae-lens's own.

    sae = train_sae(harvest(model, tokens, "blocks.9.hook_resid_post", "folder"), d_sae=1152, k=32)

To read in order: where activations come from (``activations``, ``harvesting``), a file per architecture
(``architectures``), the settings (``config``), the loop (``loop``), many SAEs at once (``sweep``), and the command
that makes a bundled one (``publishing``):

    python -m saekit.training --help
"""

from saekit.training.activations import Activations
from saekit.training.architectures import ARCHITECTURES, Architecture
from saekit.training.config import TrainConfig, TrainSettings
from saekit.training.harvesting import ActivationStream, harvest, harvest_many, stream_activations
from saekit.training.loop import TrainingStep, train_sae
from saekit.training.publishing import main, publish
from saekit.training.sweep import Sweep, SweptSAE, train_sweep

__all__ = [
    "ARCHITECTURES",
    "ActivationStream",
    "Activations",
    "Architecture",
    "Sweep",
    "SweptSAE",
    "TrainConfig",
    "TrainSettings",
    "TrainingStep",
    "harvest",
    "harvest_many",
    "main",
    "publish",
    "stream_activations",
    "train_sae",
    "train_sweep",
]
