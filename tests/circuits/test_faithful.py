"""Faithfulness and minimality: circuits kept and ablated, against runs edited by hand and against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saekit.circuits import ablation_of, faithfulness, feature_circuit, minimality
from saekit.errors import SAEError, Stopped, TaskError
from saekit.models import check_hook, hidden_states
from saekit.saes import random_directions
from tests import tiny
from tests.circuits.parts import HIGH, LOW, pair

SIZES = [0, 2, 10**6]


def test_everything_is_the_model_and_nothing_is_zero(model, task, saes):
    circuit = feature_circuit(model, saes, task)
    found = faithfulness(model, saes, task, circuit, sizes=SIZES)
    assert found.sizes.tolist() == [0, 2, 2 * 2 * 96]
    assert found.faithfulness[-1] == pytest.approx(1, abs=1e-8)
    without = faithfulness(model, saes, task, circuit, sizes=SIZES, errors="ablated")
    assert without.faithfulness[0] == pytest.approx(0, abs=1e-8)
    for curve in (found, without):
        assert curve.completeness[0] == pytest.approx(curve.faithfulness[-1]), "the complement of nothing is everything"
        assert curve.completeness[-1] == pytest.approx(curve.faithfulness[0])
        assert curve.model == pytest.approx(found.model)
    assert abs(without.faithfulness[-1] - 1) > 1e-3, "an SAE without its errors is not the model"


def test_a_model_that_has_to_run_as_a_whole_gives_the_same_faithfulness(model, task, saes, monkeypatch):
    circuit = feature_circuit(model, saes, task)
    found = faithfulness(model, saes, task, circuit, sizes=SIZES)
    monkeypatch.setattr("saekit.models.blocks.block_calls", lambda *arguments: None)
    whole = faithfulness(model, saes, task, circuit, sizes=SIZES)
    np.testing.assert_allclose(whole.faithfulness, found.faithfulness, atol=1e-8)
    np.testing.assert_allclose(whole.completeness, found.completeness, atol=1e-8)


@pytest.mark.parametrize("errors", ["kept", "ablated"])
def test_a_feature_s_drop_is_the_faithfulness_lost_when_the_circuit_is_found_without_it(model, task, saes, errors):
    circuit = feature_circuit(model, saes, task)
    found = minimality(model, saes, task, circuit, size=3, errors=errors)
    assert found.nodes == circuit.top(3)
    assert np.ptp(found.drop) > 1e-4, "the features differ"
    for node, drop in zip(found.nodes, found.drop, strict=True):
        effects = [effect.copy() for effect in circuit.features]
        effects[node.layer][node.position, node.feature] = 0
        without = replace(circuit, features=tuple(effects))
        sizes, of = [2], {"errors": errors}
        left = faithfulness(model, saes, task, without, sizes=sizes, **of).faithfulness[0]
        assert drop == pytest.approx(found.faithfulness - left, abs=1e-8)
    assert found.needed(-1e9) == found.nodes
    assert f"errors {errors}: faithfulness {found.faithfulness:.2f} of 3 features" in repr(found)
    with pytest.raises(SAEError, match="from 1 on, not 0"):
        minimality(model, saes, task, circuit, size=0)
    with pytest.raises(SAEError, match="'kept' or 'ablated'"):
        minimality(model, saes, task, circuit, errors="lost")


def test_a_basis_has_no_error_so_that_ablating_errors_changes_nothing(model, task):
    states = hidden_states(model, torch.as_tensor(tiny.random_tokens(8, 32, 400).ids).long(), LOW).flatten(0, 1)
    basis = random_directions(states.float(), LOW)
    basis = type(basis)(basis.name, LOW, basis.rows.double(), basis.mean.double() * 0, rectified=False)
    circuit = feature_circuit(model, [basis], task)
    np.testing.assert_allclose(circuit.errors, 0, atol=1e-5)
    kept, ablated = (
        faithfulness(model, [basis], task, circuit, sizes=[0, 3, 64], errors=errors) for errors in ("kept", "ablated")
    )
    np.testing.assert_allclose(kept.faithfulness, ablated.faithfulness, atol=1e-4)
    assert kept.faithfulness[0] == pytest.approx(0, abs=1e-4)


def test_a_kept_feature_stays_and_all_others_take_their_means_in_every_layer(model, task, saes):
    """One circuit by hand: states are edited layer by layer, the upper layer sees what the lower edit made of it."""
    circuit = feature_circuit(model, saes, task)
    found = faithfulness(model, saes, task, circuit, sizes=[2], errors="ablated")
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


def test_means_of_one_prompt_ablate_nothing_and_are_refused(model, task, saes):
    circuit = feature_circuit(model, saes, task)
    for few, message in (
        (task[:1], "one pair: .* Add pairs"),
        (task.select([1, 1]), "all 2 clean prompts .* the same"),
    ):
        for call in (faithfulness, minimality, ablation_of):
            with pytest.raises(TaskError, match=message):
                call(model, saes, few, circuit)
    start = replace(task, positions={name: torch.zeros(len(task), dtype=torch.long) for name in task.positions})
    for call in (faithfulness, minimality):
        with pytest.raises(TaskError, match="also with all features and errors at their means: there is no share"):
            call(model, saes, start, circuit)  # every prompt begins with BOS


def test_what_cannot_be_measured_is_explained(model, task, saes):
    circuit = feature_circuit(model, saes, task)
    with pytest.raises(SAEError, match="pass those that it was made with"):
        faithfulness(model, saes[:1], task, circuit)
    with pytest.raises(SAEError, match="'kept' or 'ablated'"):
        faithfulness(model, saes, task, circuit, errors="x")
    with pytest.raises(SAEError, match="'kept' or 'ablated', not 'x'"):
        ablation_of(model, saes, task, circuit).measure(1, "x")
    with pytest.raises(SAEError, match="of another SAE"):
        faithfulness(model, [tiny.topk_sae(32, 96, hook_name=LOW, seed=9).double(), saes[1]], task, circuit)
    for sizes, message in (((), "numbers of features, at least one"), ((-1, 3), "from 0 on, not -1"), ((1.5,), "1.5")):
        with pytest.raises(SAEError, match=message):
            faithfulness(model, saes, task, circuit, sizes=sizes)


@pytest.mark.parametrize("errors", ["kept", "ablated"])
def test_one_size_at_a_time_gives_the_numbers_of_the_curve(model, task, saes, errors):
    circuit = feature_circuit(model, saes, task)
    sizes = [0, 1, 7, 60]
    curve = faithfulness(model, saes, task, circuit, sizes=sizes, errors=errors)
    ablation = ablation_of(model, saes, task, circuit)
    points = [ablation.measure(size, errors) for size in reversed(sizes)][::-1]
    np.testing.assert_allclose([kept for kept, _ in points], curve.faithfulness, atol=1e-6)
    np.testing.assert_allclose([left for _, left in points], curve.completeness, atol=1e-6)
    assert (ablation.whole, ablation.nothing) == pytest.approx((curve.model, curve.nothing), abs=1e-6)


def test_measuring_says_how_far_it_is_and_ends_before_its_next_batch_leaving_no_hook(model, task, saes):
    circuit = feature_circuit(model, saes, task)
    before, asked, told = model(task.ids[0][None]), [], []
    ablation = ablation_of(model, saes, task, circuit, batch_size=1)
    with pytest.raises(Stopped):
        ablation.measure(3, "kept", stop=lambda: asked.append(1) or len(asked) > 4)
    assert len(asked) == 5, "three batches of the circuit, two of its complement"
    assert torch.equal(model(task.ids[0][None]), before)
    after = ablation.measure(3, "kept")
    assert after == ablation_of(model, saes, task, circuit, batch_size=1).measure(3, "kept")
    for call in (faithfulness, minimality, ablation_of):
        with pytest.raises(Stopped):
            call(model, saes, task, circuit, stop=lambda: True)
    faithfulness(model, saes, task, circuit, sizes=(3, 1), progress=lambda *counts: told.append(counts))
    minimality(model, saes, task, circuit, size=2, progress=lambda *counts: told.append(counts))
    assert told == 2 * [(1, 2), (2, 2)]
