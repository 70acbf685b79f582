"""How transformer-lens treats a model's weights when it is loaded, and how it has: read off the weights themselves."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from saekit._base.checks import one_of
from saekit.errors import ModelError

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_ROWS = 64  # of the embedding that are looked at
_TREATED = ("fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")
_CENTRED = ("center_writing_weights", "center_unembed")


def treatments(compatibility: bool | Mapping[str, bool]) -> dict[str, bool] | None:
    """Return the arguments of transformer-lens's ``enable_compatibility_mode``, None for weights as they are.

    Args:
        compatibility: As for `load_model`: False for nothing, True for upstream's defaults, or a mapping.

    Raises:
        ModelError: Neither of them, or a name that transformer-lens does not know.
    """
    if isinstance(compatibility, bool):
        return {} if compatibility else None
    if not isinstance(compatibility, Mapping):
        raise ModelError(f"compatibility is {compatibility!r}: expected True, False, or a mapping of treatments")
    for name, value in compatibility.items():
        one_of("a treatment in compatibility", name, (*_CENTRED, *_TREATED), error=ModelError)
        if not isinstance(value, bool):
            raise ModelError(f"compatibility[{name!r}] is {value!r}: expected True or False")
    wanted = dict.fromkeys((*_CENTRED, *_TREATED), False) | dict(compatibility)
    return wanted if any(wanted.values()) else None


def treat(model: "SAETransformerBridge", wanted: dict[str, bool] | None) -> None:
    """Let transformer-lens treat the weights of a model that has just been loaded, in place.

    Args:
        model: The model.
        wanted: Treatments, from `treatments`; None for none.

    Raises:
        ModelError: transformer-lens cannot treat this architecture.

    Warns:
        UserWarning: Centring was asked for by name, and the model's norms do not subtract the mean: transformer-lens
            leaves such weights as they are, since its predictions would change.
    """
    if wanted is None:
        return
    try:
        model.enable_compatibility_mode(disable_warnings=True, **wanted)
    except (RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{model.cfg.model_name} cannot be treated as compatibility asks: {error}") from error
    if wanted.get("center_writing_weights") and model.cfg.uses_rms_norm:
        warnings.warn(
            f"{model.cfg.model_name} was not centred: its norms do not subtract the mean, so that centring would "
            f"change its predictions",
            stacklevel=3,
        )


@torch.no_grad()
def processing_of(model: "SAETransformerBridge") -> dict[str, bool]:
    """Return, by the names of transformer-lens, which treatments change what hook points hold, and were applied.

    One that cannot be told is left out, and so is centring in a model whose norms do not subtract the mean:
    transformer-lens does not centre it.
    """
    found = {} if model._weights_processed else dict.fromkeys(_TREATED, False)
    if model.cfg.normalization_type in ("LN", "LNPre"):
        rows = model.W_E[:_ROWS].float()
        found["center_writing_weights"] = bool(rows.mean(-1).abs().max() <= 1e-3 * rows.std(-1).max())
    return found
