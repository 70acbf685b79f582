"""Is every feature of a circuit needed? Take one out at a time and measure what the rest keeps.

Wang et al. 2022, section 4, with nothing else taken out (their K empty). A feature whose absence changes little is
not shown to be useless: another may do its work when it is gone.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from saekit.circuits.faithful import Errors, ablated, check_ablation, clean_runs, mean_nodes, share_kept
from saekit.circuits.pairs import Task
from saekit.circuits.result import ERROR, Dictionaries, FeatureCircuit, Node, checked_circuit
from saekit.errors import SAEError
from saekit.saes import whole_number

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


@dataclass(frozen=True)
class Minimality:
    """What each feature of a circuit adds to the others.

    Attributes:
        task: Name of the task whose prompts were run.
        nodes: The features of the circuit, strongest effect first.
        drop: Faithfulness of the circuit minus that of the circuit without the feature ``[node]``; negative: better
            without it.
        faithfulness: Of the whole circuit, as in `saekit.circuits.Faithfulness`.
        errors: Whether reconstruction errors were kept or ablated.
        n_prompts: Prompts behind each number.
    """

    task: str
    nodes: tuple[Node, ...]
    drop: Float[np.ndarray, "node"]
    faithfulness: float
    errors: Errors
    n_prompts: int

    def needed(self, share: float = 0.01) -> tuple[Node, ...]:
        """Return the features whose absence costs at least this much faithfulness."""
        return tuple(node for node, drop in zip(self.nodes, self.drop, strict=True) if drop >= share)

    def __repr__(self) -> str:
        return (
            f"Minimality({self.task}, {self.n_prompts} prompts, errors {self.errors}: faithfulness "
            f"{self.faithfulness:.2f} of {len(self.nodes)} features; {len(self.needed())} cost 0.01 or more when they "
            f"are taken out)"
        )


def minimality(
    model: "SAETransformerBridge",
    dictionaries: Dictionaries,
    task: Task,
    circuit: FeatureCircuit,
    *,
    size: int = 10,
    errors: Errors = "kept",
    batch_size: int = 16,
) -> Minimality:
    """Take each of the strongest features out of the circuit that they make, one at a time.

    Args:
        model: The model.
        dictionaries: Those of the circuit.
        task: Prompts to run, at least two different ones; better not those by which the circuit was found.
        circuit: From `feature_circuit`.
        size: How many features make the circuit; as many runs and three more are made.
        errors: "kept" or "ablated", in all runs but that of the model.
        batch_size: Prompts a pass.

    Raises:
        SAEError: Dictionaries or positions other than the circuit's, or a size below 1.
        TaskError: Fewer than two different prompts, or prompts on which ablating everything changes nothing.
    """
    size = whole_number("the size of the circuit", size, 1)
    layers = checked_circuit(model, dictionaries, task, circuit)
    if errors not in ("kept", "ablated"):
        raise SAEError(f"errors must be 'kept' or 'ablated', not {errors!r}")
    check_ablation(task)
    means = mean_nodes(model, layers, task, batch_size=batch_size)
    runs = tuple(clean_runs(model, layers, task, batch_size=batch_size))
    run = partial(ablated, model, layers, runs, means)
    nodes = circuit.top(size)
    places = [(layer, place) for layer in range(len(layers)) for place in range(len(circuit.positions))]
    kept = {*nodes, *(Node(layer, place, ERROR) for layer, place in places if errors == "kept")}
    whole, nothing = run(None), run(set())
    share = lambda nodes: share_kept(run(nodes), whole, nothing)  # noqa: E731
    all_of_them = share(kept)
    drop = np.array([all_of_them - share(kept - {node}) for node in nodes])
    return Minimality(task.name, nodes, drop, all_of_them, errors, len(task))
