"""What transformers itself computes at each hook point: from hooks on its own modules, without transformer-lens."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Edit = Callable[[Tensor], Tensor]
NAMES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "ln1": "ln1.hook_normalized",
    "ln2": "ln2.hook_normalized",
}
_SPLIT = {name: f"self_attn.{name}_proj" for name in "qkv"}
_PARTS = {  # by architecture: the module of each hook point, within the block
    "llama": {
        "attn_out": "self_attn",
        "mlp_out": "mlp",
        "z": "self_attn.o_proj",
        "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
        **_SPLIT,
    },
    "olmo2": {  # norms stand behind attention and MLP, and what they give is added
        "attn_out": "post_attention_layernorm",
        "mlp_out": "post_feedforward_layernorm",
        "z": "self_attn.o_proj",
        "ln1": "post_attention_layernorm",
        "ln2": "post_feedforward_layernorm",
        **_SPLIT,
    },
    "gpt2": {
        "attn_out": "attn",
        "mlp_out": "mlp",
        "z": "attn.c_proj",
        "ln1": "ln_1",
        "ln2": "ln_2",
        **dict.fromkeys("qkv", "attn.c_attn"),
    },
    "gpt_neox": {
        "attn_out": "attention",
        "mlp_out": "mlp",
        "z": "attention.dense",
        "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
        **dict.fromkeys("qkv", "attention.query_key_value"),
    },
    "bloom": {  # its attention and MLP add what came before to what they give
        "attn_out": "self_attention.dense",
        "mlp_out": "mlp.dense_4h_to_h",
        "z": "self_attention.dense",
        "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
        **dict.fromkeys("qkv", "self_attention.query_key_value"),
    },
}
_PARTS["qwen2"] = _PARTS["llama"]
_BLOCKS = {"gpt2": "transformer.h", "bloom": "transformer.h", "gpt_neox": "gpt_neox.layers"}
_FINAL = {"gpt2": "transformer.ln_f", "bloom": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}


class Reference:
    """A model as transformers has it.

    Args:
        folder: Folder of the model.
        dtype: Type of weights and activations.
    """

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        self.model.requires_grad_(False)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.config = self.model.config
        self.kind: str = self.config.model_type
        self.final_norm = self.model.get_submodule(_FINAL.get(self.kind, "model.norm"))
        self.unembedding = self.model.get_output_embeddings().weight

    def has(self, point: str) -> bool:
        """Say whether the architecture has a hook point: nothing stands between parts that run side by side."""
        return point != "resid_mid" or not getattr(self.config, "use_parallel_residual", False)

    def run(self, ids: Tensor, layer: int = 0, edits: Mapping[str, Edit] | None = None) -> dict[str, Tensor]:
        """Return the logits, the final norm's input, and the states ``[batch, pos, d]`` of a layer by hook point.

        Args:
            ids: Token ids ``[batch, pos]``.
            layer: Number of the layer.
            edits: Function by hook point that returns what goes on in the place of the state.
        """
        block = self.model.get_submodule(_BLOCKS.get(self.kind, "model.layers"))[layer]
        seen: dict[str, Tensor] = {}
        edits = edits or {}

        def met(name: str, state: Tensor) -> Tensor:
            seen[name] = state
            return edits[name](state) if name in edits else state

        def before(module, args, kwargs):
            first = args[0] if args else kwargs["hidden_states"]
            new = met("resid_pre", first)
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        def norm(name: str):
            def apply(module, args, out):
                new = met(name, normalised(module, args[0]))
                return _scaled(module, new).to(out.dtype) if name in edits else None

            return apply

        def output(name: str):
            def apply(module, args, out):
                first = met(name, out[0] if isinstance(out, tuple) else out)
                if name == "attn_out" and self.has("resid_mid"):
                    post = getattr(self.config, "apply_residual_connection_post_layernorm", False)
                    base = _scaled(block.input_layernorm, seen["ln1"]).to(first.dtype) if post else self._entering
                    middle = met("resid_mid", base + first)
                    first = middle - base if "resid_mid" in edits else first
                return (first, *out[1:]) if isinstance(out, tuple) else first

            return apply

        def fused(module, args, out):
            apart = out.unflatten(-1, (3, -1)) if self.kind == "gpt2" else out.unflatten(-1, (self._heads, 3, -1))
            parts = [part.flatten(2) for part in apart.unbind(-2)]
            new = [met(name, part) for name, part in zip("qkv", parts, strict=True)]
            if self.kind == "gpt2":
                return torch.cat(new, -1)
            return torch.stack([part.unflatten(-1, (self._heads, -1)) for part in new], -2).flatten(2)

        def keep_entering(module, args, kwargs):
            self._entering = args[0] if args else kwargs["hidden_states"]

        parts = {name: block.get_submodule(module) for name, module in _PARTS[self.kind].items()}
        with ExitStack() as stack:
            add = [
                block.register_forward_pre_hook(before, with_kwargs=True),
                block.register_forward_pre_hook(keep_entering, with_kwargs=True),
                parts["z"].register_forward_pre_hook(lambda module, args: (met("z", args[0]), *args[1:])),
                *(parts[name].register_forward_hook(norm(name)) for name in ("ln1", "ln2")),
                *(parts[name].register_forward_hook(output(name)) for name in ("attn_out", "mlp_out")),
                block.register_forward_hook(output("resid_post")),
                self.final_norm.register_forward_pre_hook(lambda module, args: seen.update(final=args[0])),
            ]
            if parts["q"] is parts["k"]:
                add.append(parts["q"].register_forward_hook(fused))
            else:
                add += [parts[name].register_forward_hook(output(name)) for name in "qkv"]
            for handle in add:
                stack.callback(handle.remove)
            seen["logits"] = self.model(ids, use_cache=False).logits
        return seen

    @property
    def _heads(self) -> int:
        return self.config.num_attention_heads

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits ``[batch, pos, d_vocab]`` of the model as it is."""
        return self.model(ids, use_cache=False).logits


def normalised(module: Any, x: Tensor) -> Tensor:
    """Return what a norm makes of its input before its weights."""
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if isinstance(module, torch.nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    eps = module.eps if isinstance(module, torch.nn.LayerNorm) else module.variance_epsilon
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _scaled(module: Any, x: Tensor) -> Tensor:
    bias = getattr(module, "bias", None)
    return x * module.weight + (0 if bias is None else bias)
