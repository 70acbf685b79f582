"""Grids over several layers: baselines that read the model stand at every layer, and no order of saes decides."""

from dataclasses import replace

import numpy as np
import pytest

from saekit import probes
from saekit.errors import ProbeError
from saekit.probes import HiddenPCA, SAEFeatures, TextFeatures
from tests.planted_texts import planted

OPTIONS = {"poolings": ("max",), "binarisings": ("none", "above-zero"), "classifiers": ("logistic",), "progress": False}
LINES = ("majority", "hidden-mean", "hidden-last", "attention", HiddenPCA(2), "random")
HOOKS = ("blocks.9.hook_resid_post", "blocks.18.hook_resid_post")


def two_layers(order: tuple[str, ...], hooks: tuple[str, str] = HOOKS) -> TextFeatures:
    """The class stands in the features and the states of the second layer alone; the first has noise of the same kind.

    Beside the SAE of the second layer stand two more: one that has the same features, and a random control.
    """
    good, generator = planted(200, signal=0.9, keep_states=True), np.random.default_rng(0)
    at, labels = good.sae().hook, good.data.labels

    def hook(name: str, signal: float):
        states = generator.normal(size=at.states.shape).astype(np.float32)
        states[:, 0] += signal * np.repeat(labels, np.diff(at.starts))
        mean = np.add.reduceat(states, at.starts[:-1]) / np.diff(at.starts)[:, None]
        return replace(at, name=name, mean=mean, last=states[at.starts[1:] - 1], states=states.astype(np.float16))

    first, second = hook(hooks[0], 0.0), hook(hooks[1], 4.0)
    events = good.sae().events
    noise = events[generator.permutation(events.shape[0])]
    saes = {"low": SAEFeatures("low", first, noise), "high": SAEFeatures("high", second, events)}
    saes |= {
        "twin": SAEFeatures("twin", second, events),
        "high (random)": SAEFeatures("high (random)", second, noise, "random", "high"),
    }
    return replace(good, hooks={h.name: h for h in (first, second)}, saes={name: saes[name] for name in order})


ORDERS = (("low", "high", "twin", "high (random)"), ("twin", "high", "high (random)", "low"))


@pytest.fixture(scope="module")
def both():
    made = [two_layers(order) for order in ORDERS]
    return made, [probes.grid(features, **OPTIONS, baselines=LINES) for features in made]


def test_the_verdict_does_not_depend_on_the_order_of_the_sites(both):
    """With hidden states of the first sae alone, one order said better than them by 0.35, the other worse by 0.07."""
    _, (one, other) = both
    assert one.best_cell == replace(other.best_cell, spread=one.best_cell.spread)
    assert one.best_cell.setting["sae"] == "high", "of two that are the same, the first by name"
    assert one.test_difference == other.test_difference and one.verdict == other.verdict
    assert one.test_difference.other == "hidden-mean at blocks.18"
    assert [b.name for b in one.baselines] == [b.name for b in other.baselines]
    assert [b.macro_f1 for b in one.baselines] == [b.macro_f1 for b in other.baselines]
    assert one.best_baseline == other.best_baseline


def test_every_layer_has_its_own_hidden_state_baselines(both):
    _, (grid, _) = both
    named = {b.name: b for b in grid.baselines}
    kinds = ("hidden-mean", "hidden-last", "attention", HiddenPCA(2))
    each = [f"{kind} at blocks.{layer}" for kind in kinds for layer in (9, 18)]
    assert list(named) == ["majority", *each, "high (random), max, none, logistic"]
    for kind in kinds:
        low, high = (named[f"{kind} at blocks.{layer}"] for layer in (9, 18))
        assert low.setting == {"baseline": kind, "hook": HOOKS[0]} and high.setting["hook"] == HOOKS[1]
        assert low.macro_f1.value < 0.65 and high.macro_f1.value > 0.85
    assert named["majority"].setting == {}
    assert named["high (random), max, none, logistic"].setting["sae"] == "high (random)"


def test_a_baseline_of_one_layer_is_the_one_that_a_grid_of_that_layer_has(both):
    (features, _), (grid, _) = both
    for sae, layer in (("low", 9), ("high", 18)):
        alone = probes.grid(features, **OPTIONS, saes=(sae,), baselines=("hidden-mean", "hidden-last"))
        assert [b.name for b in alone.baselines] == ["hidden-mean", "hidden-last"], "one hook point needs no name"
        for line in alone.baselines:
            there = next(b for b in grid.baselines if b.name == f"{line.name} at blocks.{layer}")
            assert there.macro_f1 == line.macro_f1


def test_two_points_of_one_layer_are_told_apart():
    features = two_layers(("low", "high"), ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_post"))
    grid = probes.grid(features, **OPTIONS, baselines=("hidden-mean",))
    names = [b.name for b in grid.baselines]
    assert names == ["hidden-mean at blocks.3.hook_resid_post", "hidden-mean at blocks.3.hook_resid_pre"]


def test_a_baseline_is_opened_where_it_reads(both):
    """Its fit is that of the layer it is named after, a control's that of the control."""
    (features, _), (grid, _) = both
    rows = grid.fold != 0
    for name, hook in (("hidden-mean at blocks.9", HOOKS[0]), ("hidden-mean at blocks.18", HOOKS[1])):
        number = probes.number_of(grid, name)
        part = probes.training_part(grid, features, number)
        found = probes.fit_cell(grid, part, number)
        assert found.name == name and list(part.hooks) == [hook]
        alone = probes.grid(
            features, **OPTIONS, saes=("low" if hook == HOOKS[0] else "high",), baselines=("hidden-mean",)
        )
        number = len(alone.cells)
        same = probes.fit_cell(alone, probes.training_part(alone, features, number), number)
        np.testing.assert_array_equal(found.fitted.weights, same.fitted.weights)
    number = probes.number_of(grid, "high (random), max, none, logistic")
    part = probes.training_part(grid, features, number)
    found = probes.fit_cell(grid, part, number)
    assert found.family == "control" and part.sae().control == "random" and len(part) == rows.sum()


def test_baselines_keep_their_layer_on_disk(both, tmp_path):
    _, (grid, _) = both
    grid.save(tmp_path / "g.safetensors")
    again = probes.Grid.load(tmp_path / "g.safetensors")
    assert [(b.name, b.setting) for b in again.baselines] == [(b.name, b.setting) for b in grid.baselines]
    assert again.verdict == grid.verdict


def test_a_control_that_was_not_extracted_is_refused(both):
    (features, _), _ = both
    with pytest.raises(ProbeError, match="no permuted control of low was extracted: extract with controls="):
        probes.grid(features, **OPTIONS, baselines=("permuted",))
