"""Feature circuits: which features at which positions an answer rests on, and which of them act through which.

Marks et al. 2024, section 3. Nodes are the features of dictionaries on one or several layers, with one error node a
layer and position for what the dictionary misses. A node's effect is a first-order estimate of how much the logit
difference falls when the node takes its value from the corrupted run; an edge's weight is the part of it that goes
through a feature of the next layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._circuits_localise import Directions
from saekit._circuits_tasks import Task
from saekit.errors import SAEError
from saekit.models import check_hook, hidden_states, last_logits_from, stop_layer
from saekit.saes import check_pair, sae_hook

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

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

    @property
    def completeness(self) -> Float[np.ndarray, "layer"]:
        """Sum of all effects of each layer over the gap: 1 where the first-order estimate accounts for all of it."""
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


def feature_circuit(
    model: "SAETransformerBridge",
    dictionaries: "Sequence[SAE[Any] | Directions]",
    task: Task,
    *,
    steps: int = 1,
    batch_size: int = 8,
) -> FeatureCircuit:
    """Estimate the effect of every feature and error of every dictionary at every named position.

    Args:
        model: The model.
        dictionaries: SAEs or `Directions` on different layers of the residual stream, in any order.
        task: Pairs of prompts.
        steps: 1: attribution patching, with the gradient of the clean run. More: integrated gradients, the mean
            gradient over as many points on the line from the clean to the corrupted state.
        batch_size: Prompts a pass.

    Raises:
        SAEError: No dictionaries, or two on one hook point, or one that does not fit the model.
    """
    ordered = _ordered(model, dictionaries)
    names = tuple(task.positions)
    features, errors, elsewhere = [], np.zeros((len(ordered), len(names))), np.zeros(len(ordered))
    gap = 0.0
    for layer, (hook, dictionary) in enumerate(ordered):
        rows = directions_of(dictionary)
        total = torch.zeros(len(names), len(rows), dtype=torch.float64)
        for _, part in task.batches(batch_size):
            ids, other = torch.stack(part.ids), torch.stack(part.ids_corrupted)
            clean, corrupted = hidden_states(model, ids, hook), hidden_states(model, other, hook)
            gradient = _mean_gradient(model, part, ids, clean, corrupted, hook, steps)
            with torch.no_grad():
                change, missed = _change(dictionary, rows, clean, corrupted)
                effects = (gradient @ rows.T.to(gradient.dtype)) * change  # [prompt, pos, feature]
                of_error = (gradient * missed).sum(-1)  # [prompt, pos]
            everywhere = effects.sum().item() + of_error.sum().item()
            for which, prompt, at in named_positions(part):
                total[which] += effects[prompt, at].sum(0).double()
                errors[layer, which] += of_error[prompt, at].sum().item()
                everywhere -= effects[prompt, at].sum().item() + of_error[prompt, at].sum().item()
            elsewhere[layer] += everywhere
            if layer == 0:
                gap += (_metric(model, part, ids, clean, hook) - _metric(model, part, ids, corrupted, hook)).item()
        features.append((total / len(task)).numpy())
    hooks = tuple(hook for hook, _ in ordered)
    n = len(task)
    return FeatureCircuit(
        task.name, hooks, names, tuple(features), errors / n, elsewhere / n, gap / n, steps, n_prompts=n
    )


def circuit_edges(
    model: "SAETransformerBridge",
    dictionaries: "Sequence[SAE[Any] | Directions]",
    task: Task,
    circuit: FeatureCircuit,
    *,
    k: int = 12,
    batch_size: int = 8,
) -> tuple[Edge, ...]:
    """Weigh the edges between the k strongest nodes of neighbouring layers, strongest first.

    The weight is a Jacobian-vector product (Marks et al. 2024, section 3.2): the change of the source feature, times
    the derivative of the target feature by it, times the derivative of the logit difference by the target. Sources
    may be errors; targets are features.
    """
    ordered = _ordered(model, dictionaries)
    weights: dict[tuple[Node, Node], float] = {}
    for layer in range(len(ordered) - 1):
        sources, targets = circuit.top(k, errors=True, layer=layer), circuit.top(k, layer=layer + 1)
        for _, part in task.batches(batch_size):
            for pair, weight in _edges_of(model, part, ordered[layer : layer + 2], sources, targets).items():
                weights[pair] = weights.get(pair, 0.0) + weight / len(task)
    edges = (Edge(source, target, weight) for (source, target), weight in weights.items() if weight)
    return tuple(sorted(edges, key=lambda edge: -abs(edge.weight)))


# --- pieces ----------------------------------------------------------------------------------------------------


def directions_of(dictionary: "SAE[Any] | Directions") -> Float[Tensor, "feature d_model"]:
    """Return what each feature writes."""
    return dictionary.rows if isinstance(dictionary, Directions) else dictionary.W_dec.detach()


def named_positions(part: Task) -> list[tuple[int, Int[Tensor, "some"], Int[Tensor, "some"]]]:
    """For each named position: its number, and the prompts and places where it stands; a place counts once."""
    taken, found = set(), []
    for which, where in enumerate(part.positions.values()):
        free = [(p, at) for p, at in enumerate(where.tolist()) if (p, at) not in taken]
        taken |= set(free)
        if free:
            found.append((which, *torch.tensor(free).T))
    return found


def _ordered(
    model: "SAETransformerBridge", dictionaries: "Sequence[SAE[Any] | Directions]"
) -> "list[tuple[str, SAE[Any] | Directions]]":
    if not dictionaries:
        raise SAEError("a circuit needs at least one SAE or Directions")
    found = []
    for dictionary in dictionaries:
        if not isinstance(dictionary, Directions):
            check_pair(model, dictionary)
        hook = dictionary.hook_name if isinstance(dictionary, Directions) else sae_hook(dictionary)
        check_hook(model, hook)
        found.append((hook, dictionary))
    hooks = [hook for hook, _ in found]
    if len(set(hooks)) < len(hooks):
        raise SAEError(f"one dictionary a hook point, not {', '.join(hooks)}: their features would count twice")
    if not all(hook.endswith(("hook_resid_post", "hook_resid_pre")) for hook in hooks):
        raise SAEError(f"circuits are for the residual stream, not {', '.join(hooks)}")
    return sorted(found, key=lambda pair: stop_layer(pair[0]) or 0)


def _change(
    dictionary: "SAE[Any] | Directions", rows: Tensor, clean: Tensor, corrupted: Tensor
) -> tuple[Float[Tensor, "prompt pos feature"], Float[Tensor, "prompt pos d_model"]]:
    """Clean minus corrupted, of the features and of what they miss."""
    change = (dictionary.encode(clean) - dictionary.encode(corrupted)).to(clean.dtype)
    return change, (clean - corrupted) - change @ rows.to(clean.dtype)


def _metric(model: "SAETransformerBridge", part: Task, ids: Tensor, states: Tensor, hook: str) -> Float[Tensor, ""]:
    """Logit difference at the end, summed over prompts."""
    logits = last_logits_from(model, ids, states, hook)
    return (logits.gather(1, part.answers[:, None]) - logits.gather(1, part.foils[:, None])).sum()


def _mean_gradient(
    model: "SAETransformerBridge", part: Task, ids: Tensor, clean: Tensor, corrupted: Tensor, hook: str, steps: int
) -> Float[Tensor, "prompt pos d_model"]:
    along = [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
    total = torch.zeros_like(clean)
    for share in along:
        states = (clean + share * (corrupted - clean)).requires_grad_()
        total += torch.autograd.grad(_metric(model, part, ids, states, hook), states)[0]
    return total / len(along)


def _edges_of(
    model: "SAETransformerBridge",
    part: Task,
    pair: "list[tuple[str, SAE[Any] | Directions]]",
    sources: Sequence[Node],
    targets: Sequence[Node],
) -> dict[tuple[Node, Node], float]:
    (low, lower), (high, upper) = pair
    ids, other = torch.stack(part.ids), torch.stack(part.ids_corrupted)
    clean = hidden_states(model, ids, low)
    change, missed = _change(lower, directions_of(lower), clean, hidden_states(model, other, low))
    start = clean.clone().requires_grad_()
    seen: dict[str, Tensor] = {}

    def put(state, hook, *, new):
        return new

    def keep(state, hook):
        seen["high"] = state

    hooks = [(check_hook(model, low), partial(put, new=start)), (check_hook(model, high), keep)]
    model.run_with_hooks(ids, fwd_hooks=hooks, stop_at_layer=stop_layer(high), prepend_bos=False)
    reached = seen["high"]
    at_high = reached.detach().requires_grad_()
    (to_metric,) = torch.autograd.grad(_metric(model, part, ids, at_high, high), at_high)
    active = upper.encode(reached)
    places = {which: (prompt, at) for which, prompt, at in named_positions(part)}
    found = {}
    for target in targets:
        if target.position not in places:
            continue
        prompt, at = places[target.position]
        slope = to_metric[prompt, at] @ directions_of(upper)[target.feature].to(to_metric.dtype)  # d metric / d target
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
                move = change[prompt, at, source.feature, None] * directions_of(lower)[source.feature]
            found[source, target] = (gradient[prompt, at] * move).sum().item()
    return found
