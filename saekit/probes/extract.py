"""Run a model over labelled texts once and keep what SAEs say about every token: all probes start from that.

Texts are kept in an order of their own (by length in tokens, then by content), so that nothing computed from them
depends on the order in which they came. Only texts of equal length share a batch: there is no padding to pool.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saekit._base.progress import Progress, Stop, progress_of
from saekit.data import LabelledItems, Tokens, counted
from saekit.errors import ProbeError
from saekit.index import batch_events
from saekit.models import (
    batches_of_one_length,
    bos_token_id,
    context_length,
    encode_texts as encode_each,
    hidden_states_at,
    hook_width,
    model_identity,
    special_token_ids,
)
from saekit.probes.alignment import warn_if_misaligned
from saekit.probes.features import Hook, SAEFeatures, TextFeatures, unlabelled
from saekit.saes import CONTROLS, check_pair, control_saes, sae_hook, sae_identity, sparse_form

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge
    from scipy.sparse import csr_array

_ACTIVE = 64  # features a token that room is set aside for, where an SAE does not say how many it has


def extract_features(
    model: "SAETransformerBridge",
    saes: "SAE[Any] | Sequence[SAE[Any]] | Mapping[str, SAE[Any]]",
    data: LabelledItems | Sequence[str],
    *,
    context_size: int = 128,
    batch_size: int = 32,
    controls: Sequence[str] = (),
    controls_of: Sequence[str] | None = None,
    keep_states: bool = False,
    check_hooks: bool = True,
    seed: int = 0,
    progress: Progress = True,
    stop: Stop = None,
) -> TextFeatures:
    """Keep the features of every token of labelled texts, from one pass of the model for all SAEs.

    Each text is read alone, after BOS; what poolings there are, all come from the result.

    Args:
        model: Model that reads the texts.
        saes: One SAE, several, or several by name. Each reads the hook point that it was trained on. Without names
            they are called by hook point and width, ``"blocks.18.hook_resid_post/4608"``.
        data: Texts with labels, or texts alone (label -1: for predictions only).
        context_size: Number of tokens that are read of a text, BOS included. Longer texts are cut, counted, and the
            result says so.
        batch_size: Number of texts per forward pass.
        controls: Controls to make, ``"random"`` and ``"permuted"``: for each SAE one more whose encoder is random
            directions, or its own with the input dimensions permuted, at the same number of active features.
        controls_of: Names of the SAEs that get controls, which cost as much as they do; None: all.
        keep_states: Whether to keep the model's own activations of every token too (for the attention-pooled
            baseline): ``2 * d_model`` bytes per token and hook point.
        check_hooks: Whether to try on a dozen texts if each SAE rebuilds the layer before or after its own clearly
            better, and to warn if so. It cannot tell layers that an SAE rebuilds about equally well.
        seed: Seed of the controls.
        progress: Show a progress bar; or a function that is given (texts done, number of texts) after each batch.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        ProbeError: No text, no SAE, a text that is no Unicode, or settings that make no sense.
        SAEError: An SAE does not fit the model.

    Warns:
        UserWarning: An SAE fits the layer before or after its hook point better than its own.
    """
    named = named_saes(saes)
    if context_size < 2 or batch_size < 1:
        raise ProbeError(f"context_size must be at least 2 and batch_size 1, not {context_size} and {batch_size}")
    most = context_length(model)
    if most is not None and context_size > most:
        raise ProbeError(f"context_size {context_size} is more than the {most} tokens the model can read")
    for sae in named.values():
        check_pair(model, sae)
    data = data if isinstance(data, LabelledItems) else unlabelled(data)
    ids, cut = encode_texts(model, data.texts, context_size)
    index = text_order(data, ids)
    data, ids = data[index], [ids[i] for i in index]
    if check_hooks:
        warn_if_misaligned(model, named, ids)
    everything = {name: (sae, "", "") for name, sae in named.items()}
    if unknown := [name for name in controls_of or () if name not in named]:
        raise ProbeError(f"no SAE {unknown[0]!r} to make controls of: they are {', '.join(named)}")
    controlled = {name: sae for name, sae in named.items() if controls_of is None or name in controls_of}
    for kind in controls:
        if kind not in CONTROLS:
            raise ProbeError(f"no control {kind!r}: expected {' or '.join(map(repr, CONTROLS))}")
        untrained = control_saes(model, controlled, ids, kind, seed=seed)
        everything |= {f"{name} ({kind})": (sae, kind, name) for name, sae in untrained.items()}
    hooks, by_sae = _run(model, everything, ids, batch_size, keep_states, progress, stop)
    return TextFeatures(
        data=data,
        index=index,
        ids=np.array([i for row in ids for i in row], np.int32),
        id_starts=np.concatenate([[0], np.cumsum([len(row) for row in ids])]),
        hooks=hooks,
        saes=by_sae,
        cut=cut[index],
        context_size=context_size,
        model_name=model.cfg.model_name,
        model_identity=model_identity(model),
    )


def named_saes(saes: "SAE[Any] | Sequence[SAE[Any]] | Mapping[str, SAE[Any]]") -> "dict[str, SAE[Any]]":
    """Return SAEs by the names that they have in an extraction: their own, or hook point and width.

    Raises ProbeError if there is none.
    """
    if isinstance(saes, Mapping):
        named = dict(saes)
    else:
        listed = list(saes) if isinstance(saes, Sequence) else [saes]
        named = {}
        for sae in listed:
            name, number = f"{sae_hook(sae)}/{sae.cfg.d_sae}", 2
            while name in named:
                name, number = f"{sae_hook(sae)}/{sae.cfg.d_sae} no. {number}", number + 1
            named[name] = sae
    if not named:
        raise ProbeError("no SAE to extract features with")
    return named


def encode_texts(
    model: "SAETransformerBridge", texts: Sequence[str], context_size: int
) -> tuple[list[list[int]], Bool[np.ndarray, " text"]]:
    """Return the token ids of texts without BOS, cut at the context, and whether each was cut."""
    if model.tokenizer is None:
        raise ProbeError(f"{model.cfg.model_name} has no tokenizer, so it cannot read texts")
    if not texts:
        raise ProbeError("no text to extract features from")
    first = int(bos_token_id(model) is not None)
    encoded = encode_each(model, texts, most=context_size, error=ProbeError)
    return [text.ids[first:].tolist() for text in encoded], np.array([text.cut for text in encoded])


def text_order(data: LabelledItems, ids: list[list[int]]) -> Int[np.ndarray, " text"]:
    """Return the order of texts by length in tokens, then content, then label."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in data.keys]
    keys = [(len(row), digest, label) for row, digest, label in zip(ids, digests, data.labels.tolist(), strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


class Column:
    """One array that is filled from the front.

    Made of pieces it would be there twice when they are joined, and small pieces that are given back stay with the
    process. Room that is set aside and never written to takes no memory.
    """

    def __init__(self, dtype: Any, room: int):
        self.buffer, self.used, self.row = np.empty(room, dtype), 0, ()

    def add(self, array: np.ndarray) -> None:
        """Append rows."""
        self.row = array.shape[1:]
        end = self.used + array.size
        if end > len(self.buffer):  # more than was expected: by an eighth, in place where the system can
            self.buffer.resize(end + end // 8, refcheck=False)
        self.buffer[self.used : end] = array.ravel()
        self.used = end

    def take(self) -> np.ndarray:
        """Return all rows; the column is empty then."""
        buffer, self.buffer = self.buffer, self.buffer[:0].copy()
        buffer.resize(self.used, refcheck=False)
        self.used = 0
        return buffer.reshape(-1, *self.row)


def _run(
    model: "SAETransformerBridge",
    saes: dict,
    ids: list[list[int]],
    batch_size: int,
    keep_states: bool,
    progress: Progress,
    stop: Stop,
) -> tuple[dict[str, Hook], dict[str, SAEFeatures]]:
    hook_of = {name: sae_hook(sae) for name, (sae, _, _) in saes.items()}
    names = list(dict.fromkeys(hook_of.values()))
    encoders = {name: sparse_form(sae) for name, (sae, _, _) in saes.items()}
    n_tokens = sum(map(len, ids))
    events = {}
    for name, (sae, _, _) in saes.items():
        k = getattr(sae.cfg, "k", None)
        room = n_tokens * (k if isinstance(k, int) else _ACTIVE)
        events[name] = (Column(np.int64, n_tokens), Column(np.int32, room), Column(np.float32, room))
    widths = {hook: hook_width(model, hook) for hook in names}
    columns = {hook: _columns(len(ids), n_tokens, width, keep_states) for hook, width in widths.items()}
    excluded: dict[str, dict[str, int]] = {hook: {} for hook in names}
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    bos = bos_token_id(model)
    with progress_of(progress, len(ids), "text", stop=stop) as step:
        for rows in batches_of_one_length(ids, batch_size):  # consecutive ones: texts are in the order of their length
            start, end = int(rows[0]), int(rows[-1]) + 1
            batch = _batch(ids[start:end], bos, start)
            if batch.ids.shape[1] == 0:  # empty texts of a model without BOS
                states = {hook: torch.zeros(end - start, 0, width) for hook, width in widths.items()}
            else:
                states = hidden_states_at(model, torch.from_numpy(batch.ids).long(), names)
            for hook in names:
                keep, left_out = counted(batch, states[hook], special)
                excluded[hook] = {key: excluded[hook].get(key, 0) + count for key, count in left_out.items()}
                _add_states(columns[hook], states[hook].float().cpu().numpy(), keep.numpy(), bos, keep_states)
            for name, encoder in encoders.items():
                if batch.ids.shape[1]:
                    active = batch_events(states[hook_of[name]], encoder, batch, special, batch.ids.shape[1])
                    for column, array in zip(events[name], (active.length, active.feature, active.value), strict=True):
                        column.add(array)
            step(end - start)
    hooks = {}
    for hook in names:
        taken = {what: column.take() for what, column in columns[hook].items()}
        starts = np.concatenate([[0], np.cumsum(taken["count"])])
        states = taken["states"] if keep_states else None
        hooks[hook] = Hook(hook, starts, taken["position"], taken["last"], taken["mean"], states, excluded[hook])
    read = {}
    for name, (sae, control, of) in saes.items():
        matrix = _matrix(*events.pop(name), sae.cfg.d_sae)
        read[name] = SAEFeatures(name, hooks[hook_of[name]], matrix, control, of, sae_identity(sae))
    return hooks, read


def _columns(n_texts: int, n_tokens: int, width: int, keep_states: bool) -> dict[str, Column]:
    kinds: dict[str, tuple[Any, int]]
    kinds = {"count": (np.int64, n_texts), "position": (np.int32, n_tokens), "last": (np.float32, n_texts * width)}
    kinds |= {"mean": (np.float32, n_texts * width), "states": (np.float16, n_tokens * width * keep_states)}
    return {what: Column(*kind) for what, kind in kinds.items()}


def _batch(rows: list[list[int]], bos: int | None, first: int) -> Tokens:
    ids = np.array(rows, np.int32).reshape(len(rows), len(rows[0]))
    numbers = np.arange(first, first + len(rows))
    document = np.repeat(numbers[:, None], ids.shape[1], 1).astype(np.int32)
    if bos is not None:
        column = np.full((len(rows), 1), bos, np.int32)
        ids, document = np.hstack([column, ids]), np.hstack([np.full_like(column, -1), document])
    return Tokens(ids, document, numbers)


def _add_states(
    columns: dict[str, Column],
    states: Float[np.ndarray, "batch pos d_model"],
    keep: Bool[np.ndarray, "batch pos"],
    bos: int | None,
    keep_states: bool,
) -> None:
    count = keep.sum(1)
    mean = np.einsum("bpd,bp->bd", states, keep.astype(np.float32)) / np.maximum(count, 1)[:, None]
    last = np.zeros_like(mean)
    if states.shape[1]:
        at = states.shape[1] - 1 - keep[:, ::-1].argmax(1)
        last = states[np.arange(len(states)), at] * (count > 0)[:, None]
    columns["count"].add(count)
    columns["position"].add(np.nonzero(keep)[1] - (bos is not None))
    columns["last"].add(last)
    columns["mean"].add(mean)
    if keep_states:
        columns["states"].add(np.clip(states[keep], -65504, 65504))


def _matrix(length: Column, feature: Column, value: Column, d_sae: int) -> "csr_array":
    from scipy.sparse import csr_array

    starts = np.concatenate([[0], np.cumsum(length.take())])
    features, values = feature.take(), value.take()
    if len(values) < 2**31:
        starts = starts.astype(np.int32)  # or scipy would widen the indices to match
    return csr_array((values, features, starts), shape=(len(starts) - 1, d_sae))
