"""How well a model does a task, and which states carry it: activation patching by layer and position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saekit._base.progress import Progress, Stop, progress_of, tracked
from saekit.circuits.tasks import Task
from saekit.errors import TaskError
from saekit.models import check_hook, forward, hidden_states_at, last_logits_from

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


@dataclass(frozen=True)
class TaskPerformance:
    """What a model answers to the prompts of a task.

    Attributes:
        name: The task, and whether its corrupted prompts were run.
        logit_difference: Logit of the answer minus logit of the foil ``[prompt]``.
        probability: Probability of the answer among all tokens ``[prompt]``.
        top: Whether the answer is the most probable token ``[prompt]``.
    """

    name: str
    logit_difference: Float[Tensor, "prompt"]
    probability: Float[Tensor, "prompt"]
    top: Bool[Tensor, "prompt"]

    @property
    def share_right(self) -> float:
        """Share of prompts whose answer is more probable than the foil."""
        return (self.logit_difference > 0).float().mean().item()

    def __repr__(self) -> str:
        n = len(self.logit_difference)
        error = self.logit_difference.std().item() / n**0.5 if n > 1 else float("nan")
        return (
            f"{self.name}: logit difference {self.logit_difference.mean():+.2f} (standard error {error:.2f}, {n} "
            f"prompts), answer over foil in {self.share_right:.0%}, answer on top in {self.top.float().mean():.0%}, "
            f"its probability {self.probability.mean():.2f}"
        )


@dataclass(frozen=True)
class Patched:
    """What putting clean states into the corrupted run restores, by layer and position.

    Attributes:
        task: Name of the task.
        layers: Blocks after which the residual stream was patched.
        positions: Names of the positions.
        difference: Mean logit difference of the patched runs ``[layer, position]``.
        clean: Mean logit difference of the clean prompts.
        corrupted: Mean logit difference of the corrupted ones, answer and foil as in the clean ones.
        n_prompts: Pairs behind each number.
    """

    task: str
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    difference: Float[np.ndarray, "layer position"]
    clean: float
    corrupted: float
    n_prompts: int

    @property
    def restored(self) -> Float[np.ndarray, "layer position"]:
        """Share of the gap between corrupted (0) and clean (1) that the patch closes; may lie outside of 0 to 1."""
        return (self.difference - self.corrupted) / (self.clean - self.corrupted)

    def __repr__(self) -> str:
        return (
            f"Patched({self.task}: {len(self.layers)} layers x {', '.join(self.positions)}; {self.n_prompts} pairs, "
            f"logit difference {self.clean:+.2f} clean, {self.corrupted:+.2f} corrupted)"
        )


@torch.no_grad()
def task_performance(
    model: "SAETransformerBridge",
    task: Task,
    *,
    corrupted: bool = False,
    batch_size: int = 32,
    progress: Progress = False,
    stop: Stop = None,
) -> TaskPerformance:
    """Run the prompts of a task and measure the answer against the foil (Wang et al. 2022, section 2.1).

    Args:
        model: The model.
        task: Pairs of prompts, from `ioi_task`, `agreement_task` or `task_from_pairs`.
        corrupted: Whether the corrupted prompts are run, with answer and foil unchanged.
        batch_size: Number of prompts per pass.
        progress: Show a progress bar; or a function that is given (done, total) after each batch.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.
    """
    difference, probability = torch.empty(len(task)), torch.empty(len(task))
    top = torch.empty(len(task), dtype=torch.bool)
    for rows, part in tracked(list(task.batches(batch_size)), progress, "batch", stop=stop):
        ids = torch.stack(part.ids_corrupted if corrupted else part.ids)
        logits = forward(model, ids)[:, -1].float().cpu()
        difference[rows] = part.logit_difference(logits)
        at_answer = part.answers[:, None]
        probability[rows] = logits.softmax(-1).gather(1, at_answer)[:, 0]
        top[rows] = logits.argmax(-1) == part.answers
    return TaskPerformance(task.name + (", corrupted" if corrupted else ""), difference, probability, top)


@torch.no_grad()
def patch_residual(
    model: "SAETransformerBridge",
    task: Task,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    batch_size: int = 8,
    progress: Progress = False,
    stop: Stop = None,
) -> Patched:
    """Put the clean residual stream into the corrupted run, one layer and position at a time (activation patching).

    Args:
        model: The model.
        task: Pairs of prompts; their corrupted run has to differ from the clean one in the logit difference.
        layers: Numbers of the blocks after which the residual stream is patched; all by default.
        positions: Names of positions in ``task.positions``; all by default.
        batch_size: Number of prompts per pass; all positions of a prompt that the corruption has reached run together,
            so a pass may have a few times as many rows.
        progress: Show a progress bar; or a function that is given (done, total) after each batch and layer.
        stop: Function that is asked between layers; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        TaskError: An unknown position, or a task whose clean and corrupted runs do not differ.
        ModelError: A layer that the model does not have.
    """
    layers = tuple(range(model.cfg.n_layers) if layers is None else layers)
    names = tuple(task.positions if positions is None else positions)
    if unknown := [name for name in names if name not in task.positions]:
        raise TaskError(f"the task has no position {unknown[0]!r}: it has {', '.join(task.positions)}")
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    for hook in hooks:
        check_hook(model, hook)
    clean = task_performance(model, task, stop=stop).logit_difference.mean().item()
    unpatched = task_performance(model, task, corrupted=True, stop=stop).logit_difference
    corrupted = unpatched.mean().item()
    if abs(clean - corrupted) < 1e-6:
        raise TaskError(f"clean and corrupted prompts both give {clean:+.3f}: there is no gap to restore")
    total, parts = np.zeros((len(layers), len(names))), list(task.batches(batch_size))
    with progress_of(progress, len(parts) * len(hooks), "batch", stop=stop, title="Patching") as step:
        for rows, part in parts:
            ids = torch.stack(part.ids_corrupted)
            source = hidden_states_at(model, torch.stack(part.ids), hooks)
            target = hidden_states_at(model, ids, hooks)
            at = torch.stack([part.positions[name] for name in names])  # [position, prompt]
            for number, hook in enumerate(hooks):
                found = unpatched[rows].repeat(len(names), 1)  # [position, prompt]
                put = source[hook][torch.arange(len(part)), at]  # [position, prompt, d_model]
                # Before the first token that was corrupted both runs are the same: nothing to put, nothing to run.
                which, prompt = (put != target[hook][torch.arange(len(part)), at]).any(-1).nonzero(as_tuple=True)
                if len(which):
                    states = target[hook][prompt]  # [changed, pos, d_model]
                    states[torch.arange(len(which)), at[which, prompt]] = put[which, prompt]
                    logits = last_logits_from(model, ids[prompt], states, hook).float().cpu()
                    found[which, prompt] = part.logit_difference(logits, prompt)
                total[number] += found.sum(1).numpy()
                step()
    return Patched(task.name, layers, names, total / len(task), clean, corrupted, len(task))
