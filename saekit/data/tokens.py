"""Corpora: named, pinned, licensed collections of text, tokenised to ``[sequence, pos]``.

A document never loses its boundary: every position knows which document it belongs to, and documents are parted
by the BOS token. Which documents are held out depends on the document alone, so no text that an SAE was trained on
can slip into its evaluation: `saekit.data.split` for corpora of your own.
"""

import hashlib
import json
import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit._base.cache import cache_dir, made_once
from saekit._base.checks import unicode_text, whole
from saekit._base.identity import Identity
from saekit._base.progress import tracked
from saekit._base.store import Format
from saekit._base.table import Column, Table
from saekit.data.documents import documents, existing
from saekit.data.sources import SOURCES, Source
from saekit.data.split import HELD_OUT, Split
from saekit.errors import DataError
from saekit.models import (
    bos_token_id,
    check_tokens,
    context_length,
    counted as counted_tokens,
    token_ids,
    tokenizer_identity,
)

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

CORPORA = {
    "english": ("wikitext", "wikipedia", "sentences", "news", "dialogue", "opinion"),
    "english-open": ("wikitext", "wikipedia", "sentences"),  # openly licensed text only
}
_STORED = Format("tokenised corpus", 1, DataError, remedy="delete it, and it is made again")


@dataclass(frozen=True)
class Tokens:
    """A tokenised corpus.

    Attributes:
        ids: Token ids. Column 0 is BOS where the model has one; rows are full, but for the last.
        document: Number of the document each token belongs to, -1 at BOS, separators and padding.
        sequence_ids: A number for each row that stays the same when the corpus is cut into shards.
        name: Name of the corpus.
        sources: Names of the sources that it was made from.
        split: "train" or "heldout".
        how: What a document is, in words: "by blank lines"; "" where the source says it itself.
    """

    ids: Int[np.ndarray, "sequence pos"]
    document: Int[np.ndarray, "sequence pos"]
    sequence_ids: Int[np.ndarray, " sequence"]
    name: str = "texts"
    sources: tuple[str, ...] = ()
    split: str = "train"
    how: str = ""

    def __getitem__(self, rows: slice) -> "Tokens":
        """Return some of the rows."""
        if not isinstance(rows, slice):
            raise DataError(f"Tokens takes a slice of rows such as tokens[:100], not {rows!r}")
        return replace(self, ids=self.ids[rows], document=self.document[rows], sequence_ids=self.sequence_ids[rows])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_tokens(self) -> int:
        """Number of text tokens: BOS, separators and padding are not counted."""
        return int((self.document >= 0).sum())

    @property
    def bos_first(self) -> bool:
        """Whether every row begins with BOS: a token that is no text, the same one in all."""
        first = self.ids[:1, 0]
        return bool((self.document[:, 0] < 0).all() and (self.ids[:, 0] == first).all()) and len(self) > 0

    def fingerprint(self) -> str:
        """Return a SHA-256 over ids and row numbers: equal fingerprints, equal corpora."""
        digest = hashlib.sha256(str(self.ids.shape).encode())
        for array in (self.ids, self.document, self.sequence_ids):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return digest.hexdigest()

    def identity(self) -> Identity:
        """Return everything that decides what a model reads of the corpus."""
        rows, pos = self.ids.shape
        bos = int(self.ids[0, 0]) if self.bos_first else None
        return Identity(
            "corpus", {"rows": rows, "context size": pos, "begins with": bos, "content": self.fingerprint()}
        )

    def __repr__(self) -> str:
        rows, pos = self.ids.shape
        how = f"; documents {self.how}" if self.how else ""
        return f"Tokens({self.name!r}, {self.split}, {self.n_tokens:,} tokens in {rows:,} sequences of {pos}{how})"


_COLUMNS = (
    Column("corpus", lambda row: row[0]),
    Column("source", lambda row: row[1].name),
    Column("style", lambda row: row[1].style),
    Column("licence", lambda row: row[1].licence),
    Column("citation", lambda row: row[1].citation, text=False),
    Column("package", lambda row: row[1].package, text=False),
)


def list_corpora() -> Table[tuple[str, Source]]:
    """List the corpora that need no hub: name and source, one row per source, with its licence and citation."""
    return Table(tuple((name, SOURCES[s]) for name, sources in CORPORA.items() for s in sources), _COLUMNS)


def load_corpus(
    name: "str | Path | Iterable[str] | Any" = "english",
    *,
    model: "SAETransformerBridge",
    context_size: int = 128,
    split: str = "train",
    max_tokens: int | None = None,
    text: str = "text",
    separator: str | None = None,
    configuration: str | None = None,
    progress: bool = True,
) -> Tokens:
    """Load and tokenise a corpus.

    Args:
        name: ``"english"`` (six sources in different styles, some 7 million tokens), ``"english-open"`` (its openly
            licensed part); or a corpus of your own: a file of text, whose documents are parted by blank lines, a
            .jsonl, .csv, .tsv or .parquet file, a data frame or a data set of ``datasets``, with a document per row,
            a folder of files, with a document per .txt file, an iterable of texts, or the name of a data set on the
            hub, which streams.
        model: Model whose tokenizer is used.
        context_size: Length of a row in tokens, BOS included; at most the model's context.
        split: ``"train"``, or ``"heldout"``: every document whose text hashes to 0 modulo 20, wherever it stands (of
            a packaged corpus, whose name and number in its source do: these are pinned, and decide what the bundled
            SAEs and indexes have seen).
        max_tokens: Number of tokens after which to stop; None for all. Rows of a packaged corpus are shuffled once,
            always in the same way, so the first rows are a fair sample of all sources. Needed for a hub data set,
            which may have no end.
        text: Name of the column that holds the text, of a corpus with rows.
        separator: What parts the documents of a file of text, such as ``"<|endoftext|>"``; None for blank lines.
        configuration: Part of a hub data set that has several.
        progress: Whether downloads and tokenising show progress bars.

    Raises:
        DataError: No such corpus; rows that hold no text, with file and line; or no document in this split.
        OfflineError: It has to be downloaded and cannot be.

    Warns:
        UserWarning: Held-out documents nearly equal documents of training (asked for one's own held-out split).
    """
    if split not in ("train", "heldout"):
        raise DataError(f"split must be 'train' or 'heldout', not {split!r}")
    _check_context(context_size, model)
    if isinstance(name, str) and name in CORPORA:
        tokens = _packaged(name, model, context_size, split, progress)
    else:
        if isinstance(name, str | Path) and existing(name) is None and max_tokens is None:
            raise DataError(
                f"no packaged corpus or local file {str(name)!r:.80} (packaged: {', '.join(CORPORA)}). To stream it "
                f"from the hub, say how much with max_tokens="
            )
        found = documents(name, text=text, separator=separator, configuration=configuration)
        side = Split(split == "heldout")
        rows = None if max_tokens is None else -(-max_tokens // (context_size - 1))
        tokens = _pack(side.of(found.texts), model, context_size, rows)
        tokens = replace(tokens, name=found.name, sources=(found.name,), split=split, how=found.how)
        if not tokens.n_tokens:
            raise DataError(
                f"corpus {found.name!r} has no tokens in its {split} split: documents are taken {found.how}, it has "
                f"{side.seen:,}, and about one in {HELD_OUT} is held out, by the hash of its text. Part it into more "
                f"documents (separator=, or one per row), or keep texts apart yourself: tokens_from_texts"
            )
        if side.held_out:
            side.warn(found.name)
    if max_tokens is not None:
        per_row = (tokens.document >= 0).sum(1)
        tokens = tokens[: int(np.searchsorted(np.cumsum(per_row), max_tokens)) + 1]
    if not tokens.n_tokens:
        raise DataError(f"corpus {tokens.name!r} has no tokens in its {split} split: is it empty?")
    return tokens


def _check_context(context_size: int, model: "SAETransformerBridge") -> None:
    if (size := whole("context_size", context_size, error=DataError)) < 2:
        raise DataError(f"context_size must be at least 2 (BOS and one token), not {size}")
    most = context_length(model)
    if most is not None and size > most:
        raise DataError(
            f"context_size {size:,} is longer than the context of {model.cfg.model_name}, {most:,} tokens: pass at "
            f"most that"
        )


def tokens_from_texts(texts: Sequence[str], *, model: "SAETransformerBridge", context_size: int = 128) -> Tokens:
    """Tokenise texts of your own, one document each.

    Raises:
        DataError: There are none, one of them is no text, or ``context_size`` is longer than the model's context.
    """
    if isinstance(texts, str):
        raise DataError("expected a list of texts, got one string: write tokens_from_texts([text], ...)")
    _check_context(context_size, model)
    texts = [unicode_text(f"text {i}", text, error=DataError) for i, text in enumerate(texts)]
    tokens = _pack(enumerate(texts), model, context_size, None)
    if not tokens.n_tokens:
        raise DataError("no tokens: expected at least one text that is not empty")
    return tokens


def tokens_from_ids(
    ids: Any,
    *,
    model: "SAETransformerBridge",
    document: Any = None,
    padding: int | None = None,
    name: str = "ids",
) -> Tokens:
    """Make a corpus of token ids of your own.

    Args:
        ids: Token ids ``[sequence, pos]``: a tensor, an array or lists of whole numbers, in rows of one length.
        model: Model that is to read them.
        document: Number of each token's document ``[sequence, pos]``, -1 where it is no text; None: every row begins a
            document, and so does every BOS of the model in it.
        padding: Token id that fills rows up behind their text; None where none does. Not with ``document``.
        name: Name of the corpus.

    Raises:
        DataError: No rows of one length, not whole numbers, not tokens of the model, rows longer than its context, or
            no text among them.
    """
    try:
        given = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the corpus must be token ids in rows of one length, not {ids!r:.80}: fill the rows up with a token that "
            f"padding= names, or cut them"
        ) from error
    table = check_tokens(model, given, name="the corpus", error=DataError).cpu().numpy()
    if document is None:
        bos = bos_token_id(model)
        text = np.ones(table.shape, bool) if bos is None else table != bos
        numbers = np.cumsum(~text | (np.arange(table.shape[1]) == 0)).reshape(table.shape) - 1
        if padding is not None:
            text &= np.cumsum((table != padding)[:, ::-1], 1)[:, ::-1] > 0
    else:
        numbers = _document_numbers(document, table.shape)
        text = numbers >= 0
    if not text.any():
        raise DataError("no token of the corpus is text: all are BOS, padding, or of document -1")
    numbers = np.where(text, numbers, -1).astype(np.int32)
    return Tokens(table.astype(np.int32), numbers, np.arange(len(table), dtype=np.int64), name, (name,))


def _document_numbers(document: Any, shape: tuple[int, ...]) -> Int[np.ndarray, "sequence pos"]:
    numbers = np.asarray(document)
    if numbers.shape != shape or numbers.dtype.kind not in "iu" or numbers.min() < -1 or numbers.max() >= 2**31:
        raise DataError(
            f"document must be whole numbers of shape {shape}, -1 for no text, not {numbers.dtype} of {numbers.shape}"
        )
    return numbers


def counted(
    batch: Tokens, states: Float[Tensor, "batch pos ..."], special: Int[Tensor, " n"]
) -> tuple[Bool[Tensor, "batch pos"], dict[str, int]]:
    """Decide which tokens count in statistics; return them, and how many are left out by reason.

    The rule of `saekit.models.counted`, for which a corpus knows where its text is.

    Args:
        batch: Some rows of a corpus.
        states: The model's activations on them.
        special: Ids of special tokens.
    """
    text = torch.from_numpy(batch.document) >= 0
    return counted_tokens(torch.from_numpy(batch.ids), states, special, text=text)


def _held_out(source: str, number: int) -> bool:
    """Return whether a document of a packaged source is held out, by its number in the pinned file.

    Not by its text, as those of your own are: this rule decided what the bundled SAEs were trained on, and their
    indexes hold. The files are checked by SHA-256, so a number is as stable a name as a text.
    """
    return zlib.crc32(f"{source}/{number}".encode()) % HELD_OUT == 0


def _packaged(name: str, model: "SAETransformerBridge", context_size: int, split: str, progress: bool) -> Tokens:
    """Tokenise a packaged corpus, or read it back from the cache."""
    recipe = [CORPORA[name], context_size, split, tokenizer_identity(model).digest, "format 2"]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]

    def make(draft: Path) -> None:
        texts = []
        for source in CORPORA[name]:
            numbered = enumerate(SOURCES[source].documents(progress))
            texts += [text for number, text in numbered if _held_out(source, number) == (split == "heldout")]
        random.Random(0).shuffle(texts)  # mixes the sources along the document numbers
        shown = tracked(texts, progress, "document", title=f"Tokenising {name} ({split})")
        packed = _pack(enumerate(shown), model, context_size, None)
        order = np.random.default_rng(0).permutation(len(packed))
        _STORED.save_file(draft, {}, {"ids": packed.ids[order], "document": packed.document[order]})

    arrays = _STORED.load(made_once(cache_dir() / "tokens" / f"{name}-{split}-{key}.safetensors", make)).arrays
    return Tokens(
        arrays["ids"], arrays["document"], np.arange(len(arrays["ids"]), dtype=np.int64), name, CORPORA[name], split
    )


def _tokenizer(model: "SAETransformerBridge"):
    if model.tokenizer is None:
        raise DataError(f"{model.cfg.model_name} has no tokenizer, so it cannot read text: build Tokens from ids")
    return model.tokenizer


def _pack(
    documents: Iterable[tuple[int, str]], model: "SAETransformerBridge", context_size: int, max_rows: int | None
) -> Tokens:
    """Lay documents end to end, parted by BOS, in rows that each begin with BOS."""
    _tokenizer(model)
    bos = bos_token_id(model)
    body = context_size - (bos is not None)
    ids: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    filled = 0
    stream = iter(documents)
    while (max_rows is None or filled < max_rows * body) and (batch := list(islice(stream, 256))):
        for (number, _), document in zip(
            batch, token_ids(model, [text for _, text in batch], error=DataError), strict=True
        ):
            if not document:
                continue
            separator = [bos] if bos is not None and ids else []
            ids.append(np.array(separator + document, dtype=np.int32))
            numbers.append(np.array([-1] * len(separator) + [number] * len(document), dtype=np.int32))
            filled += len(ids[-1])
    flat = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    rows = -(-len(flat) // body)
    padding = rows * body - len(flat)
    pad = bos if bos is not None else 0
    table = np.concatenate([flat, np.full(padding, pad, np.int32)]).reshape(rows, body)
    document = np.concatenate([*numbers, np.full(padding, -1, np.int32)]).reshape(rows, body).astype(np.int32)
    if bos is not None:
        first = np.full((rows, 1), bos, np.int32)
        table, document = np.hstack([first, table]), np.hstack([np.full_like(first, -1), document])
    return Tokens(table, document, np.arange(rows, dtype=np.int64))
