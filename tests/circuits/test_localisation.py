"""Localisation: what patching none, some and all features of a dictionary has to give."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from saekit.circuits import localise, task_from_pairs
from saekit.errors import SAEError, Stopped, TaskError
from saekit.models import hidden_states, load_model, logits_from
from saekit.saes import neuron_directions, principal_directions, random_directions
from tests import tiny

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model(model_folder):
    loaded = load_model(str(model_folder))
    loaded.cfg.model_name = "tiny"
    return loaded


@pytest.fixture(scope="module")
def task(model):
    return task_from_pairs(model, tiny.PAIRS)


@pytest.fixture(scope="module")
def states(model):
    return hidden_states(model, torch.as_tensor(tiny.random_tokens(8, 32, 400).ids).long(), HOOK).flatten(0, 1)


def kl_by_hand(model, task, row, states):
    return kl_of_states(model, task, row, states).item()


def kl_of_states(model, task, row, states):
    target = logits_from(
        model, task.ids_corrupted[row][None], hidden_states(model, task.ids_corrupted[row][None], HOOK), HOOK
    )
    found = logits_from(model, task.ids[row][None], states, HOOK)
    p, q = (x[0, -1].double().log_softmax(-1) for x in (found, target.detach()))
    return (p.exp() * (p - q)).sum()


def test_all_directions_of_a_basis_make_the_target_run_and_none_leaves_the_base_run(model, task, states):
    signed = random_directions(states, HOOK, rectified=True)
    for dictionary in (principal_directions(states, HOOK), signed):
        found = localise(model, dictionary, task, counts=[1, 32, 10_000])
        assert found.kl_all == pytest.approx(0, abs=1e-5)
        assert found.kl[-1] == pytest.approx(found.kl_all, abs=1e-6), "counts are cut at the number of features"
        assert found.edit[-1] == pytest.approx(found.edit_full, rel=1e-4)
        by_hand = [kl_by_hand(model, task, i, hidden_states(model, ids[None], HOOK)) for i, ids in enumerate(task.ids)]
        assert found.kl_unpatched == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_an_sae_with_all_features_patched_leaves_its_change_of_error(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    found = localise(model, sae, task, counts=[3])
    left = []
    for row, (ids, other) in enumerate(zip(task.ids, task.ids_corrupted, strict=True)):
        base, target = hidden_states(model, ids[None], HOOK), hidden_states(model, other[None], HOOK)
        left.append(kl_by_hand(model, task, row, base + sae(target).detach() - sae(base).detach()))
    assert found.kl_all == pytest.approx(np.mean(left), rel=1e-3)


def test_each_point_is_the_base_run_with_the_first_features_set_to_the_target_s(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    found = localise(model, sae, task, counts=[2, 5])
    assert found.features.shape == (1, 5)
    for point, count in enumerate(found.counts):
        kls, edits = [], []
        for row, (ids, other) in enumerate(zip(task.ids, task.ids_corrupted, strict=True)):
            base, target = hidden_states(model, ids[None], HOOK), hidden_states(model, other[None], HOOK)
            patched = base.clone()
            for feature in found.features[0, :count].tolist():
                change = sae.encode(target)[..., feature] - sae.encode(base)[..., feature]
                patched += change.detach()[..., None] * sae.W_dec[feature].detach()
            kls.append(kl_by_hand(model, task, row, patched))
            edits.append((patched - base).norm().item())
        assert found.kl[point] == pytest.approx(np.mean(kls), rel=1e-3)
        assert found.edit[point] == pytest.approx(np.mean(edits), rel=1e-4)


def test_with_an_order_for_each_prompt_every_prompt_is_as_if_alone(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    found = localise(model, sae, task, counts=[1, 4], per_prompt=True)
    alone = [localise(model, sae, task[row : row + 1], counts=[1, 4]) for row in range(len(task))]
    np.testing.assert_array_equal(found.features, np.concatenate([one.features for one in alone]))
    np.testing.assert_allclose(found.kl, np.mean([one.kl for one in alone], axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.edit, np.mean([one.edit for one in alone], axis=0), rtol=1e-4)
    assert "each prompt its own" in repr(found)
    with pytest.raises(SAEError, match="not ranked by elimination"):
        localise(model, sae, task, per_prompt=True, ranking="elimination")


def test_each_ranking_orders_features_by_the_gradient_that_it_says(model, task):
    """By hand: the mean gradient of the KL at five points of the line, or at its start, times the change."""
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    for ranking, shares in (("integrated", (0.1, 0.3, 0.5, 0.7, 0.9)), ("attribution", (0.0,))):
        effects = torch.zeros(96, dtype=torch.float64)
        for row, (ids, other) in enumerate(zip(task.ids, task.ids_corrupted, strict=True)):
            base, target = hidden_states(model, ids[None], HOOK), hidden_states(model, other[None], HOOK)
            change = (sae.encode(target) - sae.encode(base)).detach()
            for share in shares:
                states = (base + share * (target - base)).requires_grad_()
                (gradient,) = torch.autograd.grad(kl_of_states(model, task, row, states), states)
                effects += (change * (gradient @ sae.W_dec.T)).detach().sum((0, 1)).double() / len(shares)
        found = localise(model, sae, task, counts=[6], ranking=ranking)
        assert found.features[0].tolist() == effects.argsort()[:6].tolist()
        assert found.ranking == ranking


def test_the_default_ranks_by_the_mean_gradient_between_the_runs(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    found, asked, one = (
        localise(model, sae, task, counts=[8], **options)
        for options in ({}, {"ranking": "integrated"}, {"ranking": "attribution"})
    )
    assert found.ranking == "integrated"
    np.testing.assert_array_equal(found.features, asked.features)
    assert (found.features != one.features).any()


def test_elimination_leaves_out_of_the_integrated_candidates_what_is_missed_least(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    integrated = localise(model, sae, task, counts=[6])
    found = localise(model, sae, task, counts=[1, 2, 6], ranking="elimination", candidates=6)
    assert set(found.features[0]) == set(integrated.features[0]), "the same candidates in another order"
    assert found.kl[-1] == pytest.approx(integrated.kl[-1], rel=1e-5)
    runs = [
        [hidden_states(model, i[None], HOOK) for i in ids] for ids in zip(task.ids, task.ids_corrupted, strict=True)
    ]

    def kl_of(chosen):
        """KL with these features patched, by hand."""
        kl = 0.0
        for row, (base, target) in enumerate(runs):
            change = (sae.encode(target) - sae.encode(base)).detach()[..., list(chosen)]
            kl += kl_by_hand(model, task, row, base + change @ sae.W_dec[list(chosen)].detach())
        return kl

    left = integrated.features[0].tolist()
    for size in (5, 4, 3, 2, 1):  # greedy, by brute force
        left = list(min(itertools.combinations(left, size), key=kl_of))
    assert found.features[0, 0] == left[0]


def test_a_neuron_is_one_coordinate_of_the_state(states):
    found = neuron_directions(states, HOOK)
    torch.testing.assert_close(found.encode(states), states - states.mean(0))
    assert (found.name, found.hook_name, len(found.rows)) == ("neurons", HOOK, 32)
    assert len(neuron_directions(states, HOOK, rectified=True).rows) == 64


def test_directions_are_centred_orthonormal_and_ordered(states):
    found = principal_directions(states, HOOK)
    torch.testing.assert_close(found.rows @ found.rows.T, torch.eye(32), atol=1e-4, rtol=0)
    variance = found.encode(states).var(0)
    assert (variance[:-1] - variance[1:] > -1e-4).all()
    torch.testing.assert_close(found.encode(states).mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    both = principal_directions(states, HOOK, rectified=True)
    assert both.name == "PCA ±"
    codes = both.encode(states)
    assert (codes >= 0).all()
    torch.testing.assert_close(codes @ both.rows + both.mean, states, atol=1e-3, rtol=1e-3)


def test_the_summary_says_how_many_features_close_half_of_the_gap(model, task, states):
    found = localise(model, principal_directions(states, HOOK), task, counts=range(1, 33))
    half = next(int(n) for n, kl in zip(found.counts, found.kl, strict=True) if kl <= found.kl_unpatched / 2)
    assert found.needed() == half
    assert found.needed(2.0) is None
    assert f"half of it gone with {half} features" in repr(found)


def test_what_cannot_be_localised_is_explained(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    for options, message in (
        ({"counts": [0]}, "counts must be a whole number from 1 on, not 0"),
        ({"counts": [1.5]}, "from 1 on, not 1.5"),
        ({"counts": []}, "numbers of features, at least one"),
        ({"ranking": "elimination", "candidates": 0}, "candidates must be a whole number from 1 on"),
        ({"ranking": "x"}, "'attribution', 'integrated' or 'elimination'"),
    ):
        with pytest.raises(SAEError, match=message):
            localise(model, sae, task, **options)
    same = replace(task, ids_corrupted=task.ids)
    with pytest.raises(TaskError, match="the same prediction"):
        localise(model, sae, same)
    with pytest.raises(SAEError, match="has 32"):
        localise(model, tiny.topk_sae(16, 96, hook_name=HOOK), task)


def test_it_says_how_far_it_is_and_ends_when_asked_to(model, task):
    sae, told = tiny.topk_sae(32, 96, hook_name=HOOK), []
    localise(model, sae, task, counts=[1, 4], progress=lambda *counts: told.append(counts))
    assert told == [(1, 2), (2, 2)]
    for last in range(9):
        asked = iter(range(100))
        with pytest.raises(Stopped):
            localise(model, sae, task, counts=[1, 4], batch_size=1, stop=partial(later, asked, last))
        assert next(asked) == last + 1, "it ended where it was told to"


def later(asked, last):
    """Return whether this has been asked more than ``last`` times."""
    return next(asked) >= last
