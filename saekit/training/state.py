"""A checkpoint of a training run: tensors in safetensors beside a JSON file that says whose they are."""

import json
import zlib
from pathlib import Path

from torch import Tensor

from saekit._base.cache import atomic
from saekit.errors import SAEError

_TENSORS, _STATE = "state.safetensors", "state.json"


def save_state(folder: Path, settings: dict, progress: dict, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint; whatever interrupts it, the one before stays."""
    from safetensors.torch import save_file

    with atomic(folder) as draft:
        draft.mkdir()
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft / _TENSORS)
        state = {"settings": settings, "progress": progress, "crc32": zlib.crc32((draft / _TENSORS).read_bytes())}
        (draft / _STATE).write_text(json.dumps(state, indent=1))


def load_state(folder: Path, settings: dict, tensors: dict[str, Tensor]) -> dict | None:
    """Read a checkpoint into ``tensors``, in place, and return its progress; None if there is none.

    Raises SAEError for a damaged one, and for one of a run with other settings.
    """
    from safetensors.torch import load

    if not folder.exists():
        return None
    try:
        state = json.loads((folder / _STATE).read_text())
        data = (folder / _TENSORS).read_bytes()
        found, progress, checksum = state["settings"], state["progress"], state["crc32"]
    except (OSError, ValueError, KeyError) as error:
        raise SAEError(f"{folder} is not a checkpoint that saekit wrote ({error!r}). Choose another folder") from error
    if zlib.crc32(data) != checksum:
        raise SAEError(f"the checkpoint {folder} is damaged: its checksum differs. Delete it to start again")
    differs = [key for key in settings if found.get(key) != json.loads(json.dumps(settings[key]))]
    if differs:
        raise SAEError(
            f"{folder} holds a checkpoint of another run: its {differs[0]} is {found.get(differs[0])!r}, asked for is "
            f"{settings[differs[0]]!r}. Choose another folder, or delete it to start again"
        )
    saved = load(data)
    for name, tensor in tensors.items():
        tensor.copy_(saved[name])
    return progress
