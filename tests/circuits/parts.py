"""What the circuit tests compute by hand: the logit difference and the states of one pair of prompts."""

from saekit.models import hidden_states, logits_from

LOW, HIGH = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


def metric(model, task, row, states, hook):
    logits = logits_from(model, task.ids[row][None], states, hook)[0, -1]
    return logits[task.answers[row]] - logits[task.foils[row]]


def pair(model, task, row, hook):
    return (hidden_states(model, ids[row][None], hook) for ids in (task.ids, task.ids_corrupted))
