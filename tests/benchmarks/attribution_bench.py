"""What attributing a prediction costs on top of the runs that it cannot do without.

Floors: for attribution patching, one forward and one backward pass of the bare model for the clean and for the
corrupted run; for exact patching, as many batched forwards from the SAE's layer to the logits as there are patches.
Time is processor time with one thread, each measurement between two of its floor, on the packaged model with 16 pairs
of IOI prompts. What the view recomputes after an edited prompt of 20 tokens is in milliseconds.
"""

import time
from statistics import median

import torch

PROMPTS = 16
PATCHED = 64  # features a prompt
BATCH = 64
ROUNDS = 3
VIEW_PROMPT = "When Mary and John arrived at the old station in the evening, John gave a new {} to"
VIEW_TOKENS = 20
THINGS = ("letter", "ring", "drink", "bag", "car", "pen", "card")


def attribution_cost() -> dict[str, float]:
    """Measure attribution patching and exact patching against their floors."""
    from saekit.attribution import activation_patching, attribution_patching
    from saekit.circuits import ioi_task

    model, sae = parts()
    task = ioi_task(model, 4 * PROMPTS, seed=0)
    length = max({len(ids) for ids in task.ids}, key=lambda n: sum(len(ids) == n for ids in task.ids))
    task = task.select([row for row, ids in enumerate(task.ids) if len(ids) == length][:PROMPTS])
    asked = {"answer": task.answers, "foil": task.foils, "corrupted": list(task.ids_corrupted)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:

        def patching():
            return attribution_patching(model, sae, list(task.ids), **asked)

        exact = lambda: activation_patching(model, sae, list(task.ids), k=PATCHED, batch_size=BATCH, **asked)  # noqa: E731
        patching()  # warm up
        backward = _over(patching, lambda: forward_and_backward(model, task), ROUNDS)
        rest = _over(exact, lambda: rest_of_model(model, sae, task), 1)
    finally:
        torch.set_num_threads(threads)
    return {"attribution_over_backward": backward, "exact_patching_over_floor": rest}


def attribution_view() -> dict[str, float]:
    """Measure what the view does when a prompt is edited, in milliseconds of one processor: the slower quick method."""
    from saekit.models import encode_text
    from saekit.views.logit_attribution import LogitAttribution

    model, sae = parts()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = {}
    try:
        for method in ("direct", "patching"):
            view = LogitAttribution(model, sae, VIEW_PROMPT.format("book"), method=method)
            view.wait()

            def edit(thing: str, view=view) -> None:
                view.prompt = VIEW_PROMPT.format(thing)
                view.wait()

            edits = [lambda thing=thing: edit(thing) for thing in THINGS]
            out[method] = 1000 * median(_seconds(work) for work in edits)
            if view.error or len(encode_text(model, view.prompt)) != VIEW_TOKENS:
                raise ValueError(view.error or f"the prompts are not of {VIEW_TOKENS} tokens")
    finally:
        torch.set_num_threads(threads)
    return {"attribution_view_ms": max(out.values())} | {f"attribution_view_ms_{name}": ms for name, ms in out.items()}


BENCHES = [attribution_cost, attribution_view]


def parts():
    """Return the packaged model and its SAE (a random one if there is none)."""
    from saekit.models import load_model
    from saekit.saes import DEFAULT, baseline_sae, bundled, load_sae

    model = load_model(progress=False)
    hook = DEFAULT.split("/")[1]
    sae = load_sae(model=model) if DEFAULT in bundled() else baseline_sae(model, hook, kind="random", n_features=4608)
    return model, sae


def forward_and_backward(model, task) -> None:
    """Run both prompts of every pair, and each backwards from the logit difference, without any SAE."""
    for ids in (torch.stack(task.ids), torch.stack(task.ids_corrupted)):
        embedded: list[torch.Tensor] = []

        def start(states, hook, embedded=embedded):
            embedded.append(states.detach().requires_grad_())
            return embedded[0]

        logits = model.run_with_hooks(ids, fwd_hooks=[("blocks.0.hook_in", start)], prepend_bos=False)[:, -1]

        def pick(tokens, logits=logits):
            return logits.gather(1, tokens[:, None]).sum()

        torch.autograd.grad(pick(task.answers) - pick(task.foils), embedded[0])


@torch.no_grad()
def rest_of_model(model, sae, task) -> None:
    """Run the blocks above the SAE's layer, and the unembedding, as often as exact patching has to."""
    from saekit.models import hidden_states, logits_from
    from saekit.saes import sae_hook

    hook, ids = sae_hook(sae), torch.stack(task.ids)
    states = hidden_states(model, ids, hook)
    rows = torch.arange(len(ids)).repeat_interleave(PATCHED)
    for part in rows.split(BATCH):
        logits_from(model, ids[part], states[part], hook)


def _over(work, floor, rounds: int) -> float:
    """Return the median ratio of processor times; each work is compared with the mean of the floors around it."""
    ratios, before = [], _seconds(floor)
    for _ in range(rounds):
        seconds = _seconds(work)
        after = _seconds(floor)
        ratios.append(2 * seconds / (before + after))
        before = after
    return median(ratios)


def _seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
