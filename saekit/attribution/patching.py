"""What features do through all later layers: estimated from gradients for all of them, or measured one by one."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.attribution.baselines import Baseline, Question, Sides, question, sides
from saekit.attribution.collect import Found, chosen_of, of_batch, strongest
from saekit.attribution.inputs import Answers, Direction, Prompts, SAEs, check_counts
from saekit.attribution.result import Attribution, Contribution
from saekit.errors import ModelError
from saekit.models import AT_START, gauss_legendre, integrated_gradient, readout_from
from saekit.saes import changes, pulled_back

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

Method = Literal["gradient", "integrated"]


def attribution_patching(
    model: "SAETransformerBridge",
    saes: SAEs,
    prompts: Prompts,
    *,
    answer: Answers | None = None,
    foil: Answers | None = None,
    direction: Direction | None = None,
    corrupted: Prompts | None = None,
    baseline: Baseline | None = None,
    reference: Prompts | None = None,
    method: Method = "gradient",
    steps: int = 10,
    position: int = -1,
    batch_size: int = 16,
) -> Attribution:
    """Estimate for every feature at every position what it does to a prediction, through all later layers.

    The effect of a node is the reading of the clean run minus that of a run in which the node has its baseline value:
    positive is in favour of the answer. To first order it is the gradient of the reading times the difference of the
    node's values (attribution patching; Marks et al. 2024, section 3.1). Nodes are the features at each position and,
    at each position, the reconstruction error. With ``method="integrated"`` the gradient is averaged on the straight
    line from the clean to the baseline states, all nodes of one hook point together (integrated gradients); then the
    effects add up to ``total``, the effect of all nodes at once, as nearly as the points sample the line.

    Where the model is linear from the hook point on, gradient, integrated gradients and `activation_patching` are
    equal, and with ``baseline="zero"`` at the last block's output, for one position and a frozen norm, so is
    `direct_logit_attribution`. How far the gradient's sum is from the total says how far that is from true.

    Args:
        model: The model.
        saes: One SAE, several, or ``{hook name: SAE}``; at any hook point. Each is taken alone, the others do not act.
        prompts: The clean prompts: text, or token ids ``[pos]``, or several of either.
        answer: The token whose logit is read, text or id: one, or one a prompt.
        foil: A token whose logit is subtracted.
        direction: In place of a token, any direction of the final norm's output.
        corrupted: As many prompts of the same lengths; the baseline of a node is its value there.
        baseline: Without corrupted prompts: "zero" (features and error zero, the SAE's bias stays; the default) or
            "mean". Special tokens and massive activations then stay as they are and are no nodes.
        reference: Of which prompts "mean" is the mean; default: the clean ones.
        method: "gradient" or "integrated".
        steps: Points on the line for "integrated" (Gauss-Legendre).
        position: Whose prediction is read, for every prompt.
        batch_size: Prompts of one length run together.

    Returns:
        Items of the kinds "feature" (those that differ from their baseline) and "error", in logits before any soft
        cap. It costs, beyond the encoder, a forward pass of each run and one backward pass down to the hook point.

    Raises:
        ModelError: A prompt, a pair of different lengths, an answer, baseline or method that cannot be used.
        SAEError: An SAE that does not fit, two on one hook point, or one on another hook point than asked.
    """
    if method not in ("gradient", "integrated"):
        raise ModelError(f"method must be 'gradient' or 'integrated', not {method!r}")
    check_counts(steps=steps, batch_size=batch_size)
    asked = question(model, saes, prompts, answer, foil, direction, corrupted, baseline, reference, position)
    found = Found(model, asked)
    for number, rows, ids, side in _walk(model, asked, batch_size):
        hook = list(asked.by_hook)[number]
        features, error, clean = _estimate(model, asked, hook, rows, ids, side, steps if method == "integrated" else 0)
        found.read(rows, number, clean, _read(model, asked, hook, rows, ids, side.states_baseline), side)
        which = (side.features != side.features_baseline).nonzero()
        found.add_features(rows, number, side, which, features[tuple(which.T)])
        found.add_errors(rows, number, side, (~side.left).nonzero(), error[~side.left])
    return found.result("integrated gradients" if method == "integrated" else "patching")


def activation_patching(
    model: "SAETransformerBridge",
    saes: SAEs,
    prompts: Prompts,
    *,
    answer: Answers | None = None,
    foil: Answers | None = None,
    direction: Direction | None = None,
    corrupted: Prompts | None = None,
    baseline: Baseline | None = None,
    reference: Prompts | None = None,
    nodes: Sequence[Contribution] | Sequence[int] | None = None,
    k: int = 64,
    position: int = -1,
    batch_size: int = 64,
) -> Attribution:
    """Measure what nodes do to a prediction by patching them one by one (activation patching).

    Each node costs one run of the model from the SAE's hook point on, ``batch_size`` of them together. Effects have
    the meaning that they have in `attribution_patching`: reading of the clean run minus that with the node at its
    baseline, everything else at the hook point as it is, the error included.

    Args:
        model: The model.
        saes: As in `attribution_patching`, like all arguments that are not listed here.
        prompts: The clean prompts.
        answer: The token whose logit is read.
        foil: A token whose logit is subtracted.
        direction: In place of a token, any direction of the final norm's output.
        corrupted: Prompts whose values are the baseline.
        baseline: "zero" or "mean" without them.
        reference: Of which prompts "mean" is the mean.
        nodes: What to patch: items of another attribution (``found.top(20)``; ``found.by_feature(20)`` patches each
            feature at all positions of all prompts), or numbers of features of the only SAE, each patched at all
            positions at once. Default: the ``k`` features strongest by attribution patching, for each prompt and SAE.
        k: How many, by default.
        position: Whose prediction is read.
        batch_size: Runs together.

    Returns:
        One item a node. ``total`` is the effect of *all* nodes of the hook point at once, so that the check says how
        much of it the measured ones would explain if effects added up.

    Raises:
        ModelError: As in `attribution_patching`; nodes that do not exist.
        SAEError: As in `attribution_patching`.
    """
    check_counts(k=k, batch_size=batch_size)
    k, batch_size = int(k), int(batch_size)
    asked = question(model, saes, prompts, answer, foil, direction, corrupted, baseline, reference, position)
    chosen = None if nodes is None else chosen_of(asked, nodes)
    found = Found(model, asked)
    for number, rows, ids, side in _walk(model, asked, 16):
        hook = list(asked.by_hook)[number]
        if chosen is None:
            effect, _, clean = _estimate(model, asked, hook, rows, ids, side, 0)
            which, errors = strongest(effect, k), torch.zeros(0, 2, dtype=torch.long)
        else:
            which, errors = of_batch(chosen, number, rows, side)
            clean = _read(model, asked, hook, rows, ids, side.states)
        found.read(rows, number, clean, _read(model, asked, hook, rows, ids, side.states_baseline), side)
        sae = asked.by_hook[hook]
        for part in which.split(batch_size) if len(which) else ():
            change = changes(sae, side.features, side.features_baseline, *part[:, [0, 1, 2]].T)
            effect = clean[part[:, 0]] - _changed(model, asked, hook, rows, ids, side, part[:, 0], change)
            found.add_features(rows, number, side, part, effect)
        for part in errors.split(batch_size) if len(errors) else ():
            at = torch.arange(ids.shape[1])
            here = (part[:, 1:] < 0) | (part[:, 1:] == at)
            change = (side.error_baseline - side.error)[part[:, 0]] * here[..., None].to(side.error.device)
            effect = clean[part[:, 0]] - _changed(model, asked, hook, rows, ids, side, part[:, 0], change)
            found.add_errors(rows, number, side, part, effect)
    return found.result("exact")


# --- runs --------------------------------------------------------------------------------------------------------


def _walk(
    model: "SAETransformerBridge", asked: Question, size: int
) -> Iterator[tuple[int, Int[Tensor, "batch"], Int[Tensor, "batch pos"], Sides]]:
    """Yield number of the hook point, numbers of the prompts, their tokens and both sides, batch by batch."""
    for rows, ids, found in sides(model, asked, size):
        for number, side in enumerate(found.values()):
            yield number, rows, ids, side


def _read_graph(
    model: "SAETransformerBridge", asked: Question, hook: str, rows: Tensor, ids: Tensor, states: Tensor
) -> Tensor:
    readout = asked.readout
    return readout_from(model, ids, states, hook, readout.direction[rows], readout.constant[rows], asked.position[rows])


@torch.no_grad()
def _read(
    model: "SAETransformerBridge", asked: Question, hook: str, rows: Tensor, ids: Tensor, states: Tensor
) -> Float[Tensor, "batch"]:
    return _read_graph(model, asked, hook, rows, ids, states)


def _changed(
    model: "SAETransformerBridge", asked: Question, hook: str, rows: Tensor, ids: Tensor, side: Sides,
    prompt: Tensor, change: Tensor,
) -> Float[Tensor, "node"]:  # fmt: skip
    """Read the clean run with something added at the hook point; ``prompt`` says of which row, for each node."""
    states = (side.states[prompt].double() + change.to(side.states.device)).to(side.states.dtype)
    return _read(model, asked, hook, rows[prompt], ids[prompt], states)


def _estimate(
    model: "SAETransformerBridge", asked: Question, hook: str, rows: Tensor, ids: Tensor, side: Sides, steps: int
) -> tuple[Float[Tensor, "batch pos d_sae"], Float[Tensor, "batch pos"], Float[Tensor, "batch"]]:
    """Return the effects of features and errors to first order, and the reading; 0 steps: the clean run's gradient."""
    gradient, readings = integrated_gradient(
        lambda states, prompt: _read_graph(model, asked, hook, rows[prompt], ids[prompt], states),
        side.states,
        side.states_baseline,
        gauss_legendre(steps) if steps else AT_START,
    )
    clean = _read(model, asked, hook, rows, ids, side.states) if steps else readings[0]
    sae = asked.by_hook[hook]
    pulled = pulled_back(sae, side.features, gradient)
    features = (side.features - side.features_baseline) * pulled
    error = ((side.error - side.error_baseline) * gradient.to(side.error.device)).sum(-1)
    return features, error, clean
