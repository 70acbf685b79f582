"""Localisation: what patching none, some and all features of a dictionary has to give."""

import itertools
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

from saekit.circuits.tasks import task_from_pairs
from saekit.errors import SAEError, TaskError
from saekit.models import hidden_states, logits_from
from tests import tiny

directions = import_module("saekit.saes.untrained")
local = import_module("saekit.circuits.localisation")

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def task(model):
    return task_from_pairs(model, tiny.PAIRS)


@pytest.fixture(scope="module")
def states(model):
    return hidden_states(model, torch.as_tensor(tiny.random_tokens(8, 32, 400).ids).long(), HOOK).flatten(0, 1)


def kl_by_hand(model, task, row, states):
    target = logits_from(
        model, task.ids_corrupted[row][None], hidden_states(model, task.ids_corrupted[row][None], HOOK), HOOK
    )
    found = logits_from(model, task.ids[row][None], states, HOOK)
    p, q = (x[0, -1].detach().double().log_softmax(-1) for x in (found, target))
    return (p.exp() * (p - q)).sum().item()


def test_all_directions_of_a_basis_make_the_target_run_and_none_leaves_the_base_run(model, task, states):
    signed = directions.random_directions(states, HOOK, rectified=True)
    for dictionary in (directions.principal_directions(states, HOOK), signed):
        found = local.localise(model, task, dictionary, counts=[1, 32, 10_000])
        assert found.kl_all == pytest.approx(0, abs=1e-5)
        assert found.kl[-1] == pytest.approx(found.kl_all, abs=1e-6), "counts are cut at the number of features"
        assert found.edit[-1] == pytest.approx(found.edit_full, rel=1e-4)
        by_hand = [kl_by_hand(model, task, i, hidden_states(model, ids[None], HOOK)) for i, ids in enumerate(task.ids)]
        assert found.kl_unpatched == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_an_sae_with_all_features_patched_leaves_its_change_of_error(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    found = local.localise(model, task, sae, counts=[3])
    left = []
    for row, (ids, other) in enumerate(zip(task.ids, task.ids_corrupted, strict=True)):
        base, target = hidden_states(model, ids[None], HOOK), hidden_states(model, other[None], HOOK)
        left.append(kl_by_hand(model, task, row, base + sae(target).detach() - sae(base).detach()))
    assert found.kl_all == pytest.approx(np.mean(left), rel=1e-3)


def test_each_point_is_the_base_run_with_the_first_features_set_to_the_target_s(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    found = local.localise(model, task, sae, counts=[2, 5])
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
    found = local.localise(model, task, sae, counts=[1, 4], per_prompt=True)
    alone = [local.localise(model, task[row : row + 1], sae, counts=[1, 4]) for row in range(len(task))]
    np.testing.assert_array_equal(found.features, np.concatenate([one.features for one in alone]))
    np.testing.assert_allclose(found.kl, np.mean([one.kl for one in alone], axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.edit, np.mean([one.edit for one in alone], axis=0), rtol=1e-4)
    assert "each prompt its own" in repr(found)
    with pytest.raises(SAEError, match="not ranked by elimination"):
        local.localise(model, task, sae, per_prompt=True, ranking="elimination")


def test_integrated_effects_of_a_whole_basis_add_up_to_what_patching_all_of_it_does(model, task, states):
    basis = directions.principal_directions(states, HOOK)
    parts, rows, _ = local._prepared(model, task, basis, 16)
    unpatched, everything = (local._patched(model, parts, rows, torch.arange(n)[None])[0] for n in (0, len(rows)))
    added = [torch.cat(local._effects(model, parts, rows, steps)).sum().item() / len(task) for steps in (1, 50)]
    assert added[1] == pytest.approx(everything - unpatched, rel=1e-3)
    assert abs(added[0] - added[1]) > 10 * abs(added[1] - (everything - unpatched)), "one gradient does not add up"
    found = local.localise(model, task, basis, counts=[3], ranking="integrated")
    effects = torch.cat(local._effects(model, parts, rows, local.STEPS)).sum(0)
    assert found.features[0].tolist() == effects.argsort()[:3].tolist()
    assert found.ranking == "integrated"


def test_the_default_ranks_by_the_mean_gradient_between_the_runs(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    found, asked, one = (
        local.localise(model, task, sae, counts=[8], **options)
        for options in ({}, {"ranking": "integrated"}, {"ranking": "attribution"})
    )
    assert found.ranking == "integrated"
    np.testing.assert_array_equal(found.features, asked.features)
    assert (found.features != one.features).any()


def test_elimination_leaves_out_of_the_integrated_candidates_what_is_missed_least(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    integrated = local.localise(model, task, sae, counts=[6])
    found = local.localise(model, task, sae, counts=[1, 2, 6], ranking="elimination", candidates=6)
    assert set(found.features[0]) == set(integrated.features[0]), "the same candidates in another order"
    assert found.kl[-1] == pytest.approx(integrated.kl[-1], rel=1e-5)
    parts, rows, _ = local._prepared(model, task, sae, 16)
    kl_of = lambda chosen: local._patched(model, parts, rows, torch.tensor([chosen]))[0]  # noqa: E731
    left = integrated.features[0].tolist()
    for size in (5, 4, 3, 2, 1):  # greedy, by brute force
        left = list(min(itertools.combinations(left, size), key=kl_of))
    assert found.features[0, 0] == left[0]


def test_attribution_is_exact_where_the_model_is_linear(model, task, monkeypatch):
    """With a KL that is linear in the states the estimated order is the true order of single patches."""
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(local, "_kl", lambda model, part, states: (states @ direction).sum(1) + 1000)
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    parts, rows, _ = local._prepared(model, task, sae, 16)
    order = torch.cat(local._effects(model, parts, rows, 1)).sum(0).argsort()
    alone = torch.tensor([local._patched(model, parts, rows, torch.tensor([[feature]]))[0] for feature in range(96)])
    torch.testing.assert_close(alone[order], alone.sort().values, atol=2e-3, rtol=0)


def test_a_neuron_is_one_coordinate_of_the_state(states):
    found = directions.neuron_directions(states, HOOK)
    torch.testing.assert_close(found.encode(states), states - states.mean(0))
    assert (found.name, found.hook_name, len(found.rows)) == ("neurons", HOOK, 32)
    assert len(directions.neuron_directions(states, HOOK, rectified=True).rows) == 64


def test_directions_are_centred_orthonormal_and_ordered(states):
    found = directions.principal_directions(states, HOOK)
    torch.testing.assert_close(found.rows @ found.rows.T, torch.eye(32), atol=1e-4, rtol=0)
    variance = found.encode(states).var(0)
    assert (variance[:-1] - variance[1:] > -1e-4).all()
    torch.testing.assert_close(found.encode(states).mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    both = directions.principal_directions(states, HOOK, rectified=True)
    assert both.name == "PCA ±"
    codes = both.encode(states)
    assert (codes >= 0).all()
    torch.testing.assert_close(codes @ both.rows + both.mean, states, atol=1e-3, rtol=1e-3)


def test_the_summary_says_how_many_features_close_half_of_the_gap(model, task, states):
    found = local.localise(model, task, directions.principal_directions(states, HOOK), counts=range(1, 33))
    half = next(int(n) for n, kl in zip(found.counts, found.kl, strict=True) if kl <= found.kl_unpatched / 2)
    assert found.needed() == half
    assert found.needed(2.0) is None
    assert f"half of it gone with {half} features" in repr(found)


def test_what_cannot_be_localised_is_explained(model, task):
    sae = tiny.topk_sae(32, 96, hook_name=HOOK)
    for options, message in (
        ({"counts": [0]}, "counts of features must be a whole number, at least 1, not 0"),
        ({"counts": [1.5]}, "at least 1, not 1.5"),
        ({"counts": []}, "expected at least one"),
        ({"ranking": "elimination", "candidates": 0}, "candidates must be a whole number, at least 1"),
        ({"ranking": "x"}, "'attribution', 'integrated' or 'elimination'"),
    ):
        with pytest.raises(SAEError, match=message):
            local.localise(model, task, sae, **options)
    same = replace(task, ids_corrupted=task.ids)
    with pytest.raises(TaskError, match="the same prediction"):
        local.localise(model, same, sae)
    with pytest.raises(SAEError, match="has 32"):
        local.localise(model, task, tiny.topk_sae(16, 96, hook_name=HOOK))
