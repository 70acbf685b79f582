"""Model folders that do not hold the whole model are refused by name; whole ones load in silence."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from saekit.errors import ModelError
from saekit.models import load_model
from tests import tiny

ARCHITECTURES = ("llama", "qwen2", "olmo2", "gpt2", "gpt_neox", "bloom")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def whole(request, tmp_path_factory):
    return tiny.write_own(tmp_path_factory.mktemp("whole") / request.param, request.param)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of a whole model of every architecture."""
    return shutil.copytree(whole, tmp_path / whole.name)


@pytest.fixture
def llama(model_folder, tmp_path):
    """A copy of a whole model of one architecture, where all are read alike."""
    return shutil.copytree(model_folder, tmp_path / "llama")


def configure(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    layers = fields.pop("layers", None)
    if layers is not None:
        fields["n_layer" if "n_layer" in config else "num_hidden_layers"] = layers
        config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config | fields))


def rename(folder, new_name):
    weights = load_file(folder / "model.safetensors")
    save_file({new_name(k): v for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_model_loads_in_silence_with_the_logits_of_transformers(folder):
    from transformers import AutoModelForCausalLM

    ids = torch.from_numpy(tiny.random_tokens(2, 12, 360).ids).long()
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = load_model(folder)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, prepend_bos=False), reference(ids).logits, atol=1e-4, rtol=1e-4)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_a_model_in_half_precision_and_in_shards_loads_in_silence(folder):
    from transformers import AutoModelForCausalLM

    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    (folder / "model.safetensors").unlink()
    half.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    ids = torch.tensor([[0, 5, 9, 30]])
    with torch.no_grad():
        want = half.float()(ids).logits
    torch.testing.assert_close(load_model(folder)(ids, prepend_bos=False), want, atol=1e-4, rtol=1e-4)


def test_weights_without_the_prefix_of_the_architecture_load_in_silence(folder):
    rename(folder, lambda key: key.removeprefix("model.").removeprefix("transformer.").removeprefix("gpt_neox."))
    load_model(folder)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "student.model."])
def test_a_prefix_on_every_weight_is_named_with_how_to_strip_it(folder, prefix):
    rename(folder, lambda key: prefix + key)
    with pytest.raises(ModelError, match=r"(?s)would be random: .*" + prefix.replace(".", r"\.")) as caught:
        load_model(folder)
    assert f'replace("{prefix}", "", 1)' in str(caught.value)
    rename(folder, lambda key: key.replace(prefix, "", 1))
    load_model(folder)


def test_a_prefix_within_the_names_of_one_layer_is_found(folder):
    rename(folder, lambda key: key.replace(".0.", ".0._orig_mod.", 1))
    with pytest.raises(ModelError, match=r"would be random.*'_orig_mod\.' in front or within"):
        load_model(folder)


def test_one_layer_more_than_the_weights_is_refused_and_one_fewer(folder):
    configure(folder, layers=4)
    with pytest.raises(ModelError, match=r"\d+ of \d+ weights are not in its files, and would be random: .*\.3\."):
        load_model(folder)
    configure(folder, layers=2)
    with pytest.raises(ModelError, match=r"weights that config\.json makes no use of: .*\.2\."):
        load_model(folder)


def test_one_weight_that_is_missing_is_named(folder):
    weights = load_file(folder / "model.safetensors")
    for gone in (name for name in sorted(weights) if ".1." in name or "norm" in name):
        left = {name: weight for name, weight in weights.items() if name != gone}
        save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=f"1 of .* would be random: {gone}"):
            load_model(folder)


def test_another_shape_is_refused_with_both(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name, weight in weights.items() if "mlp" in name and weight.ndim == 2)
    shape = list(weights[name].shape)
    save_file(weights | {name: torch.zeros(3, 5)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert f"1 weights have another shape than config.json says, and would be random: {name} is [3, 5]" in str(
        caught.value
    )
    assert f"not {shape}" in str(caught.value)


def test_weights_of_a_part_that_the_configuration_switches_off_are_refused(llama):
    weights = load_file(llama / "model.safetensors")
    extra = {f"model.layers.{n}.self_attn.q_proj.bias": torch.ones(32) for n in range(3)}
    save_file(weights | extra, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"3 weights that config\.json makes no use of: .*q_proj\.bias"):
        load_model(llama)
    configure(llama, attention_bias=True)
    with pytest.raises(ModelError, match=r"9 of 42 weights are not in its files.*k_proj\.bias"):
        load_model(llama)


def test_another_head_beside_the_model_is_said_and_left_out(llama):
    weights = load_file(llama / "model.safetensors")
    save_file(weights | {"v_head.weight": torch.ones(32)}, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"1 weights beside those of the model, which are not used: v_head\.weight"):
        load_model(llama)


def test_an_unembedding_that_is_neither_tied_nor_there_is_refused(llama):
    configure(llama, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"1 of \d+ weights are not in its files.*lm_head\.weight"):
        load_model(llama)


def damaged_weights(folder, damage):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "a page of an error":
        path.write_bytes(b"<!doctype html><html><body>404</body></html>")
    elif damage == "a header of 3 GB":
        path.write_bytes(struct.pack("<Q", 3 << 30) + data[8:])
    elif damage == "a pointer":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n")


@pytest.mark.parametrize("damage", ["truncated", "empty", "a page of an error", "a header of 3 GB", "a pointer"])
def test_damaged_weights_are_a_model_error(llama, damage):
    damaged_weights(llama, damage)
    with pytest.raises(ModelError, match=r"cannot be read as a model .*: is it complete"):
        load_model(llama)


def test_a_folder_without_safetensors_is_refused_and_pickles_are_not_opened(llama):
    (llama / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: expected model\.safetensors, or shards"):
        load_model(llama)
    (llama / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin may run code when read.*save_pretrained"):
        load_model(llama)


def test_an_index_that_names_absent_shards_or_none_is_refused(llama):
    (llama / "model.safetensors").rename(llama / "model-00001-of-00003.safetensors")
    index = llama / "model.safetensors.index.json"
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index.write_text(json.dumps({"weight_map": dict(zip("abc", shards, strict=True))}))
    with pytest.raises(ModelError, match=r"lacks 2 of its 3 files of weights: model-00002-of-00003"):
        load_model(llama)
    for content in ("{}", "[]", '{"weight_map": [1]}', "{", '{"weight_map": {"a": 3}}'):
        index.write_text(content)
        with pytest.raises(ModelError, match=r"weight_map|not JSON|expected a JSON object"):
            load_model(llama)
    index.write_text(json.dumps({"weight_map": {"a": "../whole/model.safetensors"}}))
    with pytest.raises(ModelError, match=r"lacks 1 of its 1 files"):
        load_model(llama)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{'model_type': 'llama'}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "holds a list: expected a JSON object"),
        ("{}", "cannot be read as a model"),
        ('{"model_type": "nonesuch"}', "cannot be read as a model .*nonesuch"),
        ('{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": "wide"}', "cannot be read"),
    ],
)
def test_a_configuration_that_is_none_is_a_model_error(llama, content, message):
    (llama / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        load_model(llama)


def test_a_configuration_of_100_megabytes_is_not_read(llama):
    with (llama / "config.json").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(ModelError, match=r"has 100 MB: expected a configuration of a few kilobytes"):
        load_model(llama)


def test_an_adapter_is_told_from_a_model(llama):
    (llama / "config.json").rename(llama / "adapter_config.json")
    with pytest.raises(ModelError, match=r"no config\.json.*PEFT adapter: merge it"):
        load_model(llama)
