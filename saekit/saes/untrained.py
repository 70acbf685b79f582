"""Dictionaries that nobody trained: what an SAE does on a task is measured beside them.

`baseline_sae` makes one that stands for itself (neurons, random directions), `control_sae` one that takes the place of
a given SAE, as wide and as sparse; both are SAEs, so that every tool runs on them unchanged. `Directions` are a basis
without a limit on how many are active: principal components, a random basis, neurons.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import one_of, whole
from saekit.errors import SAEError
from saekit.models import bos_token_id, counted, hidden_states_at, hook_width, special_token_ids
from saekit.saes.pair import sae_hook
from saekit.saes.parts import encoded

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

CONTROLS = ("random", "permuted")
_TEXTS = 12  # on which the number of active features and the layer that fits best are measured


def baseline_sae(
    model: "SAETransformerBridge",
    hook_name: str,
    *,
    kind: str,
    n_features: int | None = None,
    k: int = 46,
    b_dec: Float[Tensor, "d_in"] | None = None,
    seed: int = 0,
) -> "SAE[Any]":
    """Return a dictionary that was not trained, as an SAE, so that every tool runs on it unchanged.

    Args:
        model: The model whose hook point it reads.
        hook_name: The hook point.
        kind: ``"neurons"``: the axes of the residual stream, both signs (Cunningham et al. 2023, section 3.1,
            identity baseline). ``"random"``: random unit directions.
        n_features: Number of random directions; neurons are always ``2 * d_in``.
        k: Number of features that are active at a time, as in the SAE it is compared with.
        b_dec: Vector that is subtracted first, usually the SAE's ``b_dec``; zero if None.
        seed: Seed of the random directions.

    Raises:
        SAEError: An unknown kind, or no such number of active features.
        ModelError: The model has no such hook point.
    """
    width = hook_width(model, hook_name)
    one_of("kind", kind, ("neurons", "random"), error=SAEError)
    axes = torch.eye(width)
    rows = torch.cat([axes, -axes]) if kind == "neurons" else _random_rows(n_features or 2 * width, width, seed)
    return _topk_sae(rows, hook_name, k, b_dec, model.cfg.model_name)


def control_sae(sae: "SAE[Any]", kind: str, *, k: int | None = None, seed: int) -> "SAE[Any]":
    """Return what an SAE is measured beside: as wide, as many features active, nothing learned; a TopK SAE.

    Args:
        sae: The SAE that the control stands beside.
        kind: ``"random"``: unit directions at random. ``"permuted"``: the SAE's own encoder with the input dimensions
            permuted, the same for all features: their norms and the angles between them stay, what they read does not.
        k: Number of features that are active at a time; None for that of a TopK SAE.
        seed: Seed of the directions, or of the permutation.

    Raises:
        SAEError: An unknown kind, or an SAE without a fixed number of active features and no ``k``.
    """
    one_of("kind", kind, CONTROLS, error=SAEError)
    k = getattr(sae.cfg, "k", None) if k is None else k
    if not isinstance(k, int):
        raise SAEError(f"controls are TopK SAEs, this one is {sae.cfg.architecture()!r}: say how many features with k=")
    rows = _random_rows(sae.cfg.d_sae, sae.cfg.d_in, seed)
    b_dec = getattr(sae, "b_dec", None)
    control = _topk_sae(rows, sae.cfg.metadata.hook_name, k, b_dec, sae.cfg.metadata.model_name)
    if kind == "permuted":
        order = torch.randperm(sae.cfg.d_in, generator=torch.Generator().manual_seed(seed))
        b_enc = getattr(sae, "b_enc", None)
        with torch.no_grad():
            control.W_enc.copy_(sae.W_enc[order])
            if b_enc is not None:
                cast(Tensor, control.b_enc).copy_(b_enc)
    return control.to(device=sae.device)


def _random_rows(n: int, width: int, seed: int) -> Float[Tensor, "n width"]:
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def _topk_sae(
    rows: Float[Tensor, "d_sae d_in"], hook_name: str | None, k: int, b_dec: Tensor | None, model_name: str | None
) -> "SAE[Any]":
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    k = whole("k", k, at_least=1, at_most=len(rows) - 1, error=SAEError)
    metadata = SAEMetadata(model_name=model_name, hook_name=hook_name, prepend_bos=True)
    d_sae, d_in = rows.shape
    sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, apply_b_dec_to_input=True, metadata=metadata))
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        sae.b_enc.zero_()
        sae.b_dec.zero_() if b_dec is None else sae.b_dec.copy_(b_dec)
    for parameter in sae.parameters():
        parameter.requires_grad_(False)
    return sae.eval()


# --- how sparse an SAE is on texts -----------------------------------------------------------------------------


def control_saes(
    model: "SAETransformerBridge", saes: "dict[str, SAE[Any]]", ids: list[list[int]], kind: str, *, seed: int
) -> "dict[str, SAE[Any]]":
    """Return a `control_sae` of each SAE, with as many active features as it has on some of the texts.

    Args:
        model: The model.
        saes: The SAEs by name.
        ids: Token ids of the texts, without BOS.
        kind: Kind of control, as `control_sae` takes it.
        seed: Seed of the controls.
    """
    return {
        name: control_sae(sae, kind, k=min(max(1, round(_active(model, sae, ids))), sae.cfg.d_sae - 1), seed=seed)
        for name, sae in saes.items()
    }


def _active(model: "SAETransformerBridge", sae: "SAE[Any]", ids: list[list[int]]) -> float:
    """Return the mean number of active features per token, on texts of all lengths."""
    if isinstance(getattr(sae.cfg, "k", None), int):
        return sae.cfg.k
    states = states_of_some(model, ids, [sae_hook(sae)])[sae_hook(sae)]
    return (encoded(sae, states) != 0).sum(1).float().mean().item() if len(states) else 1


def states_of_some(
    model: "SAETransformerBridge", ids: list[list[int]], hook_names: list[str]
) -> dict[str, Float[Tensor, "token d_in"]]:
    """Return activations on some texts of all lengths, at the tokens that count at every hook point.

    Args:
        model: The model.
        ids: Token ids of the texts, without BOS.
        hook_names: The hook points.
    """
    bos, special = bos_token_id(model), torch.tensor(special_token_ids(model), dtype=torch.long)
    texts = [row for row in ids if row]
    seen: dict[str, list[Tensor]] = {name: [] for name in hook_names}
    for row in texts[:: max(1, len(texts) // _TEXTS)][:_TEXTS]:
        text = torch.tensor([([] if bos is None else [bos]) + row])
        states = hidden_states_at(model, text, hook_names)
        keep = torch.stack([counted(text, states[name], special)[0][0] for name in hook_names]).all(0)
        for name in hook_names:
            seen[name].append(states[name][0][keep.to(states[name].device)].float())
    return {name: torch.cat([*rows, torch.zeros(0, hook_width(model, name))]) for name, rows in seen.items()}


# --- directions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Directions:
    """A dictionary that nobody trained on sparsity: directions, and how far a state lies along each.

    Attributes:
        name: Name for tables and figures.
        hook_name: Hook point that the states come from.
        rows: Unit directions ``[feature, d_model]``.
        mean: Vector that is subtracted from a state first ``[d_model]``.
        rectified: Whether a feature is the positive part only; the negative part is then a feature of its own, so
            that the dictionary has features of one sign like an SAE's.
    """

    name: str
    hook_name: str
    rows: Float[Tensor, "feature d_model"]
    mean: Float[Tensor, "d_model"]
    rectified: bool

    def encode(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch feature"]:
        """Return the features of states."""
        states = states.to(dtype=torch.promote_types(states.dtype, self.rows.dtype))
        along = (states - self.mean.to(states)) @ self.rows.T.to(states)
        return along.clamp(min=0) if self.rectified else along


def principal_directions(
    states: Float[Tensor, "token d_model"], hook_name: str, *, rectified: bool = False
) -> Directions:
    """Return the principal components of activations as a dictionary, largest variance first; centred."""
    states = states.float()
    mean = states.mean(0)
    rows = torch.linalg.svd(states - mean, full_matrices=False).Vh
    return _directions("PCA", hook_name, rows, mean, rectified=rectified)


def random_directions(
    states: Float[Tensor, "token d_model"], hook_name: str, *, seed: int = 0, rectified: bool = False
) -> Directions:
    """Return a random orthonormal basis as a dictionary, centred like `principal_directions`."""
    generator, d_model = torch.Generator().manual_seed(seed), states.shape[1]
    rows = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator)).Q
    return _directions("random", hook_name, rows, states.float().mean(0), rectified=rectified)


def neuron_directions(states: Float[Tensor, "token d_model"], hook_name: str, *, rectified: bool = False) -> Directions:
    """Return the coordinates of a hook point, its neurons, as a dictionary; centred like `principal_directions`."""
    states = states.float()
    return _directions("neurons", hook_name, torch.eye(states.shape[1]), states.mean(0), rectified=rectified)


def _directions(name: str, hook_name: str, rows: Tensor, mean: Tensor, *, rectified: bool) -> Directions:
    if rectified:
        rows = torch.stack([rows, -rows], 1).flatten(0, 1)  # + and - of a direction stand side by side
    return Directions(name + (" ±" if rectified else ""), hook_name, rows, mean, rectified)
