"""The tokenizer stays as it is on disk, and BOS comes first where the model's own convention says so."""

import json

import pytest
import torch

from saekit.errors import ModelError
from saekit.models import bos_token_id, encode_text, forward, load_model, special_token_ids, token_ids, token_text
from tests import tiny

ARCHITECTURES = ("llama", "qwen2", "olmo2", "gpt2", "gpt_neox", "bloom")
TEXT = "The cat sat on the mat, née Müller"


def configure(folder, **fields):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def logits_of_transformers(folder, text):
    """Return what transformers makes of a text, with the special tokens that its tokenizer puts there."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return ids[0], reference(ids).logits


def same_as_transformers(folder):
    model = load_model(folder)
    ids, want = logits_of_transformers(folder, TEXT)
    assert torch.equal(encode_text(model, TEXT), ids)
    torch.testing.assert_close(forward(model, encode_text(model, TEXT)[None]), want, atol=1e-4, rtol=1e-4)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_without_bos_reads_texts_as_transformers_does(architecture, tmp_path):
    model = same_as_transformers(tiny.write_own(tmp_path / "own", architecture, bos=None))
    assert bos_token_id(model) is None and model.tokenizer.bos_token_id is None
    assert model.to_tokens(TEXT)[0].tolist() == encode_text(model, TEXT).tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tokenizer_that_puts_bos_first_is_followed(architecture, tmp_path):
    from transformers import AutoTokenizer

    folder = tiny.write_own(tmp_path / "own", architecture)
    AutoTokenizer.from_pretrained(folder, add_bos_token=True).save_pretrained(folder)
    model = same_as_transformers(folder)
    assert bos_token_id(model) == encode_text(model, TEXT)[0] == 0
    assert model.to_tokens(TEXT)[0].tolist() == encode_text(model, TEXT).tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tokenizer_that_says_no_bos_is_followed(architecture, tmp_path):
    folder = tiny.write_own(tmp_path / "own", architecture)
    configure(folder, add_bos_token=False)
    model = same_as_transformers(folder)
    assert bos_token_id(model) is None and model.tokenizer.bos_token_id == 0
    assert 0 in special_token_ids(model), "a BOS that stands in the tokens all the same is still special"


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_configuration_that_asks_for_bos_is_followed(architecture, tmp_path):
    folder = tiny.write_own(tmp_path / "own", architecture)
    configure(folder, add_bos_token=True)
    assert bos_token_id(load_model(folder)) == 0


@pytest.mark.parametrize(("architecture", "first"), list(zip(ARCHITECTURES, (0, None, 0, 0, None, None), strict=True)))
def test_where_the_tokenizer_does_not_say_transformer_lens_knows_the_architecture(architecture, first, tmp_path):
    model = load_model(tiny.write_own(tmp_path / "own", architecture))
    assert bos_token_id(model) == first
    assert model.to_tokens(TEXT)[0].tolist() == encode_text(model, TEXT).tolist()


def test_a_qwen_folder_has_no_bos_and_its_own_end_token(tmp_path):
    folder = tiny.write_own(tmp_path / "own", "qwen2", bos=None)
    tiny.write_tokenizer(folder, bos=None, eos="<|im_end|>")
    model = same_as_transformers(folder)
    assert (model.tokenizer.bos_token, model.tokenizer.eos_token) == (None, "<|im_end|>")
    assert model.tokenizer.convert_tokens_to_ids("<|im_end|>") in special_token_ids(model)


def test_a_tokenizer_without_an_end_gets_none(tmp_path):
    folder = tiny.write_own(tmp_path / "own", bos=None)
    tiny.write_tokenizer(folder, bos=None, eos=None)
    model = same_as_transformers(folder)
    assert special_token_ids(model) == []
    assert len(model.tokenizer) <= model.cfg.d_vocab


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
def test_a_folder_without_a_tokenizer_says_so_and_texts_are_refused(architecture, left, tmp_path):
    folder = tiny.write_own(tmp_path / "own", architecture)
    for path in folder.glob("*token*"):
        if path.name not in left:
            path.unlink()
    with pytest.warns(UserWarning, match=r"own has no tokenizer and is loaded without one: pass token ids") as said:
        model = load_model(folder)
    assert len(said) == 1
    assert model.tokenizer is None and bos_token_id(model) is None and special_token_ids(model) == []
    assert token_text(model, 7) == "<7>"
    assert forward(model, torch.tensor([[0, 5, 9]])).shape == (1, 3, 400)
    for refuse in (lambda: encode_text(model, TEXT), lambda: token_ids(model, [TEXT])):
        with pytest.raises(ModelError, match="own has no tokenizer: pass token ids"):
            refuse()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_a_model_error(content, tmp_path):
    folder = tiny.write_own(tmp_path / "own")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"the tokenizer in .*own cannot be read"):
        load_model(folder)
