"""Exercises with answers that check themselves: `check(name, answer)`, `hint(name)`, `solution(name)`.

None of the three ever raises, so that a notebook with blank or wrong answers still runs to its end.
"""

import difflib
import inspect
import re
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from saekit.exercises import (
    attribution as _exercise_attribution,
    circuits as _exercise_circuits,
    exercise as _exercise_list,
    probes as _exercise_probes,
    steering as _exercise_steering,
    superposition as _exercise_superposition,
    training as _exercise_training,
    transfer as _exercise_transfer,
)
from saekit.exercises.exercise import Exercise

_OF_NOTEBOOKS = (
    *(_exercise_superposition, _exercise_training, _exercise_attribution, _exercise_steering, _exercise_circuits),
    *(_exercise_probes, _exercise_transfer),
)
EXERCISES = dict(_exercise_list.EXERCISES)
for _module in _OF_NOTEBOOKS:
    EXERCISES |= _module.EXERCISES
RTOL, ATOL = 1e-4, 1e-5  # float32 answers pass; a wrong formula does not


@dataclass(frozen=True)
class Verdict:
    """What a check found. Prints as one line, the same on every run; true if the answer passed."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        """Return whether the answer passed."""
        return self.passed

    def __repr__(self) -> str:
        """Return one line: a mark and the message."""
        return f"{'✓' if self.passed else '✗'} {self.message}"


@dataclass(frozen=True)
class Note:
    """Text to read: prints as it is."""

    text: str

    def __repr__(self) -> str:
        """Return the text itself, so that a notebook shows it without quotes."""
        return self.text


def check(name: str, answer: Any) -> Verdict:
    """Compare an answer with the reference on every case.

    Args:
        name: Which exercise; an unknown name gives a verdict that lists the names.
        answer: A function, or a plain value where the exercise asks for one. ``None`` and ``...`` count as
            not attempted, and so does a function that returns them or raises NotImplementedError.

    Returns:
        The verdict. It names the mistake if the answer agrees with a known wrong one on all cases.
    """
    exercise = _find(name)
    if exercise is None:
        return Verdict(False, _unknown(name))
    cases = exercise.cases()
    if _blank(answer):
        return Verdict(False, f"{name}: not attempted yet")
    if not callable(answer):
        if cases != [()]:
            return Verdict(False, f"{name}: expected a function, got {type(answer).__name__}")
        answer = _constant(answer)

    outcomes = [_call(answer, case) for case in cases]
    if all(_blank(outcome) for outcome in outcomes):
        return Verdict(False, f"{name}: not attempted yet")
    wanted = [np.asarray(exercise.solve(*case)) for case in cases]
    if all(_agree(got, want) for got, want in zip(outcomes, wanted, strict=True)):
        return Verdict(True, f"{name}: {'all ' if len(cases) > 1 else ''}{_count(len(cases), 'case')} passed")

    for wrong, message in exercise.mistakes:
        expected = (_call(wrong, case) for case in cases)
        if all(_agree(_nan_as_zero(got), want) for got, want in zip(outcomes, expected, strict=True)):
            return Verdict(False, f"{name}: {message}")
    return Verdict(False, f"{name}: {_first_difference(outcomes, wanted)}")


def hint(name: str, level: int = 1) -> Note:
    """Return a hint: level 1 is the mildest; beyond the last comes the last again."""
    exercise = _find(name)
    if exercise is None:
        return Note(_unknown(name))
    last = len(exercise.hints)
    level = min(max(level, 1), last) if isinstance(level, int) else 1
    more = f"hint({name!r}, {level + 1})" if level < last else f"solution({name!r})"
    return Note(f"Hint {level} of {last}: {exercise.hints[level - 1]}\n(More: {more})")


def solution(name: str) -> Note:
    """Return the source of the answer we would write."""
    exercise = _find(name)
    return Note(_unknown(name) if exercise is None else inspect.getsource(exercise.solve).rstrip())


def _find(name: Any) -> Exercise | None:
    return EXERCISES.get(name) if isinstance(name, str) else None


def _unknown(name: Any) -> str:
    shown = repr(name) if isinstance(name, str) else f"(a name of type {type(name).__name__})"
    near = difflib.get_close_matches(name, EXERCISES, n=3) if isinstance(name, str) else []
    near = near or list(EXERCISES)[:3]
    return f"no exercise is called {shown}; of {len(EXERCISES)} there are: {', '.join(near)}, ..."


def _blank(value: Any) -> bool:
    return value is None or value is ... or isinstance(value, NotImplementedError)


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _call(function: Callable, case: tuple) -> Any:
    """Return what the function gives on a copy of the case: a blank, an array, or the exception it raised."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning names a temporary file: it would differ between runs
            got = function(*deepcopy(case))
            return got if _blank(got) else np.asarray(got)
    except (Exception, SystemExit) as error:
        return error


def _agree(got: Any, want: Any) -> bool:
    """Return whether both are arrays of numbers with one shape and, up to rounding, the same values."""
    if not (_numeric(got) and _numeric(want)) or got.shape != want.shape:
        return False
    return np.allclose(got, want, rtol=RTOL, atol=ATOL, equal_nan=True)


def _nan_as_zero(value: Any) -> Any:
    """Return the value with 0 for NaN: an answer that also forgets 0 / 0 still has its main mistake named."""
    return np.asarray(np.nan_to_num(value, nan=0.0)) if _numeric(value) else value


def _numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _first_difference(outcomes: list, wanted: list[np.ndarray]) -> str:
    """Say in one line where an answer first departs from the reference, and how."""
    number, got, want = next(
        (number, got, want)
        for number, (got, want) in enumerate(zip(outcomes, wanted, strict=True), start=1)
        if not _agree(got, want)
    )
    where = f"case {number} of {len(wanted)}"
    if _blank(got):
        return f"{where} returned nothing; is there a path without a return?"
    if isinstance(got, BaseException):
        return f"{where} raised {type(got).__name__}: {_one_line(got)}"
    if got.shape != want.shape:
        return f"{where}: expected shape {want.shape}, got {got.shape}"
    if not _numeric(got):
        return f"{where}: expected numbers, got values of type {got.dtype}"
    if np.isnan(got).any() and not np.isnan(want).any():
        return f"{where}: the answer has NaN where a number is expected; is a denominator 0?"
    if want.ndim == 0:
        return f"{where}: expected {want.item():.4g}, got {got.item():.4g}"
    differ = ~np.isclose(got, want, rtol=RTOL, atol=ATOL, equal_nan=True)
    return f"{where}: right shape, wrong values ({differ.sum()} of {_count(want.size, 'number')})"


def _one_line(error: BaseException) -> str:
    """Return the error's text on one line, without memory addresses, which differ between runs."""
    try:
        text = re.sub(r"0x[0-9a-fA-F]+", "0x...", " ".join(str(error).split()))
    except Exception:  # a broken __str__ of the learner's own exception class
        text = ""
    return (text if len(text) <= 160 else text[:157] + "...") or "(no message)"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"
