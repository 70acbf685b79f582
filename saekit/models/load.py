"""The seam to language models: everything that depends on the model's class stands in this file.

A model is a ``sae_lens.SAETransformerBridge`` in eval mode. transformer-lens 4 removed ``HookedTransformer``;
what we use of the bridge is listed in ``tests/test_upstream.py``.
"""

import difflib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.errors import ModelError, OfflineError
from saekit.models.blocks import block_calls, first_block_after, run_blocks
from saekit.models.packaged import PACKAGED, converted, transformers_without_bars
from saekit.models.vocabulary import from_byte_level, from_sentencepiece

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def load_model(
    name: str | Path = "smollm2-135m",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    accept_licence: bool = False,
    progress: bool = True,
) -> "SAETransformerBridge":
    """Load a language model, ready for SAEs and hooks.

    Args:
        name: ``"smollm2-135m"`` (SmolLM2-135M-Instruct, Apache-2.0: comes from a pinned data package, is converted
            once, and then loads in about a second, offline), or ``"multilingual"`` (Gemma 3 270M, Gemma Terms of Use,
            the same way), or a local directory in transformers' format, or any name on the model hub (``"gpt2"``,
            ``"pythia-70m"``, ``"google/gemma-2-2b"``).
        device: Where the model runs.
        dtype: Of weights and activations. float32 for scores; bfloat16 is some three times as fast on CPUs that
            have it, enough for harvesting activations.
        accept_licence: You have read and accept the licence of a model that asks for it (``"multilingual"``).
        progress: Show progress bars for a first download and conversion.

    Raises:
        ModelError: No such model, or its licence has to be accepted first; the message shows the notice.
        OfflineError: The model has to be downloaded and cannot be.
        ChecksumError: The downloaded file is not the one that saekit was tested with.
    """
    from sae_lens import SAETransformerBridge

    name = str(name)
    if name in PACKAGED:
        source = str(converted(PACKAGED[name], accept_licence=accept_licence, progress=progress))
    elif (local := Path(name).expanduser()).is_dir():
        if not (local / "config.json").is_file():
            raise ModelError(f"{local} has no config.json: expected a model directory in transformers' format")
        source = str(local)
    elif name.startswith((".", "/", "~")):
        raise ModelError(f"no directory {name!r}: expected a model directory in transformers' format")
    else:
        source = name
        _check_on_hub(name)
    try:
        with transformers_without_bars():
            model = SAETransformerBridge.boot_transformers(source, device=str(device), dtype=dtype)
    except Exception as error:
        if source != name or Path(source).is_dir():
            raise
        raise _hub_error(name, error) from error
    # The bridge names a local model by its path; a name that is the same on every machine is what SAEs record.
    model.cfg.model_name = PACKAGED[name].name if name in PACKAGED else name
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _check_on_hub(name: str) -> None:
    """Ask the hub, for three seconds, about a model that its cache does not hold: upstream asks for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from transformer_lens.supported_models import MODEL_ALIASES

    repository = next((full for full, short in MODEL_ALIASES.items() if name in short), name)  # "gpt2" has an owner
    try:
        if not isinstance(try_to_load_from_cache(repository, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(repository, "config.json"), timeout=3)
    except Exception as error:
        raise _hub_error(name, error) from error


def _hub_error(name: str, error: Exception) -> ModelError | OfflineError:
    """Tell a hub that cannot be reached from a name that it does not know and a model that cannot be loaded."""
    near = difflib.get_close_matches(name, PACKAGED, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    kinds, cause = set(), error
    while cause is not None:  # upstream wraps what went wrong, and its HTTP library has errors of its own
        kinds |= {kind.__name__ for kind in type(cause).__mro__}
        cause = cause.__cause__ or cause.__context__
    if kinds & {"LocalEntryNotFoundError", "ConnectionError", "TimeoutError", "TransportError"}:
        return OfflineError(
            f"{name!r} is not in the local model cache and the model hub cannot be reached.{hint} Connect and try "
            f"again (the hub's cache then serves it offline), pass a local directory, or use the packaged models: "
            f"{', '.join(PACKAGED)}"
        )
    return ModelError(
        f"could not load {name!r}.{hint} Expected one of {', '.join(PACKAGED)}, a local model directory, or a name "
        f"on the model hub that transformer-lens supports. The cause: {' '.join(str(error).split())[:300]}"
    )


# --- hook points -----------------------------------------------------------------------------------------------


def check_hook(model: "SAETransformerBridge", hook_name: str) -> str:
    """Return the canonical name of a hook point, or raise ModelError that names the nearest ones.

    sae-lens skips an SAE whose hook is missing with a log line, and then reports the clean model's results.
    """
    resolved = model._resolve_hook_name(hook_name)
    if resolved in model.hook_dict:
        return resolved
    aliases = {**model.hook_aliases, **model._collect_hook_aliases_from_registry()}
    known = sorted({*model.hook_dict, *(k for k in aliases if isinstance(k, str))})
    near = difflib.get_close_matches(hook_name, known, n=3) or known[:3]
    raise ModelError(
        f"{model.cfg.model_name} has no hook point {hook_name!r} ({model.cfg.n_layers} layers, numbered from 0). "
        f"Nearest: {', '.join(near)}"
    )


def stop_layer(hook_name: str) -> int | None:
    """Return the first layer that need not run for this hook point, None if all must."""
    from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name

    return extract_stop_at_layer_from_tlens_hook_name(hook_name)


def hidden_states(
    model: "SAETransformerBridge", ids: Int[Tensor, "batch pos"], hook_name: str
) -> Float[Tensor, "batch pos d_model"]:
    """Return the activations at one hook point; layers above it do not run."""
    return hidden_states_at(model, ids, [hook_name])[hook_name]


@torch.no_grad()
def hidden_states_at(
    model: "SAETransformerBridge", ids: Int[Tensor, "batch pos"], hook_names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the activations ``[batch, pos, d_model]`` at several hook points from one pass.

    Layers above the highest of them do not run.
    """
    seen: dict[str, Tensor] = {}

    def keep(activation, hook, *, name):
        seen[name] = activation.detach()

    stops = [stop for name in hook_names if (stop := stop_layer(name)) is not None]
    model.run_with_hooks(
        ids.to(model.cfg.device),
        fwd_hooks=[(check_hook(model, name), partial(keep, name=name)) for name in hook_names],
        stop_at_layer=max(stops) if len(stops) == len(hook_names) else None,
        prepend_bos=False,
    )
    return {name: seen[name] for name in hook_names}


def logits_from(
    model: "SAETransformerBridge",
    ids: Int[Tensor, "batch pos"],
    states: Float[Tensor, "_batch _pos ..."],
    hook_name: str,
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits of the model when these states stand at a hook point: the other half of `hidden_states`.

    At ``hook_resid_pre`` and ``hook_resid_post`` only the blocks above run, with the same result as the whole model
    with a hook that puts the states there. At any other point (attention, MLP), and for a model whose blocks cannot
    be called one by one, the whole model does run. Hooks that are set on the model count; gradients flow to
    ``states``. The first call tries the model's blocks on short made-up sequences, and the first call of each
    length runs one such sequence, both out of sight of the hooks.

    Args:
        model: The model.
        ids: The tokens. Above a point of the residual stream nothing depends on them but the length.
        states: What stands at the hook point, in the hook point's shape and any dtype.
        hook_name: The hook point.

    Raises:
        ModelError: No such hook point, or the states are not of the tokens' shape.
    """
    return _logits_from(model, ids, states, hook_name, slice(None))


def last_logits_from(
    model: "SAETransformerBridge",
    ids: Int[Tensor, "batch pos"],
    states: Float[Tensor, "_batch _pos ..."],
    hook_name: str,
) -> Float[Tensor, "batch d_vocab"]:
    """Return `logits_from` at the last position, without the final norm and the unembedding of the others.

    With 49,152 tokens to unembed that saves two fifths of the work above layer 18 of SmolLM2.
    """
    return _logits_from(model, ids, states, hook_name, slice(-1, None))[:, -1]


def _logits_from(
    model: "SAETransformerBridge", ids: Tensor, states: Tensor, hook_name: str, read: slice
) -> Float[Tensor, "batch _read d_vocab"]:
    hook = check_hook(model, hook_name)
    if states.shape[:2] != ids.shape:
        raise ModelError(
            f"the states are for {list(states.shape[:2])} [batch, pos], but there are tokens for {list(ids.shape)}"
        )
    weight = next(model.parameters())
    states = states.to(weight.device, weight.dtype)
    first = first_block_after(model, hook)
    calls = None if first is None else block_calls(model, ids.shape[1])
    if first is not None and calls is not None:
        return run_blocks(model, states, calls, first, read)
    put = lambda activation, hook: states  # noqa: E731
    return model.run_with_hooks(ids.to(weight.device), fwd_hooks=[(hook, put)], prepend_bos=False)[:, read]


# --- the output side -------------------------------------------------------------------------------------------


def unembedding(model: "SAETransformerBridge") -> Float[Tensor, "d_model d_vocab"]:
    """Return W_U, which turns the normalised residual stream into logits."""
    return model.W_U


def final_norm(
    model: "SAETransformerBridge", direction: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """Apply the linear part of the final norm: centre (LayerNorm only) and multiply by its weight.

    The division by the residual's own scale is left out (frozen at 1): it is one positive number for each
    position, so signs and ranks of logits stay as they are. In units of the residual stream.
    """
    norm = model.ln_final
    if not model.cfg.uses_rms_norm:
        direction = direction - direction.mean(-1, keepdim=True)
    weight = norm.weight.to(direction.dtype)
    return direction * (1 + weight if getattr(model.cfg, "rmsnorm_uses_offset", False) else weight)


# --- tokens ----------------------------------------------------------------------------------------------------


def special_token_ids(model: "SAETransformerBridge") -> list[int]:
    """Return the ids of BOS, EOS, padding and chat markers; [] for a model without a tokenizer."""
    from sae_lens.util import get_special_token_ids

    return sorted(get_special_token_ids(model.tokenizer)) if model.tokenizer is not None else []


def bos_token_id(model: "SAETransformerBridge") -> int | None:
    """Return the id that `encode_text` and the corpora put first, None where the model has none."""
    return None if model.tokenizer is None else model.tokenizer.bos_token_id


def massive(norms: Float[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Mark massive activations: a norm above 6 times the median norm of its own sequence.

    A few tokens (the first of a text, rare delimiters) have residuals some hundred times as long as others (Sun et
    al. 2024) and would decide every mean. The rule looks at one sequence only, so it knows no batches or shards.
    """
    return norms > 6 * norms.median(-1, keepdim=True).values


def encode_text(model: "SAETransformerBridge", text: str) -> Int[Tensor, "pos"]:
    """Return the token ids of a text, BOS first where the model has one, cut at the model's context.

    Raises:
        ModelError: The text is empty, or the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise ModelError(f"{model.cfg.model_name} has no tokenizer: pass token ids, or load the model with one")
    # Markers of special tokens inside a text stay text. Of a very long text only the start can fit, and tokenising
    # the rest would take seconds: 32 characters a token is ample.
    text = text[: 32 * model.cfg.n_ctx]
    ids = model.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if not ids:
        raise ModelError("the text is empty: expected at least one character")
    bos = bos_token_id(model)
    ids = ([] if bos is None else [bos]) + list(ids)
    return torch.tensor(ids[: model.cfg.n_ctx])


def token_bytes(model: "SAETransformerBridge") -> list[bytes]:
    """Return the bytes that each token id stands for, ``[d_vocab]``.

    A token is a piece of UTF-8, not always whole characters: 戦 is three pieces in a byte-level vocabulary.
    """
    tokenizer = model.tokenizer
    size = model.cfg.d_vocab
    if tokenizer is None:
        return [f"<{i}>".encode() for i in range(size)]
    surfaces = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
    surfaces += [f"<{i}>" for i in range(len(surfaces), size)]
    special = set(tokenizer.all_special_tokens)
    byte_level = "Ġ" in "".join(s or "" for s in surfaces[:2000])
    convert = from_byte_level if byte_level else from_sentencepiece
    return [(s or "").encode() if s is None or s in special else convert(s) for s in surfaces]
