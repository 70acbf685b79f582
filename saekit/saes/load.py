"""Sparse autoencoders: load bundled, released and local ones, list them, and check that they fit the model.

An SAE is a ``sae_lens.SAE``, read from safetensors and JSON. Bundled ones stand in ``saekit/assets/<model>/<hook>/``:
``sae/`` (weights in half precision, configuration, card) and ``index/`` (a bounded `FeatureIndex`).
"""

import difflib
import hashlib
import html
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from saekit._base.cache import atomic
from saekit.errors import OfflineError, SAEError
from saekit.models import check_hook, hidden_states

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

_HASHES: "WeakKeyDictionary[SAE[Any], tuple[tuple, str]]" = WeakKeyDictionary()
ASSETS = Path(__file__).parents[1] / "assets"
DEFAULT = "smollm2-135m/blocks.18.hook_resid_post"


def load_sae(
    name: str = DEFAULT,
    sae_id: str | None = None,
    *,
    model: "SAETransformerBridge | None" = None,
    device: str | torch.device = "cpu",
) -> "SAE[Any]":
    """Load an SAE in float32.

    Args:
        name: A bundled SAE (``list_saes()`` shows them), a local directory in sae-lens's format, or a release of
            sae-lens's directory, together with ``sae_id``.
        sae_id: Which SAE of the release.
        model: If given, the SAE is checked against it (`check_pair`).
        device: Where the SAE goes.

    Raises:
        SAEError: No such SAE, a damaged file, or one that does not fit the model.
        OfflineError: The release has to be downloaded and cannot be.
    """
    from sae_lens import SAE

    folder = _bundled_folder(name) if sae_id is None else None
    if folder is not None or (sae_id is None and Path(name).expanduser().is_dir()):
        sae = _from_folder(folder or Path(name).expanduser(), device)
    elif sae_id is None:
        raise _no_such(name)
    else:
        _known_release(name, sae_id)
        try:
            sae = SAE.from_pretrained(name, sae_id, device=str(device))
        except OSError as error:  # huggingface_hub's errors for "offline" and "not cached" derive from it
            raise OfflineError(
                f"SAE {sae_id!r} of release {name!r} is not in the local cache and the hub cannot be reached. Connect "
                f"and try again, pass a local directory, or use a bundled SAE: {', '.join(bundled())}"
            ) from error
    sae = sae.to(device=device, dtype=torch.float32).eval()
    sae.cfg.dtype = "float32"
    for parameter in sae.parameters():
        parameter.requires_grad_(False)
    if model is not None:
        check_pair(model, sae)
    return sae


def save_sae(sae: "SAE[Any]", folder: Path | str, *, card: dict | None = None) -> None:
    """Save an SAE in sae-lens's format, weights in half precision, with a card of its quality beside it.

    Raises SAEError if a weight does not fit half precision (above 65,504).
    """
    from copy import deepcopy

    half = deepcopy(sae).half()
    if not all(torch.isfinite(p).all() for p in half.parameters()):
        raise SAEError("a weight is infinite, not a number or above 65,504, the largest number in half precision")
    half.cfg.dtype = "float16"
    with atomic(Path(folder)) as draft:
        half.save_model(str(draft))
        if card is not None:
            (draft / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def sae_card(name: str = DEFAULT) -> dict:
    """Return the card of an SAE: what it was trained on and how good it is on held-out text.

    There is one for every bundled SAE, and for some that are too large to bundle (`load_sae` says which).
    """
    cards = _cards()
    if name not in cards:
        raise SAEError(f"no card for {name!r}: there are cards for {', '.join(cards)}")
    return json.loads(cards[name].read_text(encoding="utf-8"))


def sae_hook(sae: "SAE[Any]") -> str:
    """Return the hook point that an SAE reads. Raises SAEError if it does not say."""
    hook = sae.cfg.metadata.hook_name
    if not hook:
        raise SAEError("the SAE does not say which hook point it reads: set sae.cfg.metadata.hook_name")
    return hook


def check_pair(model: "SAETransformerBridge", sae: "SAE[Any]") -> None:
    """Check that an SAE can read this model; sae-lens itself skips an SAE that it cannot attach.

    Raises:
        SAEError: d_in is not the width of the hook point.
        ModelError: The model has no such hook point.

    Warns:
        UserWarning: The SAE was trained on a model of another name.
    """
    hook = sae_hook(sae)
    check_hook(model, hook)
    width = hidden_states(model, torch.zeros(1, 1, dtype=torch.long), hook).shape[-1]
    if width != sae.cfg.d_in:
        raise SAEError(
            f"the SAE reads {sae.cfg.d_in} dimensions, but {hook} of {model.cfg.model_name} has {width}: it was "
            f"trained on another model or hook point"
        )
    trained_on = sae.cfg.metadata.model_name
    if trained_on and _short(trained_on) != _short(model.cfg.model_name):
        warnings.warn(
            f"this SAE was trained on {trained_on!r} and is used with {model.cfg.model_name!r}: if they differ by "
            f"more than the name, its features mean nothing here",
            stacklevel=2,
        )


def sae_fingerprint(sae: "SAE[Any]") -> str:
    """Return a SHA-256 over the weights in half precision: the same before and after saving.

    It is computed once as long as no weight is written to: sliders ask at every move.
    """
    state = tuple((p.data_ptr(), p._version) for p in sae.parameters())
    known = _HASHES.get(sae)
    if known is None or known[0] != state:
        known = _HASHES[sae] = (state, _hashed(sae))
    return known[1]


def _hashed(sae: "SAE[Any]") -> str:
    digest = hashlib.sha256(sae.cfg.architecture().encode())
    for key, value in sorted(sae.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().to(torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def baseline_sae(
    model: "SAETransformerBridge",
    hook_name: str,
    *,
    kind: str,
    n_features: int | None = None,
    k: int = 46,
    b_dec: torch.Tensor | None = None,
    seed: int = 0,
) -> "SAE[Any]":
    """Return a dictionary that was not trained, as an SAE, so that every tool runs on it unchanged.

    Args:
        model: Whose hook point it reads.
        hook_name: The hook point.
        kind: ``"neurons"``: the axes of the residual stream, both signs (Cunningham et al. 2023, section 3.1,
            identity baseline). ``"random"``: random unit directions.
        n_features: Of the random kind; neurons are always ``2 * d_model``.
        k: Active features a token, as in the SAE it is compared with.
        b_dec: What to subtract first, usually the SAE's ``b_dec``; zero if None.
        seed: Of the random directions.
    """
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    check_hook(model, hook_name)
    width = hidden_states(model, torch.zeros(1, 1, dtype=torch.long), hook_name).shape[-1]
    if kind == "neurons":
        rows = torch.cat([torch.eye(width), -torch.eye(width)])
    elif kind == "random":
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(n_features or 2 * width, width, generator=generator)
        rows = rows / rows.norm(dim=1, keepdim=True)
    else:
        raise SAEError(f"kind must be 'neurons' or 'random', not {kind!r}")
    if not 0 < k < len(rows):
        raise SAEError(f"k must be between 1 and {len(rows) - 1}, not {k}")
    metadata = SAEMetadata(model_name=model.cfg.model_name, hook_name=hook_name, prepend_bos=True)
    sae = TopKSAE(TopKSAEConfig(d_in=width, d_sae=len(rows), k=k, apply_b_dec_to_input=True, metadata=metadata))
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        sae.b_enc.zero_()
        sae.b_dec.zero_() if b_dec is None else sae.b_dec.copy_(b_dec)
    for parameter in sae.parameters():
        parameter.requires_grad_(False)
    return sae.eval()


# --- the list --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SAEEntry:
    """One SAE that can be loaded: ``load_sae(release)`` if bundled, else ``load_sae(release, sae_id)``."""

    release: str
    sae_id: str
    model: str
    bundled: bool
    l0: float | None
    variance_explained: float | None


@dataclass(frozen=True)
class SAETable(Sequence):
    """A list of SAEs that renders as a table in Jupyter; ``list_saes("gemma res")`` narrows it."""

    entries: tuple[SAEEntry, ...]
    query: str = ""

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, item):
        return self.entries[item]

    def _rows(self, most: int) -> list[tuple[str, ...]]:
        number = lambda value, form: "" if value is None else format(value, form)  # noqa: E731
        return [
            (e.release, e.sae_id, e.model, "bundled" if e.bundled else "hub", number(e.l0, ".0f"),
             number(e.variance_explained, ".2f"))
            for e in self.entries[:most]
        ]  # fmt: skip

    def __repr__(self) -> str:
        rows = ["  ".join(cell for cell in row if cell) for row in self._rows(20)]
        more = [f"... and {len(self) - 20:,} more"] if len(self) > 20 else []
        return "\n".join([f"{len(self):,} SAEs" + (f" for {self.query!r}" if self.query else ""), *rows, *more])

    def _repr_html_(self) -> str:
        cells = lambda tag, items: "".join(f"<{tag}>{html.escape(i)}</{tag}>" for i in items)  # noqa: E731
        head = cells("th", ("release or name", "sae_id", "model", "where", "L0", "variance explained"))
        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in self._rows(100))
        title = f"{len(self):,} SAEs" + (f" for “{html.escape(self.query)}”" if self.query else "")
        more = "; the first 100 are shown, narrow them with list_saes(&quot;words&quot;)" if len(self) > 100 else ""
        return f"<table><caption>{title}{more}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def list_saes(query: str = "") -> SAETable:
    """List every SAE that `load_sae` knows, offline: the bundled ones first, then sae-lens's release directory.

    Args:
        query: Words that must all occur in release, id or model, in any order and case.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    entries = []
    for name in bundled():
        card = sae_card(name)
        entries.append(SAEEntry(name, "", name.split("/")[0], True, card.get("l0"), 1 - card["fvu"]))
    for release, lookup in get_pretrained_saes_directory().items():
        for sae_id in lookup.saes_map:
            entries.append(
                SAEEntry(
                    release, sae_id, lookup.model, False,
                    lookup.expected_l0.get(sae_id), lookup.expected_var_explained.get(sae_id),
                )
            )  # fmt: skip
    words = query.lower().split()
    found = [e for e in entries if all(w in f"{e.release} {e.sae_id} {e.model}".lower() for w in words)]
    return SAETable(tuple(found), query)


def bundled() -> list[str]:
    """Return the names of the SAEs that come with saekit."""
    return sorted(str(path.parent.parent.relative_to(ASSETS).as_posix()) for path in ASSETS.glob("*/*/sae/cfg.json"))


def _cards() -> dict[str, Path]:
    files = sorted(ASSETS.glob("*/*/sae/card.json"))
    return {file.parent.parent.relative_to(ASSETS).as_posix(): file for file in files}


def _bundled_folder(name: str) -> Path | None:
    return ASSETS / name / "sae" if name in bundled() else None


def _from_folder(folder: Path, device: str | torch.device) -> "SAE[Any]":
    from sae_lens import SAE

    missing = [f for f in ("cfg.json", "sae_weights.safetensors") if not (folder / f).is_file()]
    if missing:
        raise SAEError(f"{folder} has no {' and no '.join(missing)}: expected an SAE in sae-lens's format")
    try:
        return SAE.load_from_disk(str(folder), device=str(device))
    except Exception as error:
        raise SAEError(
            f"{folder} cannot be read as an SAE ({type(error).__name__}: {error}): is it complete?"
        ) from error


def _known_release(name: str, sae_id: str) -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if name not in directory:
        if "/" not in name:  # sae-lens also takes "owner/repository" of the hub
            raise _no_such(name)
    elif sae_id not in directory[name].saes_map:
        ids = list(directory[name].saes_map)
        near = difflib.get_close_matches(sae_id, ids, n=3) or ids[:3]
        raise SAEError(f"release {name!r} has {len(ids)} SAEs, none named {sae_id!r}. Nearest: {', '.join(near)}")


def _no_such(name: str) -> SAEError:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases = get_pretrained_saes_directory()
    if name in releases:
        ids = list(releases[name].saes_map)
        return SAEError(f"{name!r} is a release of {len(ids)} SAEs: pass sae_id=, for example {ids[0]!r}")
    if name in _cards():  # `load_sae` looks among the bundled ones first
        command = sae_card(name).get("training", {}).get("command", "python -m saekit.training")
        return SAEError(f"{name!r} comes as a card without weights, see sae_card({name!r}). To make it: {command}")
    near = difflib.get_close_matches(name, [*bundled(), *releases], n=3)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return SAEError(
        f"no SAE {name!r}.{hint} Expected a bundled name ({', '.join(bundled())}), a directory, or a release"
    )


def _short(name: str) -> str:
    """Return a model's name without owner and case: ``google/gemma-2-2b`` and ``gemma-2-2b`` are one model."""
    return name.rstrip("/").split("/")[-1].lower()
