"""The parts of the feature index on their own: bounded slots, statistics, events, and the folder it is written to."""

import errno

import numpy as np
import pytest
import torch

import saekit.index.build as build_module
import saekit.index.store as store
from saekit.data import Tokens
from saekit.errors import FeatureIndexError
from saekit.index import FeatureIndex
from saekit.index.collect import BINS, Collector, Events, Statistics, around
from saekit.index.events import Held, batch_events, sparse_form
from saekit.index.slots import EMPTY, Slots
from saekit.models import hidden_states, massive
from tests import tiny

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, 64)


@pytest.fixture(scope="module")
def tokens():
    return tiny.random_tokens(16, 20, 400)


def relu_sae(kind):
    """Return an SAE that lays its activations out as a dense matrix."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(model_name="tiny", hook_name=HOOK)
    if kind == "standard":
        sae = StandardSAE(StandardSAEConfig(d_in=32, d_sae=48, metadata=metadata))
    else:
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=32, d_sae=48, metadata=metadata))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(32, 48, generator=generator))
        sae.W_dec.copy_(sae.W_enc.T)
        sae.b_enc.fill_(-0.5)
        if kind == "jumprelu":
            sae.threshold.fill_(0.7)
    return sae.eval()


@pytest.mark.parametrize("kind", ["standard", "jumprelu"])
def test_an_sae_with_dense_output_is_indexed_exactly(model, tokens, kind):
    sae = relu_sae(kind)
    index = FeatureIndex.build(model, sae, tokens, progress=False)
    ids = torch.from_numpy(tokens.ids).long()
    with torch.no_grad():
        states = hidden_states(model, ids, HOOK)
        keep = (torch.from_numpy(tokens.document) >= 0) & (ids > 1) & ~massive(states.norm(dim=-1))
        values = torch.where(keep[..., None], sae.encode(states), 0).numpy()
    assert (values > 0).any()
    np.testing.assert_array_equal(index.count, (values > 0).sum((0, 1)))
    np.testing.assert_allclose(index.max, values.max((0, 1)), rtol=1e-5)
    for feature in np.flatnonzero(~index.dead)[:10]:
        best = index.top(int(feature), 1)[0]
        assert values[best.sequence_id, best.position, feature] == pytest.approx(index.max[feature], rel=1e-5)


def test_a_topk_sae_names_the_same_events_sparsely_and_is_left_as_it_was(model, sae, tokens):
    states = hidden_states(model, torch.from_numpy(tokens.ids).long(), HOOK)
    before = sae.activation_fn
    events = [batch_events(states, form, tokens, torch.tensor([0, 1]), 20) for form in (sae, sparse_form(sae))]
    assert sae.activation_fn is before
    assert not before.use_sparse_activations
    dense, sparse = (
        {(p, f): v for p, f, v in zip(np.repeat(e.place, e.length), e.feature, e.value, strict=True)} for e in events
    )
    assert dense == sparse
    assert events[0].excluded == events[1].excluded


def test_a_hook_on_the_activations_of_a_topk_sae_still_sees_a_dense_matrix(sae):
    handle = sae.hook_sae_acts_post.register_forward_hook(lambda *_: None)
    try:
        assert sparse_form(sae) is sae
    finally:
        handle.remove()


def test_slots_keep_the_lowest_keys_of_every_group_however_the_offers_come():
    generator = np.random.default_rng(0)
    n, groups, depth = 3000, 40, 5
    group, key = generator.integers(0, groups, n), generator.integers(0, 300, n).astype(np.uint64)  # many equal keys
    place = generator.permutation(n)
    value, window = place.astype(np.float32), np.repeat(place[:, None], 3, 1).astype(np.float16)
    rows = range(n)
    want = {g: sorted((int(key[r]), int(place[r])) for r in rows if group[r] == g)[:depth] for g in range(groups)}
    for parts in (1, 7, 300):
        slots = Slots(groups, depth, 3)
        for part in np.array_split(generator.permutation(n), parts):
            slots.offer(group[part], key[part], place[part], value[part], lambda c, part=part: window[part[c]])
        for g in range(groups):
            assert list(zip(slots.key[g].tolist(), slots.place[g].tolist(), strict=True)) == want[g]
        np.testing.assert_array_equal(slots.value, slots.place)
        np.testing.assert_array_equal(slots.around[..., 1], slots.place.astype(np.float16))
        np.testing.assert_array_equal(slots.bar, slots.key[:, -1])


def test_slots_that_are_folded_hold_what_wider_groups_would_have_held():
    generator = np.random.default_rng(1)
    n = 400
    feature, bins = generator.integers(0, 3, n), generator.integers(0, 16, n)
    key, place = generator.integers(0, 10**6, n).astype(np.uint64), np.arange(n)
    window = np.zeros((n, 2), np.float16)
    fine, wide = Slots(48, 3, 2), Slots(48, 3, 2)
    fine.offer(feature * 16 + bins, key, place, place.astype(np.float32), window.__getitem__)
    wide.offer(feature * 16 + bins // 4, key, place, place.astype(np.float32), window.__getitem__)
    fine.fold(np.arange(3), 2, 16)
    taken = wide.key < EMPTY
    np.testing.assert_array_equal(fine.key, wide.key)
    np.testing.assert_array_equal(fine.value[taken], wide.value[taken])
    np.testing.assert_array_equal(fine.bar, wide.bar)


def test_a_histogram_is_the_same_whenever_the_large_values_come():
    generator = np.random.default_rng(2)
    value = np.exp(generator.normal(0, 2, 2000)).astype(np.float32)
    value[:3] = 0.5, 1, 64  # upper edges of bins
    feature = np.sort(generator.integers(0, 3, 2000))
    ascending = np.lexsort((value, feature))
    found = []
    for order in (ascending, np.lexsort((-value, feature)), np.arange(2000)):
        for parts in (1, 20):
            statistics = Statistics(4)
            for part in np.array_split(order, parts):
                part = part[np.argsort(feature[part], kind="stable")]
                statistics.add(Events(feature[part], part, value[part]))
            found.append(statistics.histogram)
    for histogram in found[1:]:
        np.testing.assert_array_equal(histogram, found[0])
    for f in range(3):
        mine = value[feature == f].astype(np.float64)
        top = 2.0 ** np.ceil(np.log2(mine.max()))
        want = [((mine > top * b / BINS) & (mine <= top * (b + 1) / BINS)).sum() for b in range(BINS)]
        assert found[0][f].tolist() == want


def test_windows_stay_within_their_sequence_and_feature():
    feature = np.array([0, 0, 0, 0, 1, 1])
    place = np.array([8, 9, 10, 13, 9, 11])  # sequences of 10 tokens
    events = Events(feature, place, np.arange(1, 7, dtype=np.float32))
    got = around(events, np.arange(6), left=3, window=6, n_pos=10)
    want = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            offset = place[j] - place[i] + 3
            if feature[i] == feature[j] and place[i] // 10 == place[j] // 10 and 0 <= offset < 6:
                want[i, offset] = j + 1
    np.testing.assert_array_equal(got, want)


def test_bounded_examples_and_sample_do_not_grow_with_the_corpus():
    collector, statistics = Collector(2, examples=3, window=4, n_pos=10), Statistics(2)
    generator = np.random.default_rng(3)
    for chunk in range(20):
        place = np.arange(chunk * 1000, (chunk + 1) * 1000)
        events = Events(np.zeros(1000, np.int64), place, generator.uniform(0.01, 100, 1000).astype(np.float32))
        bins = statistics.add(events)
        collector.add(events, bins, statistics.range_exponent())
    assert len(collector.top) == 3
    assert len(collector.sampled) <= 16 * 4


def test_held_batches_come_out_as_they_went_in(model, sae, tokens):
    states = hidden_states(model, torch.from_numpy(tokens.ids).long(), HOOK)
    one = batch_events(states, sae, tokens, torch.tensor([0, 1]), 20)
    held = Held()
    for _ in range(2):
        for start in range(0, 16, 5):
            part = slice(start, start + 5)
            held.add(batch_events(states[part], sae, tokens[part], torch.tensor([0, 1]), 20))
        for got, want in zip(held.columns(), (one.place, one.length, one.feature, one.value), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)
        assert held.excluded == one.excluded
        assert held.sequences == 16
        held.clear()
        assert len(held) == 0


@pytest.mark.parametrize("write", ["build", "merge", "save", "compacted"])
def test_a_folder_that_is_no_index_is_never_replaced(model, sae, tokens, tmp_path, write):
    index = FeatureIndex.build(model, sae, tokens, progress=False, examples_per_feature=4)
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("one")
    with pytest.raises(FeatureIndexError, match="no feature index"):
        if write == "build":
            FeatureIndex.build(model, sae, tokens, path=precious, progress=False)
        elif write == "merge":
            FeatureIndex.merge([index], path=precious)
        else:
            getattr(index, write)(precious)
    assert (precious / "chapter.txt").read_text() == "one"


def test_the_same_build_again_opens_what_is_there(model, sae, tokens, tmp_path, monkeypatch):
    settings = {"path": tmp_path / "index", "progress": False, "examples_per_feature": 4}
    first = FeatureIndex.build(model, sae, tokens, **settings)

    def refused(*args):
        raise AssertionError("the model ran")

    with monkeypatch.context() as patched:
        patched.setattr(build_module, "hidden_states", refused)
        again = FeatureIndex.build(model, sae, tokens, **settings)
    np.testing.assert_array_equal(again.count, first.count)
    # Other documents on the same ids count other tokens: that is another index.
    fewer = Tokens(tokens.ids, np.where(np.arange(20) < 10, tokens.document, -1), tokens.sequence_ids)
    other = FeatureIndex.build(model, sae, fewer, **settings)
    assert other.n_tokens < first.n_tokens


@pytest.mark.parametrize("stage", ["events", "checkpoint", "result"])
def test_a_full_disk_says_so_leaves_no_half_index_and_loses_no_work(model, sae, tokens, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(build_module, "_CHUNK", 1)
    monkeypatch.setattr(build_module, "_CHECKPOINT_SECONDS", 0)
    reference = FeatureIndex.build(model, sae, tokens, progress=False)

    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        if stage == "events":
            patched.setattr(build_module._EventLog, "append", full_disk)
        elif stage == "checkpoint":
            patched.setattr(build_module, "write_folder", full_disk)
        else:
            real = store.write_array
            patched.setattr(store, "write_array", lambda f, n, a: full_disk() if n == "vocabulary" else real(f, n, a))
        with pytest.raises(OSError, match="No space left"):
            FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    assert not (tmp_path / "index").exists()
    index = FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    np.testing.assert_array_equal(index.count, reference.count)
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_an_interrupt_says_how_to_go_on(model, sae, tokens, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "hidden_states", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    assert any("call build again" in note and "index.partial" in note for note in caught.value.__notes__)


def test_a_damaged_checkpoint_is_dropped_and_the_one_before_is_used(model, sae, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "_CHUNK", 1)
    calls = []

    def stop(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return hidden_states(*args)

    with monkeypatch.context() as patched:
        patched.setattr(build_module, "hidden_states", stop)
        with pytest.raises(KeyboardInterrupt):
            FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    (state,) = (tmp_path / "index.partial").glob("state-*")
    damaged = state.with_name("state-999999999999")
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{")
    index = FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    reference = FeatureIndex.build(model, sae, tokens, progress=False)
    np.testing.assert_array_equal(index.count, reference.count)


def test_an_sae_with_negative_activations_is_refused_and_leaves_nothing(model, tokens, tmp_path):
    sae = relu_sae("standard")
    sae.activation_fn = torch.nn.Identity()
    with pytest.raises(FeatureIndexError, match="negative"):
        FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_short_intervals_of_a_bounded_index_are_filled_with_its_strongest_examples(model, sae, tokens):
    index = FeatureIndex.build(model, sae, tokens, progress=False, examples_per_feature=20)
    full = FeatureIndex.build(model, sae, tokens, progress=False)
    for feature in np.flatnonzero(~index.dead):
        strongest, want = index.intervals(int(feature))[0], full.intervals(int(feature))[0]
        assert len(strongest.examples) == len(want.examples)
        places = [(e.sequence_id, e.position) for e in strongest.examples]
        assert len(set(places)) == len(places)
