"""saekit: see, explain, steer and test the features inside a language model, live in Jupyter.

    import saekit as sk

    model = sk.load_model()
    sae = sk.load_sae(model=model)
    index = sk.FeatureIndex.load(sae=sae)
    sk.TopActivations(index, model=model, sae=sae)

Names are imported on first use, so that ``import saekit`` costs little more than ``import torch``.
"""

from lazy_loader import attach_stub as _attach_stub

__version__ = "0.1.0"

# The list of names is `__init__.pyi`, so that Python, editors and the type checker read the same one.
__getattr__, _, __all__ = _attach_stub(__name__, __file__)
__all__ = [*__all__, "__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)
