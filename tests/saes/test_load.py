"""SAEs: the right one, for the right model, or a clear error."""

import json
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
    assert saes.sae_fingerprint(loaded) == saes.sae_fingerprint(original), "half precision does not change the identity"
    assert saes.sae_fingerprint(loaded) != saes.sae_fingerprint(tiny.topk_sae(32, 96, seed=1))
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
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SAEError, match="cannot be read as an SAE"):
        saes.load_sae(str(folder))


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
