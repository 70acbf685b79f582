"""The baselines of a grid: those that read the model, at each of its layers; the rest once."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from saekit.probes.features import SAEFeatures, TextFeatures
from saekit.probes.nested import Recipe
from saekit.probes.recipes import baseline_recipe

CONTROLS = ("random", "permuted")


class Line(NamedTuple):
    """A baseline of a grid: what it is called there, and what it reads where."""

    name: str
    setting: dict[str, str]
    recipe: Recipe


def grid_lines(
    features: TextFeatures, saes: Sequence[SAEFeatures], names: Sequence[str], *, balanced: bool = False, seed: int = 0
) -> list[Line]:
    """Return the baselines of a grid over some SAEs, the same ones in whatever order the SAEs come.

    A cell may come from any layer, so a baseline that reads the model's own activations stands at every hook point
    of the SAEs, and a control beside every SAE that has one.
    """
    options: dict[str, Any] = {"balanced": balanced, "seed": seed}
    saes = sorted(saes, key=place)
    at = {sae.hook.name: sae for sae in reversed(saes)}
    called = _short(sorted(at, key=_natural))
    made = []
    for name in names:
        if name in CONTROLS:
            having = [sae for sae in saes if f"{sae.name} ({name})" in features.saes] or saes[:1]
            recipes = [baseline_recipe(features, sae, name, **options) for sae in having]
            made += [Line(recipe.name, recipe.setting, recipe) for recipe in recipes]
        elif name == "attention" or name.startswith(("hidden-", "pca-")):
            for hook, short in called.items():
                recipe = baseline_recipe(features, at[hook], name, **options)
                made.append(
                    Line(f"{name} at {short}" if len(at) > 1 else name, {"baseline": name, "hook": hook}, recipe)
                )
        else:
            made.append(Line(name, {}, baseline_recipe(features, saes[0], name, **options)))
    return made


def place(sae: SAEFeatures) -> tuple:
    """Return where an SAE comes in an order that is its own: by hook point, then by name."""
    return _natural(sae.hook.name), _natural(sae.name)


def _natural(name: str) -> list[str | int]:
    """Return a key that puts blocks.9 before blocks.18."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _short(hooks: Sequence[str]) -> dict[str, str]:
    """Return the layer of each hook point, blocks.18, or its whole name if there are two of one layer."""
    layers = [match[0] if (match := re.match(r"blocks\.\d+", hook)) else hook for hook in hooks]
    return dict(zip(hooks, layers if len(set(layers)) == len(hooks) else hooks, strict=True))
