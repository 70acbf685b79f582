"""Train SAEs of all architectures that sae-lens has, on harvested, streamed or synthetic activations.

sae-lens's classes hold the weights and are what comes out. TopK, BatchTopK and Matryoshka SAEs learn by a sparse step
(`saekit._training_sparse`), the others by sae-lens's own. To read in order: the loop (`_training_loop`), what it moves
(`_training_learners`), the sparse step, where the activations come from (`_harvest`, `_harvest_stream`).

    python -m saekit.training          # trains a bundled SAE, writes its card and its index; see --help
"""

from saekit._harvest import harvest, harvest_many
from saekit._harvest_store import Activations, load_activations
from saekit._harvest_stream import ActivationStream, stream_activations
from saekit._training_loop import ARCHITECTURES, Progress, train_sae
from saekit._training_publish import main, publish
from saekit._training_sweep import Sweep, SweepPoint, load_sweep, sweep

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
    "sweep",
    "train_sae",
]

if __name__ == "__main__":
    main()
