"""A probe, a grid and an extraction are used together only where they are of one model and one SAE."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.errors import ProbeError
from saekit.models import load_model, shuffled_model
from saekit.probes import ProbeResult, classify, extract_features, predict, probe, top_features
from saekit.views import probes as view_room
from tests import tiny
from tests.probes.test_extract import made_up_texts


@pytest.fixture(scope="module")
def data():
    texts = made_up_texts(60, seed=5)
    return labelled_texts(texts, ["cat" if "cat" in text else "none" for text in texts], name="cats")


def topk(k=8):
    return tiny.topk_sae(32, 96, k=k)


def extracted(model, data, sae, **options):
    return extract_features(model, {"s": sae}, data, progress=False, **options)


@pytest.fixture(scope="module")
def features(model, data):
    return extracted(model, data, topk())


@pytest.fixture(scope="module")
def result(features):
    return probe(features, pooling="max", folds=4)


def changed(model, what):
    """The model, or one that differs from it, and the words for it."""
    if what == "shuffled":
        return shuffled_model(model), "model: weights "
    other = deepcopy(model)
    other.tokenizer = deepcopy(model.tokenizer)
    other.tokenizer.bos_token = "</s>"
    return other, "model: tokenizer BOS '<s>' against '</s>'"


@pytest.mark.parametrize("saved", [False, True])
def test_a_probe_is_not_used_on_features_of_another_sae(model, data, result, tmp_path, saved):
    if saved:
        result.save(tmp_path / "probe")
        result = ProbeResult.load(tmp_path / "probe")
    for ask in (
        lambda: predict(result, extracted(model, data, topk(2))),
        lambda: top_features(result, extracted(model, data, topk(2))),
        lambda: classify(model, topk(2), result, "The cat sat"),
    ):
        with pytest.raises(ProbeError, match=r"the probe was made with another SAE s: k 8 against 2 "):
            ask()
    assert predict(result, extracted(model, data, topk())).shape == (60, 2)
    assert classify(model, topk(), result, "The cat sat").label in ("cat", "none")


@pytest.mark.parametrize("what", ["shuffled", "tokenizer"])
def test_a_probe_is_not_used_on_features_of_another_model(model, data, result, what):
    other, words = changed(model, what)
    for ask in (
        lambda: predict(result, extracted(other, data, topk())),
        lambda: classify(other, topk(), result, "The cat sat"),
    ):
        with pytest.raises(ProbeError, match=f"the probe was made with another {words}"):
            ask()


def test_a_probe_on_features_of_another_dtype_is_told(model_folder, data, result):
    half = load_model(model_folder, dtype=torch.bfloat16)
    half.cfg.model_name = "tiny"
    with pytest.warns(UserWarning, match="the probe was made with the model in another dtype"):
        predict(result, extracted(half, data, topk()))


def test_a_grid_belongs_to_the_model_and_saes_of_its_extraction(model, data, features):
    grid = probes.grid(features, poolings=["max"], binarisings=["none"], classifiers=["difference"], progress=False)
    other = extracted(model, data, topk(2))
    with pytest.raises(ProbeError, match=r"the grid was made with another SAE s: k 8 against 2 "):
        probes.check_grid(grid, other)
    with pytest.raises(ProbeError, match=r"another model: weights"):
        probes.check_grid(grid, extracted(shuffled_model(model), data, topk()))
    probes.check_grid(grid, extracted(model, data, topk()))
    with pytest.raises(ProbeError, match=r"the grid was made with another SAE s: k 8 against 2 "):
        view_room.Probes(grid, model=model, sae={"s": topk(2)})
    with pytest.raises(ProbeError, match=r"the grid was made with another model: weights"):
        view_room.Probes(grid, model=shuffled_model(model), sae={"s": topk()})
    view_room.Probes(grid, features, model=model, sae={"s": topk()}).close()


def test_sets_of_different_saes_or_models_are_not_compared(model, data, features):
    other = replace(data, name="others")
    for second, words in (
        (extracted(model, other, topk(2)), "SAE s: k 8 against 2"),
        (extracted(shuffled_model(model), other, topk()), "model: weights"),
    ):
        with pytest.raises(ProbeError, match=words):
            probes.transfer({"one": features, "other": second}, folds=4)


def test_a_probe_of_an_earlier_saekit_opens_and_is_used(model, data, result, tmp_path):
    from safetensors.numpy import load_file, safe_open, save_file

    result.save(tmp_path / "new")
    with safe_open(tmp_path / "new", framework="np") as file:
        manifest = json.loads(file.metadata()["saekit"])
    del manifest["held"]["made_with"]
    for name in ("finished", "checksum"):
        manifest.pop(name, None)
    save_file(load_file(tmp_path / "new"), tmp_path / "old", {"saekit": json.dumps(manifest)})
    old = ProbeResult.load(tmp_path / "old")
    assert old.made_with == {}
    features = extracted(model, data, topk())
    np.testing.assert_array_equal(predict(old, features), predict(result, features))
