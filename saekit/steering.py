"""Steering: change the residual stream along features or other directions, and see what becomes of the text.

    intervention = sk.Intervention.on(sae, 2771, 2.0, index=index)      # add twice its own maximum
    sk.generate(model, "My holiday", intervention, sae=sae).texts[0]

An intervention is plain data (`Intervention`). Hooks are on the model only while a pass of it runs.
"""

from saekit._steering_baselines import difference_of_means
from saekit._steering_curve import SteeringSweep, SweepPoint
from saekit._steering_edit import Edit
from saekit._steering_effects import SideEffects, side_effects
from saekit._steering_generate import Generation, Step, Stream, generate, generate_stream
from saekit._steering_intervention import Intervention
from saekit._steering_sweep import steering_sweep

__all__ = [
    "Edit", "Generation", "Intervention", "SideEffects", "SteeringSweep", "Step", "Stream", "SweepPoint",
    "difference_of_means", "generate", "generate_stream", "side_effects", "steering_sweep",
]  # fmt: skip
