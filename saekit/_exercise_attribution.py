"""Exercises of the notebook on attribution."""

from saekit._exercise_list import Exercise

EXERCISES: dict[str, Exercise] = {}
