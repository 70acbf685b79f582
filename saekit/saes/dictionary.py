"""SAEs and directions as circuits use them: which features a state has, and what each of them writes into it.

The decoder of an SAE is taken as it acts, not as its weights are named: sae-lens has some that scale the rows of W_dec,
and some that scale a whole state before the encoder and back after the decoder. A feature then writes its row times
that state's scale. As in `saekit.attribution` the scale is no node: two runs are compared at the scale of the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.identity import Identity
from saekit._base.weights import weights_hash
from saekit.errors import SAEError
from saekit.models import check_hook, first_block_after, hook_width
from saekit.saes.identity import sae_identity
from saekit.saes.pair import check_pair, check_rebuilds, sae_hook
from saekit.saes.parts import encode, encoded, error_of, pulled_back
from saekit.saes.untrained import Directions

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Given: TypeAlias = "SAE[Any] | Directions | Dictionary"


@dataclass(frozen=True)
class Split:
    """``states = scale * (features @ rows) + bias + error``, the bias being what a dictionary gives of no feature.

    Attributes:
        features: ``[.., feature]``, in the dtype of the states.
        scale: ``[.., 1]``, or one number for all states.
        error: ``[.., d_model]``, in the dtype of the states.
    """

    features: Float[Tensor, "*batch feature"]
    scale: Float[Tensor, "*batch 1"] | float
    error: Float[Tensor, "*batch d_model"]


@dataclass(frozen=True)
class Dictionary:
    """A dictionary that fits the model.

    Attributes:
        of: The SAE or the directions.
        hook_name: Hook point that the states come from.
        rows: Vector that each feature writes, up to the scale of a state ``[feature, d_model]``.
    """

    of: "SAE[Any] | Directions"
    hook_name: str
    rows: Float[Tensor, "feature d_model"]

    @property
    def name(self) -> str:
        """What it is, for tables and figures."""
        return self.of.name if isinstance(self.of, Directions) else f"SAE, {len(self.rows)} features"

    @property
    def identity(self) -> Identity:
        """What decides its numbers, by which it is told from any other dictionary."""
        if not isinstance(self.of, Directions):
            return sae_identity(self.of)
        tensors = {"rows": self.of.rows.half(), "mean": self.of.mean.half()}
        facts = {"name": self.of.name, "rectified": self.of.rectified, "weights": weights_hash(tensors.items())}
        return Identity("directions", {"hook_name": self.hook_name, **facts})

    def encode(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch feature"]:
        """Return the features of states; gradients flow."""
        if isinstance(self.of, Directions):
            return self.of.encode(states).to(states)
        return encode(self.of, states).to(states)

    @torch.no_grad()
    def scale(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"] | float:
        """Return by what the rows are multiplied at these states."""
        if isinstance(self.of, Directions) or self.of.cfg.normalize_activations == "none":
            return 1.0
        flat = states.reshape(1, -1, states.shape[-1])  # [1, state, d_model]
        features = encoded(self.of, flat)
        longest = int(self.rows.norm(dim=1).argmax())
        along = self.rows[longest] / self.rows[longest].square().sum()
        pulled = pulled_back(self.of, features, along.expand(flat.shape))
        return pulled[..., longest].reshape(*states.shape[:-1], 1).to(states)

    @torch.no_grad()
    def split(self, states: Float[Tensor, "*batch d_model"]) -> Split:
        """Take states apart."""
        scale, features = self.scale(states), self.encode(states)
        if isinstance(self.of, Directions):
            error = states - self.of.mean.to(states) - features @ self.rows.to(states)
        else:
            error = error_of(self.of, states, features).to(states)
        return Split(features, scale, error)

    @torch.no_grad()
    def change(
        self, states: Float[Tensor, "*batch d_model"], others: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch feature"]:
        """Return how much more of each row the other states have, at the scale of the first."""
        return (self.encode(others) - self.encode(states)) * self.scale(states)

    def writes(self, amounts: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch d_model"]:
        """Return what these amounts of the rows write."""
        return amounts @ self.rows.to(amounts)


def dictionary_of(model: "SAETransformerBridge", given: Given) -> Dictionary:
    """Check a dictionary against the model.

    Raises:
        SAEError: It reads other states than the model has, or it is a transcoder.
        ModelError: The model has no such hook point.
    """
    if isinstance(given, Dictionary):
        return given
    if isinstance(given, Directions):
        width = hook_width(model, given.hook_name)
        if given.rows.shape[1] != width:
            raise SAEError(
                f"the directions have {given.rows.shape[1]} components, but {given.hook_name} has {width}: take the "
                f"states from this hook point of this model"
            )
        return Dictionary(given, given.hook_name, given.rows)
    if not hasattr(given, "cfg"):
        raise SAEError(f"expected an SAE or Directions, not {type(given).__name__}: load_sae gives one")
    check_pair(model, given)
    check_rebuilds(model, given, hint="load the SAE of one of the two hook points")
    return Dictionary(given, sae_hook(given), _rows(given))


def ordered(model: "SAETransformerBridge", given: "Given | Sequence[Given]") -> list[Dictionary]:
    """Check the SAEs or directions of a circuit, one alone or several; return them lowest layer first.

    Raises:
        SAEError: None, two on one hook point, one off the residual stream, or one that does not fit the model.
    """
    single = isinstance(given, (Directions, Dictionary)) or hasattr(given, "cfg")
    several: list[Any] = [given] if single else list(given)
    if not several:
        raise SAEError("a circuit needs at least one SAE or Directions")
    found = [dictionary_of(model, one) for one in several]
    hooks = [one.hook_name for one in found]
    if not all(hook.endswith(("hook_resid_post", "hook_resid_pre")) for hook in hooks):
        raise SAEError(f"circuits are for the residual stream, not {', '.join(hooks)}")
    after = [first_block_after(model, check_hook(model, hook)) for hook in hooks]  # post of one layer, pre of the next
    if (len(set(after)) < len(after) and None not in after) or len(set(hooks)) < len(hooks):
        raise SAEError(
            f"one SAE or Directions per hook point, not {', '.join(hooks)}: their features would count twice"
        )
    return sorted(found, key=lambda one: _layer(one.hook_name))


def _layer(hook: str) -> tuple[int, bool]:
    """A key to sort points of the residual stream by."""
    return int(hook.split(".")[1]), hook.endswith("post")


@torch.no_grad()
def _rows(sae: "SAE[Any]") -> Float[Tensor, "feature d_model"]:
    """Return the decoder as a matrix: its gradient along each coordinate, at states that all have one scale."""
    axes = torch.eye(sae.cfg.d_in, device=next(sae.parameters()).device)[None]
    return pulled_back(sae, encoded(sae, axes), axes)[0].T.contiguous()
