"""Transfer between sets whose texts belong together: with planted features it is known what must carry over."""

import numpy as np
import pytest

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.errors import ProbeError
from saekit.probes import Hook, SAEFeatures, TextFeatures

N = 160
LABELS = np.arange(N) % 2
WORDS = {"en": "abcdefgh", "es": "ijklmnop"}


def said(language, i):
    """Return a sentence with a word of its own; digits would not tell sentences apart."""
    return f"{language} " + "".join(WORDS[language][int(digit)] for digit in np.base_repr(i + 8, 8))


def extraction(language, columns, labels=LABELS, order=None):
    """Return sentences of one token each, whose features and hidden state are ``columns``, given in some order."""
    from scipy.sparse import csr_array

    order = np.arange(len(labels)) if order is None else order
    data = labelled_texts([said(language, i) for i in range(len(labels))], labels.tolist(), name=language)
    index = np.argsort(order)  # an extraction has an order of its own; index says where each text stood
    columns = np.asarray(columns, np.float32)
    starts, zeros = np.arange(len(labels) + 1), np.zeros(len(labels), np.int32)
    hook = Hook("blocks.1.hook_resid_post", starts, zeros, columns, columns, None, {})
    sae = SAEFeatures("planted", hook, csr_array(columns))
    cut = zeros > 0
    return TextFeatures(data, index, zeros, starts, {hook.name: hook}, {"planted": sae}, cut, 128, "made up")


def noise(seed, width=6):
    return np.random.default_rng(seed).gamma(2, 0.2, (N, width))


def values(table):
    return np.array([[figure.value for figure in row] for row in table])


def only(result):
    return values(next(iter(result.macro_f1.values())))


def test_a_shared_direction_carries_over_and_costs_nothing():
    sets = {lang: extraction(lang, np.c_[noise(s), LABELS * 3.0]) for s, lang in enumerate(WORDS)}
    got = probes.transfer(sets, groups=np.arange(N), classifier="difference", baselines=("bag-of-words",))
    np.testing.assert_allclose(only(got), 1)
    assert values(got.lost["bag-of-words"])[0, 1] < 0.2, "words do not even help at home"
    ahead = got.ahead["bag-of-words"][0][1]
    assert 0 < ahead.low < ahead.value < ahead.high, "no word is in both languages"


def test_a_feature_of_one_language_alone_carries_nothing_over():
    """Feature 6 says the label in English, feature 7 in Spanish."""
    empty = np.zeros(N)
    sets = {
        "en": extraction("en", np.c_[noise(0), LABELS * 3.0, empty]),
        "es": extraction("es", np.c_[noise(1), empty, LABELS * 3.0]),
    }
    got = probes.transfer(sets, groups=np.arange(N), baselines=("majority",))
    found = only(got)
    assert found[0, 0] > 0.95 and found[1, 1] > 0.95
    assert found[0, 1] < 0.62 and found[1, 0] < 0.62
    lost = next(iter(got.lost.values()))
    assert lost[0][1].low > 0.2 and lost[0][0].value == lost[0][0].high == 0
    assert got.macro_f1["majority"][0][1].value == pytest.approx(1 / 3, abs=0.02)


def test_what_only_a_translation_gives_away_is_not_learned():
    """Each pair of sentences has a feature of its own, and random labels: across the split nothing can be known."""
    labels = np.random.default_rng(3).integers(0, 2, N)
    sets = {lang: extraction(lang, np.eye(N) * 5, labels) for lang in WORDS}
    leaky = only(probes.transfer(sets, classifier="difference", baselines=()))
    apart = only(probes.transfer(sets, groups=np.arange(N), classifier="difference", baselines=()))
    assert (leaky[[0, 1], [1, 0]] > 0.95).all(), "trained on all English, each Spanish sentence is known already"
    assert (apart < 0.62).all()


def test_a_chain_of_translations_stays_together_too():
    """Rows 2i and 2i + 1 share a translation, so have one group, one feature and one label."""
    labels = np.repeat(np.random.default_rng(4).integers(0, 2, N // 2), 2)
    columns = np.repeat(np.eye(N // 2) * 5, 2, axis=0)
    sets = {lang: extraction(lang, columns, labels) for lang in WORDS}
    options = {"classifier": "difference", "baselines": ()}
    assert only(probes.transfer(sets, groups=np.arange(N), **options)).min() > 0.7, "the other row gives it away"
    assert only(probes.transfer(sets, groups=np.arange(N) // 2, **options)).max() < 0.65


def test_shuffled_labels_give_chance_everywhere():
    labels = np.random.default_rng(5).permutation(LABELS)
    sets = {lang: extraction(lang, np.c_[noise(s), LABELS * 3.0], labels) for s, lang in enumerate(WORDS)}
    got = probes.transfer(sets, groups=np.arange(N))
    for table in got.macro_f1.values():
        assert (np.abs(values(table) - 0.5) < 0.17).all()


def test_the_order_of_the_sentences_changes_nothing():
    columns = [np.c_[noise(s), LABELS + noise(s + 5, 1)[:, 0] * 2] for s in (0, 1)]
    one = probes.transfer(dict(zip(WORDS, map(extraction, WORDS, columns), strict=True)), groups=np.arange(N) // 3)
    order = np.random.default_rng(0).permutation(N)
    shuffled = {lang: extraction(lang, c, order=order) for lang, c in zip(WORDS, columns, strict=True)}
    other = probes.transfer(shuffled, groups=(np.arange(N) // 3)[order])
    assert repr(one) == repr(other)


def test_differences_are_those_of_the_figures_on_the_same_texts():
    sets = {lang: extraction(lang, np.c_[noise(s), LABELS + 3 * noise(s + 5, 1)]) for s, lang in enumerate(WORDS)}
    got = probes.transfer(sets, groups=np.arange(N), baselines=("hidden-mean", "majority"))
    name, *others = got.macro_f1
    for probe, table in got.macro_f1.items():
        np.testing.assert_allclose(values(got.lost[probe]), np.diag(values(table)) - values(table))
    for other in others:
        np.testing.assert_allclose(values(got.ahead[other]), only(got) - values(got.macro_f1[other]))
    assert list(got.ahead) == others and name not in got.ahead
    assert got.shared == ((0, 0), (0, 0))


def test_groups_must_be_one_for_each_text():
    sets = {lang: extraction(lang, noise(0)) for lang in WORDS}
    with pytest.raises(ProbeError, match="groups: 99 rows for 160 texts"):
        probes.transfer(sets, groups=np.arange(99))


def test_a_saved_transfer_comes_back_with_its_differences(tmp_path):
    sets = {lang: extraction(lang, np.c_[noise(s), LABELS * 3.0]) for s, lang in enumerate(WORDS)}
    got = probes.transfer(sets, groups=np.arange(N))
    got.save(tmp_path / "t.safetensors")
    again = probes.Transfer.load(tmp_path / "t.safetensors")
    assert (again.lost, again.ahead, again.macro_f1) == (got.lost, got.ahead, got.macro_f1)
