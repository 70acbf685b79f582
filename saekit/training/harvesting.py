"""Run a model over a corpus once and keep the activations of its hook points on disk, ready to train on."""

import errno
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.data import Tokens, counted
from saekit.errors import DataError
from saekit.models import check_hook, hidden_states_at, special_token_ids
from saekit.training.activations import Activations, Writer, load_activations

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def harvest(
    model: "SAETransformerBridge",
    tokens: Tokens,
    hook_name: str,
    path: Path | str,
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> Activations:
    """Keep the activations of ``hook_name`` on every token of a corpus.

    Interrupted (Ctrl-C, a crash, a full disk), the folder holds what was done; the same call goes on from there.

    Args:
        model: Load it in bfloat16 for speed: training does not need more.
        tokens: The corpus.
        hook_name: For example ``"blocks.18.hook_resid_post"``.
        path: A folder. It takes ``2 * d_model`` bytes a token.
        batch_size: Sequences a forward pass.
        progress: Show a progress bar.

    Raises:
        DataError: The folder holds activations of something else; the disk is too full; an activation is not a
            number.
    """
    return _harvest(model, tokens, {hook_name: Path(path)}, batch_size, progress)[hook_name]


def harvest_many(
    model: "SAETransformerBridge",
    tokens: Tokens,
    hook_names: Sequence[str],
    path: Path | str,
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, Activations]:
    """Keep the activations of several hook points from one pass of the model.

    Each hook point gets a folder of its own name in ``path``; otherwise like `harvest`.
    """
    if not hook_names or len(set(hook_names)) < len(hook_names):
        raise DataError(f"name at least one hook point, and each once, not {list(hook_names)}")
    return _harvest(model, tokens, {name: Path(path) / name for name in hook_names}, batch_size, progress)


def _harvest(
    model: "SAETransformerBridge", tokens: Tokens, folders: dict[str, Path], batch_size: int, progress: bool
) -> dict[str, Activations]:
    from tqdm.auto import tqdm

    for name in folders:
        check_hook(model, name)
    probe = hidden_states_at(model, torch.zeros(1, 1, dtype=torch.long), list(folders))
    writers = {}
    for name, path in folders.items():
        identity = {"hook_name": name, "model_name": model.cfg.model_name, "d_model": probe[name].shape[-1]}
        writers[name] = Writer(path, {**identity, "tokens_fingerprint": tokens.fingerprint()})
    _check_room(writers, tokens)
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    start = min(writer.sequences for writer in writers.values())
    bar = tqdm(total=len(tokens), initial=start, unit="seq", desc=", ".join(folders), disable=not progress)
    try:
        with ExitStack() as stack:
            stack.enter_context(bar)
            for writer in writers.values():
                stack.enter_context(writer.open())
            stack.callback(lambda: [writer.checkpoint() for writer in writers.values()])
            batches = 0
            while start < len(tokens):
                # A folder may be ahead of the others after an interrupt: stop where it takes up again.
                ahead = [w.sequences for w in writers.values() if w.sequences > start]
                batch = tokens[start : min(start + batch_size, *ahead, len(tokens))]
                behind = [name for name in writers if writers[name].sequences == start]
                for name, states in hidden_states_at(model, torch.from_numpy(batch.ids).long(), behind).items():
                    writers[name].append(*_rows(batch, states.float().cpu(), special, name), len(batch))
                start += len(batch)
                batches += 1
                bar.update(len(batch))
                if batches % 200 == 0:
                    for writer in writers.values():
                        writer.checkpoint()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DataError(
            f"the disk is full: {', '.join(map(str, folders.values()))} keeps what was safe before. Free some space "
            f"and call again to go on"
        ) from error
    return {name: load_activations(path, verify=False) for name, path in folders.items()}


def _check_room(writers: dict[str, Writer], tokens: Tokens) -> None:
    """Say beforehand what would otherwise break off after an hour."""
    per_token = [2 * w.state["d_model"] * (len(tokens) - w.sequences) for w in writers.values()]
    needed, path = sum(per_token) * tokens.ids.shape[1], next(iter(writers.values())).path
    if needed > (free := shutil.disk_usage(path).free):
        raise DataError(
            f"{tokens.ids.size:,} tokens at {len(writers)} hook points take another {needed / 1e9:.1f} GB, and {path} "
            f"has {free / 1e9:.1f} GB left: free some space, or harvest fewer tokens"
        )


def _rows(
    batch: Tokens, states: Float[Tensor, "batch pos d_model"], special: Int[Tensor, " n"], hook_name: str
) -> tuple[Float[np.ndarray, "token d_model"], dict[str, int]]:
    """Return the activations of one batch that count, and how many were left out, by reason."""
    keep, left_out = counted(batch, states, special)
    rows = states[keep]
    if rows.isnan().any():
        raise DataError(f"the model gives activations that are not numbers at {hook_name}: is its dtype float16?")
    return rows.clamp(-65504, 65504).numpy().astype("<f2"), left_out
