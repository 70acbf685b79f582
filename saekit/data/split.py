"""Which documents are held out, decided by their text alone, and how many of them nearly stand in training too.

A file that moves, grows at the top or changes its format keeps its split: a document that an SAE was trained on is
never held out from it elsewhere.
"""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

HELD_OUT = 20  # one document in 20
_COMPARED = 10_000  # documents, by their first characters: some five seconds
_CHARACTERS = 1_000
_SHINGLE = 5  # characters
_ALIKE = 0.8  # share of common shingles among those that either has (Jaccard)


def is_held_out(text: str) -> bool:
    """Return whether a document is held out: SHA-256 of its text, with white space made alike, is 0 modulo 20."""
    digest = hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


@dataclass
class Split:
    """One side of a corpus, document by document.

    Attributes:
        held_out: Which side it is.
        seen: Number of documents of either side so far.
        starts: Beginnings of the first documents, of training and held out.
    """

    held_out: bool
    seen: int = 0
    starts: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))

    def of(self, texts: Iterable[str]) -> Iterator[tuple[int, str]]:
        """Yield the documents of this side, each with its number in the corpus."""
        for number, text in enumerate(texts):
            held_out = is_held_out(text)
            self.seen += 1
            if number < _COMPARED:
                self.starts[held_out].append(text[:_CHARACTERS])
            if held_out == self.held_out:
                yield number, text

    def warn(self, name: str) -> None:
        """Say how many held-out documents nearly equal one of training, if there are any."""
        training, held_out = self.starts
        if alike := near_duplicates(held_out, training):
            compared = f" of the first {_COMPARED:,} documents" if self.seen > _COMPARED else ""
            warnings.warn(
                f"{name!r}: {alike:,} of {len(held_out):,} held-out documents{compared} nearly equal a training "
                f"document, so what is measured on them was partly trained on: leave copies out of the corpus",
                stacklevel=3,
            )


def near_duplicates(texts: list[str], others: list[str]) -> int:
    """Return how many texts nearly equal one of others: a Jaccard similarity of hashed shingles from `_ALIKE` on."""
    from sklearn.feature_extraction.text import HashingVectorizer

    if not texts or not others:
        return 0
    hashed = HashingVectorizer(
        analyzer="char",
        ngram_range=(_SHINGLE, _SHINGLE),
        n_features=2**20,
        binary=True,
        norm=None,
        alternate_sign=False,
    )
    a, b = hashed.transform(texts), hashed.transform(others)
    sizes, other_sizes = (np.asarray(matrix.sum(1)).ravel() for matrix in (a, b))
    both = (a @ b.T).tocoo()
    jaccard = both.data / (sizes[both.row] + other_sizes[both.col] - both.data)
    return len(np.unique(both.row[jaccard >= _ALIKE]))
