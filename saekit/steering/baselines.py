"""What a steered feature has to be better than: a plain request, and other directions with an edit as long."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import one_of
from saekit._base.progress import Progress, Stop, progress_of
from saekit.errors import SteeringError
from saekit.models import counted, encode_text, hidden_states, hook_width, special_token_ids, stopping
from saekit.saes import check_pair, encoded, sae_hook
from saekit.steering.effects import NEUTRAL
from saekit.steering.intervention import Intervention

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex

KINDS = ("prompt", "difference of means", "random direction", "random feature")


def difference_of_means(
    model: "SAETransformerBridge",
    hook_name: str,
    with_concept: Sequence[str],
    without: Sequence[str],
    *,
    progress: Progress = False,
    stop: Stop = None,
) -> Float[Tensor, " d_model"]:
    """Return the mean residual of texts with a concept minus that of texts without it, in units of the residual.

    The means are over all tokens of all texts but special ones and those of massive norm. As a baseline for SAE
    features: Wu et al. 2025 (AxBench, section 3).

    Args:
        model: The model.
        hook_name: Where the residual is read.
        with_concept: Texts with the concept.
        without: Texts without it.
        progress: Show a progress bar; or a function that is given (done, total) texts of both sides.
        stop: Function that is asked before every block of the model; once it returns True, `saekit.errors.Stopped`
            is raised.

    Raises:
        SteeringError: There are no texts on one side, or the means are the same.
        Stopped: stop() returned True.
    """
    sides = {"with": with_concept, "without": without}
    for name, texts in sides.items():
        if isinstance(texts, str) or not len(texts):
            raise SteeringError(f"no texts {name} the concept: expected a list of at least one")
    means = []
    total = len(with_concept) + len(without)
    with stopping(model, stop), progress_of(progress, total, "text", stop=stop, title="Reading") as step:
        for name, texts in sides.items():
            kept = []
            for states in _counted_states(model, texts, hook_name):
                kept.append(states)
                step()
            tokens = torch.cat(kept)
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
    stop: Stop = None,
) -> int:
    """Return a live feature by lot.

    Args:
        model: The model.
        sae: The SAE.
        seed: Seed of the lot.
        index: The SAE's index, which knows the live features; None for those that are active on neutral sentences.
        but: Features that are not to be drawn.
        stop: Function that is asked before every block of the model.

    Raises:
        SteeringError: No other feature is live.
        SAEError: The SAE does not fit the model.
        Stopped: stop() returned True.
    """
    check_pair(model, sae)
    if index is not None:
        live = torch.from_numpy(~index.dead)
    else:
        live = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
        with stopping(model, stop):
            for states in _counted_states(model, NEUTRAL, sae_hook(sae)):
                live |= (encoded(sae, states) > 0).any(0).cpu()
    live[list(but)] = False
    candidates = live.nonzero()[:, 0]
    if not len(candidates):
        raise SteeringError("the SAE has no other live feature to compare with")
    return int(candidates[torch.randint(len(candidates), (1,), generator=torch.Generator().manual_seed(seed))])


def baseline(
    model: "SAETransformerBridge",
    target: Intervention,
    kind: str,
    *,
    sae: "SAE[Any] | None" = None,
    index: "FeatureIndex | None" = None,
    examples: tuple[Sequence[str], Sequence[str]] | None = None,
    seed: int = 0,
    stop: Stop = None,
) -> Intervention:
    """Return what stands beside a target as a baseline, with an edit as long as the residual.

    Args:
        model: The model.
        target: The intervention beside which it stands: at its hook point, on its positions.
        kind: ``"difference of means"``, ``"random direction"`` or ``"random feature"``.
        sae: The SAE of which to draw the random feature.
        index: The SAE's index, which knows the live features, and the target's strongest examples.
        examples: Texts with the concept and texts without it, for the difference of means. None: the target
            feature's strongest examples in the index against neutral sentences.
        seed: Seed of what is random.
        stop: Function that is asked before every block of the model.

    Raises:
        SteeringError: No such kind, or what it needs is not there; the message says what to pass.
        Stopped: stop() returned True.
    """
    kind = one_of("kind", kind, KINDS[1:], error=SteeringError, hint="The prompt baseline is no intervention")
    features = target.features
    if kind == "difference of means":
        if examples is None and index is not None and len(features) == 1 and model.tokenizer is not None:
            examples = ["".join(example.tokens) for example in index.top(features[0], 12)], NEUTRAL
        if examples is None:
            raise SteeringError("it needs texts: pass examples=(texts with the concept, texts without)")
        direction, name = difference_of_means(model, target.hook_name, *examples, stop=stop), kind
    elif kind == "random direction":
        direction, name = random_direction(hook_width(model, target.hook_name), seed), kind
    else:
        if sae is None:
            raise SteeringError("it needs the SAE: pass sae=")
        if index is None and model.tokenizer is None:
            raise SteeringError("which features are live is not known: pass index=")
        feature = random_feature(model, sae, seed, index=index, but=features, stop=stop)
        direction, name = sae.W_dec[feature], f"random feature {feature}"
    return Intervention.along(direction, target.hook_name, 1.0, unit="norm", positions=target.positions, name=name)
