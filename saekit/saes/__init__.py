"""Sparse autoencoders: load bundled, released and local ones, list them, and check that they fit the model.

An SAE is a ``sae_lens.SAE``, read from safetensors and JSON. Bundled ones stand in ``saekit/assets/<model>/<hook>/``:
``sae/`` (weights in half precision, configuration, card) and ``index/`` (a bounded `FeatureIndex`).
"""

from saekit.saes.controls import control_saes, states_of_some
from saekit.saes.dictionary import Dictionary, dictionary_of, ordered, whole_number
from saekit.saes.load import (
    ASSETS,
    DEFAULT,
    SAEEntry,
    SAETable,
    baseline_sae,
    bundled,
    check_pair,
    list_saes,
    load_sae,
    sae_card,
    sae_fingerprint,
    sae_hook,
    save_sae,
)
from saekit.saes.parts import changes, decoded, encoded, error_of, nodes_of, pulled_back
from saekit.saes.untrained import Directions, neuron_directions, principal_directions, random_directions

__all__ = [
    "ASSETS",
    "DEFAULT",
    "Dictionary",
    "Directions",
    "SAEEntry",
    "SAETable",
    "baseline_sae",
    "bundled",
    "changes",
    "check_pair",
    "control_saes",
    "decoded",
    "dictionary_of",
    "encoded",
    "error_of",
    "list_saes",
    "load_sae",
    "neuron_directions",
    "nodes_of",
    "ordered",
    "principal_directions",
    "pulled_back",
    "random_directions",
    "sae_card",
    "sae_fingerprint",
    "sae_hook",
    "save_sae",
    "states_of_some",
    "whole_number",
]
