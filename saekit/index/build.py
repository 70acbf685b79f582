"""Fill a feature index: one pass of the model, resumable, in memory that does not grow with the corpus.

1. `batch_events` turns a batch into events: which features are active where, without the tokens that do not count.
2. `run_pass` counts them in, half a million at a time, and keeps what is done at checkpoints.
3. `by_feature` sorts the events of a full index by feature, out of core.
"""

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Integer

from saekit._base.progress import Progress, Stop, ask, progress_of
from saekit._base.writer import Writer
from saekit.data import Tokens, counted
from saekit.errors import FeatureIndexError
from saekit.index.collect import Candidates, Collector, Events, Statistics, TokenSample, rank_in_run
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


class Held:
    """Events of several batches, end to end in buffers that stay: small pieces of memory, once taken, stay taken.

    Attributes:
        sequences: Number of sequences in it.
        excluded: Number of their tokens that are left out, by reason.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {"place": np.zeros(0, np.int64), "length": np.zeros(0, np.int64)}
        self._buffers |= {"feature": np.zeros(0, np.int32), "value": np.zeros(0, np.float32)}
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._used = dict.fromkeys(self._buffers, 0)
        self.sequences, self.excluded = 0, {}

    def __len__(self) -> int:
        return self._used["value"]

    def add(self, batch: BatchEvents) -> None:
        """Append a batch."""
        used = {}
        for name, buffer in self._buffers.items():
            new, old = getattr(batch, name), self._used[name]
            used[name] = old + len(new)
            if used[name] > len(buffer):
                self._buffers[name] = grown = np.zeros(used[name] * 3 // 2, buffer.dtype)
                grown[:old] = buffer[:old]
            self._buffers[name][old : used[name]] = new
        excluded = {key: self.excluded.get(key, 0) + count for key, count in batch.excluded.items()}
        # Nothing above counts until this line: an interrupt leaves what was there before.
        self._used, self.sequences, self.excluded = used, self.sequences + batch.sequences, excluded

    def columns(self) -> list[np.ndarray]:
        """Return places, lengths, features and values; valid until the next `add` or `clear`."""
        return [buffer[: self._used[name]] for name, buffer in self._buffers.items()]


@dataclass
class Pass:
    """All that a pass has collected so far; what `FeatureIndex` is made of."""

    statistics: Statistics
    collector: Collector
    sample: TokenSample
    excluded: dict[str, int]
    counted: int = 0
    sequences: int = 0  # of the corpus that are done
    events: int = 0

    @classmethod
    def new(cls, d_sae: int, *, examples: int, window: int, n_pos: int) -> "Pass":
        """Start with nothing."""
        collector = Collector(d_sae, examples=examples, window=window, n_pos=n_pos)
        return cls(Statistics(d_sae), collector, TokenSample(), {"bos_or_padding": 0, "special": 0, "massive": 0})

    def about(self) -> dict[str, Any]:
        """Return the part of the state that is no array."""
        return {key: getattr(self, key) for key in ("excluded", "counted", "sequences", "events")}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the rest of the state as named arrays."""
        out = {f"state_{key}": value for key, value in vars(self.statistics).items()}
        for name in ("top", "sampled"):
            candidates = getattr(self.collector, name)
            out |= {f"state_{name}_{f.name}": getattr(candidates, f.name) for f in fields(candidates)}
        return out | {f"state_sample_{key}": value for key, value in vars(self.sample).items()}

    def take_up(self, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Take the state of an earlier pass."""
        for key in vars(self.statistics):
            setattr(self.statistics, key, arrays[f"state_{key}"])
        kept = [
            Candidates(*(arrays[f"state_{name}_{f.name}"] for f in fields(Candidates))) for name in ("top", "sampled")
        ]
        self.collector.restore(*kept, self.statistics.range_exponent())
        for key in vars(self.sample):
            setattr(self.sample, key, arrays[f"state_sample_{key}"])
        self.excluded = dict(about["excluded"])
        self.counted, self.sequences, self.events = (about[k] for k in ("counted", "sequences", "events"))

    def merge(self, other: "Pass") -> None:
        """Add what a pass over other sequences collected."""
        self.statistics.merge(other.statistics)
        self.collector.merge(other.collector, self.statistics.range_exponent())
        self.sample.merge(other.sample)
        self.excluded = {key: self.excluded[key] + other.excluded[key] for key in self.excluded}
        self.counted += other.counted
        self.events += other.events

    def count(self, held: Held, log: Writer | None) -> None:
        """Count some batches in; ``log`` keeps their events too."""
        place, length, feature, value = held.columns()
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
        self.sequences += held.sequences
        self.excluded = {key: count + held.excluded.get(key, 0) for key, count in self.excluded.items()}
        self.counted += len(place)
        self.events += len(value)


def run_pass(
    model: "SAETransformerBridge",
    sae: "SAE[Any]",
    tokens: Tokens,
    out: Writer,
    state: Pass,
    *,
    keep_events: bool,
    batch_size: int,
    progress: Progress = False,
    stop: Stop = None,
) -> None:
    """Run the corpus through model and SAE, from the checkpoint in ``out`` on; events go there too if they are kept.

    Interrupted, it saves what is complete and raises on.
    """
    if "counted" in out.about:
        state.take_up(out.about, out.state)
    n_pos = tokens.ids.shape[1]
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    encoder, hook_name = sparse_form(sae), sae_hook(sae)
    held = Held()  # what is not counted yet
    counting = False

    def flush() -> None:
        nonlocal counting
        counting = True
        state.count(held, out if keep_events else None)
        held.clear()
        counting = False

    def checkpoint() -> None:
        out.checkpoint(state.about(), state.arrays())

    bar = progress_of(progress, len(tokens), "seq", stop=stop, title="Indexing", start=state.sequences)
    try:
        with bar as step:
            for start in range(state.sequences, len(tokens), batch_size):
                batch = tokens[start : start + batch_size]
                states = hidden_states(model, torch.from_numpy(batch.ids).long(), hook_name)
                held.add(batch_events(states, encoder, batch, special, n_pos))
                if len(held) >= _CHUNK:
                    flush()
                    if out.due:
                        checkpoint()
                step(len(batch))
        flush()
        if keep_events:
            checkpoint()  # the sort that comes next reads the events from there
    except BaseException as error:  # Ctrl-C above all: what is counted is complete, unless that is what was interrupted
        if not counting and not isinstance(error, FeatureIndexError):
            flush()
            checkpoint()
        raise


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
