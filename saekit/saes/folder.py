"""An SAE's folder, looked at before anything is read from it: what is there, how large, and whether it fits together.

A folder may come from anybody. Nothing outside it is read, no pickle is opened, and what is wrong is found from the
configuration and the header of the weights, in time and memory that their sizes cannot stretch.
"""

import json
import struct
from pathlib import Path
from typing import Any

from saekit._base.checks import one_of, whole
from saekit._base.text import byte_size
from saekit.errors import SAEError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_MOST_CONFIG = _MOST_HEADER = 1 << 20  # bytes; the largest of sae-lens have some thousand
_MOST = 10**9  # features or dimensions
_REALS = ("F64", "F32", "F16", "BF16")


def check_folder(folder: Path) -> None:
    """Check that a folder holds an SAE in sae-lens's format, without reading its weights.

    Raises:
        SAEError: A file is missing, leads out of the folder, is too large, damaged or a pickle; or configuration and
            weights do not fit each other.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if WEIGHTS in missing and pickles:
        raise pickled(folder / pickles[0])
    if missing:
        hint = "; this one is of sparsify: sae_from_sparsify(folder, hook_name=...)"
        hint = hint if (folder / "sae.safetensors").is_file() else ""
        raise SAEError(f"{folder} has no {' and no '.join(missing)}: expected an SAE in sae-lens's format{hint}")
    for name in (CONFIG, WEIGHTS):
        _check_inside(folder, folder / name)
    written = read_json(folder / CONFIG)
    _check_written(folder / CONFIG, written)
    _check_shapes(folder / WEIGHTS, written, header_of(folder / WEIGHTS))


def pickled(file: Path) -> SAEError:
    """Return the error for a file of weights that would have to be unpickled."""
    return SAEError(
        f"{file} is a pickle, which can run any code when it is read. Read it yourself if you trust it, with "
        f"torch.load({file.name!r}, weights_only=True), and hand the tensors to sae_from_dictionary_learning(...), or "
        f"save the SAE with sae-lens (sae.save_model)"
    )


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a small JSON file. Raises SAEError for anything else."""
    size = file.stat().st_size
    if size > _MOST_CONFIG:
        raise SAEError(f"{file} has {byte_size(size)}: expected a configuration of at most {byte_size(_MOST_CONFIG)}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or nested without end
        raise SAEError(f"{file} cannot be read as JSON ({error}): is it complete?") from error
    if not isinstance(found, dict):
        raise SAEError(f"{file} holds {type(found).__name__}, not an object: expected the fields of a configuration")
    return found


def header_of(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of each tensor of a safetensors file, from its header.

    Raises:
        SAEError: The file is damaged or truncated.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= size - 8:
            raise _damaged(file, f"it has {byte_size(size)}, and its header claims {byte_size(length)}")
        if length > _MOST_HEADER:
            raise _damaged(file, f"its header has {byte_size(length)}, at most {byte_size(_MOST_HEADER)} are read")
        try:
            header = json.loads(opened.read(length))
            header.pop("__metadata__", None)
            ends = [one["data_offsets"][1] for one in header.values()]
            tensors = {name: (one["dtype"], tuple(one["shape"])) for name, one in header.items()}
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise _damaged(file, f"its header cannot be read: {error}") from error
    if max(ends, default=0) != size - 8 - length:
        raise _damaged(file, f"its header promises {byte_size(max(ends, default=0))} of weights, not {byte_size(size)}")
    return tensors


def _damaged(file: Path, what: str) -> SAEError:
    return SAEError(f"{file} cannot be read as an SAE's weights: {what}. Is it complete?")


def _check_inside(folder: Path, file: Path) -> None:
    """Refuse a link that leads out of the folder, but for those with which the hub's cache is made."""
    home, target = folder.resolve(), file.resolve()
    cached = [parent for parent in home.parents if parent.name.startswith("models--")]
    if not target.is_relative_to(home) and not any(target.is_relative_to(parent / "blobs") for parent in cached):
        raise SAEError(f"{file} is a link that leads out of its folder, to {target}: copy the file into the folder")


def _check_written(file: Path, written: dict[str, Any]) -> None:
    """Check the fields of a configuration that sae-lens takes on trust, or drops without a word."""
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
    from sae_lens.saes.sae import SAEMetadata

    absent = [name for name in ("d_in", "d_sae") if name not in written]
    if absent:
        raise SAEError(f"{file} has no {' and no '.join(absent)}: expected the configuration of an SAE")
    for name in ("d_in", "d_sae"):
        whole(f"{name} in {file}", written[name], at_least=1, at_most=_MOST, error=SAEError)
    kind = written.get("architecture", "standard")
    if kind in SAE_TRAINING_CLASS_REGISTRY and kind not in SAE_CLASS_REGISTRY:
        raise SAEError(
            f"{file} is of a training run ({kind!r}): make an SAE of it with "
            f"sae_lens.TrainingSAE.load_from_disk({str(file.parent)!r}).save_inference_model(folder)"
        )
    one_of(f"architecture in {file}", kind, SAE_CLASS_REGISTRY, error=SAEError)
    whole(f"n_attn_layers in {file}", written.get("n_attn_layers", 1), at_least=0, at_most=100, error=SAEError)
    metadata = written.get("metadata", {})
    if not isinstance(metadata, dict):
        raise SAEError(f"metadata in {file} must be an object, not {metadata!r:.80}")
    taken = sorted(set(metadata) & {"self", *dir(SAEMetadata)})
    if taken:
        raise SAEError(f"metadata in {file} cannot have the fields {taken}: sae-lens uses these names itself")
    function = written.get("activation_fn", written.get("activation_fn_str", "relu"))
    if function not in ("relu", "topk", None):
        raise SAEError(
            f"the SAE in {file} has the activation function {function!r}, and sae-lens would read it with ReLU: "
            f"expected 'relu' or 'topk'"
        )


def _check_shapes(file: Path, written: dict[str, Any], found: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting

    found = dict(found)
    unreal = {name: kind for name, (kind, _) in found.items() if kind not in _REALS}
    if unreal:
        raise SAEError(f"{file} holds tensors that are no floating-point numbers: {unreal}")
    scale = found.pop("scaling_factor", None)
    if scale is not None and written.get("finetuning_scaling_factor"):
        raise SAEError(
            f"{file} has a scale for each feature (finetuning_scaling_factor), which sae-lens 6 no longer applies: "
            f"multiply W_dec by scaling_factor[:, None], and leave scaling_factor out of the file"
        )
    if "log_threshold" in found:  # as JumpReLU SAEs were once stored
        found["threshold"] = found.pop("log_threshold")
    empty = SAE.from_dict({**handle_config_defaulting(dict(written)), "device": "meta", "dtype": "float32"})
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    wrong = [f"no {name}" for name in wanted if name not in found]
    wrong += [f"{name}, which no {written.get('architecture', 'standard')} SAE has" for name in found.keys() - wanted]
    wrong += [
        f"{name} of shape {list(found[name][1])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name][1] != shape
    ]
    if wrong:
        raise SAEError(f"{file} does not fit its {CONFIG}: it has {'; '.join(sorted(wrong))}")
