"""What the tests of the circuit view are made of: the tiny model, two random SAEs, three pairs of prompts."""

import json

from saekit.circuits import task_from_pairs
from saekit.saes import sae_identity
from tests import tiny
from tests.views.fake_index import FakeIndex

LOW, HIGH = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
WIDTH = 96


def random_saes():
    return [tiny.topk_sae(32, WIDTH, hook_name=hook, seed=seed) for seed, hook in enumerate((LOW, HIGH))]


def small_task(model):
    return task_from_pairs(model, tiny.PAIRS)


def fake_index(sae, hook=HIGH):
    """An index that says it is of this SAE; its feature 3 is dead, its feature 7 holds hostile text."""
    index = FakeIndex(d_sae=WIDTH)
    index.hook_name, index.sae_identity = hook, sae_identity(sae)
    return index


def shown_nodes(view):
    """Return the nodes that a view keeps, in the order of their ranks: ``{"node": [hook, position, feature], …}``."""
    return json.loads(view.to_json())["nodes"]
