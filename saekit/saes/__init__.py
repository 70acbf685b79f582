"""Sparse autoencoders: which there are, loading them, checking that they fit, what they make of a state.

An SAE is a ``sae_lens.SAE``, read from safetensors and JSON.

To read in order:

1. `catalogue`: the list of all SAEs, bundled and released, and their cards.
2. `load` and `identity`: load and save one, and tell it from all others.
3. `convert`: SAEs from other libraries.
4. `demands` and `pair`: what its configuration asks for, and whether it fits a model.
5. `parts`: a state split into features, what the SAE misses, and its bias.
6. `untrained`: dictionaries that nobody trained, and controls that must not do well.
7. `dictionary`: SAEs and directions in one form, by what each feature writes.
"""

from saekit.saes.catalogue import ASSETS, DEFAULT, SAEEntry, bundled, list_saes, sae_card
from saekit.saes.convert import sae_from_dictionary_learning, sae_from_sparsify
from saekit.saes.demands import DEMANDS, Demand, Finding, findings, same_model, unknown_fields
from saekit.saes.dictionary import Dictionary, dictionary_of, ordered
from saekit.saes.identity import sae_identity, sae_of
from saekit.saes.load import card_of, load_sae, save_sae
from saekit.saes.pair import check_pair, check_rebuilds, check_sae, sae_hook
from saekit.saes.parts import (
    active_entries,
    changes,
    decoded,
    decoder_rows,
    encode,
    encoded,
    error_of,
    nodes_of,
    pulled_back,
    sparse_form,
)
from saekit.saes.untrained import (
    CONTROLS,
    Directions,
    baseline_sae,
    control_sae,
    control_saes,
    neuron_directions,
    principal_directions,
    random_directions,
    states_of_some,
)

__all__ = [
    "ASSETS",
    "CONTROLS",
    "DEFAULT",
    "DEMANDS",
    "Demand",
    "Dictionary",
    "Directions",
    "Finding",
    "SAEEntry",
    "active_entries",
    "baseline_sae",
    "bundled",
    "card_of",
    "changes",
    "check_pair",
    "check_rebuilds",
    "check_sae",
    "control_sae",
    "control_saes",
    "decoded",
    "decoder_rows",
    "dictionary_of",
    "encode",
    "encoded",
    "error_of",
    "findings",
    "list_saes",
    "load_sae",
    "neuron_directions",
    "nodes_of",
    "ordered",
    "principal_directions",
    "pulled_back",
    "random_directions",
    "sae_card",
    "sae_from_dictionary_learning",
    "sae_from_sparsify",
    "sae_hook",
    "sae_identity",
    "sae_of",
    "same_model",
    "save_sae",
    "sparse_form",
    "states_of_some",
    "unknown_fields",
]
