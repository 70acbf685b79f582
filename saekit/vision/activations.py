"""The residual stream of images, patch by patch, and how well an SAE rebuilds it beside PCA."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from saekit.errors import VisionError
from saekit.saes import check_sae as check_demands, decoded, encoded
from saekit.vision.data import LabelledImages
from saekit.vision.model import VisionTransformer

if TYPE_CHECKING:
    from sae_lens import SAE

_BATCH = 512  # images at once


@dataclass(frozen=True, eq=False)
class PatchActivations:
    """The residual stream at one point for every patch of every image.

    Attributes:
        values: Activations ``[image, patch, d_model]``; patches row by row. The class token is no patch, as BOS is no
            word.
        class_token: Activations of the class token, ``[image, d_model]``.
        hook_name: Name of the hook point.
        grid: Rows and columns of patches.
    """

    values: Float[np.ndarray, "image patch d_model"]
    class_token: Float[np.ndarray, "image d_model"]
    hook_name: str
    grid: tuple[int, int]

    @property
    def rows(self) -> Float[np.ndarray, "sample d_model"]:
        """All patches end to end: what `saekit.training.train_sae` takes."""
        return self.values.reshape(-1, self.values.shape[2])

    def __repr__(self) -> str:
        images, patches, width = self.values.shape
        return f"PatchActivations({images:,} images x {patches} patches x {width}, {self.hook_name})"


@dataclass(frozen=True)
class Reconstruction:
    """How well an SAE rebuilds activations that it was not trained on, beside PCA of the same count.

    Attributes:
        fvu: Share of the variance that the SAE misses.
        l0: Mean number of active features per patch.
        dead: Number of features that are active on none of these patches.
        d_sae: Number of features.
        pca_fvu: Share that the first ``components`` principal components miss, fitted on the training activations.
        components: Number of principal components: as many as the SAE has active features, rounded.
        n_patches: Number of patches on which all this was measured.
    """

    fvu: float
    l0: float
    dead: int
    d_sae: int
    pca_fvu: float
    components: int
    n_patches: int

    def __repr__(self) -> str:
        return (
            f"SAE: FVU {self.fvu:.3f} with {self.l0:.1f} of {self.d_sae:,} features ({self.dead:,} dead); "
            f"PCA: FVU {self.pca_fvu:.3f} with {self.components} components; {self.n_patches:,} patches"
        )


def patch_activations(
    model: VisionTransformer, data: LabelledImages, hook_name: str = "blocks.1.hook_resid_post"
) -> PatchActivations:
    """Return the residual stream of every image at a named point, in batches and without gradients.

    Raises VisionError for a point that the model does not have, or images of another size.
    """
    images = torch.from_numpy(data.images)
    with torch.no_grad():
        states = torch.cat([model.residual(part, hook_name) for part in images.split(_BATCH)]).numpy()
    return PatchActivations(states[:, 1:].copy(), states[:, 0].copy(), hook_name, model.config.grid)


def reconstruction(sae: "SAE[Any]", train: PatchActivations, held_out: PatchActivations) -> Reconstruction:
    """Measure an SAE on held-out patches, beside PCA fitted on the training patches.

    FVU is the squared error over the squared distance to the held-out mean, each summed over patches and dimensions.
    An SAE chooses its k features for every patch anew, PCA takes the same k for all.

    Raises VisionError if widths or hook points differ.
    """
    from sklearn.decomposition import PCA

    check_sae(sae, held_out)
    if train.hook_name != held_out.hook_name or train.values.shape[2] != held_out.values.shape[2]:
        raise VisionError(f"train and held_out must be of one point, not {train.hook_name} and {held_out.hook_name}")
    x = torch.from_numpy(held_out.rows)
    features = encoded(sae, x)
    rebuilt = decoded(sae, features).cpu()
    active = features.cpu() != 0
    l0 = active.sum(1).double().mean().item()
    components = max(1, round(l0))
    x, pca = x.double(), PCA(min(components, *train.rows.shape), svd_solver="full").fit(train.rows.astype(np.float64))
    by_pca = torch.from_numpy(pca.inverse_transform(pca.transform(x.numpy())))
    variance = (x - x.mean(0)).square().sum()
    missed = [((x - y).square().sum() / variance).item() for y in (rebuilt, by_pca)]
    dead = int((~active.any(0)).sum())
    return Reconstruction(missed[0], l0, dead, active.shape[1], missed[1], components, len(x))


def check_sae(sae: "SAE[Any]", activations: PatchActivations) -> None:
    """Raise VisionError unless the SAE reads activations of this width, SAEError if it asks for what is not met."""
    check_demands(sae)
    if (width := activations.values.shape[2]) != sae.cfg.d_in:
        raise VisionError(
            f"the SAE reads {sae.cfg.d_in} dimensions, {activations.hook_name} has {width}: train one on these "
            f"activations with train_sae(activations.rows, ...)"
        )
