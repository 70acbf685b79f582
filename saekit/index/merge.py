"""From what passes collected to the arrays of a finished index, from finished indexes back, and several to one."""

import hashlib
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer

from saekit._base.manifest import part_of
from saekit._base.progress import Progress, Stop, tracked
from saekit._base.store import Format
from saekit._base.writer import Writer
from saekit.data import Tokens
from saekit.errors import FeatureIndexError
from saekit.index.build import Pass, append_events, by_feature, run_pass
from saekit.index.collect import narrow
from saekit.index.identity import made_with
from saekit.index.read import Reader, gather, offsets
from saekit.index.search import coactivation, cosine, tables

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

INDEX = Format(
    "feature index",
    1,
    FeatureIndexError,
    remedy="delete it and build it again, or copy it again",
    fields={
        **dict.fromkeys(("d_sae", "counted", "events", "examples", "window"), int),
        **dict.fromkeys(("kind", "hook_name", "model_name"), str),
        "excluded": dict,
    },
)
# What belongs to the weights or the vocabulary: the same in every part.
_SHARED = (
    "vocabulary",
    "vocabulary_start",
    "promoted_ids",
    "promoted_logits",
    "suppressed_ids",
    "suppressed_logits",
    "direction",
)
# Two kinds of array are mostly redundancy: offsets are stored as the lengths between them, sorted owners as how many
# rows each has.
_OFFSETS = ("top_start", "sampled_start", "vocabulary_start")
_OWNERS = ("top_feature", "sampled_feature")


def packed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of an index as they are stored."""
    out = dict(arrays)
    for name in (*_OFFSETS, *_OWNERS):
        array = np.diff(arrays[name]) if name in _OFFSETS else np.bincount(arrays[name])
        out[name] = array.astype(np.min_scalar_type(array.max(initial=0)))
    return out


def unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return stored arrays as they are used."""
    out = dict(arrays)
    for name in _OFFSETS:
        out[name] = offsets(arrays[name])
    for name in _OWNERS:
        out[name] = np.repeat(np.arange(len(arrays[name]), dtype=np.int32), arrays[name])
    return out


def in_order(tokens: Tokens) -> Tokens:
    """Return a corpus with its rows in the order of their numbers.

    Raises:
        FeatureIndexError: It has no tokens, or two rows of one number.
    """
    if not len(tokens) or not tokens.n_tokens:
        raise FeatureIndexError("the corpus has no tokens: there is nothing to index")
    ids, order = np.unique(tokens.sequence_ids, return_index=True)
    if len(ids) != len(tokens):
        raise FeatureIndexError("two rows of the corpus have the same sequence id: give each its own")
    if (np.diff(order) == 1).all():
        return tokens
    return replace(tokens, ids=tokens.ids[order], document=tokens.document[order], sequence_ids=ids)


def runs(document: Integer[np.ndarray, "sequence pos"]) -> dict[str, np.ndarray]:
    """Return the document numbers of a corpus as they are stored: runs of equal ones, each within a row."""
    begins = np.ones(document.shape, bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    start = np.flatnonzero(begins)
    length = np.diff(start, append=document.size)
    number = document.reshape(-1)[start].astype(np.int32)
    return {"document_length": length.astype(np.min_scalar_type(document.shape[1])), "document_number": number}


@contextmanager
def place(path: Path | str | None) -> "Generator[tuple[Path, tempfile.TemporaryDirectory | None]]":
    """Yield where to write an index, and the owner of that place if it is a temporary one, which goes with an error.

    Raises:
        FeatureIndexError: Something else than an index is there, which writing would replace.
    """
    if path is None:
        owner = tempfile.TemporaryDirectory(prefix="saekit-index-")
        try:
            yield Path(owner.name) / "index", owner
        except BaseException:
            owner.cleanup()
            raise
        return
    target = Path(path).expanduser().absolute()
    INDEX.check_free(target)
    try:
        yield target, None
    except BaseException as error:  # Ctrl-C above all
        if (partial := unfinished(target)).is_dir():
            error.add_note(
                f"{partial} keeps what is done up to the last checkpoint: call build again with the same arguments and "
                f"path to go on from there, or delete it"
            )
        raise


def unfinished(target: Path) -> Path:
    """Return the folder in which an index grows that is to be at ``target``."""
    return target.with_name(f"{target.name}.partial")


def how_far(partial: Path) -> str:
    """Return how much of a corpus an unfinished index holds, in words; empty if that cannot be read."""
    try:
        return part_of(INDEX.load(partial, verify=False, partial=True).about, " of ")
    except FeatureIndexError:  # what takes it up says what is wrong with it
        return ""


def corpus_hash(rows: Integer[np.ndarray, "sequence pos"], sequence_ids: Integer[np.ndarray, " sequence"]) -> str:
    """Return a SHA-256 over the tokens, or the document numbers, of a corpus in the order of its sequence ids."""
    digest = hashlib.sha256(str(rows.shape).encode())
    digest.update(np.ascontiguousarray(sequence_ids, "<i8").data)
    digest.update(np.ascontiguousarray(rows, "<i4").data)
    return digest.hexdigest()


def fill(
    folder: Path,
    model: "SAETransformerBridge",
    sae: "SAE[Any]",
    tokens: Tokens,
    identity: Mapping[str, Any],
    *,
    batch_size: int,
    progress: Progress,
    stop: Stop,
) -> None:
    """Build an index in a folder: from its last checkpoint on, or from nothing."""
    about = {
        **identity,
        "model_name": model.cfg.model_name,
        "corpus": tokens.name,
        "sources": list(tokens.sources),
        "split": tokens.split,
        "bos_first": tokens.bos_first,
        "neuronpedia_id": getattr(sae.cfg.metadata, "neuronpedia_id", None),
        "versions": {name: version(name) for name in ("torch", "transformer-lens", "sae-lens")},
    }
    corpus = {"tokens": tokens.ids, "sequence_ids": tokens.sequence_ids, **runs(tokens.document)}
    hopeless = False
    try:
        with INDEX.resume(folder, identity) as out:
            try:
                state = run_pass(model, sae, tokens, out, batch_size=batch_size, progress=progress, stop=stop)
                finish(out, about, state, corpus | tables(model, sae), stop)
            except FeatureIndexError:  # going on would end the same way
                hopeless = True
                raise
    finally:
        if hopeless:
            shutil.rmtree(folder)


def finish(
    out: Writer, about: Mapping[str, Any], state: Pass, corpus: Mapping[str, np.ndarray], stop: Stop = None
) -> None:
    """Write the last arrays of an index, and the manifest with which it counts.

    Args:
        out: The folder; that of a full index has a checkpoint with all events.
        about: What the manifest says besides what the pass counted.
        state: What the pass collected.
        corpus: Tokens and sequence ids in the order of the latter, and what follows from the weights.
        stop: Function that says whether to stop.
    """
    sequence_ids, n_pos = corpus["sequence_ids"], corpus["tokens"].shape[1]
    arrays = {**corpus, "tokens": narrow(corpus["tokens"]), **state.arrays(sequence_ids, n_pos)}
    arrays = packed(arrays)
    if about["kind"] == "full":
        stored = INDEX.load(out.folder, verify=False, partial=True).arrays
        log = {name: array for name, array in stored.items() if name.startswith("token_")}
        arrays |= by_feature(log, state.statistics.count, out.empty, stop)
    manifest = {**about, "counted": state.counted, "excluded": state.excluded, "events": state.events}
    out.finish(manifest, arrays)


# --- several indexes -------------------------------------------------------------------------------------------


def check(parts: Sequence[Reader]) -> list[Reader]:
    """Return indexes in the order of their corpora.

    Raises:
        FeatureIndexError: They cannot be merged; the message says why.
    """
    if not parts:
        raise FeatureIndexError("nothing to merge: expected at least one index")
    for part in parts[1:]:
        for one, other in zip(made_with(parts[0].about), made_with(part.about), strict=True):
            if words := one.difference(other):
                raise FeatureIndexError(
                    f"the indexes are of different {one.kind}s ({'; '.join(words)}): they cannot be merged"
                )
    for key in ("kind", "hook_name", "examples", "window", "d_sae"):
        values = {str(part.about[key]) for part in parts}
        if len(values) > 1:
            raise FeatureIndexError(f"the indexes differ in {key} ({', '.join(sorted(values))}): they cannot be merged")
    if any(part.compacted for part in parts):
        raise FeatureIndexError("a compacted index cannot be merged: merge first, then compact")
    if len({part.n_pos for part in parts}) > 1:
        raise FeatureIndexError("the indexes have rows of different lengths: tokenise with one context_size")
    ids = np.concatenate([part.arrays["sequence_ids"] for part in parts])
    if len(np.unique(ids)) < len(ids):
        raise FeatureIndexError(
            f"{len(ids) - len(np.unique(ids)):,} sequences are in more than one index, and would be counted twice: "
            f"leave one of the indexes out"
        )
    return sorted(parts, key=lambda part: int(part.arrays["sequence_ids"][0]))


def join(parts: Sequence[Reader], out: Writer, progress: Progress = False, stop: Stop = None) -> None:
    """Write the index of several corpora together."""
    first = parts[0]
    state = Pass(first.d_sae, examples=first.about["examples"], window=first.window, n_pos=first.n_pos)
    for part in tracked(parts, progress, "index", stop=stop, title="Merging"):
        state.merge(Pass.of(part))
    ids = np.concatenate([part.arrays["sequence_ids"] for part in parts])
    order = np.argsort(ids, kind="stable")
    tokens = np.concatenate([part.arrays["tokens"] for part in parts])[order]
    corpus = {"tokens": tokens, "sequence_ids": ids[order], **{name: first.arrays[name] for name in _SHARED}}
    # The documents are those of the parts, and only a build compares them.
    about = {key: value for key, value in first.about.items() if key != "documents_hash"}
    if all("document_length" in part.arrays for part in parts):
        corpus |= runs(np.concatenate([part.documents[0] for part in parts])[order])
    about["bos_first"] = all(part.first_shown for part in parts)
    about["sources"] = sorted({source for part in parts for source in part.about["sources"]})
    about["tokens_hash"] = corpus_hash(tokens, corpus["sequence_ids"])
    if not first.bounded:
        _append_logs(parts, out)
        out.checkpoint(about)
    finish(out, about, state, corpus, stop)


def _append_logs(parts: Sequence[Reader], out: Writer) -> None:
    """Write the events of all parts, in the order of their tokens."""
    columns = ("token_place", "token_length", "token_feature", "token_value")
    places = [place for part in parts if len(place := part.arrays["token_place"])]
    if all(before[-1] < after[0] for before, after in pairwise(places)):  # one part after the other: the usual case
        for part in parts:
            append_events(out, part.d_sae, *(part.arrays[name] for name in columns))
        return
    place, length, feature, value = (np.concatenate([part.arrays[name] for part in parts]) for name in columns)
    order = np.argsort(place, kind="stable")
    start = offsets(length)
    feature, value = gather(feature, start, order), gather(value, start, order)
    append_events(out, parts[0].d_sae, place[order], length[order], feature, value)


def compact_arrays(
    index: Reader, intervals: int, per: int, progress: Progress = False, stop: Stop = None
) -> dict[str, np.ndarray]:
    """Return a bounded index's arrays with few interval examples, and neighbours in place of the token sample.

    Args:
        index: The bounded index.
        intervals: Number of intervals whose examples stay.
        per: Number of examples that stay in each.
        progress: Show a progress bar; or a function that is given (done, total) after each part.
        stop: Function that is asked between parts; once it returns True, `saekit.errors.Stopped` is raised.
    """
    if not index.bounded:
        raise FeatureIndexError("only a bounded index can be compacted: build it with examples_per_feature=")
    old = index.arrays
    arrays = {name: array for name, array in old.items() if not name.startswith(("sample_", "sampled_", "direction"))}
    maximum = old["max"]
    rows = [index.interval_rows(f, float(maximum[f]), intervals, per) for f in np.flatnonzero(old["count"])]
    chosen = np.unique(np.concatenate([np.zeros(0, np.int64), *rows]))
    start = np.asarray(old["sampled_start"], np.int64)
    for name in ("feature", "value", "pointer"):
        arrays[f"sampled_{name}"] = old[f"sampled_{name}"][chosen]
    for name in ("offset", "around"):
        arrays[f"sampled_{name}"] = gather(old[f"sampled_{name}"], start, chosen)
    arrays["sampled_start"] = offsets(np.diff(start)[chosen])
    nearest = [cosine(old, part) for part in np.array_split(np.arange(index.d_sae), -(-index.d_sae // 256))]
    arrays["cosine_ids"] = narrow(np.concatenate([ids for ids, _ in nearest]))
    arrays["cosines"] = np.concatenate([scores for _, scores in nearest])
    features = tracked(range(index.d_sae), progress, "feature", stop=stop, title="Compacting")
    close = [coactivation(index, feature) for feature in features]
    arrays["coactivation_ids"] = narrow(np.stack([ids for ids, _ in close]))
    arrays["coactivations"] = np.stack([scores for _, scores in close]).astype(np.float16)
    for name in ("promoted_logits", "suppressed_logits", "cosines"):
        arrays[name] = np.asarray(arrays[name], np.float16)
    return arrays
