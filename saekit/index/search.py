"""The parts of a feature index that deal in text and weights: vocabulary, logits, neighbours, search, prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Integer

from saekit._base.checks import unicode_text
from saekit.errors import FeatureIndexError
from saekit.index.collect import narrow
from saekit.index.read import Example, Hit, PromptReading, Reader, gather, offsets
from saekit.index.text import folded
from saekit.models import (
    counted,
    encode_start,
    final_norm,
    hidden_states,
    in_residual,
    join_pieces,
    special_token_ids,
    token_bytes,
    unembedding,
    whole_text,
)
from saekit.saes import check_pair, decoder_rows, encoded, sae_hook

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

KEPT = 10  # neighbours and logits per feature, each way
PROMPT_TOKENS = 1024  # a longer prompt is cut: attention on it would take gigabytes


@torch.no_grad()
def tables(model: "SAETransformerBridge", sae: "SAE[Any]") -> dict[str, np.ndarray]:
    """Return what follows from the weights alone: decoder directions, their logits, the vocabulary."""
    rows = decoder_rows(sae)
    W_U = unembedding(model).detach().float()
    # Inside a layer (heads, MLP neurons) a decoder row is no direction of the residual stream, whatever its width.
    kept = min(KEPT, W_U.shape[1] // 2) if in_residual(model, sae_hook(sae)) else 0
    arrays: dict[str, np.ndarray] = {}
    for side in ("promoted", "suppressed"):
        arrays[f"{side}_logits"] = np.zeros((len(rows), kept), np.float32)
        arrays[f"{side}_ids"] = np.zeros((len(rows), kept), np.int64)
    # One buffer for all: small results that outlive large ones would pin the memory of every round.
    buffer = torch.empty(min(256, len(rows)), W_U.shape[1], device=W_U.device)
    for start in range(0, len(rows) if kept else 0, len(buffer)):
        part = slice(start, min(start + len(buffer), len(rows)))
        logits = torch.mm(final_norm(model, rows[part]), W_U, out=buffer[: part.stop - start])
        logits -= logits.mean(1, keepdim=True)
        for side, largest in (("promoted", True), ("suppressed", False)):
            values, ids = logits.topk(kept, largest=largest)
            arrays[f"{side}_logits"][part], arrays[f"{side}_ids"][part] = values.cpu(), ids.cpu()
    arrays |= {f"{side}_ids": narrow(arrays[f"{side}_ids"]) for side in ("promoted", "suppressed")}
    arrays["direction"] = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).cpu().numpy()
    pieces = token_bytes(model)
    start = offsets(np.array([len(piece) for piece in pieces]))
    return arrays | {"vocabulary": np.frombuffer(b"".join(pieces), np.uint8), "vocabulary_start": start}


def cosine(
    arrays: Mapping[str, np.ndarray], features: Integer[np.ndarray, " n"]
) -> tuple[Integer[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the features whose decoder rows are closest to those of some features, by cosine, closest first.

    They are looked up when they are asked for: for all features at once they cost more than all the rest of a build.
    """
    if "cosine_ids" in arrays:  # a compacted index
        return arrays["cosine_ids"][features], arrays["cosines"][features]
    direction = arrays["direction"]
    cosines = direction[features] @ direction.T
    cosines[np.arange(len(features)), features] = -2  # itself comes last
    kept = min(KEPT, len(direction) - 1)
    ids = np.argpartition(-cosines, kept - 1, axis=1)[:, :kept]
    scores = np.take_along_axis(cosines, ids, 1)
    order = np.lexsort((ids, -scores), axis=1)
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def coactivation(index: Reader, feature: int) -> tuple[Integer[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return the features that are active on the same tokens as one feature, by Jaccard overlap, closest first."""
    if index.compacted:
        return index.arrays["coactivation_ids"][feature], index.arrays["coactivations"][feature]
    active = index.active
    together = np.bincount(gather(active.features, active.start, active.tokens_of(feature)), minlength=index.d_sae)
    jaccard = together / np.maximum(active.count + active.count[feature] - together, 1)
    jaccard[feature] = 0
    best = np.argpartition(-jaccard, min(KEPT, index.d_sae - 1))[:KEPT]
    best = best[np.lexsort((best, -jaccard[best]))]
    return best, jaccard[best]


def fold(items: Sequence[Example]) -> list[Example]:
    """Join examples with the same text around the peak; the strongest stands for all and counts the others."""
    groups: dict[tuple[str, ...], list[Example]] = {}
    for item in items:
        near = tuple(item.tokens[max(0, item.peak - 5) : item.peak + 3])
        groups.setdefault(near, []).append(item)
    return [replace(group[0], duplicates=len(group) - 1) for group in groups.values()]


def search(index: Reader, token: str | None, text: str | None, k: int) -> list[Hit]:
    """Return the features whose strongest examples fit a token or a text, by the share of activation that does."""
    asked = "token" if text is None else "text"
    query = folded(unicode_text(asked, token if text is None else text, error=FeatureIndexError)).strip()
    if not query:
        return []
    owner, value = index.arrays["top_feature"], index.arrays["top_value"]
    rows = _rows_peaking_on(index, query) if token is not None else _rows_with_text(index, query)
    total = np.bincount(owner, value, index.d_sae)
    fits = np.bincount(owner[rows], value[rows], index.d_sae)
    score = fits / np.where(total > 0, total, 1)
    best = np.lexsort((np.arange(index.d_sae), -fits, -score))[:k]
    strongest_row = dict(zip(owner[rows[::-1]].tolist(), rows[::-1], strict=True))  # rows are strongest first
    return [
        Hit(int(f), float(score[f]), index.stored_example("top", strongest_row[int(f)])) for f in best if fits[f] > 0
    ]


def _rows_peaking_on(index: Reader, query: str) -> Integer[np.ndarray, " example"]:
    """Return the top examples whose peak token is a word, whatever its case and outer whitespace.

    A token that is a piece of a character stands for the whole character.
    """
    pieces = {token: index.piece(token) for token in np.unique(index.peak_tokens).tolist()}
    whole = {token: text for token, piece in pieces.items() if (text := whole_text(piece)) is not None}
    same = [token for token, text in whole.items() if folded(text).strip() == query]
    rows = np.isin(index.peak_tokens, same)
    pointer = index.arrays["top_pointer"]
    for row in np.flatnonzero(np.isin(index.peak_tokens, list(pieces.keys() - whole.keys()))).tolist():
        rows[row] = index.search_text.of_token(int(pointer[row])).strip() == query
    return np.flatnonzero(rows)


def _rows_with_text(index: Reader, query: str) -> Integer[np.ndarray, " example"]:
    """Return the top examples whose window contains a text."""
    first, last = index.search_text.find(query)
    if not len(first):
        return first
    pointer = np.asarray(index.arrays["top_pointer"], np.int64)
    row_begin = pointer - pointer % index.n_pos
    begin = np.maximum(pointer - index.left, row_begin + index.first_shown)
    end = np.minimum(pointer - index.left + index.window, row_begin + index.n_pos)
    # Occurrences are in order, so the first that begins in a window is the one that ends earliest.
    after = np.searchsorted(first, begin)
    return np.flatnonzero((after < len(last)) & (last[np.minimum(after, len(last) - 1)] < end))


@torch.no_grad()
def read_prompt(index: Reader, model: "SAETransformerBridge", sae: "SAE[Any]", text: str) -> PromptReading:
    """Return all features at every token of a text, from one pass of the model and the SAE.

    Raises:
        SAEError: The SAE does not fit the model.
        ModelError: The text is empty, or the model has no tokenizer.
    """
    check_pair(model, sae)
    read = encode_start(model, text, most=min(PROMPT_TOKENS, model.cfg.n_ctx))
    states = hidden_states(model, read.ids[None], index.about["hook_name"])
    keep, _ = counted(read.ids[None], states, torch.tensor(special_token_ids(model), dtype=torch.long))
    features = encoded(sae, states)[0].float().cpu().numpy()
    return PromptReading(join_pieces([index.piece(i) for i in read.ids]), features, ~keep[0].numpy(), read.cut)
