"""Poolings, and what makes 0 or 1 of what they give, against a loop over texts."""

import numpy as np
import pytest

from saekit import probes
from saekit.errors import ProbeError
from saekit.probes import (
    FirstK,
    Hook,
    Pooling,
    Quantile,
    SAEFeatures,
    Threshold,
    TopN,
    binarised,
    learn_thresholds,
    pool,
)
from tests import tiny
from tests.planted_texts import planted
from tests.probes.test_extract import made_up_texts


@pytest.fixture(scope="module")
def features(model):
    texts = [*made_up_texts(24), "", "戦場 😀"]
    return probes.extract_features(model, tiny.topk_sae(32, 96), texts, context_size=40, progress=False)


def dense_pooling(rows: np.ndarray, how: str | TopN | FirstK) -> np.ndarray:
    """Pool one text's tokens the slow way."""
    if not len(rows):
        return np.zeros(rows.shape[1])
    if isinstance(how, FirstK):
        return rows[: how.k].max(0)
    if isinstance(how, TopN):
        counts = np.zeros(rows.shape[1])
        for row in rows:
            best = sorted(np.flatnonzero(row), key=lambda f: (-row[f], f))[: how.n]
            counts[best] += 1
        return counts
    return {"max": rows.max(0), "mean": rows.mean(0), "sum": rows.sum(0), "last": rows[-1]}[how]


@pytest.mark.parametrize("how", ["max", "mean", "sum", "last", TopN(3), TopN(100), FirstK(2), FirstK(1000)])
def test_poolings_are_those_of_brute_force(features, how):
    sae = features.sae()
    pooled = pool(sae, how)
    starts = sae.hook.starts
    dense = sae.events.toarray().astype(np.float64)
    want = [dense_pooling(dense[starts[i] : starts[i + 1]], how) for i in range(len(features))]
    np.testing.assert_allclose(pooled.toarray(), np.stack(want), rtol=1e-5, atol=1e-6)
    assert pooled.has_sorted_indices


def features_of_one(rows: np.ndarray, starts: list[int]) -> SAEFeatures:
    from scipy.sparse import csr_array

    starts = np.array(starts)
    hook = Hook(
        "h", starts, np.arange(len(rows)), np.zeros((len(starts) - 1, 1)), np.zeros((len(starts) - 1, 1)), None, {}
    )
    return SAEFeatures("s", hook, csr_array(rows.astype(np.float32)))


def test_counts_of_more_tokens_than_a_byte_holds_are_right():
    """Fault 7: counts in 8 bits went back to 0 at 256."""
    sae = features_of_one(np.ones((70_000 + 300, 1)), [0, 70_000, 70_300])
    assert pool(sae, TopN(1)).toarray().ravel().tolist() == [70_000, 300]
    assert pool(sae, "sum").toarray().ravel().tolist() == [70_000, 300]


def test_a_threshold_is_learned_from_the_training_part_alone(features):
    pooled = pool(features.sae(), "sum")
    train, test = np.arange(0, 20), np.arange(20, len(features))
    learned = learn_thresholds(Quantile(0.5), pooled, train)
    changed = pooled.tolil()
    changed[test] = 1e6
    np.testing.assert_array_equal(learn_thresholds(Quantile(0.5), changed.tocsr(), train), learned)
    dense = pooled.toarray()
    for feature in range(dense.shape[1]):
        active = dense[train, feature][dense[train, feature] > 0]
        want = np.quantile(active, 0.5, method="inverted_cdf") if len(active) else 0
        assert learned[feature] == pytest.approx(want)
    np.testing.assert_array_equal(binarised(pooled, learned).toarray(), dense > learned)
    for how, threshold in (("above-zero", 0), (Threshold(1.5), 1.5)):
        zeros_and_ones = binarised(pooled, learn_thresholds(how, pooled, train))
        np.testing.assert_array_equal(zeros_and_ones.toarray(), dense > threshold)
    assert binarised(pooled, learn_thresholds("none", pooled, train)) is pooled


def test_settings_that_do_not_exist_are_refused_not_ignored(features):
    """Fault 9: options on the command line were read and not used."""
    for how in ("maximum", "top-3", "top-", "first-x", "", 3, None):
        with pytest.raises(ProbeError, match="expected 'max'"):
            pool(features.sae(), how)
    for how in (Quantile, "quantile-0.5", "threshold", "yes"):
        with pytest.raises(ProbeError, match="expected 'none'"):
            learn_thresholds(how, pool(features.sae(), "max"), np.arange(3))
    for wrong in (
        lambda: TopN(0),
        lambda: FirstK(1.5),
        lambda: Quantile(1.5),
        lambda: Quantile(0),
        lambda: Threshold(-1),
    ):
        with pytest.raises(ProbeError, match=r"(n of TopN|k of FirstK|q of Quantile|value of Threshold) must be"):
            wrong()


def test_a_pooling_of_ones_own_is_taken_where_those_of_the_room_are(tmp_path):
    """As ARCHITECTURE.md says: a subclass says which activations take part, and what is made of them."""

    class StrongMax(Pooling):
        reduce = "max"

        def taking_part(self, features):
            return features.events.multiply(features.events > 1.5).tocsr()

        def __str__(self):
            return "strong-max"

    some, how = planted(120), StrongMax()
    dense, starts = some.sae().events.toarray(), some.sae().hook.starts
    want = [(rows * (rows > 1.5)).max(0) for rows in np.split(dense, starts[1:-1])]
    np.testing.assert_allclose(pool(some.sae(), how).toarray(), want)
    result = probes.probe(some, pooling=how, folds=3)
    assert result.name == "planted, strong-max, none, logistic" and result.macro_f1.value > 0.6
    with pytest.raises(ProbeError, match="a probe with a StrongMax cannot be saved: it could not be read back"):
        result.save(tmp_path / "p.safetensors")
