"""Exercises with answers that check themselves: `check(name, answer)`, `hint(name)`, `solution(name)`.

None of the three ever raises, so that a notebook with blank or wrong answers still runs to its end.
"""

from saekit.exercises.checking import ATOL, EXERCISES, RTOL, Note, Verdict, check, hint, solution
from saekit.exercises.exercise import Exercise

__all__ = ["ATOL", "EXERCISES", "RTOL", "Exercise", "Note", "Verdict", "check", "hint", "solution"]
