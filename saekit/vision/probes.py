"""Features of images in the form that `saekit.probes` reads: an image takes the place of a text, a patch of a token."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit._base.checks import one_of
from saekit.data import LabelledItems
from saekit.errors import VisionError
from saekit.probes import Hook, SAEFeatures, TextFeatures
from saekit.saes import CONTROLS, control_sae, sae_identity
from saekit.vision.activations import patch_activations
from saekit.vision.data import LabelledImages
from saekit.vision.features import image_features
from saekit.vision.model import VisionTransformer

if TYPE_CHECKING:
    from sae_lens import SAE
    from scipy.sparse import csr_array

_LETTERS = np.array([chr(i) for i in range(ord("a"), ord("z") + 1)])  # grey values in groups of images


def probe_features(
    model: VisionTransformer,
    saes: "SAE[Any] | Mapping[str, SAE[Any]]",
    data: LabelledImages,
    hook_name: str = "blocks.1.hook_resid_post",
    *,
    controls: Sequence[str] = (),
    seed: int = 0,
) -> TextFeatures:
    """Return what `saekit.probes.probe`, `baselines` and `compare` take, made of images.

    Use images that neither the transformer nor the SAE has seen. Images that are the same to a 26th of the grey scale
    are of one group and stay in one fold, and nothing depends on the order of the images. Of the baselines
    ``"majority"``, ``"hidden-mean"``, ``HiddenPCA(k)`` and the controls have a meaning; raw pixels go in through
    `saekit.probes.probe_columns`. ``"hidden-last"`` is the last patch, not the class token.

    Args:
        model: Vision transformer that reads the images.
        saes: One SAE, named "SAE", or several by name; all read ``hook_name``.
        data: Labelled images.
        hook_name: Point of the residual stream.
        controls: Controls to make, ``"random"`` and ``"permuted"``: for each SAE one more with a random
            encoder, or with its own whose input dimensions are permuted. For TopK SAEs, whose number of active
            features stays the same.
        seed: Seed of the controls.

    Raises:
        VisionError: An unknown control or hook point, an SAE that does not fit, or a control of another architecture.
    """
    named = dict(saes) if isinstance(saes, Mapping) else {"SAE": saes}
    everything = {name: (sae, "", "") for name, sae in named.items()}
    for kind in controls:
        everything |= {f"{name} ({kind})": (_control(sae, kind, seed), kind, name) for name, sae in named.items()}
    groups = ["".join(row) for row in _LETTERS[np.rint(25 * data.images.reshape(len(data), -1)).astype(int)]]
    index = np.array(sorted(range(len(data)), key=lambda i: (groups[i], data.labels[i])), np.int64)
    images = data[index]
    states = patch_activations(model, images, hook_name)
    n, patches, _ = states.values.shape
    starts = np.arange(n + 1) * patches
    numbers = np.tile(np.arange(patches, dtype=np.int32), n)
    hook = Hook(hook_name, starts, numbers, states.values[:, -1], states.values.mean(1), None, {"class token": n})

    def read_by(sae: "SAE[Any]") -> "csr_array":
        return image_features(sae, states, images).events.tocsr()

    read = {
        name: SAEFeatures(name, hook, read_by(sae), control, of, sae_identity(sae))
        for name, (sae, control, of) in everything.items()
    }
    about = data.label_names, data.licence, data.citation
    known = LabelledItems(data.name, tuple(images.images), images.labels, *about, tuple(groups[i] for i in index))
    return TextFeatures(
        data=known,
        index=index,
        ids=numbers,
        id_starts=starts,
        hooks={hook_name: hook},
        saes=read,
        cut=np.zeros(n, bool),
        context_size=1 + patches,
        model_name="vision transformer",
    )


def _control(sae: "SAE[Any]", kind: str, seed: int) -> "SAE[Any]":
    """Return the SAE's control, with the same number of active features."""
    one_of("controls", kind, CONTROLS, error=VisionError)
    if not isinstance(getattr(sae.cfg, "k", None), int):
        raise VisionError(f"controls are for TopK SAEs, this one is {sae.cfg.architecture()!r}: leave controls out")
    return control_sae(sae, kind, seed=seed)
