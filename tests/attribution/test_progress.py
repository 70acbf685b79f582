"""Every attribution that may take long says how far it is and ends when it is asked to."""

import pytest

from saekit.attribution import (
    activation_patching,
    attribution_patching,
    direct_logit_attribution,
    logit_attribution_by_component,
)
from saekit.errors import Stopped
from tests import tiny

PROMPTS = ["The cat sat on the mat", "In 1984", "The cat sat on the mat. A cat"]


def calls(model):
    """Return each of them, asked about three prompts of three lengths, and the total that it counts to."""
    saes = [tiny.topk_sae(32, 96, hook_name=f"blocks.{layer}.hook_resid_post", seed=layer) for layer in (0, 1)]
    nodes = attribution_patching(model, saes[0], PROMPTS, answer=7).top(5, kinds=("feature", "error"))
    return (
        (lambda **how: direct_logit_attribution(model, saes, PROMPTS, answer=7, **how), 3),
        (lambda **how: logit_attribution_by_component(model, PROMPTS, answer=7, **how), 3),
        (lambda **how: attribution_patching(model, saes, PROMPTS, answer=7, **how), 6),
        (lambda **how: activation_patching(model, saes[0], PROMPTS, answer=7, nodes=nodes, batch_size=1, **how), 5),
        (lambda **how: activation_patching(model, saes[0], PROMPTS, answer=7, k=2, **how), None),
    )


def test_progress_counts_to_the_total_and_the_result_is_the_same(model):
    for call, total in calls(model):
        told = []
        found = call(progress=lambda *counts, told=told: told.append(counts))
        assert [counts[1] for counts in told] == [total] * len(told)
        assert told[-1][0] == (total or 3 * 2)
        assert found.agreement(call()).largest_difference == 0


def test_stop_is_heard_between_batches(model):
    for call, _ in calls(model):
        asked = []
        with pytest.raises(Stopped):
            call(stop=lambda asked=asked: asked.append(1) or len(asked) > 2)
        assert len(asked) == 3
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
