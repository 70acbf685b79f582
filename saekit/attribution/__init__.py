"""What features do to the output: direct logit attribution, attribution patching, exact patching, the logit lens.

All of them take one prompt or several, one SAE or several on different hook points, and read off a token's logit, a
difference of two logits (answer minus foil) or any direction of the final norm's output. They return an `Attribution`,
which says in its repr whether the items add up to what they should.
"""

from saekit.attribution.comparison import ComparedStates, Comparison, compared_states, comparison_of
from saekit.attribution.direct import direct_logit_attribution, logit_attribution_by_component
from saekit.attribution.inputs import counterparts_of, prompts_of, readout_of, saes_of, tokens_of
from saekit.attribution.lens import LogitLens, logit_lens
from saekit.attribution.patching import activation_patching, attribution_patching
from saekit.attribution.predicted import Predictions, predictions
from saekit.attribution.result import Agreement, Attribution, Contribution

__all__ = [
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
