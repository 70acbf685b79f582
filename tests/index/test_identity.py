"""An index is found, resumed, merged, loaded and read with only where model, SAE, tokenizer and corpus are the same."""

import json
from copy import deepcopy
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import saekit.index.build as build_module
from saekit.errors import FeatureIndexError, Stopped
from saekit.index import FeatureIndex, check_belongs
from saekit.models import load_model, shuffled_model
from saekit.saes import load_sae, save_sae
from tests import tiny

# An SAE that says prepend_bos=False is used all the same.
pytestmark = pytest.mark.filterwarnings("ignore:this SAE was trained on texts without BOS")


@pytest.fixture(scope="module")
def tokens():
    return tiny.random_tokens(12, 16, 400)


@pytest.fixture(scope="module")
def topk():
    return tiny.topk_sae(32, 96, k=8)


def built(model, sae, tokens, path=None, **settings):
    return FeatureIndex.build(model, sae, tokens, path=path, progress=False, **settings)


def other_sae(name):
    """An SAE with the weights of `topk_sae` and one setting changed."""
    sae = tiny.topk_sae(32, 96, k=2 if name == "k" else 8)
    if name == "apply_b_dec_to_input":
        sae.cfg.apply_b_dec_to_input = False
    if name == "rescale_acts_by_decoder_norm":
        sae.cfg.rescale_acts_by_decoder_norm = True
    if name == "prepend_bos":
        sae.cfg.metadata.prepend_bos = False
    if name == "weights":
        with torch.no_grad():
            sae.b_enc[3] += 1
    return sae


def loaded(folder, **options):
    model = load_model(folder, **options)
    model.cfg.model_name = "tiny"
    return model


def other_model(name, model_folder):
    model = loaded(model_folder)
    if name == "shuffled":
        return shuffled_model(model)
    if name == "norm":
        weight = next(p for n, p in model.named_parameters() if "norm" in n)
        with torch.no_grad():
            weight[3] += 0.5
    if name == "dtype":
        return loaded(model_folder, dtype=torch.bfloat16)
    if name == "tokenizer":
        model.tokenizer.bos_token = "</s>"
    return model


SETTINGS = ["k", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "prepend_bos", "weights"]
MODELS = [("shuffled", "weights"), ("norm", "weights"), ("dtype", "dtype"), ("tokenizer", "tokenizer BOS")]


@pytest.mark.parametrize("name", SETTINGS)
def test_an_index_of_an_sae_of_another_setting_is_built_anew_at_the_same_path(model, topk, tokens, tmp_path, name):
    first = built(model, topk, tokens, tmp_path / "index")
    second = built(model, other_sae(name), tokens, tmp_path / "index")
    alone = built(model, other_sae(name), tokens)
    np.testing.assert_array_equal(second.count, alone.count)
    if name == "k":
        assert (first.l0, second.l0) == (8, 2)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_index_does_not_open_for_or_read_with_an_sae_of_another_setting(model, topk, tokens, tmp_path, name):
    index = built(model, topk, tokens, tmp_path / "index")
    asked = {
        "load": lambda sae: FeatureIndex.load(tmp_path / "index", sae=sae),
        "activations": lambda sae: index.activations(model, sae, "The cat", 3),
        "by_prompt": lambda sae: index.by_prompt(model, sae, "The cat"),
        "merge": lambda sae: FeatureIndex.merge([index, built(model, sae, tiny.random_tokens(4, 16, 400, seed=1))]),
    }
    for how, ask in asked.items():
        with pytest.raises(FeatureIndexError, match=name) as caught:
            ask(other_sae(name))
        assert name != "k" or "k 8 against 2" in str(caught.value), how
        if how != "merge":
            ask(tiny.topk_sae(32, 96, k=8))


@pytest.mark.parametrize(("name", "word"), MODELS)
def test_an_index_of_another_model_is_built_anew_at_the_same_path(model_folder, topk, tokens, tmp_path, name, word):
    model = loaded(model_folder)
    first = built(model, topk, tokens, tmp_path / "index")
    written = (tmp_path / "index/manifest.json").stat().st_mtime_ns
    renamed = loaded(model_folder)
    renamed.cfg.model_name = "owner/tiny"
    built(renamed, topk, tokens, tmp_path / "index")
    assert (tmp_path / "index/manifest.json").stat().st_mtime_ns == written, "whatever it is called"
    other = other_model(name, model_folder)
    second, alone = (built(other, topk, tokens, path) for path in (tmp_path / "index", None))
    np.testing.assert_array_equal(second.count, alone.count)
    np.testing.assert_array_equal(second.max, alone.max)
    assert second.model_identity == alone.model_identity != first.model_identity


@pytest.mark.parametrize(("name", "word"), MODELS)
def test_an_index_is_not_read_with_or_merged_with_one_of_another_model(model_folder, topk, tokens, name, word):
    other = other_model(name, model_folder)
    index = built(loaded(model_folder), topk, tokens)
    shard = built(other, topk, tiny.random_tokens(4, 16, 400, seed=1))
    with pytest.raises(FeatureIndexError, match=f"different models .*{word} "):
        FeatureIndex.merge([index, shard])
    if name == "dtype":  # a little less exact, and nobody can tell whether the weights are those
        with pytest.warns(UserWarning, match="dtype 'float32' against 'bfloat16'"):
            index.by_prompt(other, topk, "The cat")
    else:
        with pytest.raises(FeatureIndexError, match=f"index is of another model: {word} "):
            index.by_prompt(other, topk, "The cat")


@pytest.mark.parametrize("what", ["sae", "model"])
def test_an_unfinished_build_is_not_taken_up_with_another_sae_or_model(
    model, model_folder, topk, tokens, tmp_path, monkeypatch, what
):
    monkeypatch.setattr(build_module, "_CHUNK", 1)
    asked = count()
    with pytest.raises(Stopped):
        built(model, topk, tokens, tmp_path / "index", batch_size=1, stop=lambda: next(asked) == 5)
    pair = (model, other_sae("k")) if what == "sae" else (other_model("shuffled", model_folder), topk)
    with pytest.raises(FeatureIndexError, match="sae k 2 against 8" if what == "sae" else "model weights"):
        built(*pair, tokens, tmp_path / "index", batch_size=1)
    built(model, topk, tokens, tmp_path / "index", batch_size=1)


def test_an_sae_saved_in_half_precision_finds_its_index(model, tokens, tmp_path):
    sae = tiny.own_sae("jumprelu", 32, 96)
    save_sae(sae, tmp_path / "sae")
    built(model, sae, tokens, tmp_path / "index")
    assert FeatureIndex.load(tmp_path / "index", sae=load_sae(str(tmp_path / "sae"))).d_sae == 96


def older(path):
    """Make a manifest as it was before models and settings were recorded."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    weights = manifest.pop("sae")["weights"]
    for name in ("model", "finished", "checksum"):
        manifest.pop(name, None)
    file.write_text(json.dumps(manifest | {"sae_hash": weights}))


def test_an_older_index_opens_and_is_compared_by_what_it_knows(model, topk, tokens, tmp_path):
    index = built(model, topk, tokens, tmp_path / "index")
    older(tmp_path / "index")
    opened = FeatureIndex.load(tmp_path / "index", sae=topk)
    np.testing.assert_array_equal(opened.count, index.count)
    opened.by_prompt(model, topk, "The cat")
    with pytest.raises(FeatureIndexError, match="weights"):
        FeatureIndex.load(tmp_path / "index", sae=other_sae("weights"))
    more = built(model, topk, tiny.random_tokens(4, 16, 400, seed=1))
    shard = SimpleNamespace(_read=more._read)
    more._read.arrays["sequence_ids"] = more._read.arrays["sequence_ids"] + 100
    assert FeatureIndex.merge([opened, shard]).d_sae == 96
    renamed = deepcopy(opened._read.about) | {"model_name": "another"}
    with pytest.raises(FeatureIndexError, match="name 'tiny' against 'another'"):
        FeatureIndex.merge([opened, SimpleNamespace(_read=SimpleNamespace(about=renamed))])
    fresh = built(model, topk, tokens, tmp_path / "index")
    assert "model" in fresh.manifest, "an index that does not say of which model it is, is built anew"


@pytest.mark.parametrize("name", ["blocks.18.hook_resid_post", "blocks.9.hook_resid_post.2304"])
def test_the_bundled_indexes_are_found_by_their_saes_alone(name):
    sae = load_sae(f"smollm2-135m/{name}")
    index = FeatureIndex.load(sae=sae)
    assert index.path == FeatureIndex.load(f"smollm2-135m/{name}").path
    check_belongs(index, sae=sae)
