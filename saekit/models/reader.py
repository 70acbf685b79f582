"""Read tokens piece by piece: the forward pass of generation, with transformers' key-value cache where there is one.

The cache is that of the model inside the bridge, passed through the bridge's own forward, so that every hook point is
met as in any other pass. A model without such a cache reads its whole text again for each token: slow, and right.

Why not transformers' `generate` under the same hooks: it writes the same tokens at the same speed, but it pushes them,
so that a stream that is asked for one token at a time needs a thread of its own; it takes what is not given from the
model's own settings (a repetition penalty changes greedy text); it trusts a cache that the model does not fill; and
models of transformer-lens's own kind do not have it. With all of that mended it takes more lines than this.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.progress import Stop
from saekit.models.door import check_finite, run
from saekit.models.hooks import stopping

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

CHUNK = 512  # tokens of all rows in one pass: a long prompt is read in pieces, so that a request to stop is heard
SHARED_POS = 16  # a prefix that is the same in all rows and shorter than this is not worth a pass of its own

Hooks = Callable[[int], AbstractContextManager[None]]


class CachedReader:
    """One text, or one in several rows, that grows: reads what is new and returns the logits after it.

    Args:
        model: The model.
        rows: Number of rows; they begin alike.
        hooks: Function that puts hooks on the model while it reads: given the number of tokens that came before, it
            returns a context manager such as `hooked`. None for no hooks.
        alike: Number of tokens at the beginning that the hooks leave as they are: they are read once for all rows,
            without hooks.
        stop: Function that is asked before every block; once it returns True, `saekit.errors.Stopped` is raised.
    """

    def __init__(
        self,
        model: "SAETransformerBridge",
        rows: int = 1,
        *,
        hooks: Hooks | None = None,
        alike: int = 0,
        stop: Stop = None,
    ) -> None:
        self.model, self.rows, self.stop = model, rows, stop
        self.device = next(model.parameters()).device
        self._hooks = hooks
        self._alike = model.cfg.n_ctx if hooks is None else alike
        self._cache = _new_cache(model)
        self._read = 0  # tokens in the cache
        self._past: Tensor | None = None  # all tokens, for models without a cache

    @torch.no_grad()
    def begin(self, prompt: Int[Tensor, " pos"]) -> Float[Tensor, "row d_vocab"]:
        """Read the beginning of all rows; return the logits after its last token, in float32."""
        ids = prompt.to(self.device)[None]
        shared = min(self._alike, len(prompt) - 1)
        if self._cache is not None and self.rows > 1 and shared >= SHARED_POS:
            for piece in ids[:, :shared].split(CHUNK, 1):
                if self._cache is not None:
                    self._pass(piece)  # without hooks: those are for all rows, and this is one
            if self._cache is not None:
                self._cache.batch_repeat_interleave(self.rows)
                ids = ids[:, shared:]
        size = max(1, CHUNK // self.rows) if self._cache is not None else ids.shape[1]
        *pieces, last = ids.expand(self.rows, -1).split(size, 1)
        for piece in pieces:
            self.read(piece)
        return self.read(last)

    @torch.no_grad()
    def read(self, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]:
        """Read the next tokens of every row; return the logits after the last, in float32."""
        ids = ids.to(self.device)
        if self._cache is None:
            self._past = ids if self._past is None else torch.cat([self._past, ids], 1)
            ids = self._past
        offset = 0 if self._cache is None else self._read
        with nullcontext() if self._hooks is None else self._hooks(offset):
            logits = self._pass(ids)
        return check_finite(logits[:, -1:], "logits")[:, 0].float()

    def _pass(self, ids: Int[Tensor, "row pos"]) -> Tensor:
        """Run the model over tokens that follow those in the cache."""
        # Logits of the last token only: those of a long prompt are most of its memory.
        more: dict[str, Any] = {"logits_to_keep": 1} if _takes(self.model, "logits_to_keep") else {}
        if self._cache is None:
            more.update({"use_cache": False} if _takes(self.model, "use_cache") else {})
        else:
            mask = torch.ones(len(ids), self._read + ids.shape[1], dtype=torch.long, device=ids.device)
            more.update(past_key_values=self._cache, use_cache=True, attention_mask=mask)
        with stopping(self.model, self.stop):
            logits = run(self.model, ids, past=self._read, **more)
        if self._cache is not None:
            self._read += ids.shape[1]
            if self._cache.get_seq_length() != self._read:  # the model has not filled it: it keeps its past elsewhere
                if self._read > ids.shape[1]:
                    raise RuntimeError("the key-value cache went out of step with the text")
                self._cache, self._read = None, 0
                self._past = ids if len(ids) == self.rows else None
        return logits


def _takes(model: "SAETransformerBridge", name: str) -> bool:
    """Return whether the model inside the bridge has an option."""
    return name in inspect.signature(model.original_model.forward).parameters


def _new_cache(model: "SAETransformerBridge") -> Any:
    """Return an empty cache of transformers' kind, None for a model that has none."""
    inside = model.original_model
    if not getattr(model.adapter, "supports_kv_cache", True) or not _takes(model, "past_key_values"):
        return None
    from transformers import DynamicCache, PretrainedConfig

    config = getattr(inside, "config", None)
    return DynamicCache(config=config) if isinstance(config, PretrainedConfig) else None
