"""What the tests of the logit attribution view are made of: the tiny model, two random SAEs, one of them indexed."""

from saekit.views.logit_attribution import LogitAttribution
from tests.views.circuit_parts import HIGH, fake_index, random_saes

PROMPT, OTHER = "The cat sat on the mat", "The dog sat on the mat"


def small_view(model, **options):
    """A view that explains ``c`` against ``d``, which are single tokens of the tiny tokenizer."""
    saes = random_saes()
    asked = {"answer": "c", "foil": "d", "hook": HIGH, "index": fake_index(saes[1]), "k": 8, "prompt": PROMPT}
    return LogitAttribution(model, saes, **asked | options)
