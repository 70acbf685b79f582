"""What an exercise is: a reference answer, inputs to compare on, hints, and the mistakes learners make.

Arrays in, arrays out, as a notebook asks for them; the other files of this room hold a notebook's exercises each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Exercise:
    """One task.

    Attributes:
        solve: The answer we would write; its docstring states the task. Without parameters, where a
            plain value is asked for.
        cases: Returns the inputs to compare on, the same at every call: one tuple of arguments per case.
        hints: At least two, mildest first.
        mistakes: Answers that learners are known to give, each with what is wrong about it.
        minutes: Time to solve it.
        difficulty: 1 (one line) to 3 (needs a plan).
    """

    solve: Callable
    cases: Callable[[], list[tuple]]
    hints: tuple[str, ...]
    mistakes: tuple[tuple[Callable, str], ...] = ()
    minutes: int = 5
    difficulty: int = 1


def seeded(*settings: Any) -> list[tuple[np.random.Generator, Any]]:
    """Return each setting with a generator of its own, seeded by its place."""
    return [(np.random.default_rng(seed), setting) for seed, setting in enumerate(settings)]
