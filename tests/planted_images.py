"""Images with planted patches, and features that fire on known ones: what the vision tests and views show."""

import numpy as np

from saekit.vision import ImageFeatures, LabelledImages, features_of

SIDE, GRID = 2, 4  # pixels on a side of a patch, patches on a side of an image
DEAD, CORNER, NASTY = 3, 1, "<img src=x onerror='window.hacked=1'>"


def planted_images(
    n_images: int = 60, *, seed: int = 0, names: tuple[str, ...] = ("plain", "bright")
) -> LabelledImages:
    """Return dim noise of 8x8 pixels; every image of the second class has one bright patch, at a known place."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(0, 0.2, (n_images, GRID * SIDE, GRID * SIDE)).astype(np.float32)
    labels = np.arange(n_images) % 2
    for i in np.flatnonzero(labels):
        row, column = place_of(i)
        light = 0.5 + 0.5 * generator.random()
        images[i, SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)] = light
    return LabelledImages("planted", images, labels, names, "made up", "nobody")


def place_of(image: int) -> tuple[int, int]:
    """Return the row and column of the bright patch of an image of the second class."""
    return (image // 2) % GRID, (image // 8) % GRID


def planted_features(data: LabelledImages) -> ImageFeatures:
    """Return six features. 0: a detector of bright patches, by how bright. 1: bright, but in the first corner only.
    2: on everywhere. 3: dead. 4: on for one image. 5: noise.
    """
    images = data.images.reshape(len(data), GRID, SIDE, GRID, SIDE).mean((2, 4)).reshape(len(data), GRID * GRID)
    bright = np.maximum(images - 0.4, 0)
    values = np.zeros((len(data), GRID * GRID, 6))
    values[:, :, 0] = 10 * bright
    values[:, 0, CORNER] = bright[:, 0]
    values[:, :, 2] = 1 + images
    values[7, 5, 4] = 2.5
    noise = np.random.default_rng(1).normal(size=(len(data), GRID * GRID))
    values[:, :, 5] = np.maximum(noise - 1, 0)
    return features_of(values, data, hook_name="blocks.1.hook_resid_post")
