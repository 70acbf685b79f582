"""Few labels, wrong labels, rare classes, other domains: with planted features the answers are known."""

from dataclasses import replace

import numpy as np
import pytest

from saekit import functional, probes
from saekit.errors import ProbeError
from saekit.probes import Quantile, SparseLogistic, join, training_texts
from tests.planted_texts import planted

BASELINES = ("majority", "bag-of-words")


def test_more_training_texts_make_a_better_probe():
    got = probes.curve(
        planted(300, signal=0.95), "size", (4, 20, 200), classifier=SparseLogistic(2), baselines=BASELINES, draws=4
    )
    name, *others = got.macro_f1
    values = [i.value for i in got.macro_f1[name]]
    assert values[0] < values[1] <= values[2] + 0.02
    assert values[2] > 0.9 and got.n_test == 60
    assert others == ["majority", "bag-of-words"]
    assert all(i.value == pytest.approx(1 / 3, abs=0.03) for i in got.macro_f1["majority"])
    assert len(got.spread[name]) == 3 and min(got.spread[name]) >= 0
    assert "size 4, 20, 200" in repr(got)


def test_wrong_labels_spoil_the_probe_only_when_they_are_many():
    got = probes.curve(planted(300), "noise", (0, 0.2, 0.5, 0.9), classifier="difference", baselines=(), draws=2)
    (values,) = ([i.value for i in row] for row in got.macro_f1.values())
    assert values[0] > 0.95
    assert values[1] > 0.85
    assert 0.25 < values[2] < 0.75
    assert values[3] < 0.15, "nine in ten turned round: the probe has learned the opposite"


def test_a_rare_class_is_missed_more_often():
    got = probes.curve(planted(400, signal=0.8), "imbalance", (0.03, 0.5), classifier="logistic", baselines=(), draws=3)
    (values,) = ([i.value for i in row] for row in got.macro_f1.values())
    assert values[0] < values[1] - 0.02


def test_training_texts_are_drawn_as_asked_and_the_test_part_stays_away():
    labels, train = np.repeat([0, 1], [80, 20]), np.arange(5, 95)
    generator = np.random.default_rng(0)
    rows, given = training_texts("size", 10, train, labels, generator)
    assert len(set(rows)) == 10 and set(labels[rows]) == {0, 1} and given is labels
    rows, given = training_texts("noise", 0.3, train, labels, generator)
    assert (given[train] != labels[train]).sum() == 27
    assert (given[[0, 1, 2, 96, 97]] == labels[[0, 1, 2, 96, 97]]).all()
    sizes = set()
    for share in (0.1, 0.3, 0.5):
        rows, _ = training_texts("imbalance", share, train, labels, generator)
        sizes.add(len(rows))
        assert labels[rows].mean() == pytest.approx(share, abs=0.02)
        assert set(rows) <= set(train)
    assert sizes == {30}


def test_points_that_cannot_be_reached_are_refused():
    texts = planted(100)
    for over, at, words in (
        ("size", (1,), "cannot draw 1 training"), ("size", (10_000,), "cannot draw"), ("noise", (1.0,), "below 1"),
        ("imbalance", (0.6,), "at most 0.5"), ("imbalance", (0.0,), "at most 0.5"), ("colour", (1,), "no curve over"),
        ("size", (), "at least one point"),
    ):  # fmt: skip
        with pytest.raises(ProbeError, match=words):
            probes.curve(texts, over, at, baselines=())


def test_curves_are_the_same_for_the_same_seed():
    texts = planted(100, signal=0.8)
    one, other = (probes.curve(texts, "size", (8, 40), baselines=("length",), draws=2, seed=3) for _ in range(2))
    assert (
        repr(one) == repr(other) != repr(probes.curve(texts, "size", (8, 40), baselines=("length",), draws=2, seed=4))
    )


def test_a_curve_comes_back_from_disk_as_it_was(tmp_path):
    """One draw has no spread: NaN has to survive too."""
    for draws in (1, 2):
        found = probes.curve(planted(100), "size", (8, 40), classifier="difference", draws=draws)
        found.save(tmp_path / "c.safetensors")
        again = probes.Curve.load(tmp_path / "c.safetensors")
        assert (again.over, again.at, again.n_test) == (found.over, found.at, found.n_test)
        assert again.macro_f1 == found.macro_f1
        assert repr(again.spread) == repr(found.spread)
    with pytest.raises(ProbeError, match="holds a 'saekit curve 1', expected a saekit transfer"):
        probes.Transfer.load(tmp_path / "c.safetensors")


@pytest.fixture(scope="module")
def domains():
    """In the second domain the same features speak; in the third they speak for the other class."""
    first, second, third = planted(150, seed=0), planted(150, seed=1), planted(150, seed=2)
    turned = replace(third, data=replace(third.data, labels=1 - third.data.labels))
    return {"a": first, "b": second, "turned": turned}


def test_transfer_says_where_a_probe_still_works(domains):
    got = probes.transfer(domains, classifier="difference", baselines=("bag-of-words",))
    table = next(iter(got.macro_f1.values()))
    values = np.array([[i.value for i in row] for row in table])
    assert values.shape == (3, 3)
    assert (values[:2, :2] > 0.95).all() and values[2, 2] > 0.95
    assert (values[2, :2] < 0.1).all() and (values[:2, 2] < 0.1).all()
    assert got.gap("a", "turned") > 0.9 > 0.1 > abs(got.gap("a", "b"))
    assert list(got.macro_f1)[1] == "bag-of-words"
    for i, name in enumerate(domains):
        alone = probes.probe(domains[name], classifier="difference")
        assert table[i][i].value == pytest.approx(alone.macro_f1.value)
    assert "texts in two sets" in repr(got), "the made-up texts are the same"
    assert got.shared[0] == (0, 150, 150)


def test_a_transfer_comes_back_from_disk_as_it_was(domains, tmp_path):
    found = probes.transfer(domains, classifier="difference", baselines=("length",))
    found.save(tmp_path / "t.safetensors")
    again = probes.Transfer.load(tmp_path / "t.safetensors")
    assert vars(again) == vars(found)
    assert again.gap("a", "turned") == found.gap("a", "turned")
    with pytest.raises(ProbeError, match="holds a 'saekit transfer 1', expected a saekit removal"):
        functional.Removal.load(tmp_path / "t.safetensors")


def test_trained_on_one_set_nothing_of_the_other_is_used(domains):
    """Thresholds, scales and vocabularies come from the training set: its own column stays as it is."""
    changed = planted(150, seed=7)
    one = probes.transfer(domains, binarise=Quantile(0.5), baselines=("tfidf-word",))
    other = probes.transfer({**domains, "b": changed}, binarise=Quantile(0.5), baselines=("tfidf-word",))
    for name in one.macro_f1:
        assert one.macro_f1[name][0][0] == other.macro_f1[name][0][0]
        assert one.macro_f1[name][0][2] == other.macro_f1[name][0][2]
        assert one.macro_f1[name][2][0] == other.macro_f1[name][2][0]


def test_joined_sets_are_the_sets_one_after_another(domains):
    joined, part = join(list(domains.values()))
    assert part.tolist() == [0] * 150 + [1] * 150 + [2] * 150
    for i, (name, features) in enumerate(domains.items()):
        rows = np.flatnonzero(part == i)
        mine = probes.subset(joined, rows)
        assert mine.data.texts == features.data.texts, name
        assert (mine.sae().events != features.sae().events).nnz == 0
        np.testing.assert_array_equal(mine.sae().hook.starts, features.sae().hook.starts)
        np.testing.assert_array_equal(mine.sae().hook.last, features.sae().hook.last)


def test_sets_that_do_not_fit_together_are_refused(domains):
    with pytest.raises(ProbeError, match="at least two sets"):
        probes.transfer({"a": domains["a"]})
    other = planted(100, classes=3)
    with pytest.raises(ProbeError, match="must share their classes"):
        probes.transfer({"a": domains["a"], "b": other})
    with pytest.raises(ProbeError, match="must share their SAEs"):
        probes.transfer({"a": domains["a"], "b": planted(100, d_sae=50)})
    with pytest.raises(ProbeError, match="must share their model"):
        probes.transfer({"a": domains["a"], "b": replace(domains["b"], model_name="x")})
