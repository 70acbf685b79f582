"""Exercises of the notebook on probes."""

from saekit._exercise_list import Exercise

EXERCISES: dict[str, Exercise] = {}
