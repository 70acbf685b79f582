"""Whatever the model, the SAE, the tokenizer and the corpus: numbers are those of sae-lens's own encode on the states
of transformers' own modules, or saekit refuses for a reason that there is."""

import numpy as np
import pytest
import torch
from hypothesis import event, given, strategies as st
from torch.nn import functional as F

from saekit import attribution, circuits, steering
from saekit.evaluation import evaluate
from saekit.index import FeatureIndex
from saekit.models import hidden_states
from saekit.probes import extract_features
from saekit.training import harvest
from tests import tiny
from tests.drawn import drawn
from tests.own_cases import KINDS, N_CTX, TRANSCODERS, Models, attempt, choices, drawn_tokens, own

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZES = {"rows": st.integers(1, 5), "pos": st.integers(2, 20), "seed": st.integers(0, 2**16)}
STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
TEXTS = st.lists(
    st.integers(0, len(tiny.TEXT) - 1).map(lambda at: tiny.TEXT[at : at + at % 61]) | st.text(max_size=8),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


def close(got, want, *, rtol=2e-3):
    """Compare within rounding of float32, on the scale of all of them."""
    got, want = (one.double().numpy() if isinstance(one, torch.Tensor) else np.float64(one) for one in (got, want))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * max(np.abs(want).max(initial=0), 1e-6))


def states_of(one, ids):
    """Transformers' states, where they say for sure which features are active; else None, after a rougher look."""
    states = one.states(ids)
    got = hidden_states(one.model, ids, one.hook)
    assert got.shape == states.shape
    if one.choice.dtype == "bfloat16":  # rounding alone decides about features, unless there is no other
        close(got.float(), states.float(), rtol=0.2)
        if torch.equal(got, states) and torch.isfinite(one.encode(states)).all():
            return states
    elif one.steady(states):
        return states
    event("unsteady")
    return None


# --- features on a corpus --------------------------------------------------------------------------------------------


@drawn(40)
@given(
    choice=choices(kinds=(*KINDS, *TRANSCODERS)), window=st.integers(1, 40), most=st.none() | st.integers(1, 5), **SIZES
)
def test_an_index_holds_the_features_of_sae_lens_on_the_states_of_transformers(
    models, choice, window, most, rows, pos, seed
):
    one = own(models, choice, models.scratch())
    if one is None:
        return event("refused")
    tokens = drawn_tokens(seed, rows, pos)
    ids = torch.from_numpy(tokens.ids).long()
    settings = {"window": window, "examples_per_feature": most, "batch_size": 1 + seed % 3}
    if not one.reference.has(choice.point):
        assert attempt(one, lambda: FeatureIndex.build(one.model, one.sae, tokens, progress=False)) is None
        return event("refused")
    if (states := states_of(one, ids)) is None:
        return
    keep = one.counts(ids, states, tokens.document)
    features = one.encode(states).double().numpy()
    features[~keep] = 0
    index = attempt(
        one,
        lambda: FeatureIndex.build(one.model, one.sae, tokens, progress=False, **settings),
        "no token|not one token",
    )
    if index is None:
        assert (features < 0).any() or not keep.any() or choice.fields
        return event("refused")
    event("compared")
    assert index.n_tokens == keep.sum()
    assert sum(index.excluded.values()) == keep.size - keep.sum()
    np.testing.assert_array_equal(index.count, (features != 0).sum((0, 1)))
    close(index.max, features.max((0, 1), initial=0))
    close(index.mean_active, features.sum((0, 1)) / np.maximum(index.count, 1))
    assert index.l0 == pytest.approx((features != 0).sum() / max(keep.sum(), 1))
    by_id = {int(number): row for row, number in enumerate(tokens.sequence_ids)}
    for feature in {0, choice.d_sae // 2, choice.d_sae - 1}:
        values = features[:, :, feature]
        assert index.histogram(feature).counts.sum() == index.count[feature]
        best = index.top(feature, 3, fold=False)
        close([example.value for example in best], np.sort(values.max(1)[values.max(1) > 0])[::-1][: min(3, most or 3)])
        for example in best:
            row, at = by_id[example.sequence_id], example.position
            close(example.value, values[row, at])
            close(example.activations, values[row, at - example.peak :][: len(example.activations)])
        shares = [interval.share for interval in index.intervals(feature, 3)]
        assert not shares or sum(shares) == pytest.approx(1)


@drawn(30)
@given(choice=choices(kinds=KINDS), text=st.text(min_size=1, max_size=20) | st.just(tiny.TEXT[:80]))
def test_a_text_read_with_an_index_begins_as_it_should_and_has_the_features_of_sae_lens(models, choice, text):
    one = own(models, choice, models.scratch())
    tokens = drawn_tokens(choice.seed, 2, 6)
    index = (
        one
        and one.reference.has(choice.point)
        and attempt(one, lambda: FeatureIndex.build(one.model, one.sae, tokens, progress=False))
    )
    if not index:
        return event("refused")
    ids = one.reference.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = torch.tensor([([] if one.bos is None else [one.bos]) + ids])[:, :N_CTX]
    reading = index.read_prompt(one.model, one.sae, text)
    assert reading.features.shape == (ids.shape[1], choice.d_sae)
    if (states := states_of(one, ids)) is None:
        return
    event("compared")
    want = one.encode(states)[0].double().numpy()
    close(reading.features, want)
    np.testing.assert_array_equal(reading.excluded, ~one.counts(ids, states)[0])
    k = min(3, choice.d_sae)
    found = index.by_prompt(one.model, one.sae, text, k)
    close(found.values, -np.sort(-want, 1)[:, :k])
    feature = int(found.features[-1, 0])
    close(index.activations(one.model, one.sae, text, feature).values, want[:, feature])


@drawn(20)
@given(choice=choices(odd=0, exact=True), **SIZES)
def test_a_harvest_holds_the_states_of_transformers(models, choice, rows, pos, seed):
    one = own(models, choice, folder := models.scratch())
    tokens = drawn_tokens(seed, rows, pos)
    ids = torch.from_numpy(tokens.ids).long()
    if one is None:
        return event("refused")
    found = attempt(one, lambda: harvest(one.model, tokens, one.hook, folder / "h", progress=False), "no token")
    if found is None:
        return event("refused")
    event("compared")
    states = one.states(ids)
    close(found.rows, states[torch.from_numpy(one.counts(ids, states, tokens.document))])


@drawn(30)
@given(choice=choices(kinds=(*KINDS, TRANSCODERS[0]), exact=True), **SIZES)
def test_an_evaluation_is_that_of_brute_force(models, choice, rows, pos, seed):
    one = own(models, choice, models.scratch())
    tokens = drawn_tokens(seed, rows, pos)
    ids, document = torch.from_numpy(tokens.ids).long(), torch.from_numpy(tokens.document)
    nothing = "no token is left|no prediction is left|are equal: expected more"
    found = one and attempt(one, lambda: evaluate(one.model, one.sae, tokens, batch_size=2, progress=False), nothing)
    if not found or (states := states_of(one, ids)) is None:
        return event("refused")
    event("compared")
    keep = torch.from_numpy(one.counts(ids, states, tokens.document))
    features, rebuilt = one.encode(states), one.rebuilt(states)
    x, y = states.double()[keep], rebuilt[keep]
    assert found.n_tokens == len(x)
    close(found.l0, (features[keep] != 0).sum() / len(x))
    close(found.fvu, (x - y).square().sum() / (x - x.mean(0)).square().sum())
    close(found.mse, (x - y).square().mean())
    close(found.dead_share, (features[keep] == 0).all(0).double().mean())
    close(found.l2_ratio, (y.norm(dim=-1) / x.norm(dim=-1)).mean())
    scored = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)

    def losses(new):
        put = torch.where(keep[..., None], new, states.double()).to(states)
        with torch.no_grad():
            logits = one.reference.run(ids, choice.layer, {choice.point: lambda _: put})["logits"]
        return F.cross_entropy(logits[:, :-1][scored].double(), ids[:, 1:][scored]).item()

    assert found.n_loss_tokens == scored.sum()
    close(found.loss_clean, losses(states.double()))
    close(found.loss_spliced, losses(rebuilt), rtol=1e-2)
    close(found.loss_zero, losses(torch.zeros_like(rebuilt)), rtol=1e-2)
    close(found.loss_mean, losses(x.mean(0).expand_as(rebuilt)), rtol=1e-2)


@drawn(25)
@given(choice=choices(), texts=TEXTS, size=st.integers(2, 30))
def test_extracted_features_are_those_of_sae_lens_text_by_text(models, choice, texts, size):
    one = own(models, choice, models.scratch())
    if one is None:
        return event("refused")
    settings = {"context_size": size, "progress": False, "check_hooks": False, "keep_states": True}
    found = attempt(one, lambda: extract_features(one.model, one.sae, texts, **settings))
    if found is None:
        return event("refused")
    matrix, hook = found.sae().events.toarray(), found.sae().hook
    done, first = 0, 0 if one.bos is None else 1
    for number, text in enumerate(found.data.texts):
        ids = one.reference.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = ids[: size - first]
        np.testing.assert_array_equal(found.ids[found.id_starts[number] : found.id_starts[number + 1]], ids)
        row = torch.tensor([([] if one.bos is None else [one.bos]) + ids])
        if not row.numel():
            continue
        if (states := states_of(one, row)) is None:
            return
        keep = one.counts(row, states)[0]
        if first:
            keep[0] = False
        want = one.encode(states)[0].double().numpy()[keep]
        close(matrix[done : done + len(want)], want)
        close(hook.states[done : done + len(want)], states[0, torch.from_numpy(keep)])
        done += len(want)
    assert done == len(matrix)
    event("compared")


# --- what features do ------------------------------------------------------------------------------------------------


def readings(one, ids, answer, foil, put=None):
    """The logit difference after the last token, by transformers, with states of one's own at the hook point."""
    edits = {} if put is None else {one.choice.point: lambda state: put.to(state)}
    last = one.reference.run(ids, one.choice.layer, edits)["logits"][:, -1].double()
    return last[:, answer] - last[:, foil]


def written(one, states, features, which):
    """What one feature writes at each position: sae-lens's reconstruction with it less that without."""
    without = features.clone()
    without[..., which] = 0
    return one.rebuilt(states, features) - one.rebuilt(states, without)


@drawn(30)
@given(choice=choices(exact=True), pos=st.integers(2, 12), seed=st.integers(0, 2**16))
def test_attributions_are_those_of_brute_force(models, choice, pos, seed):
    one = own(models, choice, models.scratch())
    if one is None or not one.reference.has(choice.point):
        return event("refused")
    ids = torch.from_numpy(drawn_tokens(seed, 1, pos).ids).long()
    if (states := states_of(one, ids)) is None:
        return
    answer, foil = 9 + seed % 50, 70
    asked = {"answer": answer, "foil": foil, "progress": False}
    features, keep = one.encode(states), torch.from_numpy(one.counts(ids, states))
    counted = torch.where(keep[..., None], features, 0)
    with torch.no_grad():
        clean = readings(one, ids, answer, foil).item()
    found = attempt(one, lambda: attribution.attribution_patching(one.model, one.sae, ids, **asked))
    if found is None:
        return event("refused")
    event("compared")
    moved = torch.zeros_like(states, requires_grad=True)
    (slope,) = torch.autograd.grad(readings(one, ids, answer, foil, states + moved).sum(), moved)
    bias = one.rebuilt(states, torch.zeros_like(features))
    with torch.no_grad():
        total = clean - readings(one, ids, answer, foil, torch.where(keep[..., None], bias, states.double())).item()
    close(found.clean, [clean])
    scale = max(abs(clean), abs(total), 1e-3)
    assert found.total[0, 0] == pytest.approx(total, abs=1e-2 * scale)
    at, which = counted[0].nonzero(as_tuple=True)
    items = [item for item in found if item.kind == "feature"]
    assert {(item.position, item.feature) for item in items} == set(zip(at.tolist(), which.tolist(), strict=True))
    effects = {f: (slope[0].double() * written(one, states, counted, f)[0]).sum(-1) for f in set(which.tolist())}
    most = max((effect.abs().max().item() for effect in effects.values()), default=0)
    for item in items:
        close(item.activation, counted[0, item.position, item.feature])
        assert item.effect == pytest.approx(effects[item.feature][item.position].item(), abs=1e-2 * most + 1e-6)
    some = sorted(effects)[:3]
    if some:
        patched = attribution.activation_patching(one.model, one.sae, ids, nodes=some, **asked)
        for item in patched:
            left = states.double() - torch.where(keep[..., None], written(one, states, counted, item.feature), 0)
            with torch.no_grad():
                want = clean - readings(one, ids, answer, foil, left).item()
            assert item.effect == pytest.approx(want, abs=1e-2 * scale)
    direct(one, ids, states, features, asked, clean)


def direct(one, ids, states, features, asked, clean):
    """Direct logit attribution at the last position, with the final norm frozen."""
    call = lambda: attribution.direct_logit_attribution(one.model, one.sae, ids, **asked)  # noqa: E731
    found = attempt(one, call, "is neither a point of the residual stream", "does not enter the residual stream")
    assert found is not None or one.choice.point not in ("resid_pre", "resid_post")
    if found is None:
        return
    close(found.clean, [clean])
    assert found.complete
    with torch.no_grad():
        last = one.reference.run(ids, one.choice.layer)["final"][0, -1].double()
    norm, weight = one.reference.final_norm, one.reference.unembedding.double()
    centre = (lambda x: x - x.mean(-1, keepdim=True)) if isinstance(norm, torch.nn.LayerNorm) else (lambda x: x)
    eps = getattr(norm, "eps", None) or norm.variance_epsilon
    scale = (centre(last).square().mean() + eps).sqrt()
    toward = weight[asked["answer"]] - weight[asked["foil"]]
    items = {item.feature: item for item in found if item.kind == "feature"}
    assert set(items) == set(features[0, -1].nonzero()[:, 0].tolist())
    for feature, item in items.items():
        close(item.activation, features[0, -1, feature])
        vector = written(one, states, features, feature)[0, -1]
        want = (centre(vector) / scale * norm.weight.double() * toward).sum().item()
        assert item.effect == pytest.approx(want, rel=1e-2, abs=1e-3 * max(abs(clean), 1))


@drawn(15)
@given(
    choice=choices(points=STREAM, exact=True),
    rows=st.integers(1, 3),
    pos=st.integers(3, 10),
    seed=st.integers(0, 2**16),
)
def test_a_feature_circuit_is_that_of_brute_force(models, choice, rows, pos, seed):
    one = own(models, choice, models.scratch())
    if one is None or not one.reference.has(choice.point):
        return event("refused")
    ids = torch.from_numpy(drawn_tokens(seed, 2 * rows, pos).ids).long()
    clean, corrupted = ids[:rows], ids[rows:]
    if (states := states_of(one, ids)) is None:
        return
    end, n = torch.full((rows,), pos - 1), rows
    answers = torch.full((n,), 9)
    task = circuits.Task(
        "drawn", n * ("",), n * ("",), answers, answers + 2, answers, {"end": end}, tuple(clean), tuple(corrupted)
    )
    expected = "same logit difference|circuits are for the residual stream"
    found = attempt(one, lambda: circuits.feature_circuit(one.model, one.sae, task, steps=1), expected)
    if found is None:
        return event("refused")
    event("compared")
    features = one.encode(states)
    moved = torch.zeros_like(states[:rows], requires_grad=True)
    (slope,) = torch.autograd.grad(readings(one, clean, 9, 11, states[:rows] + moved).sum(), moved)
    change = features[:rows] - features[rows:]
    effect = torch.zeros(choice.d_sae, dtype=torch.float64)
    for feature in range(choice.d_sae):
        one_only = torch.zeros_like(change)
        one_only[..., feature] = change[..., feature]
        vector = one.rebuilt(states[:rows], one_only) - one.rebuilt(states[:rows], torch.zeros_like(change))
        effect[feature] = (slope.double() * vector)[:, -1].sum() / rows
    close(found.features[0][0], effect, rtol=1e-2)
    with torch.no_grad():
        gap = (readings(one, clean, 9, 11) - readings(one, corrupted, 9, 11)).mean()
    close(found.gap, gap, rtol=1e-2)


@drawn(25)
@given(
    choice=choices(kinds=(*KINDS, TRANSCODERS[0]), exact=True),
    pos=st.integers(2, 8),
    mode=st.sampled_from(("add", "clamp", "ablate", "scale")),
    unit=st.sampled_from(("norm", "activation")),
    value=st.sampled_from((-1.0, 0.0, 0.5, 4.0)),
    where=st.sampled_from(("all", "generated", (1, 3))),
    strength=st.sampled_from((0.0, 1.0, 1.0, 2.0)),
    seed=st.integers(0, 2**16),
)
def test_steered_text_is_that_of_transformers_with_the_edit_written_by_hand(
    models, choice, pos, mode, unit, value, where, strength, seed
):
    one = own(models, choice, models.scratch())
    if one is None:
        return event("refused")
    ids = torch.from_numpy(drawn_tokens(seed, 1, pos).ids[0]).long()
    if one.bos is not None and seed % 2:
        ids[0] = one.bos
    which = sorted({0, choice.d_sae // 2})
    settings = {"mode": mode, "unit": unit, "positions": where, "strength": strength}
    new = 3
    made = attempt(one, lambda: steering.Intervention.on(one.sae, which, value, **settings))
    written = made and attempt(
        one,
        lambda: steering.generate(
            one.model, ids, made, sae=one.sae, max_new_tokens=new, stop_at_eos=False, progress=False
        ),
    )
    if not written or (states_of(one, ids[None]) is None if one.reference.has(choice.point) else True):
        return event("refused")
    event("compared")
    rows = [one.rebuilt_row(feature) for feature in which]
    first = {"all": int(one.bos is not None and ids[0] == one.bos), "generated": pos - 1}.get(where, 1)
    stop = where[1] if isinstance(where, tuple) else 10**6

    def edit(state):
        x = state.double()
        active = one.encode(state).double()
        norm = x.norm(dim=-1, keepdim=True)
        change = torch.zeros_like(x)
        for feature, row in zip(which, rows, strict=True):
            f = active[..., feature, None]
            amount = value * (norm / row.norm() if unit == "norm" else 1)
            by = {"add": amount * strength, "clamp": amount * strength - f, "ablate": -strength * f}
            change += row * by.get(mode, strength * (value - 1) * f)
        at = torch.arange(x.shape[1])
        here = (at >= first) & (at < stop) & (strength != 0)
        return torch.where(here[:, None], x + change, x).to(state)

    text = ids[None]
    for token, logprob in zip(written.ids[0], written.logprobs[0], strict=True):
        with torch.no_grad():
            logits = one.reference.run(text, choice.layer, {choice.point: edit})["logits"][0, -1].double()
        likely = logits.log_softmax(-1)
        assert likely[token] >= likely.max() - 2e-2
        assert logprob == pytest.approx(likely[token].item(), abs=5e-2)
        text = torch.cat([text, torch.tensor([[token]])], 1)
    (cost,) = steering.side_effects(one.model, written, sae=one.sae, neutral=[ids])
    with torch.no_grad():
        plain = one.reference.logits(text).double().log_softmax(-1)[0]
    want = plain[pos - 1 : -1].gather(1, text[0, pos:, None])[:, 0]
    np.testing.assert_allclose(cost.logprobs_plain, want, rtol=1e-2, atol=1e-2)
    if strength == 0:
        assert cost.kl == 0
        np.testing.assert_allclose(written.logprobs[0], want, atol=1e-2)
