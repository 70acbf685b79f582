"""TaskPerformance and activation patching, against plain runs with hooks, one prompt and one patch at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saekit.circuits import patch_residual, task_performance
from saekit.errors import ModelError, Stopped, TaskError
from saekit.models import check_hook


def last_logits(model, ids, hooks=()):
    return model.run_with_hooks(ids[None], fwd_hooks=list(hooks), prepend_bos=False)[0, -1].detach()


def test_behaviour_is_that_of_prompts_run_one_by_one(model, task):
    for corrupted in (False, True):
        found = task_performance(model, task, corrupted=corrupted, batch_size=2)
        for row, ids in enumerate(task.ids_corrupted if corrupted else task.ids):
            logits = last_logits(model, ids)
            expected = logits[task.answers[row]] - logits[task.foils[row]]
            assert found.logit_difference[row].item() == pytest.approx(expected.item(), abs=1e-5)
            assert found.probability[row].item() == pytest.approx(logits.softmax(0)[task.answers[row]].item(), rel=1e-4)
            assert found.top[row] == (logits.argmax() == task.answers[row])
    assert found.share_right == (found.logit_difference > 0).float().mean()
    assert "own, corrupted: logit difference" in repr(found)
    assert "3 prompts" in repr(found)


def test_each_patch_is_that_of_one_hook_on_the_whole_model(model, task):
    found = patch_residual(model, task, batch_size=2)
    assert found.layers == (0, 1, 2)
    assert found.positions == ("first difference", "end")
    for number, layer in enumerate(found.layers):
        hook = check_hook(model, f"blocks.{layer}.hook_resid_post")
        for which, name in enumerate(found.positions):
            differences = []
            for row, (clean, corrupted) in enumerate(zip(task.ids, task.ids_corrupted, strict=True)):
                seen = {}

                def keep(state, hook, seen=seen):
                    seen["state"] = state.detach().clone()

                at = task.positions[name][row].item()

                def put(state, hook, seen=seen, at=at):
                    state = state.clone()
                    state[:, at] = seen["state"][:, at]
                    return state

                last_logits(model, clean, [(hook, keep)])
                logits = last_logits(model, corrupted, [(hook, put)])
                differences.append((logits[task.answers[row]] - logits[task.foils[row]]).item())
            assert found.difference[number, which] == pytest.approx(np.mean(differences), abs=1e-5)


def test_the_last_layer_at_the_end_restores_all_and_clean_states_restore_nothing_new(model, task):
    found = patch_residual(model, task, layers=[2], positions=["end", "first difference"])
    assert found.restored[0, 0] == pytest.approx(1, abs=1e-5)
    assert found.restored[0, 1] == pytest.approx(0, abs=1e-5), "nothing is left to act through"
    assert "1 layers x end, first difference; 3 pairs" in repr(found)


def test_a_position_that_the_corruption_has_not_reached_restores_nothing_and_is_not_run(model, task):
    early = replace(task, positions={"begin": torch.zeros(len(task), dtype=torch.long), **task.positions})
    rows = []
    with model.hooks(
        fwd_hooks=[(check_hook(model, "blocks.2.hook_resid_post"), lambda state, hook: rows.append(len(state)))]
    ):
        found = patch_residual(model, early, layers=[1])
    assert found.restored[0, 0] == pytest.approx(0, abs=1e-6)
    assert sum(rows) == (2 + 2) * len(task), "clean and corrupted prompts, and two of the three positions"
    assert found.restored[0, 1:] == pytest.approx(patch_residual(model, task, layers=[1]).restored[0])


def test_patching_says_how_far_it_is_and_ends_when_asked_to(model, task):
    told = []
    patch_residual(model, task, layers=[0, 2], progress=lambda *counts: told.append(counts))
    assert told[-1] == (2 * len(list(task.batches(8))),) * 2
    for call in (patch_residual, task_performance):
        with pytest.raises(Stopped):
            call(model, task, stop=lambda: True)


def test_what_cannot_be_patched_is_explained(model, task):
    with pytest.raises(TaskError, match="no position 'IO': it has first difference, end"):
        patch_residual(model, task, positions=["IO"])
    with pytest.raises(ModelError):
        patch_residual(model, task, layers=[7])
    same = replace(task, ids_corrupted=task.ids)
    with pytest.raises(TaskError, match="there is no gap to restore"):
        patch_residual(model, same)
