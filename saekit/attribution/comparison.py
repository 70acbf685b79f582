"""With what a clean run is compared: another prompt's run, or features set to zero or to a mean.

1. `comparison_of` checks everything that is asked, before the model runs, and takes the means where they are the
   baseline.
2. `compared_states` runs the prompts batch by batch, and gives the states, features and errors at each SAE as they are
   and as they are at the baseline.
3. `strongest`, `chosen_nodes` and `nodes_in_batch` say which nodes of a batch are patched.
4. `AttributionBuilder` collects what was read and what each node does, and makes the `Attribution`.

Special tokens and massive activations keep their values unless the baseline is another prompt: attention rests on
them, and any other value breaks the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit._base.checks import one_of
from saekit._base.identity import Identity
from saekit.attribution.inputs import (
    Answers,
    Direction,
    Prompts,
    Readout,
    SAEs,
    counterparts_of,
    made_with,
    prompts_of,
    read_position,
    readout_of,
    saes_of,
)
from saekit.attribution.result import ALL_POSITIONS, Attribution, Contribution, ItemTable
from saekit.errors import ModelError
from saekit.models import batches_of_one_length, counted, hidden_states_at, special_token_ids, token_texts
from saekit.saes import decoded, encoded, error_of, nodes_of

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Baseline = Literal["zero", "mean"]


@dataclass(frozen=True)
class Comparison:
    """Which runs are compared and what is read off them; all of it checked.

    Attributes:
        saes: SAEs by the name of their hook point.
        ids: Token ids of the clean prompts, one ``[pos]`` each.
        corrupted_ids: Token ids of the corrupted prompts; None where the baseline is zero or a mean.
        readout: What is read off.
        position: Position of each prompt whose prediction is read ``[prompt]``.
        means: Mean features and mean error by hook point, where they are the baseline.
        baseline: The baseline in words.
        made_with: What decides the numbers of ``"model"`` and of each SAE, by hook point.
    """

    saes: "dict[str, SAE[Any]]"
    ids: tuple[Int[Tensor, "_pos"], ...]
    corrupted_ids: tuple[Int[Tensor, "_pos"], ...] | None
    readout: Readout
    position: Int[Tensor, "prompt"]
    means: dict[str, tuple[Tensor, Tensor]] | None
    baseline: str
    made_with: dict[str, Identity]


@dataclass(frozen=True)
class ComparedStates:
    """One batch at one hook point, as it is in the clean run and as it is with all nodes at their baseline.

    Attributes:
        hook_name: The hook point, as the SAE names it.
        prompts: Numbers of the prompts, which are of one length ``[batch]``.
        ids: Token ids of the clean prompts ``[batch, pos]``.
        states: States of the clean run ``[batch, pos, d_in]``.
        states_baseline: States with all nodes at their baseline ``[batch, pos, d_in]``.
        features: Features of the clean run ``[batch, pos, d_sae]``.
        features_baseline: Features at the baseline ``[batch, pos, d_sae]``.
        error: What the SAE misses in the clean run ``[batch, pos, d_in]``, float64.
        error_baseline: What it misses at the baseline ``[batch, pos, d_in]``, float64.
        kept: Positions that keep their clean values ``[batch, pos]``.
    """

    hook_name: str
    prompts: Int[Tensor, "batch"]
    ids: Int[Tensor, "batch pos"]
    states: Float[Tensor, "batch pos d_in"]
    states_baseline: Float[Tensor, "batch pos d_in"]
    features: Float[Tensor, "batch pos d_sae"]
    features_baseline: Float[Tensor, "batch pos d_sae"]
    error: Float[Tensor, "batch pos d_in"]
    error_baseline: Float[Tensor, "batch pos d_in"]
    kept: Bool[Tensor, "batch pos"]


def comparison_of(
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
    position: int = -1,
) -> Comparison:
    """Check everything that is asked, before the model runs; arguments and errors as in `attribution_patching`."""
    by_hook = saes_of(model, saes)
    ids = prompts_of(model, prompts)
    if corrupted is not None and baseline is not None:
        raise ModelError("pass either corrupted= prompts or baseline='zero' or 'mean', the one thing to compare with")
    hint = "A prompt goes to corrupted="
    baseline = one_of("baseline", baseline or "zero", get_args(Baseline), error=ModelError, hint=hint)
    if reference is not None and (corrupted is not None or baseline != "mean"):
        raise ModelError("reference= says what baseline='mean' is the mean of; it goes with that only")
    readout = readout_of(model, len(ids), answer, foil, direction)
    at = torch.tensor([read_position(one, position) for one in ids])
    others, means, words = None, None, "all features zero"
    if corrupted is not None:
        others, words = counterparts_of(model, ids, corrupted), "corrupted prompts"
    elif baseline == "mean":
        over = ids if reference is None else prompts_of(model, reference)
        means, words = _means(model, by_hook, over), f"means over {len(over)} prompt(s)"
    return Comparison(by_hook, ids, others, readout, at, means, words, made_with(model, by_hook))


def compared_states(model: "SAETransformerBridge", comparison: Comparison, batch_size: int) -> Iterator[ComparedStates]:
    """Run the prompts and yield their states, batch by batch and within a batch hook point by hook point.

    Args:
        model: The model.
        comparison: What is compared.
        batch_size: Number of prompts per pass.
    """
    hooks, means = list(comparison.saes), comparison.means or {}
    for rows in batches_of_one_length(comparison.ids, batch_size):
        ids = torch.stack([comparison.ids[row] for row in rows.tolist()])
        clean, other = hidden_states_at(model, ids, hooks), None
        if comparison.corrupted_ids is not None:
            corrupted = torch.stack([comparison.corrupted_ids[row] for row in rows.tolist()])
            other = hidden_states_at(model, corrupted, hooks)
        for hook, sae in comparison.saes.items():
            if other is not None:
                sides = _with_corrupted(sae, clean[hook], other[hook])
            else:
                sides = _with_baseline(sae, clean[hook], _kept(model, ids, clean[hook]), means.get(hook))
            yield ComparedStates(hook, rows, ids, clean[hook], *sides)


def _with_corrupted(sae: "SAE[Any]", states: Tensor, other: Tensor) -> tuple[Tensor, ...]:
    """Return what `ComparedStates` holds after the clean states, the baseline being another run."""
    # In this order: an SAE that normalises each input decodes both with the clean one's scale, as one affine map.
    features_baseline = encoded(sae, other)
    features = encoded(sae, states)
    error, error_baseline = error_of(sae, states, features), error_of(sae, other, features_baseline)
    kept = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
    return other, features, features_baseline, error, error_baseline, kept


def _with_baseline(
    sae: "SAE[Any]", states: Tensor, kept: Tensor, means: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, ...]:
    """Return what `ComparedStates` holds after the clean states, the baseline being zero or a mean."""
    features = encoded(sae, states)
    error = error_of(sae, states, features)
    feature, missed = (torch.zeros(()), torch.zeros(())) if means is None else means
    features_baseline = torch.where(kept[..., None], features, feature.to(features))
    error_baseline = torch.where(kept[..., None], error, missed.to(error))
    baseline = decoded(sae, features_baseline) + error_baseline
    baseline = torch.where(kept[..., None], states, baseline.to(states))
    return baseline, features, features_baseline, error, error_baseline, kept


def _kept(model: "SAETransformerBridge", ids: Tensor, states: Tensor) -> Tensor:
    """Positions of special tokens and massive activations."""
    keep, _ = counted(ids, states, torch.tensor(special_token_ids(model), dtype=torch.long))
    return ~keep.to(states.device)


def _means(
    model: "SAETransformerBridge", saes: "dict[str, SAE[Any]]", ids: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean features and mean error over all tokens that do not keep their values."""
    sums: dict[str, list[Tensor]] = {hook: [] for hook in saes}
    counts = dict.fromkeys(saes, 0)
    for rows in batches_of_one_length(ids, 16):
        batch = torch.stack([ids[row] for row in rows.tolist()])
        for hook, states in hidden_states_at(model, batch, list(saes)).items():
            here, nodes = ~_kept(model, batch, states), nodes_of(saes[hook], states)
            parts = [nodes.features[here].double().sum(0), nodes.error[here].sum(0)]
            sums[hook] = [a + b for a, b in zip(sums[hook], parts, strict=True)] if sums[hook] else parts
            counts[hook] += int(here.sum())
    if not all(counts.values()):
        raise ModelError("no token is left to take a mean of: all are special or massive")
    return {hook: (features / counts[hook], error / counts[hook]) for hook, (features, error) in sums.items()}


# --- which nodes are patched -----------------------------------------------------------------------------------------


def strongest(effect: Float[Tensor, "batch pos d_sae"], k: int) -> Int[Tensor, "node 3"]:
    """Return row, position and feature of the k strongest of each prompt, strongest first; none without effect."""
    size = effect.abs().flatten(1)
    values, places = size.topk(min(k, size.shape[1]), dim=1)
    row, nth = (values > 0).nonzero(as_tuple=True)
    place = places[row, nth]
    return torch.stack([row, place // effect.shape[2], place % effect.shape[2]], 1).cpu()


def chosen_nodes(
    comparison: Comparison, nodes: Sequence[Contribution] | Sequence[int]
) -> list[tuple[int, int, int, int]]:
    """Return the nodes that are asked for, each once, as numbers.

    Args:
        comparison: What is compared.
        nodes: Items of an attribution, or numbers of features of the only SAE.

    Returns:
        Number of the hook point, of the prompt (-1 for all), position (-1 for all) and feature (-1 for the error).

    Raises:
        ModelError: No nodes, or one that does not exist.
    """
    hooks, out = list(comparison.saes), []
    if not len(nodes):
        raise ModelError("nodes is empty: expected items of an attribution, or numbers of features")
    for node in nodes:
        if not isinstance(node, Contribution):
            if len(hooks) > 1:
                raise ModelError(f"feature {node} of which SAE? With {len(hooks)} SAEs pass items of an attribution")
            node = Contribution(-1, ALL_POSITIONS, "", hooks[0], "feature", int(node), 0.0, 0.0)
        if node.hook_name not in hooks:
            raise ModelError(f"there is no SAE at {node.hook_name}: there are SAEs at {', '.join(hooks)}")
        if node.kind not in ("feature", "error"):
            raise ModelError(f"a node of kind {node.kind!r} cannot be patched: expected features and errors")
        d_sae = comparison.saes[node.hook_name].cfg.d_sae
        if node.kind == "feature" and not 0 <= node.feature < d_sae:
            raise ModelError(f"there is no feature {node.feature} in an SAE of {d_sae}")
        if not -1 <= node.prompt < len(comparison.ids):
            raise ModelError(f"there is no prompt {node.prompt}: there are {len(comparison.ids)}")
        for one in comparison.ids if node.prompt < 0 else [comparison.ids[node.prompt]]:
            if not ALL_POSITIONS <= node.position < len(one):
                raise ModelError(f"position {node.position} is outside a prompt of {len(one)} tokens")
        out.append((hooks.index(node.hook_name), node.prompt, node.position, node.feature))
    return list(dict.fromkeys(out))


def nodes_in_batch(
    comparison: Comparison, chosen: list[tuple[int, int, int, int]], batch: ComparedStates
) -> tuple[Int[Tensor, "node 3"], Int[Tensor, "error 2"]]:
    """Return the chosen features (row, position, feature) and errors (row, position) of one batch and hook point."""
    number = list(comparison.saes).index(batch.hook_name)
    found = [
        (row, position, feature)
        for row, prompt in enumerate(batch.prompts.tolist())
        for hook, of, position, feature in chosen
        if hook == number and of in (-1, prompt)
    ]
    table = torch.tensor(found, dtype=torch.long).reshape(-1, 3)
    is_error = table[:, 2] < 0
    return table[~is_error], table[is_error, :2]


# --- what becomes of them --------------------------------------------------------------------------------------------


class AttributionBuilder:
    """Collects readings and items over batches and hook points."""

    def __init__(self, model: "SAETransformerBridge", comparison: Comparison) -> None:
        self._comparison, self._items = comparison, ItemTable()
        self._tokens = tuple(token_texts(model, one) for one in comparison.ids)
        self._clean = np.zeros(len(comparison.ids))
        self._total = np.zeros((len(comparison.ids), len(comparison.saes)))
        self._kept = [torch.zeros(len(one), dtype=torch.bool) for one in comparison.ids]

    def read(self, batch: ComparedStates, clean: Tensor, baseline: Tensor) -> None:
        """Note what was read off both runs of a batch."""
        rows = batch.prompts.numpy()
        self._clean[rows] = clean.cpu().numpy()
        self._total[rows, self._hook_number(batch)] = (clean - baseline).cpu().numpy()
        for i, row in enumerate(rows.tolist()):
            self._kept[row] |= batch.kept[i].cpu()

    def add_features(self, batch: ComparedStates, which: Int[Tensor, "node 3"], effect: Float[Tensor, "node"]) -> None:
        """Add features: row, position (-1 for all) and feature of each, and its effect."""
        row, position, feature = which.cpu().T

        def value(features: Tensor) -> Tensor:
            here = features[row, position.clamp(min=0), feature]
            return torch.where(position < 0, features[row, :, feature].sum(1).cpu(), here.cpu())

        values = value(batch.features), value(batch.features_baseline)
        self._add(batch, "feature", row, position, feature, values, effect)

    def add_errors(self, batch: ComparedStates, which: Int[Tensor, "node 2"], effect: Float[Tensor, "node"]) -> None:
        """Add errors: row and position (-1 for all) of each, and its effect; their activation is their length."""
        row, position = which.cpu().T

        def length(error: Tensor) -> Tensor:
            here = error[row, position.clamp(min=0)].norm(dim=-1)
            return torch.where(position < 0, error[row].flatten(1).norm(dim=1).cpu(), here.cpu())

        lengths = length(batch.error), length(batch.error_baseline)
        self._add(batch, "error", row, position, torch.full_like(row, -1), lengths, effect)

    def _add(
        self,
        batch: ComparedStates,
        kind: str,
        row: Tensor,
        position: Tensor,
        feature: Tensor,
        activations: tuple[Tensor, Tensor],
        effect: Tensor,
    ) -> None:
        self._items.add(
            kind,
            at_read=batch.prompts[row].numpy(),
            at_hook=self._hook_number(batch),
            position=position.numpy(),
            feature=feature.numpy(),
            activation=activations[0].double().numpy(),
            activation_baseline=activations[1].double().numpy(),
            effect=effect.detach().double().cpu().numpy(),
        )

    def _hook_number(self, batch: ComparedStates) -> int:
        return list(self._comparison.saes).index(batch.hook_name)

    def attribution(self, method: str) -> Attribution:
        """Return the attribution."""
        comparison = self._comparison
        return Attribution(
            method=method,
            towards=comparison.readout.towards,
            baseline=comparison.baseline,
            units=comparison.readout.units,
            tokens=self._tokens,
            hook_names=tuple(comparison.saes),
            read_prompt=np.arange(len(comparison.ids)),
            read_position=comparison.position.numpy(),
            clean=self._clean,
            total=self._total,
            excluded_tokens=sum(int(kept.sum()) for kept in self._kept),
            made_with=comparison.made_with,
            **self._items.arrays(),
        )
