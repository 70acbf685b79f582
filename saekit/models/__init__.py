"""The seam to language models: everything that depends on the model's class stands in this file.

A model is a ``sae_lens.SAETransformerBridge`` in eval mode. transformer-lens 4 removed ``HookedTransformer``;
what we use of the bridge is listed in ``tests/test_upstream.py``.
"""

from saekit.models.blocks import block_calls, first_block_after, twin
from saekit.models.control import shuffled_model
from saekit.models.gradients import AT_START, Points, gauss_legendre, integrated_gradient, midpoints
from saekit.models.load import (
    bos_token_id,
    check_hook,
    encode_text,
    final_norm,
    hidden_states,
    hidden_states_at,
    last_logits_from,
    load_model,
    logits_from,
    massive,
    special_token_ids,
    stop_layer,
    token_bytes,
    unembedding,
)
from saekit.models.packaged import PACKAGED
from saekit.models.vocabulary import join_pieces

__all__ = [
    "AT_START",
    "PACKAGED",
    "Points",
    "block_calls",
    "bos_token_id",
    "check_hook",
    "encode_text",
    "final_norm",
    "first_block_after",
    "gauss_legendre",
    "hidden_states",
    "hidden_states_at",
    "integrated_gradient",
    "join_pieces",
    "last_logits_from",
    "load_model",
    "logits_from",
    "massive",
    "midpoints",
    "shuffled_model",
    "special_token_ids",
    "stop_layer",
    "token_bytes",
    "twin",
    "unembedding",
]
