"""Labelled images: scikit-learn's handwritten digits, or images of your own."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import VisionError


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and what they show: ``labels[i]`` indexes ``label_names``.

    Attributes:
        name: Name of the data set.
        images: Grey values from 0 to 1, ``[image, row, column]``.
        labels: Class of each image.
        label_names: Names of the classes.
        licence: Licence of the data.
        citation: Work to cite.
        ink: Whether high values are dark (ink on paper), as in scans; else they are light, as in photographs.
    """

    name: str
    images: Float[np.ndarray, "image row column"]
    labels: Int[np.ndarray, " image"]
    label_names: tuple[str, ...]
    licence: str
    citation: str
    ink: bool = False

    def __post_init__(self) -> None:
        images = checked_images(self.images)
        if len(self.labels) != len(images):
            raise VisionError(f"got {len(self.labels):,} labels for {len(images):,} images: expected one for each")
        if len(images) and not 0 <= self.labels.min() <= self.labels.max() < len(self.label_names):
            raise VisionError(
                f"labels must be 0 to {len(self.label_names) - 1}, the places of the {len(self.label_names)} "
                f"label_names; got {self.labels.min()} to {self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: "slice | Int[np.ndarray, ' row']") -> "LabelledImages":
        """Return some of the images: ``data[:100]``, or by an array of their numbers."""
        if not isinstance(rows, slice | np.ndarray):
            raise VisionError(f"LabelledImages takes a slice or an array of numbers, not {rows!r}")
        chosen = np.arange(len(self))[rows]
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def split(self, test_share: float = 0.4, *, seed: int = 0) -> "tuple[LabelledImages, LabelledImages]":
        """Return two parts at random, each with the same share of every class; the second has ``test_share``."""
        if not 0 < test_share < 1:
            raise VisionError(f"test_share must lie between 0 and 1, not {test_share}")
        generator = np.random.default_rng(seed)
        rank = np.zeros(len(self))  # of each image within its class, from 0 to 1
        for label in np.unique(self.labels):
            members = generator.permutation(np.flatnonzero(self.labels == label))
            rank[members] = (np.arange(len(members)) + 0.5) / len(members)
        return self[np.flatnonzero(rank >= test_share)], self[np.flatnonzero(rank < test_share)]

    def __repr__(self) -> str:
        rows, columns = self.images.shape[1:]
        return (
            f"LabelledImages({self.name!r}, {len(self):,} images of {rows}x{columns}, {len(self.label_names)} classes; "
            f"{self.licence})"
        )


def load_digits() -> LabelledImages:
    """Return the 1,797 handwritten digits that come with scikit-learn, 8x8 pixels of 17 grey values.

    They are the test set of the UCI data set (Alpaydin and Kaynak 1998): 13 people wrote them, each writer many, and
    who wrote which is not recorded. A random split therefore tests on new digits, not on new writers.
    """
    from sklearn.datasets import load_digits as load

    digits = load()
    return LabelledImages(
        name="digits",
        images=(digits.images / 16).astype(np.float32),
        labels=digits.target.astype(np.int64),
        label_names=tuple(map(str, digits.target_names)),
        licence="CC BY 4.0 (as the UCI repository states; scikit-learn's copy names none)",
        citation="E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning "
        "Repository, doi:10.24432/C50P49",
        ink=True,
    )


def checked_images(images: "np.ndarray") -> Float[np.ndarray, "image row column"]:
    """Return images as float32. Raises VisionError unless they are ``[image, row, column]`` with values 0 to 1."""
    images = np.asarray(images)
    if images.ndim != 3:
        raise VisionError(f"images must be [image, row, column], not an array of shape {list(images.shape)}")
    if not np.issubdtype(images.dtype, np.floating):
        raise VisionError(f"images must be floats from 0 to 1, not {images.dtype}: divide by the largest grey value")
    bad = ~np.isfinite(images).all((1, 2))
    if bad.any():
        raise VisionError(
            f"{bad.sum():,} of {len(images):,} images hold a number that is not finite, the first is image "
            f"{bad.argmax()}: leave them out"
        )
    if images.size and (images.min() < 0 or images.max() > 1):
        raise VisionError(
            f"grey values must lie between 0 and 1, these go from {images.min():.3g} to {images.max():.3g}: divide by "
            f"the largest grey value"
        )
    return images.astype(np.float32)
