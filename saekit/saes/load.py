"""SAEs by name, on disk and beside a model: load and save them, check that they fit.

An SAE is a ``sae_lens.SAE``, read from safetensors and JSON.
"""

import json
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from saekit._base.files import atomic, disk_errors, room_for
from saekit._base.locks import locked
from saekit._base.seal import SEAL, check_seal, seal
from saekit.errors import OfflineError, SAEError
from saekit.saes.catalogue import DEFAULT, bundled, bundled_folder, check_release, released_card, unknown
from saekit.saes.folder import PICKLES, check_folder, pickled, read_json
from saekit.saes.pair import begin_as_trained, check_pair, check_sae

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

_CARDS: "WeakKeyDictionary[SAE[Any], dict[str, Any]]" = WeakKeyDictionary()


def load_sae(
    name: str | Path = DEFAULT,
    sae_id: str | None = None,
    *,
    model: "SAETransformerBridge | None" = None,
    device: str | torch.device = "cpu",
) -> "SAE[Any]":
    """Load an SAE in float32.

    Args:
        name: A bundled SAE (``list_saes()`` shows them), a local directory in sae-lens's format, or a release of
            sae-lens's directory, together with ``sae_id``.
        sae_id: Name of the SAE in the release.
        model: Model that the SAE is checked against (`check_pair`), and whose texts from now on begin as those that the
            SAE was trained on, with BOS or without; None to check the SAE alone.
        device: Device that the SAE goes to.

    Raises:
        SAEError: No such SAE, a damaged file, weights that do not fit their configuration, a demand that cannot be met
            (`DEMANDS`), or one that does not fit the model.
        OfflineError: The release has to be downloaded and cannot be.

    Warns:
        UserWarning: The SAE's configuration asks for care, or the model's texts begin otherwise from now on.
    """
    from sae_lens import SAE

    name = str(name)
    folder = bundled_folder(name) or Path(name).expanduser()
    if sae_id is None:
        if not folder.is_dir():
            raise pickled(folder) if folder.suffix in PICKLES and folder.is_file() else unknown(name)
        sae, card = _from_folder(folder, device), _card(folder)
    else:
        check_release(name, sae_id)
        try:
            with _own_words():
                sae = SAE.from_pretrained(name, sae_id, device=str(device))
        except OSError as error:  # huggingface_hub's errors for "offline" and "not cached" derive from it
            raise OfflineError(
                f"SAE {sae_id!r} of release {name!r} is not in the local cache and the hub cannot be reached. Connect "
                f"and try again, pass a local directory, or use a bundled SAE: {', '.join(bundled())}"
            ) from error
        card = released_card(name, sae_id)
    _CARDS[sae] = card
    sae = sae.to(device=device, dtype=torch.float32).eval()
    sae.cfg.dtype = "float32"
    for parameter in sae.parameters():
        parameter.requires_grad_(False)
    if model is None:
        check_sae(sae)
    else:
        begin_as_trained(model, sae)
        check_pair(model, sae)
    if sae_id is None:  # last: whatever else is wrong with the weights says more
        check_seal(folder, f"save or copy it again; if the weights are to be others, delete {SEAL}", error=SAEError)
    return sae


def card_of(sae: "SAE[Any]") -> dict[str, Any]:
    """Return what is known of an SAE's quality from where `load_sae` found it: its card, {} where there is none."""
    return _CARDS.get(sae, {})


def save_sae(sae: "SAE[Any]", folder: Path | str, *, card: dict | None = None) -> None:
    """Save an SAE in sae-lens's format, weights in half precision, with their checksum and a card beside them.

    Args:
        sae: The SAE.
        folder: Folder to write; one that is there is replaced as a whole.
        card: Facts about the SAE, written to ``card.json``; None for no card.

    Raises:
        SAEError: A weight does not fit half precision (above 65,504); or the disk is full or cannot be written.
    """
    half = deepcopy(sae).half()
    if not all(torch.isfinite(p).all() for p in half.parameters()):
        raise SAEError("a weight is infinite, not a number or above 65,504, the largest number in half precision")
    half.cfg.dtype = "float16"
    folder = Path(folder).expanduser().absolute()
    with locked(folder, error=SAEError), disk_errors(folder, "nothing was written", error=SAEError):
        with atomic(folder) as draft, room_for(sum(p.nbytes for p in half.parameters())):
            half.save_model(str(draft))
            if card is not None:
                (draft / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
            seal(draft, "*.safetensors")  # the configuration is for people to mend


def _card(folder: Path) -> dict[str, Any]:
    return read_json(folder / "card.json") if (folder / "card.json").is_file() else {}


def _from_folder(folder: Path, device: str | torch.device) -> "SAE[Any]":
    from sae_lens import SAE

    try:
        with _own_words():
            check_folder(folder)
            return SAE.load_from_disk(str(folder), device=str(device), dtype="float32")
    except SAEError:
        raise
    except Exception as error:  # what sae-lens, safetensors and the file system say of a file is of many classes
        raise SAEError(
            f"{folder} cannot be read as an SAE ({type(error).__name__}: {error}): is it complete?"
        ) from error


@contextmanager
def _own_words() -> Generator[None]:
    """Leave out sae-lens's warnings about demands: `check_sae` and `check_pair` ask whether they are met."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"\s*(This SAE has non-empty model_from|norm_scaling_factor not found)"
        )
        yield
