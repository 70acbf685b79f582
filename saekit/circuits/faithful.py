"""Does a circuit do the work, and is every feature of it needed? Ablate nodes and measure what is left.

1. `ablation_of` runs the clean prompts once, keeps their states at the lowest SAE, and takes the mean of every feature
   and error at every named position.
2. `Ablation.difference` runs them again from there: at each SAE in turn all nodes but the kept ones are moved to their
   means. Positions that the task does not name are left as they are, for the circuit claims nothing about them.
3. With m the mean logit difference, a circuit keeps the share (m(circuit) - m(nothing)) / (m(model) - m(nothing)).
4. `faithfulness` keeps the strongest features and ablates all others (Marks et al. 2024, section 3.3); completeness
   does the reverse. `minimality` takes one feature at a time out of a circuit (Wang et al. 2022, section 4, with
   nothing else taken out: their K is empty).

Faithfulness depends on such choices (Miller et al. 2024): it may lie below 0 or above 1. A feature whose absence
changes little is not shown to be useless: another may do its work when it is gone.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import listed, one_of, whole
from saekit._base.progress import Progress, Stop, ask, tracked
from saekit.circuits.graph import ERROR, FeatureCircuit, Node, SAEs, checked_circuit, named_positions
from saekit.circuits.tasks import Task
from saekit.errors import SAEError, TaskError
from saekit.models import hidden_states_at, hooked, last_logits_from
from saekit.saes import Dictionary

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

Errors = Literal["kept", "ablated"]


@dataclass(frozen=True)
class Faithfulness:
    """How much of the behaviour circuits of growing size keep.

    Attributes:
        task: Name of the task whose prompts were run; better not those by which the circuit was found.
        sizes: Numbers of features in the circuit ``[point]``.
        faithfulness: Share of the model's mean logit difference that the features keep ``[point]``: 0 is what is left
            with nothing kept, 1 the model's own.
        completeness: The same share for everything but these features ``[point]``: near 0 if nothing is missing.
        errors: Whether reconstruction errors at the named positions were kept in all runs or ablated in all runs.
        model: Mean logit difference of the model itself.
        nothing: Mean logit difference with all features and all errors at the named positions ablated.
        n_prompts: Number of prompts behind each number.
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
    saes: SAEs,
    task: Task,
    circuit: FeatureCircuit,
    *,
    sizes: Sequence[int] = (0, 1, 3, 10, 30, 100, 300, 1000),
    errors: Errors = "kept",
    batch_size: int = 16,
    progress: Progress = False,
    stop: Stop = None,
) -> Faithfulness:
    """Keep the strongest features of a circuit, ablate all others, and measure what is left.

    Args:
        model: The model.
        saes: The SAEs or directions that the circuit was found with.
        task: Prompts to run, at least two different ones; a circuit should be tested on others than those it was
            found by.
        circuit: The circuit from `feature_circuit`; its features are taken in the order of their effects.
        sizes: Numbers of features to keep, over all layers and positions; more than there are is cut.
        errors: "kept" or "ablated", in all runs but that of the model.
        batch_size: Number of prompts per pass.
        progress: Show a progress bar; or a function that is given (done, total) after each size.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        SAEError: SAEs or positions other than the circuit's, or sizes that are none.
        TaskError: Fewer than two different prompts, or prompts on which ablating everything changes nothing.
    """
    sizes = listed("sizes", sizes, "numbers of features", error=SAEError, empty=False)
    sizes = [whole("sizes", size, at_least=0, error=SAEError) for size in sizes]
    errors = one_of("errors", errors, get_args(Errors), error=SAEError)
    ablation = ablation_of(model, saes, task, circuit, batch_size=batch_size, stop=stop)
    n_features = len(circuit.top(max(sizes)))
    points = sorted({min(size, n_features) for size in sizes})
    measured = [ablation.measure(n, errors, stop=stop) for n in tracked(points, progress, "size", stop=stop)]
    return Faithfulness(
        task=task.name,
        sizes=np.array(points),
        faithfulness=np.array([kept for kept, _ in measured]),
        completeness=np.array([left for _, left in measured]),
        errors=errors,
        model=ablation.whole,
        nothing=ablation.nothing,
        n_prompts=len(task),
    )


@dataclass(frozen=True)
class Minimality:
    """What each feature of a circuit adds to the others.

    Attributes:
        task: Name of the task whose prompts were run.
        nodes: Features of the circuit, strongest effect first.
        drop: Faithfulness of the circuit minus that of the circuit without the feature ``[node]``; negative: better
            without it.
        faithfulness: Faithfulness of the whole circuit, as in `Faithfulness`.
        errors: Whether reconstruction errors were kept or ablated.
        n_prompts: Number of prompts behind each number.
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
    saes: SAEs,
    task: Task,
    circuit: FeatureCircuit,
    *,
    size: int = 10,
    errors: Errors = "kept",
    batch_size: int = 16,
    progress: Progress = False,
    stop: Stop = None,
) -> Minimality:
    """Take each of the strongest features out of the circuit that they make, one at a time.

    Args:
        model: The model.
        saes: The SAEs or directions that the circuit was found with.
        task: Prompts to run, at least two different ones; better not those by which the circuit was found.
        circuit: The circuit from `feature_circuit`.
        size: Number of features that make the circuit; as many runs and three more are made.
        errors: "kept" or "ablated", in all runs but that of the model.
        batch_size: Number of prompts per pass.
        progress: Show a progress bar; or a function that is given (done, total) after each feature.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        SAEError: SAEs or positions other than the circuit's, or a size below 1.
        TaskError: Fewer than two different prompts, or prompts on which ablating everything changes nothing.
    """
    size = whole("size", size, at_least=1, error=SAEError)
    errors = one_of("errors", errors, get_args(Errors), error=SAEError)
    ablation = ablation_of(model, saes, task, circuit, batch_size=batch_size, stop=stop)
    nodes = circuit.top(size)
    kept = {*nodes, *ablation.kept_errors(errors)}
    all_of_them = ablation.share(kept, stop=stop)
    drops = [
        all_of_them - ablation.share(kept - {node}, stop=stop)
        for node in tracked(nodes, progress, "feature", stop=stop)
    ]
    return Minimality(task.name, nodes, np.array(drops), all_of_them, errors, len(task))


# --- ablated runs ------------------------------------------------------------------------------------------------


_Run = tuple[Task, Float[Tensor, "_prompt _pos d_model"]]  # prompts of one length, their states at the lowest SAE
_Mean = tuple[Float[Tensor, "position _feature"], Float[Tensor, "position d_model"]]  # features and error of one SAE


@dataclass(frozen=True)
class Ablation:
    """A circuit on the prompts of a task, ready to be run with any nodes kept; what all runs share is computed once.

    Attributes:
        circuit: The circuit.
        difference: Function that is given the nodes to keep, runs the prompts with all others at named positions at
            their means, and returns the mean logit difference. With ``inside=False`` it ablates the features among
            these nodes and keeps all others; errors are treated alike in both. With ``stop=`` it can be ended.
        whole: Mean logit difference of the model itself.
        nothing: Mean logit difference with all nodes at named positions ablated.
    """

    circuit: FeatureCircuit
    difference: Callable[..., float]
    whole: float
    nothing: float

    def measure(self, size: int, errors: Errors, *, stop: Stop = None) -> tuple[float, float]:
        """Return faithfulness and completeness of the ``size`` strongest features, as `faithfulness` does.

        Args:
            size: Number of features in the circuit.
            errors: "kept" or "ablated".
            stop: Function that is asked between batches of prompts; `saekit.errors.Stopped` once it returns True.

        Raises:
            TaskError: Prompts on which ablating everything changes nothing: there is no share of it.
        """
        kept = {*self.circuit.top(size), *self.kept_errors(errors)}
        return self.share(kept, stop=stop), self.share(kept, inside=False, stop=stop)

    def share(self, kept: Collection[Node], *, inside: bool = True, stop: Stop = None) -> float:
        """Return where the runs lie between nothing kept (0) and the whole model (1); see `measure`."""
        if abs(self.whole - self.nothing) < 1e-5:
            raise TaskError(
                f"the logit difference is {self.whole:+.3f}, also with all features and errors at their means: there "
                f"is no share of it to keep. Add pairs with other prompts, or name the positions that matter"
            )
        return (self.difference(kept, inside=inside, stop=stop) - self.nothing) / (self.whole - self.nothing)

    def kept_errors(self, errors: Errors) -> set[Node]:
        """Return all error nodes if errors are "kept", none if they are "ablated"."""
        one_of("errors", errors, get_args(Errors), error=SAEError)
        layers, places = range(len(self.circuit.hook_names)), range(len(self.circuit.positions))
        return {Node(layer, place, ERROR) for layer in layers for place in places if errors == "kept"}


def ablation_of(
    model: "SAETransformerBridge",
    saes: SAEs,
    task: Task,
    circuit: FeatureCircuit,
    *,
    batch_size: int = 16,
    stop: Stop = None,
) -> Ablation:
    """Check a circuit against SAEs and task, run the prompts, and return what measures circuits of any size on them.

    Args:
        model: The model.
        saes: The SAEs or directions that the circuit was found with.
        task: Prompts to run, at least two different ones.
        circuit: The circuit from `feature_circuit`.
        batch_size: Number of prompts per pass.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        SAEError: SAEs or positions other than the circuit's.
        TaskError: Fewer than two different prompts.
    """
    layers = checked_circuit(model, saes, task, circuit)
    if len({tuple(ids.tolist()) for ids in task.ids}) < 2:  # the means would be the prompts' own values
        same = f"all {len(task)} clean prompts of the task are the same" if len(task) > 1 else "the task has one pair"
        raise TaskError(
            f"{same}: outside of a circuit a feature takes its mean over the prompts, and the mean of one prompt "
            f"changes nothing. Add pairs{' with other prompts' if len(task) > 1 else ''}"
        )
    runs, means = _clean_runs(model, layers, task, batch_size, stop)
    difference = partial(_ablated, model, layers, runs, means)
    return Ablation(circuit, difference, whole=difference(None, stop=stop), nothing=difference(set(), stop=stop))


@torch.no_grad()
def _clean_runs(
    model: "SAETransformerBridge", layers: list[Dictionary], task: Task, batch_size: int, stop: Stop
) -> tuple[list[_Run], list[_Mean]]:
    """Return the parts of a task with their clean states at the lowest SAE, and the means of all nodes by SAE."""
    hooks, places, runs = [one.hook_name for one in layers], len(task.positions), []
    features = [torch.zeros(places, one.rows.shape[0], dtype=torch.float64) for one in layers]
    errors = [torch.zeros(places, one.rows.shape[1], dtype=torch.float64) for one in layers]
    count = torch.zeros(places, 1, dtype=torch.float64)
    for _, part in task.batches(batch_size):
        ask(stop)
        states = hidden_states_at(model, torch.stack(part.ids), hooks)
        runs.append((part, states[hooks[0]]))
        for which, prompt, at in named_positions(part):
            count[which] += len(prompt)
            for layer, dictionary in enumerate(layers):
                here = dictionary.split(states[dictionary.hook_name][prompt, at])
                features[layer][which] += here.features.sum(0).double()
                errors[layer][which] += here.error.sum(0).double()
    dtype, count = runs[0][1].dtype, count.clamp(min=1)
    means = zip(features, errors, strict=True)
    return runs, [((feature / count).to(dtype), (error / count).to(dtype)) for feature, error in means]


@torch.no_grad()
def _ablated(
    model: "SAETransformerBridge",
    layers: list[Dictionary],
    runs: list[_Run],
    means: list[_Mean],
    kept: Collection[Node] | None,
    *,
    inside: bool = True,
    stop: Stop = None,
) -> float:
    """Return the mean logit difference with some nodes kept and all others at named positions at their means.

    ``inside=False`` ablates the kept features and keeps all others; errors are treated alike in both. None: the model.
    """
    total, prompts = 0.0, 0
    for part, states in runs:
        ask(stop)
        edits = []
        if kept is not None:
            edits = [
                partial(_edit, dictionary=dictionary, layer=layer, part=part, mean=mean, kept=kept, inside=inside)
                for layer, (dictionary, mean) in enumerate(zip(layers, means, strict=True))
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
    mean: _Mean,
    kept: Collection[Node],
    inside: bool,
) -> Tensor:
    states = states.clone()
    for which, prompt, at in named_positions(part):
        here = dictionary.split(states[prompt, at])
        chosen = [node.feature for node in kept if (node.layer, node.position) == (layer, which) and node.feature >= 0]
        keep = torch.full((len(dictionary.rows),), not inside)
        keep[chosen] = inside
        move = dictionary.writes(torch.where(keep, 0, mean[0][which] - here.features) * here.scale)
        if Node(layer, which, ERROR) not in kept:
            move = move + mean[1][which] - here.error
        states[prompt, at] += move
    return states
