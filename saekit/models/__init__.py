"""The seam to language models: everything that depends on the model's class stands in this room.

A model is a ``sae_lens.SAETransformerBridge`` in eval mode. transformer-lens 4 removed ``HookedTransformer``;
what we use of the bridge is listed in ``tests/test_upstream.py``. No other room puts hooks on a model.
"""

from saekit.models.blocks import first_block_after, last_logits_from, logits_from, twin
from saekit.models.control import shuffled_model
from saekit.models.final import (
    FinalRun,
    FrozenNorm,
    final_norm,
    final_run,
    frozen_norm,
    readout_from,
    unembedding,
)
from saekit.models.gradients import AT_START, Points, gauss_legendre, integrated_gradient, midpoints
from saekit.models.hooks import (
    Edit,
    before_blocks,
    check_hook,
    forward,
    hidden_states,
    hidden_states_at,
    hooked,
    reading,
)
from saekit.models.load import (
    bos_token_id,
    encode_text,
    load_model,
    massive,
    special_token_ids,
    token_bytes,
)
from saekit.models.packaged import PACKAGED
from saekit.models.vocabulary import join_pieces

__all__ = [
    "AT_START",
    "PACKAGED",
    "Edit",
    "FinalRun",
    "FrozenNorm",
    "Points",
    "before_blocks",
    "bos_token_id",
    "check_hook",
    "encode_text",
    "final_norm",
    "final_run",
    "first_block_after",
    "forward",
    "frozen_norm",
    "gauss_legendre",
    "hidden_states",
    "hidden_states_at",
    "hooked",
    "integrated_gradient",
    "join_pieces",
    "last_logits_from",
    "load_model",
    "logits_from",
    "massive",
    "midpoints",
    "reading",
    "readout_from",
    "shuffled_model",
    "special_token_ids",
    "token_bytes",
    "twin",
    "unembedding",
]
