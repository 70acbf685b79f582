"""The one door to a model: what every run of it is checked for, before and after.

`run` is the only place that calls a model on tokens. Before the pass it asks what decides whether its numbers mean
anything: are these token ids of this model, do they fit its context, is it in eval mode. What comes out is asked by
whoever keeps it, with `check_finite`: a float16 model that overflows goes on without a word.
"""

import math
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from saekit.errors import ModelError, SaekitError

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

# Names of a model's largest number of tokens in transformers' configurations. A model of transformers that has none
# (BLOOM: distances instead of positions) reads texts of any length; transformer-lens says 2,048 then.
BOUNDS = ("n_positions", "max_position_embeddings", "max_seq_len", "max_sequence_length", "max_context_length")
NO_STATES = re.compile(r"\.(hook_pattern|hook_attn_scores|hook_cos|hook_sin)$")


class _Pass(threading.local):
    shape: tuple[int, ...] | None = None  # [batch, pos] of the pass that this thread runs
    gradients = False  # whether it was begun with them


_PASS = _Pass()


def context_length(model: "SAETransformerBridge") -> int | None:
    """Return the largest number of tokens that a model can read, None for one without a bound."""
    config = getattr(model.original_model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        return model.cfg.n_ctx  # a model of transformer-lens's own kind
    text = config.get_text_config()
    if getattr(text, "alibi", False):
        return None
    return next((size for name in BOUNDS if isinstance(size := getattr(text, name, None), int)), None)


def check_tokens(
    model: "SAETransformerBridge",
    ids: Any,
    *,
    name: str = "the batch",
    past: int = 0,
    error: type[SaekitError] = ModelError,
) -> Int[Tensor, "batch pos"]:
    """Return token ids as int64, or say why the model cannot read them.

    Args:
        model: The model.
        ids: Token ids ``[batch, pos]``, of any dtype of whole numbers.
        name: Name of the tokens in messages.
        past: Number of tokens in the key-value cache, which these follow.
        error: Class of the error.

    Raises:
        SaekitError: Other than whole numbers, of another shape, empty, outside of the vocabulary, or longer than the
            model's context; of the class ``error``.
    """
    if not isinstance(ids, Tensor) or ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise error(f"{name} is of {got}: expected token ids, whole numbers in a tensor [batch, pos]")
    if ids.ndim != 2 or not ids.numel():
        empty = "no tokens" if ids.ndim == 2 else f"the shape {list(ids.shape)}"
        raise error(f"{name} has {empty}: expected token ids [batch, pos], at least one")
    ids, rows = ids.long(), model.W_E.shape[0]
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high >= rows:
        raise error(
            f"{name} has token ids from {low} to {high}, outside 0 to {rows - 1}, which {model.cfg.model_name} has "
            f"embeddings for: expected ids of this model's own tokenizer"
        )
    most = context_length(model)
    if most is not None and past + ids.shape[1] > most:
        raise error(
            f"{name} has {past + ids.shape[1]} tokens, the model's context holds {most}: what {model.cfg.model_name} "
            f"says about later ones means nothing. Shorten it, or cut it into rows of at most {most}"
        )
    return ids


def check_eval(model: "SAETransformerBridge") -> None:
    """Raise ModelError if any part of a model is in training mode: with dropout its numbers are random."""
    if any(part.training for part in (model, model.original_model, *model.blocks)):
        raise ModelError(
            f"{model.cfg.model_name} is in training mode, where dropout makes every run another: call model.eval()"
        )


def run(model: "SAETransformerBridge", ids: Tensor, *, past: int = 0, **options: Any) -> Tensor:
    """Run a model on tokens as they are, on its device; nothing is put before them.

    Args:
        model: The model.
        ids: Token ids ``[batch, pos]``, on any device.
        past: Number of tokens in the key-value cache, which these follow.
        **options: Options of the bridge's own forward.

    Raises:
        ModelError: The model is in training mode, or cannot read these tokens (`check_tokens`).
    """
    check_eval(model)
    ids = check_tokens(model, ids, past=past).to(model.W_E.device)
    with in_pass(ids):
        return model(ids, prepend_bos=False, **options)


@contextmanager
def in_pass(batch: Tensor) -> Generator[None]:
    """Let `as_states` know the shape ``[batch, pos, ...]`` of what this thread runs on a model inside."""
    before = _PASS.shape, _PASS.gradients
    _PASS.shape, _PASS.gradients = tuple(batch.shape[:2]), torch.is_grad_enabled()
    try:
        yield
    finally:
        _PASS.shape, _PASS.gradients = before


def gradients_of_pass() -> torch.set_grad_enabled:
    """Return a context with gradients if this thread's pass has them: the bridge's norms call hooks without."""
    return torch.set_grad_enabled(torch.is_grad_enabled() or (_PASS.shape is not None and _PASS.gradients))


def as_states(activation: Any, hook_name: str) -> Tensor:
    """Return a hook point's activation as one vector per token, ``[batch, pos, d]``.

    Heads stand one after the other, as sae-lens has them for SAEs of ``hook_z``: ``d`` is heads times ``d_head``.

    Raises:
        ModelError: The activation is not one vector per token.
    """
    shape = list(activation.shape) if isinstance(activation, Tensor) else type(activation).__name__
    in_order = isinstance(activation, Tensor) and activation.ndim >= 3
    if not in_order or _PASS.shape not in (None, tuple(activation.shape[:2])):
        of = "" if _PASS.shape is None else f" of {list(_PASS.shape)} tokens"
        raise ModelError(
            f"{hook_name} has the shape {shape} in a batch{of}: that is not one vector per token [batch, pos, d], "
            f"which is what can be read, and encoded by an SAE. Expected a hook point of the residual stream, an "
            f"attention or MLP output, or q, k, v or z"
        )
    return activation.flatten(2)


def check_finite(values: Tensor, where: str, *, error: type[SaekitError] = ModelError) -> Tensor:
    """Return computed values, or raise an error if any of them is infinite or not a number.

    Where all are finite this costs one sum of them.

    Args:
        values: Values of tokens ``[batch, pos, ...]``, of rows ``[row, ...]``, or alone ``[value]``.
        where: Name of the values, in the plural, as the message begins.
        error: Class of the error.

    Raises:
        SaekitError: A value is not finite; of the class ``error``.
    """
    found = values.detach()
    # A sum of half precision fits float32; an overflow of the sum alone is told apart below.
    if math.isfinite(found.sum(dtype=torch.promote_types(found.dtype, torch.float32)).item()):
        return values
    broken = ~found.isfinite()
    if not broken.any():
        return values
    of = "values" if broken.ndim == 1 else "rows" if broken.ndim == 2 else "tokens"
    broken = broken.flatten(min(broken.ndim - 1, 2)).any(-1) if broken.ndim > 1 else broken
    dtype = str(values.dtype).removeprefix("torch.")
    advice = "are all weights finite, and all that is put in?"
    if values.dtype == torch.float16:
        advice = "65,504 is its largest number. Load the model, or the SAE, in torch.float32 or torch.bfloat16"
    raise error(
        f"{where} are not finite (infinite, or not a number) at {int(broken.sum())} of {broken.numel()} {of}. They are "
        f"computed in {dtype}: {advice}"
    )
