"""Feature circuits: which features at which positions an answer rests on, and which of them act through which.

Marks et al. 2024, section 3. Nodes are the features of SAEs (or directions) on one or several layers, with one error
node per layer and position for what the SAE misses.

1. `feature_circuit` takes the states of the clean and the corrupted run at each SAE, and the mean gradient of the logit
   difference on the line between them (`saekit.models.integrated_gradient`).
2. A node's effect is that gradient along what the node writes, times how much more of it the clean run has: an
   estimate of how far the logit difference falls when the node takes its value from the corrupted run.
3. `circuit_edges` takes the derivative of an upper feature by the states at a lower SAE: an edge's weight is the part
   of the lower node's effect that goes through that feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import whole
from saekit._base.identity import Identity
from saekit._base.progress import Progress, Stop, ask, progress_of
from saekit.circuits.tasks import Task
from saekit.errors import SAEError, TaskError
from saekit.models import (
    AT_START,
    Points,
    check_finite,
    forward,
    hidden_states,
    hidden_states_at,
    hooked,
    integrated_gradient,
    last_logits_from,
    midpoints,
    model_identity,
    other_than,
    reading,
)
from saekit.saes import Dictionary, ordered

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.saes import Directions

STEPS = 5  # points between the runs
SAEs: TypeAlias = "Sequence[SAE[Any] | Directions | Dictionary] | SAE[Any] | Directions | Dictionary"
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
        hook_names: Hook points of the SAEs, lowest layer first.
        positions: Names of the positions.
        features: Effects of features, one array per hook point ``[position, feature]``; positive: the feature supports
            the answer.
        errors: Effects of the reconstruction errors ``[layer, position]``.
        elsewhere: Sum of all effects at positions that the task does not name ``[layer]``.
        gap: Logit difference of the clean minus that of the corrupted runs: what the effects of each layer sum to, if
            the estimate is right (`completeness`).
        steps: Number of points between the two runs at which gradients were taken; 1: at the clean run only.
        n_prompts: Number of pairs behind each number.
        identities: What decides the numbers of the SAEs, so that no others are taken for them; empty: not known.
        model_identity: What decides those of the model; None: not known.
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
    identities: tuple[Identity, ...] = ()
    model_identity: Identity | None = None

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
        """Return the nodes with the largest effects in absolute value, the largest first.

        Args:
            k: Number of nodes at most.
            errors: Whether error nodes are among them.
            layer: Number of the only hook point to take nodes from; None for all.
        """
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
    saes: SAEs,
    task: Task,
    *,
    steps: int = STEPS,
    batch_size: int = 8,
    progress: Progress = False,
    stop: Stop = None,
) -> FeatureCircuit:
    """Estimate the effect of every feature and error of every SAE at every named position.

    Args:
        model: The model.
        saes: SAEs or `Directions` on different layers of the residual stream, in any order, or a single one.
        task: Pairs of prompts.
        steps: Number of points of integrated gradients on the line from the clean to the corrupted states. 1:
            attribution patching, with the gradient of the clean run alone; cheaper, and wrong where attention
            saturates (`FeatureCircuit.completeness` says how wrong).
        batch_size: Number of prompts per pass.
        progress: Show a progress bar; or a function that is given (done, total) after each batch and SAE.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        SAEError: No SAEs, two on one hook point, a transcoder, one that does not fit the model, or no steps.
        TaskError: Clean and corrupted prompts have the same logit difference: there is nothing to account for.
    """
    steps = whole("steps", steps, at_least=1, error=SAEError)
    layers = ordered(model, saes)
    hooks, n = [one.hook_name for one in layers], len(task)
    parts = [part for _, part in task.batches(batch_size)]
    gap = _gap(model, hooks[0], parts, stop) / n
    if abs(gap) < 1e-6:
        raise TaskError("clean and corrupted prompts have the same logit difference: there is no gap to account for")
    features = [torch.zeros(len(task.positions), len(one.rows), dtype=torch.float64) for one in layers]
    errors, elsewhere = np.zeros((len(layers), len(task.positions))), np.zeros(len(layers))
    points = midpoints(steps) if steps > 1 else AT_START
    with progress_of(progress, len(parts) * len(layers), "batch", stop=stop, title="Finding the circuit") as step:
        for part in parts:
            clean, corrupted = (
                hidden_states_at(model, torch.stack(ids), hooks) for ids in (part.ids, part.ids_corrupted)
            )
            for layer, dictionary in enumerate(layers):
                of_feature, of_error = _effects(model, part, dictionary, clean, corrupted, points)
                everywhere = of_feature.sum().item() + of_error.sum().item()
                for which, prompt, at in named_positions(part):
                    here, missed = of_feature[prompt, at], of_error[prompt, at].sum().item()
                    features[layer][which] += here.sum(0).double()
                    errors[layer, which] += missed
                    everywhere -= here.sum().item() + missed
                elsewhere[layer] += everywhere
                step()
    return FeatureCircuit(
        task=task.name,
        hook_names=tuple(hooks),
        positions=tuple(task.positions),
        features=tuple((total / n).numpy() for total in features),
        errors=errors / n,
        elsewhere=elsewhere / n,
        gap=gap,
        steps=steps,
        n_prompts=n,
        identities=tuple(dictionary.identity for dictionary in layers),
        model_identity=model_identity(model),
    )


def circuit_edges(
    model: "SAETransformerBridge",
    saes: SAEs,
    task: Task,
    circuit: FeatureCircuit,
    *,
    k: int = 12,
    batch_size: int = 8,
    progress: Progress = False,
    stop: Stop = None,
) -> tuple[Edge, ...]:
    """Weigh the edges between the k strongest nodes of neighbouring layers, strongest first.

    The weight is a Jacobian-vector product (Marks et al. 2024, section 3.2): the change of the source feature, times
    the derivative of the target feature by it, times the derivative of the logit difference by the target, both in
    the clean run. Sources may be errors; targets are features.

    Args:
        model: The model.
        saes: The SAEs or directions that the circuit was found with.
        task: Pairs of prompts, usually those by which the circuit was found.
        circuit: The circuit from `feature_circuit`.
        k: Number of nodes of each layer between which edges are weighed.
        batch_size: Number of prompts per pass.
        progress: Show a progress bar; or a function that is given (done, total) after each batch and pair of layers.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        SAEError: SAEs or positions other than the circuit's, or k below 1.
    """
    k = whole("k", k, at_least=1, error=SAEError)
    layers = checked_circuit(model, saes, task, circuit)
    parts = [part for _, part in task.batches(batch_size)]
    weights: dict[tuple[Node, Node], float] = {}
    with progress_of(progress, len(parts) * (len(layers) - 1), "batch", stop=stop, title="Weighing edges") as step:
        for layer in range(len(layers) - 1):
            sources, targets = circuit.top(k, errors=True, layer=layer), circuit.top(k, layer=layer + 1)
            for part in parts:
                found = _edges_of(model, part, layers[layer], layers[layer + 1], sources, targets)
                for pair, weight in found.items():
                    weights[pair] = weights.get(pair, 0.0) + weight / len(task)
                step()
    edges = (Edge(source, target, weight) for (source, target), weight in weights.items() if weight)
    return tuple(sorted(edges, key=lambda edge: -abs(edge.weight)))


def checked_circuit(
    model: "SAETransformerBridge",
    saes: SAEs,
    task: Task,
    circuit: FeatureCircuit | None = None,
) -> list[Dictionary]:
    """Check the SAEs of a circuit against the model, the task and the circuit; return them lowest layer first.

    Args:
        model: The model.
        saes: SAEs or `Directions` on different layers of the residual stream, in any order, or a single one.
        task: Pairs of prompts, with the positions that the circuit has.
        circuit: The circuit that was found with the SAEs; None to check the SAEs alone.

    Raises:
        SAEError: They do not fit the model or each other, or the circuit is not one of them and of the task.
    """
    layers = ordered(model, saes)
    if circuit is None:
        return layers
    hooks = tuple(dictionary.hook_name for dictionary in layers)
    widths = tuple(len(dictionary.rows) for dictionary in layers)
    if (hooks, widths) != (circuit.hook_names, tuple(effects.shape[1] for effects in circuit.features)):
        raise SAEError(
            f"the circuit is of {', '.join(circuit.hook_names)} with "
            f"{', '.join(str(effects.shape[1]) for effects in circuit.features)} features, the SAEs are of "
            f"{', '.join(hooks)} with {', '.join(map(str, widths))}: pass those that it was made with"
        )
    for dictionary, known in zip(layers, circuit.identities, strict=False):
        if known.digest != dictionary.identity.digest:
            raise SAEError(
                f"the circuit's features at {dictionary.hook_name} are of another SAE than {dictionary.name}: "
                f"{'; '.join(known.difference(dictionary.identity)) or known.kind} (the circuit's against the one "
                f"given). Their numbers mean nothing in it. Pass the one that the circuit was made with"
            )
    if circuit.model_identity and (words := other_than(circuit.model_identity, model_identity(model), "the circuit")):
        raise SAEError(
            f"the circuit is of another model: {'; '.join(words)} (the circuit's against the one given). Pass the "
            f"model that it was found in, or find the circuit of this one"
        )
    if tuple(task.positions) != circuit.positions:
        raise SAEError(
            f"the circuit has positions {', '.join(circuit.positions)}, the task {', '.join(task.positions)}"
        )
    return layers


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
def _gap(model: "SAETransformerBridge", hook: str, parts: Sequence[Task], stop: Stop) -> float:
    """Logit difference of the clean minus that of the corrupted runs, sum over prompts."""
    gap = 0.0
    for part in parts:
        ask(stop)
        for sign, ids in ((1, torch.stack(part.ids)), (-1, torch.stack(part.ids_corrupted))):
            logits = last_logits_from(model, ids, hidden_states(model, ids, hook), hook)
            gap += sign * part.logit_difference(logits).sum().item()
    return gap


def _effects(
    model: "SAETransformerBridge",
    part: Task,
    dictionary: Dictionary,
    clean: dict[str, Tensor],
    corrupted: dict[str, Tensor],
    points: Points,
) -> tuple[Float[Tensor, "prompt pos feature"], Float[Tensor, "prompt pos"]]:
    """Effects of features and of errors at every position; states of both runs by hook point."""
    hook = dictionary.hook_name
    gradient = _gradient(model, part, hook, clean[hook], corrupted[hook], points)
    with torch.no_grad():
        change, missed = _change(dictionary, clean[hook], corrupted[hook])
        return (gradient @ dictionary.rows.T.to(gradient)) * change, (gradient * missed).sum(-1)


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
        slope = to_metric[prompt, at] @ upper.rows[target.feature].to(to_metric)  # d metric / d target
        through = (active[prompt, at, target.feature] * slope.detach()).sum()
        if not through.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(through, start, retain_graph=True)
        check_finite(gradient, "gradients")
        for source in sources:
            if source.position not in places:
                continue
            prompt, at = places[source.position]
            if source.feature == ERROR:
                move = missed[prompt, at]
            else:
                move = change[prompt, at, source.feature, None] * lower.rows[source.feature].to(change)
            found[source, target] = (gradient[prompt, at] * move).sum().item()
    return found
