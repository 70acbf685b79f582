"""What a reader waits for after editing the text in the top-activations view, beside what it must cost.

The floor is the bare forward to the hook's layer plus ``sae.encode`` of the same text. Time is processor time of the
whole process with one thread: the view works in a thread of its own, and on a machine that does other things as well,
wall time measures those. The view's messages go to a comm that packs them as Jupyter would and drops them.
"""

import json
import time
from statistics import median

import torch

from tests.benchmarks.index_bench import PARTS

ROWS = 16  # of the corpus behind the index, 128 tokens each
REPEATS = 15
PROMPT = "The doctor said on day {} that she would be late because of the snow, and nobody was surprised."


def prompt_view() -> dict[str, float]:
    """Return an edited prompt in the view over one forward and one encode: each between two floors."""
    from saekit.index import FeatureIndex
    from saekit.models import encode_text, hidden_states
    from saekit.views.top_activations import TopActivations

    model, sae, tokens = PARTS["real"](ROWS)
    index = FeatureIndex.build(model, sae, tokens, examples_per_feature=20, progress=False)
    view = TopActivations(index, model=model, sae=sae)
    view.comm.send = lambda data=None, buffers=None, **_: json.dumps(data, ensure_ascii=False)

    @torch.no_grad()
    def floor(text: str) -> None:
        states = hidden_states(model, encode_text(model, text)[None], index.hook_name)
        sae.encode(states.to(sae.dtype))

    def edited(text: str) -> None:
        view.prompt = text
        if not view.wait(60) or view.error:
            raise RuntimeError(f"the prompt was not read: {view.error!r}")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        floor(PROMPT.format("")), edited(PROMPT.format(""))  # warm up
        ratios = []
        for number in range(REPEATS):
            text = PROMPT.format(number)
            before, seen, after = (_seconds(work, text) for work in (floor, edited, floor))
            ratios.append(2 * seen / (before + after))
    finally:
        torch.set_num_threads(threads)
        view.close()
    return {"prompt_view_over_floor": median(ratios)}


def _seconds(work, text: str) -> float:
    start = time.process_time()
    work(text)
    return time.process_time() - start


BENCHES = [prompt_view]
