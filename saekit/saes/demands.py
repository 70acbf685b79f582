"""What an SAE's configuration asks for, field by field: met, refused with what to do, or harmless and why.

    findings(sae)                 # what can be said of the SAE alone: `load_sae` asks it
    findings(sae, model)          # with the model at hand: `check_pair` asks it, and shows what is noted

`DEMANDS` has a row for every field of sae-lens's configurations and metadata; a test compares the two lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from saekit.models import bos_token_id, processing_of

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Verdict = Literal["right", "note", "wrong"]
Look = Callable[[Any, "SAE[Any]", "SAETransformerBridge | None"], tuple[Verdict, str] | None]


@dataclass(frozen=True)
class Demand:
    """One field, and what becomes of it.

    Attributes:
        field: Name of the field.
        why: What meets the demand, or why it asks for nothing.
        look: Function of the value, the SAE and the model (or None) that returns what is to be noted or is wrong, None
            where all is right; None for a field that is right whatever it holds.
        kind: What the value must be.
    """

    field: str
    why: str
    look: Look | None = None
    kind: type | tuple[type, ...] = object


@dataclass(frozen=True)
class Finding:
    """What was found about one field of one SAE.

    Attributes:
        field: Name of the field.
        value: What it holds.
        verdict: "right", "note" (numbers can be read, with care) or "wrong" (they would mean nothing).
        words: What meets the demand, or what is not right and what to do.
    """

    field: str
    value: Any
    verdict: Verdict
    words: str


def findings(sae: "SAE[Any]", model: "SAETransformerBridge | None" = None) -> list[Finding]:
    """Return what there is to say about every field that an SAE has set, in the order of `DEMANDS`.

    Args:
        sae: The SAE.
        model: Model that it is used with; None for what can be said without one.
    """
    values = {"architecture": sae.cfg.architecture(), **vars(sae.cfg), **sae.cfg.metadata.to_dict()}
    return [
        Finding(demand.field, values[demand.field], *_verdict(demand, values[demand.field], sae, model))
        for demand in DEMANDS
        if values.get(demand.field) is not None
    ]


def unknown_fields(sae: "SAE[Any]") -> list[str]:
    """Return the metadata that `DEMANDS` has no row for: whoever wrote them may have meant something."""
    return sorted(set(sae.cfg.metadata.keys()) - {demand.field for demand in DEMANDS})


def same_model(one: str, other: str) -> bool:
    """Say whether two names are of one model: owner, case, folder and transformer-lens's aliases do not matter."""
    return _official(one) == _official(other)


def _verdict(demand: Demand, value: Any, sae: "SAE[Any]", model: "SAETransformerBridge | None") -> tuple[Verdict, str]:
    if not isinstance(value, demand.kind):
        return "wrong", f"{demand.field} in the SAE's configuration cannot be {value!r:.80}"
    said = demand.look(value, sae, model) if demand.look else None
    return said or ("right", demand.why)


def _official(name: str) -> str:
    parts = name.replace("\\", "/").rstrip("/").split("/")
    cached = [part for part in parts if part.startswith("models--")]  # a folder of the hub's cache
    short = (cached[-1].split("--")[-1] if cached else parts[-1]).lower()
    return _aliases().get(short, short)


@cache
def _aliases() -> dict[str, str]:
    """Return transformer-lens's aliases: short name, in lower case, by alias."""
    from transformer_lens.supported_models import MODEL_ALIASES

    return {
        alias.split("/")[-1].lower(): official.split("/")[-1].lower()
        for official, aliases in MODEL_ALIASES.items()
        for alias in aliases
    }


def _architecture(value, sae, model):
    if value == "temporal":
        return "wrong", (
            "a temporal SAE reads each token together with those before it, and its features rebuild only what they do "
            "not predict; saekit reads states one by one. Use sae-lens's own encode_with_predictions"
        )
    return None


def _normalisation(value, sae, model):
    if value in ("none", "layer_norm", "constant_norm_rescale"):
        return None
    fold = {
        "expected_average_only_in": (
            "sae.fold_activation_norm_scaling_factor(factor), where factor is the square root of d_in over the mean "
            "length of the activations that it was trained on"
        ),
        "covariance_whitening": (
            "sae.fold_activation_whitening(mean, whitening_matrix, unwhitening_matrix), of the activations that it was "
            "trained on"
        ),
    }.get(value, "the SAE's own way")
    return "wrong", (
        f"the SAE expects scaled activations (normalize_activations={value!r}), and the scale is not folded into its "
        f"weights: every number would be wrong. Load it with sae_lens.SAE.load_from_disk and fold the scale in with "
        f"{fold}; save it with save_sae"
    )


def _head(value, sae, model):
    return "wrong", (
        f"the SAE reads one attention head alone (hook_head_index={value}); saekit hands all heads of a hook point on "
        f"together. Expected an SAE of the whole hook point"
    )


def _model_name(value, sae, model):
    if model is None or same_model(value, model.cfg.model_name):
        return None
    return "note", (
        f"this SAE was trained on {value!r} and is used with {model.cfg.model_name!r}: if they differ by more than the "
        f"name, its features mean nothing here"
    )


def _prepend_bos(value, sae, model):
    if model is None or model.tokenizer is None or bool(value) == (bos_token_id(model) is not None):
        return None
    was, now = ("with", "without") if value else ("without", "with")
    none = bool(value) and model.tokenizer.bos_token_id is None
    return "note", (
        f"this SAE was trained on texts {was} BOS in front, and those of {model.cfg.model_name!r} begin {now} it"
        + (": its tokenizer has none" if none else f": set model.cfg.default_prepend_bos = {bool(value)}")
    )


_BEHIND_A_NORM = ("hook_normalized", "hook_q", "hook_k", "hook_v", "hook_z", "mlp.hook_pre", "mlp.hook_post")
# Which hook points a treatment of the model's weights changes; the others hold the same numbers with it and without.
_TREATMENTS: dict[str, Callable[[str], bool]] = {
    "center_writing_weights": lambda hook: not hook.endswith(_BEHIND_A_NORM),  # which takes the mean off anyway
    "fold_ln": lambda hook: hook.endswith("hook_normalized") or "ln_final" in hook,
    "fold_value_biases": lambda hook: hook.endswith(("hook_v", "hook_z")),
    "refactor_factored_attn_matrices": lambda hook: hook.endswith(("hook_q", "hook_k", "hook_v", "hook_z")),
    "center_unembed": lambda hook: False,  # all logits move together
}
_CHECKPOINTS = ("revision", "checkpoint_index", "checkpoint_value")
_PLACES = ("device", "device_map", "n_devices", "move_to_device", "dtype", "torch_dtype", "cache_dir", "token")


def _loading(value, sae, model):
    if model is None:
        return None
    hook, has = sae.cfg.metadata.hook_name or "", processing_of(model)
    for name, wanted in value.items():
        if name in _TREATMENTS and _TREATMENTS[name](hook) and has.get(name) not in (None, bool(wanted)):
            return "wrong", (
                f"the SAE was trained on a model loaded with {name}={wanted}, and {model.cfg.model_name!r} is loaded "
                f"with {name}={has[name]}: its activations differ. Load it with load_model(..., "
                f"compatibility={ ({k: bool(v) for k, v in value.items() if k in _TREATMENTS})!r})"
            )
    left = {k: v for k, v in value.items() if k not in (*_TREATMENTS, *_PLACES) and v is not None}
    if left:
        what = "another checkpoint" if left.keys() & set(_CHECKPOINTS) else "other settings"
        return "note", (
            f"the SAE was trained on a model loaded with {left}: if {model.cfg.model_name!r} is {what}, its features "
            f"mean nothing here"
        )
    return None


def _positions(value, sae, model):
    if tuple(value) in ((), (None,), (0,), (0, None), (None, None)):
        return None
    return "note", f"the SAE was trained at positions {tuple(value)} of each row alone: elsewhere it extrapolates"


def _version(value, sae, model):
    from sae_lens import __version__

    major = value.partition(".")[0]
    if not major.isdecimal() or int(major) <= int(__version__.partition(".")[0]):
        return None
    return "note", f"the SAE was written by sae-lens {value}, and {__version__} is installed: update sae-lens"


_ENCODED = "sae-lens's encode and decode, which do all the work, apply it"
_TEMPORAL = "belongs to temporal SAEs, which are refused"
_LABEL = "says where the SAE comes from; no number depends on it"
_ROWS = "how rows of training text were cut; saekit counts neither BOS nor special tokens"

DEMANDS: tuple[Demand, ...] = (
    Demand("architecture", "sae-lens's class for it does the work", _architecture),
    # sae-lens's configurations
    Demand("d_in", "compared with the width of the hook point"),
    Demand("d_sae", "compared with the weights when they are loaded"),
    Demand("d_out", "belongs to transcoders, which are refused wherever something is put back"),
    Demand("dtype", "an SAE is loaded in float32, whatever its file holds"),
    Demand("device", "states are moved to wherever the SAE is"),
    Demand("apply_b_dec_to_input", _ENCODED),
    Demand("normalize_activations", _ENCODED, _normalisation),
    Demand("reshape_activations", "heads are laid side by side before the SAE, as sae-lens does it"),
    Demand("k", _ENCODED),
    Demand("rescale_acts_by_decoder_norm", _ENCODED),
    Demand("residual_threshold", _ENCODED),
    Demand("max_iterations", _ENCODED),
    Demand("stop_on_duplicate_support", _ENCODED),
    Demand("n_heads", _TEMPORAL),
    Demand("n_attn_layers", _TEMPORAL),
    Demand("bottleneck_factor", _TEMPORAL),
    Demand("sae_diff_type", _TEMPORAL),
    Demand("kval_topk", _TEMPORAL),
    Demand("tied_weights", _TEMPORAL),
    Demand("activation_normalization_factor", _TEMPORAL),
    Demand("metadata", "the rows below"),
    # their metadata
    Demand("model_name", "compared with the model's name", _model_name, str),
    Demand("model_class_name", "hook points are looked for by name in the model at hand"),
    Demand("model_from_pretrained_kwargs", "the model is loaded in this way", _loading, dict),
    Demand("hook_name", "looked for in the model", kind=str),
    Demand("hook_name_out", "an SAE that writes elsewhere is refused wherever something is put back", kind=str),
    Demand("hook_head_index", "", _head),
    Demand("hook_head_index_out", "belongs to transcoders, which are refused wherever something is put back"),
    Demand("hf_hook_name", "another name of the same hook point"),
    Demand("hf_hook_name_out", "another name of the same hook point"),
    Demand("prepend_bos", "the model's texts begin in the same way", _prepend_bos),
    Demand("context_size", "compared with the rows of a corpus", kind=int),
    Demand("seqpos_slice", "all positions were trained on", _positions, (list, tuple)),
    Demand("exclude_special_tokens", _ROWS),
    Demand("sequence_separator_token", _ROWS),
    Demand("disable_concat_sequences", _ROWS),
    Demand("dataset_path", _LABEL),
    Demand("neuronpedia_id", _LABEL),
    Demand("sae_lens_version", _LABEL, _version, str),
    Demand("sae_lens_training_version", _LABEL),
    Demand("training_architecture", _LABEL),
    Demand("training_architecture_details", _LABEL),
    Demand("l0", "compared with what is measured by sk.check", kind=(int, float)),
    Demand("num_dead_features", _LABEL),
)
