"""Dictionaries that must not do well: the encoder of an SAE made random, or blind to which dimension is which."""

from typing import TYPE_CHECKING, Any

import torch

from saekit.models import bos_token_id, hidden_states
from saekit.saes.load import baseline_sae, sae_hook

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

_TEXTS = 12  # on which the number of active features and the layer that fits best are measured


def control_saes(
    model: "SAETransformerBridge", saes: "dict[str, SAE[Any]]", ids: list[list[int]], kind: str, *, seed: int
) -> "dict[str, SAE[Any]]":
    """Return a control of each SAE: as wide, as many features active, nothing learned.

    ``"random"``: unit directions at random. ``"permuted"``: the SAE's own encoder with the input dimensions permuted,
    the same for all features: their norms and the angles between them stay, what they read does not.
    All are TopK SAEs, whose k is the mean number of features that the SAE has active on some of the texts.
    """
    made = {}
    for name, sae in saes.items():
        k = min(max(1, round(_active(model, sae, ids))), sae.cfg.d_sae - 1)
        b_dec = getattr(sae, "b_dec", None)
        control: Any = baseline_sae(
            model, sae_hook(sae), kind="random", n_features=sae.cfg.d_sae, k=k, b_dec=b_dec, seed=seed
        )
        if kind == "permuted":
            order = torch.randperm(sae.cfg.d_in, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                control.W_enc.copy_(sae.W_enc[order])
                control.b_enc.copy_(getattr(sae, "b_enc", torch.zeros(sae.cfg.d_sae)))
        made[name] = control.to(next(sae.parameters()).device)
    return made


@torch.no_grad()
def _active(model: "SAETransformerBridge", sae: "SAE[Any]", ids: list[list[int]]) -> float:
    """Return the mean number of active features a token, on texts of all lengths."""
    if isinstance(getattr(sae.cfg, "k", None), int):
        return sae.cfg.k
    states = states_of_some(model, ids, [sae_hook(sae)])[sae_hook(sae)]
    return (sae.encode(states.to(sae.dtype)) != 0).sum(1).float().mean().item() if len(states) else 1


def states_of_some(
    model: "SAETransformerBridge", ids: list[list[int]], hook_names: list[str]
) -> dict[str, torch.Tensor]:
    """Return activations ``[token, d_model]`` on some texts of all lengths, without BOS and what is massive."""
    from saekit.models import hidden_states_at, massive

    bos = bos_token_id(model)
    texts = [row for row in ids if row]
    found: dict[str, list[torch.Tensor]] = {name: [] for name in hook_names}
    for row in texts[:: max(1, len(texts) // _TEXTS)][:_TEXTS]:
        states = hidden_states_at(model, torch.tensor([([] if bos is None else [bos]) + row]), hook_names)
        usual = ~torch.stack([massive(state.float().norm(dim=-1))[0] for state in states.values()]).any(0)
        usual[: bos is not None] = False
        for name in hook_names:
            found[name].append(states[name][0][usual].float())
    width = hidden_states(model, torch.zeros(1, 1, dtype=torch.long), hook_names[0]).shape[-1]
    return {name: torch.cat([*rows, torch.zeros(0, width)]) for name, rows in found.items()}
