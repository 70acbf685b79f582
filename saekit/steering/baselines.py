"""What a steered feature has to be better than: a plain request, and other directions with an edit as long."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.errors import SteeringError
from saekit.models import counted, encode_text, hidden_states, hook_width, special_token_ids
from saekit.saes import encoded, sae_hook
from saekit.steering.effects import NEUTRAL
from saekit.steering.intervention import Intervention

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex

KINDS = ("prompt", "difference of means", "random direction", "random feature")


def difference_of_means(
    model: "SAETransformerBridge", hook_name: str, with_concept: Sequence[str], without: Sequence[str]
) -> Float[Tensor, " d_model"]:
    """Return the mean residual of texts with a concept minus that of texts without it, in units of the residual.

    The means are over all tokens of all texts but special ones and those of massive norm. As a baseline for SAE
    features: Wu et al. 2025 (AxBench, section 3).

    Raises:
        SteeringError: There are no texts on one side, or the means are the same.
    """
    means = []
    for name, texts in (("with", with_concept), ("without", without)):
        if isinstance(texts, str) or not len(texts):
            raise SteeringError(f"no texts {name} the concept: expected a list of at least one")
        tokens = torch.cat(list(_counted_states(model, texts, hook_name)))
        if not len(tokens):
            raise SteeringError(f"no token is left of the texts {name} the concept: expected longer texts")
        means.append(tokens.double().mean(0))
    difference = (means[0] - means[1]).float().cpu()
    if not difference.norm():
        raise SteeringError("the two sides have the same mean: expected different texts")
    return difference


def _counted_states(
    model: "SAETransformerBridge", texts: Sequence[str], hook_name: str
) -> Iterator[Float[Tensor, "token d_model"]]:
    """Yield the states of each text at the tokens that count, in float32."""
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    for text in texts:
        ids = encode_text(model, text)[None]
        states = hidden_states(model, ids, hook_name).float()
        yield states[counted(ids, states, special)[0].to(states.device)]


def random_direction(width: int, seed: int) -> Float[Tensor, " d_model"]:
    """Return a direction, all equally likely."""
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def random_feature(
    model: "SAETransformerBridge",
    sae: "SAE[Any]",
    seed: int,
    *,
    index: "FeatureIndex | None" = None,
    but: Sequence[int] = (),
) -> int:
    """Return a live feature by lot: one that the index has seen active, or without one, the neutral sentences."""
    if index is not None:
        live = torch.from_numpy(~index.dead)
    else:
        live = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
        for states in _counted_states(model, NEUTRAL, sae_hook(sae)):
            live |= (encoded(sae, states) > 0).any(0).cpu()
    live[list(but)] = False
    candidates = live.nonzero()[:, 0]
    if not len(candidates):
        raise SteeringError("the SAE has no other live feature to compare with")
    return int(candidates[torch.randint(len(candidates), (1,), generator=torch.Generator().manual_seed(seed))])


def baseline(
    kind: str,
    model: "SAETransformerBridge",
    target: Intervention,
    *,
    sae: "SAE[Any] | None",
    index: "FeatureIndex | None",
    examples: tuple[Sequence[str], Sequence[str]] | None,
    seed: int,
) -> Intervention:
    """Return what stands beside a target as this kind of baseline, with an edit as long as the residual.

    Raises:
        SteeringError: What it needs is not there; the message says what to pass.
    """
    features = [edit.feature for edit in target.edits if edit.feature is not None]
    if kind == "difference of means":
        if examples is None and index is not None and len(features) == 1 and model.tokenizer is not None:
            examples = ["".join(example.tokens) for example in index.top(features[0], 12)], NEUTRAL
        if examples is None:
            raise SteeringError("it needs texts: pass examples=(texts with the concept, texts without)")
        direction = difference_of_means(model, target.hook_name, *examples)
        name = kind
    elif kind == "random direction":
        width = hook_width(model, target.hook_name)
        direction, name = random_direction(width, seed), kind
    else:
        if sae is None:
            raise SteeringError("it needs the SAE: pass sae=")
        if index is None and model.tokenizer is None:
            raise SteeringError("which features are live is not known: pass index=")
        feature = random_feature(model, sae, seed, index=index, but=features)
        direction, name = sae.W_dec[feature], f"random feature {feature}"
    made = Intervention.along(direction, target.hook_name, 1.0, unit="norm", name=name)
    return replace(made, positions=target.positions)
