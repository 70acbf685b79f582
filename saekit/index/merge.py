"""From what passes collected to the arrays of a finished index, and from finished indexes back."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saekit._base.cache import atomic
from saekit.errors import FeatureIndexError
from saekit.index.build import Pass, by_feature
from saekit.index.search import coactivation, cosine, gather
from saekit.index.slots import Candidates
from saekit.index.store import new_array, write_arrays, write_folder

if TYPE_CHECKING:
    from saekit.index.feature_index import FeatureIndex

# What belongs to the weights or the vocabulary: the same in every part.
SHARED = (
    "vocabulary", "vocabulary_start", "promoted_ids", "promoted_logits", "suppressed_ids", "suppressed_logits",
    "direction",
)  # fmt: skip


def corpus_hash(tokens: np.ndarray, sequence_ids: np.ndarray) -> str:
    """Return a SHA-256 over a corpus in the order of its sequence ids."""
    digest = hashlib.sha256(str(tokens.shape).encode())
    order = np.argsort(sequence_ids, kind="stable")
    digest.update(np.ascontiguousarray(sequence_ids[order], "<i8").tobytes())
    digest.update(np.ascontiguousarray(tokens[order], "<i4").tobytes())
    return digest.hexdigest()


def bos_first(tokens: np.ndarray) -> bool:
    """Say whether every row starts with the same token: BOS, which windows leave out."""
    return len(tokens) > 1 and bool((tokens[:, 0] == tokens[0, 0]).all())


def final_arrays(state: Pass, corpus: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Lay out what a pass collected; ``corpus`` is in the order of its sequence ids."""
    statistics = state.statistics
    arrays = dict(corpus)
    arrays["tokens"] = _narrow(corpus["tokens"])
    arrays |= {"count": statistics.count, "sum": statistics.sum, "max": statistics.max}
    arrays["histogram"] = statistics.histogram.astype(np.uint32 if statistics.count.max() < 2**32 else np.int64)
    arrays["range_exponent"] = statistics.range_exponent().astype(np.int8)
    n_pos = corpus["tokens"].shape[1]
    for kind in ("top", "sampled"):
        candidates: Candidates = getattr(state.collector, kind)
        row = np.searchsorted(corpus["sequence_ids"], candidates.place // n_pos)
        pointer = row * n_pos + candidates.place % n_pos
        where, offset = np.nonzero(candidates.around)
        arrays[f"{kind}_feature"] = _narrow(candidates.feature)
        arrays[f"{kind}_value"] = candidates.value
        arrays[f"{kind}_pointer"] = pointer.astype(np.int32 if corpus["tokens"].size < 2**31 else np.int64)
        arrays[f"{kind}_start"] = np.concatenate([[0], np.cumsum(np.bincount(where, minlength=len(row)))]).astype(
            np.int32
        )
        arrays[f"{kind}_offset"] = offset.astype(np.uint8 if candidates.around.shape[1] <= 256 else np.int32)
        arrays[f"{kind}_around"] = candidates.around[where, offset]
    sample = state.sample
    arrays |= {"sample_place": sample.place, "sample_length": sample.length.astype(np.int32)}
    return arrays | {"sample_features": _narrow(sample.features)}


def finish(
    target: Path, about: dict, state: Pass, corpus: dict[str, np.ndarray], log: dict[str, np.ndarray] | None
) -> None:
    """Write a finished index: complete under its name, or not at all."""
    arrays = final_arrays(state, corpus)
    manifest = about | {"counted": state.counted, "excluded": state.excluded, "events": state.events}
    manifest["bos_first"] = bos_first(corpus["tokens"])
    with atomic(target) as draft:
        draft.mkdir()
        if log is not None:
            arrays |= by_feature(log, state.statistics.count, lambda *about: new_array(draft, *about))
            arrays |= log
        write_arrays(draft, manifest, arrays)


def _narrow(ids: np.ndarray) -> np.ndarray:
    """Store ids in 16 bits where they fit."""
    return ids.astype(np.uint16 if ids.max(initial=0) <= 65535 else np.int32)


def check(indexes: "Sequence[FeatureIndex]") -> "list[FeatureIndex]":
    """Return the indexes in the order of their corpora, or say why they cannot be merged."""
    if not indexes:
        raise FeatureIndexError("nothing to merge: expected at least one index")
    first = indexes[0]
    for key in ("kind", "sae_hash", "hook_name", "model_name", "examples", "window", "d_sae"):
        found = {str(index.manifest[key]) for index in indexes}
        if len(found) > 1:
            raise FeatureIndexError(f"the indexes differ in {key} ({', '.join(sorted(found))}): they cannot be merged")
    if any("coactivation_ids" in index._arrays for index in indexes):
        raise FeatureIndexError("a compacted index cannot be merged: merge first, then compact")
    if len({index._read.n_pos for index in indexes}) > 1:
        raise FeatureIndexError("the indexes have rows of different lengths: tokenise with one context_size")
    ids = np.concatenate([index._arrays["sequence_ids"] for index in indexes])
    if len(np.unique(ids)) < len(ids):
        raise FeatureIndexError(
            f"{len(ids) - len(np.unique(ids)):,} sequences are in more than one index: they would be counted twice"
        )
    return sorted(indexes, key=lambda index: int(index._arrays["sequence_ids"][0])) if first else []


def join(
    parts: "list[FeatureIndex]",
) -> tuple[Pass, dict[str, np.ndarray], dict[str, np.ndarray] | None, dict]:
    """Return the merged state, corpus, event log (full indexes) and what the manifest says of them."""
    first = parts[0]
    state = _state(first)
    for part in parts[1:]:
        state.merge(_state(part))
    ids = np.concatenate([p._arrays["sequence_ids"] for p in parts])
    order = np.argsort(ids, kind="stable")
    tokens = np.concatenate([p._arrays["tokens"] for p in parts])[order]
    corpus = {"tokens": tokens, "sequence_ids": ids[order], **{name: first._arrays[name] for name in SHARED}}
    kept = {k: v for k, v in first.manifest.items() if k not in ("arrays", "format", "counted", "excluded", "events")}
    del kept["documents_hash"]  # of the parts; only a build compares it
    kept["sources"] = sorted({source for p in parts for source in p.manifest["sources"]})
    kept["tokens_hash"] = corpus_hash(tokens, corpus["sequence_ids"])
    return state, corpus, None if first.bounded else _join_logs(parts), kept


def _join_logs(parts: "list[FeatureIndex]") -> dict[str, np.ndarray]:
    columns = {
        name: np.concatenate([p._arrays[name] for p in parts])
        for name in ("token_place", "token_length", "token_feature", "token_value")
    }
    order = np.argsort(columns["token_place"], kind="stable")
    if (np.diff(order) == 1).all():  # parts that follow one another: the usual case
        return columns
    start = np.concatenate([[0], np.cumsum(columns["token_length"], dtype=np.int64)])
    return {
        "token_place": columns["token_place"][order],
        "token_length": columns["token_length"][order],
        "token_feature": gather(columns["token_feature"], start, order),
        "token_value": gather(columns["token_value"], start, order),
    }


def _state(index: "FeatureIndex") -> Pass:
    """Turn a finished index back into what its pass had collected."""
    a, about = index._arrays, index.manifest
    state = Pass.new(index.d_sae, examples=about["examples"], window=about["window"], n_pos=index._read.n_pos)
    for key in vars(state.statistics):
        setattr(state.statistics, key, np.array(a[key]))
    state.statistics.histogram = state.statistics.histogram.astype(np.int64)
    kept = []
    for kind in ("top", "sampled"):
        pointer = np.asarray(a[f"{kind}_pointer"], np.int64)
        value = np.array(a[f"{kind}_value"])
        around = np.zeros((len(pointer), about["window"]), np.float16)
        row = np.repeat(np.arange(len(pointer)), np.diff(a[f"{kind}_start"]))
        around[row, a[f"{kind}_offset"]] = a[f"{kind}_around"]
        candidates = Candidates(
            feature=np.asarray(a[f"{kind}_feature"], np.int32),
            value=value,
            place=a["sequence_ids"][pointer // index._read.n_pos] * index._read.n_pos + pointer % index._read.n_pos,
            around=around,
        )
        kept.append(candidates)
    state.collector.restore(*kept, state.statistics.range_exponent())
    state.sample.place = np.array(a["sample_place"])
    state.sample.length = np.asarray(a["sample_length"], np.int64)
    state.sample.features = np.asarray(a["sample_features"], np.int32)
    state.excluded, state.counted, state.events = dict(index.excluded), index.n_tokens, about["events"]
    return state


def write_compact(index: "FeatureIndex", target: Path, chosen: np.ndarray) -> None:
    """Write a bounded index with the chosen interval examples only, and neighbours in place of the token sample."""
    if not index.bounded:
        raise FeatureIndexError("only a bounded index can be compacted: build it with examples_per_feature=")
    arrays = {k: v for k, v in index._arrays.items() if not k.startswith(("_", "sample_", "sampled_", "direction"))}
    start = np.asarray(index._arrays["sampled_start"], np.int64)
    for name in ("feature", "value", "pointer"):
        arrays[f"sampled_{name}"] = index._arrays[f"sampled_{name}"][chosen]
    for name in ("offset", "around"):
        arrays[f"sampled_{name}"] = gather(index._arrays[f"sampled_{name}"], start, chosen)
    arrays["sampled_start"] = np.concatenate([[0], np.cumsum(np.diff(start)[chosen])]).astype(np.int32)
    nearest = [cosine(index._arrays, part) for part in np.array_split(np.arange(index.d_sae), -(-index.d_sae // 256))]
    arrays["cosine_ids"] = _narrow(np.concatenate([ids for ids, _ in nearest]))
    arrays["cosines"] = np.concatenate([scores for _, scores in nearest])
    close = [coactivation(index._arrays, f, index.d_sae, True) for f in range(index.d_sae)]
    arrays["coactivation_ids"] = _narrow(np.stack([ids for ids, _ in close]))
    arrays["coactivations"] = np.stack([scores for _, scores in close]).astype(np.float16)
    for name in ("promoted_logits", "suppressed_logits", "cosines"):
        arrays[name] = np.asarray(arrays[name], np.float16)
    manifest = {k: v for k, v in index.manifest.items() if k not in ("arrays", "format")}
    manifest["coactivation_tokens"] = index.coactivation_tokens
    write_folder(target, manifest, arrays)
