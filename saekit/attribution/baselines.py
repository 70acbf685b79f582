"""With what a clean run is compared: another prompt's run, or features set to zero or to a mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.attribution.inputs import (
    Answers,
    Direction,
    Prompts,
    Readout,
    batches,
    counterparts_of,
    prompts_of,
    read_position,
    readout_of,
    saes_of,
)
from saekit.errors import ModelError
from saekit.models import hidden_states_at, massive, special_token_ids
from saekit.saes import decoded, encoded, error_of, nodes_of

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Baseline = Literal["zero", "mean"]


@dataclass(frozen=True)
class Question:
    """What is asked: prompts, what they are compared with, and what is read; all of it checked.

    Attributes:
        by_hook: SAEs by the name of their hook point.
        ids: Token ids, by prompt.
        others: Token ids of the corrupted prompts; None where the baseline is zero or a mean.
        readout: What is read off.
        position: Whose prediction is read, by prompt.
        means: Mean features and error by hook point, where that is the baseline.
        against: The baseline in words.
    """

    by_hook: "dict[str, SAE[Any]]"
    ids: tuple[Int[Tensor, "_pos"], ...]
    others: tuple[Int[Tensor, "_pos"], ...] | None
    readout: Readout
    position: Int[Tensor, "prompt"]
    means: dict[str, tuple[Tensor, Tensor]] | None
    against: str


@dataclass(frozen=True)
class Sides:
    """One batch at one hook point, as it is and as it would be at the baseline.

    Attributes:
        states: Of the clean run ``[batch, pos, d_in]``.
        states_baseline: With all nodes at their baseline.
        features: ``[batch, pos, d_sae]``.
        features_baseline: The same at the baseline.
        error: ``[batch, pos, d_in]``, float64.
        error_baseline: The same at the baseline.
        left: Positions that keep their clean values ``[batch, pos]``.
    """

    states: Float[Tensor, "batch pos d_in"]
    states_baseline: Float[Tensor, "batch pos d_in"]
    features: Float[Tensor, "batch pos d_sae"]
    features_baseline: Float[Tensor, "batch pos d_sae"]
    error: Float[Tensor, "batch pos d_in"]
    error_baseline: Float[Tensor, "batch pos d_in"]
    left: Bool[Tensor, "batch pos"]


def question(
    model: "SAETransformerBridge",
    saes: Any,
    prompts: Prompts,
    answer: Answers | None,
    foil: Answers | None,
    direction: Direction | None,
    corrupted: Prompts | None,
    baseline: Baseline | None,
    reference: Prompts | None,
    position: int,
) -> Question:
    """Check everything that is asked, before the model runs."""
    by_hook = saes_of(model, saes)
    ids = prompts_of(model, prompts)
    if corrupted is not None and baseline is not None:
        raise ModelError("pass either corrupted= prompts or baseline='zero' or 'mean', the one thing to compare with")
    baseline = baseline or "zero"
    if baseline not in ("zero", "mean"):
        raise ModelError(f"baseline must be 'zero' or 'mean', not {baseline!r}; a prompt goes to corrupted=")
    if reference is not None and (corrupted is not None or baseline != "mean"):
        raise ModelError("reference= says what baseline='mean' is the mean of; it goes with that only")
    readout = readout_of(model, len(ids), answer, foil, direction)
    at = torch.tensor([read_position(one, position) for one in ids])
    if corrupted is not None:
        return Question(by_hook, ids, counterparts_of(model, ids, corrupted), readout, at, None, "corrupted prompts")
    if baseline == "zero":
        return Question(by_hook, ids, None, readout, at, None, "all features zero")
    others = ids if reference is None else prompts_of(model, reference)
    words = f"means over {len(others)} prompt(s)"
    return Question(by_hook, ids, None, readout, at, _means(model, by_hook, others), words)


def sides(
    model: "SAETransformerBridge", asked: Question, size: int
) -> Iterator[tuple[Int[Tensor, "batch"], Int[Tensor, "batch pos"], dict[str, Sides]]]:
    """Yield numbers of prompts of one length, their tokens, and both sides of every hook point."""
    hooks = list(asked.by_hook)
    for rows in batches(asked.ids, size):
        ids = torch.stack([asked.ids[row] for row in rows.tolist()])
        clean = hidden_states_at(model, ids, hooks)
        if asked.others is not None:
            corrupted = torch.stack([asked.others[row] for row in rows.tolist()])
            other = hidden_states_at(model, corrupted, hooks)
            found = {hook: _corrupted(sae, clean[hook], other[hook]) for hook, sae in asked.by_hook.items()}
        else:
            left = {hook: _left(model, ids, clean[hook]) for hook in hooks}
            found = {
                hook: _ablated(sae, clean[hook], left[hook], None if asked.means is None else asked.means[hook])
                for hook, sae in asked.by_hook.items()
            }
        yield rows, ids, found


def _corrupted(sae: "SAE[Any]", states: Tensor, other: Tensor) -> Sides:
    # In this order: an SAE that normalises each input decodes both with the clean one's scale, as one affine map.
    features_baseline = encoded(sae, other)
    features = encoded(sae, states)
    error, error_baseline = error_of(sae, states, features), error_of(sae, other, features_baseline)
    left = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
    return Sides(states, other, features, features_baseline, error, error_baseline, left)


def _ablated(sae: "SAE[Any]", states: Tensor, left: Tensor, means: tuple[Tensor, Tensor] | None) -> Sides:
    features = encoded(sae, states)
    error = error_of(sae, states, features)
    feature, missed = (torch.zeros(()), torch.zeros(())) if means is None else means
    features_baseline = torch.where(left[..., None], features, feature.to(features))
    error_baseline = torch.where(left[..., None], error, missed.to(error))
    baseline = decoded(sae, features_baseline) + error_baseline
    baseline = torch.where(left[..., None], states, baseline.to(states))
    return Sides(states, baseline, features, features_baseline, error, error_baseline, left)


def _left(model: "SAETransformerBridge", ids: Tensor, states: Tensor) -> Tensor:
    """Special tokens and massive activations stay: attention rests on them, and any other value breaks the model."""
    special = torch.isin(ids, torch.tensor(special_token_ids(model), dtype=torch.long)).to(states.device)
    return special | massive(states.float().norm(dim=-1))


def _means(
    model: "SAETransformerBridge", by_hook: "dict[str, SAE[Any]]", ids: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean features and mean error over all tokens that are not left as they are."""
    sums: dict[str, list[Tensor]] = {hook: [] for hook in by_hook}
    counts = dict.fromkeys(by_hook, 0)
    for rows in batches(ids, 16):
        batch = torch.stack([ids[row] for row in rows.tolist()])
        for hook, states in hidden_states_at(model, batch, list(by_hook)).items():
            keep, nodes = ~_left(model, batch, states), nodes_of(by_hook[hook], states)
            parts = [nodes.features[keep].double().sum(0), nodes.error[keep].sum(0)]
            sums[hook] = [a + b for a, b in zip(sums[hook], parts, strict=True)] if sums[hook] else parts
            counts[hook] += int(keep.sum())
    if not all(counts.values()):
        raise ModelError("no token is left to take a mean of: all are special or massive")
    return {hook: (features / counts[hook], error / counts[hook]) for hook, (features, error) in sums.items()}
