"""The attention-pooled rival: it finds what one token says where texts are enough, and never loses to the mean."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from saekit import probes
from saekit.probes import Hook, Settings, baseline_recipe, f1_of, make_folds, nested
from tests.planted_texts import planted

TOKENS = 40


def one_token(n_texts: int, d_model: int, signal: float, *, seed: int = 0):
    """Return labels and states in which one token of each text of class 1 stands out along the first axis."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n_texts) % 2
    states = generator.normal(size=(n_texts, TOKENS, d_model)).astype(np.float32)
    rows = np.flatnonzero(labels)
    states[rows, generator.integers(TOKENS, size=len(rows)), 0] += signal
    starts, flat = np.arange(n_texts + 1) * TOKENS, states.reshape(-1, d_model).astype(np.float16)
    position = np.tile(np.arange(TOKENS), n_texts)
    return labels, Hook("blocks.1.hook_resid_post", starts, position, states[:, -1], states.mean(1), flat, {})


def reading(features, labels, hook):
    """Return an extraction with other labels and hidden states."""
    sae, data = replace(features.sae(), hook=hook), replace(features.data, labels=labels)
    return replace(features, data=data, hooks={hook.name: hook}, saes={sae.name: sae})


@pytest.mark.parametrize(("signal", "d_model"), [(6, 64), (10, 64), (6, 256)])
def test_attention_is_never_clearly_below_the_mean(signal, d_model):
    """On 300 texts a query of so many weights learns noise: it had .54 where the mean had .62."""
    labels, hook = one_token(300, d_model, signal)
    features = planted(300, d_model=d_model)
    features = reading(features, labels, hook)
    folds = make_folds(features, 5)
    found = [
        nested(baseline_recipe(features, features.sae(), name), labels, folds, 2)
        for name in ("attention", "hidden-mean")
    ]
    attention, mean = (f1_of(labels, outcome.predicted, 2) for outcome in found)
    assert attention > mean - 0.03
    assert found[0].validation >= found[1].validation - 1e-3, "the mean is among what the inner folds choose from"


def test_attention_finds_the_one_token_where_there_are_texts_enough():
    labels, hook = one_token(1000, 16, 8)
    train, test = np.arange(800), np.arange(800, 1000)
    features = reading(planted(1000, d_model=16), labels, hook)
    recipe = baseline_recipe(features, features.sae(), "attention")
    for scores in recipe.each(train, (1.0, 0.1)):
        assert (scores[test].argmax(1) == labels[test]).mean() > 0.95
    by_mean = LogisticRegression().fit(hook.mean[train], labels[train]).score(hook.mean[test], labels[test])
    assert by_mean < 0.85


def test_attention_off_is_the_hidden_mean_baseline():
    features = planted(120, keep_states=True)
    train = np.arange(90)
    for balanced in (False, True):
        settings = Settings(balanced=balanced)
        recipe = baseline_recipe(features, features.sae(), "attention", settings)
        off = tuple(s for s in recipe.strengths if s < 0)
        mean = baseline_recipe(features, features.sae(), "hidden-mean", settings)
        assert tuple(-s for s in off) == mean.strengths
        for one, other in zip(recipe.each(train, off), mean.each(train, mean.strengths), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_attention_weighs_classes_alike_if_asked():
    features = planted(200, keep_states=True, share=0.1, signal=0.3)
    plain, balanced = (
        probes.baselines(features, names=["attention"], balanced=balanced)[0] for balanced in (False, True)
    )
    assert (balanced.predicted == 1).sum() > 2 * (plain.predicted == 1).sum()
