"""Feature circuits: effects, edges and faithfulness against patches made one by one and against closed forms."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

from saekit.circuits.measure import Measure
from saekit.circuits.tasks import task_from_pairs
from saekit.errors import SAEError, TaskError
from saekit.models import check_hook, hidden_states, logits_from
from saekit.saes.untrained import random_directions
from tests import tiny

faithful = import_module("saekit.circuits.faithful")
circuits = import_module("saekit.circuits.graph")
minimal = import_module("saekit.circuits.minimal")

LOW, HIGH = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
SIZES = [0, 2, 10**6]


@pytest.fixture(scope="module")
def model(model_folder):
    from saekit.models import load_model

    loaded = load_model(str(model_folder), dtype=torch.float64)
    loaded.cfg.model_name = "tiny"
    return loaded


@pytest.fixture(scope="module")
def task(model):
    return task_from_pairs(model, tiny.PAIRS)


@pytest.fixture(scope="module")
def saes():
    made = [tiny.topk_sae(32, 96, hook_name=hook, seed=seed).double() for seed, hook in enumerate((LOW, HIGH))]
    for sae in made:
        sae.dtype = torch.float64  # to which it casts its input
    return made


def metric(model, task, row, states, hook):
    logits = logits_from(model, task.ids[row][None], states, hook)[0, -1]
    return logits[task.answers[row]] - logits[task.foils[row]]


def pair(model, task, row, hook):
    return (hidden_states(model, ids[row][None], hook) for ids in (task.ids, task.ids_corrupted))


def test_effects_are_gradient_times_change_summed_at_their_positions(model, task, saes):
    found = circuits.feature_circuit(model, saes[::-1], task, steps=1)
    assert found.hook_names == (LOW, HIGH), "lowest layer first, whatever the order they came in"
    for layer, (hook, sae) in enumerate(zip((LOW, HIGH), saes, strict=True)):
        expected, errors = np.zeros((2, 96)), np.zeros(2)
        for row in range(len(task)):
            clean, corrupted = pair(model, task, row, hook)
            leaf = clean.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(metric(model, task, row, leaf, hook), leaf)
            for which, where in enumerate(task.positions.values()):
                at = where[row]
                change = (sae.encode(clean) - sae.encode(corrupted))[0, at].detach()
                expected[which] += ((sae.W_dec @ gradient[0, at]) * change).detach().numpy() / len(task)
                missed = (clean - sae(clean)) - (corrupted - sae(corrupted))
                errors[which] += (missed[0, at] @ gradient[0, at]).item() / len(task)
        np.testing.assert_allclose(found.features[layer], expected, atol=1e-8)
        np.testing.assert_allclose(found.errors[layer], errors, atol=1e-8)
    best = found.top(1)[0]
    assert abs(found.effect(best)) == max(np.abs(effects).max() for effects in found.features)
    assert found.effect(circuits.Node(1, 0, circuits.ERROR)) == found.errors[1, 0]


def test_integrated_gradients_account_for_the_whole_gap_and_one_gradient_does_not(model, task, saes):
    gaps = []
    for row in range(len(task)):
        clean, corrupted = pair(model, task, row, HIGH)
        gaps.append((metric(model, task, row, clean, HIGH) - metric(model, task, row, corrupted, HIGH)).item())
    fine = circuits.feature_circuit(model, saes, task, steps=64)
    assert fine.gap == pytest.approx(np.mean(gaps), rel=1e-6)
    np.testing.assert_allclose(fine.completeness, 1, atol=0.02)
    coarse = circuits.feature_circuit(model, saes, task, steps=1)
    assert np.abs(coarse.completeness - 1).min() > np.abs(fine.completeness - 1).max()
    assert f"{LOW} 100%" in repr(fine) or f"{LOW} 99%" in repr(fine) or f"{LOW} 101%" in repr(fine)


def test_edges_are_finite_differences_through_the_target_feature(model, task, saes):
    """Push a source a little (not too little: norms are computed in float32): how far does the target move?"""
    circuit = circuits.feature_circuit(model, saes, task)
    edges = circuits.circuit_edges(model, saes, task, circuit, k=4)
    assert edges == tuple(sorted(edges, key=lambda edge: -abs(edge.weight)))
    assert {edge.source.layer for edge in edges} == {0}
    names = list(task.positions)
    for edge in edges[:6]:
        total = 0.0
        for row in range(len(task)):
            places = [task.positions[name][row].item() for name in names]
            clean, corrupted = pair(model, task, row, LOW)
            at = places[edge.source.position]
            if edge.source.feature == circuits.ERROR:
                missed = (clean - saes[0](clean)) - (corrupted - saes[0](corrupted))
                move = missed[0, at].detach()
            else:
                change = (saes[0].encode(clean) - saes[0].encode(corrupted))[0, at, edge.source.feature]
                move = (change * saes[0].W_dec[edge.source.feature]).detach()
            to = places[edge.target.position]

            def target(scale, clean=clean, move=move, at=at, to=to, row=row, feature=edge.target.feature):
                states = clean.clone()
                states[0, at] += scale * move
                seen = {}
                model.run_with_hooks(
                    task.ids[row][None],
                    fwd_hooks=[
                        (check_hook(model, LOW), lambda state, hook: states),
                        (check_hook(model, HIGH), lambda state, hook: seen.update(high=state.detach())),
                    ],
                    prepend_bos=False,
                )
                return saes[1].encode(seen["high"])[0, to, feature].item()

            high = next(iter(pair(model, task, row, HIGH))).clone().requires_grad_()
            (gradient,) = torch.autograd.grad(metric(model, task, row, high, HIGH), high)
            slope = (gradient[0, to] @ saes[1].W_dec[edge.target.feature]).item()
            total += (target(1e-3) - target(-1e-3)) / 2e-3 * slope / len(task)
        assert edge.weight == pytest.approx(total, rel=5e-3, abs=1e-5)


def test_everything_is_the_model_and_nothing_is_zero(model, task, saes):
    circuit = circuits.feature_circuit(model, saes, task)
    found = faithful.faithfulness(model, saes, task, circuit, sizes=SIZES)
    assert found.sizes.tolist() == [0, 2, 2 * 2 * 96]
    assert found.faithfulness[-1] == pytest.approx(1, abs=1e-8)
    without = faithful.faithfulness(model, saes, task, circuit, sizes=SIZES, errors="ablated")
    assert without.faithfulness[0] == pytest.approx(0, abs=1e-8)
    for curve in (found, without):
        assert curve.completeness[0] == pytest.approx(curve.faithfulness[-1]), "the complement of nothing is everything"
        assert curve.completeness[-1] == pytest.approx(curve.faithfulness[0])
        assert curve.model == pytest.approx(found.model)
    assert abs(without.faithfulness[-1] - 1) > 1e-3, "an SAE without its errors is not the model"


def test_a_model_that_has_to_run_as_a_whole_gives_the_same_faithfulness(model, task, saes, monkeypatch):
    circuit = circuits.feature_circuit(model, saes, task)
    found = faithful.faithfulness(model, saes, task, circuit, sizes=SIZES)
    monkeypatch.setattr("saekit.models.blocks.block_calls", lambda *arguments: None)
    whole = faithful.faithfulness(model, saes, task, circuit, sizes=SIZES)
    np.testing.assert_allclose(whole.faithfulness, found.faithfulness, atol=1e-8)
    np.testing.assert_allclose(whole.completeness, found.completeness, atol=1e-8)


@pytest.mark.parametrize("errors", ["kept", "ablated"])
def test_a_feature_s_drop_is_the_faithfulness_lost_when_the_circuit_is_found_without_it(model, task, saes, errors):
    circuit = circuits.feature_circuit(model, saes, task)
    found = minimal.minimality(model, saes, task, circuit, size=3, errors=errors)
    assert found.nodes == circuit.top(3)
    assert np.ptp(found.drop) > 1e-4, "the features differ"
    for node, drop in zip(found.nodes, found.drop, strict=True):
        effects = [effect.copy() for effect in circuit.features]
        effects[node.layer][node.position, node.feature] = 0
        without = replace(circuit, features=tuple(effects))
        sizes, of = [2], {"errors": errors}
        left = faithful.faithfulness(model, saes, task, without, sizes=sizes, **of).faithfulness[0]
        assert drop == pytest.approx(found.faithfulness - left, abs=1e-8)
    assert found.needed(-1e9) == found.nodes
    assert f"errors {errors}: faithfulness {found.faithfulness:.2f} of 3 features" in repr(found)
    with pytest.raises(SAEError, match="at least 1, not 0"):
        minimal.minimality(model, saes, task, circuit, size=0)
    with pytest.raises(SAEError, match="'kept' or 'ablated'"):
        minimal.minimality(model, saes, task, circuit, errors="lost")


def test_a_basis_has_no_error_so_that_ablating_errors_changes_nothing(model, task):
    states = hidden_states(model, torch.as_tensor(tiny.random_tokens(8, 32, 400).ids).long(), LOW).flatten(0, 1)
    basis = random_directions(states.float(), LOW)
    basis = type(basis)(basis.name, LOW, basis.rows.double(), basis.mean.double() * 0, rectified=False)
    circuit = circuits.feature_circuit(model, [basis], task)
    np.testing.assert_allclose(circuit.errors, 0, atol=1e-5)
    kept, ablated = (
        faithful.faithfulness(model, [basis], task, circuit, sizes=[0, 3, 64], errors=errors)
        for errors in ("kept", "ablated")
    )
    np.testing.assert_allclose(kept.faithfulness, ablated.faithfulness, atol=1e-4)
    assert kept.faithfulness[0] == pytest.approx(0, abs=1e-4)


def test_a_kept_feature_stays_and_all_others_take_their_means_in_every_layer(model, task, saes):
    """One circuit by hand: states are edited layer by layer, the upper layer sees what the lower edit made of it."""
    circuit = circuits.feature_circuit(model, saes, task)
    found = faithful.faithfulness(model, saes, task, circuit, sizes=[2], errors="ablated")
    kept = circuit.top(2)
    names, n = list(task.positions), len(task)
    mean = {}
    for layer, (hook, sae) in enumerate(zip((LOW, HIGH), saes, strict=True)):
        for which, name in enumerate(names):
            at = [next(iter(pair(model, task, row, hook)))[0, task.positions[name][row]] for row in range(n)]
            active = sae.encode(torch.stack(at)).detach()
            mean[layer, which] = (active.mean(0), (torch.stack(at) - active @ sae.W_dec).mean(0).detach())
    total = 0.0
    for row in range(n):
        hooks = []
        for layer, (hook, sae) in enumerate(zip((LOW, HIGH), saes, strict=True)):

            def edit(state, hook, layer=layer, sae=sae, row=row):
                state = state.clone()
                for which, name in enumerate(names):
                    at = task.positions[name][row]
                    features, error = (part.clone() for part in mean[layer, which])
                    for node in kept:
                        if (node.layer, node.position) == (layer, which):
                            features[node.feature] = sae.encode(state[0, at])[node.feature]
                    state[0, at] = features @ sae.W_dec + error
                return state.detach()

            hooks.append((check_hook(model, hook), edit))
        logits = model.run_with_hooks(task.ids[row][None], fwd_hooks=hooks, prepend_bos=False)[0, -1].detach()
        total += (logits[task.answers[row]] - logits[task.foils[row]]).item() / n
    assert found.faithfulness[0] == pytest.approx((total - found.nothing) / (found.model - found.nothing), abs=1e-7)


def test_what_cannot_be_a_circuit_is_explained(model, task, saes):
    with pytest.raises(SAEError, match="at least one SAE"):
        circuits.feature_circuit(model, [], task)
    with pytest.raises(SAEError, match="one dictionary a hook point"):
        circuits.feature_circuit(model, [saes[0], saes[0]], task)
    with pytest.raises(SAEError, match="for the residual stream"):
        circuits.feature_circuit(model, [tiny.topk_sae(32, 96, hook_name="blocks.0.hook_mlp_out").double()], task)
    circuit = circuits.feature_circuit(model, saes, task)
    with pytest.raises(SAEError, match="pass those that it was made with"):
        faithful.faithfulness(model, saes[:1], task, circuit)
    with pytest.raises(SAEError, match="'kept' or 'ablated'"):
        faithful.faithfulness(model, saes, task, circuit, errors="x")
    with pytest.raises(SAEError, match="of another dictionary"):
        faithful.faithfulness(model, [tiny.topk_sae(32, 96, hook_name=LOW, seed=9).double(), saes[1]], task, circuit)
    for sizes, message in (((), "at least one number of features"), ((-1, 3), "at least 0, not -1"), ((1.5,), "1.5")):
        with pytest.raises(SAEError, match=message):
            faithful.faithfulness(model, saes, task, circuit, sizes=sizes)
    for steps in (0, -1, 2.5, True):
        with pytest.raises(SAEError, match=f"steps must be a whole number, at least 1, not {steps}"):
            circuits.feature_circuit(model, saes, task, steps=steps)
    with pytest.raises(SAEError, match="k must be a whole number, at least 1"):
        circuits.circuit_edges(model, saes, task, circuit, k=0)
    with pytest.raises(TaskError, match="no gap to account for"):
        circuits.feature_circuit(model, saes, replace(task, ids_corrupted=task.ids))
    for size in (0, -1):
        with pytest.raises(TaskError, match="batch_size must be a whole number of prompts, at least 1"):
            circuits.feature_circuit(model, saes, task, batch_size=size)


def test_means_of_one_prompt_ablate_nothing_and_are_refused(model, task, saes):
    circuit = circuits.feature_circuit(model, saes, task)
    for few, message in (
        (task[:1], "one pair: .* Add pairs"),
        (task.select([1, 1]), "all 2 clean prompts .* the same"),
    ):
        for call in (faithful.faithfulness, minimal.minimality, Measure):
            with pytest.raises(TaskError, match=message):
                call(model, saes, few, circuit)
    start = replace(task, positions={name: torch.zeros(len(task), dtype=torch.long) for name in task.positions})
    for call in (faithful.faithfulness, minimal.minimality):
        with pytest.raises(TaskError, match="also with all features and errors at their means: there is no share"):
            call(model, saes, start, circuit)  # every prompt begins with BOS


def test_by_default_the_effects_account_for_most_of_the_gap(model, task, saes):
    found = circuits.feature_circuit(model, saes, task)
    assert found.steps == 5
    np.testing.assert_allclose(found.completeness, 1, atol=0.1)
