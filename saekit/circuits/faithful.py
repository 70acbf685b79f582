"""Does a circuit do the work? Ablate everything outside of it and measure what is left of the behaviour.

Marks et al. 2024, section 3.3. Outside of the circuit a feature takes its mean over the task's clean prompts at the
same named position; positions that the task does not name are left as they are, for the circuit claims nothing about
them. Faithfulness depends on such choices (Miller et al. 2024): it may lie below 0 or above 1.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.circuits.graph import named_positions
from saekit.circuits.pairs import Task
from saekit.circuits.result import ERROR, Dictionaries, FeatureCircuit, Node, checked_circuit
from saekit.errors import SAEError, TaskError
from saekit.models import hidden_states, hooked, last_logits_from
from saekit.saes import Dictionary, ordered, whole_number

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

Errors = Literal["kept", "ablated"]


@dataclass(frozen=True)
class Faithfulness:
    """How much of the behaviour circuits of growing size keep.

    Attributes:
        task: Name of the task whose prompts were run; better not those by which the circuit was found.
        sizes: Numbers of features in the circuit ``[point]``.
        faithfulness: (m(circuit) - m(nothing)) / (m(model) - m(nothing)), m the mean logit difference ``[point]``.
        completeness: The same for everything but the circuit's features ``[point]``: near 0 if nothing is missing.
        errors: Whether reconstruction errors at the named positions were kept in all runs or ablated in all runs.
        model: m of the model itself.
        nothing: m with all features and all errors at the named positions ablated.
        n_prompts: Prompts behind each number.
    """

    task: str
    sizes: Int[np.ndarray, "point"]
    faithfulness: Float[np.ndarray, "point"]
    completeness: Float[np.ndarray, "point"]
    errors: Errors
    model: float
    nothing: float
    n_prompts: int

    def __repr__(self) -> str:
        points = ", ".join(f"{size}: {share:.2f}" for size, share in zip(self.sizes, self.faithfulness, strict=True))
        return (
            f"Faithfulness({self.task}, {self.n_prompts} prompts, errors {self.errors}: logit difference "
            f"{self.model:+.2f} of the model, {self.nothing:+.2f} with nothing; by number of features {points})"
        )


def faithfulness(
    model: "SAETransformerBridge",
    dictionaries: Dictionaries,
    task: Task,
    circuit: FeatureCircuit,
    *,
    sizes: Sequence[int] = (0, 1, 3, 10, 30, 100, 300, 1000),
    errors: Errors = "kept",
    batch_size: int = 16,
) -> Faithfulness:
    """Keep the strongest features of a circuit, ablate all others, and measure what is left.

    Args:
        model: The model.
        dictionaries: Those of the circuit.
        task: Prompts to run, at least two different ones; a circuit should be tested on others than those it was
            found by.
        circuit: From `feature_circuit`; its features are taken in the order of their effects.
        sizes: How many features to keep, over all layers and positions.
        errors: "kept" or "ablated", in all runs but that of the model.
        batch_size: Prompts a pass.

    Raises:
        SAEError: Dictionaries or positions other than the circuit's, or sizes that are none.
        TaskError: Fewer than two different prompts, or prompts on which ablating everything changes nothing.
    """
    sizes = [whole_number("sizes of circuits", size, 0) for size in sizes]
    if not sizes:
        raise SAEError("sizes names no size: expected at least one number of features, such as (0, 10, 100)")
    layers = checked_circuit(model, dictionaries, task, circuit)
    check_ablation(task)
    if errors not in ("kept", "ablated"):
        raise SAEError(f"errors must be 'kept' or 'ablated', not {errors!r}")
    means = mean_nodes(model, layers, task, batch_size=batch_size)
    runs = tuple(clean_runs(model, layers, task, batch_size=batch_size))
    run = partial(ablated, model, layers, runs, means)
    with_errors = {Node(layer, p, ERROR) for layer in range(len(layers)) for p in range(len(circuit.positions))}
    kept = with_errors if errors == "kept" else set()
    whole, nothing = run(None), run(set())
    order = circuit.top(max(sizes))
    points = sorted({min(size, len(order)) for size in sizes})
    share = partial(share_kept, whole=whole, nothing=nothing)
    return Faithfulness(
        task=task.name,
        sizes=np.array(points),
        faithfulness=np.array([share(run(kept | set(order[:size]))) for size in points]),
        completeness=np.array([share(run(kept | set(order[:size]), inside=False)) for size in points]),
        errors=errors,
        model=whole,
        nothing=nothing,
        n_prompts=len(task),
    )


@dataclass(frozen=True)
class Means:
    """Means over the prompts at each named position, a layer: features ``[position, feature]``, errors ``[.., d]``."""

    features: tuple[Float[Tensor, "position _feature"], ...]
    errors: tuple[Float[Tensor, "position d_model"], ...]


def check_ablation(task: Task) -> None:
    """Raise TaskError where means over the prompts are the prompts' own values, so that nothing would be ablated."""
    if len({tuple(ids.tolist()) for ids in task.ids}) < 2:
        raise TaskError(
            f"all {len(task)} clean prompts of the task are the same: outside of a circuit a feature takes its mean "
            f"over the prompts, and the mean of one prompt changes nothing. Add pairs with other prompts"
            if len(task) > 1
            else "the task has one pair: outside of a circuit a feature takes its mean over the prompts, and the mean "
            "of one prompt changes nothing. Add pairs"
        )


def share_kept(value: float, whole: float, nothing: float) -> float:
    """Return where a value lies between nothing (0) and the whole model (1); TaskError if the two are the same."""
    if abs(whole - nothing) < 1e-5:
        raise TaskError(
            f"the logit difference is {whole:+.3f}, also with all features and errors at their means: there is no "
            f"share of it to keep. Add pairs with other prompts, or name the positions that matter"
        )
    return (value - nothing) / (whole - nothing)


@torch.no_grad()
def mean_nodes(model: "SAETransformerBridge", dictionaries: Dictionaries, task: Task, *, batch_size: int = 16) -> Means:
    """Return the mean of every node over the clean prompts of a task."""
    features, errors = [], []
    for dictionary in ordered(model, dictionaries):
        total = torch.zeros(len(task.positions), len(dictionary.rows), dtype=torch.float64)
        missed = torch.zeros(len(task.positions), dictionary.rows.shape[1], dtype=torch.float64)
        count = torch.zeros(len(task.positions), 1, dtype=torch.float64)
        for _, part in task.batches(batch_size):
            states = hidden_states(model, torch.stack(part.ids), dictionary.hook_name)
            for which, prompt, at in named_positions(part):
                here = dictionary.split(states[prompt, at])
                total[which] += here.features.sum(0).double()
                missed[which] += here.error.sum(0).double()
                count[which] += len(prompt)
        features.append((total / count.clamp(min=1)).to(states.dtype))
        errors.append((missed / count.clamp(min=1)).to(states.dtype))
    return Means(tuple(features), tuple(errors))


def clean_runs(
    model: "SAETransformerBridge",
    layers: list[Dictionary],
    task: Task,
    *,
    batch_size: int = 16,
) -> Iterator[tuple[Task, Float[Tensor, "_prompt _pos d_model"]]]:
    """Yield the parts of a task with their clean states at the lowest dictionary: what all ablations start from."""
    for _, part in task.batches(batch_size):
        yield part, hidden_states(model, torch.stack(part.ids), layers[0].hook_name)


@torch.no_grad()
def ablated(
    model: "SAETransformerBridge",
    layers: list[Dictionary],
    runs: Iterable[tuple[Task, Float[Tensor, "_prompt _pos d_model"]]],
    means: Means,
    kept: Collection[Node] | None,
    *,
    inside: bool = True,
) -> float:
    """Mean logit difference with these nodes kept and all others at named positions at their means.

    ``inside=False`` ablates the kept features and keeps all others; errors are treated alike in both. None: the model.
    """
    total, prompts = 0.0, 0
    for part, states in runs:
        edits = []
        if kept is not None:
            edits = [
                partial(_edit, dictionary=dictionary, layer=layer, part=part, means=means, kept=kept, inside=inside)
                for layer, dictionary in enumerate(layers)
            ]
            states = edits[0](states)
        above = {dictionary.hook_name: edit for dictionary, edit in zip(layers[1:], edits[1:], strict=False)}
        with hooked(model, above):
            logits = last_logits_from(model, torch.stack(part.ids), states, layers[0].hook_name)
        total += part.logit_difference(logits).sum().item()
        prompts += len(part)
    return total / prompts


def _edit(
    states: Tensor,
    *,
    dictionary: Dictionary,
    layer: int,
    part: Task,
    means: Means,
    kept: Collection[Node],
    inside: bool,
) -> Tensor:
    states = states.clone()
    for which, prompt, at in named_positions(part):
        here = dictionary.split(states[prompt, at])
        chosen = [node.feature for node in kept if (node.layer, node.position) == (layer, which) and node.feature >= 0]
        keep = torch.full((len(dictionary.rows),), not inside)
        keep[chosen] = inside
        move = dictionary.writes(torch.where(keep, 0, means.features[layer][which] - here.features) * here.scale)
        if Node(layer, which, ERROR) not in kept:
            move = move + means.errors[layer][which] - here.error
        states[prompt, at] += move
    return states
