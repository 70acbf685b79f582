"""Models whose weights transformer-lens has treated: the same predictions, other activations."""

import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from saekit.attribution import direct_logit_attribution
from saekit.errors import ModelError
from saekit.models import forward, hidden_states, load_model, logits_from, processing_of
from tests import tiny

ARCHITECTURES = ("llama", "qwen2", "olmo2", "gpt2", "gpt_neox", "bloom")
CENTRED = ("gpt2", "gpt_neox", "bloom")  # their norms subtract the mean
IDS = torch.tensor([[0, 5, 9, 30, 77, 12], [0, 8, 9, 33, 7, 112]])
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module", params=ARCHITECTURES)
def own(request, tmp_path_factory):
    """A folder of each architecture in which norms and biases are random, too."""
    folder = tiny.write_own(tmp_path_factory.mktemp("own") / request.param, request.param)
    generator = torch.Generator().manual_seed(0)
    weights = load_file(folder / "model.safetensors")
    noise = {name: 0.2 * torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    save_file({k: v + noise[k] for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def treated(folder, compatibility):
    """Return the model; what upstream cannot do to it has to be said."""
    asked = compatibility if isinstance(compatibility, dict) else {"fold_ln": True}
    cannot = []
    if asked.get("center_writing_weights") and folder.name not in CENTRED:
        cannot.append("was not centred: its norms do not subtract the mean")
    if asked.get("fold_ln") and folder.name == "olmo2":
        cannot.append("does not support fold_ln")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = load_model(folder, compatibility=compatibility)
    heard = [str(one.message) for one in said if issubclass(one.category, UserWarning)]
    assert len(heard) == len(cannot) and all(why in one for why, one in zip(cannot, heard, strict=True))
    return model


@pytest.mark.parametrize(
    "compatibility",
    [True, {"center_writing_weights": True}, {"fold_ln": True}, {"fold_value_biases": True, "center_unembed": True}],
)
def test_predictions_stay_those_of_transformers_and_attribution_stays_exact(own, compatibility):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(own, dtype=torch.float32).eval()
    model = treated(own, compatibility)
    with torch.no_grad():
        want = reference(IDS).logits.log_softmax(-1)
    torch.testing.assert_close(forward(model, IDS).log_softmax(-1), want, atol=2e-4, rtol=1e-4)
    states = hidden_states(model, IDS, HOOK)
    torch.testing.assert_close(logits_from(model, IDS, states, HOOK).log_softmax(-1), want, atol=2e-4, rtol=1e-4)
    sae = tiny.own_sae("standard", 32, 64, model_name=None, prepend_bos=None)
    assert direct_logit_attribution(model, sae, list(IDS), answer=[5, 9]).complete
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_centring_takes_the_mean_out_of_the_residual_stream_and_folding_the_weights_out_of_the_norms(own):
    model = load_model(own)
    raw, start = hidden_states(model, IDS, HOOK), hidden_states(model, IDS, "blocks.0.hook_resid_pre")
    centred = treated(own, {"center_writing_weights": True})
    changed = own.name in CENTRED
    written = raw - start if own.name == "bloom" else raw  # its embedding goes through a norm, which is left as it is
    want = raw - written.mean(-1, keepdim=True) if changed else raw
    torch.testing.assert_close(hidden_states(centred, IDS, HOOK), want, atol=1e-4, rtol=1e-4)
    if changed:
        assert processing_of(centred)["center_writing_weights"]
    folded = treated(own, {"fold_ln": True})
    torch.testing.assert_close(hidden_states(folded, IDS, HOOK), raw, atol=1e-4, rtol=1e-4)


def test_nothing_that_is_asked_for_changes_nothing(own):
    raw = load_model(own)
    for nothing in (False, {}, {"center_writing_weights": False, "fold_ln": False}):
        model = load_model(own, compatibility=nothing)
        assert not model.compatibility_mode
        assert torch.equal(hidden_states(model, IDS, HOOK), hidden_states(raw, IDS, HOOK))


@pytest.mark.parametrize(
    ("compatibility", "message"),
    [
        ({"centre_writing_weights": True}, "did you mean 'center_writing_weights'"),
        ({"fold_ln": 1}, r"compatibility\['fold_ln'\] is 1: expected True or False"),
        ("fold_ln", "expected True, False, or a mapping of treatments"),
        (None, "expected True, False, or a mapping of treatments"),
    ],
)
def test_other_words_are_refused_before_anything_is_loaded(compatibility, message):
    with pytest.raises(ModelError, match=message):
        load_model("./nowhere", compatibility=compatibility)
