"""What features do through all later layers: estimated from gradients for all of them, or measured one by one.

1. Every SAE's hook point is taken alone: states, features and errors of the clean run, and with all nodes at their
   baseline (`compared_states`).
2. `attribution_patching` takes the gradient of the reading by the states there, at the clean run or averaged on the
   line to the baseline (`saekit.models.integrated_gradient`), and pulls it back through the decoder: one number per
   feature and position, times how much the feature differs from its baseline (Marks et al. 2024, section 3.1).
3. `activation_patching` runs the model from there on once per node, with that node at its baseline.
4. The reading of the clean run minus that with all nodes at their baseline is what the effects are held against.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import one_of, whole
from saekit._base.progress import Progress, Stop, progress_of, tracked
from saekit.attribution.comparison import (
    AttributionBuilder,
    Baseline,
    ComparedStates,
    Comparison,
    chosen_nodes,
    compared_states,
    comparison_of,
    nodes_in_batch,
    strongest,
)
from saekit.attribution.inputs import Answers, Direction, Prompts, SAEs
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
    progress: Progress = False,
    stop: Stop = None,
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
        answer: The token whose logit is read, text or id: one, or one per prompt.
        foil: A token whose logit is subtracted.
        direction: Any direction of the final norm's output, in place of a token's ``[d_model]``, or one per prompt.
        corrupted: As many prompts of the same lengths; the baseline of a node is its value there.
        baseline: Without corrupted prompts: "zero" (features and error zero, the SAE's bias stays; the default) or
            "mean". Special tokens and massive activations then keep their values and are no nodes.
        reference: Prompts over which "mean" is taken; the clean ones by default.
        method: "gradient" or "integrated".
        steps: Number of points on the line for "integrated" (Gauss-Legendre).
        position: Position whose prediction is read, for every prompt; -1 is the last.
        batch_size: Number of prompts of one length that run together.
        progress: Show a progress bar; or a function that is given (done, total) prompts, once for each SAE.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Returns:
        Items of the kinds "feature" (those that differ from their baseline) and "error", in logits before any soft
        cap. It costs, beyond the encoder, a forward pass of each run and one backward pass down to the hook point.

    Raises:
        ModelError: A prompt, a pair of different lengths, an answer, baseline or method that cannot be used.
        SAEError: An SAE that does not fit, two on one hook point, or one on another hook point than asked.
    """
    method = one_of("method", method, get_args(Method), error=ModelError)
    steps = whole("steps", steps, at_least=1, error=ModelError)
    batch_size = whole("batch_size", batch_size, at_least=1, error=ModelError)
    against = {"corrupted": corrupted, "baseline": baseline, "reference": reference, "position": position}
    comparison = comparison_of(model, saes, prompts, answer=answer, foil=foil, direction=direction, **against)
    builder, steps = AttributionBuilder(model, comparison), steps if method == "integrated" else 0
    runs, n = compared_states(model, comparison, batch_size), len(comparison.ids) * len(comparison.saes)
    for batch in tracked(runs, progress, "prompt", total=n, size=lambda batch: len(batch.prompts), stop=stop):
        features, error, clean = _estimate(model, comparison, batch, steps)
        builder.read(batch, clean, _read(model, comparison, batch, batch.states_baseline))
        which = (batch.features != batch.features_baseline).nonzero()
        builder.add_features(batch, which, features[tuple(which.T)])
        builder.add_errors(batch, (~batch.kept).nonzero(), error[~batch.kept])
    return builder.attribution("integrated gradients" if steps else "patching")


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
    progress: Progress = False,
    stop: Stop = None,
) -> Attribution:
    """Measure what nodes do to a prediction by patching them one by one (activation patching).

    Each node costs one run of the model from the SAE's hook point on, ``batch_size`` of them together. Effects have
    the meaning that they have in `attribution_patching`: reading of the clean run minus that with the node at its
    baseline, everything else at the hook point as it is, the error included.

    Args:
        model: The model.
        saes: One SAE, several, or ``{hook name: SAE}``; each is taken alone, the others do not act.
        prompts: The clean prompts: text, or token ids ``[pos]``, or several of either.
        answer: The token whose logit is read, text or id: one, or one per prompt.
        foil: A token whose logit is subtracted.
        direction: Any direction of the final norm's output, in place of a token's ``[d_model]``, or one per prompt.
        corrupted: As many prompts of the same lengths, whose values are the baseline.
        baseline: Without corrupted prompts: "zero" (the default) or "mean", as in `attribution_patching`.
        reference: Prompts over which "mean" is taken; the clean ones by default.
        nodes: What to patch: items of another attribution (``found.top(20)``; ``found.by_feature(20)`` patches each
            feature at all positions of all prompts), or numbers of features of the only SAE, each patched at all
            positions at once. By default the ``k`` features strongest by attribution patching, for each prompt and SAE.
        k: Number of features patched where ``nodes`` are not given.
        position: Position whose prediction is read, for every prompt; -1 is the last.
        batch_size: Number of patched runs together.
        progress: Show a progress bar; or a function that is given (done, total) nodes; the total is None where
            ``nodes`` are not given.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Returns:
        One item per node. ``total`` is the effect of *all* nodes of the hook point at once, so that the check says how
        much of it the measured ones would explain if effects added up.

    Raises:
        ModelError: A prompt, a pair of different lengths, an answer or baseline that cannot be used; nodes that do not
            exist.
        SAEError: An SAE that does not fit, two on one hook point, or one on another hook point than asked.
    """
    k = whole("k", k, at_least=1, error=ModelError)
    batch_size = whole("batch_size", batch_size, at_least=1, error=ModelError)
    against = {"corrupted": corrupted, "baseline": baseline, "reference": reference, "position": position}
    comparison = comparison_of(model, saes, prompts, answer=answer, foil=foil, direction=direction, **against)
    chosen, total = None, None  # how many are strongest is known once the model has run
    if nodes is not None:
        chosen = chosen_nodes(comparison, nodes)
        total = sum(len(comparison.ids) if prompt < 0 else 1 for _, prompt, _, _ in chosen)
    builder = AttributionBuilder(model, comparison)
    with progress_of(progress, total, "node", stop=stop, title="Patching") as step:
        for batch in compared_states(model, comparison, 16):
            if chosen is None:
                effect, _, clean = _estimate(model, comparison, batch, 0)
                which, errors = strongest(effect, k), torch.zeros(0, 2, dtype=torch.long)
            else:
                which, errors = nodes_in_batch(comparison, chosen, batch)
                clean = _read(model, comparison, batch, batch.states)
            builder.read(batch, clean, _read(model, comparison, batch, batch.states_baseline))
            sae = comparison.saes[batch.hook_name]
            for part in which.split(batch_size) if len(which) else ():
                change = changes(sae, batch.features, batch.features_baseline, *part.T)
                effect = clean[part[:, 0]] - _changed(model, comparison, batch, part[:, 0], change)
                builder.add_features(batch, part, effect)
                step(len(part))
            for part in errors.split(batch_size) if len(errors) else ():
                here = (part[:, 1:] < 0) | (part[:, 1:] == torch.arange(batch.ids.shape[1]))
                change = (batch.error_baseline - batch.error)[part[:, 0]] * here[..., None].to(batch.error.device)
                effect = clean[part[:, 0]] - _changed(model, comparison, batch, part[:, 0], change)
                builder.add_errors(batch, part, effect)
                step(len(part))
    return builder.attribution("exact")


# --- runs --------------------------------------------------------------------------------------------------------


def _read_graph(
    model: "SAETransformerBridge",
    comparison: Comparison,
    batch: ComparedStates,
    states: Tensor,
    prompt: Int[Tensor, "run"] | slice = slice(None),
) -> Float[Tensor, "run"]:
    """Read the model with these states at the hook point; ``prompt`` is the row of the batch that each run is of."""
    readout, rows = comparison.readout, batch.prompts[prompt]
    reading = readout.direction[rows], readout.constant[rows], comparison.position[rows]
    return readout_from(model, batch.ids[prompt], states, batch.hook_name, *reading)


_read = torch.no_grad()(_read_graph)


def _changed(
    model: "SAETransformerBridge",
    comparison: Comparison,
    batch: ComparedStates,
    prompt: Int[Tensor, "node"],
    change: Float[Tensor, "node pos d_in"],
) -> Float[Tensor, "node"]:
    """Read the clean run with something added at the hook point; ``prompt`` is the row that each node is of."""
    states = (batch.states[prompt].double() + change.to(batch.states.device)).to(batch.states.dtype)
    return _read(model, comparison, batch, states, prompt)


def _estimate(
    model: "SAETransformerBridge", comparison: Comparison, batch: ComparedStates, steps: int
) -> tuple[Float[Tensor, "batch pos d_sae"], Float[Tensor, "batch pos"], Float[Tensor, "batch"]]:
    """Return the effects of features and errors to first order, and the reading; 0 steps: the clean run's gradient."""
    points = gauss_legendre(steps) if steps else AT_START
    metric = partial(_read_graph, model, comparison, batch)
    gradient, readings = integrated_gradient(metric, batch.states, batch.states_baseline, points)
    clean = _read(model, comparison, batch, batch.states) if steps else readings[0]
    pulled = pulled_back(comparison.saes[batch.hook_name], batch.features, gradient)
    features = (batch.features - batch.features_baseline) * pulled
    error = ((batch.error - batch.error_baseline) * gradient.to(batch.error.device)).sum(-1)
    return features, error, clean
