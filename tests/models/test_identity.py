"""A model's identity: equal for equal numbers, another as soon as anything differs that decides them, in words."""

import json
from copy import deepcopy

import pytest
import torch

from saekit.models import encode_text, forward, load_model, model_identity, shuffled_model, tokenizer_identity, twin
from tests import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    kept = {}

    def folder(architecture):
        if architecture not in kept:
            kept[architecture] = tiny.write_own(tmp_path_factory.mktemp(architecture) / "one", architecture)
        return kept[architecture]

    return folder


def copied(folder, to, **config):
    """Copy a model's folder with other fields in its configuration."""
    import shutil

    shutil.copytree(folder, to)
    file = to / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return to


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "olmo2", "gpt2", "gpt_neox", "bloom"])
def test_a_model_is_itself_when_loaded_again_and_twinned_and_another_when_shuffled(architecture, folders, tmp_path):
    one = load_model(folders(architecture))
    again = load_model(copied(folders(architecture), tmp_path / "elsewhere"))
    before = model_identity(one)
    assert before == model_identity(again) == model_identity(twin(one)) == model_identity(deepcopy(one))
    assert before.digest == model_identity(again).digest
    forward(one, encode_text(one, "The cat sat on the mat")[None])
    assert model_identity(one) == before, "running a model does not change it"
    difference = before.difference(model_identity(shuffled_model(one)))
    assert [word.split()[0] for word in difference] == ["weights"]


@pytest.mark.parametrize("past_the_count", [False, True])
@pytest.mark.parametrize("vector", [True, False])
def test_one_changed_number_among_the_weights_is_another_model(vector, past_the_count, folders):
    model = load_model(folders("gpt2"))
    before = model_identity(model)
    weight = next(
        p for name, p in model.named_parameters() if ((p.dim() == 1) == vector and "ln" in name) or not vector
    )
    with torch.no_grad():
        (weight.data if past_the_count else weight).view(-1)[3] += 0.125
    assert [word.split()[0] for word in before.difference(model_identity(model))] == ["weights"]


@pytest.mark.parametrize(
    ("architecture", "field", "value", "words"),
    [
        ("llama", "rms_norm_eps", 1e-3, "rms_norm_eps 1e-06 against 0.001"),
        ("llama", "hidden_act", "gelu", "hidden_act 'silu' against 'gelu'"),
        ("llama", "rope_parameters", {"rope_theta": 500.0, "rope_type": "default"}, "rope_theta 10000.0 against 500.0"),
        ("gpt2", "layer_norm_epsilon", 1e-3, "layer_norm_epsilon 1e-05 against 0.001"),
        ("gpt2", "activation_function", "relu", "activation_function 'gelu_new' against 'relu'"),
        ("gpt2", "scale_attn_weights", False, "scale_attn_weights true against false"),
        ("gpt_neox", "use_parallel_residual", False, "use_parallel_residual true against false"),
        ("bloom", "apply_residual_connection_post_layernorm", True, "post_layernorm false against true"),
    ],
)
def test_another_configuration_of_equal_weights_is_another_model(architecture, field, value, words, folders, tmp_path):
    one = load_model(folders(architecture))
    other = load_model(copied(folders(architecture), tmp_path / "other", **{field: value}))
    said = model_identity(one).difference(model_identity(other))
    assert any(words in word for word in said), said


def test_another_dtype_and_other_processing_are_other_models(folders):
    model = load_model(folders("gpt2"))
    half = load_model(folders("gpt2"), dtype=torch.bfloat16)
    assert "dtype 'float32' against 'bfloat16'" in model_identity(model).difference(model_identity(half))
    folded, centred = deepcopy(model), deepcopy(model)
    folded.enable_compatibility_mode()
    centred.enable_compatibility_mode(fold_ln=False)
    assert len({model_identity(one).digest for one in (model, folded, centred)}) == 3
    assert "compatibility mode false against true" in model_identity(model).difference(model_identity(folded))


def tokenizer_changes():
    from tokenizers import normalizers, pre_tokenizers

    def normaliser(tokenizer):
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def pre_tokeniser(tokenizer):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)

    def added(tokenizer):
        tokenizer.add_tokens(["<word>"])

    def chat_marker(tokenizer):
        tokenizer.add_special_tokens({"additional_special_tokens": ["cat"]})

    def bos(tokenizer):
        tokenizer.bos_token = "</s>"

    def eos(tokenizer):
        tokenizer.eos_token = "<s>"

    def padding(tokenizer):
        tokenizer.pad_token = "<s>"

    return [normaliser, pre_tokeniser, added, chat_marker, bos, eos, padding]


@pytest.mark.parametrize("change", tokenizer_changes(), ids=lambda change: change.__name__)
@pytest.mark.parametrize("asked_before", [True, False])
def test_another_tokenizer_is_another_model(change, asked_before, folders):
    one, other = load_model(folders("llama")), load_model(folders("llama"))
    before = tokenizer_identity(one)
    if asked_before:
        assert tokenizer_identity(other) == before
    change(other.tokenizer)
    assert before.difference(tokenizer_identity(other))
    said = model_identity(one).difference(model_identity(other))
    assert said and all(word.startswith("tokenizer ") for word in said), said


def test_the_beginning_of_text_is_named(folders, tmp_path):
    """Two tokenizers of one vocabulary, of which one begins texts with the one special token, one with the other."""
    model, other = load_model(folders("llama")), load_model(copied(folders("llama"), tmp_path / "other"))
    other.tokenizer.bos_token = "</s>"
    assert "tokenizer BOS '<s>' against '</s>'" in model_identity(model).difference(model_identity(other))


def test_merges_in_another_order_are_another_tokenizer(folders, tmp_path):
    def swapped(name):
        folder = copied(folders("llama"), tmp_path / name)
        file = folder / "tokenizer.json"
        saved = json.loads(file.read_text())
        saved["model"]["merges"][:2] = saved["model"]["merges"][1::-1]
        file.write_text(json.dumps(saved))
        return load_model(folder)

    said = model_identity(load_model(folders("llama"))).difference(model_identity(swapped("swapped")))
    assert [word.split()[:2] for word in said] == [["tokenizer", "merges"]]


def test_a_model_without_a_tokenizer_has_an_identity(folders):
    model = load_model(folders("llama"))
    before = model_identity(model)
    model.tokenizer = None
    assert any(word.startswith("tokenizer vocabulary") for word in before.difference(model_identity(model)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_of_transformer_lenss_own_making_has_an_identity():
    from sae_lens import SAETransformerBridge
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    def native(**fields):
        sizes = {"d_model": 32, "d_head": 8, "n_heads": 4, "n_layers": 2, "n_ctx": 16, "d_vocab": 50, "d_mlp": 64}
        config = {"act_fn": "gelu", "normalization_type": "LN", "seed": 0, **sizes, **fields}
        model = TransformerBridge.boot_native(TransformerBridgeConfig(**config))
        model.__class__ = SAETransformerBridge
        return model_identity(model)

    assert native() == native()
    assert [word.split()[0] for word in native().difference(native(seed=1))] == ["weights"]
    assert "eps 1e-05 against 0.001" in native().difference(native(eps=1e-3))
