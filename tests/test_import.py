"""`import saekit` is cheap, complete and quiet."""

import json
import subprocess
import sys

import pytest

import saekit

PROMISED = [
    "load_model", "load_sae", "list_saes", "load_corpus", "list_corpora", "Tokens", "tokens_from_texts", "FeatureIndex",
    "TopActivations", "exercises", "baseline_sae", "train_sae", "evaluate", "SaekitError", "ModelError", "SAEError",
    "DataError", "FeatureIndexError", "OfflineError", "ChecksumError",
]  # fmt: skip
HEAVY = ["torch", "sae_lens", "transformer_lens", "transformers", "anywidget", "matplotlib", "tqdm", "IPython"]


def in_fresh_process(code: str) -> str:
    """Run code with all warnings shown; return what it wrote to both streams."""
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", saekit.__all__)
def test_every_name_resolves_and_is_listed(name):
    assert getattr(saekit, name) is not None
    assert name in dir(saekit)


def test_the_promised_names_are_public():
    assert set(PROMISED) <= set(saekit.__all__)
    assert len(saekit.__all__) == len(set(saekit.__all__))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="load_modle"):
        saekit.load_modle  # noqa: B018


def test_star_import_gives_the_public_names():
    names = {}
    exec("from saekit import *", names)
    assert set(PROMISED) <= names.keys()


def test_import_loads_nothing_heavy_and_says_nothing():
    code = f"import json, saekit, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    assert json.loads(in_fresh_process(code)) == []


def test_the_surface_costs_no_upstream_import():
    code = f"import saekit, sys\nfor name in {PROMISED}: getattr(saekit, name)\nprint('sae_lens' in sys.modules)"
    assert in_fresh_process(code) == "False\n"
