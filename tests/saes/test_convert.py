"""SAEs of dictionary_learning and sparsify compute here what they compute there.

The two libraries' published forward passes are written out below with NumPy in float64, vector by vector.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saekit import saes
from saekit.errors import SAEError
from tests import tiny

D, F, K = 24, 60, 5
HOOK = "blocks.1.hook_resid_post"


def drawn(*shape, seed, scale=0.3):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(kind, *, threshold=0.2):
    """Return a random state dictionary as dictionary_learning writes it."""
    encoder, decoder = drawn(F, D, seed=0), drawn(D, F, seed=1)
    b_f, b_d = drawn(F, seed=2), drawn(D, seed=3)
    linear = {"encoder.weight": encoder, "decoder.weight": decoder}
    plain = {"W_enc": encoder.T.contiguous(), "b_enc": b_f, "W_dec": decoder.T.contiguous(), "b_dec": b_d}
    counts = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(threshold)}
    return {
        "AutoEncoder": {**linear, "encoder.bias": b_f, "bias": b_d},
        "AutoEncoderNew": {**linear, "encoder.bias": b_f, "decoder.bias": b_d},
        "GatedAutoEncoder": {
            **linear,
            **{"decoder_bias": b_d, "gate_bias": b_f, "mag_bias": drawn(F, seed=4), "r_mag": drawn(F, seed=5)},
        },
        "JumpReluAutoEncoder": {**plain, "threshold": drawn(F, seed=6).abs()},
        "AutoEncoderTopK": {**linear, "encoder.bias": b_f, "b_dec": b_d, **counts},
        "BatchTopKSAE": {**linear, "encoder.bias": b_f, "b_dec": b_d, **counts},
        "MatryoshkaBatchTopKSAE": {**plain, **counts, "group_sizes": torch.tensor([20, 40])},
    }[kind]


def largest(values, k):
    kept = np.zeros_like(values)
    for feature in np.argsort(-values)[:k]:
        kept[feature] = values[feature]
    return kept


def relu(values):
    return np.maximum(values, 0)


def published(kind, weights, x):
    """Return features and reconstruction of one vector, float64."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    if kind == "AutoEncoder":
        f = relu(w["encoder.weight"] @ (x - w["bias"]) + w["encoder.bias"])
        return f, w["decoder.weight"] @ f + w["bias"]
    if kind == "AutoEncoderNew":
        f = relu(w["encoder.weight"] @ x + w["encoder.bias"])
        return f, w["decoder.weight"] @ f + w["decoder.bias"]
    if kind == "GatedAutoEncoder":
        shared = w["encoder.weight"] @ (x - w["decoder_bias"])
        gate = shared + w["gate_bias"] > 0
        f = gate * relu(np.exp(w["r_mag"]) * shared + w["mag_bias"])
        return f, w["decoder.weight"] @ f + w["decoder_bias"]
    if kind == "JumpReluAutoEncoder":
        before = x @ w["W_enc"] + w["b_enc"]
        f = relu(before * (before > w["threshold"]))
        return f, f @ w["W_dec"] + w["b_dec"]
    if kind == "MatryoshkaBatchTopKSAE":
        f = relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
        f = f * (f > w["threshold"])
        return f, f @ w["W_dec"] + w["b_dec"]
    f = relu(w["encoder.weight"] @ (x - w["b_dec"]) + w["encoder.bias"])
    if kind == "BatchTopKSAE":
        f = f * (f > w["threshold"])
        return f, w["decoder.weight"] @ f + w["b_dec"]
    f = largest(f, K)
    return f, (w["decoder.weight"] @ f if kind == "AutoEncoderTopK" else f @ w["W_dec"]) + w["b_dec"]


def agree(sae, kind, weights):
    x = drawn(40, D, seed=9, scale=1.5)
    x[::2] += 3
    both = [published(kind, weights, row) for row in x.double().numpy()]
    features, rebuilt = (torch.from_numpy(np.stack(part)) for part in zip(*both, strict=True))
    assert 0 < (features > 0).double().mean() < 1
    torch.testing.assert_close(saes.encoded(sae, x).double(), features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(saes.decoded(sae, saes.encoded(sae, x)), rebuilt, atol=1e-4, rtol=1e-4)


KINDS = [
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
]


def config(kind, **buffer):
    trainer = {"dict_class": kind, "lm_name": "EleutherAI/pythia-70m", "layer": 1, "k": K}
    if "TopK" not in kind:
        del trainer["k"]
    return {"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128, **buffer}}


@pytest.mark.parametrize("kind", KINDS)
def test_an_sae_of_dictionary_learning_computes_what_it_did_there(kind, tmp_path):
    weights = stored(kind)
    sae = saes.sae_from_dictionary_learning(weights, config(kind), hook_name=HOOK)
    agree(sae, kind, weights)
    assert (sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name) == ("EleutherAI/pythia-70m", HOOK)
    assert sae.cfg.metadata.context_size == 128
    # from files, and through sae-lens's format
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "ae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config(kind)))
    again = saes.sae_from_dictionary_learning(tmp_path / "ae.safetensors", tmp_path / "config.json", hook_name=HOOK)
    again.save_model(str(tmp_path / "sae"))
    agree(saes.load_sae(tmp_path / "sae"), kind, weights)


def test_half_precision_and_the_trainers_part_of_a_configuration_alone_are_read(model):
    weights = {name: tensor.bfloat16() for name, tensor in stored("AutoEncoder").items()}
    sae = saes.sae_from_dictionary_learning(weights, {"dict_class": "AutoEncoder"}, hook_name=HOOK, model_name="mine")
    agree(sae, "AutoEncoder", weights)
    assert sae.cfg.metadata.model_name == "mine"
    with pytest.raises(SAEError, match="reads 24 dimensions"):
        saes.check_pair(model, sae)


def test_a_threshold_that_was_never_estimated_is_said():
    with pytest.warns(UserWarning, match="never estimated its threshold"):
        sae = saes.sae_from_dictionary_learning(
            stored("BatchTopKSAE", threshold=-1.0), config("BatchTopKSAE"), hook_name=HOOK
        )
    agree(sae, "BatchTopKSAE", stored("BatchTopKSAE", threshold=-1.0))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"config": {}}, "dict_class in the configuration must be"),
        ({"config": {"dict_class": "AutoEncoderTopk"}}, "did you mean 'AutoEncoderTopK'"),
        ({"config": config("AutoEncoderTopK", io="in_and_out")}, "transcoder"),
        ({"config": {"dict_class": "AutoEncoderTopK", "k": 7}}, r"say \[5, 7\]"),
        ({"config": config("AutoEncoder")}, r"missing \['bias'\], unknown \['b_dec', 'k', 'threshold'\]"),
        ({"config": config("JumpReluAutoEncoder"), "weights": {"W_enc": torch.zeros(D, F)}}, "missing .*'threshold'"),
        ({"encoder.bias": torch.zeros(3)}, r"encoder.bias of shape \[3\]"),
        ({"decoder.weight": torch.zeros(F, D)}, "shapes do not fit an SAE of 24 features and 60 dimensions"),
        ({"decoder.weight": torch.zeros(F)}, "decoder.weight must be a matrix"),
        ({"b_dec": torch.full((D,), float("nan"))}, "finite numbers: b_dec"),
        ({"k": torch.tensor(F + 1), "config": {"dict_class": "AutoEncoderTopK"}}, "k must be a whole number from 1"),
        ({"hook_name": " "}, "hook_name must be a text"),
        ({"weights": [1, 2]}, "state dictionary"),
        ({"weights": "ae.pt"}, "pickle.*weights_only=True"),
        ({"weights": "nothing.safetensors"}, "no file nothing"),
    ],
)
def test_what_is_no_such_sae_is_named(change, match):
    change = dict(change)
    settings = {"config": config("AutoEncoderTopK"), "hook_name": HOOK}
    settings |= {name: change.pop(name) for name in ("config", "hook_name") if name in change}
    weights = change.pop("weights", {**stored("AutoEncoderTopK"), **change})
    with pytest.raises(SAEError, match=match):
        saes.sae_from_dictionary_learning(weights, settings["config"], hook_name=settings["hook_name"])


@pytest.fixture
def sparsified(tmp_path):
    folder = tmp_path / "layers.1"
    folder.mkdir()
    weights = {
        "encoder.weight": drawn(F, D, seed=0),
        "encoder.bias": drawn(F, seed=2),
        "W_dec": drawn(F, D, seed=1),
        "b_dec": drawn(D, seed=3),
    }
    save_file(weights, folder / "sae.safetensors")
    written = {"activation": "topk", "expansion_factor": 32, "num_latents": F, "k": K, "d_in": D, "transcode": False}
    (folder / "cfg.json").write_text(json.dumps(written))
    return folder, weights, written


def test_an_sae_of_sparsify_computes_what_it_did_there(sparsified):
    folder, weights, _ = sparsified
    sae = saes.sae_from_sparsify(folder, hook_name=HOOK, model_name="tiny")
    agree(sae, "SparseCoder", weights)
    assert sae.cfg.k == K
    with pytest.raises(SAEError, match=r"has no sae_weights.safetensors: .*this one is of sparsify: sae_from_sparsify"):
        saes.load_sae(folder)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"activation": "groupmax"}, "activation in cfg.json must be 'topk'"),
        ({"transcode": True}, "has a transcoder"),
        ({"skip_connection": True}, "has a skip connection"),
        ({"signed": True}, "has signed features"),
        ({"k": 0}, "k must be a whole number"),
        ({"k": None}, "k must be one number"),
    ],
)
def test_what_sae_lens_cannot_compute_is_refused(sparsified, fields, match):
    folder, _, written = sparsified
    (folder / "cfg.json").write_text(json.dumps(written | fields))
    with pytest.raises(SAEError, match=match):
        saes.sae_from_sparsify(folder, hook_name=HOOK)


def test_a_damaged_folder_of_sparsify_is_named(sparsified, tmp_path):
    folder, _, _ = sparsified
    with pytest.raises(SAEError, match=r"has no cfg\.json and no sae\.safetensors"):
        saes.sae_from_sparsify(tmp_path, hook_name=HOOK)
    file = folder / "sae.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(SAEError, match="Is it complete"):
        saes.sae_from_sparsify(folder, hook_name=HOOK)


def test_a_conversion_that_would_compute_something_else_is_not_returned(monkeypatch):
    from sae_lens import StandardSAE

    encode = StandardSAE.encode
    monkeypatch.setattr(StandardSAE, "encode", lambda self, x: encode(self, x + self.b_dec))
    with pytest.raises(SAEError, match="does not compute what AutoEncoder does"):
        saes.sae_from_dictionary_learning(stored("AutoEncoder"), config("AutoEncoder"), hook_name=HOOK)


def test_a_converted_sae_can_be_used_at_once(model):
    weights = {"W_enc": drawn(32, F, seed=0), "b_enc": drawn(F, seed=1), "W_dec": drawn(F, 32, seed=2)}
    weights |= {"b_dec": torch.zeros(32), "threshold": drawn(F, seed=3).abs()}
    sae = saes.sae_from_dictionary_learning(
        weights, {"dict_class": "JumpReluAutoEncoder", "lm_name": "tiny"}, hook_name=HOOK
    )
    saes.check_pair(model, sae)
    assert tiny.own_sae("jumprelu", 32, F).cfg.architecture() == sae.cfg.architecture()
