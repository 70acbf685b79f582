"""Folds of texts that were cut: what is the same as far as it is read never parts."""

import numpy as np
import pytest

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.probes import deal_rest, extract_features, find_duplicates, in_both, make_folds
from tests import tiny
from tests.probes.test_extract import WORDS, made_up_texts

ROOM = 12  # tokens of a text that are read, BOS included


def extracted(model, texts, labels=None, context_size=ROOM):
    data = labelled_texts(texts, [i % 2 for i in range(len(texts))] if labels is None else labels)
    return extract_features(
        model, tiny.topk_sae(32, 96), data, context_size=context_size, progress=False, check_hooks=False
    )


@pytest.fixture(scope="module")
def texts():
    """Forty texts whose first twenty words are all different, and ten that go on from five of them in two ways."""
    generator = np.random.default_rng(0)
    starts = [" ".join(generator.choice(WORDS, 20)) for _ in range(40)]
    twins = [f"{start} {end}" for start in starts[:5] for end in ("Paris", "bird watched")]
    return [*starts, *twins]


def read_alike(features):
    """Return the sets of texts whose tokens are the same, by comparing every pair."""
    ids = [features.ids[a:b].tolist() for a, b in zip(features.id_starts, features.id_starts[1:], strict=False)]
    return {frozenset(j for j in range(len(ids)) if ids[j] == ids[i]) for i in range(len(ids))}


def test_texts_that_are_read_alike_stay_in_one_fold_and_are_counted(model, texts):
    features = extracted(model, texts)
    alike = [rows for rows in read_alike(features) if len(rows) > 1]
    assert len(alike) >= 5, "each of five texts is read like the two that go on from it"
    found = find_duplicates(features)
    assert {frozenset(np.flatnonzero(found.group == g).tolist()) for g in set(found.group)} == read_alike(features)
    assert (found.n_groups, found.n_texts) == (len(alike), sum(map(len, alike)))
    assert found.n_as_read == found.n_texts, "no two of them are the same to the end"
    assert f"{found.n_as_read} of the texts only as far as they are read" in repr(found)
    for seed in range(4):
        folds = make_folds(features, 3, seed=seed)
        for fold in (folds.fold, deal_rest(make_folds(features, 4, seed=seed), features, seed=9).fold):
            assert all(len(set(fold[list(rows)])) == 1 for rows in alike)
    notes = probes.probe(features, folds=3).notes
    assert any("only as far as they are read" in note for note in notes)


def test_a_part_of_an_extraction_keeps_them_together_too(model, texts):
    features = extracted(model, texts)
    rows = np.array(sorted(next(rows for rows in read_alike(features) if len(rows) > 1)))
    assert find_duplicates(probes.subset(features, rows)).n_groups == 1


def test_texts_that_are_read_to_the_end_are_judged_by_their_words(model, texts):
    features = extracted(model, texts, context_size=60)
    assert features.truncated == 0
    assert find_duplicates(features).n_texts == find_duplicates(features.data).n_texts == 0
    doubled = extracted(model, [*texts, texts[0].upper(), texts[1] + "!"])
    assert find_duplicates(doubled).n_as_read == find_duplicates(doubled).n_texts - 4
    assert find_duplicates(doubled.data).n_as_read == 0


def test_a_leak_between_two_sets_is_found_as_far_as_texts_are_read(model, texts):
    one, other = extracted(model, texts[:40]), extracted(model, texts[40:])
    assert in_both(one, other) == 10
    assert in_both(one.data, other.data) == 0


def test_the_rest_is_dealt_out_anew_and_the_test_fold_stays(model):
    features = extracted(model, made_up_texts(60, seed=5), context_size=40)
    first = make_folds(features, 5)
    again = deal_rest(first, features, seed=1)
    np.testing.assert_array_equal(again.fold == 0, first.fold == 0)
    rest = first.train(0)
    np.testing.assert_array_equal(again.fold[rest] - 1, make_folds(features.data[rest], 4, seed=1).fold)
