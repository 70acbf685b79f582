"""Harvesting and training: the sparse step against autograd, the weights against sae-lens."""

import numpy as np
import pytest
import torch

from saekit import training
from saekit._harvest import harvest
from saekit._harvest_store import load_activations
from saekit.errors import DataError, SAEError
from saekit.models import hidden_states, hidden_states_at, massive
from tests import tiny

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def tokens():
    return tiny.random_tokens(60, 24, 400)


@pytest.fixture(scope="module")
def activations(model, tokens, tmp_path_factory):
    return harvest(model, tokens, HOOK, tmp_path_factory.mktemp("acts"), progress=False)


def test_harvested_activations_are_the_models_own_without_the_left_out_tokens(model, tokens, activations):
    ids = torch.from_numpy(tokens.ids).long()
    states = torch.cat([hidden_states(model, part, HOOK) for part in ids.split(8)])
    keep = (torch.from_numpy(tokens.document) >= 0) & (ids > 1) & ~massive(states.norm(dim=-1))
    np.testing.assert_allclose(activations.rows, states[keep].numpy(), rtol=1e-3, atol=1e-3)
    assert activations.excluded["bos_or_padding"] == (tokens.document < 0).sum()
    assert sum(activations.excluded.values()) + len(activations) == tokens.ids.size


def test_an_interrupted_harvest_goes_on_where_it_was(model, tokens, activations, tmp_path, monkeypatch):
    import saekit._harvest as module

    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 5:  # the first asks for the width
            raise KeyboardInterrupt
        return hidden_states_at(*args)

    monkeypatch.setattr(module, "hidden_states_at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        harvest(model, tokens, HOOK, tmp_path / "a", progress=False)
    assert len(load_activations(tmp_path / "a")) > 0
    again = harvest(model, tokens, HOOK, tmp_path / "a", progress=False)
    np.testing.assert_array_equal(again.rows, activations.rows)
    assert again.excluded == activations.excluded
    assert len(calls) <= 5 + 9 - 3
    with pytest.raises(DataError, match="another hook_name"):
        harvest(model, tokens, "blocks.0.hook_resid_post", tmp_path / "a", progress=False)


def test_truncated_and_foreign_activations_are_refused(activations, tmp_path):
    import shutil

    shutil.copytree(activations.path, tmp_path / "a")
    data = (tmp_path / "a/activations.f16").read_bytes()
    (tmp_path / "a/activations.f16").write_bytes(data[:-10])
    with pytest.raises(DataError, match="truncated"):
        load_activations(tmp_path / "a")
    with pytest.raises(DataError, match="not a folder of activations"):
        load_activations(tmp_path)


def test_batches_visit_every_row_once_a_pass_and_depend_on_the_seed_alone(activations):
    size = len(activations) // 4
    once = torch.cat(list(activations.batches(size)))
    whole = np.sort(activations.rows.astype(np.float32).sum(1))
    assert np.isin(once.sum(1).numpy().round(2), whole.round(2)).all()
    assert len(once) == 4 * size
    torch.testing.assert_close(next(activations.batches(64, seed=3)), next(activations.batches(64, seed=3)))
    assert not torch.equal(next(activations.batches(64, seed=3)), next(activations.batches(64, seed=4)))
    two = list(activations.batches(size, passes=2))
    assert len(two) == 8
    assert not torch.equal(two[0], two[4])
    with pytest.raises(DataError, match="fewer than one batch"):
        next(activations.batches(10**6))


def test_training_lowers_the_error_and_returns_a_plain_sae_lens_sae(activations, model, tmp_path):
    from sae_lens import SAE

    from saekit.saes import check_pair, save_sae

    seen = []
    sae = training.train_sae(
        activations, d_sae=128, k=8, passes=40, batch_size=128, on_step=seen.append, report_every=1
    )
    x = torch.from_numpy(activations.rows.astype(np.float32))
    fvu = ((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item()
    assert fvu < 0.5 < seen[0].fvu
    assert seen[-1].step == seen[-1].steps == len(seen)
    assert ((sae.encode(x) > 0).sum(1) <= 8).all()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(128))
    check_pair(model, sae)
    save_sae(sae, tmp_path / "sae")
    plain = SAE.load_from_disk(str(tmp_path / "sae"), dtype="float32")
    torch.testing.assert_close(plain(x[:50]), sae(x[:50]), atol=0.1, rtol=0.05)


def test_the_same_seed_gives_the_same_sae_and_an_interrupt_returns_what_there_is(activations):
    one, two = (training.train_sae(activations, d_sae=64, k=4, batch_size=128) for _ in range(2))
    torch.testing.assert_close(one.W_dec, two.W_dec)

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    cut = training.train_sae(activations, d_sae=64, k=4, batch_size=128, passes=5, on_step=stop)
    assert torch.isfinite(cut.W_enc).all()


@pytest.mark.parametrize("k", [0, -1, 64, 100])
def test_an_impossible_k_is_named(activations, k):
    with pytest.raises(SAEError, match="k must be between 1 and d_sae - 1"):
        training.train_sae(activations, d_sae=64, k=k)


def test_the_documented_command_makes_an_sae_a_card_and_an_index(model_folder, tmp_path):
    import json

    from saekit.index import FeatureIndex
    from saekit.saes import load_sae

    lines = [json.dumps({"text": f"document {i}: {tiny.TEXT[i : i + 300]}"}) for i in range(300)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(lines))
    where = f"--model {model_folder} --hook {HOOK} --corpus {corpus} --index-corpus {corpus} --out {tmp_path / 'out'}"
    size = "--d-sae 64 --k 4 --passes 3 --index-tokens 3000 --held-out-tokens 500 --device cpu"
    training.main(f"{where} {size}".split())
    sae = load_sae(str(tmp_path / "out/sae"))
    card = json.loads((tmp_path / "out/sae/card.json").read_text())
    index = FeatureIndex.load(tmp_path / "out/index", sae=sae)
    assert index.n_tokens >= 3000
    assert index.bounded
    assert 0 < card["fvu"] < 1.5
    assert card["held_out"] == f"{corpus} (heldout)"
    assert "--d-sae 64" in card["training"]["command"]
    assert card["dead_share_of_index_tokens"] == index.dead.mean()
    assert index.top(int(index.count.argmax()), 3)
