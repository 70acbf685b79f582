"""Which SAEs there are: the bundled ones, those with a card, and every release of sae-lens's directory.

Bundled ones stand in ``saekit/assets/<model>/<hook>/``: ``sae/`` (weights in half precision, configuration, card) and
``index/`` (a bounded `FeatureIndex`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from saekit._base.checks import nearest
from saekit._base.table import Column, Table
from saekit.errors import SAEError

ASSETS = Path(__file__).parents[1] / "assets"
DEFAULT = "smollm2-135m/blocks.18.hook_resid_post"


@dataclass(frozen=True)
class SAEEntry:
    """One SAE that can be loaded: ``load_sae(release)`` if bundled, else ``load_sae(release, sae_id)``.

    Attributes:
        release: Name of the release, or of the bundled SAE.
        sae_id: Name of the SAE in its release; "" for a bundled one.
        model: Name of the model that it was trained on.
        bundled: Whether it comes with saekit.
        l0: Mean number of active features per token, where that is known.
        variance_explained: Share of the activations' variance that it rebuilds, where that is known.
    """

    release: str
    sae_id: str
    model: str
    bundled: bool
    l0: float | None
    variance_explained: float | None


_COLUMNS = (
    Column("release or name", "release"),
    Column("sae_id", "sae_id"),
    Column("model", "model"),
    Column("where", lambda entry: "bundled" if entry.bundled else "hub"),
    Column("L0", "l0", ".0f"),
    Column("variance explained", "variance_explained", ".2f"),
)


def list_saes(query: str = "") -> Table[SAEEntry]:
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
            l0, variance = lookup.expected_l0.get(sae_id), lookup.expected_var_explained.get(sae_id)
            entries.append(SAEEntry(release, sae_id, lookup.model, False, l0, variance))
    words = query.lower().split()
    found = [e for e in entries if all(w in f"{e.release} {e.sae_id} {e.model}".lower() for w in words)]
    caption = f"{len(found):,} SAEs" + (f" for {query!r}" if query else "")
    return Table(tuple(found), _COLUMNS, caption, hint='narrow them with list_saes("words")')


def bundled() -> list[str]:
    """Return the names of the SAEs that come with saekit."""
    return sorted(str(path.parent.parent.relative_to(ASSETS).as_posix()) for path in ASSETS.glob("*/*/sae/cfg.json"))


def _cards() -> dict[str, Path]:
    files = sorted(ASSETS.glob("*/*/sae/card.json"))
    return {file.parent.parent.relative_to(ASSETS).as_posix(): file for file in files}


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a bundled SAE, None for any other name."""
    return ASSETS / name / "sae" if name in bundled() else None


def check_release(name: str, sae_id: str) -> None:
    """Raise SAEError unless sae-lens's directory has the SAE; a repository of the hub passes."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if name not in directory:
        if "/" not in name:  # sae-lens also takes "owner/repository" of the hub
            raise unknown(name)
    elif sae_id not in directory[name].saes_map:
        ids = list(directory[name].saes_map)
        near = nearest(sae_id, ids) or ids[:3]
        raise SAEError(f"release {name!r} has {len(ids)} SAEs, none named {sae_id!r}. Nearest: {', '.join(near)}")


def released_card(name: str, sae_id: str) -> dict[str, float]:
    """Return what sae-lens's directory says of the quality of a released SAE; {} for one that it does not have."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    lookup = get_pretrained_saes_directory().get(name)
    if lookup is None:
        return {}
    card, variance = {"l0": lookup.expected_l0.get(sae_id)}, lookup.expected_var_explained.get(sae_id)
    card["fvu"] = None if variance is None else 1 - variance
    return {key: value for key, value in card.items() if value is not None}


def unknown(name: str) -> SAEError:
    """Return the error for a name that is no SAE's, with what was perhaps meant."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases = get_pretrained_saes_directory()
    if name in releases:
        ids = list(releases[name].saes_map)
        return SAEError(f"{name!r} is a release of {len(ids)} SAEs: pass sae_id=, for example {ids[0]!r}")
    if name in _cards():  # `load_sae` looks among the bundled ones first
        command = sae_card(name).get("training", {}).get("command", "python -m saekit.training")
        return SAEError(f"{name!r} comes as a card without weights, see sae_card({name!r}). To make it: {command}")
    near = nearest(name, [*bundled(), *releases])
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return SAEError(
        f"no SAE {name!r}.{hint} Expected a bundled name ({', '.join(bundled())}), a directory, or a release"
    )


def sae_card(name: str = DEFAULT) -> dict:
    """Return the card of an SAE: what it was trained on and how good it is on held-out text.

    There is one for every bundled SAE, and for some that are too large to bundle (`load_sae` says which).

    Raises:
        SAEError: There is no card of this name.
    """
    cards = _cards()
    if name not in cards:
        raise SAEError(f"no card for {name!r}: there are cards for {', '.join(cards)}")
    return json.loads(cards[name].read_text(encoding="utf-8"))
