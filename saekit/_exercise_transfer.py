"""Exercises of the notebook on transfer."""

from saekit._exercise_list import Exercise

EXERCISES: dict[str, Exercise] = {}
