"""Steering: change the residual stream along features or other directions, and see what becomes of the text.

    intervention = sk.Intervention.on(sae, 2771, 2.0, index=index)      # add twice its own maximum
    sk.generate(model, "My holiday", intervention).texts[0]

An intervention is plain data. Hooks are on the model only while a pass of it runs. To read in order:

1. `intervention`: what to change, as data: an `Edit` of a feature or along a direction, several in an `Intervention`.
2. `plan`: the interventions of a batch at work, as hooks for whatever runs on the model.
3. `prompt`: from a prompt to tokens, and from tokens that come one by one to text.
4. `generation`: text under interventions, several side by side, whole or token by token.
5. `effects`: what steering costs, in the eyes of the model left alone.
6. `baselines`: what a feature has to be better than.
7. `sweep`: all of it over strengths.
"""

from saekit.steering.baselines import KINDS, baseline, difference_of_means, random_feature
from saekit.steering.effects import SideEffects, criterion, neutral_kl, side_effects
from saekit.steering.generation import Generation, NextTokens, Sampler, Stream, generate, generate_stream
from saekit.steering.intervention import MODES, UNITS, Edit, Intervention, bounded, check_feature, checked_positions
from saekit.steering.plan import Plan, planned
from saekit.steering.prompt import Decoder, has_chat, prompt_ids
from saekit.steering.sweep import SteeringSweep, SweepPoint, steering_sweep

__all__ = [
    "KINDS",
    "MODES",
    "UNITS",
    "Decoder",
    "Edit",
    "Generation",
    "Intervention",
    "NextTokens",
    "Plan",
    "Sampler",
    "SideEffects",
    "SteeringSweep",
    "Stream",
    "SweepPoint",
    "baseline",
    "bounded",
    "check_feature",
    "checked_positions",
    "criterion",
    "difference_of_means",
    "generate",
    "generate_stream",
    "has_chat",
    "neutral_kl",
    "planned",
    "prompt_ids",
    "random_feature",
    "side_effects",
    "steering_sweep",
]
