"""GGUF files give the model that was written to them, and damaged ones are refused."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saekit.errors import ModelError
from saekit.models import bos_token_id, encode_text, forward, load_model
from tests import tiny

TEXT = "The cat sat on the mat, née Müller"
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensors_of(folder):
    """Return the weights of a Llama under llama.cpp's names and in its order of rotary dimensions."""
    config = json.loads((folder / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors = {}
    for key, weight in load_file(folder / "model.safetensors").items():
        value = weight.float().numpy()
        name = key.removesuffix(".weight")
        if name == "model.embed_tokens":
            tensors["token_embd.weight"] = value
        elif name == "model.norm":
            tensors["output_norm.weight"] = value
        else:
            layer, part = name.removeprefix("model.layers.").split(".", 1)
            if n := heads.get(part.split(".")[-1]):  # pairs stand side by side, not half a head apart
                value = value.reshape(n, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
            tensors[f"blk.{layer}.{NAMES[part]}.weight"] = value
    return tensors


def write_gguf(path, folder, *, tensors=None, tokenizer=True, add_bos=None, layers=3):
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    if tokenizer:
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        tokens += [f"[unused {n}]" for n in range(len(tokens), config["vocab_size"])]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        if add_bos is not None:
            writer.add_add_bos_token(add_bos)
    for name, value in (tensors or tensors_of(folder)).items():
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("gguf") / "llama")


def test_a_gguf_file_is_the_model_that_was_written_to_it(folder, tmp_path):
    model, reference = load_model(write_gguf(tmp_path / "tiny.gguf", folder)), load_model(folder)
    ids = encode_text(reference, TEXT)
    assert torch.equal(encode_text(model, TEXT), ids)
    torch.testing.assert_close(forward(model, ids[None]), forward(reference, ids[None]), atol=1e-5, rtol=1e-5)
    assert model.cfg.model_name == str(tmp_path / "tiny.gguf")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    _, cache = model.run_with_cache(ids[None], names_filter="blocks.1.attn.hook_pattern", prepend_bos=False)
    assert cache["blocks.1.attn.hook_pattern"].shape == (1, 4, len(ids), len(ids))


def test_what_stands_beside_the_file_is_not_read(folder, tmp_path):
    other = tiny.write_own(tmp_path / "other", "gpt2", bos=None, seed=1)
    model, reference = load_model(write_gguf(other / "tiny.gguf", folder)), load_model(folder)
    ids = encode_text(reference, TEXT)
    assert torch.equal(encode_text(model, TEXT), ids)
    torch.testing.assert_close(forward(model, ids[None]), forward(reference, ids[None]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("add_bos", "first"), [(None, 0), (True, 0), (False, None)])
def test_the_file_says_whether_texts_begin_with_bos(folder, tmp_path, add_bos, first):
    assert bos_token_id(load_model(write_gguf(tmp_path / "tiny.gguf", folder, add_bos=add_bos))) == first


def test_a_file_without_a_tokenizer_is_loaded_without_one(folder, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", folder, tokenizer=False)
    with pytest.warns(UserWarning, match=r"tiny\.gguf has no tokenizer"):
        assert load_model(path).tokenizer is None


def test_missing_tensors_and_layers_are_refused(folder, tmp_path):
    whole = tensors_of(folder)
    for gone in ("blk.1.ffn_up.weight", "output_norm.weight", "token_embd.weight"):
        left = {name: value for name, value in whole.items() if name != gone}
        with pytest.raises(ModelError, match=r"would be random|cannot be read"):
            load_model(write_gguf(tmp_path / "gone.gguf", folder, tensors=left))
    for layers in (2, 4):
        with pytest.raises(ModelError, match=f"says that it has {layers} layers and holds 3"):
            load_model(write_gguf(tmp_path / "layers.gguf", folder, layers=layers))
    wrong = whole | {"blk.1.ffn_up.weight": np.zeros((3, 5), np.float32)}
    with pytest.raises(ModelError, match=r"another shape|cannot be read"):
        load_model(write_gguf(tmp_path / "shape.gguf", folder, tensors=wrong))
    extra = whole | {"blk.1.attn_q.bias": np.ones(32, np.float32)}
    with pytest.raises(ModelError, match=r"holds [\d,]+ weights, of which transformers uses"):
        load_model(write_gguf(tmp_path / "extra.gguf", folder, tensors=extra))


def test_damaged_files_and_other_files_are_refused(folder, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", folder)
    data = path.read_bytes()
    for part in (len(data) * 9 // 10, len(data) // 2, 2000, 30, 8):
        path.write_bytes(data[:part])
        with pytest.raises(ModelError, match=r"tiny\.gguf (cannot be read as a model|is cut off)"):
            load_model(path)
    for content in (b"", b"GG", b"<html>404</html>"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"is not a GGUF file: expected one, or a model directory"):
            load_model(path)
    with pytest.raises(ModelError, match=r"is not a GGUF file"):
        load_model(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"no directory or file"):
        load_model("nowhere.gguf")
