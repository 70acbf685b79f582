"""Feature circuits: which features at which positions an answer rests on, and which of them act through which.

Marks et al. 2024, section 3. Nodes are the features of dictionaries on one or several layers, with one error node a
layer and position for what the dictionary misses. A node's effect estimates how much the logit difference falls when
the node takes its value from the corrupted run; an edge's weight is the part of it that goes through a feature of the
next layer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.circuits.pairs import Task
from saekit.circuits.result import ERROR, Dictionaries, Edge, FeatureCircuit, Node, checked_circuit
from saekit.errors import TaskError
from saekit.models import (
    AT_START,
    Points,
    forward,
    hidden_states,
    hooked,
    integrated_gradient,
    last_logits_from,
    midpoints,
    reading,
)
from saekit.saes import Dictionary, ordered, whole_number

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

STEPS = 5  # points between the runs


def feature_circuit(
    model: "SAETransformerBridge",
    dictionaries: Dictionaries,
    task: Task,
    *,
    steps: int = STEPS,
    batch_size: int = 8,
) -> FeatureCircuit:
    """Estimate the effect of every feature and error of every dictionary at every named position.

    Args:
        model: The model.
        dictionaries: SAEs or `Directions` on different layers of the residual stream, in any order, or a single one.
        task: Pairs of prompts.
        steps: Integrated gradients: the mean gradient over as many points on the line from the clean to the corrupted
            state. 1: attribution patching, with the gradient of the clean run alone; cheaper, and wrong where
            attention saturates (`FeatureCircuit.completeness` says how wrong).
        batch_size: Prompts a pass.

    Raises:
        SAEError: No dictionaries, two on one hook point, a transcoder, one that does not fit the model, or no steps.
        TaskError: Clean and corrupted prompts have the same logit difference: there is nothing to account for.
    """
    steps = whole_number("steps", steps, 1)
    points = midpoints(steps) if steps > 1 else AT_START
    layers = ordered(model, dictionaries)
    names = tuple(task.positions)
    features, errors, elsewhere = [], np.zeros((len(layers), len(names))), np.zeros(len(layers))
    gap = _gap(model, layers[0].hook_name, task, batch_size)
    for layer, dictionary in enumerate(layers):
        hook = dictionary.hook_name
        total = torch.zeros(len(names), len(dictionary.rows), dtype=torch.float64)
        for _, part in task.batches(batch_size):
            ids, other = torch.stack(part.ids), torch.stack(part.ids_corrupted)
            clean, corrupted = hidden_states(model, ids, hook), hidden_states(model, other, hook)
            gradient = _gradient(model, part, hook, clean, corrupted, points)
            with torch.no_grad():
                change, missed = _change(dictionary, clean, corrupted)
                effects = (gradient @ dictionary.rows.T.to(gradient.dtype)) * change  # [prompt, pos, feature]
                of_error = (gradient * missed).sum(-1)  # [prompt, pos]
            everywhere = effects.sum().item() + of_error.sum().item()
            for which, prompt, at in named_positions(part):
                total[which] += effects[prompt, at].sum(0).double()
                errors[layer, which] += of_error[prompt, at].sum().item()
                everywhere -= effects[prompt, at].sum().item() + of_error[prompt, at].sum().item()
            elsewhere[layer] += everywhere
        features.append((total / len(task)).numpy())
    return FeatureCircuit(
        task=task.name,
        hook_names=tuple(dictionary.hook_name for dictionary in layers),
        positions=names,
        features=tuple(features),
        errors=errors / len(task),
        elsewhere=elsewhere / len(task),
        gap=gap,
        steps=steps,
        n_prompts=len(task),
        hashes=tuple(dictionary.hash for dictionary in layers),
    )


def circuit_edges(
    model: "SAETransformerBridge",
    dictionaries: Dictionaries,
    task: Task,
    circuit: FeatureCircuit,
    *,
    k: int = 12,
    batch_size: int = 8,
) -> tuple[Edge, ...]:
    """Weigh the edges between the k strongest nodes of neighbouring layers, strongest first.

    The weight is a Jacobian-vector product (Marks et al. 2024, section 3.2): the change of the source feature, times
    the derivative of the target feature by it, times the derivative of the logit difference by the target, both in
    the clean run. Sources may be errors; targets are features.

    Raises:
        SAEError: Dictionaries or positions other than the circuit's, or k below 1.
    """
    k = whole_number("k", k, 1)
    layers = checked_circuit(model, dictionaries, task, circuit)
    weights: dict[tuple[Node, Node], float] = {}
    for layer in range(len(layers) - 1):
        sources, targets = circuit.top(k, errors=True, layer=layer), circuit.top(k, layer=layer + 1)
        for _, part in task.batches(batch_size):
            for pair, weight in _edges_of(model, part, layers[layer], layers[layer + 1], sources, targets).items():
                weights[pair] = weights.get(pair, 0.0) + weight / len(task)
    edges = (Edge(source, target, weight) for (source, target), weight in weights.items() if weight)
    return tuple(sorted(edges, key=lambda edge: -abs(edge.weight)))


# --- pieces ----------------------------------------------------------------------------------------------------


def named_positions(part: Task) -> list[tuple[int, Int[Tensor, "some"], Int[Tensor, "some"]]]:
    """For each named position: its number, and the prompts and places where it stands; a place counts once."""
    taken, found = set(), []
    for which, where in enumerate(part.positions.values()):
        free = [(p, at) for p, at in enumerate(where.tolist()) if (p, at) not in taken]
        taken |= set(free)
        if free:
            found.append((which, *torch.tensor(free).T))
    return found


def _change(
    dictionary: Dictionary, clean: Tensor, corrupted: Tensor
) -> tuple[Float[Tensor, "prompt pos feature"], Float[Tensor, "prompt pos d_model"]]:
    """Clean minus corrupted, of the amounts of the rows and of what they miss."""
    change = -dictionary.change(clean, corrupted)
    return change, (clean - corrupted) - dictionary.writes(change)


@torch.no_grad()
def _gap(model: "SAETransformerBridge", hook: str, task: Task, batch_size: int) -> float:
    """Logit difference of the clean minus that of the corrupted runs, mean over prompts."""
    gap = 0.0
    for _, part in task.batches(batch_size):
        for sign, ids in ((1, torch.stack(part.ids)), (-1, torch.stack(part.ids_corrupted))):
            logits = last_logits_from(model, ids, hidden_states(model, ids, hook), hook)
            gap += sign * part.logit_difference(logits).sum().item() / len(task)
    if abs(gap) < 1e-6:
        raise TaskError("clean and corrupted prompts have the same logit difference: there is no gap to account for")
    return gap


def _gradient(
    model: "SAETransformerBridge", part: Task, hook: str, clean: Tensor, corrupted: Tensor, points: Points
) -> Float[Tensor, "prompt pos d_model"]:
    """Gradient of the logit difference by the states at a hook point, in the dtype of the states."""
    ids = torch.stack(part.ids)

    def difference(states: Tensor, prompt: Tensor) -> Tensor:
        return part.logit_difference(last_logits_from(model, ids[prompt], states, hook), prompt)

    return integrated_gradient(difference, clean, corrupted, points)[0].to(clean.dtype)


def _edges_of(
    model: "SAETransformerBridge",
    part: Task,
    lower: Dictionary,
    upper: Dictionary,
    sources: Sequence[Node],
    targets: Sequence[Node],
) -> dict[tuple[Node, Node], float]:
    low, high = lower.hook_name, upper.hook_name
    ids, other = torch.stack(part.ids), torch.stack(part.ids_corrupted)
    clean = hidden_states(model, ids, low)
    change, missed = _change(lower, clean, hidden_states(model, other, low))
    start = clean.clone().requires_grad_()
    with hooked(model, {low: lambda _: start}), reading(model, [high]) as seen:
        forward(model, ids, up_to=[high])
    reached = seen[high]
    at_high = reached.detach()
    to_metric = _gradient(model, part, high, at_high, at_high, AT_START)
    active = upper.encode(reached)
    to_metric = to_metric * upper.scale(reached.detach())
    places = {which: (prompt, at) for which, prompt, at in named_positions(part)}
    found = {}
    for target in targets:
        if target.position not in places:
            continue
        prompt, at = places[target.position]
        slope = to_metric[prompt, at] @ upper.rows[target.feature].to(to_metric.dtype)  # d metric / d target
        through = (active[prompt, at, target.feature] * slope.detach()).sum()
        if not through.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(through, start, retain_graph=True)
        for source in sources:
            if source.position not in places:
                continue
            prompt, at = places[source.position]
            if source.feature == ERROR:
                move = missed[prompt, at]
            else:
                move = change[prompt, at, source.feature, None] * lower.rows[source.feature]
            found[source, target] = (gradient[prompt, at] * move).sum().item()
    return found
