"""What the tests of the steering view are made of: a random SAE, an index that says it is of it, a view."""

import threading

from saekit.errors import Stopped
from saekit.models import CachedReader
from saekit.views.steering import Steering
from tests import tiny
from tests.views.circuit_parts import fake_index

PROMPT = "The cat sat on the mat. A dog, 3 birds"


def small_sae():
    return tiny.topk_sae(32, 96)


def small_view(model, sae, features=(7,), *, prompt=PROMPT, **options):
    options = {"index": fake_index(sae), "max_new_tokens": 8, **options}
    return Steering(model, sae, prompt, features, **options)


def hooks_on(*models):
    points = {point for model in models for point in model.hook_dict.values()}
    blocks = [block for model in models for block in model.blocks]
    return sum(len(p._forward_hooks) for p in points) + sum(len(b._forward_pre_hooks) for b in blocks)


class Gate(threading.Event):
    """Reading waits until ``set()``; `begun` says that the model is inside a pass, its hooks on."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.begun = threading.Event()
        real = CachedReader._pass

        def waiting(reader, ids):
            self.begun.set()
            while not self.wait(0.005):
                if reader.stop is not None and reader.stop():
                    raise Stopped
            return real(reader, ids)

        monkeypatch.setattr(CachedReader, "_pass", waiting)
