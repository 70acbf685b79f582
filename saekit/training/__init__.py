"""Train SAEs of all architectures that sae-lens has, on harvested, streamed or synthetic activations.

sae-lens's classes hold the weights and are what comes out. TopK, BatchTopK and Matryoshka SAEs learn by a sparse step
(`saekit.training.sparse`), the others by sae-lens's own. To read in order: the loop (`loop`), what it moves
(`learners`), the sparse step, where the activations come from (`harvest`, `stream`).

    python -m saekit.training          # trains a bundled SAE, writes its card and its index; see --help
"""

from saekit.training.activations import Activations, load_activations
from saekit.training.harvesting import harvest, harvest_many
from saekit.training.loop import ARCHITECTURES, Progress, train_sae
from saekit.training.publishing import main, publish
from saekit.training.stream import ActivationStream, stream_activations
from saekit.training.sweep import Sweep, SweepPoint, load_sweep, train_sweep

__all__ = [
    "ARCHITECTURES",
    "ActivationStream",
    "Activations",
    "Progress",
    "Sweep",
    "SweepPoint",
    "harvest",
    "harvest_many",
    "load_activations",
    "load_sweep",
    "main",
    "publish",
    "stream_activations",
    "train_sae",
    "train_sweep",
]
