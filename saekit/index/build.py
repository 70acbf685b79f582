"""Fill a feature index: one pass of the model, resumable, in memory that does not grow with the corpus.

1. `batch_events` turns a batch into events: which features are active where, without the tokens that do not count.
2. `run_pass` counts them in, half a million at a time, and keeps what is done at checkpoints.
3. `by_feature` sorts the events of a full index by feature, out of core.
"""

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Integer

from saekit._base.progress import Progress, Stop, ask, progress_of
from saekit._base.writer import Writer
from saekit.data import Tokens, counted
from saekit.errors import FeatureIndexError
from saekit.index.collect import Candidates, Collector, Events, Statistics, TokenSample, narrow, rank_in_run
from saekit.index.read import Reader, offsets
from saekit.models import hidden_states, special_token_ids
from saekit.saes import active_entries, sae_hook, sparse_form

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

_CHUNK = 500_000  # events held before they are counted


@dataclass(frozen=True)
class BatchEvents:
    """The events of some sequences, token by token, without the tokens that are left out.

    Attributes:
        place: Address of each token that counts.
        length: Number of features active on each.
        feature: Features of all tokens, one token after the other.
        value: Activation of each.
        excluded: Number of tokens left out, by reason.
        sequences: Number of sequences.
    """

    place: Integer[np.ndarray, " token"]
    length: Integer[np.ndarray, " token"]
    feature: Integer[np.ndarray, " event"]
    value: Float[np.ndarray, " event"]
    excluded: dict[str, int]
    sequences: int


def batch_events(
    states: torch.Tensor, sae: "SAE[Any]", batch: Tokens, special: Int[torch.Tensor, " n"], n_pos: int
) -> BatchEvents:
    """Return the events of one batch.

    Args:
        states: Activations of the model ``[batch, pos, ...]`` at the SAE's hook point.
        sae: The SAE, or its `sparse_form`.
        batch: Tokens of the batch.
        special: Ids of special tokens.
        n_pos: Positions of a sequence in addresses.

    Raises:
        FeatureIndexError: The SAE has negative activations.
    """
    keep, excluded = counted(batch, states, special)
    row, feature, value = active_entries(sae, states.flatten(0, 1), keep.flatten())
    if value.numel() and value.min() < 0:
        raise FeatureIndexError(
            "this SAE has negative activations, and the index holds features that are active above zero: use an SAE "
            "whose activations are not negative"
        )
    kept = keep.flatten().numpy()
    return BatchEvents(
        place=(batch.sequence_ids[:, None] * n_pos + np.arange(n_pos)).ravel()[kept],
        length=np.bincount(row.cpu().numpy(), minlength=len(kept))[kept],
        feature=feature.cpu().numpy().astype(np.int32),
        value=value.float().cpu().numpy(),
        excluded=excluded,
        sequences=len(batch),
    )


class Pass:
    """All that a pass has collected so far; what `FeatureIndex` is made of.

    Attributes:
        statistics: Counts, sums, maxima and histograms.
        collector: Examples.
        sample: Tokens on which co-activation is counted.
        excluded: Number of tokens left out, by reason.
        counted: Number of the others.
        sequences: Number of sequences of the corpus that are done.
        events: Number of active features on all of them together.
    """

    def __init__(self, d_sae: int, *, examples: int, window: int, n_pos: int) -> None:
        self.statistics, self.sample = Statistics(d_sae), TokenSample()
        self.collector = Collector(d_sae, examples=examples, window=window, n_pos=n_pos)
        self.excluded = {"bos_or_padding": 0, "special": 0, "massive": 0}
        self.counted = self.sequences = self.events = 0

    @classmethod
    def of(cls, index: Reader) -> "Pass":
        """Return what the pass behind an index, or behind the checkpoint of one, had collected."""
        a, about = index.arrays, index.about
        state = cls(index.d_sae, examples=about["examples"], window=index.window, n_pos=index.n_pos)
        for key in vars(state.statistics):
            setattr(state.statistics, key, np.array(a[key]))
        state.statistics.histogram = state.statistics.histogram.astype(np.int64)
        kept = []
        for kind in ("top", "sampled"):
            around = np.zeros((len(a[f"{kind}_pointer"]), index.window), np.float16)
            row = np.repeat(np.arange(len(around)), np.diff(a[f"{kind}_start"]))
            around[row, a[f"{kind}_offset"]] = a[f"{kind}_around"]
            feature, value = np.asarray(a[f"{kind}_feature"], np.int32), np.array(a[f"{kind}_value"])
            kept.append(Candidates(feature, value, index.places(a[f"{kind}_pointer"]), around))
        state.collector.offer(*kept, state.statistics.range_exponent())
        state.sample.place = np.array(a["sample_place"])
        state.sample.length = np.asarray(a["sample_length"], np.int64)
        state.sample.features = np.asarray(a["sample_features"], np.int32)
        state.excluded, state.counted, state.events = dict(about["excluded"]), about["counted"], about["events"]
        state.sequences = about.get("sequences", 0)
        return state

    def arrays(self, sequence_ids: Integer[np.ndarray, " sequence"], n_pos: int) -> dict[str, np.ndarray]:
        """Return what was collected as the arrays of an index over these sequences."""
        statistics, sample = self.statistics, self.sample
        arrays = {"count": statistics.count, "sum": statistics.sum, "max": statistics.max}
        arrays["histogram"] = statistics.histogram.astype(np.uint32 if statistics.count.max() < 2**32 else np.int64)
        arrays["range_exponent"] = statistics.range_exponent().astype(np.int8)
        for kind in ("top", "sampled"):
            candidates: Candidates = getattr(self.collector, kind)
            row = np.searchsorted(sequence_ids, candidates.place // n_pos)
            pointer = row * n_pos + candidates.place % n_pos
            where, offset = np.nonzero(candidates.around)
            arrays[f"{kind}_feature"] = candidates.feature
            arrays[f"{kind}_value"] = candidates.value
            arrays[f"{kind}_pointer"] = pointer.astype(np.int32 if len(sequence_ids) * n_pos < 2**31 else np.int64)
            arrays[f"{kind}_start"] = offsets(np.bincount(where, minlength=len(row)))
            arrays[f"{kind}_offset"] = offset.astype(np.uint8 if candidates.around.shape[1] <= 256 else np.int32)
            arrays[f"{kind}_around"] = candidates.around[where, offset]
        arrays |= {"sample_place": sample.place, "sample_length": sample.length.astype(np.int32)}
        return arrays | {"sample_features": narrow(sample.features)}

    def merge(self, other: "Pass") -> None:
        """Add what a pass over other sequences collected."""
        self.statistics.merge(other.statistics)
        self.collector.offer(other.collector.top, other.collector.sampled, self.statistics.range_exponent())
        self.sample.merge(other.sample)
        self.excluded = {key: self.excluded[key] + other.excluded[key] for key in self.excluded}
        self.counted += other.counted
        self.events += other.events

    def count(self, held: Sequence[BatchEvents], log: Writer | None) -> None:
        """Count some batches in, at least one; ``log`` keeps their events too."""
        columns = ("place", "length", "feature", "value")
        place, length, feature, value = (np.concatenate([getattr(one, name) for one in held]) for name in columns)
        if log is None:
            self.sample.add(place, length, feature)
        else:
            append_events(log, len(self.statistics.count), place, length, feature, value)
        if len(value):
            narrow = feature.astype(np.uint16) if len(self.statistics.count) <= 65536 else feature
            order = np.argsort(narrow, kind="stable")  # a radix sort for 16 bits; tokens stay in order in a feature
            events = Events(feature[order].astype(np.int64), np.repeat(place, length)[order], value[order])
            bins = self.statistics.add(events)
            # A full index has every event to draw its interval examples and co-activations from.
            self.collector.add(events, bins, self.statistics.range_exponent(), sample=log is None)
        self.sequences += sum(one.sequences for one in held)
        self.excluded = {key: n + sum(one.excluded[key] for one in held) for key, n in self.excluded.items()}
        self.counted += len(place)
        self.events += len(value)


def run_pass(
    model: "SAETransformerBridge",
    sae: "SAE[Any]",
    tokens: Tokens,
    out: Writer,
    *,
    batch_size: int,
    progress: Progress = False,
    stop: Stop = None,
) -> Pass:
    """Run the corpus through model and SAE, from the checkpoint in ``out`` on; the events of a full index go there.

    Interrupted, it saves what is complete and raises on.
    """
    about, n_pos = out.about, tokens.ids.shape[1]
    log = out if about["kind"] == "full" else None
    if "counted" in about:
        kept = {name.removeprefix("state_"): array for name, array in out.state.items()}
        corpus = {"tokens": tokens.ids, "sequence_ids": tokens.sequence_ids}
        state = Pass.of(Reader(about, {**kept, **corpus}))
    else:
        state = Pass(about["d_sae"], examples=about["examples"], window=about["window"], n_pos=n_pos)
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    encoder, hook_name = sparse_form(sae), sae_hook(sae)
    held: list[BatchEvents] = []  # what is not counted yet
    counting = False

    def flush() -> None:
        nonlocal counting
        counting = True
        if held:
            state.count(held, log)
        held.clear()
        counting = False

    def checkpoint() -> None:
        arrays = {f"state_{name}": array for name, array in state.arrays(tokens.sequence_ids, n_pos).items()}
        about = {key: getattr(state, key) for key in ("excluded", "counted", "sequences", "events")}
        out.checkpoint({**about, "of": len(tokens)}, arrays)

    bar = progress_of(progress, len(tokens), "seq", stop=stop, title="Indexing", start=state.sequences)
    try:
        with bar as step:
            for start in range(state.sequences, len(tokens), batch_size):
                batch = tokens[start : start + batch_size]
                states = hidden_states(model, torch.from_numpy(batch.ids).long(), hook_name)
                held.append(batch_events(states, encoder, batch, special, n_pos))
                if sum(len(one.value) for one in held) >= _CHUNK:
                    flush()
                    if out.due:
                        checkpoint()
                step(len(batch))
        flush()
        if log is not None:
            checkpoint()  # the sort that comes next reads the events from there
    except BaseException as error:  # Ctrl-C above all: what is counted is complete, unless that is what was interrupted
        if not counting and not isinstance(error, FeatureIndexError):
            flush()
            checkpoint()
        raise
    return state


def append_events(
    out: Writer,
    d_sae: int,
    place: Integer[np.ndarray, " token"],
    length: Integer[np.ndarray, " token"],
    feature: Integer[np.ndarray, " event"],
    value: Float[np.ndarray, " event"],
) -> None:
    """Write the events of some tokens to the end of those of a full index, token by token."""
    out.append("token_place", place.astype("<i8", copy=False))
    out.append("token_length", length.astype("<i4", copy=False))
    out.append("token_feature", feature.astype("<u2" if d_sae <= 65536 else "<i4", copy=False))
    out.append("token_value", value.astype("<f4", copy=False))


def by_feature(
    log: Mapping[str, np.ndarray],
    count: Integer[np.ndarray, " d_sae"],
    empty: Callable[[str, str, int], np.ndarray],
    stop: Stop = None,
) -> dict[str, np.ndarray]:
    """Sort events by feature out of core: a stable counting sort, chunk by chunk, into memory-mapped files.

    Args:
        log: Events token by token, memory-mapped: ``token_place``, ``token_length``, ``token_feature``,
            ``token_value``.
        count: Number of events of each feature, so that every chunk knows where its events go.
        empty: Function of a name, a dtype and a size that returns an array to fill.
        stop: Function that says whether to stop.
    """
    start = np.concatenate([[0], np.cumsum(count)])
    cursor = start[:-1].copy()
    out_place = empty("event_place", "<i8", int(start[-1]))
    out_value = empty("event_value", "<f4", int(start[-1]))
    ends = np.cumsum(log["token_length"], dtype=np.int64)
    token = 0
    while token < len(ends):
        ask(stop)
        base = int(ends[token - 1]) if token else 0
        after = max(int(np.searchsorted(ends, base + _CHUNK)), token + 1)
        last = int(ends[after - 1])
        feature = np.asarray(log["token_feature"][base:last])
        order = np.argsort(feature, kind="stable")
        by_owner = feature[order].astype(np.int64)
        target = cursor[by_owner] + rank_in_run(np.flatnonzero(np.diff(by_owner, prepend=-1)), len(order))
        place = np.repeat(log["token_place"][token:after], log["token_length"][token:after])
        out_place[target] = place[order]
        out_value[target] = log["token_value"][base:last][order]
        cursor += np.bincount(by_owner, minlength=len(cursor))
        token = after
        for array in (out_place, out_value, *log.values()):
            _unmap(array)
    return {"event_start": start, "event_place": out_place, "event_value": out_value}


def _unmap(array: np.ndarray) -> None:
    """Let go of a mapped file's pages: they would count as this process's memory, and the file keeps them."""
    if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        cast(Any, array)._mmap.madvise(mmap.MADV_DONTNEED)
