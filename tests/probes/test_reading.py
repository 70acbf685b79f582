"""Reading probes: parts add up to the whole, signs point to the class, contexts are where the features fire."""

import numpy as np
import pytest

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.errors import ProbeError
from saekit.probes import POOLINGS, FirstK, Quantile, SparseLogistic, TopN, inputs_of
from tests import tiny
from tests.planted_texts import planted
from tests.probes.test_extract import made_up_texts


@pytest.fixture(scope="module")
def many():
    return planted(240, classes=4, signal=0.95)


@pytest.mark.parametrize("classifier", ["logistic", "logistic-l1", "ridge", "difference", "tree", SparseLogistic(4)])
def test_every_class_has_its_own_features_with_sign(many, classifier):
    """Fault 8: with several classes only the first one's weights were shown."""
    found = probes.top_features(probes.probe(many, classifier=classifier), many, k=3)
    assert list(found) == ["0", "1", "2", "3"]
    for c, (label, weights) in enumerate(found.items()):
        planted_one = next((w for w in weights if w.column == c), None)
        if classifier == "tree" and planted_one is None:
            continue  # a tree of four classes may tell the last one by what it is not
        assert planted_one.weight > 0 and planted_one.label == label
        assert planted_one.share_in_class > 0.8 > 0.1 > planted_one.share_in_others
        effects = [abs(w.effect) for w in weights]
        assert effects == sorted(effects, reverse=True)
    two = planted(100)
    signs = probes.top_features(probes.probe(two, classifier=SparseLogistic(2)), two)
    assert signs["0"][0].weight == pytest.approx(
        -next(w for w in signs["1"] if w.column == signs["0"][0].column).weight
    )


def test_effects_are_weights_of_standardised_columns(many):
    found = probes.probe(many)
    inputs = inputs_of(found, many).toarray()
    for weight in probes.top_features(found, many)["2"]:
        assert weight.effect == pytest.approx(weight.weight * inputs[:, weight.column].std(), rel=1e-5)


def test_words_behind_a_baseline_are_named(many):
    found = probes.baselines(many, names=["bag-of-words"])[0]
    words = probes.top_words(found, k=4)
    strongest = {label: max(rows, key=lambda row: row[1])[0] for label, rows in words.items()}
    assert strongest == {"0": "aaa", "1": "bbb", "2": "ccc", "3": "ddd"}
    with pytest.raises(ProbeError, match="no named columns"):
        probes.top_words(probes.probe(many))


def test_contexts_are_the_strongest_tokens_one_a_text(many):
    got = probes.contexts(many, 1, k=4)
    column = many.sae().events[:, [1]].toarray().ravel()
    starts = many.sae().hook.starts
    best = sorted(((column[starts[t] : starts[t + 1]].max(), t) for t in range(240)), key=lambda p: (-p[0], p[1]))[:4]
    assert [(c.activation, c.text) for c in got] == [(pytest.approx(value), t) for value, t in best]
    for c in got:
        assert column[starts[c.text] + c.position] == pytest.approx(c.activation)
        assert c.label == "1"
    assert probes.contexts(many, 59) == ()
    with pytest.raises(ProbeError, match="no feature 60: planted has 60"):
        probes.contexts(many, 60)


def test_a_tree_is_drawn_with_the_features_it_asks_for():
    """Fault 8: trees were drawn without names."""
    two = planted(200, signal=1.0)
    drawn = probes.tree_text(probes.probe(two, classifier="tree", binarise="above-zero"))
    assert drawn.splitlines()[0] in ("feature 0 > 0.5?", "feature 1 > 0.5?")
    assert "(100%)" in drawn
    named = probes.tree_text(
        probes.probe(two, classifier="tree", binarise="above-zero"), {0: "greetings", 1: "farewells", 2: "never asked"}
    )
    assert named.splitlines()[0] in ("feature 0 (greetings) > 0.5?", "feature 1 (farewells) > 0.5?")
    assert len(named.splitlines()) == len(drawn.splitlines())
    with pytest.raises(ProbeError, match="not a decision tree"):
        probes.tree_text(probes.probe(two))


@pytest.fixture(scope="module")
def trained(model):
    sae = tiny.topk_sae(32, 96)
    texts = made_up_texts(60, seed=5)
    data = labelled_texts(texts, ["cat" in t for t in texts])
    return sae, probes.extract_features(model, {"s": sae}, data, progress=False)


@pytest.mark.parametrize("pooling", ["max", "mean", "sum", "last", TopN(3), FirstK(4)])
@pytest.mark.parametrize("binarise", ["none", Quantile(0.5)])
def test_the_parts_of_a_decision_add_up_to_it(model, trained, pooling, binarise):
    sae, features = trained
    found = probes.probe(features, pooling=pooling, binarise=binarise, folds=3)
    row = 50
    got = probes.classify(model, sae, found, features.data.texts[row])
    np.testing.assert_allclose(got.scores, probes.predict(found, features)[row], atol=1e-2)
    np.testing.assert_allclose(got.contributions.sum(1) + found.fitted.intercept, got.scores, atol=1e-6)
    assert got.label == found.label_names[int(got.scores.argmax())]
    assert "".join(got.tokens).strip() == features.data.texts[row]
    assert len(got.tokens) == got.contributions.shape[1]
    order = [abs(part) for _, _, part in got.features]
    assert order == sorted(order, reverse=True)


def test_characters_of_several_tokens_are_spelled_whole(model, trained):
    sae, features = trained
    found = probes.probe(features, folds=3)
    got = probes.classify(model, sae, found, "the 戦場 naïve cat 😀")
    assert "".join(got.tokens) == "the 戦場 naïve cat 😀"
    assert "" in got.tokens and got.contributions.shape == (2, len(got.tokens))


def test_a_tree_shows_the_way_to_its_leaf(model, trained):
    sae, features = trained
    found = probes.probe(features, classifier="tree", folds=3)
    got = probes.classify(model, sae, found, features.data.texts[3])
    assert {f for f, _, _ in got.features} <= set(found.fitted.tree["column"].tolist())
    assert not got.contributions.any()


def test_contexts_are_spelled_by_the_model(model, trained):
    _, features = trained
    feature = int(np.bincount(features.sae().events.indices).argmax())
    for context in probes.contexts(features, feature, k=3, window=100, model=model):
        whole = context.before + context.token + context.after
        assert whole.strip() == features.data.texts[context.text]


def test_shares_of_a_maximum_go_to_the_token_that_has_it(many):
    one = probes.subset(many, np.array([7])).sae()
    used = np.unique(one.events.indices)
    shares = POOLINGS.of("max").shares(one, used)
    assert (shares.sum(0) == 1).all()
    np.testing.assert_array_equal(shares.argmax(0), one.events.toarray()[:, used].argmax(0))


@pytest.mark.parametrize("pooling", ["max", "sum", "last"])
def test_a_text_is_classified_as_far_as_the_probe_was_trained_to_read(model, pooling, tmp_path):
    """Training texts got another label than from `predict`: up to 1,024 tokens were read, whatever the training had."""
    sae, texts = tiny.topk_sae(32, 96), made_up_texts(60, seed=5)
    data = labelled_texts(texts, ["cat" in t for t in texts])
    features = probes.extract_features(model, {"s": sae}, data, context_size=8, progress=False)
    found = probes.probe(features, pooling=pooling, folds=3)
    found.save(tmp_path / "p.safetensors")
    found, scores = probes.ProbeResult.load(tmp_path / "p.safetensors"), probes.predict(found, features)
    cut = []
    for row in range(0, 60, 4):
        text = features.data.texts[row]
        got = probes.classify(model, sae, found, text)
        np.testing.assert_allclose(got.scores, scores[row], atol=1e-2)
        assert got.truncated == ("".join(got.tokens).strip() != text.strip()) and len(got.tokens) <= 7
        cut.append(got.truncated)
    assert any(cut) and not all(cut)


def test_a_saved_probe_classifies_as_before(model, trained, tmp_path):
    sae, features = trained
    found = probes.probe(features, pooling="sum", binarise=Quantile(0.3), folds=3)
    found.save(tmp_path / "p.safetensors")
    again = probes.ProbeResult.load(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(probes.predict(again, features), probes.predict(found, features))
    text = features.data.texts[5]
    one, other = (probes.classify(model, sae, r, text) for r in (found, again))
    np.testing.assert_array_equal(one.contributions, other.contributions)


def test_what_cannot_be_read_is_refused(model, trained):
    sae, features = trained
    hidden = probes.baselines(features, names=["hidden-mean", "majority"], folds=3)
    for other in hidden:
        with pytest.raises(ProbeError, match="does not read SAE features"):
            probes.top_features(other, features)
    found = probes.probe(features, folds=3)
    with pytest.raises(ProbeError, match="no token of this text counts"):
        probes.classify(model, sae, found, "")
    with pytest.raises(ProbeError, match="the probe was made with another SAE s: d_sae 96 against 48"):
        probes.classify(model, tiny.topk_sae(32, 48), found, "The cat sat")
