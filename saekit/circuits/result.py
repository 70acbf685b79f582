"""A feature circuit: nodes with their effects, edges with their weights, and which dictionaries it is of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from saekit.circuits.pairs import Task
from saekit.errors import SAEError
from saekit.saes import Dictionary, ordered

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.saes import Directions

Dictionaries: TypeAlias = "Sequence[SAE[Any] | Directions | Dictionary] | SAE[Any] | Directions | Dictionary"
ERROR = -1  # the number of an error node


@dataclass(frozen=True, order=True)
class Node:
    """A feature, or the reconstruction error (feature -1), of one layer at one named position."""

    layer: int  # index into the circuit's hook points, lowest layer first
    position: int  # index into the circuit's positions
    feature: int


@dataclass(frozen=True)
class Edge:
    """How much of the effect of ``source`` goes through ``target``, in logits."""

    source: Node
    target: Node
    weight: float


@dataclass(frozen=True)
class FeatureCircuit:
    """Effects of all nodes on the logit difference, in logits, mean over prompts.

    Attributes:
        task: Name of the task.
        hook_names: Of the dictionaries, lowest layer first.
        positions: Names of the positions.
        features: For each hook point ``[position, feature]``; positive: the feature supports the answer.
        errors: ``[layer, position]``, the same for the reconstruction errors.
        elsewhere: ``[layer]``, the sum of all effects at positions that the task does not name.
        gap: Logit difference of the clean minus that of the corrupted runs: what the effects of each layer sum to, if
            the estimate is right (`completeness`).
        steps: Points between the two runs at which gradients were taken; 1: at the clean run only.
        n_prompts: Pairs behind each number.
        hashes: Of the dictionaries, so that no others are taken for them; empty: not known.
    """

    task: str
    hook_names: tuple[str, ...]
    positions: tuple[str, ...]
    features: tuple[Float[np.ndarray, "position _feature"], ...]
    errors: Float[np.ndarray, "layer position"]
    elsewhere: Float[np.ndarray, "layer"]
    gap: float
    steps: int
    n_prompts: int
    hashes: tuple[str, ...] = ()

    @property
    def completeness(self) -> Float[np.ndarray, "layer"]:
        """Sum of all effects of each layer over the gap: 1 where the estimate accounts for all of it."""
        found = np.array([effects.sum() for effects in self.features])
        return (found + self.errors.sum(1) + self.elsewhere) / self.gap

    def effect(self, node: Node) -> float:
        """Return the effect of one node."""
        here = self.errors[node.layer] if node.feature == ERROR else self.features[node.layer][:, node.feature]
        return float(here[node.position])

    def top(self, k: int, *, errors: bool = False, layer: int | None = None) -> tuple[Node, ...]:
        """Return the k nodes with the largest effect in absolute value, features only unless ``errors``."""
        nodes = []
        for number, effects in enumerate(self.features):
            if layer is not None and number != layer:
                continue
            width = effects.shape[1]
            order = np.argsort(-np.abs(effects), axis=None, kind="stable")[:k]
            nodes += [Node(number, int(at) // width, int(at) % width) for at in order]
            nodes += [Node(number, p, ERROR) for p in range(len(self.positions))] if errors else []
        return tuple(sorted(nodes, key=lambda node: -abs(self.effect(node)))[:k])

    def __repr__(self) -> str:
        shares = ", ".join(
            f"{hook} {share:.0%}" for hook, share in zip(self.hook_names, self.completeness, strict=True)
        )
        return (
            f"FeatureCircuit({self.task}, {self.n_prompts} pairs, gap {self.gap:+.2f} logits; the effects, errors "
            f"included, account for: {shares})"
        )


def checked_circuit(
    model: "SAETransformerBridge",
    dictionaries: Dictionaries,
    task: Task,
    circuit: FeatureCircuit | None = None,
) -> list[Dictionary]:
    """Return the dictionaries, lowest layer first.

    Raises:
        SAEError: They do not fit the model or each other, or the circuit is not one of them and of the task.
    """
    layers = ordered(model, dictionaries)
    if circuit is None:
        return layers
    hooks = tuple(dictionary.hook_name for dictionary in layers)
    widths = tuple(len(dictionary.rows) for dictionary in layers)
    if (hooks, widths) != (circuit.hook_names, tuple(effects.shape[1] for effects in circuit.features)):
        raise SAEError(
            f"the circuit is of {', '.join(circuit.hook_names)} with "
            f"{', '.join(str(effects.shape[1]) for effects in circuit.features)} features, the dictionaries are of "
            f"{', '.join(hooks)} with {', '.join(map(str, widths))}: pass those that it was made with"
        )
    for dictionary, known in zip(layers, circuit.hashes or [None] * len(layers), strict=True):
        if known not in (None, dictionary.hash):
            raise SAEError(
                f"the circuit's features at {dictionary.hook_name} are of another dictionary (hash {known[:12]}) than "
                f"{dictionary.name} (hash {dictionary.hash[:12]}): their numbers mean nothing in it. Pass the one that "
                f"the circuit was made with"
            )
    if tuple(task.positions) != circuit.positions:
        raise SAEError(
            f"the circuit has positions {', '.join(circuit.positions)}, the task {', '.join(task.positions)}"
        )
    return layers
