"""Every field of an SAE's configuration is met, refused with what to do, or known to ask for nothing."""

import copy
import re
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from saekit import saes
from saekit.errors import SAEError
from saekit.evaluation import evaluate
from saekit.index import FeatureIndex
from saekit.models import encode_text, hidden_states, load_model
from tests import tiny

PLAIN = ("standard", "gated", "topk", "abstopk", "jumprelu", "matching_pursuit")


def own(architecture="topk", *, model_from_pretrained_kwargs=None, **fields):
    sae = tiny.own_sae(architecture, 32, 64, **({"k": 4} if "topk" in architecture else {}), **fields)
    sae.cfg.metadata.model_from_pretrained_kwargs = model_from_pretrained_kwargs  # sae-lens warns at construction
    return sae


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    return tiny.write_own(tmp_path_factory.mktemp("own") / "gpt2", "gpt2")


@pytest.fixture(scope="module")
def gpt2(gpt2_folder):
    model = load_model(gpt2_folder)
    model.cfg.model_name = "gpt2"
    return model


@pytest.fixture(scope="module")
def centred(gpt2_folder):
    model = load_model(gpt2_folder, compatibility=True)
    model.cfg.model_name = "gpt2"
    return model


def test_the_table_has_every_field_that_sae_lens_can_write():
    import sae_lens
    from sae_lens.loading.pretrained_sae_loaders import LLM_METADATA_KEYS
    from sae_lens.registry import SAE_CLASS_REGISTRY
    from sae_lens.saes.sae import SAEMetadata

    wanted = {field.name for _, configuration in SAE_CLASS_REGISTRY.values() for field in fields(configuration)}
    wanted |= LLM_METADATA_KEYS | set(SAEMetadata().keys())
    for file in Path(sae_lens.__file__).parent.rglob("*.py"):  # and whatever its source reads or writes
        wanted |= set(re.findall(r"\bmetadata\.([a-z]\w+)", file.read_text(encoding="utf-8")))
    wanted -= set(dir(SAEMetadata)) | {"version"}  # `importlib.metadata.version`
    known = [demand.field for demand in saes.DEMANDS]
    assert len(known) == len(set(known))
    assert wanted - set(known) == set(), "say in saekit/saes/demands.py what becomes of these fields"
    assert set(known) - wanted == {"architecture"}, "sae-lens no longer has these"
    assert all(demand.why or demand.look for demand in saes.DEMANDS)


def test_the_bundled_sae_asks_for_nothing_that_is_not_met():
    assert {finding.verdict for finding in saes.findings(saes.load_sae())} == {"right"}


@pytest.mark.parametrize("architecture", PLAIN)
@pytest.mark.parametrize("scale", ["expected_average_only_in", "covariance_whitening"])
def test_a_scale_that_is_not_folded_in_is_refused_at_load_and_beside_a_model(architecture, scale, tmp_path, model):
    sae = own(architecture, normalize_activations=scale)
    with pytest.raises(SAEError, match=rf"{scale}.*not folded into.*fold_activation_"):
        saes.check_pair(model, sae)
    sae.save_model(str(tmp_path / "sae"))
    with pytest.raises(SAEError, match="not folded into"):
        saes.load_sae(str(tmp_path / "sae"))


def test_a_folded_scale_gives_the_features_of_scaled_activations(model):
    sae = own("jumprelu", normalize_activations="expected_average_only_in")
    plain, x = copy.deepcopy(sae), 7 * torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    sae.fold_activation_norm_scaling_factor(0.25)
    saes.check_pair(model, sae)
    torch.testing.assert_close(saes.encoded(sae, x), plain.encode(0.25 * x))


@pytest.mark.parametrize("architecture", PLAIN)
@pytest.mark.parametrize("scale", ["layer_norm", "constant_norm_rescale"])
def test_a_scale_of_each_input_is_applied_by_sae_lens_itself(architecture, scale, model):
    sae = own(architecture, normalize_activations=scale)
    saes.check_pair(model, sae)
    x = 5 + 3 * torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    unscaled = copy.deepcopy(sae)
    unscaled.cfg.normalize_activations = "none"
    unscaled._setup_activation_normalization()
    if scale == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        by, offset = (x - mean).std(-1, keepdim=True), mean
        scaled = (x - mean) / (by + 1e-5)
    else:
        by, offset = x.norm(dim=-1, keepdim=True) / 32**0.5, 0.0
        scaled = x / by
    features = saes.encoded(sae, x)
    torch.testing.assert_close(features, unscaled.encode(scaled), atol=1e-4, rtol=1e-4)
    rebuilt = unscaled.decode(features).double() * by.double() + offset
    torch.testing.assert_close(saes.decoded(sae, features), rebuilt, atol=1e-4, rtol=1e-4)


def test_a_temporal_sae_and_one_of_a_single_head_are_refused(model):
    temporal = tiny.own_sae("temporal", 128, 256, n_heads=1, bottleneck_factor=32)
    with pytest.raises(SAEError, match="encode_with_predictions"):
        saes.check_sae(temporal)
    with pytest.raises(SAEError, match=r"one attention head alone \(hook_head_index=2\)"):
        saes.check_pair(model, own(hook_head_index=2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gpt2-small", "gpt2"),
        ("gpt2-small", "openai-community/gpt2"),
        ("pythia-70m", "EleutherAI/pythia-70m"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("google/gemma-2-2b", "gemma-2-2b"),
        ("/data/models/gemma-2-2b/", "google/Gemma-2-2b"),
        ("C:\\models\\gpt2", "gpt2-small"),
        ("/cache/hub/models--openai-community--gpt2/snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e", "gpt2-small"),
    ],
)
def test_two_names_of_one_model_are_no_reason_to_warn(one, other):
    assert saes.same_model(one, other)
    assert saes.same_model(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("gpt2", "gpt2-medium"), ("pythia-70m", "pythia-70m-deduped"), ("gemma-2-2b", "gemma-2-2b-it"), ("gpt2", "neo")],
)
def test_two_models_are_two(one, other):
    assert not saes.same_model(one, other)


def test_a_model_that_must_be_centred_is_centred_or_the_pair_is_refused_with_the_call(gpt2, centred, tmp_path):
    sae = own(model_name="gpt2-small", model_from_pretrained_kwargs={"center_writing_weights": True})
    with pytest.raises(SAEError, match=r"compatibility=\{'center_writing_weights': True\}"):
        saes.check_pair(gpt2, sae)
    saes.check_pair(centred, sae)
    sae.save_model(str(tmp_path / "sae"))
    saes.load_sae(str(tmp_path / "sae"), model=centred)  # without sae-lens's own warning
    sae.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": False, "device": "cuda", "n_devices": 1}
    saes.check_pair(gpt2, sae)
    with pytest.raises(SAEError, match="center_writing_weights=False"):
        saes.check_pair(centred, sae)


def test_treatments_that_change_nothing_at_the_hook_point_are_not_asked_for(gpt2, model):
    for demand in ({"fold_ln": True}, {"center_unembed": True}, {"fold_value_biases": True}):
        saes.check_pair(gpt2, own(model_name="gpt2", model_from_pretrained_kwargs=demand))
    for hook in ("blocks.1.attn.hook_z", "blocks.1.attn.hook_q"):  # centring: a norm takes the mean off before them
        centred = {"model_name": "gpt2", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
        saes.check_pair(gpt2, own(hook_name=hook, **centred))
    centre = own(model_name="tiny", model_from_pretrained_kwargs={"center_writing_weights": True})
    saes.check_pair(model, centre)  # transformer-lens does not centre a model whose norms keep the mean


def test_centring_leaves_what_is_behind_a_norm_as_it_is_and_moves_the_rest(gpt2, centred):
    ids = torch.arange(2, 22)[None]
    for hook, moved in (
        ("attn.hook_z", False),
        ("attn.hook_q", False),
        ("hook_resid_post", True),
        ("hook_mlp_out", True),
    ):
        plain, treated = (hidden_states(one, ids, f"blocks.1.{hook}") for one in (gpt2, centred))
        assert torch.allclose(plain, treated, atol=1e-5) != moved, hook


def test_another_checkpoint_and_an_unknown_setting_are_said(gpt2):
    for demand in ({"revision": "step3000"}, {"checkpoint_index": 4}, {"some_new_switch": True}):
        with pytest.warns(UserWarning, match=next(iter(demand))):
            saes.check_pair(gpt2, own(model_name="gpt2", model_from_pretrained_kwargs=demand))


def test_an_sae_that_wants_texts_to_begin_otherwise_than_the_model_has_them_says_so(model):
    with pytest.warns(UserWarning, match=r"trained on texts without BOS.*default_prepend_bos = False"):
        saes.check_pair(model, own(prepend_bos=False))


@pytest.mark.parametrize("wanted", [True, False])
def test_loaded_for_a_model_an_saes_wish_for_bos_wins_and_is_said_once(wanted, tmp_path):
    model = load_model(str(tiny.write_own(tmp_path / "tiny", "llama")))
    model.cfg.default_prepend_bos = not wanted
    own(prepend_bos=wanted).save_model(str(tmp_path / "sae"))
    with pytest.warns(UserWarning, match=f"begin {'with' if wanted else 'without'} BOS from now on"):
        saes.load_sae(tmp_path / "sae", model=model)
    first = encode_text(model, "The cat sat")[0]
    assert (first == model.tokenizer.bos_token_id) == wanted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saes.check_pair(model, saes.load_sae(tmp_path / "sae", model=model))


def test_an_sae_that_wants_bos_of_a_tokenizer_without_one_is_a_note(tmp_path):
    model = load_model(str(tiny.write_own(tmp_path / "tiny", "qwen2", bos=None)))
    with pytest.warns(UserWarning, match="its tokenizer has none"):
        saes.check_pair(model, own(prepend_bos=True))


def test_positions_versions_and_rows_that_were_not_trained_on_are_said(model):
    with pytest.warns(UserWarning, match=r"at positions \(2, 10\)"):
        saes.check_pair(model, own(seqpos_slice=(2, 10)))
    with pytest.warns(UserWarning, match=r"written by sae-lens 99\.1"):
        saes.check_sae(own(sae_lens_version="99.1"))
    sae = own(context_size=64)
    with pytest.warns(UserWarning, match=r"rows of 64 tokens, and these have 128"):
        saes.check_pair(model, sae, row_length=128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saes.check_pair(model, own(seqpos_slice=(None,), context_size=64), row_length=64)


@pytest.mark.parametrize(
    "odd",
    [
        {"model_name": 3},
        {"hook_name": ["blocks.1"]},
        {"context_size": "128"},
        {"seqpos_slice": 4},
        {"model_from_pretrained_kwargs": [1]},
        {"sae_lens_version": 6.0},
        {"l0": "many"},
    ],
)
def test_metadata_of_another_kind_than_they_must_be_are_named(odd, tmp_path, model):
    sae = own()
    ((name, value),) = odd.items()
    setattr(sae.cfg.metadata, name, value)
    for check in (lambda: saes.check_sae(sae), lambda: saes.check_pair(model, sae, row_length=8)):
        with pytest.raises(SAEError, match=f"{name} in the SAE's configuration cannot be"):
            check()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sae.save_model(str(tmp_path / "sae"))
    with pytest.raises(SAEError, match=f"{name}|cannot be read as an SAE"):
        saes.load_sae(tmp_path / "sae")


def test_a_warning_is_said_once_for_a_pair_and_again_when_something_has_changed(model):
    sae = own(model_name="another")
    with pytest.warns(UserWarning, match="trained on 'another'"):
        saes.check_pair(model, sae)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saes.check_pair(model, sae)
    sae.cfg.metadata.model_name = "a third"
    with pytest.warns(UserWarning, match="trained on 'a third'"):
        saes.check_pair(model, sae)


def test_rows_longer_than_an_saes_own_are_said_once_by_whatever_reads_a_corpus(model):
    sae, tokens = own(context_size=16), tiny.random_tokens(4, 32, 400)
    with pytest.warns(UserWarning, match="rows of 16 tokens, and these have 32"):
        evaluate(model, sae, tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saes.check_pair(model, sae)
        evaluate(model, sae, tokens)
        FeatureIndex.build(model, sae, tokens)
    with pytest.warns(UserWarning, match="rows of 16 tokens, and these have 32"):
        FeatureIndex.build(model, own(context_size=16), tokens)


def test_a_pair_that_was_right_is_looked_at_again_when_a_weight_or_the_configuration_changes(model):
    sae = own()
    saes.check_pair(model, sae)
    sae.W_enc[0, 0] = float("nan")
    with pytest.raises(SAEError, match="finite numbers: W_enc"):
        saes.check_pair(model, sae)
    sae.W_enc[0, 0] = 0.0
    saes.check_pair(model, sae)
    sae.cfg.normalize_activations = "expected_average_only_in"
    with pytest.raises(SAEError, match="not folded"):
        saes.check_pair(model, sae)


def test_a_second_look_at_a_pair_does_not_run_the_model(model):
    sae, runs = own(), []
    saes.check_pair(model, sae)
    handle = model.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        for _ in range(3):
            saes.check_pair(model, sae)
    finally:
        handle.remove()
    assert runs == []


def test_metadata_that_no_row_is_about_are_named():
    assert saes.unknown_fields(own(my_scale=3.0)) == ["my_scale"]
    assert saes.unknown_fields(saes.load_sae()) == []
