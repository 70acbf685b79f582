"""The feature index against brute force over the dense activation matrix."""

import numpy as np
import pytest
import torch

from saekit.data import Tokens, tokens_from_texts
from saekit.errors import FeatureIndexError, Stopped
from saekit.index import FeatureIndex
from saekit.models import final_norm, hidden_states, massive, unembedding
from tests import tiny

D_SAE, ROWS, POS = 96, 40, 24
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, D_SAE)


@pytest.fixture(scope="module")
def tokens():
    return tiny.random_tokens(ROWS, POS, 400)


@pytest.fixture(scope="module")
def dense(model, sae, tokens):
    """Activations ``[row, pos, feature]`` in float32, and which tokens count: computed without the index."""
    ids = torch.from_numpy(tokens.ids).long()
    states = torch.cat([hidden_states(model, part, HOOK) for part in ids.split(8)])
    keep = (torch.from_numpy(tokens.document) >= 0) & (ids > 1) & ~massive(states.norm(dim=-1))
    return torch.where(keep[..., None], sae.encode(states), 0).numpy(), keep.numpy()


@pytest.fixture(scope="module")
def full(model, sae, tokens):
    return FeatureIndex.build(model, sae, tokens, progress=False, window=16)


@pytest.fixture(scope="module")
def bounded(model, sae, tokens):
    return FeatureIndex.build(model, sae, tokens, progress=False, window=16, examples_per_feature=5)


def live(index):
    return np.flatnonzero(~index.dead)


def brute_top(values, k):
    """Return (value, row, position) of the k best rows."""
    best = [(-float(row.max()), number, int(row.argmax())) for number, row in enumerate(values) if row.max() > 0]
    return [(-v, r, p) for v, r, p in sorted(best)[:k]]


def answers(index, features):
    """Return everything an index says of some features, as plain comparable data."""
    said = []
    for f in features:
        tops = [(e.value, e.sequence_id, e.position, e.duplicates, e.activations.tolist()) for e in index.top(f, 5)]
        steps = [
            (i.low, i.high, round(i.share, 9), [(e.value, e.sequence_id, e.position) for e in i.examples])
            for i in index.intervals(f, 3, 2)
        ]
        near = [[(n.feature, round(n.score, 6)) for n in index.neighbours(f, by)] for by in ("decoder", "coactivation")]
        said.append((tops, steps, near, index.histogram(f).counts.tolist()))
    return said


def test_density_maximum_and_mean_agree_with_the_dense_matrix(full, bounded, dense):
    values, keep = dense
    active = values > 0
    for index in (full, bounded):
        assert index.n_tokens == keep.sum()
        np.testing.assert_array_equal(index.count, active.sum((0, 1)))
        np.testing.assert_allclose(index.density, active.sum((0, 1)) / keep.sum())
        np.testing.assert_array_equal(index.max, values.max((0, 1)))
        np.testing.assert_allclose(
            index.mean_active, values.sum((0, 1), dtype=np.float64) / np.maximum(active.sum((0, 1)), 1), rtol=1e-6
        )
        np.testing.assert_array_equal(index.dead, ~active.any((0, 1)))
        assert index.l0 == pytest.approx(active.sum() / keep.sum())


def test_excluded_tokens_are_counted_by_reason(full, tokens, dense):
    ids, text = tokens.ids, tokens.document >= 0
    assert full.excluded["bos_or_padding"] == (~text).sum()
    assert full.excluded["special"] == (text & (ids <= 1)).sum()
    assert sum(full.excluded.values()) + full.n_tokens == ids.size


def test_massive_norm_tokens_are_left_out(model, sae, tokens):
    """Plant one token whose residual is a hundred times as long."""
    loud = model.embed.weight if hasattr(model.embed, "weight") else model.W_E
    token = int(tokens.ids[4, 7])
    before = loud[token].clone()
    try:
        loud[token] *= 300
        index = FeatureIndex.build(model, sae, tokens, progress=False)
    finally:
        loud[token] = before
    assert index.excluded["massive"] >= (tokens.ids == token).sum()


def test_top_examples_are_the_strongest_of_each_sequence(full, bounded, dense):
    values, _ = dense
    for index in (full, bounded):
        for feature in live(index):
            want = brute_top(values[:, :, feature], 5)
            got = [(e.value, e.sequence_id, e.position) for e in index.top(int(feature), 5, fold=False)]
            assert got == want


def test_window_activations_are_those_of_the_dense_matrix(full, bounded, dense, tokens):
    values, _ = dense
    for index in (full, bounded):
        for feature in live(index)[:20]:
            for example in index.top(int(feature), 5, fold=False):
                begin = example.position - example.peak
                window = values[example.sequence_id, begin : begin + len(example.tokens), feature]
                np.testing.assert_allclose(example.activations, window, rtol=1e-3)
                assert begin >= 1, "BOS is left out of windows"
                assert len(example.tokens) <= 16


def test_windows_at_the_edges_of_a_sequence_are_cut_not_shifted(full, dense):
    positions = set()
    for feature in live(full):
        for example in full.top(int(feature), ROWS, fold=False):
            positions.add(example.position)
            begin = example.position - example.peak
            assert begin == max(1, example.position - 10)
            assert begin + len(example.tokens) == min(POS, example.position + 6)
    assert {1, POS - 1} <= positions


def test_intervals_partition_the_range_and_hold_what_they_say(full, bounded, dense):
    values, _ = dense
    for feature in live(full)[:30]:
        column = values[:, :, feature]
        events = column[column > 0]
        edges = np.linspace(0, events.max(), 6)
        intervals = full.intervals(int(feature))
        assert [i.low for i in intervals] == pytest.approx(edges[:-1][::-1])
        for interval in intervals:
            inside = (events > interval.low) & (events <= interval.high * (1 + 1e-6))
            assert interval.share == pytest.approx(inside.mean(), abs=1e-6)
            assert len(interval.examples) == min(4, inside.sum())
            for e in interval.examples:
                assert column[e.sequence_id, e.position] == pytest.approx(e.value)
        for interval in bounded.intervals(int(feature)):
            for e in interval.examples:
                assert column[e.sequence_id, e.position] == pytest.approx(e.value)
                assert interval.low < e.value <= interval.high * (1 + 1e-6)


def splitmix(place):
    """The published splitmix64, in Python integers."""
    mask = 2**64 - 1
    z = (place + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 32


def test_interval_examples_are_the_lowest_hashes_of_their_interval(full, dense):
    values, _ = dense
    for feature in live(full)[:20]:
        column = values[:, :, feature]
        places = [(r, p) for r in range(ROWS) for p in range(POS) if column[r, p] > 0]
        for interval in full.intervals(int(feature), 4, 3):
            inside = [rp for rp in places if interval.low < column[rp] <= interval.high * (1 + 1e-6)]
            want = sorted(inside, key=lambda rp: splitmix(rp[0] * POS + rp[1]))[:3]
            assert [(e.sequence_id, e.position) for e in interval.examples] == want


def test_histogram_counts_every_event_once(full, bounded, dense):
    values, _ = dense
    for index in (full, bounded):
        for feature in live(index):
            events = values[:, :, feature][values[:, :, feature] > 0]
            h = index.histogram(int(feature))
            want = [((events > low) & (events <= high)).sum() for low, high in zip(h.edges, h.edges[1:], strict=False)]
            assert h.counts.tolist() == want
            assert h.counts.sum() == len(events)
            assert h.edges[-2] < events.max() <= h.edges[-1]


def test_decoder_neighbours_are_the_highest_cosines(full, sae):
    rows = sae.W_dec.double().numpy()
    cosine = rows @ rows.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1))
    for feature in (0, 17, D_SAE - 1):
        np.fill_diagonal(cosine, -2)
        want = np.argsort(-cosine[feature])[:5]
        got = full.neighbours(feature, k=5)
        assert [n.feature for n in got] == want.tolist()
        np.testing.assert_allclose([n.score for n in got], cosine[feature, want], atol=1e-6)


def test_coactivation_neighbours_are_the_highest_jaccard_overlaps(full, bounded, dense):
    active = dense[0].reshape(-1, D_SAE) > 0
    for index in (full, bounded):  # the bounded sample holds all tokens of so small a corpus
        for feature in live(index)[:20]:
            both = (active & active[:, [feature]]).sum(0)
            either = (active | active[:, [feature]]).sum(0)
            jaccard = both / np.maximum(either, 1)
            jaccard[feature] = 0
            got = index.neighbours(int(feature), by="coactivation", k=5)
            np.testing.assert_allclose([n.score for n in got], np.sort(jaccard)[::-1][:5], atol=1e-9)
            np.testing.assert_allclose([jaccard[n.feature] for n in got], [n.score for n in got])


def test_logits_agree_with_a_float64_product(full, model, sae):
    for feature in (0, 5):
        direction = final_norm(model, sae.W_dec[feature].double())
        logits = (direction @ unembedding(model).double()).numpy()
        logits -= logits.mean()
        got = full.logits(feature, 5)
        assert [t for t, _, _ in got.promoted] == np.argsort(-logits)[:5].tolist()
        assert [t for t, _, _ in got.suppressed] == np.argsort(logits)[:5].tolist()
        np.testing.assert_allclose([v for _, _, v in got.promoted], np.sort(logits)[::-1][:5], rtol=1e-4)


def test_shards_merged_in_any_order_equal_one_build(model, sae, tokens, full, bounded):
    cuts = [(0, 9), (9, 10), (10, 31), (31, ROWS)]
    for kept, one in ((None, full), (5, bounded)):
        parts = [
            FeatureIndex.build(model, sae, tokens[a:b], progress=False, window=16, examples_per_feature=kept)
            for a, b in cuts
        ]
        for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
            merged = FeatureIndex.merge([parts[i] for i in order])
            assert merged.n_tokens == one.n_tokens
            assert merged.excluded == one.excluded
            assert merged.manifest["tokens_hash"] == one.manifest["tokens_hash"]
            np.testing.assert_array_equal(merged.count, one.count)
            np.testing.assert_allclose(merged.mean_active, one.mean_active, rtol=1e-9)
            assert answers(merged, live(one)[:25].tolist()) == answers(one, live(one)[:25].tolist())


def test_interleaved_shards_merge_too(model, sae, tokens, full):
    parts = []
    for shard in range(3):
        rows = np.arange(shard, ROWS, 3)
        part = Tokens(tokens.ids[rows], tokens.document[rows], tokens.sequence_ids[rows])
        parts.append(FeatureIndex.build(model, sae, part, progress=False, window=16))
    merged = FeatureIndex.merge(parts)
    assert answers(merged, live(full)[:10].tolist()) == answers(full, live(full)[:10].tolist())


def test_rows_in_another_order_give_the_same_index(model, sae, tokens, full):
    order = np.random.default_rng(1).permutation(ROWS)
    mixed = Tokens(tokens.ids[order], tokens.document[order], tokens.sequence_ids[order])
    index = FeatureIndex.build(model, sae, mixed, progress=False, window=16)
    assert answers(index, live(full)[:10].tolist()) == answers(full, live(full)[:10].tolist())


def test_overlapping_or_unlike_indexes_are_not_merged(model, sae, tokens, full, bounded):
    with pytest.raises(FeatureIndexError, match="counted twice"):
        FeatureIndex.merge([full, full])
    with pytest.raises(FeatureIndexError, match="differ in kind"):
        FeatureIndex.merge([full, bounded])
    with pytest.raises(FeatureIndexError, match="nothing to merge"):
        FeatureIndex.merge([])


@pytest.mark.parametrize("kept", [None, 5])
@pytest.mark.parametrize("chunk", [1, 500])
def test_an_interrupted_build_resumes_to_the_same_index(
    model, sae, tokens, full, bounded, tmp_path, monkeypatch, kept, chunk
):
    import saekit.index.build as build

    monkeypatch.setattr(build, "_CHUNK", chunk)
    real, calls = build.hidden_states, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(build, "hidden_states", interrupted)
    settings = {"path": tmp_path / "index", "progress": False, "window": 16, "examples_per_feature": kept}
    with pytest.raises(KeyboardInterrupt):
        FeatureIndex.build(model, sae, tokens, **settings)
    assert not (tmp_path / "index").exists()
    with pytest.raises(FeatureIndexError, match="unfinished build"):
        FeatureIndex.load(tmp_path / "index")
    done = len(calls)
    index = FeatureIndex.build(model, sae, tokens, **settings)
    assert len(calls) - done < ROWS // 8, "the batches before the interrupt were not run again"
    one = full if kept is None else bounded
    assert answers(index, live(one)[:25].tolist()) == answers(one, live(one)[:25].tolist())
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["index"]  # a hidden file is a lock


def test_an_unfinished_build_of_something_else_is_not_taken_up(model, sae, tokens, tmp_path, monkeypatch):
    import saekit.index.build as build

    monkeypatch.setattr(build, "_CHUNK", 1)
    asked = iter(range(100))
    with pytest.raises(Stopped):
        FeatureIndex.build(model, sae, tokens, path=tmp_path / "index", progress=False, stop=lambda: next(asked) == 3)
    with pytest.raises(FeatureIndexError, match="another tokens_hash"):
        FeatureIndex.build(model, sae, tokens[:20], path=tmp_path / "index", progress=False)


def test_a_saved_index_opens_and_answers_as_before(full, bounded, tmp_path, sae):
    for index in (full, bounded):
        again = index.save(tmp_path / str(index.bounded))
        loaded = FeatureIndex.load(tmp_path / str(index.bounded), sae=sae)
        for other in (again, loaded):
            assert answers(other, live(index)[:10].tolist()) == answers(index, live(index)[:10].tolist())


def test_a_compacted_index_shows_the_same_intervals_and_examples(bounded, tmp_path):
    small = bounded.compacted(tmp_path / "small", intervals=3, per=2)
    small_size, size = (sum(f.stat().st_size for f in index.path.iterdir()) for index in (small, bounded))
    assert small_size < size
    for mine, theirs in zip(answers(small, range(40)), answers(bounded, range(40)), strict=True):
        assert mine[0] == theirs[0]
        assert mine[1] == theirs[1]
        assert mine[3] == theirs[3]
        for ours, whole in zip(mine[2], theirs[2], strict=True):
            np.testing.assert_allclose([s for _, s in ours], [s for _, s in whole], rtol=1e-3)
    with pytest.raises(FeatureIndexError, match="compacted"):
        FeatureIndex.merge([small])


def test_truncated_foreign_altered_and_wrong_indexes_are_refused(full, tmp_path, sae):
    with pytest.raises(FeatureIndexError, match="no manifest"):
        FeatureIndex.load(tmp_path)
    full.save(tmp_path / "i")
    other = tiny.topk_sae(32, D_SAE, seed=9)
    with pytest.raises(FeatureIndexError, match="another SAE"):
        FeatureIndex.load(tmp_path / "i", sae=other)
    manifest = (tmp_path / "i/manifest.json").read_text()
    (tmp_path / "i/manifest.json").write_text(manifest.replace("feature index 1", "feature index 99"))
    with pytest.raises(FeatureIndexError, match=r"of version 99, and this saekit reads version 1: .*build it again"):
        FeatureIndex.load(tmp_path / "i")
    (tmp_path / "i/manifest.json").write_text(manifest[:100])
    with pytest.raises(FeatureIndexError, match="damaged or foreign"):
        FeatureIndex.load(tmp_path / "i")
    (tmp_path / "i/manifest.json").write_text(manifest)
    data = (tmp_path / "i/max.bin").read_bytes()
    (tmp_path / "i/max.bin").write_bytes(data[:-4])
    with pytest.raises(FeatureIndexError, match=r"max\.bin has .* bytes, expected"):
        FeatureIndex.load(tmp_path / "i")
    (tmp_path / "i/max.bin").write_bytes(b"\0" * len(data))
    with pytest.raises(FeatureIndexError, match="altered"):
        FeatureIndex.load(tmp_path / "i")


def test_a_dead_feature_says_so_and_shows_no_examples(full):
    examples = full.top(D_SAE - 1)
    assert full.dead[D_SAE - 1]
    assert len(examples) == 0
    assert "is dead: active on none of" in repr(examples)
    assert "is dead" in examples._repr_html_()
    assert full.intervals(D_SAE - 1) == []
    assert full.histogram(D_SAE - 1).counts.sum() == 0
    assert full.neighbours(D_SAE - 1, by="coactivation") == []


@pytest.mark.parametrize("feature", [-1, D_SAE, 1.5, "3", True])
def test_a_feature_that_does_not_exist_is_named(full, feature):
    with pytest.raises(FeatureIndexError, match=r"feature must be 0 to 95|whole number"):
        full.top(feature)


def test_search_by_token_ranks_by_share_of_activation(full, dense, tokens, model):
    values, _ = dense
    wanted = model.tokenizer.decode([int(tokens.ids[5, 5])]).strip().casefold()
    scores = {}
    for feature in range(D_SAE):
        best = brute_top(values[:, :, feature], 20)
        fits = [v for v, r, p in best if model.tokenizer.decode([int(tokens.ids[r, p])]).strip().casefold() == wanted]
        if fits:
            scores[feature] = sum(fits) / sum(v for v, _, _ in best)
    hits = full.search(token=f" {wanted.upper()} ")
    assert {h.feature: h.score for h in hits} == pytest.approx(dict(sorted(scores.items(), key=lambda s: -s[1])[:50]))
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_search_by_text_finds_the_features_whose_contexts_contain_it(model, sae):
    texts = [f"{tiny.TEXT[i : i + 60]} unusual zebra words" if i % 3 == 0 else tiny.TEXT[i : i + 80] for i in range(30)]
    index = FeatureIndex.build(model, sae, tokens_from_texts(texts, model=model, context_size=48), progress=False)
    hits = index.search(text="UNUSUAL zebra")
    assert hits
    assert all("unusual zebra" in "".join(h.example.tokens) for h in hits)
    with pytest.raises(FeatureIndexError, match="either token= or text="):
        index.search()
    assert index.search(text="never written anywhere") == []


def test_a_prompt_gives_the_same_activations_as_the_sae(full, model, sae):
    text = "The cat sat on the 戦場 😀"
    found = full.activations(model, sae, text, 3)
    strongest = full.by_prompt(model, sae, text, k=4)
    from saekit.models import encode_text

    ids = encode_text(model, text)
    want = sae.encode(hidden_states(model, ids[None], HOOK))[0].numpy()
    np.testing.assert_allclose(found.values, want[:, 3])
    assert "".join(found.tokens) == "<s>" + text
    assert found.excluded[0]
    assert not found.excluded[1:].any()
    for pos in range(len(ids)):
        np.testing.assert_allclose(strongest.values[pos], np.sort(want[pos])[::-1][:4], rtol=1e-6)
        np.testing.assert_allclose(want[pos][strongest.features[pos]], strongest.values[pos])


def test_an_empty_corpus_and_bad_settings_are_refused(model, sae, tokens):
    empty = Tokens(np.zeros((0, 4), np.int32), np.zeros((0, 4), np.int32), np.zeros(0, np.int64))
    with pytest.raises(FeatureIndexError, match="no tokens"):
        FeatureIndex.build(model, sae, empty)
    with pytest.raises(FeatureIndexError, match="examples_per_feature must be a whole number from 1 on"):
        FeatureIndex.build(model, sae, tokens, examples_per_feature=0)
    with pytest.raises(FeatureIndexError, match="window"):
        FeatureIndex.build(model, sae, tokens, window=0)
    twice = Tokens(tokens.ids, tokens.document, np.zeros(ROWS, np.int64))
    with pytest.raises(FeatureIndexError, match="same sequence id"):
        FeatureIndex.build(model, sae, twice)


def test_sequences_shorter_than_the_window_are_shown_whole(model, sae):
    tokens = tiny.random_tokens(12, 5, 400)
    index = FeatureIndex.build(model, sae, tokens, progress=False, window=32, examples_per_feature=4)
    for feature in live(index)[:10]:
        for example in index.top(int(feature)):
            assert len(example.tokens) == 4
