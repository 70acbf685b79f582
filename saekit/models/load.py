"""Loading a model: from a data package, a local directory or the model hub, with errors that tell them apart."""

import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saekit.errors import ModelError, OfflineError, SaekitError
from saekit.models.gguf import check_gguf, read_gguf
from saekit.models.packaged import PACKAGED, converted, transformers_without_bars
from saekit.models.processing import treat, treatments
from saekit.models.tokenizer import attach, own_tokenizer, said_of_bos, stand_in
from saekit.models.weights import Listening, check_folder

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def load_model(
    name: str | Path = "smollm2-135m",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    accept_licence: bool = False,
    compatibility: bool | Mapping[str, bool] = False,
    progress: bool = True,
) -> "SAETransformerBridge":
    """Load a language model, ready for SAEs and hooks.

    Args:
        name: ``"smollm2-135m"`` (SmolLM2-135M-Instruct, Apache-2.0: comes from a pinned data package, is converted
            once, and then loads in about a second, offline), or ``"multilingual"`` (Gemma 3 270M, Gemma Terms of Use,
            the same way), or a local directory in transformers' format (safetensors), or a GGUF file of a local
            runner, or any name on the model hub (``"gpt2"``, ``"pythia-70m"``, ``"google/gemma-2-2b"``).
        device: Device that the model runs on.
        dtype: Type of weights and activations. float32 for scores; bfloat16 is some three times as fast on CPUs that
            have it, enough for harvesting activations.
        accept_licence: Whether you have read and accept the licence of a model that asks for it (``"multilingual"``).
        compatibility: What transformer-lens does to the weights, for SAEs that were trained so: False for nothing, True
            for all that ``HookedTransformer.from_pretrained`` does, or a mapping in its words, the rest left off:
            ``{"center_writing_weights": True, "fold_ln": True}``. Predictions stay the same, activations do not.
        progress: Whether a first download and conversion show progress bars.

    Raises:
        ModelError: No such model, files that do not hold all of it, no such treatment, or its licence has to be
            accepted first; the message shows the notice.
        OfflineError: The model has to be downloaded and cannot be.
        ChecksumError: The downloaded file is not the one that saekit was tested with.

    Warns:
        UserWarning: The model has no tokenizer, or its files hold weights beside those of the model.
    """
    name, wanted = str(name), treatments(compatibility)
    if name in PACKAGED:
        source = str(converted(PACKAGED[name], accept_licence=accept_licence, progress=progress))
    elif (local := Path(name).expanduser()).is_dir():
        check_folder(local)
        source = str(local)
    elif local.is_file():
        check_gguf(local)
        source = str(local)
    elif name.startswith((".", "/", "~")) or local.suffix == ".gguf":
        raise ModelError(f"no directory or file {name!r}: expected a model directory in transformers' format, or GGUF")
    else:
        source = _source_on_hub(name)
    try:
        model = _booted(source, name, device=str(device), dtype=dtype)
        treat(model, wanted)
    except SaekitError:
        raise
    except Exception as error:
        if name in PACKAGED or local.exists():
            cause = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{source} cannot be read as a model ({type(error).__name__}: {cause}): is it complete, and does "
                f"transformer-lens know its architecture?"
            ) from error
        raise _hub_error(name, error, offline=source != name and isinstance(error, OSError)) from error
    # The bridge names a local model by its path; a name that is the same on every machine is what SAEs record.
    model.cfg.model_name = PACKAGED[name].name if name in PACKAGED else name
    if model.tokenizer is None:
        warnings.warn(
            f"{name} has no tokenizer and is loaded without one: pass token ids; texts are refused, and no token is "
            f"left out as special",
            stacklevel=2,
        )
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _booted(source: str, name: str, *, dtype: torch.dtype, device: str) -> "SAETransformerBridge":
    """Return the model of a directory, a GGUF file or the hub, with its own tokenizer."""
    from saekit.models.bridge import Bridge

    settings: dict[str, Any] = {"device": device, "dtype": dtype, "tokenizer": stand_in()}
    with transformers_without_bars():
        if Path(source).is_file():
            read, tokenizer, said = read_gguf(Path(source), name=name, dtype=dtype)
            model = Bridge.boot_transformers(source, hf_model=read.to(device), **settings)
        else:
            tokenizer = own_tokenizer(source)
            said = None if tokenizer is None else said_of_bos(source)
            model = Bridge.boot_transformers(source, model_class=Listening(name), **settings)
    attach(model, tokenizer, said=said)
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
            f"again (the hub's cache then serves it offline), pass a local directory (there is none of this name), or "
            f"use the packaged models: {', '.join(PACKAGED)}"
        )
    return ModelError(
        f"could not load {name!r}.{hint} Expected one of {', '.join(PACKAGED)}, a local model directory, or a name "
        f"on the model hub that transformer-lens supports. The cause: {' '.join(str(error).split())[:300]}"
    )
