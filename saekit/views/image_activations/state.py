"""What the image view shows of one feature, panel by panel."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from saekit.views._shared.chart import histogram_bars, histogram_words
from saekit.views._shared.index_side import feature_head
from saekit.views._shared.nodes import Node, el, figure, line, meter, table
from saekit.views._shared.pixels import patches, pixels, place_of
from saekit.views._shared.words import aligned, number, percent, sig
from saekit.vision import ImageExample, ImageFeatures

TOP, SHOWN_TOP = 16, 12  # images in the live view and in a still
INTERVALS, PER_INTERVAL, SHOWN_PER_INTERVAL = 4, 8, 4
MOST_COLUMNS = 8  # of patches, up to which each has room for its number
PANELS = ("head", "images", "classes", "places", "histogram")


def image_card(
    features: ImageFeatures, feature: int, names: Mapping[int, str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return one feature as the front-end draws it.

    Args:
        features: The features on images.
        feature: The feature.
        names: ``{feature: name}``.
        about: What is the same for every feature, of `image_facts`.

    Returns:
        ``feature`` and ``dead``; ``first``, the number of its strongest image, None for none; ``said``, the feature in
        words; ``panels``, of `PANELS` those that there are.
    """
    values = features.activations(feature)
    top = features.top(feature, TOP)
    name, dead = names.get(feature, ""), not top
    panels = {
        "head": _head(features, feature, name, values, about),
        "images": _nothing(about) if dead else _images(features, feature, top),
        "classes": None if dead else _classes(features, feature),
        "places": None if dead else _places(values),
        "histogram": None if dead else _histogram(features, feature, int((values > 0).sum())),
    }
    said = f"Feature {feature}{name and f', {name}'}{', dead' if dead else ''}"
    kept = {key: panel for key, panel in panels.items() if panel is not None}
    first = None if dead else int(top[0].image)
    return {"feature": feature, "dead": dead, "first": first, "said": said, "panels": kept}


def image_facts(features: ImageFeatures) -> dict[str, Any]:
    """Return what is the same for every feature."""
    return {
        "d_sae": features.d_sae,
        "n_images": len(features.data),
        "n_patches": features.n_patches,
        "dead": int(features.dead.sum()),
        "l0": number(features.l0),
        "data": features.data.name,
        "hook": features.hook_name,
        "columns": int(features.grid[1]),
        "own_text": "off",
    }


def _head(features: ImageFeatures, feature: int, name: str, values: np.ndarray, about: Mapping[str, Any]) -> Node:
    active = values[values > 0]
    seen, images = f"{about['n_patches']:,} patches", f"{about['n_images']:,} images"
    if not active.size:
        rows = [("", f"dead: never active on {seen} of {images}")]
    else:
        here = int((values.max((1, 2)) > 0).sum())
        share = percent(float(features.density[feature]))
        rows = [
            ("active on", f"{active.size:,} of {seen} ({share}) in {here:,} of {images}"),
            ("mean when active", sig(float(active.mean())), "mean activation where it is active"),
            ("max", sig(float(features.max[feature]))),
        ]
    source = " · ".join(filter(None, (about["data"], about["hook"])))
    unit = "mean number of active features on a patch, and features that are active on none"
    return feature_head(feature, name, rows, about, unit=unit, source=source)


def _nothing(about: Mapping[str, Any]) -> Node:
    seen = f"{about['n_patches']:,} patches of {about['n_images']:,} images"
    return line(f"This feature is dead: it was never active on {seen}, so there are no examples.", look="nothing quiet")


def _images(features: ImageFeatures, feature: int, top: Iterable[ImageExample]) -> Node:
    most = float(features.max[feature])
    groups = [_group("Top", f"Top images (shade = activation / {sig(most)})", features, top, most, SHOWN_TOP)]
    for interval in features.intervals(feature, INTERVALS, PER_INTERVAL):
        title = f"{aligned(interval.low, most)} to {aligned(interval.high, most)}"
        share = f" ({percent(interval.share)} of its images)"
        groups.append(_group(title, title + share, features, interval.examples, most, SHOWN_PER_INTERVAL))
    return el("div", {"role": "listbox", "aria-label": "Images"}, *groups)


def _group(
    name: str, title: str, features: ImageFeatures, examples: Iterable[ImageExample], most: float, shown: int
) -> Node | None:
    drawn = [
        _thumbnail(features, example, most, None if rank < shown else "live") for rank, example in enumerate(examples)
    ]
    if not drawn:
        return None
    look = "gallery" if name == "Top" else "gallery gallery-interval"
    gallery = el("div", {"class": look, "role": "presentation"}, *drawn)
    return el("div", {"role": "group", "aria-label": name}, el("h4", {"aria-hidden": "true"}, title), gallery)


def _thumbnail(features: ImageFeatures, example: ImageExample, most: float, only: str | None) -> Node:
    values, value = example.activations, float(example.value)
    at = place_of(int(values.argmax()), values.shape[1])
    what = f"Image {example.image}{example.label and f', {example.label}'}, activation {sig(value)}"
    image = features.data.images[example.image]
    shown = pixels(f"{what} at {at}", image, values, most, ink=features.data.ink)
    told = f"{example.label and f'{example.label} · '}strongest {sig(value, 4)} at {at}"
    about = {"role": "option", "tabindex": -1, "aria-selected": "false", "aria-label": f"{what} at {at}"}
    label = el("span", {"class": "class quiet", "dir": "auto", "title": example.label}, example.label)
    return el(
        "div",
        {"class": "thumbnail", **about, "data-image": example.image, "data-told": told, "only": only},
        shown,
        el("span", {"class": "below"}, el("b", {}, aligned(value, most)), " ", label if example.label else None),
    )


def _classes(features: ImageFeatures, feature: int) -> Node | None:
    if len(features.data.label_names) < 2:
        return None
    rows = []
    for found in features.classes(feature):
        bar = el("td", {"only": "live"}, el("span", {"class": "class-bar"}, meter(found.share, "plus")))
        about = {"title": f"{found.active:,} of {found.images:,} images"}
        name = el("th", {"scope": "row"}, el("bdi", {}, found.label))
        rows.append(
            el(
                "tr",
                about,
                name,
                bar if found.images else el("td", {"only": "live"}),
                el("td", {}, percent(found.share)),
            )
        )
    title = "Share of each class's images on which it is active"
    return el("section", {"aria-label": "Classes"}, el("h3", {}, title), table((), rows, **{"class": "classes flow"}))


def _places(values: np.ndarray) -> Node | None:
    shares = (values > 0).mean(0)
    if shares.shape[1] > MOST_COLUMNS:
        return None
    drawn = patches("share of all images on which each patch is active", shares, percent, float(shares.max()))
    return el("section", {"aria-label": "Places"}, el("h3", {}, "Places"), drawn)


def _histogram(features: ImageFeatures, feature: int, total: int) -> Node:
    edges, counts = features.histogram(feature)
    histogram = {"edges": [float(e) for e in edges], "counts": [int(c) for c in counts]}
    words = histogram_words(histogram, total)
    title = "Histogram of activations (log count)"
    return figure(title, histogram_bars(histogram, words), words, **{"aria-label": "Histogram of activations"})
