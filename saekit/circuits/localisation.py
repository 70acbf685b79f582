"""How few features carry an answer: patch the first n of an SAE and see how near the other run comes.

Cunningham et al. 2023, section 4.

1. Run the clean (base) and the corrupted (target) prompts, and take how much more of each feature the target has.
2. Put the features in an order: by the gradient of the KL to the target's prediction on the way to the target, or by
   leaving out again and again the one that is missed least.
3. Run the base prompt with the first n features set to what they are on the target prompt, at every position; what the
   SAE does not explain stays as it was. The fewer features it takes to reach the target's prediction, the better the
   SAE localises the behaviour.

Principal components and random directions are measured in the same way, for without them a small number means nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import listed, one_of, whole
from saekit._base.progress import Progress, Stop, ask, tracked
from saekit.circuits.tasks import Task
from saekit.errors import SAEError, TaskError
from saekit.models import AT_START, Points, hidden_states, integrated_gradient, last_logits_from, midpoints
from saekit.saes import Directions, dictionary_of

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Ranking = Literal["attribution", "integrated", "elimination"]
POINTS = midpoints(5)  # between the runs, for "integrated"


@dataclass(frozen=True)
class Localisation:
    """How near the patched base run comes to the target run, by number of patched features.

    Attributes:
        sae: Name of the SAE or directions.
        ranking: How features were put in order.
        features: Numbers of the features in the order in which they were patched, one row for all prompts or one per
            prompt ``[row, place]``.
        counts: Numbers of features patched ``[point]``.
        kl: KL divergence in nats from the target's to the patched run's next-token distribution, mean over prompts
            ``[point]``.
        edit: Length of the change of the residual stream, over all positions, mean over prompts ``[point]``.
        kl_unpatched: KL divergence without any patch.
        kl_all: KL divergence with all features patched: what is left is in the reconstruction error.
        edit_full: Length of the whole difference between the two runs.
        n_prompts: Number of pairs behind each number.
    """

    sae: str
    ranking: str
    features: Int[np.ndarray, "row place"]
    counts: Int[np.ndarray, "point"]
    kl: Float[np.ndarray, "point"]
    edit: Float[np.ndarray, "point"]
    kl_unpatched: float
    kl_all: float
    edit_full: float
    n_prompts: int

    def needed(self, share: float = 0.5) -> int | None:
        """Return the smallest measured number of features that closes this share of the gap; None if none does."""
        enough = self.counts[self.kl <= (1 - share) * self.kl_unpatched]
        return int(enough.min()) if len(enough) else None

    def __repr__(self) -> str:
        return (
            f"Localisation({self.sae}, by {self.ranking}, {self.n_prompts} pairs: KL {self.kl_unpatched:.2f} "
            f"unpatched, {self.kl_all:.2f} with all features; half of it gone with {self.needed()} features)"
        )


def localise(
    model: "SAETransformerBridge",
    sae: "SAE[Any] | Directions",
    task: Task,
    *,
    counts: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    ranking: Ranking = "integrated",
    candidates: int = 64,
    per_prompt: bool = False,
    batch_size: int = 16,
    progress: Progress = False,
    stop: Stop = None,
) -> Localisation:
    """Patch the first n features of an SAE from the corrupted (target) into the clean (base) run.

    Args:
        model: The model.
        sae: An SAE, or `Directions`.
        task: Pairs of prompts; best with ``corruption="indirect_object"``, as in the paper.
        counts: Numbers of features to patch; more than there are is cut.
        ranking: "integrated": by the mean gradient of the KL over five points between the runs, times the change of
            the feature, summed over positions and prompts. "attribution": by the gradient of the base run alone, which
            is cheaper; where attention saturates it puts the wrong features first. "elimination": start from the best
            ``candidates`` of the integrated order, then again and again leave out the feature whose loss raises the KL
            least; what is left last comes first. That is greedy and gives an order. The paper's algorithm 4.1 makes
            one pass over the features in random order and leaves out each whose loss raises the KL by less than a
            threshold, which gives a set.
        candidates: Number of features among which "elimination" chooses, at about candidates² / 2 patched runs.
        per_prompt: Whether each prompt has an order of its own; not with elimination. An SAE has features for single
            names, so that prompts with other names need others; a shared order hides how few each prompt needs.
        batch_size: Number of prompts per pass.
        progress: Show a progress bar; or a function that is given (done, total) after each number of features.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        SAEError: The SAE does not fit the model or is a transcoder, or counts are not positive.
        TaskError: Clean and corrupted prompts give the same prediction.
    """
    counts = listed("counts", counts, "numbers of features", error=SAEError, empty=False)
    counts = [whole("counts", count, at_least=1, error=SAEError) for count in counts]
    candidates = whole("candidates", candidates, at_least=1, error=SAEError)
    ranking = one_of("ranking", ranking, get_args(Ranking), error=SAEError)
    if per_prompt and ranking == "elimination":
        raise SAEError("features of single prompts are not ranked by elimination: ask for ranking='integrated'")
    parts, rows, name = _prepared(model, sae, task, batch_size, stop)
    patched = partial(_patched, model, parts, rows, stop=stop)
    everything = torch.arange(len(rows))[None]
    unpatched, _ = patched(everything[:, :0])
    if unpatched < 1e-6:
        raise TaskError("clean and corrupted prompts give the same prediction: there is nothing to localise")
    effects = _effects(model, parts, rows, AT_START if ranking == "attribution" else POINTS, stop)
    if not per_prompt:
        effects = [torch.cat(effects).sum(0, keepdim=True)] * len(parts)
    orders = [torch.argsort(effect, dim=1, stable=True) for effect in effects]  # [prompt or 1, feature]
    if ranking == "elimination":
        orders = [_by_elimination(patched, orders[0][0, :candidates])[None]] * len(parts)
    points = sorted({min(count, orders[0].shape[1]) for count in counts})
    measured = [
        patched(*(order[:, :count] for order in orders)) for count in tracked(points, progress, "count", stop=stop)
    ]
    features = np.empty((len(task) if per_prompt else 1, points[-1]), dtype=np.int64)
    for part, order in zip(parts, orders, strict=True):
        features[part.numbers if per_prompt else [0]] = order[:, : points[-1]].numpy()
    n = len(task)
    return Localisation(
        sae=name,
        ranking=ranking + (", each prompt its own" if per_prompt else ""),
        features=features,
        counts=np.array(points),
        kl=np.array([kl for kl, _ in measured]),
        edit=np.array([edit for _, edit in measured]),
        kl_unpatched=unpatched,
        kl_all=patched(everything)[0],
        edit_full=sum((part.target - part.base).flatten(1).norm(dim=1).sum().item() for part in parts) / n,
        n_prompts=n,
    )


# --- pieces ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Prompts of one length, with what does not change from patch to patch."""

    hook: str
    numbers: Int[Tensor, "prompt"]  # of the prompts in the task
    ids: Int[Tensor, "prompt pos"]
    base: Float[Tensor, "prompt pos d_model"]
    target: Float[Tensor, "prompt pos d_model"]
    change: Float[Tensor, "prompt pos feature"]  # from base to target, of the amounts of the rows
    wanted: Float[Tensor, "prompt d_vocab"]  # log-probabilities of the target run


def _prepared(
    model: "SAETransformerBridge", sae: "SAE[Any] | Directions", task: Task, batch_size: int, stop: Stop
) -> tuple[list[_Part], Float[Tensor, "feature d_model"], str]:
    dictionary = dictionary_of(model, sae)
    hook = dictionary.hook_name
    parts = []
    for numbers, part in task.batches(batch_size):
        ask(stop)
        ids, other = torch.stack(part.ids), torch.stack(part.ids_corrupted)
        base, target = hidden_states(model, ids, hook), hidden_states(model, other, hook)
        with torch.no_grad():
            change = dictionary.change(base, target)
            wanted = last_logits_from(model, other, target, hook).log_softmax(-1)
        parts.append(_Part(hook, numbers, ids, base, target, change, wanted))
    return parts, dictionary.rows, dictionary.name


def _kl(
    model: "SAETransformerBridge", part: _Part, states: Tensor, prompt: Int[Tensor, "run"] | slice = slice(None)
) -> Float[Tensor, "run"]:
    """KL from the target's to this run's next-token distribution: sum of p log(p / wanted), p of this run."""
    found = last_logits_from(model, part.ids[prompt], states, part.hook).log_softmax(-1)
    return (found.exp() * (found - part.wanted[prompt])).sum(-1)


@torch.no_grad()
def _patched(
    model: "SAETransformerBridge",
    parts: list[_Part],
    rows: Tensor,
    *chosen: Int[Tensor, "_row count"],
    stop: Stop = None,
) -> tuple[float, float]:
    """Return mean KL and mean length of the edit with these features patched at every position.

    ``chosen`` is one tensor for all parts or one for each; each with one row for all prompts or one per prompt.
    """
    kl = edit = 0.0
    for number, part in enumerate(parts):
        ask(stop)
        here = chosen[number % len(chosen)]
        if len(here) == 1:
            move = part.change[..., here[0]] @ rows[here[0]].to(part.base)
        else:
            of_prompt = part.change.gather(2, here[:, None].expand(-1, part.change.shape[1], -1))
            move = of_prompt @ rows[here].to(part.base)  # [prompt, pos, count] @ [prompt, count, d_model]
        kl += _kl(model, part, part.base + move).sum().item()
        edit += move.flatten(1).norm(dim=1).sum().item()
    n = sum(len(part.ids) for part in parts)
    return kl / n, edit / n


def _effects(
    model: "SAETransformerBridge", parts: list[_Part], rows: Tensor, points: Points, stop: Stop
) -> list[Float[Tensor, "prompt feature"]]:
    """A first-order estimate of what patching each feature adds to the KL of each prompt; negative is good."""
    effects = []
    for part in parts:
        ask(stop)
        gradient, _ = integrated_gradient(partial(_kl, model, part), part.base, part.target, points)
        along = gradient.to(part.base) @ rows.T.to(part.base)  # [prompt, pos, feature]
        effects.append((part.change * along).sum(1).double())
    return effects


def _by_elimination(
    patched: Callable[[Tensor], tuple[float, float]], left: Int[Tensor, "candidate"]
) -> Int[Tensor, "candidate"]:
    """Candidates in the reverse of the order in which they can best be spared."""
    spared: list[int] = []
    remaining: list[int] = left.tolist()
    while len(remaining) > 1:
        subsets = [torch.tensor([remaining[:i] + remaining[i + 1 :]]) for i in range(len(remaining))]
        without = [patched(subset)[0] for subset in subsets]
        spared.append(remaining.pop(int(np.argmin(without))))
    return torch.tensor(remaining + spared[::-1])
