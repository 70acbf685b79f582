"""Feature circuits: effects and edges against patches made one by one and against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saekit.circuits import ERROR, Node, checked_circuit, circuit_edges, faithfulness, feature_circuit
from saekit.errors import SAEError, Stopped, TaskError
from saekit.models import check_hook, shuffled_model
from tests import tiny
from tests.circuits.parts import HIGH, LOW, metric, pair


def test_effects_are_gradient_times_change_summed_at_their_positions(model, task, saes):
    found = feature_circuit(model, saes[::-1], task, steps=1)
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
    assert found.effect(Node(1, 0, ERROR)) == found.errors[1, 0]


def test_integrated_gradients_account_for_the_whole_gap_and_one_gradient_does_not(model, task, saes):
    gaps = []
    for row in range(len(task)):
        clean, corrupted = pair(model, task, row, HIGH)
        gaps.append((metric(model, task, row, clean, HIGH) - metric(model, task, row, corrupted, HIGH)).item())
    fine = feature_circuit(model, saes, task, steps=64)
    assert fine.gap == pytest.approx(np.mean(gaps), rel=1e-6)
    np.testing.assert_allclose(fine.completeness, 1, atol=0.02)
    coarse = feature_circuit(model, saes, task, steps=1)
    assert np.abs(coarse.completeness - 1).min() > np.abs(fine.completeness - 1).max()
    assert f"{LOW} 100%" in repr(fine) or f"{LOW} 99%" in repr(fine) or f"{LOW} 101%" in repr(fine)


def test_edges_are_finite_differences_through_the_target_feature(model, task, saes):
    """Push a source a little (not too little: norms are computed in float32): how far does the target move?"""
    circuit = feature_circuit(model, saes, task)
    edges = circuit_edges(model, saes, task, circuit, k=4)
    assert edges == tuple(sorted(edges, key=lambda edge: -abs(edge.weight)))
    assert {edge.source.layer for edge in edges} == {0}
    names = list(task.positions)
    for edge in edges[:6]:
        total = 0.0
        for row in range(len(task)):
            places = [task.positions[name][row].item() for name in names]
            clean, corrupted = pair(model, task, row, LOW)
            at = places[edge.source.position]
            if edge.source.feature == ERROR:
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


def test_by_default_the_effects_account_for_most_of_the_gap(model, task, saes):
    found = feature_circuit(model, saes, task)
    assert found.steps == 5
    np.testing.assert_allclose(found.completeness, 1, atol=0.1)


def test_a_circuit_of_other_saes_or_positions_is_refused(model, task, saes):
    circuit = feature_circuit(model, saes, task)
    assert [layer.hook_name for layer in checked_circuit(model, saes[::-1], task, circuit)] == [LOW, HIGH]
    with pytest.raises(SAEError, match=r"with 96, 96 features, the SAEs are of .* with 96: pass those"):
        checked_circuit(model, saes[:1], task, circuit)
    wide = [saes[0], tiny.topk_sae(32, 128, hook_name=HIGH).double()]
    with pytest.raises(SAEError, match="with 96, 128: pass those that it was made with"):
        checked_circuit(model, wide, task, circuit)
    renamed = replace(task, positions={"first": task.positions["end"]})
    with pytest.raises(SAEError, match="the circuit has positions first difference, end, the task first"):
        checked_circuit(model, saes, renamed, circuit)


def test_what_cannot_be_a_circuit_is_explained(model, task, saes):
    with pytest.raises(SAEError, match="at least one SAE"):
        feature_circuit(model, [], task)
    with pytest.raises(SAEError, match="one SAE or Directions per hook point"):
        feature_circuit(model, [saes[0], saes[0]], task)
    with pytest.raises(SAEError, match="for the residual stream"):
        feature_circuit(model, [tiny.topk_sae(32, 96, hook_name="blocks.0.hook_mlp_out").double()], task)
    for steps in (0, -1, 2.5, True):
        with pytest.raises(SAEError, match=f"steps must be a whole number from 1 on, not {steps}"):
            feature_circuit(model, saes, task, steps=steps)
    with pytest.raises(SAEError, match="k must be a whole number from 1 on, not 0"):
        circuit_edges(model, saes, task, feature_circuit(model, saes, task), k=0)
    with pytest.raises(TaskError, match="no gap to account for"):
        feature_circuit(model, saes, replace(task, ids_corrupted=task.ids))
    for size in (0, -1):
        with pytest.raises(TaskError, match="batch_size must be a whole number from 1 on"):
            feature_circuit(model, saes, task, batch_size=size)


def test_a_circuit_and_its_edges_say_how_far_they_are_and_end_when_asked_to(model, task, saes):
    told = []
    circuit = feature_circuit(model, saes, task, batch_size=2, progress=lambda *counts: told.append(counts))
    assert told == [(n + 1, 2 * len(list(task.batches(2)))) for n in range(len(told))]
    told.clear()
    edges = circuit_edges(model, saes, task, circuit, k=2, batch_size=2, progress=lambda *counts: told.append(counts))
    assert told[-1] == (len(list(task.batches(2))),) * 2
    before = model(task.ids[0][None])
    for call in (feature_circuit, lambda *given, **how: circuit_edges(*given, circuit, **how)):
        asked = []
        with pytest.raises(Stopped):
            call(model, saes, task, batch_size=2, stop=lambda asked=asked: asked.append(1) or len(asked) > 1)
        assert len(asked) == 2
    assert torch.equal(model(task.ids[0][None]), before), "no hook is left"
    assert circuit_edges(model, saes, task, circuit, k=2, batch_size=2) == edges


def test_a_circuit_is_of_one_model_and_one_setting_of_its_sae(model, task):
    sae, other = (tiny.topk_sae(32, 96, k=k, hook_name="blocks.0.hook_resid_post").double() for k in (8, 2))
    circuit = feature_circuit(model, sae, task)
    with pytest.raises(SAEError, match=r"of another SAE than .*: k 8 against 2 "):
        faithfulness(model, other, task, circuit)
    with pytest.raises(SAEError, match=r"the circuit is of another model: weights "):
        faithfulness(shuffled_model(model), sae, task, circuit)
