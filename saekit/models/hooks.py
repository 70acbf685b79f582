"""Hooks: reading and editing a model's activations. Functions are put on a model in this room only.

`hooked` lets functions see, and perhaps replace, activations for as long as a block of code runs; `reading` keeps
activations; `forward` is one pass, which may end early. `hidden_states` is all three in one call.
"""

import difflib
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.progress import Stop, ask
from saekit.errors import ModelError

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

Edit = Callable[[Tensor], Tensor | None]  # takes an activation; what it returns replaces it, None leaves it


def check_hook(model: "SAETransformerBridge", hook_name: str) -> str:
    """Return the canonical name of a hook point, or raise ModelError that names the nearest ones.

    sae-lens skips an SAE whose hook is missing with a log line, and then reports the clean model's results.
    """
    resolved = model._resolve_hook_name(hook_name)
    if resolved in model.hook_dict:
        return resolved
    aliases = {**model.hook_aliases, **model._collect_hook_aliases_from_registry()}
    known = sorted({*model.hook_dict, *(k for k in aliases if isinstance(k, str))})
    near = difflib.get_close_matches(hook_name, known, n=3) or known[:3]
    raise ModelError(
        f"{model.cfg.model_name} has no hook point {hook_name!r} ({model.cfg.n_layers} layers, numbered from 0). "
        f"Nearest: {', '.join(near)}"
    )


def stop_layer(hook_name: str) -> int | None:
    """Return the first layer that need not run for this hook point, None if all must."""
    from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name

    return extract_stop_at_layer_from_tlens_hook_name(hook_name)


@contextmanager
def hooked(model: "SAETransformerBridge", edits: Mapping[str, Edit]) -> Generator[None]:
    """Let functions see, and perhaps replace, activations in whatever this thread runs on the model inside.

    Of several hooks on one point the last to be put there runs last, on what those before it returned. They come off
    however the block of code ends, and another thread that runs the model meanwhile gets it without them. Gradients
    flow through a replacement. With generation inside, a function gets the tokens of one step at a time.

    Args:
        model: The model.
        edits: Function by hook point. It takes the activation ``[batch, pos, ...]`` and returns what replaces it, or
            None to leave it as it is.

    Raises:
        ModelError: The model has no such hook point.

    >>> with hooked(model, {"blocks.3.hook_resid_post": lambda states: 2 * states}):  # doctest: +SKIP
    ...     logits = forward(model, ids)
    """
    mine, handles = threading.get_ident(), []

    def apply(point, args, output, *, edit):
        if threading.get_ident() != mine:
            return None
        shape = point.hook_conversion  # some points pass heads flat, and show them apart
        edited = edit(output if shape is None else shape.convert(output))
        return edited if shape is None or edited is None else shape.revert(edited)

    points = {name: check_hook(model, name) for name in edits}
    by_name = model.hook_dict
    try:
        for name, edit in edits.items():
            model.check_hooks_to_add(points[name])
            # A plain PyTorch hook: `add_hook` of the bridge keeps lists of its own, which threads would share.
            handles.append(by_name[points[name]].register_forward_hook(partial(apply, edit=edit)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def reading(model: "SAETransformerBridge", hook_names: Sequence[str]) -> Generator[dict[str, Tensor]]:
    """Keep the activations of whatever this thread runs on the model inside, with their gradients' graph.

    Args:
        model: The model.
        hook_names: Hook points to read, after what earlier hooks made of them.

    Yields:
        Activation by hook name, as the last pass left it; empty before the first pass.

    Raises:
        ModelError: The model has no such hook point.
    """
    seen: dict[str, Tensor] = {}

    def keep(activation, *, name):
        seen[name] = activation

    with hooked(model, {name: partial(keep, name=name) for name in hook_names}):
        yield seen


@contextmanager
def before_blocks(model: "SAETransformerBridge", look: Callable[[tuple, dict[str, Any]], None]) -> Generator[None]:
    """Call a function before every block that this thread runs on the model inside.

    A pass over a long prompt takes seconds, a block of it a fraction: what may be stopped is asked here.

    Args:
        model: The model.
        look: Function of the block's positional and keyword arguments. An exception in it ends the pass.
    """
    mine, handles = threading.get_ident(), []

    def apply(block, args, kwargs):
        if threading.get_ident() == mine:
            look(args, kwargs)

    try:
        handles += [block.register_forward_pre_hook(apply, with_kwargs=True) for block in model.blocks]
        yield
    finally:
        for handle in handles:
            handle.remove()


def stopping(model: "SAETransformerBridge", stop: Stop) -> AbstractContextManager[None]:
    """Ask before every block that this thread runs on the model inside whether to stop.

    Args:
        model: The model.
        stop: Function that is asked; once it returns True, `saekit.errors.Stopped` is raised. None to ask nobody.
    """
    return nullcontext() if stop is None else before_blocks(model, lambda args, kwargs: ask(stop))


def forward(
    model: "SAETransformerBridge", ids: Int[Tensor, "batch pos"], *, up_to: Sequence[str] | None = None
) -> Float[Tensor, "batch pos _out"]:
    """Run the model once on tokens as they are, and return its logits.

    Args:
        model: The model.
        ids: Token ids, on any device; nothing is put before them.
        up_to: Hook points that have to be reached: layers above the highest of them do not run, and what comes back
            is then the last state, not logits. None for the whole model.
    """
    stops = [stop for name in up_to or () if (stop := stop_layer(name)) is not None]
    stop = max(stops) if stops and len(stops) == len(up_to or ()) else None
    return model(ids.to(next(model.parameters()).device), stop_at_layer=stop, prepend_bos=False)


def hidden_states(
    model: "SAETransformerBridge", ids: Int[Tensor, "batch pos"], hook_name: str
) -> Float[Tensor, "batch pos d_model"]:
    """Return the activations at one hook point, without gradients; layers above it do not run.

    Raises:
        ModelError: The model has no such hook point.
    """
    return hidden_states_at(model, ids, [hook_name])[hook_name]


def hook_width(model: "SAETransformerBridge", hook_name: str) -> int:
    """Return the size of the last axis of a hook point's activations; the model reads one token for it."""
    return hidden_states(model, torch.zeros(1, 1, dtype=torch.long), hook_name).shape[-1]


@torch.no_grad()
def hidden_states_at(
    model: "SAETransformerBridge", ids: Int[Tensor, "batch pos"], hook_names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the activations ``[batch, pos, d_model]`` by name of the hook point, from one pass without gradients.

    Layers above the highest of them do not run.

    Raises:
        ModelError: The model has no such hook point.
    """
    with reading(model, hook_names) as seen:
        forward(model, ids, up_to=hook_names)
    return {name: seen[name] for name in hook_names}
