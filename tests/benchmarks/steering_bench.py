"""What steering costs beside plain generation, on the packaged model and the bundled SAE.

Time is processor time with one thread: on a machine that does other things as well, wall time measures those. Runs
of both kinds alternate, and the median of the ratios of neighbours counts. Plain is the faster of two: the bridge's
own ``generate`` with its key-value cache, and saekit's without intervention. Clamping is measured, which encodes with
the SAE at every token; adding is cheaper.
"""

import time
from statistics import median

import torch

TOKENS = 24
REPEATS = 5
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
PROMPT = "The kettle takes four minutes to boil, so there is time to tell you about the place where I grew up. It was"


def steering_cost() -> dict[str, float]:
    """Measure tokens a second, the first token, and a batch of eight strengths, each over plain generation."""
    from saekit.models import encode_text, load_model
    from saekit.saes import load_sae
    from saekit.steering import Intervention, generate, generate_stream

    model = load_model(progress=False)
    sae = load_sae(model=model)
    ids = encode_text(model, PROMPT)
    options = {"max_new_tokens": TOKENS, "stop_at_eos": False}
    clamp = Intervention.on(sae, 7, 20.0, mode="clamp", unit="activation")

    def upstream() -> None:
        model.generate(ids[None], max_new_tokens=TOKENS, do_sample=False, stop_at_eos=False, verbose=False)

    def first(intervention) -> None:
        next(generate_stream(model, ids, intervention, sae=sae, **options))

    def run(intervention, **more) -> None:
        generate(model, ids, intervention, sae=sae, **options, **more)

    runs = {
        "upstream": upstream,
        "plain": lambda: run(None),
        "steered": lambda: run(clamp),
        "eight": lambda: run(clamp, strengths=STRENGTHS),
        "first_plain": lambda: first(None),
        "first_steered": lambda: first(clamp),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for work in runs.values():  # warm up
            work()
        laps = [{name: _seconds(work) for name, work in runs.items()} for _ in range(REPEATS)]
    finally:
        torch.set_num_threads(threads)
    return {
        "steering_tokens_ratio": median(min(lap["plain"], lap["upstream"]) / lap["steered"] for lap in laps),
        "steering_first_token_ratio": median(lap["first_steered"] / lap["first_plain"] for lap in laps),
        "steering_eight_strengths_ratio": median(lap["eight"] / lap["plain"] for lap in laps),
        "steering_plain_over_upstream": median(lap["plain"] / lap["upstream"] for lap in laps),
        "steering_tokens_per_second": TOKENS / median(lap["steered"] for lap in laps),
    }


def _seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


BENCHES = [steering_cost]
