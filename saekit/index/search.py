"""The parts of a feature index that deal in text and weights: vocabulary, logits, neighbours, search, prompts."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from saekit.errors import FeatureIndexError
from saekit.index.results import Example, Hit, PromptReading
from saekit.models import (
    counted,
    encode_start,
    final_norm,
    hidden_states,
    join_pieces,
    special_token_ids,
    token_bytes,
    unembedding,
)

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index.feature_index import FeatureIndex

KEPT = 10  # neighbours and logits a feature, each way
PROMPT_TOKENS = 1024  # a longer prompt is cut: attention on it would take gigabytes


@torch.no_grad()
def tables(model: "SAETransformerBridge", sae: "SAE[Any]") -> dict[str, np.ndarray]:
    """Return what follows from the weights alone: decoder directions, their logits, the vocabulary."""
    rows = sae.W_dec.detach().float()
    W_U = unembedding(model).detach().float()
    reads_residual = rows.shape[1] == W_U.shape[0]  # an SAE inside a head has no direct path to the logits
    kept = min(KEPT, W_U.shape[1] // 2) if reads_residual else 0
    arrays = {f"{side}_logits": np.zeros((len(rows), kept), np.float32) for side in ("promoted", "suppressed")}
    arrays |= {f"{side}_ids": np.zeros((len(rows), kept), _ids(W_U.shape[1])) for side in ("promoted", "suppressed")}
    # One buffer for all: small results that outlive large ones would pin the memory of every round.
    buffer = torch.empty(min(256, len(rows)), W_U.shape[1], device=W_U.device)
    for start in range(0, len(rows) if kept else 0, len(buffer)):
        part = slice(start, min(start + len(buffer), len(rows)))
        logits = torch.mm(final_norm(model, rows[part]), W_U, out=buffer[: part.stop - start])
        logits -= logits.mean(1, keepdim=True)
        for side, largest in (("promoted", True), ("suppressed", False)):
            values, ids = logits.topk(kept, largest=largest)
            arrays[f"{side}_logits"][part], arrays[f"{side}_ids"][part] = values.cpu(), ids.cpu()
    arrays["direction"] = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).cpu().numpy()
    pieces = token_bytes(model)
    start = np.concatenate([[0], np.cumsum([len(p) for p in pieces])]).astype(np.uint32)
    return arrays | {"vocabulary": np.frombuffer(b"".join(pieces), np.uint8), "vocabulary_start": start}


def _ids(size: int) -> type:
    """Return the smallest type that holds ids below ``size``."""
    return np.uint16 if size <= 65536 else np.int32


def cosine(arrays: dict[str, np.ndarray], features: np.ndarray) -> tuple[np.ndarray, Float[np.ndarray, "n k"]]:
    """Return the features whose decoder rows are closest to those of some features, by cosine, closest first.

    They are looked up when they are asked for: for all features at once they cost more than all the rest of a build.
    """
    if "cosine_ids" in arrays:
        return arrays["cosine_ids"][features], arrays["cosines"][features]
    direction = arrays["direction"]
    found = direction[features] @ direction.T
    found[np.arange(len(features)), features] = -2  # itself comes last
    kept = min(KEPT, len(direction) - 1)
    ids = np.argpartition(-found, kept - 1, axis=1)[:, :kept]
    scores = np.take_along_axis(found, ids, 1)
    order = np.lexsort((ids, -scores), axis=1)
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def coactivation(
    arrays: dict[str, np.ndarray], feature: int, d_sae: int, bounded: bool
) -> tuple[np.ndarray, Float[np.ndarray, " k"]]:
    """Return the features that fire on the same tokens as this one, by Jaccard overlap, closest first."""
    if "coactivation_ids" in arrays:
        return arrays["coactivation_ids"][feature], arrays["coactivations"][feature]
    kind = "sample" if bounded else "token"
    features = arrays["sample_features" if bounded else "token_feature"]
    # Both are kept with the arrays of this opened index: they cost a pass over all lengths.
    if f"_{kind}_start" not in arrays:
        lengths = arrays[f"{kind}_length"]
        arrays[f"_{kind}_start"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        arrays[f"_{kind}_count"] = np.bincount(features, minlength=d_sae) if bounded else arrays["count"]
    start, count = arrays[f"_{kind}_start"], arrays[f"_{kind}_count"]
    if bounded:
        if "_sample_rows" not in arrays:
            owner = np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start))
            arrays["_sample_rows"] = owner[np.argsort(features, kind="stable")]
            arrays["_sample_first"] = np.concatenate([[0], np.cumsum(count)])
        tokens = arrays["_sample_rows"][slice(*arrays["_sample_first"][feature : feature + 2])]
    else:
        place = arrays["event_place"][slice(*arrays["event_start"][feature : feature + 2])]
        tokens = np.searchsorted(arrays["token_place"], place)
    together = np.bincount(gather(features, start, tokens), minlength=d_sae)
    jaccard = together / np.maximum(count + count[feature] - together, 1)
    jaccard[feature] = 0
    best = np.argpartition(-jaccard, min(KEPT, d_sae - 1))[:KEPT]
    best = best[np.lexsort((best, -jaccard[best]))]
    return best, jaccard[best]


def gather(values: np.ndarray, start: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the values of some rows of a ragged array, one row after the other."""
    length = start[rows + 1] - start[rows]
    ends = np.cumsum(length)
    index = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - length, length) + np.repeat(start[rows], length)
    return np.asarray(values[index])


def fold(items: list[Example]) -> list[Example]:
    """Join examples with the same text around the peak; the strongest stands for all and counts the others."""
    from dataclasses import replace

    groups: dict[tuple[str, ...], list[Example]] = {}
    for item in items:
        near = tuple(item.tokens[max(0, item.peak - 5) : item.peak + 3])
        groups.setdefault(near, []).append(item)
    return [replace(group[0], duplicates=len(group) - 1) for group in groups.values()]


def search(index: "FeatureIndex", token: str | None, text: str | None, k: int) -> list[Hit]:
    """Return the features whose strongest examples fit a token or a text, by the share of activation that does."""
    query = (token or text or "").strip().casefold()
    if not query:
        return []
    arrays, read = index._arrays, index._read
    rows = read.rows_peaking_on(query) if token is not None else rows_with_text(index, query)
    owner, value = arrays["top_feature"], arrays["top_value"]
    total = np.bincount(owner, value, index.d_sae)
    fits = np.bincount(owner[rows], value[rows], index.d_sae)
    score = fits / np.where(total > 0, total, 1)
    best = np.lexsort((np.arange(index.d_sae), -fits, -score))[:k]
    strongest_row = dict(zip(owner[rows[::-1]].tolist(), rows[::-1], strict=True))  # rows are strongest first
    return [
        Hit(int(f), float(score[f]), read.stored_example("top", strongest_row[int(f)])) for f in best if fits[f] > 0
    ]


def rows_with_text(index: "FeatureIndex", query: str) -> np.ndarray:
    """Return the top examples whose window contains a text."""
    arrays: dict[str, Any] = index._arrays
    if "_joined" not in arrays:
        pieces = [_lower(index._read.bytes(i)) for i in range(len(arrays["vocabulary_start"]) - 1)]
        flat = np.asarray(arrays["tokens"]).ravel()
        arrays["_joined"] = b"".join(map(pieces.__getitem__, flat.tolist()))
        arrays["_joined_end"] = np.cumsum(np.array([len(p) for p in pieces])[flat])
    wanted = query.encode()
    # Occurrences may overlap, hence the lookahead.
    hits = [match.start() for match in re.finditer(b"(?=" + re.escape(wanted) + b")", arrays["_joined"])]
    if not hits:
        return np.zeros(0, np.int64)
    byte = np.array(hits, dtype=np.int64)
    first = np.searchsorted(arrays["_joined_end"], byte, side="right")  # token in which each occurrence begins
    last = np.searchsorted(arrays["_joined_end"], byte + len(wanted) - 1, side="right")
    pointer = np.asarray(arrays["top_pointer"], np.int64)
    row_begin = pointer - pointer % index._read.n_pos
    begin = np.maximum(pointer - index._read.left, row_begin + bool(index.manifest["bos_first"]))
    end = np.minimum(pointer - index._read.left + index.manifest["window"], row_begin + index._read.n_pos)
    # Occurrences are in order, so the first that begins in a window is the one that ends earliest.
    after = np.searchsorted(first, begin)
    return np.flatnonzero((after < len(last)) & (last[np.minimum(after, len(last) - 1)] < end))


def _lower(piece: bytes) -> bytes:
    """Fold the case of a token's bytes where they are whole characters."""
    try:
        return piece.decode().casefold().encode()
    except UnicodeDecodeError:
        return piece


@torch.no_grad()
def read_prompt(index: "FeatureIndex", model: "SAETransformerBridge", sae: "SAE[Any]", text: str) -> PromptReading:
    """Return all features at every token of a text, from one pass of the model and the SAE."""
    if sae.cfg.d_sae != index.d_sae:
        raise FeatureIndexError(
            f"the SAE has {sae.cfg.d_sae} features, the index {index.d_sae}: they do not belong together"
        )
    read = encode_start(model, text, most=min(PROMPT_TOKENS, model.cfg.n_ctx))
    ids = read.ids
    states = hidden_states(model, ids[None], index.hook_name)
    features = sae.encode(states.to(sae.dtype))[0].float().cpu().numpy()
    keep, _ = counted(ids[None], states, torch.tensor(special_token_ids(model), dtype=torch.long))
    pieces = [index._read.bytes(i) for i in ids]
    return PromptReading(join_pieces(pieces), features, ~keep[0].numpy(), read.cut)
