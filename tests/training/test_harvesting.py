"""Activations on disk and as a stream: the model's own, checksummed, resumable, in an order that the seed decides."""

import errno
import json
import shutil

import numpy as np
import pytest
import torch

from saekit._base.store import Format
from saekit.data import Tokens
from saekit.errors import DataError, ModelError, Stopped
from saekit.models import hidden_states, massive, shuffled_model
from saekit.training import Activations, harvest, harvest_many, stream_activations, train_sae
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
HOOKS = ["blocks.0.hook_resid_post", HOOK, "blocks.2.mlp.hook_pre"]


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


def stop_after(parts, interrupt=None):
    """Return a function that asks to stop, or raises, once it was asked before and after so many parts."""
    asked = []

    def stop():
        asked.append(1)
        if interrupt is not None and len(asked) > parts:
            raise interrupt
        return len(asked) > parts

    return stop


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, Stopped])
def test_an_interrupted_harvest_goes_on_where_it_was(model, tokens, activations, tmp_path, interrupt):
    with pytest.raises(interrupt):
        harvest(model, tokens, HOOK, tmp_path / "a", progress=False, stop=stop_after(4, interrupt))
    with pytest.warns(UserWarning, match="a is a part of a harvest, which was broken off: 32 of 60 sequences"):
        assert 0 < len(Activations.load(tmp_path / "a")) < len(activations)
    said = []
    again = harvest(model, tokens, HOOK, tmp_path / "a", progress=lambda *done: said.append(done))
    np.testing.assert_array_equal(again.rows, activations.rows)
    assert again.excluded == activations.excluded
    assert said == [(40, 60), (48, 60), (56, 60), (60, 60)]  # four parts of eight sequences were done
    with pytest.raises(DataError, match="of another hook_name"):
        harvest(model, tokens, "blocks.0.hook_resid_post", tmp_path / "a", progress=False)


def test_a_finished_harvest_is_not_run_again(model, tokens, activations):
    said = []
    again = harvest(model, tokens, HOOK, activations.path, progress=lambda *done: said.append(done))
    assert not said
    np.testing.assert_array_equal(again.rows, activations.rows)


def test_truncated_and_foreign_activations_are_refused(activations, tmp_path):
    shutil.copytree(activations.path, tmp_path / "a")
    data = (tmp_path / "a/rows.bin").read_bytes()
    (tmp_path / "a/rows.bin").write_bytes(data[:-10])
    with pytest.raises(DataError, match=rf"rows.bin has {len(data) - 10:,} bytes, expected {len(data):,}"):
        Activations.load(tmp_path / "a")
    with pytest.raises(DataError, match="is not a saekit harvest: it has no manifest"):
        Activations.load(tmp_path)


def test_activations_of_an_earlier_saekit_say_what_to_do(model, tokens, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "saekit activations 2", "rows": 0, "d_model": 32}))
    with pytest.raises(DataError, match=r"'saekit activations 2', expected a saekit harvest.*harvest again"):
        Activations.load(tmp_path)
    with pytest.raises(DataError, match="is there already and is not a saekit harvest: choose another path"):
        harvest(model, tokens, HOOK, tmp_path, progress=False)


def test_batches_visit_every_row_once_a_pass_and_depend_on_the_seed_alone(activations):
    size = len(activations) // 4
    once = torch.cat(list(activations.batches(size)))
    whole = np.sort(activations.rows.astype(np.float32).sum(1))
    assert np.isin(once.sum(1).numpy().round(2), whole.round(2)).all()
    assert len(once) == 4 * size
    torch.testing.assert_close(next(activations.batches(64, seed=3)), next(activations.batches(64, seed=3)))
    assert not torch.equal(next(activations.batches(64, seed=3)), next(activations.batches(64, seed=4)))
    two = list(activations.batches(size, epochs=2))
    assert len(two) == 8
    assert not torch.equal(two[0], two[4])
    with pytest.raises(DataError, match="fewer than one batch"):
        next(activations.batches(10**6))


def test_one_pass_gives_every_hook_point_what_a_pass_of_its_own_gives(model, tokens, activations, tmp_path):
    together = harvest_many(model, tokens, HOOKS, tmp_path, progress=False)
    assert list(together) == HOOKS
    for hook, found in together.items():
        alone = harvest(model, tokens, hook, tmp_path / "alone" / hook, progress=False)
        np.testing.assert_array_equal(found.rows, alone.rows)
        assert found.excluded == alone.excluded
        assert found.hook_name == hook
    assert together["blocks.2.mlp.hook_pre"].d_model == 64  # wider than the residual stream
    np.testing.assert_array_equal(together[HOOK].rows, activations.rows)


def test_a_part_of_a_harvest_says_so_wherever_it_is_used(model, tokens, tmp_path):
    with pytest.raises(Stopped):
        harvest(model, tokens, HOOK, tmp_path / "a", progress=False, stop=stop_after(4))
    told = r"part of a harvest, which was broken off: 32 of 60 sequences\. Call harvest again"
    with pytest.warns(UserWarning, match=told):
        part = Activations.load(tmp_path / "a")
    assert "32 of 60 sequences" in repr(part)
    with pytest.warns(UserWarning, match=told):
        train_sae(part, d_sae=40, k=4, batch_size=64, seed=0)
    whole = harvest(model, tokens, HOOK, tmp_path / "a", progress=False)
    assert whole.part == ""
    train_sae(whole, d_sae=40, k=4, batch_size=64, seed=0)


def test_an_unfinished_harvest_of_before_counts_its_sequences(model, tokens, tmp_path):
    identity = {"hook_name": HOOK, "d_model": 32, "model_name": "tiny", "tokens_fingerprint": tokens.fingerprint()}
    with Format("harvest", 1, DataError, remedy="").resume(tmp_path / "a", identity) as out:
        out.append("rows", np.zeros((7, 32), np.float16))
        out.checkpoint({"sequences": 3, "excluded": {}})
    with pytest.warns(UserWarning, match="which was broken off: 3 sequences"):
        assert len(Activations.load(tmp_path / "a")) == 7


def test_hook_points_at_different_places_after_an_interrupt_meet_again(model, tokens, activations, tmp_path):
    with pytest.raises(Stopped):  # one folder gets as far as 15 sequences, then all three are asked for
        harvest(model, tokens, HOOK, tmp_path / HOOK, batch_size=3, progress=False, stop=stop_after(5))
    assert json.loads((tmp_path / HOOK / "manifest.json").read_text())["sequences"] == 15
    together = harvest_many(model, tokens, HOOKS, tmp_path, batch_size=4, progress=False)
    np.testing.assert_array_equal(together[HOOK].rows, activations.rows)
    assert len(together[HOOKS[0]]) == len(activations)


def test_a_flipped_byte_is_found(activations, tmp_path):
    shutil.copytree(activations.path, tmp_path / "a")
    rows = tmp_path / "a/rows.bin"
    data = bytearray(rows.read_bytes())
    data[1000] ^= 1
    rows.write_bytes(data)
    with pytest.raises(DataError, match=r"rows\.bin was altered"):
        Activations.load(tmp_path / "a")
    assert len(Activations.load(tmp_path / "a", verify=False)) == len(activations)


def test_a_harvest_of_another_model_or_corpus_is_refused(model, tokens, activations, monkeypatch):
    with pytest.raises(DataError, match="another tokens rows 30 against 60; tokens content "):
        harvest(model, tokens[:30], HOOK, activations.path, progress=False)
    monkeypatch.setattr(model.cfg, "model_name", "other")
    with pytest.raises(DataError, match="of another model_name 'other' against 'tiny' "):
        harvest(model, tokens, HOOK, activations.path, progress=False)


def test_too_little_room_is_said_before_the_work_begins(model, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(DataError, match=r"needs another .* and its disk has 1 kB left: free some space"):
        harvest(model, tokens, HOOK, tmp_path, progress=False)


def test_a_disk_that_fills_up_keeps_what_was_safe(model, tokens, activations, tmp_path):
    def full(done, total):
        if done == 24:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"the disk is full: .* it keeps what was done up to the last checkpoint"):
        harvest(model, tokens, HOOK, tmp_path / "a", progress=full)
    with pytest.warns(UserWarning, match="is a part of a harvest"):
        assert 0 < len(Activations.load(tmp_path / "a")) < len(activations)
    np.testing.assert_array_equal(harvest(model, tokens, HOOK, tmp_path / "a", progress=False).rows, activations.rows)


def test_activations_that_are_not_numbers_are_refused(model, tokens, tmp_path):
    broken = shuffled_model(model, seed=0)
    with torch.no_grad():
        for weight in broken.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"activations at blocks\.1\.hook_resid_post are not finite"):
        harvest(broken, tokens, HOOK, tmp_path / "a", progress=False)
    with pytest.raises(ModelError, match=r"activations at blocks\.1\.hook_resid_post are not finite"):
        next(stream_activations(broken, tokens, HOOK).batches(8))


@pytest.mark.parametrize("hooks", [[], [HOOK, HOOK]])
def test_hook_points_are_named_once_each(model, tokens, tmp_path, hooks):
    with pytest.raises(DataError, match="name at least one hook point, and each once"):
        harvest_many(model, tokens, hooks, tmp_path)


def test_leaving_out_the_first_batches_leaves_the_others_as_they_are(activations):
    whole = list(activations.batches(128, epochs=3, seed=1))
    torch.testing.assert_close(list(activations.batches(128, epochs=3, seed=1, start=7)), whole[7:])


@pytest.mark.parametrize(
    ("size", "epochs", "message"),
    [
        (1, 1, "batch_size must be a whole number from 2 on, not 1"),
        (64, 0, "epochs must be a finite number above 0, not 0"),
        (1000, 0.5, "less than one batch"),
    ],
)
def test_batches_that_cannot_be_are_explained(activations, size, epochs, message):
    with pytest.raises(DataError, match=message):
        next(activations.batches(size, epochs=epochs))


# --- streams and tensors -----------------------------------------------------------------------------------------


def test_a_stream_gives_the_tokens_that_a_harvest_keeps(model, tokens, activations):
    stream = stream_activations(model, tokens, HOOK, buffer_tokens=300)
    assert len(stream) >= len(activations)
    assert (stream.d_model, stream.model_name, stream.hook_name) == (32, "tiny", HOOK)
    got = torch.cat(list(stream.batches(50, epochs=1))).sum(1).numpy()
    kept = activations.rows.astype(np.float32).sum(1)
    nearest = np.abs(got[:, None] - kept[None]).min(1)
    assert nearest.max() < 0.05
    # A buffer mixes: the first batch is not the first rows of the corpus.
    assert np.abs(np.sort(got[:50]) - np.sort(kept[:50])).max() > 0.1


def test_a_streams_order_depends_on_the_seed_alone_and_resumes(model, tokens):
    stream = stream_activations(model, tokens, HOOK, buffer_tokens=200)
    whole = list(stream.batches(40, epochs=2, seed=5))
    torch.testing.assert_close(list(stream.batches(40, epochs=2, seed=5, start=9)), whole[9:])
    assert not torch.equal(next(stream.batches(40, seed=6)), whole[0])


def test_a_stream_of_nothing_is_refused(model):
    empty = Tokens(np.zeros((2, 4), np.int32), np.full((2, 4), -1, np.int32), np.arange(2, dtype=np.int64), name="none")
    with pytest.raises(DataError, match="has no token that counts"):
        stream_activations(model, empty, HOOK)
    with pytest.raises(ModelError, match="no hook point"):
        stream_activations(model, empty, "blocks.9.hook_resid_post")
    with pytest.raises(DataError, match="buffer_tokens must be a whole number from 1 on, not 0"):
        stream_activations(model, empty, HOOK, buffer_tokens=0)


def test_rows_in_memory_say_where_they_are_from_if_they_are_told(activations):
    rows = Activations.from_rows(activations.rows, hook_name=HOOK, model_name="tiny")
    assert (len(rows), rows.d_model, rows.hook_name, rows.model_name) == (len(activations), 32, HOOK, "tiny")
    torch.testing.assert_close(next(rows.batches(64, seed=2)), next(activations.batches(64, seed=2)))
    altered = activations.rows.copy()
    altered[0, 0] += 1
    assert rows.identity() == Activations.from_rows(activations.rows).identity()
    assert rows.identity() != Activations.from_rows(altered).identity()


def test_a_tensor_with_numbers_that_are_not_finite_names_the_first_row():
    x = torch.zeros(5, 3)
    x[2, 1], x[4, 0] = float("inf"), float("nan")
    with pytest.raises(DataError, match="2 of 5 activations hold a number that is not finite, the first in row 2"):
        Activations.from_rows(x)
    with pytest.raises(DataError, match=r"must be \[sample, d_in\], not an array of shape \[5\]"):
        Activations.from_rows(torch.zeros(5))
