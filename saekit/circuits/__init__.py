"""Circuits: tasks in pairs of prompts, where their answer is carried, and which features carry it.

Sources: Wang et al. 2022 (indirect object identification), Cunningham et al. 2023 section 4 (localisation), Marks et
al. 2024 (sparse feature circuits).
"""

from saekit.circuits.faithful import Ablation, Faithfulness, Minimality, ablation_of, faithfulness, minimality
from saekit.circuits.graph import ERROR, Edge, FeatureCircuit, Node, checked_circuit, circuit_edges, feature_circuit
from saekit.circuits.localisation import Localisation, localise
from saekit.circuits.pairs import Task
from saekit.circuits.patching import Patched, TaskPerformance, patch_residual, task_performance
from saekit.circuits.tasks import agreement_task, ioi_task, task_from_pairs

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
