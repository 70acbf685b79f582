"""Every view in a state in which it shows all that it can: one line a view."""

import tempfile
from functools import cache
from pathlib import Path

from saekit.models import load_model
from saekit.probes import grid
from saekit.views.circuit import Circuit
from saekit.views.image_activations import ImageActivations
from saekit.views.probes import Probes
from saekit.views.top_activations import TopActivations, work as top_work
from saekit.views.training import Training
from tests import tiny
from tests.planted_images import DEAD, planted_features, planted_images
from tests.views.attribution_parts import OTHER, small_view as small_attribution
from tests.views.circuit_parts import HIGH, fake_index, random_saes, small_task
from tests.views.fake_index import NASTY, FakeIndex
from tests.views.fake_trainer import FakeTrainer
from tests.views.probes_parts import OPTIONS, extraction, fake_index as probed_index, random_sae
from tests.views.steering_parts import small_sae, small_view


@cache
def tiny_model():
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(str(tiny.write_model(Path(folder) / "tiny")))
    model.cfg.model_name = "tiny"
    return model


def top_activations(monkeypatch):
    monkeypatch.setattr(top_work, "check_index_pair", lambda *pair: None)
    names = {12: "days of the week", 14: "rain"}
    index = FakeIndex(neuronpedia_id="gpt2-small/8-res-jb")
    view = TopActivations(index, feature=12, model="model", sae="sae", names=names, prompt="rain on Monday", token=2)
    assert view.wait(300)
    return view


def hostile_top_activations(monkeypatch):
    return TopActivations(FakeIndex(), feature=7, names={7: "<b>bold</b>"})


def dead_top_activations(monkeypatch):
    return TopActivations(FakeIndex(), feature=3)


def image_activations(monkeypatch):
    return ImageActivations(planted_features(planted_images()), feature=5, names={5: "noise"})


def dead_image_activations(monkeypatch):
    return ImageActivations(planted_features(planted_images()), feature=DEAD)


def steering(monkeypatch):
    view = small_view(tiny_model(), small_sae(), {7: 1.0, 9: -0.5}, topic="cats", concept="cat|dog")
    view.run()
    view.compare("random direction", "prompt")
    view.run_sweep((0.5, 2), baselines=("prompt", "random direction", "difference of means"))
    assert view.wait(300)
    assert view.error == ""
    return view


def steering_not_run(monkeypatch):
    return small_view(tiny_model(), small_sae(), (), prompt="")


def logit_attribution(monkeypatch):
    view = small_attribution(tiny_model(), ablated=[7, 21], corrupted=OTHER, baseline="zero")
    assert view.wait(30)
    view.method = "patching"
    assert view.wait(30)
    assert view.error == ""
    return view


def training(monkeypatch):
    runs = {"TopK": {"k": 8}, "L1": {"architecture": "standard", "sparsity_coefficient": 2.0}, NASTY[0]: {"k": 0}}
    view = Training(None, runs, train=FakeTrainer(), d_sae=64, autostart=True)
    assert view.wait(300)
    return view


def untrained_training(monkeypatch):
    return Training(None, {"TopK": {"k": 8}}, train=FakeTrainer(), d_sae=64)


def circuit(monkeypatch):
    saes = random_saes()
    view = Circuit(tiny_model(), saes, small_task(tiny_model()), index=fake_index(saes[1]), k=10)
    view.measure_curve((0, 3, 10))
    assert view.wait(300)
    view.value = (HIGH, "end", 7)
    return view


@cache
def small_grid():
    features = extraction(tiny_model())
    return grid(features, **OPTIONS, repeats=2, progress=False), features


def probes(monkeypatch):
    parts = {"model": tiny_model(), "sae": {"s": random_sae()}, "index": probed_index()}
    view = Probes(*small_grid(), **parts, figure="auroc", text="a <b>cat</b> & café")
    view.feature = 7
    assert view.wait(300)
    return view


def probes_of_words(monkeypatch):
    view = Probes(*small_grid(), cell="bag-of-words", text="a cat")
    assert view.wait(300)
    return view


def probes_not_computed(monkeypatch):
    return Probes(extraction(tiny_model()), autostart=False, **OPTIONS)


# Each takes pytest's monkeypatch and returns a view whose background work is done.
EVERY_VIEW = {
    "top_activations": top_activations,
    "top_activations, hostile text": hostile_top_activations,
    "top_activations, dead": dead_top_activations,
    "image_activations": image_activations,
    "image_activations, dead": dead_image_activations,
    "logit_attribution": logit_attribution,
    "steering": steering,
    "steering, not run": steering_not_run,
    "training": training,
    "training, not begun": untrained_training,
    "circuit": circuit,
    "probes": probes,
    "probes, a baseline on words": probes_of_words,
    "probes, not computed": probes_not_computed,
}
