"""What features do to the output: direct logit attribution, attribution patching, exact patching, the logit lens.

All of them take one prompt or several, one SAE or several on different hook points, and read off a token's logit, a
difference of two logits (answer minus foil) or any direction of the final norm's output. They return an `Attribution`,
which says in its repr whether the items add up to what they should. Read in this order:

1. ``result``: an `Attribution`, its items and its check.
2. ``inputs``: prompts, answers and SAEs, and what is wrong with them.
3. ``direct``: what features, heads and MLPs write towards a logit themselves.
4. ``lens``: what the model would predict if it stopped after each layer.
5. ``comparison``: with what a clean run is compared, and which of its nodes are patched.
6. ``patching``: what features do through all later layers, by gradients or one by one.
7. ``predicted``: the next tokens, with and without some features.
"""

from saekit.attribution.comparison import ComparedStates, Comparison, compared_states, comparison_of
from saekit.attribution.direct import direct_logit_attribution, logit_attribution_by_component
from saekit.attribution.inputs import counterparts_of, prompts_of, readout_of, saes_of, tokens_of
from saekit.attribution.lens import LogitLens, logit_lens
from saekit.attribution.patching import activation_patching, attribution_patching
from saekit.attribution.predicted import Predictions, predictions
from saekit.attribution.result import KINDS, Agreement, Attribution, Contribution

__all__ = [
    "KINDS",
    "Agreement",
    "Attribution",
    "ComparedStates",
    "Comparison",
    "Contribution",
    "LogitLens",
    "Predictions",
    "activation_patching",
    "attribution_patching",
    "compared_states",
    "comparison_of",
    "counterparts_of",
    "direct_logit_attribution",
    "logit_attribution_by_component",
    "logit_lens",
    "predictions",
    "prompts_of",
    "readout_of",
    "saes_of",
    "tokens_of",
]
