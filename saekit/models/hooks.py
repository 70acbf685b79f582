"""Hooks: reading and editing a model's activations. Functions are put on a model in this room only.

`hooked` lets functions see, and perhaps replace, activations for as long as a block of code runs; `reading` keeps
activations; `forward` is one pass, which may end early. `hidden_states` is all three in one call. Activations are one
vector per token: where a hook point has heads, they stand one after the other (`saekit.models.door.as_states`).
"""

import difflib
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.progress import Stop, ask
from saekit.errors import ModelError
from saekit.models.door import NO_STATES, as_states, check_finite, gradients_of_pass, run
from saekit.models.middle import check_adds_up, end_of_block

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

Edit = Callable[[Tensor], Tensor | None]  # takes an activation; what it returns replaces it, None leaves it

RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")

_WIDTHS: "WeakKeyDictionary[SAETransformerBridge, dict[str, int]]" = WeakKeyDictionary()


def check_model(model: Any) -> None:
    """Refuse what is not a model that saekit can run. Raises ModelError that says how to get one."""
    from sae_lens import SAETransformerBridge

    if not isinstance(model, SAETransformerBridge):
        shown = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise ModelError(
            f"the model is {shown}: expected what load_model returns (a sae_lens.SAETransformerBridge). load_model "
            f"takes a name, a folder or a GGUF file; a model of transformers goes there by its save_pretrained(folder)"
        )


def check_hook(model: "SAETransformerBridge", hook_name: str) -> str:
    """Return the canonical name of a hook point with one vector per token, or raise ModelError.

    The message for a name that the model does not have names the nearest ones. sae-lens skips an SAE whose hook is
    missing with a log line, and then reports the clean model's results.
    """
    check_model(model)
    resolved = model._resolve_hook_name(hook_name)
    if NO_STATES.search(resolved):
        raise ModelError(
            f"{hook_name} has no vector per token [batch, pos, d], but numbers for pairs of tokens, or for positions: "
            f"expected a hook point of the residual stream, an attention or MLP output, or q, k, v or z"
        )
    if resolved in model.hook_dict:
        return resolved
    aliases = {**model.hook_aliases, **model._collect_hook_aliases_from_registry()}
    known = sorted({*model.hook_dict, *(k for k in aliases if isinstance(k, str))})
    near = difflib.get_close_matches(hook_name, known, n=3) or known[:3]
    raise ModelError(
        f"{model.cfg.model_name} has no hook point {hook_name!r} ({model.cfg.n_layers} layers, numbered from 0). "
        f"Nearest: {', '.join(near)}"
    )


def in_residual(model: "SAETransformerBridge", hook_name: str) -> bool:
    """Return whether a hook point is the residual stream, or what attention or the MLP adds to it.

    Only there is a decoder row a direction that the unembedding reads. Heads side by side, normed states and the
    inside of an MLP may be as wide, and are something else.

    Raises:
        ModelError: The model has no such hook point.
    """
    point = check_hook(model, hook_name)
    block = ".".join(point.split(".")[:2])
    names = ("hook_embed", *(f"{block}.{name}" for name in RESIDUAL))
    return point in {model._resolve_hook_name(name) for name in names}


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
        edits: Function by hook point. It takes the activation ``[batch, pos, d]``, heads one after the other, and
            returns what replaces it, of the same shape and any dtype and device, or None to leave it as it is.

    Raises:
        ModelError: The model has no such hook point, or what replaces an activation is of another shape; from the run
            inside, where the hook point's activation is not one vector per token.

    >>> with hooked(model, {"blocks.3.hook_resid_post": lambda states: 2 * states}):  # doctest: +SKIP
    ...     logits = forward(model, ids)
    """
    mine, handles = threading.get_ident(), []
    changes: dict[str, Tensor] = {}  # what the stream around an MLP has to get, too

    def at_point(point, args, output, *, name, edit):
        if threading.get_ident() != mine:
            return None
        changes.pop(name, None)
        with gradients_of_pass():
            return apply(point, output, name, edit)

    def apply(point, output, name, edit):
        form = point.hook_conversion  # some points pass heads flat, or before positions, and show them in order
        shown = output if form is None else form.convert(output)
        states = as_states(shown, name)
        edited = edit(states)
        if edited is None:
            return None
        if edited.shape != states.shape:
            raise ModelError(
                f"{name} has states {list(states.shape)}, what is to be put there is {list(edited.shape)}: expected "
                f"the same shape"
            )
        edited = edited.to(output).view_as(shown)
        edited = edited if form is None else form.revert(edited)
        if name in ends:
            check_adds_up(model, points[name], ends[name])
            changes[name] = edited - output
        return edited

    def carry(point, args, output, *, name):
        change = changes.pop(name, None) if threading.get_ident() == mine else None
        return None if change is None else output + change

    points = {name: check_hook(model, name) for name in edits}
    ends = {name: end for name, point in points.items() if (end := end_of_block(model, point))}
    by_name = model.hook_dict
    try:
        for name, edit in edits.items():
            try:
                model.check_hooks_to_add(points[name])
            except ValueError as error:  # upstream's word for a point that only an option of the bridge computes
                raise ModelError(f"{model.cfg.model_name} does not compute {name} as it is: {error}") from error
            # A plain PyTorch hook: `add_hook` of the bridge keeps lists of its own, which threads would share.
            handles.append(by_name[points[name]].register_forward_hook(partial(at_point, name=name, edit=edit)))
        for name, end in ends.items():  # before all that read the block's output
            handles.append(by_name[end].register_forward_hook(partial(carry, name=name), prepend=True))
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
        Activation ``[batch, pos, d]`` by hook name, as the last pass left it; empty before the first pass.

    Raises:
        ModelError: The model has no such hook point; from the run inside, where an activation is not one vector per
            token, or not finite.
    """
    seen: dict[str, Tensor] = {}

    def keep(activation, *, name):
        seen[name] = check_finite(activation, f"activations at {name}")

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
    model: "SAETransformerBridge", ids: Tensor, *, up_to: Sequence[str] | None = None
) -> Float[Tensor, "batch pos _out"]:
    """Run the model once on tokens as they are, and return its logits.

    Args:
        model: The model.
        ids: Token ids ``[batch, pos]``, whole numbers on any device; nothing is put before them.
        up_to: Hook points that have to be reached: layers above the highest of them do not run, and what comes back
            is then the last state, not logits. None for the whole model.

    Raises:
        ModelError: The model is in training mode or cannot read these tokens (`saekit.models.door.check_tokens`), or
            the logits are not finite.
    """
    stops = [stop for name in up_to or () if (stop := stop_layer(name)) is not None]
    stop = max(stops) if stops and len(stops) == len(up_to or ()) else None
    out = run(model, ids, stop_at_layer=stop)
    return check_finite(out, "logits") if stop is None else out


def hidden_states(model: "SAETransformerBridge", ids: Tensor, hook_name: str) -> Float[Tensor, "batch pos _d"]:
    """Return the activations ``[batch, pos, d]`` at one hook point: `hidden_states_at` of one."""
    return hidden_states_at(model, ids, [hook_name])[hook_name]


def hook_width(model: "SAETransformerBridge", hook_name: str) -> int:
    """Return the size of a hook point's vector per token, heads times ``d_head`` where it has heads.

    The model reads one token for it, once.

    Raises:
        ModelError: The model has no such hook point, or its activation is not one vector per token.
    """
    known, point = _WIDTHS.setdefault(model, {}), check_hook(model, hook_name)
    if point not in known:
        known[point] = hidden_states(model, torch.zeros(1, 1, dtype=torch.long), hook_name).shape[-1]
    return known[point]


@torch.no_grad()
def hidden_states_at(
    model: "SAETransformerBridge", ids: Tensor, hook_names: Sequence[str]
) -> dict[str, Float[Tensor, "batch pos _d"]]:
    """Return the activations ``[batch, pos, d]`` by name of the hook point, from one pass without gradients.

    Layers above the highest of them do not run. Heads stand one after the other.

    Raises:
        ModelError: The model has no such hook point, does not reach it, or has there no vector per token, or not a
            finite one; or it is in training mode, or cannot read these tokens (`saekit.models.door.check_tokens`).
    """
    with reading(model, hook_names) as seen:
        forward(model, ids, up_to=hook_names)
    if unreached := [name for name in hook_names if name not in seen]:
        raise ModelError(
            f"{model.cfg.model_name} has the hook point {unreached[0]}, but computes nothing there: its own code goes "
            f"another way. Expected a hook point that a pass reaches"
        )
    return {name: seen[name] for name in hook_names}
