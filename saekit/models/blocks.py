"""Run a model from the middle: only the blocks after a point of the residual stream.

transformer-lens 3.9 has ``start_at_layer`` in its signature and refuses it: transformers owns the loop over the blocks
and gives each of them arguments of its own (positions, masks, one kind a layer in some models). Those depend on the
length of the sequence only, so they are taken down in one pass over one made-up sequence, and the blocks are called
with them from then on. Whether that is right for a model is not assumed but tried once, on two other sequences.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.errors import ModelError, SaekitError
from saekit.models.door import check_eval, check_finite, check_tokens, in_pass, run
from saekit.models.hooks import before_blocks, check_hook, forward, hooked
from saekit.models.middle import without_hooks

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

Calls = list[tuple[tuple, dict[str, Any]]]  # a block's arguments after the states, by number of the block
MOST_LENGTHS = 8  # masks of as many sequence lengths are kept for one model
TRIED_POS = 16


@dataclass
class _Known:
    """What is known of a model: whether its blocks can be called one by one, and their arguments by length."""

    works: dict[tuple, bool] = field(default_factory=dict)
    calls: dict[tuple, Calls] = field(default_factory=dict)


_KNOWN: "WeakKeyDictionary[SAETransformerBridge, _Known]" = WeakKeyDictionary()


def first_block_after(model: "SAETransformerBridge", hook: str) -> int | None:
    """Return the first block that runs after a point between blocks; None for any other point.

    Args:
        model: The model.
        hook: Canonical name: ``blocks.3.hook_in`` (before block 3) or ``blocks.3.hook_out`` (after it).
    """
    match = re.fullmatch(r"blocks\.(\d+)\.hook_(in|out)", hook)
    if match is None or not getattr(model.blocks[int(match[1])], "hook_out_is_single_residual_stream", False):
        return None
    return int(match[1]) + (match[2] == "out")


def block_calls(model: "SAETransformerBridge", pos: int) -> Calls | None:
    """Return the arguments that each block gets on sequences of ``pos`` tokens, None if they do not suffice."""
    weight = next(model.parameters())
    known = _KNOWN.setdefault(model, _Known())
    kind = (weight.device, weight.dtype)
    if kind not in known.works:
        known.works[kind] = _tried(model)
    if not known.works[kind]:
        return None
    key = (pos, *kind)
    if key not in known.calls:
        while len(known.calls) >= MOST_LENGTHS:
            del known.calls[next(iter(known.calls))]
        known.calls[key] = _taken_down(model, _made_up(model, pos, 7)[None])[0]
    return known.calls[key]


def run_blocks(
    model: "SAETransformerBridge", ids: Tensor, states: Float[Tensor, "_batch _pos _d"], hook_name: str
) -> Float[Tensor, "batch pos d_model"] | None:
    """Return the states after the last block when these stand at a hook point; gradients flow to them.

    None for a point that is not between blocks, and for a model whose blocks cannot be called one by one.

    Raises:
        ModelError: No such hook point, the states are not of the tokens' shape, or the model cannot be run on the
            tokens, as in `forward`.
    """
    point = check_hook(model, hook_name)
    check_eval(model)
    ids = check_tokens(model, ids)
    if states.shape[:2] != ids.shape:
        raise ModelError(
            f"the states are for {list(states.shape[:2])} [batch, pos], but there are tokens for {list(ids.shape)}"
        )
    first = first_block_after(model, point)
    if first is None or (calls := block_calls(model, states.shape[1])) is None:
        return None
    weight = next(model.parameters())
    return _through(model, states.to(weight.device, weight.dtype), calls, first)


def _through(model: "SAETransformerBridge", states: Tensor, calls: Calls, first: int) -> Tensor:
    with in_pass(states):
        for block, (args, kwargs) in zip(list(model.blocks)[first:], calls[first:], strict=True):
            states = block(states, *args, **kwargs)
            states = states[0] if isinstance(states, tuple) else states
    return states


def _logits(model: "SAETransformerBridge", states: Float[Tensor, "batch pos d_model"]) -> Tensor:
    return model.adapter.apply_output_logits_transform(model.unembed(model.ln_final(states)))


def logits_from(
    model: "SAETransformerBridge",
    ids: Int[Tensor, "batch pos"],
    states: Float[Tensor, "_batch _pos ..."],
    hook_name: str,
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits of the model when these states stand at a hook point: the other half of `hidden_states`.

    At ``hook_resid_pre`` and ``hook_resid_post`` only the blocks above run, with the same result as the whole model
    with a hook that puts the states there. At any other point (attention, MLP), and for a model whose blocks cannot
    be called one by one, the whole model does run. Hooks that are set on the model count; gradients flow to
    ``states``. The first call tries the model's blocks on short made-up sequences, and the first call of each
    length runs one such sequence, both out of sight of the hooks.

    Args:
        model: The model.
        ids: The tokens. Above a point of the residual stream nothing depends on them but the length.
        states: States to put at the hook point, in its shape and any dtype.
        hook_name: The hook point.

    Raises:
        ModelError: No such hook point, the states are not of the tokens' shape, the model cannot be run on the
            tokens, as in `forward`, or the logits are not finite.
    """
    return _logits_from(model, ids, states, hook_name, slice(None))


def last_logits_from(
    model: "SAETransformerBridge",
    ids: Int[Tensor, "batch pos"],
    states: Float[Tensor, "_batch _pos ..."],
    hook_name: str,
) -> Float[Tensor, "batch d_vocab"]:
    """Return `logits_from` at the last position, without the final norm and the unembedding of the others.

    With 49,152 tokens to unembed that saves two fifths of the work above layer 18 of SmolLM2.
    """
    return _logits_from(model, ids, states, hook_name, slice(-1, None))[:, -1]


def _logits_from(
    model: "SAETransformerBridge", ids: Tensor, states: Tensor, hook_name: str, read: slice
) -> Float[Tensor, "batch _read d_vocab"]:
    last = run_blocks(model, ids, states, hook_name)
    if last is not None:
        return check_finite(_logits(model, last[:, read]), "logits")
    with hooked(model, {hook_name: lambda _: states}):
        return forward(model, ids)[:, read]


def _tried(model: "SAETransformerBridge") -> bool:
    """Compare calling the blocks one by one with the model's own pass, on sequences of other tokens."""
    pos = min(TRIED_POS, model.cfg.n_ctx)
    try:
        calls, _, _ = _taken_down(model, _made_up(model, pos, 7)[None])
        _, states, logits = _taken_down(model, torch.stack([_made_up(model, pos, 3), _made_up(model, pos, 5)]))
        with torch.no_grad(), without_hooks(model):
            ours = _logits(model, _through(model, states, calls, 0))
    except SaekitError:
        raise
    except Exception:  # whatever a block misses when it is called like this: the model runs as a whole then
        return False
    if not logits.isfinite().all():  # half precision that overflows says nothing; the run as a whole will be refused
        return False
    most = logits.float().abs().max().item() * (1e-4 if logits.dtype == torch.float32 else 2e-2)
    return torch.allclose(ours.float(), logits.float(), rtol=0, atol=most)


def _made_up(model: "SAETransformerBridge", pos: int, step: int) -> Int[Tensor, " pos"]:
    return torch.arange(1, pos + 1) * step % model.W_E.shape[0]


@torch.no_grad()
def _taken_down(model: "SAETransformerBridge", ids: Int[Tensor, "batch pos"]) -> tuple[Calls, Tensor, Tensor]:
    """Run the model; return the arguments of its blocks, the states that the first one gets, and the logits."""
    calls: Calls = []
    first: list[Tensor] = []

    def take_down(args, kwargs):
        kwargs = dict(kwargs)
        states = args[0] if args else kwargs.pop("hidden_states")
        if not calls:
            first.append(states)
        calls.append((args[1:], kwargs))

    with without_hooks(model), before_blocks(model, take_down):
        logits = run(model, ids, use_cache=False)
    return calls, first[0], logits
