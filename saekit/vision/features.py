"""What features say about images: every patch's activations, and the images on which a feature is strong or weak."""

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saekit.errors import VisionError
from saekit.saes import encoded
from saekit.vision.activations import PatchActivations, check_sae
from saekit.vision.data import LabelledImages

if TYPE_CHECKING:
    from sae_lens import SAE
    from scipy.sparse import csc_array

_BINS = 32  # of a histogram


@dataclass(frozen=True, eq=False)
class ImageExample:
    """One image on which a feature is active: its number, its strongest patch and the activation of every patch."""

    image: int
    value: float
    label: str
    activations: Float[np.ndarray, "grid_row grid_column"]


@dataclass(frozen=True, eq=False)
class ImageInterval:
    """Images whose strongest activation lies in ``(low, high]``, sampled; ``share`` of all with the feature active."""

    low: float
    high: float
    share: float
    examples: tuple[ImageExample, ...]


@dataclass(frozen=True)
class ClassShare:
    """On how many of a class's images a feature is active: ``active`` of ``images``."""

    label: str
    active: int
    images: int

    @property
    def share(self) -> float:
        """Share of the class; NaN for a class without images."""
        return self.active / self.images if self.images else float("nan")


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Feature activations of every patch of labelled images.

    Attributes:
        data: Labelled images.
        events: Activations above zero, ``[image * patch, feature]``, compressed by columns.
        grid: Rows and columns of patches.
        hook_name: Name of the hook point at which the SAE reads.
    """

    data: LabelledImages
    events: "csc_array"
    grid: tuple[int, int]
    hook_name: str = ""

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.events.shape[1]

    @property
    def n_patches(self) -> int:
        """Number of patches of all images."""
        return self.events.shape[0]

    @cached_property
    def count(self) -> Int[np.ndarray, " feature"]:
        """On how many patches each feature is active."""
        return np.diff(self.events.indptr).astype(np.int64)

    @property
    def density(self) -> Float[np.ndarray, " feature"]:
        """On which share of the patches each feature is active."""
        return self.count / self.n_patches

    @property
    def dead(self) -> Bool[np.ndarray, " feature"]:
        """Which features are active on no patch."""
        return self.count == 0

    @cached_property
    def max(self) -> Float[np.ndarray, " feature"]:
        """Largest activation of each feature; 0 for a dead one."""
        return self.events.max(axis=0).toarray().ravel().astype(np.float32)

    @property
    def l0(self) -> float:
        """Mean number of active features of a patch."""
        return float(self.count.sum() / self.n_patches)

    def activations(self, feature: int) -> Float[np.ndarray, "image grid_row grid_column"]:
        """Return a feature's activation at every patch of every image."""
        column = self.events[:, [self.check(feature)]].toarray().astype(np.float32)
        return column.reshape(-1, *self.grid)

    def top(self, feature: int, k: int = 20) -> tuple[ImageExample, ...]:
        """Return the k images with the strongest patch, strongest first, ties by number; fewer if fewer are active."""
        values = self.activations(feature)
        peaks = values.max((1, 2))
        order = np.argsort(-peaks, kind="stable")[:k]
        return tuple(self._example(values, i) for i in order if peaks[i] > 0)

    def intervals(self, feature: int, n: int = 5, per: int = 8) -> tuple[ImageInterval, ...]:
        """Return n equal-width intervals of (0, max], strongest first, with up to ``per`` images drawn from each.

        An image belongs where its strongest patch does. What is drawn depends on the feature alone.
        """
        if n < 1 or per < 0:
            raise VisionError(f"expected n >= 1 intervals of per >= 0 images, got n={n}, per={per}")
        values = self.activations(feature)
        peaks = values.max((1, 2)).astype(np.float64)
        active = np.flatnonzero(peaks > 0)
        if not len(active):
            return ()
        edges = np.linspace(0, peaks.max(), n + 1)
        which = np.clip(np.searchsorted(edges, peaks[active], side="left") - 1, 0, n - 1)
        intervals = []
        for i in reversed(range(n)):
            members = active[which == i]
            drawn = np.random.default_rng((feature, i)).permutation(members)[:per]
            drawn = drawn[np.argsort(-peaks[drawn], kind="stable")]
            examples = tuple(self._example(values, image) for image in drawn)
            intervals.append(ImageInterval(float(edges[i]), float(edges[i + 1]), len(members) / len(active), examples))
        return tuple(intervals)

    def histogram(self, feature: int) -> "tuple[Float[np.ndarray, ' edge'], Int[np.ndarray, ' bin']]":
        """Return edges and counts of the activations above zero, in 32 bins up to the maximum."""
        values = self.activations(feature)
        counts, edges = np.histogram(values[values > 0], bins=_BINS, range=(0, float(values.max()) or 1.0))
        return edges, counts

    def classes(self, feature: int) -> tuple[ClassShare, ...]:
        """Return on how many images of each class the feature is active on some patch, in the order of the classes."""
        fires = self.activations(feature).max((1, 2)) > 0
        images, names = self.data.labels, self.data.label_names
        return tuple(
            ClassShare(name, int(fires[images == c].sum()), int((images == c).sum())) for c, name in enumerate(names)
        )

    def check(self, feature: int) -> int:
        """Return a feature's number. Raises VisionError if there is none of that number."""
        try:
            number = operator.index(feature)
        except TypeError:
            number = -1
        if not 0 <= number < self.d_sae:
            raise VisionError(f"feature must be a whole number from 0 to {self.d_sae - 1}, not {feature!r}")
        return number

    def _example(self, values: Float[np.ndarray, "image grid_row grid_column"], image: int) -> ImageExample:
        label = self.data.label_names[self.data.labels[image]]
        return ImageExample(int(image), float(values[image].max()), label, values[image])

    def __repr__(self) -> str:
        return (
            f"ImageFeatures({len(self.data):,} images x {self.grid[0]}x{self.grid[1]} patches, "
            f"{self.d_sae:,} features, {int(self.dead.sum()):,} dead, L0 {self.l0:.1f})"
        )


def image_features(sae: "SAE[Any]", activations: PatchActivations, data: LabelledImages) -> ImageFeatures:
    """Return what an SAE says about every patch of the images that the activations were read from.

    Raises VisionError if the SAE reads another width, or the activations are of another number of images.
    """
    check_sae(sae, activations)
    values = encoded(sae, torch.from_numpy(activations.rows)).float().cpu().numpy()
    images, patches = activations.values.shape[:2]
    return features_of(
        values.reshape(images, patches, -1), data, grid=activations.grid, hook_name=activations.hook_name
    )


def features_of(
    values: np.ndarray, data: LabelledImages, *, grid: tuple[int, int] | None = None, hook_name: str = ""
) -> ImageFeatures:
    """Return features that you have computed yourself, ``[image, patch, feature]``, as `ImageFeatures`.

    Args:
        values: Activations, 0 or more; patches row by row.
        data: Labelled images, in the same order.
        grid: Rows and columns of patches; by default as many rows as columns.
        hook_name: Name of the hook point, for the heading.

    Raises:
        VisionError: Another shape, negative numbers or numbers that are not finite.
    """
    from scipy.sparse import csc_array

    values = np.asarray(values)
    if values.ndim != 3:
        raise VisionError(f"activations must be [image, patch, feature], not an array of shape {list(values.shape)}")
    if len(values) != len(data):
        raise VisionError(f"got activations of {len(values):,} images and {len(data):,} images: pass the same ones")
    side = round(values.shape[1] ** 0.5)
    grid = (side, side) if grid is None else grid
    if grid[0] * grid[1] != values.shape[1] or 0 in values.shape:
        raise VisionError(
            f"{values.shape[1]} patches do not fill a grid of {grid[0]} rows and {grid[1]} columns: pass grid=(rows, "
            f"columns), and patches only: the class token is none"
        )
    bad = ~np.isfinite(values).all((1, 2))
    if bad.any():
        raise VisionError(f"{bad.sum():,} images have activations that are not finite, the first is {bad.argmax()}")
    if values.min() < 0:
        raise VisionError(
            f"activations must be 0 or more, the smallest is {values.min():.3g}: these are no SAE features"
        )
    flat = csc_array(values.reshape(-1, values.shape[2]).astype(np.float32))
    return ImageFeatures(data, flat, tuple(grid), hook_name)
