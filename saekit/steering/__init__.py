"""Steering: change the residual stream along features or other directions, and see what becomes of the text.

    intervention = sk.Intervention.on(sae, 2771, 2.0, index=index)      # add twice its own maximum
    sk.generate(model, "My holiday", intervention, sae=sae).texts[0]

An intervention is plain data (`Intervention`). Hooks are on the model only while a pass of it runs.
"""

from saekit.steering.baselines import KINDS, baseline, difference_of_means
from saekit.steering.curve import SteeringSweep, SweepPoint
from saekit.steering.edit import MODES, UNITS, Edit, checked_positions, finite, whole
from saekit.steering.effects import SideEffects, criterion, neutral_kl, side_effects
from saekit.steering.generation import Generation, Step, Stream, generate, generate_stream
from saekit.steering.intervention import Intervention, check_feature
from saekit.steering.prompt import has_chat, prompt_ids
from saekit.steering.reader import Interrupted, stoppable
from saekit.steering.sweep import steering_sweep

__all__ = [
    "KINDS",
    "MODES",
    "UNITS",
    "Edit",
    "Generation",
    "Interrupted",
    "Intervention",
    "SideEffects",
    "SteeringSweep",
    "Step",
    "Stream",
    "SweepPoint",
    "baseline",
    "check_feature",
    "checked_positions",
    "criterion",
    "difference_of_means",
    "finite",
    "generate",
    "generate_stream",
    "has_chat",
    "neutral_kl",
    "prompt_ids",
    "side_effects",
    "steering_sweep",
    "stoppable",
    "whole",
]
