"""How long the slowest notebook takes, in units of a fixed piece of model work.

Both are timed by `make test`, which runs them side by side on every core; this reads what it wrote.
"""

import json

import torch

from tests.__main__ import NOTEBOOK_SECONDS

ROWS, POS, ROUNDS = 8, 128, 40
FLOOR = "model work"


def notebook_seconds() -> dict[str, float]:
    """Return the slowest notebook's time over that of the model work; {} before the first `make test`."""
    if not NOTEBOOK_SECONDS.is_file():
        print("(no times of notebooks yet: make test)", end=" ")
        return {}
    seconds = json.loads(NOTEBOOK_SECONDS.read_text(encoding="utf-8"))
    slowest = max(seconds[name] for name in seconds if name[:2].isdigit())
    return {"notebook_seconds_over_floor": slowest / seconds[FLOOR], "notebook_seconds": slowest}


def floor() -> None:
    """Run the packaged model over and over on the same tokens: as many forward passes as a notebook has in it."""
    from saekit.models import load_model

    model = load_model(progress=False)
    ids = torch.arange(ROWS * POS).reshape(ROWS, POS) % model.cfg.d_vocab
    with torch.no_grad():
        for _ in range(ROUNDS):
            model(ids, prepend_bos=False)


BENCHES = [notebook_seconds]

if __name__ == "__main__":
    floor()
