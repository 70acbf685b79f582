"""The doctor finds what is wrong with something of one's own, says what to do, and never ends in an error."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import saekit as sk
from tests import tiny


@pytest.fixture
def trio(model_folder):
    """Return a model, an SAE and a corpus that fit; the model is the test's own to spoil."""
    model = sk.load_model(str(model_folder))
    model.cfg.model_name = "tiny"
    sae = tiny.own_sae("topk", 32, 96, k=8)
    rows = torch.linalg.qr(torch.randn(96, 32, generator=torch.Generator().manual_seed(0)))[0]
    sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_enc.zero_()
    sae.b_dec.zero_()
    return model, sae, sk.tokens_from_texts([tiny.TEXT] * 6, model=model, context_size=64)


def found(checkup, part, what):
    (row,) = [row for row in checkup.rows if (row.part, row.what) == (part, what)]
    return row


def test_what_is_right_is_said_to_be_right(trio):
    checkup = sk.check(*trio)
    assert not checkup.wrong
    assert {row.part for row in checkup.rows} == {"model", "SAE", "pair", "tokens"}
    assert found(checkup, "pair", "fit").found == "blocks.1.hook_resid_post has 32 dimensions"
    evaluation = sk.evaluate(*trio[:2], trio[2][:8])
    assert found(checkup, "pair", "L0").found == f"{evaluation.l0:.1f} features per token, 8.0 at most, by its k"
    assert found(checkup, "pair", "FVU").found.startswith(f"{evaluation.fvu:.2f} on {evaluation.n_tokens:,} tokens")
    assert "0 wrong" in repr(checkup)
    assert "<table>" in checkup._repr_html_()


@pytest.mark.parametrize("given", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_each_of_the_three_can_be_left_out(trio, given):
    checkup = sk.check(**{("model", "sae", "tokens")[one]: trio[one] for one in given})
    assert not checkup.wrong
    parts = {("model", "SAE", "tokens")[one] for one in given} | ({"pair"} if given == (0, 1) else set())
    assert {row.part for row in checkup.rows} == parts


def test_nothing_is_changed_or_said_beside_the_table(trio):
    model, sae, tokens = trio
    before = {name: (weight.clone(), weight._version) for name, weight in sae.named_parameters()}
    sae.cfg.metadata.model_name = "another"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkup = sk.check(model, sae, tokens)
        sk.check(model, sae, tokens)
    assert all(torch.equal(sae.get_parameter(name), weight) for name, (weight, _) in before.items())
    with pytest.warns(UserWarning, match="trained on 'another'"):  # the doctor has not used the one warning up
        sk.FeatureIndex.build(model, sae, tokens)
    assert not checkup.wrong
    assert sum("trained on 'another'" in row.words for row in checkup.notes) == 1


def spoiled(name, model, sae, tokens):
    """Return the three with one fault."""
    metadata = sae.cfg.metadata
    if name == "scale":
        sae.cfg.normalize_activations = "expected_average_only_in"
    elif name == "nan":
        sae.W_enc[3, 3] = float("nan")
    elif name == "width":
        sae = tiny.own_sae("topk", 48, 96, k=8)
    elif name == "hook":
        metadata.hook_name = "blocks.7.hook_resid_post"
    elif name == "no hook":
        metadata.hook_name = None
    elif name == "head":
        metadata.hook_head_index = 1
    elif name == "training":
        model.train()
    elif name == "model nan":
        with torch.no_grad():
            model.W_E[5, 5] = float("nan")
    elif name == "vocabulary":
        tokens = replace(tokens, ids=tokens.ids + 390)
    elif name == "context":
        tokens = replace(tokens, ids=np.tile(tokens.ids, 5), document=np.tile(tokens.document, 5))
    elif name == "no text":
        tokens = replace(tokens, document=np.full_like(tokens.document, -1))
    elif name == "other weights":
        sae.W_enc.mul_(-3.0)
        sae.b_dec.add_(9.0)
    return model, sae, tokens


@pytest.mark.parametrize(
    ("fault", "part", "words"),
    [
        ("scale", "SAE", "fold_activation_norm_scaling_factor"),
        ("nan", "SAE", "finite numbers: W_enc"),
        ("width", "pair", "reads 48 dimensions"),
        ("hook", "pair", "no hook point 'blocks.7.hook_resid_post'"),
        ("no hook", "pair", "set sae.cfg.metadata.hook_name"),
        ("head", "SAE", "one attention head alone"),
        ("training", "model", "call model.eval()"),
        ("model nan", "model", "weights of"),
        ("vocabulary", "tokens", "outside 0 to 399"),
        ("context", "tokens", "the model's context holds 256"),
        ("no text", "tokens", "holds no text token"),
        ("other weights", "pair", "no better than the mean"),
    ],
)
def test_a_fault_is_a_row_that_says_what_to_do(trio, fault, part, words):
    checkup = sk.check(*spoiled(fault, *trio))
    assert any(row.part == part and words in row.words for row in checkup.wrong), repr(checkup)
    assert words in repr(checkup), "printed whole, not cut as cells are"
    assert f"{len(checkup.wrong)} wrong" in repr(checkup)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"model_name": "gpt2"}, "trained on 'gpt2'"),
        ({"prepend_bos": False}, "without BOS in front"),
        ({"context_size": 16}, "rows of 16 tokens, and these have 64"),
        ({"seqpos_slice": (2, 9)}, "at positions (2, 9)"),
        ({"my_scale": 3}, "does not know these fields"),
        ({"l0": 60.0}, "not what is expected"),
    ],
)
def test_what_needs_care_is_noted(trio, metadata, words):
    model, sae, tokens = trio
    for name, value in metadata.items():
        setattr(sae.cfg.metadata, name, value)
    checkup = sk.check(model, sae, tokens)
    assert sum(words in row.words for row in checkup.notes) == 1, repr(checkup)
    assert not checkup.wrong


def test_half_precision_gradients_and_a_missing_tokenizer_are_noted(trio):
    model, sae, tokens = trio
    model.requires_grad_(True)
    model.to(torch.bfloat16)
    model.tokenizer = None
    checkup = sk.check(model, sae, tokens)
    assert not checkup.wrong, repr(checkup)
    assert found(checkup, "model", "gradients").found == "on"
    assert found(checkup, "model", "numbers").found == "bfloat16 on cpu"
    assert found(checkup, "model", "tokenizer").found == "none"


@pytest.mark.parametrize("wrong", [3, "smollm2-135m", None, torch.nn.Linear(2, 2), [1, 2]])
def test_what_is_no_model_no_sae_and_no_corpus_is_said(wrong, trio):
    for place in range(3):
        given = list(trio)
        given[place] = wrong
        checkup = sk.check(*given)
        assert (wrong is None) == (not checkup.wrong)
        if wrong is not None:
            assert "expected" in checkup.wrong[0].words


def test_a_transcoder_is_no_fault_and_nothing_is_put_back(trio):
    model, _, tokens = trio
    transcoder = tiny.own_sae("transcoder", 32, 96, d_out=32, apply_b_dec_to_input=False)
    checkup = sk.check(model, transcoder, tokens)
    assert not checkup.wrong
    assert "this is a transcoder" in found(checkup, "pair", "writes").words


def test_a_card_of_its_own_is_what_quality_is_compared_with(trio, tmp_path):
    model, sae, tokens = trio
    for card, verdict in (({"fvu": 0.01, "l0": 8.0}, "note"), ({"fvu": 0.9, "l0": 8.0}, "right")):
        sk.save_sae(sae, tmp_path / "sae", card=card)
        checkup = sk.check(model, sk.load_sae(tmp_path / "sae"), tokens)
        assert found(checkup, "pair", "FVU").verdict == verdict, repr(checkup)
        assert "on its card" in found(checkup, "pair", "L0").found
    sk.save_sae(sae, tmp_path / "sae", card={"fvu": "low"})
    assert "quality" in [row.what for row in sk.check(model, sk.load_sae(tmp_path / "sae"), tokens).wrong]


def test_words_from_a_configuration_are_text_in_the_table(trio):
    model, sae, tokens = trio
    sae.cfg.metadata.model_name = "<img src=x>"
    assert "<img" not in sk.check(model, sae, tokens)._repr_html_()
