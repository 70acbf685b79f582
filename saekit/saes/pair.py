"""Whether an SAE can be used: its own demands, and those on the model that it is used with.

`check_pair` is the one door: every analysis asks it before it runs anything. What it found right is remembered for as
long as neither of the two changes.
"""

import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from saekit.errors import SAEError, SaekitError
from saekit.models import bos_token_id, check_hook, check_model, hook_width, processing_of
from saekit.saes.demands import findings

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

# By SAE and then by model: the state in which the pair was found right, and the longest rows that it was asked for.
_RIGHT: "WeakKeyDictionary[SAE[Any], WeakKeyDictionary[SAETransformerBridge, tuple]]" = WeakKeyDictionary()


def sae_hook(sae: "SAE[Any]") -> str:
    """Return the hook point that an SAE reads. Raises SAEError if it does not say."""
    hook = sae.cfg.metadata.hook_name
    if not hook:
        raise SAEError("the SAE does not say which hook point it reads: set sae.cfg.metadata.hook_name")
    return hook


def check_sae(sae: "SAE[Any]") -> None:
    """Check what can be checked of an SAE without a model.

    Raises:
        SAEError: A weight is not finite, or the configuration asks for what saekit cannot do.

    Warns:
        UserWarning: The configuration asks for care.
    """
    broken = [name for name, weight in sae.state_dict().items() if not torch.isfinite(weight).all()]
    if broken:
        raise SAEError(f"not all weights of the SAE are finite numbers: {', '.join(broken)}. Was its training stable?")
    _say(sae, None)


def check_pair(model: "SAETransformerBridge", sae: "SAE[Any]", *, row_length: int = 0) -> None:
    """Check that an SAE can read this model, and that each demand of its configuration is met.

    A second call for a pair that has not changed costs next to nothing and repeats no warning.

    Args:
        model: The model.
        sae: The SAE. sae-lens itself skips an SAE that it cannot attach.
        row_length: Number of tokens in the longest row that will be read; 0 where that is not known.

    Raises:
        SAEError: d_in is not the width of the hook point, a weight is not finite, or a demand is not met.
        ModelError: The model has no such hook point, or is none that `load_model` returns.

    Warns:
        UserWarning: The SAE was trained on a model of another name or in another way, or on shorter rows.
    """
    check_model(model)
    state, known = _state(model, sae), _RIGHT.setdefault(sae, WeakKeyDictionary())
    before, longest = known.get(model, (None, 0))
    if before != state:
        check_sae(sae)
        _check_width(model, sae)
        _say(sae, model)
    context = sae.cfg.metadata.context_size or row_length
    if row_length > context >= longest:
        warnings.warn(
            f"this SAE was trained on rows of {context:,} tokens, and these have {row_length:,}: behind position "
            f"{context:,} it extrapolates",
            stacklevel=2,
        )
    known[model] = state, max(row_length, longest)


def begin_as_trained(model: "SAETransformerBridge", sae: "SAE[Any]") -> None:
    """Let a model's texts begin with BOS if, and only if, those did that an SAE was trained on; it is said once.

    Nothing changes for an SAE that does not say, and a tokenizer without BOS stays without: `check_pair` notes it.
    """
    wanted = sae.cfg.metadata.prepend_bos
    if wanted is None or model.tokenizer is None or bool(wanted) == (bos_token_id(model) is not None):
        return
    model.cfg.default_prepend_bos = bool(wanted)
    if bool(wanted) == (bos_token_id(model) is not None):
        warnings.warn(
            f"texts of {model.cfg.model_name!r} begin {'with' if wanted else 'without'} BOS from now on, as those did "
            f"that this SAE was trained on (model.cfg.default_prepend_bos = {bool(wanted)})",
            stacklevel=3,
        )


def check_rebuilds(
    model: "SAETransformerBridge | None", sae: "SAE[Any]", *, error: type[SaekitError] = SAEError, hint: str = ""
) -> None:
    """Refuse a transcoder: what is to be put back where it was read needs an SAE.

    Args:
        model: The model, in whose names of hook points the two are compared; None: as they are written.
        sae: The SAE.
        error: Class of the error for a transcoder.
        hint: Advice at the end of the message.

    Raises:
        SaekitError: The SAE writes another hook point than it reads; of the class ``error``.
        ModelError: The model has no such hook point.
    """
    reads, writes = sae_hook(sae), sae.cfg.metadata.hook_name_out
    names = [name if model is None else check_hook(model, name) for name in (reads, writes or reads)]
    if hasattr(sae.cfg, "d_out") or names[0] != names[1]:
        raise error(
            f"this is a transcoder: it reads {reads} and writes {writes or 'elsewhere'}. Expected an SAE, whose "
            f"features are put back where they were read{hint and '; '}{hint}"
        )


def _check_width(model: "SAETransformerBridge", sae: "SAE[Any]") -> None:
    hook = sae_hook(sae)
    check_hook(model, hook)
    width = hook_width(model, hook)
    if width != sae.cfg.d_in:
        raise SAEError(
            f"the SAE reads {sae.cfg.d_in} dimensions, but {hook} of {model.cfg.model_name} has {width}: it was "
            f"trained on another model or hook point"
        )


def _say(sae: "SAE[Any]", model: "SAETransformerBridge | None") -> None:
    """Raise SAEError for the first demand that is not met, and warn of what needs care."""
    alone = [] if model is None else findings(sae)  # said by `check_sae`
    for finding in findings(sae, model):
        if finding.verdict == "wrong":
            raise SAEError(finding.words)
        if finding.verdict == "note" and finding not in alone:
            warnings.warn(finding.words, stacklevel=3)


def _state(model: "SAETransformerBridge", sae: "SAE[Any]") -> tuple:
    """Return what the checks depend on: cheap to compare, and another as soon as a weight or a setting is changed."""
    weights = tuple((weight.data_ptr(), weight._version) for weight in sae.parameters())
    known = (model.cfg.model_name, id(model.tokenizer), bos_token_id(model), tuple(processing_of(model).items()))
    return (repr(sae.cfg), weights, *known)
