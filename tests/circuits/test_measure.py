"""Faithfulness size by size: the numbers of the whole curve, and an end between batches."""

import numpy as np
import pytest
import torch

from saekit.circuits.faithful import faithfulness
from saekit.circuits.graph import feature_circuit
from saekit.circuits.measure import Interrupted, Measure, stoppable
from saekit.circuits.result import checked_circuit
from saekit.circuits.tasks import task_from_pairs
from saekit.errors import SAEError
from tests import tiny

LOW, HIGH = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def made(model):
    saes = [tiny.topk_sae(32, 96, hook_name=hook, seed=seed) for seed, hook in enumerate((LOW, HIGH))]
    task = task_from_pairs(model, tiny.PAIRS)
    return saes, task, feature_circuit(model, saes, task)


@pytest.mark.parametrize("errors", ["kept", "ablated"])
def test_one_size_at_a_time_gives_the_numbers_of_the_curve(model, made, errors):
    saes, task, circuit = made
    sizes = [0, 1, 7, 60]
    curve = faithfulness(model, saes, task, circuit, sizes=sizes, errors=errors)
    measure = Measure(model, saes, task, circuit)
    points = [measure(size, errors) for size in reversed(sizes)][::-1]
    np.testing.assert_allclose([p.faithfulness for p in points], curve.faithfulness, atol=1e-6)
    np.testing.assert_allclose([p.completeness for p in points], curve.completeness, atol=1e-6)
    assert (measure.model, measure.nothing) == pytest.approx((curve.model, curve.nothing), abs=1e-6)


def test_a_task_ends_before_its_next_batch_and_leaves_no_hook(model, made):
    saes, task, circuit = made
    before = model(task.ids[0][None])
    asked = []
    measure = Measure(model, saes, task, circuit)
    with pytest.raises(Interrupted):
        measure(3, "kept", stopped=lambda: asked.append(1) or len(asked) > 5)
    assert len(asked) == 6
    assert torch.equal(model(task.ids[0][None]), before)
    heard = stoppable(task, lambda: False)
    assert [part.clean for _, part in heard.batches(2)] == [part.clean for _, part in task.batches(2)]
    after = measure(3, "kept")
    assert after == Measure(model, saes, task, circuit)(3, "kept"), "what was begun does not change what comes after"


def test_a_circuit_of_other_dictionaries_or_positions_is_refused(model, made):
    saes, task, circuit = made
    assert [layer.hook_name for layer in checked_circuit(model, saes[::-1], task, circuit)] == [LOW, HIGH]
    with pytest.raises(SAEError, match=r"with 96, 96 features, the dictionaries are of .* with 96: pass those"):
        checked_circuit(model, saes[:1], task, circuit)
    wide = [saes[0], tiny.topk_sae(32, 128, hook_name=HIGH)]
    with pytest.raises(SAEError, match="with 96, 128: pass those that it was made with"):
        checked_circuit(model, wide, task, circuit)
    from dataclasses import replace

    renamed = replace(task, positions={"first": task.positions["end"]})
    with pytest.raises(SAEError, match="the circuit has positions first difference, end, the task first"):
        checked_circuit(model, saes, renamed, circuit)
    with pytest.raises(SAEError, match="'kept' or 'ablated', not 'x'"):
        Measure(model, saes, task, circuit)(1, "x")
