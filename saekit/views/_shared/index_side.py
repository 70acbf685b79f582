"""What the top-activations view asks of its arguments: facts of the index, checks, walking orders."""

import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets as t
from jaxtyping import Float, Int

from saekit.errors import FeatureIndexError, SAEError
from saekit.views._shared.nodes import Node, el, facts, line
from saekit.views._shared.strips import near_only, shaded_strip
from saekit.views._shared.words import number, pack, sig

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex, Hit
    from saekit.vision import ImageFeatures

ORDERS = ("number", "density", "max", "score")


@dataclass(frozen=True)
class Walk:
    """In which orders the features of an index are walked.

    Attributes:
        index: The index, or features of images.
        view: How the view is made, for messages: ``"TopActivations(index"``.
        scores: One number for each feature, the user's; None for none.
    """

    index: "FeatureIndex | ImageFeatures"
    view: str
    scores: Float[np.ndarray, " d_sae"] | None = None

    @property
    def orders(self) -> list[str]:
        """The orders there are."""
        return [order for order in ORDERS if order != "score" or self.scores is not None]

    def along(self, order: str) -> Int[np.ndarray, " live"]:
        """Return the live features, highest first, ties by number; those without a score are left out."""
        if order not in ORDERS:
            raise t.TraitError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
        if order not in self.orders:
            raise t.TraitError(f"order 'score' needs scores: {self.view}, scores=array of length d_sae)")
        live = np.flatnonzero(~np.asarray(self.index.dead))
        if order == "number":
            return live
        keys = np.asarray({"density": self.index.density, "max": self.index.max, "score": self.scores}[order])[live]
        known = np.isfinite(keys)
        return live[known][np.argsort(-keys[known], kind="stable")]


def features_page(view: Any, cards: Mapping[int, Mapping[str, Any]]) -> str:
    """Return the page of a view of single features, which knows some of them.

    Args:
        view: The view.
        cards: The traits that belong to each of these features.
    """
    listed = ", ".join(map(str, sorted(cards)[:12])) + (" …" if len(cards) > 12 else "")
    missing = f"This page holds {len(cards)} features only ({listed}). Open the view in a notebook to see the others."
    replies = {**{str(feature): card for feature, card in cards.items()}, "": missing}
    walk = [feature for feature in np.frombuffer(view._walk, "<f4").astype(int).tolist() if feature in cards]
    facts = {**view._facts, "own_text": "page", "orders": [view.order]}
    return view._page(replies={"value": replies}, _facts=facts, _walk=pack(walk))


def index_facts(index: "FeatureIndex", sae: Any = None) -> dict[str, Any]:
    """Return what is the same for every feature of an index."""
    return {
        "d_sae": int(index.d_sae),
        "n_tokens": int(index.n_tokens),
        "dead": int(np.sum(index.dead)),
        "l0": number(index.l0),
        "excluded": {str(kind).replace("_", " "): int(n) for kind, n in index.excluded.items()},
        "model": str(index.model_name),
        "hook": str(index.hook_name),
        "neuronpedia": neuronpedia_id(index, sae),
    }


def feature_head(
    feature: int,
    name: str,
    rows: Sequence[tuple[str, ...]],
    about: Mapping[str, Any],
    *,
    unit: str,
    source: str,
    link: str = "",
) -> Node:
    """Return the head of a view of one feature: its number, its name, what it does, and what that refers to.

    Args:
        feature: The feature.
        name: The user's name for it.
        rows: Facts of the feature, see `saekit.views._shared.nodes.facts`.
        about: ``d_sae``, ``dead`` and ``l0`` of the SAE, and ``excluded``, counts of what the statistics leave out.
        unit: What L0 is.
        source: Where all of this was measured.
        link: Address of a page about the feature.
    """
    dead = rows[0][1].startswith("dead")
    leads = {"href": link, "target": "_blank", "rel": "noopener noreferrer", "only": "live"}
    title = el(
        "div",
        {"class": "title"},
        el("h2", {"tabindex": -1}, el("span", {"class": "kicker"}, "Feature "), str(feature)),
        el("span", {"class": "given", "dir": "auto"}, name) if name else None,
        el("span", {"class": "state dead" if dead else "state", "only": "live"}, "dead" if dead else "live"),
        el("a", leads, "Neuronpedia ↗") if link else None,
    )
    excluded = ", ".join(f"{n:,} {kind}" for kind, n in about.get("excluded", {}).items() if n)
    left_out = [("left out", f"{excluded} tokens", "positions excluded from every statistic")] if excluded else []
    l0 = f"{sig(about['l0'])} of {about['d_sae']:,} features, {about['dead']:,} dead"
    return el("div", {}, title, facts(*rows, ("L0", l0, unit), *left_out), line(source, look="quiet source"))


def neuronpedia_id(index: "FeatureIndex", sae: Any = None) -> str:
    """Return ``"model/layer-name"`` where the index or the SAE carries such an id, else ``""``."""
    metadata = getattr(getattr(sae, "cfg", None), "metadata", None)
    for found in (index.manifest.get("neuronpedia_id"), getattr(metadata, "neuronpedia_id", None)):
        if isinstance(found, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", found):
            return found
    return ""


def check_index_pair(index: "FeatureIndex", model: "SAETransformerBridge", sae: "SAE") -> None:
    """Raise SAEError unless ``sae`` belongs to both the model and the index."""
    from saekit.index import check_belongs
    from saekit.saes import check_pair

    check_pair(model, sae)
    check_belongs(index, model=model, sae=sae, error=SAEError)


def named(names: Mapping[int, str] | Sequence[str] | None) -> dict[int, str]:
    """Return ``{feature: name}`` of either form in which names may be given."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names or ())
    return {operator.index(feature): str(name) for feature, name in pairs if name}


def search_hits(index: "FeatureIndex", query: Mapping[str, str], names: Mapping[int, str]) -> dict[str, Any]:
    """Return the features that a query finds, each with its strongest example.

    Args:
        index: Where to search.
        query: ``{"mode": "token" | "text", "text": ...}``.
        names: ``{feature: name}``.

    Returns:
        ``said``, how many there are; ``features``, their numbers; ``panel``, a button for each.
    """
    mode = "token" if query.get("mode") == "token" else "text"
    hits = index.search(token=query["text"]) if mode == "token" else index.search(text=query["text"])
    found = [hit for hit in hits if hit.example is not None]
    many = f"{len(found) or 'No'} feature{'' if len(found) == 1 else 's'}"
    where = "tokens" if mode == "token" else "contexts"
    return {
        "said": f"{many} for {json.dumps(query['text'], ensure_ascii=False)} in {where}",
        "features": [int(hit.feature) for hit in found],
        "panel": el("ol", {}, *(_hit(hit, names.get(int(hit.feature), "")) for hit in found)),
    }


def _hit(hit: "Hit", name: str) -> Node:
    example, number = hit.example, int(hit.feature)
    words = f"Feature {number}{name and f', {name}'}, score {sig(hit.score)}"
    shown = shaded_strip("", example.tokens, example.activations, float(example.value), peak=int(example.peak), side=5)
    button = el(
        "button",
        {"type": "button", "class": "hit", "aria-label": words, "data-feature": number},
        el("b", {}, str(number)),
        el("span", {"class": "name"}, name) if name else None,
        el("span", {"class": "hit-text", "aria-hidden": "true"}, near_only(shown)),
        el("span", {"class": "score"}, sig(hit.score)),
    )
    return el("li", {}, button)


def checked_scores(scores: Any, d_sae: int) -> Float[np.ndarray, " d_sae"] | None:
    """Return scores as float64 of length ``d_sae``."""
    if scores is None:
        return None
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (d_sae,):
        raise FeatureIndexError(f"scores must have one number for each of {d_sae} features, got shape {scores.shape}")
    return scores
