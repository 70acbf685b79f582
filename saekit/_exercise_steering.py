"""Exercises of the notebook on steering."""

from saekit._exercise_list import Exercise

EXERCISES: dict[str, Exercise] = {}
