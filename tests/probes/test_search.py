"""Grids: every cell is the probe it says it is, validation chooses, the test part is looked at once."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from saekit import probes
from saekit.errors import ProbeError
from saekit.probes import Quantile, SAEFeatures, SparseLogistic, TopN, make_folds
from tests.planted_texts import planted

OPTIONS = {
    "poolings": ("max", "sum"),
    "binarisings": ("none", "above-zero"),
    "classifiers": ("difference", SparseLogistic(2)),
    "baselines": ("majority", "bag-of-words"),
    "progress": False,
}


@pytest.fixture(scope="module")
def features():
    """Two SAEs on the same texts: one has the planted features, the other has only noise."""
    good = planted(200, signal=0.9)
    events = good.sae().events
    shuffled = events[np.random.default_rng(0).permutation(events.shape[0])]
    return replace(good, saes={**good.saes, "noise": SAEFeatures("noise", good.sae().hook, shuffled)})


@pytest.fixture(scope="module")
def found(features):
    return probes.grid(features, **OPTIONS)


def test_every_combination_is_there_once(found):
    assert len(found.cells) == 2 * 2 * 2 * 2
    assert len({tuple(c.setting.values()) for c in found.cells}) == 16
    assert [b.name for b in found.baselines] == ["majority", "bag-of-words"]
    assert found.rounds[0].predicted.shape == (18, 200)


def test_validation_finds_the_site_that_holds_the_signal(found):
    assert found.best_cell.setting["sae"] == "planted"
    assert found.test.macro_f1.value > 0.8
    by_sae = {s: np.mean([c.macro_f1.value for c in found.cells if c.setting["sae"] == s]) for s in found.axes["sae"]}
    assert by_sae["planted"] > 0.85 > 0.65 > by_sae["noise"]
    effect = found.effect("sae")
    assert effect["planted"].low > 0 > effect["noise"].high
    assert all(found.cells[i].setting["sae"] == "planted" for i in found.as_good)
    assert found.behind_best(found.best).value == 0


def test_the_test_part_has_no_say_in_the_choice(features, found, monkeypatch):
    """Fault 1: with the test labels turned round, the same cell is chosen, and then fails."""
    folds = make_folds(features.data, 5)
    monkeypatch.setattr(import_module("saekit.probes.search"), "make_folds", lambda *args, **kwargs: folds)
    test = folds.test(0)
    labels = features.data.labels.copy()
    labels[test] = 1 - labels[test]
    turned = probes.grid(replace(features, data=replace(features.data, labels=labels)), **OPTIONS)
    np.testing.assert_array_equal(turned.rounds[0].predicted, found.rounds[0].predicted)
    assert turned.best == found.best
    assert turned.test.macro_f1.value < 0.2
    assert (found.rounds[0].predicted[:, test] == -1).all()
    assert found.test.n == len(test) == 40


def test_cells_that_are_one_are_computed_once(found, features):
    """Above zero, the maximum, the mean and the sum of features that are never negative are the same."""
    one, other = (
        next(
            i
            for i, c in enumerate(found.cells)
            if list(c.setting.values()) == ["planted", p, "above-zero", SparseLogistic(2)]
        )
        for p in ("max", "sum")
    )
    np.testing.assert_array_equal(found.rounds[0].predicted[one], found.rounds[0].predicted[other])
    assert found.cells[one].name != found.cells[other].name
    alone = probes.grid(features, **{**OPTIONS, "poolings": ("sum",)})
    want = next(c for c in alone.cells if c.name == found.cells[other].name)
    assert want.macro_f1 == found.cells[other].macro_f1


def test_scores_are_those_behind_the_predictions(found):
    """The figures of a cell (AUROC above all) and its opening rest on them."""
    rows = found.fold != 0
    assert found.rounds[0].scores.shape == (18, 200, 2) and not found.rounds[0].scores[:, ~rows].any()
    np.testing.assert_array_equal(found.rounds[0].scores.argmax(2)[:, rows], found.rounds[0].predicted[:, rows])


def test_repeats_keep_the_test_part_and_show_the_spread(features, found):
    twice = probes.grid(features, **OPTIONS, repeats=3)
    assert twice.test.n == found.test.n
    assert np.isnan(found.cells[0].spread)
    noisy = [c.spread for c in twice.cells if c.setting["sae"] == "noise"]
    assert all(0 <= s < 0.15 for s in noisy) and max(noisy) > 0
    np.testing.assert_array_equal(twice.rounds[0].predicted, found.rounds[0].predicted)


@pytest.fixture(scope="module")
def repeated():
    """A weak signal, so that cells lie close together and repeats differ."""
    options = {**OPTIONS, "classifiers": ("difference", "ridge"), "poolings": ("max", "mean", "sum")}
    return probes.grid(planted(120, signal=0.5), **options, repeats=4)


def test_over_repeats_every_figure_is_the_mean(repeated):
    """The best cell was chosen by the mean, and what lay behind it measured in the first repeat: best minus -.021."""
    from sklearn.metrics import f1_score

    grid, everyone = repeated, [*repeated.cells, *repeated.baselines]
    assert len(grid.rounds) == 4 and len({r.fold.tobytes() for r in grid.rounds}) == 4
    rows = np.flatnonzero(grid.fold != 0)
    assert all(np.array_equal(np.flatnonzero(r.fold != 0), rows) for r in grid.rounds)
    f1 = [[f1_score(grid.labels[rows], said[rows], average="macro") for said in r.predicted] for r in grid.rounds]
    np.testing.assert_allclose([c.macro_f1.value for c in everyone], np.mean(f1, axis=0), atol=1e-9)
    np.testing.assert_allclose([c.spread for c in everyone], np.std(f1, axis=0, ddof=1), atol=1e-9)
    best = grid.best_cell.macro_f1.value
    for i, cell in enumerate(everyone):
        gap = grid.behind_best(i)
        assert gap.value == pytest.approx(best - cell.macro_f1.value) and gap.low <= gap.value <= gap.high
        assert gap.value >= 0 or i >= len(grid.cells)
    assert np.ptp([f1[0][i] for i in grid.as_good]) > 0
    by_level = {
        level: [c.macro_f1.value for c in grid.cells if c.setting["pooling"] == level] for level in ("max", "sum")
    }
    effect = grid.effect("pooling")
    between = np.mean(by_level["max"]) - np.mean(by_level["sum"])
    assert effect["max"].value - effect["sum"].value == pytest.approx(between)


def test_over_repeats_intervals_are_those_of_the_mean(repeated):
    """By hand: draw groups of texts, and take the mean over repeats of every draw."""
    from sklearn.metrics import f1_score

    from saekit.probes import resamples

    grid, rows = repeated, np.flatnonzero(repeated.fold != 0)
    weights = resamples(grid.group[rows], seed=grid.seed)
    one, other = grid.best, (grid.best + 1) % len(grid.cells)
    drawn = np.array([
        [np.mean([f1_score(grid.labels[rows], r.predicted[i][rows], average="macro", sample_weight=w)
                  for r in grid.rounds]) for i in (one, other)]
        for w in weights[:40]
    ])  # fmt: skip
    np.testing.assert_allclose(grid.resampled[[one, other], :40].T, drawn, atol=1e-5)
    quantiles = np.quantile(grid.resampled[other], [0.025, 0.975])
    np.testing.assert_allclose([grid.cells[other].macro_f1.low, grid.cells[other].macro_f1.high], quantiles, atol=1e-6)
    quantiles = np.quantile(grid.resampled[one] - grid.resampled[other], [0.025, 0.975])
    np.testing.assert_allclose([grid.behind_best(other).low, grid.behind_best(other).high], quantiles, atol=1e-6)


def test_repeats_come_back_from_disk(repeated, tmp_path):
    repeated.save(tmp_path / "g.safetensors")
    again = probes.Grid.load(tmp_path / "g.safetensors")
    assert again.as_good == repeated.as_good and again.effect("pooling") == repeated.effect("pooling")
    for one, other in zip(again.rounds, repeated.rounds, strict=True):
        for name in ("predicted", "scores", "fold"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_baseline_is_tested_beside_the_best_cell(found, features):
    assert found.test_difference.other == "bag-of-words"
    alone = probes.grid(features, **{**OPTIONS, "baselines": ("majority",)})
    assert alone.verdict is not None and "is better than majority" in alone.verdict
    none = probes.grid(features, **{**OPTIONS, "baselines": ()})
    assert none.verdict is None and none.best_baseline is None


def test_a_grid_comes_back_from_disk_as_it_was(found, tmp_path):
    found.save(tmp_path / "g.safetensors")
    again = probes.Grid.load(tmp_path / "g.safetensors")
    assert repr(again) == repr(found)
    assert again.cells[3] == replace(found.cells[3], spread=again.cells[3].spread)
    assert again.effect("pooling") == found.effect("pooling")
    assert again.test_difference == found.test_difference
    np.testing.assert_array_equal(again.test.confusion, found.test.confusion)
    for name in ("scores", "fold", "predicted"):
        np.testing.assert_array_equal(getattr(again.rounds[0], name), getattr(found.rounds[0], name))
    assert again.balanced is found.balanced is False
    with pytest.raises(ProbeError, match="holds a 'saekit grid 1', expected a saekit probe"):
        probes.ProbeResult.load(tmp_path / "g.safetensors")


def test_progress_counts_cells_and_can_stop(features):
    seen = []
    probes.grid(features, **{**OPTIONS, "progress": lambda done, total: seen.append((done, total))})
    assert seen == [(i, 18) for i in range(1, 19)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probes.grid(features, **{**OPTIONS, "progress": stop})


def test_wrong_settings_are_refused_before_anything_runs(features):
    for wrong in ({"poolings": ("max", "best")}, {"binarisings": ("x",)}, {"classifiers": ("svm",)}, {"saes": ("x",)}):
        with pytest.raises(ProbeError, match="no "):
            probes.grid(features, **{**OPTIONS, **wrong})
    for wrong in ({"poolings": ()}, {"classifiers": ("tree", "tree")}):
        with pytest.raises(ProbeError, match="at least one level, and each once"):
            probes.grid(features, **{**OPTIONS, **wrong})
    with pytest.raises(ProbeError, match="4 folds"):
        probes.grid(features, **OPTIONS, folds=3)
    with pytest.raises(ProbeError, match="no axis"):
        probes.grid(features, **OPTIONS).effect("colour")


def test_choices_with_numbers_are_objects_that_print_as_short_names_and_come_back_from_disk(features, tmp_path):
    options = {"poolings": ("max", TopN(3)), "binarisings": (Quantile(0.25),), "classifiers": (SparseLogistic(2),)}
    grid = probes.grid(features, **options, saes=("planted",), baselines=(probes.HiddenPCA(2),), progress=False)
    assert [c.name for c in grid.cells] == [f"planted, {how}, quantile-0.25, sparse-2" for how in ("max", "top-3")]
    assert grid.baselines[0].name == "pca-2" and set(grid.effect("pooling")) == {"max", TopN(3)}
    grid.save(tmp_path / "g.safetensors")
    again = probes.Grid.load(tmp_path / "g.safetensors")
    assert again.axes == grid.axes and again.cells[1].setting["pooling"] == TopN(3)
    part = probes.training_part(again, features, 1)
    assert probes.fit_cell(again, part, 1).setting["classifier"] == SparseLogistic(2)
    for old in ("top-3", "quantile-0.5", "sparse-2"):
        with pytest.raises(ProbeError, match=f"no [a-z]+ '{old}': expected '.*(TopN|Quantile|SparseLogistic)"):
            probes.probe(features, pooling=old) if "top" in old else (
                probes.probe(features, binarise=old) if "quantile" in old else probes.probe(features, classifier=old)
            )
