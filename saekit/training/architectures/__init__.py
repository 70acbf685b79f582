"""The architectures that `train_sae` can train: a file and an entry of `ARCHITECTURES` each.

To read in order: the sparse step (``sparse``), what the training loop moves (``learners``), what an architecture says
of itself (``architecture``), then each of them.

A new one is a file with its formula, how its active features are chosen (a `SparseLearner`) or its class in sae-lens's
registry (`penalised`), and an `Architecture`; then its entry below. A setting of its own is a field of `TrainConfig`.
"""

from saekit.training.architectures.architecture import Architecture
from saekit.training.architectures.batchtopk import BATCHTOPK, batchtopk_active
from saekit.training.architectures.gated import GATED
from saekit.training.architectures.jumprelu import JUMPRELU
from saekit.training.architectures.learners import DenseLearner, Learner, SparseLearner, Start, StepResult, resample
from saekit.training.architectures.matryoshka import MATRYOSHKA
from saekit.training.architectures.sparse import Active, Weights, auxk_gradients, pre_activations, sparse_gradients
from saekit.training.architectures.standard import STANDARD
from saekit.training.architectures.topk import TOPK, topk_active

ARCHITECTURES = {entry.name: entry for entry in (TOPK, BATCHTOPK, MATRYOSHKA, STANDARD, GATED, JUMPRELU)}

__all__ = [
    "ARCHITECTURES",
    "Active",
    "Architecture",
    "DenseLearner",
    "Learner",
    "SparseLearner",
    "Start",
    "StepResult",
    "Weights",
    "auxk_gradients",
    "batchtopk_active",
    "pre_activations",
    "resample",
    "sparse_gradients",
    "topk_active",
]
