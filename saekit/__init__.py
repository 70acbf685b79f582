"""saekit: see, explain, steer and test the features inside a language model, live in Jupyter.

    import saekit as sk

    model = sk.load_model()
    sae = sk.load_sae(model=model)
    index = sk.FeatureIndex.load(sae=sae)
    sk.TopActivations(index, model=model, sae=sae)

Names are imported on first use, so that ``import saekit`` costs little more than ``import torch``.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

__version__ = "0.1.0"

_HOME = {
    "load_model": "models",
    "shuffled_model": "models",
    "load_sae": "saes",
    "list_saes": "saes",
    "sae_card": "saes",
    "save_sae": "saes",
    "baseline_sae": "saes",
    "load_corpus": "data",
    "list_corpora": "data",
    "load_labelled": "data",
    "list_labelled": "data",
    "load_parallel": "data",
    "tokens_from_texts": "data",
    "Tokens": "data",
    "FeatureIndex": "index",
    "evaluate": "evaluation",
    "evaluate_many": "evaluation",
    "published_gate": "evaluation",
    "mmcs": "evaluation",
    "compare_dictionaries": "evaluation",
    "harvest": "training",
    "harvest_many": "training",
    "load_activations": "training",
    "stream_activations": "training",
    "train_sae": "training",
    "train_sweep": "training",
    "load_sweep": "training",
    "direct_logit_attribution": "attribution",
    "attribution_patching": "attribution",
    "activation_patching": "attribution",
    "logit_attribution_by_component": "attribution",
    "logit_lens": "attribution",
    "predictions": "attribution",
    "ioi_task": "circuits",
    "agreement_task": "circuits",
    "task_from_pairs": "circuits",
    "task_performance": "circuits",
    "patch_residual": "circuits",
    "localise": "circuits",
    "feature_circuit": "circuits",
    "circuit_edges": "circuits",
    "faithfulness": "circuits",
    "minimality": "circuits",
    "principal_directions": "saes",
    "neuron_directions": "saes",
    "random_directions": "saes",
    "extract_features": "probes",
    "probe": "probes",
    "load_probe": "probes",
    "load_grid": "probes",
    "load_curve": "probes",
    "load_transfer": "probes",
    "load_removal": "functional",
    "Intervention": "steering",
    "generate": "steering",
    "generate_stream": "steering",
    "side_effects": "steering",
    "steering_sweep": "steering",
    "difference_of_means": "steering",
    "TopActivations": "views.top_activations",
    "Training": "views.training",
    "LogitAttribution": "views.logit_attribution",
    "Circuit": "views.circuit",
    "Steering": "views.steering",
    "Probes": "views.probes",
    "ImageActivations": "views.image_activations",
    "SaekitError": "errors",
    "ModelError": "errors",
    "SAEError": "errors",
    "DataError": "errors",
    "FeatureIndexError": "errors",
    "ToyModelError": "errors",
    "TaskError": "errors",
    "ProbeError": "errors",
    "SteeringError": "errors",
    "VisionError": "errors",
    "OfflineError": "errors",
    "ChecksumError": "errors",
}
_MODULES = (
    "errors",
    "exercises",
    "models",
    "saes",
    "data",
    "attribution",
    "circuits",
    "probes",
    "steering",
    "index",
    "evaluation",
    "fetch",
    "functional",
    "superposition",
    "training",
    "vision",
    "views",
)

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> _Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _HOME:
        value = getattr(_import_module(f"saekit.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = _import_module(f"saekit.{name}")
    else:
        raise AttributeError(f"module 'saekit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
