"""Run a model over a corpus once and keep the activations of one hook point on disk, ready to train on."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.data import Tokens, counted
from saekit.errors import DataError
from saekit.models import check_hook, hidden_states, special_token_ids

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_MANIFEST = "manifest.json"
_ROWS = "activations.f16"  # raw little-endian float16, [token, d_model]


@dataclass(frozen=True)
class Activations:
    """Activations of one hook point, memory-mapped, ``[token, d_model]`` in float16.

    BOS, separators, padding, special tokens and massive-norm tokens are not among them; ``excluded`` counts them.
    """

    path: Path
    rows: Float[np.ndarray, "token d_model"]
    hook_name: str
    model_name: str
    tokens_fingerprint: str
    excluded: dict[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.rows.shape[1]

    def batches(self, batch_size: int, *, passes: float = 1, seed: int = 0) -> Iterator[Float[Tensor, "batch d_model"]]:
        """Yield float32 batches in an order that depends on the seed alone, a new one for every pass.

        Rows are drawn without replacement within a pass; an incomplete last batch is dropped.
        """
        total = int(len(self) * passes) // batch_size
        if not total:
            raise DataError(f"{len(self)} activations are fewer than one batch of {batch_size}: use a smaller batch")
        per_pass = max(1, len(self) // batch_size)
        for number in range(total):
            turn, within = divmod(number, per_pass)
            if within == 0:
                order = np.random.default_rng((seed, turn)).permutation(len(self))
            chosen = np.sort(order[within * batch_size : (within + 1) * batch_size])  # in file order: fewer page faults
            yield torch.from_numpy(self.rows[chosen].astype(np.float32))


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
        DataError: The folder holds activations of something else.
    """
    from tqdm.auto import tqdm

    check_hook(model, hook_name)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    identity = {
        "format": "saekit activations 1",
        "hook_name": hook_name,
        "model_name": model.cfg.model_name,
        "tokens_fingerprint": tokens.fingerprint(),
        "d_model": model.cfg.d_model,
    }
    state = _resume(path, identity)
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    with (
        (path / _ROWS).open("r+b" if (path / _ROWS).exists() else "w+b") as file,
        tqdm(total=len(tokens), initial=state["sequences"], unit="seq", desc=hook_name, disable=not progress) as bar,
    ):
        file.truncate(state["rows"] * 2 * model.cfg.d_model)  # what came after the last checkpoint is done again
        file.seek(0, os.SEEK_END)
        try:
            for start in range(state["sequences"], len(tokens), batch_size):
                batch = tokens[start : start + batch_size]
                rows, left_out = _rows(model, batch, hook_name, special)
                file.write(rows.tobytes())
                excluded = {reason: n + left_out[reason] for reason, n in state["excluded"].items()}
                # One assignment: an interrupt finds the old state or the new one.
                state = state | {
                    "sequences": start + len(batch),
                    "rows": state["rows"] + len(rows),
                    "excluded": excluded,
                }
                bar.update(len(batch))
                if (start // batch_size) % 200 == 199:
                    _checkpoint(path, file, state)
        finally:
            _checkpoint(path, file, state)
    return load_activations(path)


def _rows(
    model: "SAETransformerBridge", batch: Tokens, hook_name: str, special: Int[Tensor, " n"]
) -> tuple[Float[np.ndarray, "token d_model"], dict[str, int]]:
    """Return the activations of one batch that count, and how many were left out, by reason."""
    states = hidden_states(model, torch.from_numpy(batch.ids).long(), hook_name).float().cpu()
    keep, left_out = counted(batch, states, special)
    return states[keep].clamp(-65504, 65504).numpy().astype("<f2"), left_out


def load_activations(path: Path | str) -> Activations:
    """Open a folder written by `harvest`; one that was interrupted opens with what it has."""
    path = Path(path)
    try:
        state = json.loads((path / _MANIFEST).read_text())
        size = (path / _ROWS).stat().st_size
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a folder of activations that saekit wrote ({error})") from error
    needed = state["rows"] * state["d_model"] * 2
    if size < needed:
        raise DataError(f"{path} is truncated: {size} bytes of at least {needed}. Delete it and harvest again")
    shape = (state["rows"], state["d_model"])
    rows = np.memmap(path / _ROWS, "<f2", "r", shape=shape) if state["rows"] else np.zeros(shape, "<f2")
    return Activations(
        path, rows, state["hook_name"], state["model_name"], state["tokens_fingerprint"], state["excluded"]
    )


def _resume(path: Path, identity: dict) -> dict:
    fresh = {**identity, "sequences": 0, "rows": 0, "excluded": {"bos_or_padding": 0, "special": 0, "massive": 0}}
    if not (path / _MANIFEST).exists():
        return fresh
    state = json.loads((path / _MANIFEST).read_text())
    differs = [key for key, value in identity.items() if state.get(key) != value]
    if differs:
        raise DataError(
            f"{path} holds activations of another {', '.join(differs)}: expected {identity[differs[0]]!r}, found "
            f"{state.get(differs[0])!r}. Choose another folder"
        )
    return state


def _checkpoint(path: Path, file, state: dict) -> None:
    """Make the rows safe first, then say that they are there."""
    file.flush()
    os.fsync(file.fileno())
    draft = path / f"{_MANIFEST}.part"
    draft.write_text(json.dumps(state, indent=1))
    draft.replace(path / _MANIFEST)
