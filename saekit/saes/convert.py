"""SAEs from other libraries as ``sae_lens.SAE``: dictionary_learning and sparsify (both MIT licence).

Weights come as tensors or safetensors. A ``.pt`` file is a pickle, and saekit opens none, not even with
``weights_only=True``: whoever has the file decides whether to trust it, in one line of their own.

A conversion is checked before it is returned: on random states the SAE must give the features and reconstructions of
the arithmetic that the other library publishes, written out here in `_LAYOUTS`.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import one_of, text_of, whole
from saekit.errors import SAEError
from saekit.saes.folder import PICKLES, header_of, pickled, read_json
from saekit.saes.pair import check_sae

if TYPE_CHECKING:
    from sae_lens import SAE

Weights = dict[str, Tensor]
_SPARSIFY_OFF = {"transcode": "a transcoder", "skip_connection": "a skip connection", "signed": "signed features"}


@dataclass(frozen=True)
class _Layout:
    """How one class of another library stores an SAE, and what it computes.

    Attributes:
        architecture: Architecture of sae-lens that computes the same.
        names: Name in the file of each weight of sae-lens; a name that ends in ``.T`` is stored transposed.
        features: The original's features, before a TopK: function of its weights and of states.
        centred: Whether the decoder's bias is taken off the states first.
        also: Names in the file that are no weights of sae-lens; they may be missing.
    """

    architecture: str
    names: Mapping[str, str]
    features: Callable[[Weights, Tensor], Tensor]
    centred: bool = True
    also: tuple[str, ...] = ()


def _relu(weights: Weights, x: Tensor) -> Tensor:
    return torch.relu(x @ weights["W_enc"] + weights["b_enc"])


def _above(weights: Weights, x: Tensor) -> Tensor:
    found = _relu(weights, x)
    return found * (found > weights["threshold"])


def _gated(weights: Weights, x: Tensor) -> Tensor:
    shared = x @ weights["W_enc"]
    magnitude = torch.relu(weights["r_mag"].exp() * shared + weights["b_mag"])
    return magnitude * (shared + weights["b_gate"] > 0)


_LINEAR = {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "decoder.weight.T"}
_PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_SPARSIFY = _Layout(
    "topk", {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}, _relu
)
_LAYOUTS = {
    "AutoEncoder": _Layout("standard", {**_LINEAR, "b_dec": "bias"}, _relu),
    "AutoEncoderNew": _Layout("standard", {**_LINEAR, "b_dec": "decoder.bias"}, _relu, centred=False),
    "GatedAutoEncoder": _Layout(
        "gated",
        {
            **{name: stored for name, stored in _LINEAR.items() if name != "b_enc"},
            **{"b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"},
        },
        _gated,
    ),
    "JumpReluAutoEncoder": _Layout("jumprelu", {**_PLAIN, "threshold": "threshold"}, _above, centred=False),
    "AutoEncoderTopK": _Layout("topk", {**_LINEAR, "b_dec": "b_dec"}, _relu, also=("k", "threshold")),
    "BatchTopKSAE": _Layout("jumprelu", {**_LINEAR, "b_dec": "b_dec", "threshold": "threshold"}, _above, also=("k",)),
    "MatryoshkaBatchTopKSAE": _Layout(
        "jumprelu", {**_PLAIN, "threshold": "threshold"}, _above, also=("k", "group_sizes")
    ),
}


def sae_from_dictionary_learning(
    weights: Mapping[str, Tensor] | Path | str,
    config: Mapping[str, Any] | Path | str,
    *,
    hook_name: str,
    model_name: str | None = None,
) -> "SAE[Any]":
    """Return an SAE that was trained with ``dictionary_learning`` (MIT licence), as a ``sae_lens.SAE`` in float32.

    Its classes AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, AutoEncoderTopK, BatchTopKSAE and
    MatryoshkaBatchTopKSAE are known; the last two become JumpReLU SAEs with the threshold that they use themselves
    once they are trained. Activations keep the scale of the stored weights.

    Args:
        weights: State dictionary of the SAE, or a safetensors file of it. Of a file ``ae.pt`` that you trust you get
            it with ``torch.load("ae.pt", weights_only=True)``.
        config: What the trainer wrote to ``config.json``, or the file. Its ``dict_class`` decides the arithmetic.
        hook_name: Hook point that the SAE reads and rebuilds, "blocks.8.hook_resid_post".
        model_name: Name of the model that it was trained on; None for what the configuration says.

    Raises:
        SAEError: A file that is damaged or a pickle, a class that is not known, tensors that are missing or of the
            wrong shape, weights that are not finite, or an SAE that does not compute what the original does.

    Warns:
        UserWarning: A BatchTopK SAE never estimated its threshold.
    """
    written = read_json(Path(config)) if isinstance(config, str | Path) else dict(config)
    trainer, buffer = written.get("trainer", written), written.get("buffer", {})
    kind = one_of("dict_class in the configuration", trainer.get("dict_class"), _LAYOUTS, error=SAEError)
    if buffer.get("io") == "in_and_out":
        raise SAEError(
            "this is a transcoder (buffer.io is 'in_and_out'): expected an SAE, which rebuilds what it reads"
        )
    return _converted(
        _LAYOUTS[kind],
        _tensors(weights),
        kind,
        k=trainer.get("k"),
        hook_name=hook_name,
        model_name=model_name or trainer.get("lm_name"),
        context_size=buffer.get("ctx_len"),
    )


def sae_from_sparsify(folder: Path | str, *, hook_name: str, model_name: str | None = None) -> "SAE[Any]":
    """Return an SAE that was trained with EleutherAI's ``sparsify`` (MIT licence), as a ``sae_lens.SAE`` in float32.

    Args:
        folder: Folder of one SAE: ``cfg.json`` and ``sae.safetensors``.
        hook_name: Hook point that it reads and rebuilds: "layers.8" of sparsify is "blocks.8.hook_resid_post",
            "layers.8.mlp" is "blocks.8.hook_mlp_out".
        model_name: Name of the model that it was trained on, if it is known.

    Raises:
        SAEError: A file that is missing or damaged, a transcoder, an activation function or an option that sae-lens
            does not have, weights that are not finite, or an SAE that does not compute what the original does.
    """
    folder = Path(folder).expanduser()
    missing = [name for name in ("cfg.json", "sae.safetensors") if not (folder / name).is_file()]
    if missing:
        raise SAEError(f"{folder} has no {' and no '.join(missing)}: expected an SAE as sparsify saves it")
    written = read_json(folder / "cfg.json")
    one_of("activation in cfg.json", written.get("activation", "topk"), ["topk"], error=SAEError)
    odd = [words for name, words in _SPARSIFY_OFF.items() if written.get(name)]
    if odd:
        raise SAEError(f"{folder} has {' and '.join(odd)}, and sae-lens has no TopK SAE with it")
    weights = _tensors(folder / "sae.safetensors")
    return _converted(
        _SPARSIFY, weights, "SparseCoder", written.get("k", 32), hook_name=hook_name, model_name=model_name
    )


def _tensors(weights: Mapping[str, Tensor] | Path | str) -> Weights:
    from safetensors.torch import load_file

    if isinstance(weights, str | Path):
        file = Path(weights).expanduser()
        if file.suffix in PICKLES:
            raise pickled(file)
        if not file.is_file():
            raise SAEError(f"no file {file}: expected a safetensors file")
        header_of(file)  # damage is found here, in plain words
        weights = load_file(file)
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise SAEError(f"weights must be a state dictionary: tensors by name, not {type(weights).__name__}")
    return dict(weights)


def _converted(layout: _Layout, stored: Weights, kind: str, k: Any, *, hook_name: str, **metadata: Any) -> "SAE[Any]":
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    weights = _named(layout, stored, kind)
    d_sae, d_in = weights["W_dec"].shape
    extra_fields: dict[str, Any] = {"k": _k(k, stored.get("k"), d_sae)} if layout.architecture == "topk" else {}
    own, configuration = get_sae_class(layout.architecture)
    known = {name: value for name, value in metadata.items() if value is not None}
    hook_name = text_of("hook_name", hook_name, error=SAEError)
    sae = own(
        configuration(
            d_in=d_in,
            d_sae=d_sae,
            apply_b_dec_to_input=layout.centred,
            metadata=SAEMetadata(hook_name=hook_name, **known),
            **extra_fields,
        )
    )
    wrong = [
        f"{layout.names[name]} of shape {list(weights[name].shape)}"
        for name, parameter in sae.named_parameters()
        if weights[name].shape != parameter.shape
    ]
    if wrong:
        raise SAEError(f"shapes do not fit an SAE of {d_sae} features and {d_in} dimensions: {'; '.join(wrong)}")
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(weights[name])
            parameter.requires_grad_(False)
    check_sae(sae.eval())
    _check_arithmetic(layout, weights, sae, kind)
    return sae


def _named(layout: _Layout, stored: Weights, kind: str) -> Weights:
    """Return the weights under sae-lens's names, float32, each feature with a threshold of its own."""
    needed = {there.removesuffix(".T") for there in layout.names.values()}
    missing, extra = needed - stored.keys(), stored.keys() - needed - set(layout.also)
    if missing or extra:
        missed, odd = sorted(missing) or "none", sorted(extra) or "none"
        raise SAEError(f"these are not the tensors of {kind}: missing {missed}, unknown {odd}")
    weights = {}
    for name, there in layout.names.items():
        tensor = stored[there.removesuffix(".T")].detach().float()
        if name.startswith("W_") and tensor.ndim != 2:
            raise SAEError(f"{there.removesuffix('.T')} must be a matrix, not of shape {list(tensor.shape)}")
        weights[name] = tensor.T if there.endswith(".T") else tensor
    threshold = weights.get("threshold")
    if threshold is not None and threshold.ndim == 0:  # one for all features
        if threshold < 0:
            warnings.warn(
                f"this {kind} never estimated its threshold ({float(threshold):g}): it has no limit but ReLU, as in "
                f"its own library",
                stacklevel=4,
            )
        weights["threshold"] = threshold.expand(len(weights["b_enc"]))
    return weights


def _k(written: Any, stored: Tensor | None, d_sae: int) -> int:
    """Return k, of which there may be two records that must agree."""
    found = {int(value) for value in (written, stored) if value is not None}
    if len(found) != 1:
        raise SAEError(f"k must be one number: the configuration and the weights say {sorted(found) or 'nothing'}")
    return whole("k", found.pop(), at_least=1, at_most=d_sae, error=SAEError)


@torch.no_grad()
def _check_arithmetic(layout: _Layout, weights: Weights, sae: "SAE[Any]", kind: str) -> None:
    """Compare features and reconstructions with the original's on random states of four scales."""
    scale = torch.tensor([0.1, 1.0, 10.0, 100.0]).repeat_interleave(8)[:, None]
    x: Float[Tensor, "32 d_in"] = scale * torch.randn(32, sae.cfg.d_in, generator=torch.Generator().manual_seed(0))
    expected = layout.features(weights, x - weights["b_dec"] if layout.centred else x)
    if layout.architecture == "topk":
        top = expected.topk(sae.cfg.k)
        expected = torch.zeros_like(expected).scatter(1, top.indices, top.values)
    got = sae.encode(x)
    rebuilt = got @ weights["W_dec"] + weights["b_dec"]
    # Rounding may put a feature on the other side of a threshold; another convention would move most of them.
    off = ~torch.isclose(got, expected, rtol=1e-3, atol=1e-4)
    if off.sum() > 1e-3 * (expected != 0).sum() or not torch.allclose(sae.decode(got), rebuilt, rtol=1e-3, atol=1e-3):
        raise SAEError(
            f"the converted SAE does not compute what {kind} does: please report this with its configuration"
        )
