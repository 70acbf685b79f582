"""Circuits: tasks in pairs of prompts, where their answer is carried, and which features carry it.

Sources: Wang et al. 2022 (indirect object identification), Cunningham et al. 2023 section 4 (localisation), Marks et
al. 2024 (sparse feature circuits).
"""

from saekit._circuits_directions import Directions, neuron_directions, principal_directions, random_directions
from saekit._circuits_faithful import Faithfulness, faithfulness
from saekit._circuits_features import circuit_edges, feature_circuit
from saekit._circuits_localise import Localisation, localise
from saekit._circuits_minimal import Minimality, minimality
from saekit._circuits_pairs import Task
from saekit._circuits_patching import Behaviour, Patched, behaviour, patch_residual
from saekit._circuits_result import Edge, FeatureCircuit, Node
from saekit._circuits_tasks import agreement_task, ioi_task, own_task

__all__ = [
    "Behaviour",
    "Directions",
    "Edge",
    "Faithfulness",
    "FeatureCircuit",
    "Localisation",
    "Minimality",
    "Node",
    "Patched",
    "Task",
    "agreement_task",
    "behaviour",
    "circuit_edges",
    "faithfulness",
    "feature_circuit",
    "ioi_task",
    "localise",
    "minimality",
    "neuron_directions",
    "own_task",
    "patch_residual",
    "principal_directions",
    "random_directions",
]
