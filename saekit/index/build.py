"""Fill a feature index: one pass of the model, resumable, in memory that does not grow with the corpus."""

import json
import mmap
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from saekit.data import Tokens
from saekit.errors import FeatureIndexError
from saekit.index.collect import Collector, Events, Statistics, TokenSample
from saekit.index.events import Held, batch_events, sparse_form
from saekit.index.slots import Candidates
from saekit.index.store import read_folder, write_folder
from saekit.models import hidden_states, special_token_ids

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

_CHUNK = 500_000  # events held before they are counted
_CHECKPOINT_SECONDS = 60


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

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state as named arrays."""
        out = {f"statistics_{key}": value for key, value in vars(self.statistics).items()}
        for name in ("top", "sampled"):
            candidates = getattr(self.collector, name)
            out |= {f"{name}_{f.name}": getattr(candidates, f.name) for f in fields(candidates)}
        return out | {f"sample_{key}": value for key, value in vars(self.sample).items()}

    def load(self, manifest: dict, arrays: dict[str, np.ndarray]) -> None:
        """Take the state of an earlier pass."""
        for key in vars(self.statistics):
            setattr(self.statistics, key, np.array(arrays[f"statistics_{key}"]))
        kept = [
            Candidates(*(np.array(arrays[f"{name}_{f.name}"]) for f in fields(Candidates)))
            for name in ("top", "sampled")
        ]
        self.collector.restore(*kept, self.statistics.range_exponent())
        for key in vars(self.sample):
            setattr(self.sample, key, np.array(arrays[f"sample_{key}"]))
        self.excluded = dict(manifest["excluded"])
        self.counted, self.sequences, self.events = (manifest[k] for k in ("counted", "sequences", "events"))

    def merge(self, other: "Pass") -> None:
        """Add what a pass over other sequences collected."""
        self.statistics.merge(other.statistics)
        self.collector.merge(other.collector, self.statistics.range_exponent())
        self.sample.merge(other.sample)
        self.excluded = {key: self.excluded[key] + other.excluded[key] for key in self.excluded}
        self.counted += other.counted
        self.events += other.events


def run_pass(
    model: "SAETransformerBridge",
    sae: "SAE[Any]",
    tokens: Tokens,
    hook_name: str,
    folder: Path,
    identity: dict,
    *,
    state: Pass,
    keep_events: bool,
    batch_size: int,
    progress: bool,
) -> Pass:
    """Run the corpus through model and SAE; ``folder`` holds checkpoints, and the events if they are kept.

    Interrupted, it saves what is complete and raises on; called again with the same arguments it goes on from there.
    """
    from tqdm.auto import tqdm

    _resume(folder, identity, state)
    n_pos = tokens.ids.shape[1]
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    encoder = sparse_form(sae)
    log = _EventLog(folder, state, sae.cfg.d_sae) if keep_events else None
    held = Held()  # what is not counted yet
    counting = False
    saved = time.monotonic()

    def flush() -> None:
        nonlocal counting
        counting = True
        _count(state, held, log=log)
        held.clear()
        counting = False

    def checkpoint() -> None:
        nonlocal saved
        if log is not None:
            log.sync()
        _save_state(folder, identity, state)
        saved = time.monotonic()

    bar = tqdm(total=len(tokens), initial=state.sequences, desc="Indexing", unit="seq", disable=not progress)
    try:
        with bar:
            for start in range(state.sequences, len(tokens), batch_size):
                batch = tokens[start : start + batch_size]
                states = hidden_states(model, torch.from_numpy(batch.ids).long(), hook_name)
                held.add(batch_events(states, encoder, batch, special, n_pos))
                bar.update(len(batch))
                if len(held) >= _CHUNK:
                    flush()
                    if time.monotonic() - saved >= _CHECKPOINT_SECONDS:
                        checkpoint()
        flush()
        if log is not None:
            log.sync()
    except FeatureIndexError:  # going on would end the same way
        shutil.rmtree(folder)
        raise
    except BaseException as error:  # Ctrl-C above all: keep what is done, then let the caller hear of it
        error.add_note(
            f"{folder} keeps what is done up to the last checkpoint: call build again with the same arguments and path "
            f"to go on from there, or delete it"
        )
        if not counting:
            flush()
            checkpoint()
        raise
    finally:
        if log is not None:
            log.close()
    return state


def _count(state: Pass, held: Held, *, log: "_EventLog | None") -> None:
    """Count some batches in."""
    place, length, feature, value = held.columns()
    if log is not None:
        log.append(place, feature, value, length)
    else:
        state.sample.add(place, length, feature)
    if len(value):
        narrow = feature.astype(np.uint16) if len(state.statistics.count) <= 65536 else feature
        order = np.argsort(narrow, kind="stable")  # a radix sort for 16 bits; tokens stay in order within a feature
        events = Events(feature[order].astype(np.int64), np.repeat(place, length)[order], value[order])
        bins = state.statistics.add(events)
        # A full index has every event to draw its interval examples and co-activations from.
        state.collector.add(events, bins, state.statistics.range_exponent(), sample=log is None)
    state.sequences += held.sequences
    state.excluded = {key: count + held.excluded.get(key, 0) for key, count in state.excluded.items()}
    state.counted += len(place)
    state.events += len(value)


def _save_state(folder: Path, identity: dict, state: Pass) -> None:
    """Write a checkpoint under a name of its own, then drop the one before: there is always a complete one."""
    manifest = {"identity": identity, "excluded": state.excluded, "counted": state.counted}
    manifest |= {"sequences": state.sequences, "events": state.events}
    target = folder / f"state-{state.sequences:012}"
    if not target.is_dir():
        write_folder(target, manifest, state.arrays())
    for older in folder.glob("state-*"):
        if older != target:
            shutil.rmtree(older)


def _resume(folder: Path, identity: dict, state: Pass) -> None:
    """Take up an earlier run in this folder, if it was of the same thing."""
    folder.mkdir(parents=True, exist_ok=True)
    for checkpoint in sorted(folder.glob("state-*"), reverse=True):
        try:
            manifest, arrays = read_folder(checkpoint)
        except FeatureIndexError:
            shutil.rmtree(checkpoint)  # damaged
            continue
        found = manifest["identity"]
        differs = [key for key, value in identity.items() if found.get(key) != json.loads(json.dumps(value))]
        if differs:
            raise FeatureIndexError(
                f"{folder} is an unfinished build of another {', '.join(differs)}: delete it, or choose another path"
            )
        state.load(manifest, arrays)
        return


class _EventLog:
    """The events of a full index, token by token, appended to files as they come."""

    def __init__(self, folder: Path, state: Pass, d_sae: int):
        self.feature_dtype = np.dtype("<u2" if d_sae <= 65536 else "<i4")
        self.files = {}
        sizes = {
            "token_place": state.counted * 8,
            "token_length": state.counted * 4,
            "token_feature": state.events * self.feature_dtype.itemsize,
            "token_value": state.events * 4,
        }
        for name, size in sizes.items():
            file = (folder / f"{name}.log").open("ab")
            file.truncate(size)  # what came after the last checkpoint is done again
            self.files[name] = file

    def append(self, place: np.ndarray, feature: np.ndarray, value: np.ndarray, length: np.ndarray) -> None:
        for name, array, dtype in (
            ("token_place", place, "<i8"),
            ("token_length", length, "<i4"),
            ("token_feature", feature, self.feature_dtype),
            ("token_value", value, "<f4"),
        ):
            self.files[name].write(array.astype(dtype).tobytes())

    def sync(self) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def read_log(folder: Path, state: Pass, d_sae: int) -> dict[str, np.ndarray]:
    """Map the event files of a finished pass."""
    feature_dtype = "<u2" if d_sae <= 65536 else "<i4"
    open_map = lambda name, dtype, n: (  # noqa: E731
        np.memmap(folder / f"{name}.log", dtype, "r", shape=(n,)) if n else np.zeros(0, dtype)
    )
    return {
        "token_place": open_map("token_place", "<i8", state.counted),
        "token_length": open_map("token_length", "<i4", state.counted),
        "token_feature": open_map("token_feature", feature_dtype, state.events),
        "token_value": open_map("token_value", "<f4", state.events),
    }


def _unmap(array: np.ndarray) -> None:
    """Let go of a mapped file's pages: they would count as this process's memory, and the file keeps them."""
    if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        cast(Any, array)._mmap.madvise(mmap.MADV_DONTNEED)


def by_feature(
    log: dict[str, np.ndarray], count: np.ndarray, allocate: Callable[[str, str, int], np.ndarray]
) -> dict[str, np.ndarray]:
    """Sort events by feature out of core: a stable counting sort, chunk by chunk, into memory-mapped files.

    ``count`` says how many events each feature has, so every chunk knows where its events go.
    """
    start = np.concatenate([[0], np.cumsum(count)])
    cursor = start[:-1].copy()
    out_place = allocate("event_place", "<i8", int(start[-1]))
    out_value = allocate("event_value", "<f4", int(start[-1]))
    ends = np.cumsum(log["token_length"], dtype=np.int64)
    token = 0
    while token < len(ends):
        base = int(ends[token - 1]) if token else 0
        stop = max(int(np.searchsorted(ends, base + _CHUNK)), token + 1)
        last = int(ends[stop - 1])
        feature = np.asarray(log["token_feature"][base:last])
        order = np.argsort(feature, kind="stable")
        sorted_feature = feature[order].astype(np.int64)
        starts = np.flatnonzero(np.diff(sorted_feature, prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        target = cursor[sorted_feature] + rank
        place = np.repeat(log["token_place"][token:stop], log["token_length"][token:stop])
        out_place[target] = place[order]
        out_value[target] = log["token_value"][base:last][order]
        cursor += np.bincount(sorted_feature, minlength=len(cursor))
        token = stop
        for array in (out_place, out_value, *log.values()):
            _unmap(array)
    return {"event_start": start, "event_place": out_place, "event_value": out_value}
