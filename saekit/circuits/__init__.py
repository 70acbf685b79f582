"""Circuits: tasks in pairs of prompts, where their answer is carried, and which features carry it.

Sources: Wang et al. 2022 (indirect object identification), Cunningham et al. 2023 section 4 (localisation), Marks et
al. 2024 (sparse feature circuits).
"""

from saekit.circuits.faithful import Faithfulness, faithfulness
from saekit.circuits.graph import circuit_edges, feature_circuit
from saekit.circuits.localisation import Localisation, localise
from saekit.circuits.measure import Interrupted, Measure, stoppable
from saekit.circuits.minimal import Minimality, minimality
from saekit.circuits.pairs import Task
from saekit.circuits.patching import Behaviour, Patched, behaviour, patch_residual
from saekit.circuits.result import Edge, FeatureCircuit, Node, checked_circuit
from saekit.circuits.tasks import agreement_task, ioi_task, own_task

__all__ = [
    "Behaviour",
    "Edge",
    "Faithfulness",
    "FeatureCircuit",
    "Interrupted",
    "Localisation",
    "Measure",
    "Minimality",
    "Node",
    "Patched",
    "Task",
    "agreement_task",
    "behaviour",
    "checked_circuit",
    "circuit_edges",
    "faithfulness",
    "feature_circuit",
    "ioi_task",
    "localise",
    "minimality",
    "own_task",
    "patch_residual",
    "stoppable",
]
