"""Corpora: named, pinned, licensed collections of text, tokenised to ``[sequence, pos]``.

A document never loses its boundary: every position knows which document it belongs to, and documents are parted
by the BOS token. Which documents are held out depends on the document alone, so no text that an SAE was trained on
can slip into its evaluation.
"""

from saekit.data.documents import Documents, documents
from saekit.data.labelled import LabelledItems, labelled_texts, list_labelled, load_labelled
from saekit.data.parallel import PARALLEL, ParallelTexts, linked, load_parallel, parallel_texts
from saekit.data.tokens import CORPORA, Tokens, counted, list_corpora, load_corpus, tokens_from_ids, tokens_from_texts

__all__ = [
    "CORPORA",
    "PARALLEL",
    "Documents",
    "LabelledItems",
    "ParallelTexts",
    "Tokens",
    "counted",
    "documents",
    "labelled_texts",
    "linked",
    "list_corpora",
    "list_labelled",
    "load_corpus",
    "load_labelled",
    "load_parallel",
    "parallel_texts",
    "tokens_from_ids",
    "tokens_from_texts",
]
