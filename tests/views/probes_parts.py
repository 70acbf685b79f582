"""What the tests of the probes view are made of: short texts of two kinds, a random SAE, a small grid."""

from functools import cache

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.saes import sae_identity
from saekit.views._shared.words import sig
from tests import tiny
from tests.probes.test_extract import made_up_texts
from tests.views.fake_index import FakeIndex

D_SAE = 96
OPTIONS = {"poolings": ("max", "sum"), "binarisings": ("none", "above-zero"), "classifiers": ("difference", "logistic"),
           "baselines": ("majority", "bag-of-words"), "folds": 4}  # fmt: skip
HOSTILE = '<img src=x onerror="window.hacked=1">'


@cache
def random_sae():
    return tiny.topk_sae(32, D_SAE)


def labelled(n_texts=80, names=("plain", HOSTILE)):
    """Texts whose class, of a hostile name, is whether a cat is in them."""
    texts = made_up_texts(n_texts, seed=5)
    return labelled_texts(texts, [names["cat" in text] for text in texts], name="cats & <others>")


def extraction(model, data=None):
    return probes.extract_features(model, {"s": random_sae()}, data or labelled(), progress=False)


def fake_index(sae=None):
    """An index that says it is of this SAE; its feature 3 is dead, its feature 7 holds hostile text."""
    index = FakeIndex(d_sae=D_SAE)
    index.sae_identity = sae_identity(random_sae() if sae is None else sae)
    return index


def context_of(before, peak, after):
    """A context as it is read: whitespace other than spaces as marks, on the peak spaces too."""
    marks = str.maketrans("\n\t\0", "↵⇥\ufffd")
    return f"{before}{peak.replace(' ', '·')}{after}".translate(marks)


def contexts_of_index(feature, k):
    """Value and text of the strongest contexts in the index: nine tokens before the peak, six after it."""
    found = []
    for example in fake_index().top(feature, k):
        kept = [i for i, token in enumerate(example.tokens) if token]  # a piece of a character stands in the one before
        at = max(n for n, i in enumerate(kept) if i <= example.peak)
        words = [example.tokens[i] for i in kept]
        parts = words[max(0, at - 9) : at], words[at : at + 1], words[at + 1 : at + 7]
        found.append((sig(example.value), context_of(*map("".join, parts))))
    return found


def first_in_index(feature):
    """What the row of a feature shows of the index: the strongest context; nothing of a dead one."""
    return next((words for _, words in contexts_of_index(feature, 1)), "")
