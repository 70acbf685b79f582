"""The seam to language models: everything that depends on the model's class stands in this file.

A model is a ``sae_lens.SAETransformerBridge`` in eval mode. transformer-lens 4 removed ``HookedTransformer``;
what we use of the bridge is listed in ``tests/test_upstream.py``.
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.errors import ModelError, OfflineError
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
        source = _source_on_hub(name)
    try:
        with transformers_without_bars():
            model = SAETransformerBridge.boot_transformers(source, device=str(device), dtype=dtype)
    except Exception as error:
        if name in PACKAGED or local.is_dir():
            raise
        raise _hub_error(name, error, offline=source != name and isinstance(error, OSError)) from error
    # The bridge names a local model by its path; a name that is the same on every machine is what SAEs record.
    model.cfg.model_name = PACKAGED[name].name if name in PACKAGED else name
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _source_on_hub(name: str) -> str:
    """Return what to load a model of the hub from: its name, or its folder in the hub's cache if the hub is away.

    The hub is asked once, for three seconds. Upstream asks for half a minute, again for every file, and prints it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from transformer_lens.supported_models import MODEL_ALIASES

    # A short name such as "pythia-70m" leaves the owner out.
    repository = next((full for full, short in MODEL_ALIASES.items() if name in short), name)
    cached = None
    try:
        cached = try_to_load_from_cache(repository, "config.json")
        get_hf_file_metadata(hf_hub_url(repository, "config.json"), timeout=3)
    except Exception as error:
        if not isinstance(cached, str):
            raise _hub_error(name, error) from error
        return str(Path(cached).parent)
    return name


def _hub_error(name: str, error: Exception, *, offline: bool = False) -> ModelError | OfflineError:
    """Tell a hub that cannot be reached from a name that it does not know and a model that cannot be loaded."""
    near = difflib.get_close_matches(name, PACKAGED, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    kinds: set[str] = set()
    cause: BaseException | None = error
    while cause is not None:  # upstream wraps what went wrong, and its HTTP library has errors of its own
        kinds |= {kind.__name__ for kind in type(cause).__mro__}
        cause = cause.__cause__ or cause.__context__
    if offline or kinds & {"LocalEntryNotFoundError", "ConnectionError", "TimeoutError", "TransportError"}:
        return OfflineError(
            f"{name!r} is not in the local model cache and the model hub cannot be reached.{hint} Connect and try "
            f"again (the hub's cache then serves it offline), pass a local directory, or use the packaged models: "
            f"{', '.join(PACKAGED)}"
        )
    return ModelError(
        f"could not load {name!r}.{hint} Expected one of {', '.join(PACKAGED)}, a local model directory, or a name "
        f"on the model hub that transformer-lens supports. The cause: {' '.join(str(error).split())[:300]}"
    )


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
