"""Run a model from the middle: only the blocks after a point of the residual stream.

transformer-lens 3.9 has ``start_at_layer`` in its signature and refuses it: transformers owns the loop over the blocks
and gives each of them arguments of its own (positions, masks, one kind a layer in some models). Those depend on the
length of the sequence only, so they are taken down in one pass over one made-up sequence, and the blocks are called
with them from then on. Whether that is right for a model is not assumed but tried once, on two other sequences.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
    model: "SAETransformerBridge",
    states: Float[Tensor, "batch pos d_model"],
    calls: Calls,
    first: int,
    read: slice = slice(None),
) -> Float[Tensor, "batch _read d_vocab"]:
    """Run the blocks from ``first`` on; at the positions to be read, the final norm and the unembedding too."""
    for block, (args, kwargs) in zip(list(model.blocks)[first:], calls[first:], strict=True):
        states = block(states, *args, **kwargs)
        states = states[0] if isinstance(states, tuple) else states
    return model.adapter.apply_output_logits_transform(model.unembed(model.ln_final(states[:, read])))


def _tried(model: "SAETransformerBridge") -> bool:
    """Compare calling the blocks one by one with the model's own pass, on sequences of other tokens."""
    pos = min(TRIED_POS, model.cfg.n_ctx)
    calls, _, _ = _taken_down(model, _made_up(model, pos, 7)[None])
    _, states, logits = _taken_down(model, torch.stack([_made_up(model, pos, 3), _made_up(model, pos, 5)]))
    try:
        with torch.no_grad(), _without_hooks(model):
            ours = run_blocks(model, states, calls, 0)
    except Exception:  # whatever a block misses when it is called like this: the model runs as a whole then
        return False
    most = logits.float().abs().max().item() * (1e-4 if logits.dtype == torch.float32 else 2e-2)
    return torch.allclose(ours.float(), logits.float(), rtol=0, atol=most)


def _made_up(model: "SAETransformerBridge", pos: int, step: int) -> Int[Tensor, " pos"]:
    return (torch.arange(1, pos + 1) * step % model.cfg.d_vocab).to(model.cfg.device)


@torch.no_grad()
def _taken_down(model: "SAETransformerBridge", ids: Int[Tensor, "batch pos"]) -> tuple[Calls, Tensor, Tensor]:
    """Run the model; return the arguments of its blocks, the states that the first one gets, and the logits."""
    calls: Calls = []
    first: list[Tensor] = []

    def take_down(block, args, kwargs):
        kwargs = dict(kwargs)
        states = args[0] if args else kwargs.pop("hidden_states")
        first.append(states) if not calls else None
        calls.append((args[1:], kwargs))

    with _without_hooks(model):
        handles = [block.register_forward_pre_hook(take_down, with_kwargs=True) for block in model.blocks]
        try:
            logits = model(ids, use_cache=False, prepend_bos=False)
        finally:
            for handle in handles:
                handle.remove()
    return calls, first[0], logits


@contextmanager
def _without_hooks(model: "SAETransformerBridge") -> Generator[None]:
    """Let no hook of the caller see the made-up sequences: a patch has the shape of the caller's batch."""
    held = [(point, point._forward_hooks) for point in set(model.hook_dict.values())]
    try:
        for point, hooks in held:
            point._forward_hooks = type(hooks)()
        yield
    finally:
        for point, hooks in held:
            point._forward_hooks = hooks


def twin(model: "SAETransformerBridge") -> "SAETransformerBridge":
    """Return the model with hook points of its own and the same weights; nothing big is copied.

    Hooks change what a model computes for everyone who runs it meanwhile: two threads need two sets of hook points.
    """
    shared = [*model.parameters(), *model.buffers(), model.tokenizer]
    # States that a forward pass under way keeps for a moment: they have a gradient and cannot be copied.
    shared += [thing for part in model.modules() for thing in vars(part).values() if isinstance(thing, Tensor)]
    made = deepcopy(model, {id(thing): thing for thing in shared if thing is not None})
    for part in made.modules():
        # Blocks hook themselves at their first forward pass, by functions that would still write into the original.
        if teardown := getattr(part, "_teardown_capture_hooks", None):
            teardown()
    return made
