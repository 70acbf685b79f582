"""Building a feature index: what is counted, and what happens to a build that is stopped, killed or out of disk."""

import errno
import json
import tempfile

import numpy as np
import pytest
import torch

import saekit.index.build as build_module
from saekit._base import writer
from saekit.data import Tokens
from saekit.errors import FeatureIndexError, Stopped
from saekit.index import FeatureIndex, batch_events
from saekit.models import hidden_states, massive
from saekit.saes import sparse_form
from tests import tiny

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, 64)


@pytest.fixture(scope="module")
def tokens():
    return tiny.random_tokens(16, 20, 400)


def seen(folder):
    """Return what a user sees in a folder: hidden files are locks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def answers(index):
    """Return what an index says of its features, as plain comparable data."""
    said = []
    for feature in np.flatnonzero(~index.dead).tolist():
        top = [(e.value, e.sequence_id, e.position, e.activations.tolist()) for e in index.top(feature, 30, fold=False)]
        steps = [(i.low, i.share, [(e.sequence_id, e.position) for e in i.examples]) for i in index.intervals(feature)]
        near = [(n.feature, n.score) for n in index.neighbours(feature, by="coactivation")]
        said.append((top, steps, near, index.histogram(feature).counts.tolist()))
    return said


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


@pytest.mark.parametrize("kept", [None, 4])
def test_however_events_come_equal_ones_stand_in_the_order_of_the_corpus(model, sae, kept, monkeypatch):
    """Every text stands in the corpus several times, so that whole sequences of activations are equal."""
    once = tiny.random_tokens(6, 20, 400)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(6), 5))
    tokens = Tokens(once.ids[order], once.document[order], np.arange(30))
    indexes = []
    for chunk in (1, 700, 10**6):
        monkeypatch.setattr(build_module, "_CHUNK", chunk)
        built = FeatureIndex.build(model, sae, tokens, examples_per_feature=kept, batch_size=1, progress=False)
        indexes.append(built)
    ids = torch.from_numpy(tokens.ids).long()
    keep = (torch.from_numpy(tokens.document) >= 0) & (ids > 1)
    states = torch.cat([hidden_states(model, row[None], HOOK) for row in ids])  # as they were built: one by one
    values = torch.where(keep[..., None], sae.encode(states), 0).numpy()
    for index in indexes:
        assert answers(index) == answers(indexes[0])
        for feature in np.flatnonzero(~index.dead)[:20].tolist():
            best = [(-row.max(), number, row.argmax()) for number, row in enumerate(values[..., feature])]
            want = [(number, position) for value, number, position in sorted(best) if value < 0]
            got = [(e.sequence_id, e.position) for e in index.top(feature, 30, fold=False)]
            assert got == want[: kept or 30]


def test_large_values_may_come_first_or_last(model, sae, tokens, monkeypatch):
    """The range of a feature's histogram and sample doubles with its maximum: how it grew makes no difference."""
    states = hidden_states(model, torch.from_numpy(tokens.ids).long(), HOOK)
    loudest = sae.encode(states).amax((1, 2)).numpy()
    histograms = []
    for order in (np.argsort(loudest), np.argsort(-loudest)):
        rows = Tokens(tokens.ids[order], tokens.document[order], np.arange(16))
        settings = {"examples_per_feature": 3, "batch_size": 1, "progress": False}
        monkeypatch.setattr(build_module, "_CHUNK", 1)
        grown = FeatureIndex.build(model, sae, rows, **settings)
        monkeypatch.setattr(build_module, "_CHUNK", 10**6)
        at_once = FeatureIndex.build(model, sae, rows, **settings)
        assert answers(grown) == answers(at_once)
        histograms.append([grown.histogram(feature).counts.tolist() for feature in range(grown.d_sae)])
    assert histograms[0] == histograms[1]


def test_what_a_bounded_index_keeps_does_not_grow_with_the_corpus(model, sae):
    few, many = (
        FeatureIndex.build(
            model, sae, tiny.random_tokens(rows, 20, 400), examples_per_feature=2, window=8, progress=False
        )
        for rows in (60, 240)
    )

    def kept(index):
        return [index.path.joinpath(f"{name}.bin").stat().st_size for name in ("top_value", "sampled_value")]

    assert kept(few)[0] == kept(many)[0]
    assert kept(many)[1] <= 64 * 16 * 4 * 4  # 4 candidates in each of 16 bins
    assert few.compacted().path.is_dir()


@pytest.mark.parametrize("write", ["build", "merge", "save", "compacted"])
def test_a_folder_that_is_no_index_is_never_replaced(model, sae, tokens, tmp_path, write):
    index = FeatureIndex.build(model, sae, tokens, progress=False, examples_per_feature=4)
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("one")
    with pytest.raises(FeatureIndexError, match="not a saekit feature index"):
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
        # A kill between the last array and the folder's name leaves a finished folder under the other name.
        (tmp_path / "index").rename(tmp_path / "index.partial")
        again = FeatureIndex.build(model, sae, tokens, **settings)
        assert seen(tmp_path) == ["index"]
    np.testing.assert_array_equal(again.count, first.count)
    # Other documents on the same ids count other tokens: that is another index.
    fewer = Tokens(tokens.ids, np.where(np.arange(20) < 10, tokens.document, -1), tokens.sequence_ids)
    other = FeatureIndex.build(model, sae, fewer, **settings)
    assert other.n_tokens < first.n_tokens


@pytest.mark.parametrize("kept", [None, 4])
def test_a_build_that_is_stopped_again_and_again_ends_at_the_same_index(
    model, sae, tokens, tmp_path, monkeypatch, kept
):
    settings = {"examples_per_feature": kept, "batch_size": 1, "progress": False}
    reference = FeatureIndex.build(model, sae, tokens, **settings)
    monkeypatch.setattr(build_module, "_CHUNK", 1)
    monkeypatch.setattr(writer, "_CHECKPOINT_SECONDS", 0)
    batches, attempts = [], 0
    while not (tmp_path / "index").exists():
        attempts += 1
        try:
            FeatureIndex.build(
                model, sae, tokens, path=tmp_path / "index", stop=lambda most=2 * attempts: len(batches) >= most,
                **settings | {"progress": lambda *done: batches.append(done)},
            )  # fmt: skip
        except Stopped as stopped:
            assert any("call build again" in note for note in stopped.__notes__)
    assert attempts >= 8
    assert batches == [(done, 16) for done in range(1, 17)], "no batch ran twice"
    assert answers(FeatureIndex.load(tmp_path / "index")) == answers(reference)


@pytest.mark.parametrize("stage", ["append", "checkpoint", "finish"])
def test_a_full_disk_says_so_leaves_no_half_index_and_loses_no_work(model, sae, tokens, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(build_module, "_CHUNK", 1)
    monkeypatch.setattr(writer, "_CHECKPOINT_SECONDS", 0)
    reference = FeatureIndex.build(model, sae, tokens, progress=False)
    real, calls = getattr(writer.Writer, stage), []

    def full_disk(*args, **kwargs):
        calls.append(1)
        if len(calls) > (stage == "checkpoint"):  # the first one says whose folder it is
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(writer.Writer, stage, full_disk)
        with pytest.raises(FeatureIndexError, match=r"the disk is full: .*index.partial needs .*call again"):
            FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    assert not (tmp_path / "index").exists()
    index = FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    assert answers(index) == answers(reference)
    assert seen(tmp_path) == ["index"]


def test_an_interrupt_says_how_to_go_on(model, sae, tokens, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "hidden_states", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    assert any("call build again" in note and "index.partial" in note for note in caught.value.__notes__)


def test_a_damaged_checkpoint_is_refused_with_what_to_do(model, sae, tokens, tmp_path, monkeypatch):
    path = tmp_path / "index"
    monkeypatch.setattr(build_module, "_CHUNK", 1)
    asked = iter(range(100))
    with pytest.raises(Stopped):
        FeatureIndex.build(model, sae, tokens, path=path, progress=False, stop=lambda: next(asked) == 1)
    values = tmp_path / "index.partial/token_value.bin"
    values.write_bytes(b"\0" * values.stat().st_size)
    with pytest.raises(FeatureIndexError, match=r"index.partial is damaged.*delete it and build it again"):
        FeatureIndex.build(model, sae, tokens, path=path, progress=False)
    assert not path.exists()


def test_an_unfinished_build_of_an_earlier_saekit_is_refused_with_what_to_do(model, sae, tokens, tmp_path):
    (tmp_path / "index.partial/state-000000000008").mkdir(parents=True)
    with pytest.raises(FeatureIndexError, match=r"index.partial is there already .*choose another path, or move it"):
        FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)


def test_an_sae_with_negative_activations_is_refused_and_leaves_nothing(model, tokens, tmp_path):
    sae = relu_sae("standard")
    sae.activation_fn = torch.nn.Identity()
    with pytest.raises(FeatureIndexError, match="negative"):
        FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    assert seen(tmp_path) == []


def test_short_intervals_of_a_bounded_index_are_filled_with_its_strongest_examples(model, sae, tokens):
    index = FeatureIndex.build(model, sae, tokens, progress=False, examples_per_feature=20)
    full = FeatureIndex.build(model, sae, tokens, progress=False)
    for feature in np.flatnonzero(~index.dead):
        strongest, want = index.intervals(int(feature))[0], full.intervals(int(feature))[0]
        assert len(strongest.examples) == len(want.examples)
        places = [(e.sequence_id, e.position) for e in strongest.examples]
        assert len(set(places)) == len(places)


def test_a_temporary_index_that_is_stopped_leaves_nothing_and_promises_nothing(
    model, sae, tokens, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Stopped) as caught:
        FeatureIndex.build(model, sae, tokens, progress=False, stop=lambda: True)
    assert list(tmp_path.iterdir()) == []
    assert not hasattr(caught.value, "__notes__")


def test_an_index_that_is_not_there_yet_says_how_much_of_it_is(model, sae, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "_CHUNK", 1)
    monkeypatch.setattr(writer, "_CHECKPOINT_SECONDS", 0)
    asked = iter(range(100))
    with pytest.raises(Stopped):
        FeatureIndex.build(
            model, sae, tokens, path=tmp_path / "index", batch_size=4, progress=False, stop=lambda: next(asked) == 2
        )
    with pytest.raises(FeatureIndexError, match=r"index.partial beside it is an unfinished build of 8 of 16 sequences"):
        FeatureIndex.load(tmp_path / "index")
    with pytest.raises(FeatureIndexError, match="is an unfinished feature index, 8 of 16 sequences: call what writes"):
        FeatureIndex.load(tmp_path / "index.partial")


@pytest.mark.parametrize("change", [{"d_sae": 65}, {"d_sae": "64"}, {"counted": -1}, {"excluded": 3}, {"kind": None}])
def test_a_manifest_of_before_that_was_edited_by_hand_is_refused(model, sae, tokens, tmp_path, change):
    FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False)
    file = tmp_path / "index/manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | change))
    with pytest.raises(FeatureIndexError, match="its manifest was altered"):
        FeatureIndex.load(tmp_path / "index")
    old = {name: value for name, value in manifest.items() if name not in ("checksum", "finished")}
    file.write_text(json.dumps(old | change))
    with pytest.raises(FeatureIndexError, match="is damaged or foreign: its"):
        FeatureIndex.load(tmp_path / "index")
