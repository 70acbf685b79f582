"""How good is an SAE: reconstruction, sparsity, dead features, and what the model loses when it is spliced in.

Every number is computed on the same tokens, in float32 with float64 sums, and says what was left out.

Files: ``evaluation`` measures one or several SAEs, ``gate`` holds the result against published figures, ``match``
compares learned directions with known ones.
"""

from saekit.evaluation.evaluation import Evaluation, density_histogram, evaluate, evaluate_many
from saekit.evaluation.gate import Gate, GateCard, published_gate
from saekit.evaluation.match import DictionaryMatch, compare_dictionaries, mmcs

__all__ = [
    "DictionaryMatch",
    "Evaluation",
    "Gate",
    "GateCard",
    "compare_dictionaries",
    "density_histogram",
    "evaluate",
    "evaluate_many",
    "mmcs",
    "published_gate",
]
