"""Fixtures of the circuit tests: the tiny model, two SAEs of it and a task, in float64."""

import pytest
import torch

from saekit.circuits import task_from_pairs
from saekit.models import load_model
from tests import tiny
from tests.circuits.parts import HIGH, LOW


@pytest.fixture(scope="session")
def model(model_folder):
    loaded = load_model(str(model_folder), dtype=torch.float64)
    loaded.cfg.model_name = "tiny"
    return loaded


@pytest.fixture(scope="session")
def task(model):
    return task_from_pairs(model, tiny.PAIRS)


@pytest.fixture(scope="session")
def saes():
    made = [tiny.topk_sae(32, 96, hook_name=hook, seed=seed).double() for seed, hook in enumerate((LOW, HIGH))]
    for sae in made:
        sae.dtype = torch.float64  # to which it casts its input
    return made
