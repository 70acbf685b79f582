"""The baselines of a grid: those that read the model, at each of its layers; the rest once."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from saekit.probes.features import Site, TextFeatures
from saekit.probes.nested import Recipe
from saekit.probes.recipes import baseline_recipe

CONTROLS = ("random", "permuted")


class Line(NamedTuple):
    """A baseline of a grid: what it is called there, and what it reads where."""

    name: str
    setting: dict[str, str]
    recipe: Recipe


def grid_lines(
    features: TextFeatures, sites: Sequence[Site], names: Sequence[str], *, balanced: bool = False, seed: int = 0
) -> list[Line]:
    """Return the baselines of a grid over some sites, the same ones in whatever order the sites come.

    A cell may come from any layer, so a baseline that reads the model's own activations stands at every hook point
    of the sites, and a control beside every site that has one.
    """
    options: dict[str, Any] = {"balanced": balanced, "seed": seed}
    sites = sorted(sites, key=place)
    at = {site.hook.name: site for site in reversed(sites)}
    called = _short(sorted(at, key=_natural))
    made = []
    for name in names:
        if name in CONTROLS:
            having = [site for site in sites if f"{site.name} ({name})" in features.sites] or sites[:1]
            recipes = [baseline_recipe(features, site, name, **options) for site in having]
            made += [Line(recipe.name, recipe.setting, recipe) for recipe in recipes]
        elif name == "attention" or name.startswith(("hidden-", "pca-")):
            for hook, short in called.items():
                recipe = baseline_recipe(features, at[hook], name, **options)
                made.append(
                    Line(f"{name} at {short}" if len(at) > 1 else name, {"baseline": name, "hook": hook}, recipe)
                )
        else:
            made.append(Line(name, {}, baseline_recipe(features, sites[0], name, **options)))
    return made


def place(site: Site) -> tuple:
    """Return where a site comes in an order that is its own: by hook point, then by name."""
    return _natural(site.hook.name), _natural(site.name)


def _natural(name: str) -> list[str | int]:
    """Return a key that puts blocks.9 before blocks.18."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _short(hooks: Sequence[str]) -> dict[str, str]:
    """Return the layer of each hook point, blocks.18, or its whole name if there are two of one layer."""
    layers = [match[0] if (match := re.match(r"blocks\.\d+", hook)) else hook for hook in hooks]
    return dict(zip(hooks, layers if len(set(layers)) == len(hooks) else hooks, strict=True))
