"""Fill a feature index: one pass of the model, resumable, in memory that does not grow with the corpus."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saekit._index_collect import Candidates, Collector, Events, Statistics, TokenSample
from saekit._index_store import read_folder, write_folder
from saekit.data import Tokens
from saekit.errors import FeatureIndexError
from saekit.models import hidden_states, massive, special_token_ids

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

_CHUNK = 1_000_000  # events held before they are counted
_CHECKPOINT = 8  # chunks


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
        for name in ("top", "sampled"):
            columns = [np.array(arrays[f"{name}_{f.name}"]) for f in fields(Candidates)]
            setattr(self.collector, name, Candidates(*columns))
        for key in vars(self.sample):
            setattr(self.sample, key, np.array(arrays[f"sample_{key}"]))
        self.excluded = dict(manifest["excluded"])
        self.counted, self.sequences, self.events = (manifest[k] for k in ("counted", "sequences", "events"))

    def merge(self, other: "Pass") -> None:
        """Add what a pass over other sequences collected."""
        self.statistics.merge(other.statistics)
        self.collector.merge(other.collector, self.statistics.max)
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
    log = _EventLog(folder, state, sae.cfg.d_sae) if keep_events else None
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    waiting = chunks = 0
    whole = True  # False while a chunk is being counted in

    def flush(done: int, left_out: dict[str, int]) -> None:
        nonlocal held, waiting, chunks, whole
        whole = False
        if held:
            _count(state, *(np.concatenate(column) for column in zip(*held, strict=True)), log=log)
        state.sequences = done
        state.excluded = {key: state.excluded[key] + left_out[key] for key in left_out}
        held, waiting = [], 0
        chunks += 1
        whole = True

    def checkpoint() -> None:
        if log is not None:
            log.sync()
        manifest = {"identity": identity, "excluded": state.excluded, "counted": state.counted}
        manifest |= {"sequences": state.sequences, "events": state.events}
        write_folder(folder / "state", manifest, state.arrays())

    bar = tqdm(total=len(tokens), initial=state.sequences, desc="Indexing", unit="seq", disable=not progress)
    try:
        with bar:
            pending = dict.fromkeys(state.excluded, 0)
            for start in range(state.sequences, len(tokens), batch_size):
                batch = tokens[start : start + batch_size]
                place, feature, value, length, left_out = _events(model, sae, batch, hook_name, special, n_pos)
                held.append((place, feature, value, length))
                for key, count in left_out.items():
                    pending[key] += count
                waiting += len(value)
                bar.update(len(batch))
                if waiting >= _CHUNK or start + batch_size >= len(tokens):
                    flush(start + len(batch), pending)
                    pending = dict.fromkeys(state.excluded, 0)
                    if chunks % _CHECKPOINT == 0:
                        checkpoint()
    except BaseException:  # Ctrl-C above all: keep what is counted, then let the caller hear of it
        if whole:
            checkpoint()
        raise
    else:
        checkpoint()
    finally:
        if log is not None:
            log.close()
    return state


def _events(
    model: "SAETransformerBridge", sae: "SAE[Any]", batch: Tokens, hook_name: str, special: torch.Tensor, n_pos: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """Return the events of one batch, token by token: places and lengths ``[token]``, features, values ``[event]``."""
    ids = torch.from_numpy(batch.ids).long()
    states = hidden_states(model, ids, hook_name)
    with torch.no_grad():
        features = sae.encode(states.to(sae.dtype))
    text = torch.from_numpy(batch.document) >= 0
    marker = text & torch.isin(ids, special)
    huge = text & ~marker & massive(states.float().norm(dim=-1)).cpu()
    keep = (text & ~marker & ~huge).flatten()
    left_out = {"bos_or_padding": int((~text).sum()), "special": int(marker.sum()), "massive": int(huge.sum())}
    flat = features.flatten(0, -2)
    where = flat.nonzero()  # the one look at the dense matrix
    where = where[keep.to(where.device)[where[:, 0]]]
    value = flat[where[:, 0], where[:, 1]].float().cpu().numpy()
    row, feature = where[:, 0].cpu().numpy(), where[:, 1].cpu().numpy()
    if value.size and value.min() < 0:
        raise FeatureIndexError(
            "this SAE has negative activations; the index holds features that are active above zero"
        )
    place = (batch.sequence_ids[:, None] * n_pos + np.arange(n_pos)).ravel()
    length = np.bincount(row, minlength=len(place))
    keep = keep.numpy()
    return place[keep], feature.astype(np.int32), value, length[keep], left_out


def _count(
    state: Pass,
    place: np.ndarray,
    feature: np.ndarray,
    value: np.ndarray,
    length: np.ndarray,
    *,
    log: "_EventLog | None",
) -> None:
    """Count a chunk of whole sequences in."""
    state.counted += len(place)
    state.events += len(value)
    state.sample.add(place, length, feature)
    if log is not None:
        log.append(place, feature, value, length)
    if not len(value):
        return
    narrow = feature.astype(np.uint16) if len(state.statistics.count) <= 65536 else feature
    order = np.argsort(narrow, kind="stable")  # a radix sort for 16 bits; tokens stay in order within a feature
    events = Events(feature[order].astype(np.int64), np.repeat(place, length)[order], value[order])
    state.statistics.add(events)
    state.collector.add(events, state.statistics.max)


def _resume(folder: Path, identity: dict, state: Pass) -> None:
    """Take up an earlier run in this folder, if it was of the same thing."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "state").is_dir():
        return
    try:
        manifest, arrays = read_folder(folder / "state")
    except FeatureIndexError:
        shutil.rmtree(folder)  # damaged: nothing to go on from
        folder.mkdir(parents=True)
        return
    found = manifest["identity"]
    differs = [key for key, value in identity.items() if found.get(key) != json.loads(json.dumps(value))]
    if differs:
        raise FeatureIndexError(
            f"{folder} is an unfinished build of another {', '.join(differs)}: delete it, or choose another path"
        )
    state.load(manifest, arrays)


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
    return {"event_start": start, "event_place": out_place, "event_value": out_value}
