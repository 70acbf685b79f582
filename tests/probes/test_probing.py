"""Probes from texts to a verdict: what is planted is found, what is shuffled is chance, what leaks is caught."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer

from saekit import probes
from saekit.errors import ProbeError
from saekit.probes import (
    HiddenPCA,
    Quantile,
    Settings,
    SparseLogistic,
    Threshold,
    baseline_recipe,
    make_folds,
    nested,
    sae_recipe,
    validate,
)
from tests.planted_texts import planted


@pytest.fixture(scope="module")
def features():
    return planted(200, classes=2, signal=0.9, keep_states=True)


@pytest.mark.parametrize("classifier", ["logistic", "logistic-l1", "ridge", "difference", "tree", SparseLogistic(2)])
@pytest.mark.parametrize("binarise", ["none", "above-zero"])
def test_planted_features_are_found(features, classifier, binarise):
    found = probes.probe(features, classifier=classifier, binarise=binarise)
    assert found.macro_f1.value > 0.85
    assert found.macro_f1.low <= found.macro_f1.value <= found.macro_f1.high
    assert found.summary.n == 200


@pytest.mark.parametrize("classifier", ["logistic", "ridge", "tree", SparseLogistic(4)])
def test_shuffled_labels_give_chance(features, classifier):
    """The whole pipeline, choosing features and settings included, must learn nothing where nothing is."""
    labels = np.random.default_rng(0).permutation(features.data.labels)
    shuffled = replace(features, data=replace(features.data, labels=labels))
    found = probes.probe(shuffled, classifier=classifier)
    assert 0.35 < found.macro_f1.value < 0.62
    assert 0.4 < found.auroc.value < 0.6
    if classifier == "logistic":
        table = probes.compare(found, probes.baselines(shuffled, names=["majority", "bag-of-words"]))
        assert all(0.3 < b.macro_f1.value < 0.62 for b in table.baselines)


def test_a_leak_of_the_test_part_is_what_the_pipeline_prevents():
    """Features chosen on all texts, labels being noise: the leaky figure is high, ours is chance."""
    from saekit.probes import best_columns, fit

    leaky, honest = [], []
    for seed in range(4):
        noise = planted(120, d_sae=400, signal=0.0, seed=seed)
        labels = np.random.default_rng(seed + 50).permutation(noise.data.labels)
        noise = replace(noise, data=replace(noise.data, labels=labels))
        pooled = probes.pool(noise.sae(), "max")
        chosen = pooled[:, best_columns(pooled, labels, 20)]  # on purpose: the test part has a say
        folds = make_folds(noise.data, 5)
        for f in range(5):
            train, test = folds.train(f), folds.test(f)
            fitted = next(fit("logistic", chosen[train], labels[train], 2, (1.0,)))
            leaky += (fitted.scores(chosen[test]).argmax(1) == labels[test]).tolist()
        honest.append(probes.probe(noise, classifier=SparseLogistic(20)).summary.accuracy)
    assert np.mean(leaky) > 0.68
    assert 0.4 < np.mean(honest) < 0.6


def test_nothing_outside_the_training_part_moves_a_fit(features):
    """Fault 3: the scaler was fitted before the split. Here test texts may become anything."""
    folds = make_folds(features.data, 5)
    train, test = folds.train(0), folds.test(0)
    pooled = probes.pool(features.sae(), "sum")
    changed = pooled.tolil()
    changed[test] = np.random.default_rng(0).random((len(test), pooled.shape[1])) * 1e4
    for classifier in ("logistic", "ridge", "tree", SparseLogistic(5)):
        for binarise in ("none", Quantile(0.5)):
            settings = Settings("sum", binarise, classifier)
            one = sae_recipe(features, features.sae(), settings, pooled=pooled)
            other = sae_recipe(features, features.sae(), settings, pooled=changed.tocsr())
            scores = [next(iter(recipe.each(train, recipe.strengths[:1])))[train] for recipe in (one, other)]
            np.testing.assert_array_equal(*scores)


def test_text_baselines_are_scikit_learns_vectorisers_fitted_on_the_training_part(features):
    folds = make_folds(features.data, 5)
    train = folds.train(1)
    texts = features.data.texts
    for how, options in {
        "tfidf-word": {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
        "tfidf-char": {"analyzer": "char_wb", "ngram_range": (2, 4)},
    }.items():
        table, names = baseline_recipe(features, features.sae(), how).prepare(train)
        want = TfidfVectorizer(**options).fit([texts[i] for i in train])
        assert list(names) == list(want.get_feature_names_out())
        np.testing.assert_allclose(table.toarray(), want.transform(texts).toarray(), atol=1e-12)


def test_the_pca_baseline_is_fitted_on_the_training_part(features):
    train = make_folds(features.data, 5).train(2)
    table, _ = baseline_recipe(features, features.sae(), HiddenPCA(3)).prepare(train)
    mean = features.sae().hook.mean
    want = PCA(3).fit(mean[train]).transform(mean)
    np.testing.assert_allclose(np.abs(table), np.abs(want), atol=1e-3)


def test_the_hidden_state_baseline_reads_the_last_token_not_the_first(features):
    """Fault 0: it read position 0, BOS or padding."""
    hook = features.sae().hook
    table, _ = baseline_recipe(features, features.sae(), "hidden-last").prepare(np.arange(200))
    np.testing.assert_allclose(table, hook.states[hook.starts[1:] - 1], atol=2e-3)


def test_settings_are_chosen_by_macro_f1_the_figure_that_is_reported():
    """Fault 2: inner cross-validation took the best accuracy, the report macro F1."""

    class TwoSettings:
        name, family, setting, strengths = "two", "none", {}, (0.0, 1.0)

        def each(self, train, strengths):
            for strength in strengths:
                always = np.tile([1.0, 0.0], (200, 1))  # accuracy 0.9, macro F1 0.47
                some = always.copy()
                some[:60] = [0.0, 1.0]  # accuracy 0.8, macro F1 0.68
                yield some if strength else always

        def final(self, train, strength):
            return None, ()

    rare = planted(200, share=0.1)
    labels, folds = rare.data.labels, make_folds(rare.data, 5)
    outcome = nested(TwoSettings(), labels, folds, 2)
    assert outcome.chosen == (1.0,) * 5
    assert validate(TwoSettings(), labels, folds, 2)[0] == 1.0


def test_the_inner_folds_are_the_other_folds_and_the_test_fold_has_no_say(features):
    """Fault 1: the best setting was chosen by its score on the test set."""
    folds = make_folds(features.data, 5)
    seen = []
    majority = baseline_recipe(features, features.sae(), "majority")

    class Recorder:
        name, family, setting, strengths = "recorder", "none", {}, majority.strengths

        def each(self, train, strengths):
            seen.append(frozenset(folds.fold[train].tolist()))
            return majority.each(train, strengths)

        def final(self, train, strength):
            return None, ()

    nested(Recorder(), features.data.labels, folds, 2)
    pairs = [s for s in seen if len(s) == 3]
    assert len(set(pairs)) == 10 == len(pairs), "each pair of folds is held out once"
    assert sorted(map(sorted, (s for s in seen if len(s) == 4))) == [
        sorted(set(range(5)) - {f}) for f in (4, 3, 2, 1, 0)
    ]
    labels = features.data.labels.copy()
    labels[folds.test(0)] = 1 - labels[folds.test(0)]
    lied = replace(features, data=replace(features.data, labels=labels))
    for data in (features, lied):
        recipe = sae_recipe(data, data.sae())
        strength, predicted, scores = validate(recipe, data.data.labels, folds, 2)
        assert not predicted[folds.test(0)].any() and not scores[folds.test(0)].any()
        seen.append((strength, predicted.tolist()))
    assert seen[-1] == seen[-2], "the labels of the test fold may be anything"


def test_the_order_of_the_texts_changes_nothing_at_all(model):
    """Fault 6, from texts to figures, with the same seed."""
    from saekit.data.labelled import labelled_texts
    from tests import tiny
    from tests.probes.test_extract import made_up_texts

    texts = made_up_texts(60, seed=5)
    data = labelled_texts(texts, ["cat" in t for t in texts])
    order = np.random.default_rng(2).permutation(60)
    results = []
    for one in (data, data[order]):
        found = probes.extract_features(model, tiny.topk_sae(32, 96), one, progress=False)
        results.append(probes.probe(found, folds=3))
    np.testing.assert_array_equal(results[0].scores, results[1].scores)
    np.testing.assert_array_equal(results[0].keys, results[1].keys)
    assert repr(results[0]) == repr(results[1])


def test_baselines_stand_on_the_same_split_and_are_computed_here(features):
    """Fault 9: baselines were constants in the code. Other texts, other figures."""
    names = [
        "majority",
        "length",
        "bag-of-words",
        "tfidf-word",
        "tfidf-char",
        "hidden-last",
        "hidden-mean",
        HiddenPCA(2),
    ]
    found = probes.probe(features)
    others = probes.baselines(features, names=[*names, "attention"])
    assert [b.name for b in others] == [*map(str, names), "attention"]
    for other in others:
        np.testing.assert_array_equal(other.fold, found.fold)
        np.testing.assert_array_equal(other.keys, found.keys)
    by_name = {b.name: b for b in others}
    assert by_name["majority"].auroc.value == pytest.approx(0.5)
    assert by_name["majority"].macro_f1.value == pytest.approx(1 / 3, abs=0.02)
    assert by_name["bag-of-words"].macro_f1.value > 0.85, "the words are planted too"
    assert 0.6 < by_name["hidden-mean"].auroc.value, "and the hidden states, weakly"
    assert by_name["attention"].auroc.value > 0.6
    assert 0.35 < by_name["length"].macro_f1.value < 0.62
    table = probes.compare(found, others)
    assert table.best is max(others, key=lambda b: b.validation)
    assert "no verdict" in repr(table) or table.verdict in repr(table)
    assert "<table>" in table._repr_html_()
    weak = probes.compare(found, [by_name["hidden-mean"]])
    assert weak.verdict.startswith("planted, max, none, logistic is better than hidden-mean")


def test_probes_of_two_models_that_read_the_texts_in_another_order_are_paired_by_text(model, tmp_path):
    from sklearn.metrics import f1_score

    from saekit import load_model
    from saekit.data.labelled import labelled_texts
    from tests import tiny
    from tests.probes.test_extract import made_up_texts

    spelled = load_model(tiny.write_model(tmp_path / "tiny", d_vocab=262))  # hardly more pieces than bytes
    texts = made_up_texts(60, seed=5)
    data = labelled_texts([*texts, *texts[:3]], ["cat" in t for t in [*texts, *texts[:3]]])
    read = [probes.extract_features(one, tiny.topk_sae(32, 96), data, progress=False) for one in (model, spelled)]
    assert not np.array_equal(read[0].index, read[1].index), "the orders should differ for this test"
    first, second = (probes.probe(found, folds=3) for found in read)
    found = first.minus(second)

    truth = dict(zip(data.texts, data.labels, strict=True))
    said = [dict(zip(part.data.texts, r.predicted, strict=True)) for part, r in zip(read, (first, second), strict=True)]
    assert all(len(one) == 60 for one in said)
    f1 = [f1_score(data.labels, [one[t] for t in data.texts], average="macro") for one in said]
    assert found.macro_f1.value == pytest.approx(f1[0] - f1[1])
    assert found.only_first == sum(said[0][t] == truth[t] != said[1][t] for t in data.texts)
    assert second.minus(first).only_first == found.only_second


def test_results_of_other_texts_or_folds_cannot_be_compared(features):
    found = probes.probe(features)
    for other in (probes.probe(features, seed=1), probes.probe(planted(200, seed=9))):
        with pytest.raises(ProbeError, match="not scored on the same texts in the same folds"):
            found.minus(other)
    with pytest.raises(ProbeError, match="nothing to compare"):
        probes.compare(found, [])


def test_results_come_back_from_disk_as_they_were(features, tmp_path):
    for classifier in ("logistic", "tree", SparseLogistic(2)):
        found = probes.probe(features, classifier=classifier, binarise="above-zero")
        found.save(tmp_path / "p.safetensors")
        again = probes.ProbeResult.load(tmp_path / "p.safetensors")
        assert repr(again) == repr(found)
        assert again.setting == found.setting
        np.testing.assert_array_equal(again.scores, found.scores)
        inputs = probes.pool(features.sae(), "max")
        np.testing.assert_array_equal(again.fitted.scores(inputs), found.fitted.scores(inputs))
        assert again.minus(found).macro_f1.value == 0
    majority = probes.baselines(features, names=["majority"])[0]
    majority.save(tmp_path / "m.safetensors")
    assert probes.ProbeResult.load(tmp_path / "m.safetensors").fitted is None
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ProbeError, match="cannot be read"):
        probes.ProbeResult.load(tmp_path / "bad.safetensors")
    with pytest.raises(ProbeError, match="there is no saekit probe at"):
        probes.ProbeResult.load(tmp_path / "none.safetensors")


def test_what_is_wrong_with_the_texts_is_said(features):
    ((name, hook),) = features.hooks.items()
    starts = np.where(np.arange(201) < 3, 0, hook.starts)  # two texts without a token
    noted = probes.probe(replace(features, cut=np.arange(200) < 3, hooks={name: replace(hook, starts=starts)}))
    assert "3 texts were cut at 128 tokens" in repr(noted)
    assert "2 texts have no token that counts" in repr(noted)
    twice = planted(100)
    texts = [*twice.data.texts[:98], twice.data.texts[0].upper(), twice.data.texts[1].upper()]
    found = probes.probe(replace(twice, data=replace(twice.data, items=tuple(texts))))
    assert "duplicates, kept in one fold: 4 texts in 2 groups" in repr(found)


def test_a_threshold_that_does_not_suit_the_scale_is_warned_of(features):
    with pytest.warns(UserWarning, match="constant on the training part; the threshold does not suit"):
        found = probes.probe(features, binarise=Threshold(1000))
    assert found.macro_f1.value < 0.6
    assert "100.0% of the columns are constant" in repr(found)


def test_what_cannot_be_probed_is_refused(features):
    one = replace(features, data=replace(features.data, labels=np.zeros(200, int)))
    with pytest.raises(ProbeError, match="all 200 texts are of one class"):
        probes.probe(one)
    single = features.data.labels.copy()
    single[:] = 0
    single[7] = 1
    with pytest.raises(ProbeError, match="class '1' has 1 different texts, fewer than 5 folds"):
        probes.probe(replace(features, data=replace(features.data, labels=single)))
    with pytest.raises(ProbeError, match="no labels"):
        probes.probe(replace(features, data=replace(features.data, labels=np.full(200, -1))))
    for wrong in ({"sae": "x"}, {"pooling": "x"}, {"binarise": "x"}, {"classifier": "x"}):
        with pytest.raises(ProbeError, match="no "):
            probes.probe(features, **wrong)
    with pytest.raises(ProbeError, match="no baseline 'x'"):
        probes.baselines(features, names=["x"])
    with pytest.raises(ProbeError, match="keep_states=True"):
        probes.baselines(planted(50), names=["attention"])
    with pytest.raises(ProbeError, match="controls="):
        probes.baselines(features, names=["random"])
    with pytest.raises(ProbeError, match="no baseline 'hidden-first': expected majority"):
        probes.baselines(features, names=["hidden-first"])


def test_columns_of_ones_own_are_taken_in_the_order_of_the_data():
    found = planted(100)
    order = np.random.default_rng(0).permutation(100)
    given = replace(found, index=order)  # text i stood at order[i] in the data
    own = np.empty(100)
    own[order] = found.data.labels
    assert probes.probe_columns(given, "answer", own).macro_f1.value == 1
    some = probes.subset(given, np.arange(60))
    assert probes.probe_columns(some, "answer", own).macro_f1.value == 1, "a part takes the columns of the whole"
    with pytest.raises(ProbeError, match="one row for each text of the data that was extracted"):
        probes.probe_columns(some, "answer", own[: int(some.index.max())])
    with pytest.raises(ProbeError, match="99 rows for 100 texts"):
        probes.probe_columns(given, "answer", own[:99])
    with pytest.raises(ProbeError, match="not all values are finite"):
        probes.probe_columns(given, "answer", np.full(100, np.nan))


def test_more_classes_than_two(features):
    many = planted(240, classes=4, signal=0.95)
    found = probes.probe(many)
    assert found.macro_f1.value > 0.85
    assert found.summary.confusion.shape == (4, 4)
    assert found.auroc.value > 0.9
