"""Does a circuit do the work? Ablate everything outside of it and measure what is left of the behaviour.

Marks et al. 2024, section 3.3. Outside of the circuit a feature takes its mean over the task's clean prompts at the
same named position; positions that the task does not name are left as they are, for the circuit claims nothing about
them. Faithfulness depends on such choices (Miller et al. 2024): it may lie below 0 or above 1.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._circuits_features import (
    ERROR,
    FeatureCircuit,
    Node,
    _ordered,
    directions_of,
    named_positions,
)
from saekit._circuits_localise import Directions
from saekit._circuits_tasks import Task
from saekit.errors import SAEError
from saekit.models import check_hook, hidden_states, last_logits_from

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

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
    dictionaries: "Sequence[SAE[Any] | Directions]",
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
        task: Prompts to run; a circuit should be tested on others than those it was found by.
        circuit: From `feature_circuit`; its features are taken in the order of their effects.
        sizes: How many features to keep, over all layers and positions.
        errors: "kept" or "ablated", in all runs but that of the model.
        batch_size: Prompts a pass.

    Raises:
        SAEError: Dictionaries or positions other than the circuit's.
    """
    ordered = _ordered(model, dictionaries)
    widths = tuple(len(directions_of(dictionary)) for _, dictionary in ordered)
    if tuple(hook for hook, _ in ordered) != circuit.hook_names or widths != tuple(
        effects.shape[1] for effects in circuit.features
    ):
        raise SAEError(f"the circuit is of {', '.join(circuit.hook_names)}: pass the dictionaries it was made with")
    if tuple(task.positions) != circuit.positions:
        raise SAEError(
            f"the circuit has positions {', '.join(circuit.positions)}, the task {', '.join(task.positions)}"
        )
    if errors not in ("kept", "ablated"):
        raise SAEError(f"errors must be 'kept' or 'ablated', not {errors!r}")
    means = mean_nodes(model, dictionaries, task, batch_size=batch_size)
    runs = tuple(clean_runs(model, ordered, task, batch_size=batch_size))
    run = partial(ablated, model, ordered, runs, means)
    with_errors = {Node(layer, p, ERROR) for layer in range(len(ordered)) for p in range(len(circuit.positions))}
    kept = with_errors if errors == "kept" else set()
    whole, nothing = run(None), run(set())
    order = circuit.top(max(sizes))
    points = sorted({min(size, len(order)) for size in sizes})
    share = lambda value: (value - nothing) / (whole - nothing)  # noqa: E731
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


@torch.no_grad()
def mean_nodes(
    model: "SAETransformerBridge",
    dictionaries: "Sequence[SAE[Any] | Directions]",
    task: Task,
    *,
    batch_size: int = 16,
) -> Means:
    """Return the mean of every node over the clean prompts of a task."""
    features, errors = [], []
    for hook, dictionary in _ordered(model, dictionaries):
        rows = directions_of(dictionary)
        total = torch.zeros(len(task.positions), len(rows), dtype=torch.float64)
        missed = torch.zeros(len(task.positions), rows.shape[1], dtype=torch.float64)
        count = torch.zeros(len(task.positions), 1, dtype=torch.float64)
        for _, part in task.batches(batch_size):
            states = hidden_states(model, torch.stack(part.ids), hook)
            active = dictionary.encode(states).to(states.dtype)
            error = states - active @ rows.to(states.dtype)
            for which, prompt, at in named_positions(part):
                total[which] += active[prompt, at].sum(0).double()
                missed[which] += error[prompt, at].sum(0).double()
                count[which] += len(prompt)
        features.append((total / count.clamp(min=1)).to(states.dtype))
        errors.append((missed / count.clamp(min=1)).to(states.dtype))
    return Means(tuple(features), tuple(errors))


def clean_runs(
    model: "SAETransformerBridge",
    ordered: "list[tuple[str, SAE[Any] | Directions]]",
    task: Task,
    *,
    batch_size: int = 16,
) -> Iterator[tuple[Task, Float[Tensor, "_prompt _pos d_model"]]]:
    """Yield the parts of a task with their clean states at the lowest dictionary: what all ablations start from."""
    for _, part in task.batches(batch_size):
        yield part, hidden_states(model, torch.stack(part.ids), ordered[0][0])


@torch.no_grad()
def ablated(
    model: "SAETransformerBridge",
    ordered: "list[tuple[str, SAE[Any] | Directions]]",
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
        edits = [
            partial(_edit, dictionary=dictionary, layer=layer, part=part, means=means, kept=kept, inside=inside)
            for layer, (_, dictionary) in enumerate(ordered if kept is not None else [])
        ]
        if edits:
            states = edits[0](states)
        hooks = [(check_hook(model, hook), edit) for (hook, _), edit in zip(ordered[1:], edits[1:], strict=False)]
        with model.hooks(fwd_hooks=hooks):
            logits = last_logits_from(model, torch.stack(part.ids), states, ordered[0][0])
        total += (logits.gather(1, part.answers[:, None]) - logits.gather(1, part.foils[:, None])).sum().item()
        prompts += len(part)
    return total / prompts


def _edit(
    states: Tensor,
    hook: object = None,
    *,
    dictionary: "SAE[Any] | Directions",
    layer: int,
    part: Task,
    means: Means,
    kept: Collection[Node],
    inside: bool,
) -> Tensor:
    rows = directions_of(dictionary).to(states.dtype)
    states = states.clone()
    for which, prompt, at in named_positions(part):
        here = states[prompt, at]
        active = dictionary.encode(here).to(here.dtype)
        chosen = [node.feature for node in kept if (node.layer, node.position) == (layer, which) and node.feature >= 0]
        keep = torch.full((len(rows),), not inside)
        keep[chosen] = inside
        move = torch.where(keep, 0, means.features[layer][which] - active) @ rows
        if Node(layer, which, ERROR) not in kept:
            move = move + means.errors[layer][which] - (here - active @ rows)
        states[prompt, at] = here + move
    return states
