"""Exercises of the notebook on circuits."""

from saekit._exercise_list import Exercise

EXERCISES: dict[str, Exercise] = {}
