"""Features of texts: extracted once, of the tokens that count, pooled in every way; against brute force."""

import copy
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import gmean

from saekit.data.labelled import labelled_texts
from saekit.errors import ModelError, ProbeError, SAEError
from saekit.models import encode_text, hidden_states, massive
from saekit.probes import (
    Column,
    TopN,
    as_extracted,
    encode_texts,
    extract_features,
    hook_alignment,
    pool,
    probe,
    subset,
    text_order,
    warn_if_misaligned,
)
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
WORDS = "The cat sat on the mat . A dog and owner watched Good morning film was shown in Paris".split()


def made_up_texts(number: int, *, seed: int = 0, longest: int = 30) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, longest))) for _ in range(number)]


@pytest.fixture(scope="module")
def texts():
    return [*made_up_texts(24), "", "戦場 😀"]


@pytest.fixture(scope="module")
def features(model, texts):
    data = labelled_texts(texts, [i % 2 for i in range(len(texts))])
    return extract_features(model, tiny.topk_sae(32, 96), data, context_size=40, keep_states=True, progress=False)


def by_hand(model, sae, text: str, context_size: int = 40):
    """Return features, states and positions of the tokens that count, one text alone."""
    if not text:
        return torch.zeros(0, sae.cfg.d_sae), torch.zeros(0, 32), []
    ids = encode_text(model, text)[:context_size]
    states = hidden_states(model, ids[None], sae.cfg.metadata.hook_name)[0]
    keep = ~massive(states.norm(dim=-1)[None])[0]
    keep[0] = False
    return sae.encode(states[keep]), states[keep], (keep.nonzero().squeeze(1) - 1).tolist()


def test_every_token_of_every_text_is_there_and_no_bos(model, features, texts):
    sae = tiny.topk_sae(32, 96)
    read = features.sae()
    assert sorted(features.index.tolist()) == list(range(len(texts)))
    for row, number in enumerate(features.index):
        want, states, positions = by_hand(model, sae, texts[number])
        assert features.data.texts[row] == texts[number]
        span = slice(read.hook.starts[row], read.hook.starts[row + 1])
        np.testing.assert_allclose(read.events[span].toarray(), want.numpy(), atol=1e-4)
        np.testing.assert_allclose(read.hook.states[span], states.numpy(), rtol=2e-3, atol=2e-3)
        assert read.hook.position[span].tolist() == positions
        ids = features.ids[features.id_starts[row] : features.id_starts[row + 1]]
        assert ids.tolist() == (encode_text(model, texts[number])[1:40].tolist() if texts[number] else [])
        if len(states):
            np.testing.assert_allclose(read.hook.last[row], states[-1], atol=1e-4)
            np.testing.assert_allclose(read.hook.mean[row], states.mean(0), atol=1e-4)
        else:
            assert not read.hook.last[row].any() and not read.hook.mean[row].any()
    assert features.empty == 1


def test_padding_and_company_change_nothing(model, texts):
    """Fault 5: pads were pooled, BOS kept, the last token dropped. One batch size must give what another gives."""
    sae = tiny.topk_sae(32, 96)
    data = labelled_texts(texts, [0] * len(texts))
    together, alone = (extract_features(model, sae, data, batch_size=size, progress=False) for size in (64, 1))
    for how in ("max", "mean", "sum", "last", TopN(5)):
        np.testing.assert_allclose(
            pool(together.sae(), how).toarray(), pool(alone.sae(), how).toarray(), rtol=1e-3, atol=1e-3
        )


def test_the_order_of_the_texts_does_not_matter(model, texts):
    """Fault 6: samples were kept in the order in which threads finished."""
    sae = tiny.topk_sae(32, 96)
    data = labelled_texts(texts, [i % 3 for i in range(len(texts))])
    order = np.random.default_rng(0).permutation(len(texts))
    one, other = (
        extract_features(model, sae, data, progress=False),
        extract_features(model, sae, data[order], progress=False),
    )
    assert one.data.texts == other.data.texts
    assert one.data.labels.tolist() == other.data.labels.tolist()
    assert (one.sae().events != other.sae().events).nnz == 0
    assert [data.texts[i] for i in one.index] == [data[order].texts[i] for i in other.index]


def test_long_texts_are_cut_and_the_result_says_so(model):
    long, short = "The cat sat on the mat. " * 50, "A dog."
    features = extract_features(model, tiny.topk_sae(32, 96), [long, short], context_size=20, progress=False)
    assert features.truncated == 1
    assert "1 texts cut at 20 tokens" in repr(features)
    assert np.diff(features.id_starts).max() == 19
    assert features.data.labels.tolist() == [-1, -1]


def test_controls_are_as_sparse_and_as_wide(model, texts):
    sae = tiny.topk_sae(32, 96, seed=5)
    features = extract_features(model, {"mine": sae}, texts, controls=("random", "permuted"), progress=False)
    assert list(features.saes) == ["mine", "mine (random)", "mine (permuted)"]
    own = features.saes["mine"].events
    for kind in ("random", "permuted"):
        read = features.saes[f"mine ({kind})"]
        assert (read.control, read.of) == (kind, "mine")
        assert read.events.shape == own.shape
        assert read.events.nnz == pytest.approx(own.nnz, rel=0.1)
        assert (read.events != own).nnz > own.nnz / 2
    with pytest.raises(ProbeError, match="no control 'shuffled'"):
        extract_features(model, sae, texts, controls=("shuffled",), progress=False)


def test_controls_are_made_of_those_saes_that_are_named(model, texts):
    saes = {"one": tiny.topk_sae(32, 96, seed=5), "two": tiny.topk_sae(32, 64, seed=6)}
    every = extract_features(model, saes, texts, controls=("random",), progress=False)
    some = extract_features(model, saes, texts, controls=("random",), controls_of=["two"], progress=False)
    assert list(some.saes) == ["one", "two", "two (random)"]
    assert (some.saes["two (random)"].events != every.saes["two (random)"].events).nnz == 0
    with pytest.raises(ProbeError, match="no SAE 'three' to make controls of: they are one, two"):
        extract_features(model, saes, texts, controls=("random",), controls_of=["three"], progress=False)


def memory_sae(model, hook: str, texts: list[str]):
    """Return an SAE that has memorised the activations at one hook point: there it rebuilds, elsewhere less well."""
    rows = torch.cat([hidden_states(model, encode_text(model, t)[None], hook)[0, 1:] for t in texts if t])
    mean = rows.mean(0)
    sae = tiny.topk_sae(32, len(rows), k=1, hook_name=hook)
    unit = torch.nn.functional.normalize(rows - mean, dim=1)
    with torch.no_grad():
        sae.W_enc.copy_(unit.T)
        sae.W_dec.copy_(unit)
        sae.b_enc.zero_()
        sae.b_dec.copy_(mean)
    return sae


def test_an_sae_that_reads_the_layer_beside_its_own_is_caught(model):
    """Fault 4: ``hidden_states[l]`` of transformers, the layer before, was given to the SAE of layer l."""
    texts = made_up_texts(12, seed=3)
    right = memory_sae(model, "blocks.1.hook_resid_post", texts)
    ids = [encode_text(model, text)[1:].tolist() for text in texts]
    found = hook_alignment(model, right, ids)
    assert found["blocks.1.hook_resid_post"] == pytest.approx(0, abs=1e-6)
    assert set(found) == {f"blocks.{layer}.hook_resid_post" for layer in (0, 1, 2)}
    extract_features(model, right, texts, progress=False)  # no warning
    wrong = memory_sae(model, "blocks.1.hook_resid_post", texts)
    wrong.cfg.metadata.hook_name = "blocks.1.hook_resid_pre"
    with pytest.warns(UserWarning, match=r"only 0% at .*: it looks as if it was trained there, one layer off"):
        extract_features(model, wrong, texts, progress=False)


def projection(hook: str):
    """An SAE that rebuilds the first half of the dimensions, by a feature for each sign, and nothing else."""
    sae = tiny.own_sae("standard", 32, 32, hook_name=hook)
    axes = torch.eye(32)[:16]
    for parameter in sae.parameters():
        parameter.zero_()
    sae.W_dec.copy_(torch.cat([axes, -axes]))
    sae.W_enc.copy_(sae.W_dec.T)
    return sae


def test_a_few_tokens_of_large_variance_do_not_decide_which_layer_fits(model, monkeypatch):
    """Summed over tokens the layer before had less error left, because of five tokens: a false alarm, and a miss."""
    generator = torch.Generator().manual_seed(0)
    scales = lambda inside, outside: torch.tensor([inside] * 16 + [outside] * 16)  # noqa: E731
    made = lambda n, *of: torch.randn(n, 32, generator=generator) * scales(*of)  # noqa: E731
    own, before, after = (f"blocks.{layer}.hook_resid_post" for layer in (1, 0, 2))
    states = {
        own: torch.cat([made(200, 1.0, 0.3), made(5, 10.0, 10.0)]),
        before: torch.cat([made(200, 1.0, 0.5), made(5, 14.0, 0.5)]),
        after: made(205, 1.0, 1.0),
    }
    left = {hook: float((x[:, 16:] ** 2).sum() / ((x - x.mean(0)) ** 2).sum()) for hook, x in states.items()}
    assert left[before] < 0.5 * left[own], "in the quotient of sums"
    monkeypatch.setattr(
        "saekit.probes.alignment.states_of_some", lambda model, ids, names: {n: states[n] for n in names}
    )
    found = hook_alignment(model, projection(own), [])
    for hook, x in states.items():
        share = ((x[:, 16:] ** 2).sum(1) / ((x - x.mean(0)) ** 2).sum(1)).double().numpy()
        assert found[hook] == pytest.approx(gmean(share), rel=1e-4)
    warn_if_misaligned(model, {"right": projection(own)}, [])  # no warning
    with pytest.warns(UserWarning, match=r"^wrong leaves .* of a token's variance at blocks.0.hook_resid_post"):
        warn_if_misaligned(model, {"wrong": projection(before)}, [])
    for hook in states:
        states[hook] = states[hook][:15]
    warn_if_misaligned(model, {"wrong": projection(before)}, [])  # too few tokens to say so


@pytest.mark.slow
@pytest.mark.parametrize(("release", "layer"), [("9.hook_resid_post.2304", 9), ("24.hook_resid_post.4608", 24)])
def test_the_bundled_saes_are_told_from_their_neighbours(release, layer):
    """Of 3 sets of texts each: never at the layer that they were trained on, always one layer off."""
    import saekit as sk

    real = sk.load_model(progress=False)
    sae = sk.load_sae(f"smollm2-135m/blocks.{release}", model=real)
    for name in ("sms-spam", "question-types", "sentiment-movies"):
        for seed in (0, 2):
            data = sk.load_labelled(name, progress=False).sample(200, seed=seed)
            ids, _ = encode_texts(real, data.texts, 64)
            ids = [ids[i] for i in text_order(data, ids)]
            for off in (0, -1, 1):
                moved = copy.deepcopy(sae)
                moved.cfg.metadata.hook_name = f"blocks.{layer + off}.hook_resid_post"
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    warn_if_misaligned(real, {"it": moved}, ids)
                assert len(caught) == abs(off), (name, seed, off)


def test_the_number_of_threads_changes_neither_order_nor_features(model, texts):
    data = labelled_texts(texts, [i % 2 for i in range(len(texts))])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(extract_features(model, tiny.topk_sae(32, 96), data, context_size=40, progress=False))
    finally:
        torch.set_num_threads(before)
    one, other = found
    assert one.data.texts == other.data.texts
    np.testing.assert_array_equal(one.index, other.index)
    np.testing.assert_allclose(one.sae().events.toarray(), other.sae().events.toarray(), rtol=1e-4, atol=1e-4)
    results = [probe(features, folds=3) for features in found]
    np.testing.assert_array_equal(results[0].fold, results[1].fold)
    np.testing.assert_allclose(results[0].scores, results[1].scores, atol=1e-3)


def test_progress_counts_texts_and_an_error_ends_the_extraction(model, texts):
    """Fault 9: exceptions were swallowed batch by batch."""
    seen = []
    extract_features(model, tiny.topk_sae(32, 96), texts, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(texts), len(texts))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})

    def stop(done, total):
        raise KeyboardInterrupt

    before = model(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, tiny.topk_sae(32, 96), texts, progress=stop)
    assert torch.equal(model(torch.zeros(1, 3, dtype=torch.long)), before)
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_what_cannot_be_extracted_is_refused(model):
    sae = tiny.topk_sae(32, 96)
    with pytest.raises(ProbeError, match="no text"):
        extract_features(model, sae, [], progress=False)
    with pytest.raises(ProbeError, match="one string"):
        extract_features(model, sae, "text", progress=False)
    with pytest.raises(ProbeError, match=r"text 1 holds half a surrogate pair \(U\+D800 at character 0\)"):
        extract_features(model, sae, ["a cat", "\ud800 sat"], progress=False)
    with pytest.raises(ProbeError, match="no SAE"):
        extract_features(model, [], ["text"], progress=False)
    with pytest.raises(ProbeError, match="context_size"):
        extract_features(model, sae, ["text"], context_size=1, progress=False)
    with pytest.raises(ProbeError, match="256 tokens the model can read"):
        extract_features(model, sae, ["text"], context_size=300, progress=False)
    with pytest.raises(SAEError, match="reads 16 dimensions"):
        extract_features(model, tiny.topk_sae(16, 96), ["text"], progress=False)
    with pytest.raises(ModelError, match="no hook point"):
        extract_features(model, tiny.topk_sae(32, 96, hook_name="blocks.9.hook_resid_post"), ["text"], progress=False)


def test_a_subset_is_what_extracting_it_gives(model, features, texts):
    rows = np.array([3, 0, 7, 20])
    part = subset(features, rows)
    again = extract_features(model, tiny.topk_sae(32, 96), part.data, context_size=40, keep_states=True, progress=False)
    assert part.data.texts == again.data.texts
    np.testing.assert_array_equal(part.ids, again.ids)
    np.testing.assert_array_equal(part.sae().hook.starts, again.sae().hook.starts)
    np.testing.assert_allclose(part.sae().events.toarray(), again.sae().events.toarray(), atol=1e-4)
    np.testing.assert_allclose(part.sae().hook.mean, again.sae().hook.mean, atol=1e-4)


def test_a_subset_takes_numbers_or_a_mask_and_nothing_else(features):
    mask = features.data.labels == 1
    assert subset(features, mask).data.texts == subset(features, np.flatnonzero(mask)).data.texts
    for rows in (mask[:5], np.array([-1, 0]), np.array([0, len(features)])):
        with pytest.raises(ProbeError, match="True or False for each"):
            subset(features, rows)


def test_columns_for_a_subset_are_those_of_all_texts(features):
    part = subset(subset(features, np.arange(20)), np.arange(5))
    values = np.arange(float(len(features)))
    np.testing.assert_array_equal(as_extracted(part, "mine", values), part.index)
    for number in (len(features) + 1, len(features) - 1, 5):
        with pytest.raises(ProbeError, match=f"mine: {number} rows for {len(features)} texts"):
            as_extracted(part, "mine", np.zeros(number))


def test_the_events_are_never_held_twice():
    piece, whole = np.ones(100_000, np.float32), 200 * 400_000
    tracemalloc.start()
    for room in (0, 200 * 100_000, 300 * 100_000):
        column = Column(np.float32, room)
        for _ in range(200):
            column.add(piece)
        taken = column.take()
        assert tracemalloc.get_traced_memory()[1] <= max(1.2 * whole, 4 * room + 1e6)
        assert tracemalloc.get_traced_memory()[0] <= 1.01 * whole, "room that was not used is given back"
        assert len(taken) == 200 * 100_000 and (taken == 1).all()
        assert len(column.take()) == 0
        del taken
        tracemalloc.reset_peak()
    tracemalloc.stop()
