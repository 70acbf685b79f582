"""SAEs: the right one, for the right model, or a clear error."""

import json
import struct
import time
import tracemalloc
import warnings

import pytest
import torch

from saekit import saes
from saekit.errors import ModelError, OfflineError, SAEError
from tests import tiny

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def folder(tmp_path):
    saes.save_sae(tiny.topk_sae(32, 96), tmp_path / "sae", card={"fvu": 0.5})
    return tmp_path / "sae"


def test_a_saved_sae_gives_the_same_outputs_here_and_in_sae_lens(folder, model):
    from sae_lens import SAE

    original = tiny.topk_sae(32, 96)
    loaded = saes.load_sae(str(folder), model=model)
    plain = SAE.load_from_disk(str(folder), dtype="float32")
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    assert loaded.W_dec.dtype == torch.float32
    torch.testing.assert_close(loaded.encode(x), plain.encode(x))
    torch.testing.assert_close(loaded(x), original(x), atol=0.05, rtol=0.05)
    assert saes.sae_identity(loaded) == saes.sae_identity(original), "half precision does not change the identity"
    assert saes.sae_identity(loaded) != saes.sae_identity(tiny.topk_sae(32, 96, seed=1))
    assert json.loads((folder / "card.json").read_text()) == {"fvu": 0.5}


def test_the_sae_is_not_changed_by_saving(tmp_path):
    sae = tiny.topk_sae(32, 96)
    saes.save_sae(sae, tmp_path / "sae")
    assert sae.W_dec.dtype == torch.float32
    assert sae.cfg.dtype == "float32"
    sae.W_dec[0, 0] = 1e6
    with pytest.raises(SAEError, match="65,504"):
        saes.save_sae(sae, tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_a_wrong_width_is_an_error(model):
    with pytest.raises(SAEError, match=r"reads 48 dimensions, but blocks\.1\.hook_resid_post of tiny has 32"):
        saes.check_pair(model, tiny.topk_sae(48, 96))


def test_a_missing_hook_point_is_an_error_where_sae_lens_only_logs(model):
    sae = tiny.topk_sae(32, 96, hook_name="blocks.9.hook_resid_post")
    ids = torch.tensor([[0, 5, 6]])
    torch.testing.assert_close(model.run_with_saes(ids, saes=[sae]), model(ids))  # upstream: silently the clean model
    with pytest.raises(ModelError, match=r"no hook point 'blocks\.9"):
        saes.check_pair(model, sae)


def test_another_models_name_warns_with_both_names_and_an_owner_does_not_matter(model):
    sae = tiny.topk_sae(32, 96)
    sae.cfg.metadata.model_name = "gpt2-small"
    with pytest.warns(UserWarning, match=r"trained on 'gpt2-small' and is used with 'tiny'"):
        saes.check_pair(model, sae)
    sae.cfg.metadata.model_name = "someone/Tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saes.check_pair(model, sae)


def test_damaged_and_unknown_saes_are_named(folder, tmp_path):
    with pytest.raises(SAEError, match=r"no SAE 'smollm2-135m/blocks\.18\.hook_resid_pst'\. Nearest"):
        saes.load_sae("smollm2-135m/blocks.18.hook_resid_pst")
    with pytest.raises(SAEError, match=r"is a release of \d+ SAEs: pass sae_id="):
        saes.load_sae("gpt2-small-res-jb")
    with pytest.raises(SAEError, match=r"none named 'blocks\.99\.hook_resid_pre'\. Nearest: blocks"):
        saes.load_sae("gpt2-small-res-jb", "blocks.99.hook_resid_pre")
    with pytest.raises(SAEError, match=r"has no cfg\.json and no sae_weights\.safetensors"):
        saes.load_sae(str(tmp_path))


# --- folders from anybody --------------------------------------------------------------------------------------------


def refused(folder, match, **kwargs):
    """Load, and expect one clear error, soon and without much memory."""
    tracemalloc.start()
    begun = time.monotonic()
    with pytest.raises(SAEError, match=match):
        saes.load_sae(folder, **kwargs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - begun < 5
    assert peak < 50e6


def rewrite(folder, **fields):
    """Change fields of a configuration; None drops one."""
    config = json.loads((folder / "cfg.json").read_text()) | fields
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_every_architecture_of_sae_lens_is_read_from_its_folder(tmp_path):
    from sae_lens.registry import SAE_CLASS_REGISTRY

    for architecture in SAE_CLASS_REGISTRY.keys() - {"temporal"}:
        extra = {"apply_b_dec_to_input": False, "d_out": 32} if "transcoder" in architecture else {}
        sae = tiny.own_sae(architecture, 32, 64, **extra, **({"k": 4} if "topk" in architecture else {}))
        sae.save_model(str(tmp_path / architecture))
        loaded = saes.load_sae(tmp_path / architecture)
        x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(loaded.encode(x), sae.encode(x))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"{" * 10, "cannot be read as JSON"),
        (b"[" * 200_000, "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[1, 2]", "holds list, not an object"),
        (b"3", "holds int, not an object"),
        (b"{}", "has no d_in and no d_sae"),
        (b'{"d_in": 32}', "has no d_sae"),
        (b'{"d_in": "32", "d_sae": 96}', "d_in in .* must be a whole number"),
        (b'{"d_in": 32, "d_sae": -1}', "d_sae in .* must be a whole number"),
        (b'{"d_in": 32, "d_sae": 1e999}', "d_sae in .* must be a whole number"),
        (b'{"d_in": 32, "d_sae": 96, "architecture": "topkk"}', "did you mean 'topk'"),
        (b'{"d_in": 32, "d_sae": 96, "architecture": "batchtopk"}', "of a training run.*save_inference_model"),
        (b'{"d_in": 32, "d_sae": 96, "metadata": {"to_dict": 1, "self": 2}}', r"fields \['self', 'to_dict'\]"),
        (b'{"d_in": 32, "d_sae": 96, "metadata": 3}', "must be an object, not 3"),
        (b'{"d_in": 32, "d_sae": 96, "activation_fn": "tanh-relu"}', "'tanh-relu'.*ReLU"),
        (b'{"d_in": 1000000000, "d_sae": 1000000000}', "does not fit|cannot be read as an SAE"),
    ],
)
def test_a_configuration_that_is_none_is_named(folder, text, match):
    (folder / "cfg.json").write_bytes(text)
    refused(folder, match)


def test_a_configuration_of_100_mb_is_not_read(folder):
    with (folder / "cfg.json").open("r+b") as file:
        file.truncate(100_000_000)
    refused(folder, r"has 100 MB: expected a configuration of at most 1\.05 MB")


@pytest.mark.parametrize("length", [3_000_000_000, 2**63, 2**64 - 1, 0])
def test_a_header_that_claims_more_than_the_file_is_refused(folder, length):
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(struct.pack("<Q", length) + weights.read_bytes()[8:])
    refused(folder, "its header claims")


def test_a_header_of_3_gb_in_a_file_that_has_them_is_not_read(folder):
    weights = folder / "sae_weights.safetensors"
    with weights.open("r+b") as file:
        file.write(struct.pack("<Q", 3_000_000_000))
        file.truncate(3_100_000_000)  # a hole: no room is taken
    refused(folder, "its header has 3 GB, at most 1.05 MB are read")


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"W_enc": 3}', b'{"W_enc": {"dtype": "F32"}}', b"[" * 100_000])
def test_a_header_that_makes_no_sense_is_refused(folder, header):
    (folder / "sae_weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(folder, "its header cannot be read")


@pytest.mark.parametrize("cut", [1, 100, 20_000])
def test_truncated_and_lengthened_weights_are_refused(folder, cut):
    weights = folder / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-cut])
    refused(folder, "cannot be read as an SAE's weights.*Is it complete")
    weights.write_bytes(whole + b"0" * cut)
    refused(folder, "cannot be read as an SAE's weights")


def test_weights_that_do_not_fit_their_configuration_are_named(folder):
    rewrite(folder, d_sae=97)
    refused(folder, r"W_enc of shape \[32, 96\] instead of \[32, 97\]; b_enc of shape")
    rewrite(folder, d_sae=96, architecture="jumprelu")
    refused(folder, "does not fit its cfg.json: it has no threshold")
    rewrite(folder, architecture="matching_pursuit")
    refused(folder, "W_enc, which no matching_pursuit SAE has")


def changed(folder, **tensors):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "sae_weights.safetensors") | tensors
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "sae_weights.safetensors")


def test_missing_extra_and_odd_tensors_are_named(folder):
    changed(folder, b_enc=None)
    refused(folder, "it has no b_enc")
    changed(folder, b_enc=torch.zeros(96, dtype=torch.int32))
    refused(folder, r"no floating-point numbers: \{'b_enc': 'I32'\}")
    changed(folder, b_enc=torch.zeros(96), b_gate=torch.zeros(96))
    refused(folder, "b_gate, which no topk SAE has")
    changed(folder, b_gate=None, scaling_factor=torch.full((96,), 2.0))
    rewrite(folder, finetuning_scaling_factor=True)
    refused(folder, r"multiply W_dec by scaling_factor\[:, None\]")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    changed(folder, b_dec=torch.full((32,), value))
    refused(folder, "not all weights of the SAE are finite numbers: b_dec")


def test_a_link_out_of_the_folder_is_refused_and_the_hubs_cache_is_not(folder, tmp_path):
    for name in ("cfg.json", "sae_weights.safetensors"):
        elsewhere = tmp_path / name
        (folder / name).rename(elsewhere)
        (folder / name).symlink_to(elsewhere)
        refused(folder, f"{name} is a link that leads out of its folder")
        (folder / name).unlink()
        elsewhere.rename(folder / name)
    (folder / "here").mkdir()
    (folder / "cfg.json").rename(folder / "here" / "cfg.json")
    (folder / "cfg.json").symlink_to("here/cfg.json")
    assert saes.load_sae(folder).cfg.d_sae == 96
    hub = tmp_path / "models--someone--saes"
    (hub / "blobs").mkdir(parents=True)
    (hub / "snapshots" / "abc" / "sae").mkdir(parents=True)
    for name in ("cfg.json", "sae_weights.safetensors"):
        (hub / "blobs" / name).write_bytes((folder / name).read_bytes())
        (hub / "snapshots" / "abc" / "sae" / name).symlink_to(f"../../../blobs/{name}")
    assert saes.load_sae(hub / "snapshots" / "abc" / "sae").cfg.d_sae == 96


def test_a_pickle_is_never_opened(tmp_path):
    (tmp_path / "ae.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (tmp_path / "cfg.json").write_text("{}")
    for given in (tmp_path, tmp_path / "ae.pt"):
        refused(given, r"is a pickle, which can run any code.*weights_only=True.*sae_from_dictionary_learning")


def test_a_release_that_cannot_be_fetched_says_what_to_do(monkeypatch):
    import sae_lens
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", offline)
    with pytest.raises(OfflineError, match="use a bundled SAE"):
        saes.load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")


def test_the_list_holds_bundled_and_released_saes_and_is_searchable():
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    everything = saes.list_saes()
    released = sum(len(lookup.saes_map) for lookup in get_pretrained_saes_directory().values())
    assert len(everything) == released + len(saes.bundled())
    assert everything[0].bundled
    found = saes.list_saes("GPT2 res jb")
    assert 0 < len(found) < 50
    assert all("gpt2" in e.release for e in found)
    assert "<table>" in found._repr_html_()
    assert repr(found).startswith(f"{len(found)} SAEs for 'GPT2 res jb'")
    assert "&lt;img" in saes.list_saes("<img src=x>")._repr_html_()


def test_baselines_are_saes_that_pick_the_largest_axes(model):
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    neurons = saes.baseline_sae(model, HOOK, kind="neurons", k=5)
    saes.check_pair(model, neurons)
    features = neurons.encode(x)
    strongest = x.abs().topk(5, dim=1)
    dense = torch.zeros_like(x).scatter(1, strongest.indices, x.gather(1, strongest.indices))
    torch.testing.assert_close(features[:, :32] - features[:, 32:], dense)
    torch.testing.assert_close(neurons.decode(features), dense)
    random = saes.baseline_sae(model, HOOK, kind="random", n_features=40, k=5)
    torch.testing.assert_close(random.W_dec.norm(dim=1), torch.ones(40))
    for bad in ({"kind": "pca"}, {"kind": "neurons", "k": 0}, {"kind": "random", "n_features": 5, "k": 5}):
        with pytest.raises(SAEError):
            saes.baseline_sae(model, HOOK, **bad)


# --- the bundled one ---------------------------------------------------------------------------------------------


def test_the_bundled_sae_keeps_what_its_card_and_the_design_promise():
    from pathlib import Path

    sae, card = saes.load_sae(), saes.sae_card()
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.k) == (576, 4608, 46)
    assert card["l0"] <= 46
    assert card["active_fraction"] <= 0.01
    assert card["fvu"] <= 0.15
    assert card["loss_recovered_zero"] >= 0.95
    assert card["dead_share"] <= 0.05
    assert "heldout" in card["held_out"]
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(4608), atol=2e-3, rtol=0)
    size = sum(f.stat().st_size for f in Path(saes.ASSETS).rglob("*") if f.is_file())
    assert size <= 55_000_000


def test_an_sae_too_large_to_bundle_may_leave_its_card(tmp_path, monkeypatch):
    folder = tmp_path / "tiny/blocks.1.hook_resid_post.96/sae"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"fvu": 0.5, "training": {"command": "make this one"}}))
    monkeypatch.setattr("saekit.saes.catalogue.ASSETS", tmp_path)
    name = "tiny/blocks.1.hook_resid_post.96"
    assert saes.sae_card(name)["fvu"] == 0.5
    assert saes.bundled() == []
    with pytest.raises(SAEError, match=r"a card without weights.*To make it: make this one"):
        saes.load_sae(name)
    with pytest.raises(SAEError, match=r"no card for '\.\./x': there are cards for tiny/blocks"):
        saes.sae_card("../x")


@pytest.mark.parametrize("name", saes.bundled())
def test_every_bundled_sae_loads_with_its_index_and_a_card_that_names_its_command(name):
    from saekit.index import FeatureIndex

    sae, card = saes.load_sae(name), saes.sae_card(name)
    assert saes.sae_hook(sae) == name.split("/")[1].removesuffix(f".{sae.cfg.d_sae}")
    assert card["training"]["command"].startswith("python -m saekit.training ")
    assert f"{card['training']['tokens']:,}"[:2] == "5,", "on all of the corpus"
    assert card["l0"] <= 46
    assert card["dead_share"] <= 0.05
    assert card["n_tokens"] >= 50_000
    index = FeatureIndex.load(sae=sae)
    assert index.n_tokens == card["index_tokens"] >= 100_000
    assert index.dead.mean() == pytest.approx(card["dead_share_of_index_tokens"])


def test_the_bundled_index_is_small_opens_for_its_sae_and_covers_a_million_tokens():
    from saekit.index import FeatureIndex

    index = FeatureIndex.load(sae=saes.load_sae())
    assert sum(f.stat().st_size for f in index.path.iterdir()) <= 8_000_000
    assert index.n_tokens >= 1_000_000
    assert index.manifest["window"] >= 24
    assert index.manifest["examples"] >= 20
    assert set(index.manifest["sources"]) == {"wikitext", "wikipedia", "sentences"}, "openly licensed text only"


def test_a_loaded_sae_knows_its_card(folder):
    assert saes.card_of(saes.load_sae(folder)) == {"fvu": 0.5}
    assert saes.card_of(saes.load_sae())["l0"] == 46
    assert saes.card_of(tiny.topk_sae(32, 96)) == {}
    (folder / "card.json").write_text("[")
    refused(folder, r"card\.json cannot be read as JSON")
