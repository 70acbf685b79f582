"""The seam to language models: everything that depends on the model's class stands in this room.

A model is a ``sae_lens.SAETransformerBridge`` in eval mode. transformer-lens 4 removed ``HookedTransformer``;
what we use of the bridge is listed in ``tests/test_upstream.py``. No other room puts hooks on a model, cuts a text,
or decides which tokens count.

To read in order:

1. `door`: what every run is checked for, before and after.
2. `hooks` and `middle`: reading and editing activations; one forward pass, which may end early.
3. `blocks`: running a model from the middle, with states that are put there.
4. `final`: the final norm and the unembedding, and what is read off them.
5. `gradients`: the mean gradient between two runs.
6. `prompts` and `vocabulary`: text to tokens, tokens to batches and back to text.
7. `counting`: which tokens a statistic leaves out.
8. `load`, `packaged`, `gguf`, `weights`, `tokenizer`, `bridge`, `processing` and `copies`: where models come from and
   whether they are whole, hook points by all their names, how weights are treated, controls.
9. `identity`: what decides the numbers of a model, and the tokens of a text.
"""

from saekit.models.blocks import first_block_after, last_logits_from, logits_from
from saekit.models.copies import shuffled_model, twin
from saekit.models.counting import counted, massive
from saekit.models.door import check_finite, check_tokens, context_length
from saekit.models.final import FinalRun, FrozenNorm, final_norm, final_run, frozen_norm, readout_from, unembedding
from saekit.models.gradients import AT_START, Points, gauss_legendre, integrated_gradient, midpoints
from saekit.models.hooks import (
    Edit,
    before_blocks,
    check_hook,
    check_model,
    forward,
    hidden_states,
    hidden_states_at,
    hook_width,
    hooked,
    in_residual,
    reading,
    stopping,
)
from saekit.models.identity import model_identity, other_than, tokenizer_identity
from saekit.models.load import load_model
from saekit.models.packaged import PACKAGED
from saekit.models.processing import processing_of
from saekit.models.prompts import (
    Encoded,
    batches_of_one_length,
    bos_token_id,
    encode_start,
    encode_text,
    encode_texts,
    encode_whole,
    given_ids,
    single_token,
    special_token_ids,
    token_ids,
    token_text,
    token_texts,
)
from saekit.models.reader import CachedReader
from saekit.models.vocabulary import join_pieces, readable, token_bytes, whole_text

__all__ = [
    "AT_START",
    "PACKAGED",
    "CachedReader",
    "Edit",
    "Encoded",
    "FinalRun",
    "FrozenNorm",
    "Points",
    "batches_of_one_length",
    "before_blocks",
    "bos_token_id",
    "check_finite",
    "check_hook",
    "check_model",
    "check_tokens",
    "context_length",
    "counted",
    "encode_start",
    "encode_text",
    "encode_texts",
    "encode_whole",
    "final_norm",
    "final_run",
    "first_block_after",
    "forward",
    "frozen_norm",
    "gauss_legendre",
    "given_ids",
    "hidden_states",
    "hidden_states_at",
    "hook_width",
    "hooked",
    "in_residual",
    "integrated_gradient",
    "join_pieces",
    "last_logits_from",
    "load_model",
    "logits_from",
    "massive",
    "midpoints",
    "model_identity",
    "other_than",
    "processing_of",
    "readable",
    "reading",
    "readout_from",
    "shuffled_model",
    "single_token",
    "special_token_ids",
    "stopping",
    "token_bytes",
    "token_ids",
    "token_text",
    "token_texts",
    "tokenizer_identity",
    "twin",
    "unembedding",
    "whole_text",
]
