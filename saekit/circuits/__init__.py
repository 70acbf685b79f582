"""Circuits: tasks in pairs of prompts, where their answer is carried, and which features carry it.

Read in this order:

1. ``tasks``: a `Task` is prompts in pairs, clean and corrupted, with their answers: indirect object identification,
   agreement, or one's own.
2. ``patching``: does the model do the task, and after which layers and at which positions lies the answer?
3. ``localisation``: how few features of an SAE carry it?
4. ``graph``: which features at which positions it rests on, and which act through which.
5. ``faithful``: does such a circuit do the work alone, and is each of its features needed?

Sources: Wang et al. 2022 (indirect object identification), Cunningham et al. 2023 section 4 (localisation), Marks et
al. 2024 (sparse feature circuits). Gradients between two runs come from `saekit.models.integrated_gradient`.
"""

from saekit.circuits.faithful import Ablation, Faithfulness, Minimality, ablation_of, faithfulness, minimality
from saekit.circuits.graph import ERROR, Edge, FeatureCircuit, Node, checked_circuit, circuit_edges, feature_circuit
from saekit.circuits.localisation import Localisation, localise
from saekit.circuits.patching import Patched, TaskPerformance, patch_residual, task_performance
from saekit.circuits.tasks import Task, agreement_task, ioi_task, task_from_pairs

__all__ = [
    "ERROR",
    "Ablation",
    "Edge",
    "Faithfulness",
    "FeatureCircuit",
    "Localisation",
    "Minimality",
    "Node",
    "Patched",
    "Task",
    "TaskPerformance",
    "ablation_of",
    "agreement_task",
    "checked_circuit",
    "circuit_edges",
    "faithfulness",
    "feature_circuit",
    "ioi_task",
    "localise",
    "minimality",
    "patch_residual",
    "task_from_pairs",
    "task_performance",
]
