"""What the probes view asks of its arguments: a grid and its texts, an SAE and an index for every site."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit.errors import ProbeError
from saekit.views._shared.index_side import check_index_pair
from saekit.views.probes.words import HOW

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit._base.identity import Identity
    from saekit.index import FeatureIndex
    from saekit.probes import Grid, TextFeatures


def grid_and_features(
    given: Any, features: "TextFeatures | None", options: Mapping[str, Any]
) -> "tuple[Grid | None, TextFeatures | None, tuple[str, ...]]":
    """Tell a finished grid from an extraction from which one is to be made; return both, and the sites.

    Raises ProbeError for anything else, for parts that do not belong together, and for options of no search.
    """
    from saekit.probes import Grid, TextFeatures, check_grid

    if features is not None and not isinstance(features, TextFeatures):
        raise ProbeError(f"features must be what sk.extract_features returns, got {type(features).__name__}")
    if isinstance(given, Grid):
        if options:
            raise ProbeError(
                f"{', '.join(options)}: options of the search, but the grid is finished. Pass the features alone to "
                "search again: Probes(features, ...)"
            )
        if features is not None:
            check_grid(given, features)
        return given, features, given.axes["sae"]
    if not isinstance(given, TextFeatures):
        raise ProbeError(
            f"expected a Grid or TextFeatures, got {type(given).__name__}: {HOW} with a grid from "
            "sk.probes.grid(features), or Probes(features) to compute it"
        )
    if features is not None:
        raise ProbeError(f"got features twice: pass a grid and its features, {HOW}, or the features alone")
    return None, given, _checked_search(given, options)["sae"]


def _checked_search(features: "TextFeatures", options: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the axes of the search. Raises ProbeError for options that `saekit.probes.search` does not take."""
    from saekit.probes import check_labels, grid, grid_axes

    known = inspect.signature(grid).parameters
    taken = [name for name in known if name not in ("features", "progress")]
    if unknown := [name for name in options if name not in taken]:
        raise ProbeError(f"no option {unknown[0]!r} of the search: expected {', '.join(taken)}")
    check_labels(features.data)
    axes = {name: options.get(name, known[name].default) for name in ("saes", "poolings", "binarisings", "classifiers")}
    return grid_axes(features, *axes.values())


def saes_by_site(
    model: "SAETransformerBridge | None",
    given: "SAE[Any] | Sequence[SAE[Any]] | Mapping[str, SAE[Any]] | None",
    sites: Sequence[str],
    features: "TextFeatures | None",
    made_with: "Mapping[str, Identity]",
) -> "dict[str, SAE[Any]]":
    """Return the SAE of each site, as far as there is one.

    Raises:
        ProbeError: A model without SAEs or the reverse, the features of another model, or an SAE of no site.
        SAEError: An SAE does not fit the model.
    """
    from saekit.models import model_identity
    from saekit.probes import check_made_with, named_saes
    from saekit.saes import check_pair, sae_hook, sae_identity

    if (model is None) != (given is None):
        raise ProbeError(f"got only one of model= and sae=: your own text needs both, {HOW}")
    if model is None or given is None:
        return {}
    if features is not None and not made_with and features.model_name != model.cfg.model_name:
        raise ProbeError(
            f"the features are of {features.model_name!r}, the model is {model.cfg.model_name!r}: pass the model that "
            "they were extracted from"
        )
    found: dict[str, SAE[Any]] = {}
    for name, sae in named_saes(given).items():
        check_pair(model, sae)
        of = [name] if name in sites else []
        if features is not None and not of and not isinstance(given, Mapping):
            alike = [features.sae(site) for site in sites]
            of = [s.name for s in alike if s.hook.name == sae_hook(sae) and s.d_sae == sae.cfg.d_sae]
        if len(of) != 1:
            raise ProbeError(
                f"{name!r} is {'one of several sites' if of else 'none of the sites'}: {', '.join(sites)}. Pass SAEs "
                "by the names of their sites, as to sk.extract_features: sae={name: sae}"
            )
        if features is not None and features.sae(of[0]).d_sae != sae.cfg.d_sae:
            raise ProbeError(
                f"site {of[0]!r} has {features.sae(of[0]).d_sae} features, the SAE {sae.cfg.d_sae}: pass the SAE that "
                "the features were extracted with"
            )
        found[of[0]] = sae
    given_here = {"model": model_identity(model)} | {f"SAE {site}": sae_identity(sae) for site, sae in found.items()}
    check_made_with("the grid" if features is None else "the extraction", made_with, given_here)
    return found


def indexes_by_site(
    model: "SAETransformerBridge | None",
    given: "FeatureIndex | Sequence[FeatureIndex] | None",
    saes: "Mapping[str, SAE[Any]]",
    features: "TextFeatures | None",
    sites: Sequence[str],
) -> "dict[str, FeatureIndex]":
    """Return the index of each site that has one: by its SAE where that is given, else by hook point and width.

    Raises:
        ProbeError: An index of no site.
        SAEError: An index of a site, but of another SAE or model.
    """
    from saekit.saes import sae_identity

    listed = [] if given is None else list(given) if isinstance(given, Sequence) else [given]
    known = {name: sae_identity(sae) for name, sae in saes.items()} if listed else {}
    found: dict[str, FeatureIndex] = {}
    for index in listed:
        differs = {name: identity.difference(index.sae_identity) for name, identity in known.items()}
        of = [name for name, words in differs.items() if not words]
        if not of and features is not None:
            rest = [features.sae(name) for name in sites if name not in known]
            of = [s.name for s in rest if s.hook.name == index.hook_name and s.d_sae == index.d_sae]
        if not of:
            why = "".join(
                f"; {name}: {', '.join(words)}, the SAE's against the index's" for name, words in differs.items()
            )
            raise ProbeError(
                f"got an index of {index.hook_name} with {index.d_sae} features, which is of none of the sites "
                f"{', '.join(sites)}{why}: build one of their SAEs, or leave it out"
            )
        for name in of:
            if model is not None and name in saes:
                check_index_pair(index, model, saes[name])
            found[name] = index
    return found
