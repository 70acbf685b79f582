"""The image view: the images, and the patches of them, to which a feature responds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets as t
from jaxtyping import Float, Int

from saekit.errors import VisionError
from saekit.views._shared.index_side import ORDERS, Walk, checked_scores, features_page, named
from saekit.views._shared.nodes import Node
from saekit.views._shared.view import View
from saekit.views._shared.words import pack
from saekit.views.image_activations.state import PANELS, image_card, image_facts
from saekit.vision import ImageFeatures, LabelledImages, features_of

_ON_A_PAGE = 24  # features that an exported page holds by default


class ImageActivations(View):
    """Browse the features of an SAE on images: the strongest images with every patch shaded, samples, classes.

    Traits (typed, checked, linkable with ``ipywidgets.link``; observe with ``names=``):
        value: The feature, 0 … d_sae - 1.
        order: How previous, next and the slider walk: ``"number"``, ``"density"``, ``"max"`` or ``"score"``; live
            features only.
        image: The number of the image that is shown large, None for none.

    >>> view = ImageActivations(features, feature=12)                    # doctest: +SKIP
    >>> view = ImageActivations(values, images, labels=labels)           # doctest: +SKIP
    """

    _name = "image_activations"
    value = t.Int().tag(sync=True)
    order = t.Enum(ORDERS, "number").tag(sync=True)
    image = t.Int(None, allow_none=True).tag(sync=True)

    _card = t.Dict().tag(sync=True)
    _facts = t.Dict().tag(sync=True)
    _walk = t.Bytes(help="live features in walking order, float32").tag(sync=True)

    def __init__(
        self,
        features: ImageFeatures | Float[np.ndarray, "image patch feature"],
        images: LabelledImages | Float[np.ndarray, "image row column"] | None = None,
        *,
        labels: Sequence[int] | None = None,
        label_names: Sequence[str] | None = None,
        feature: int | None = None,
        names: Mapping[int, str] | Sequence[str] | None = None,
        scores: Float[np.ndarray, " d_sae"] | Sequence[float] | None = None,
        order: str | None = None,
    ) -> None:
        """Show ``features``, beginning with ``feature``.

        Args:
            features: What `saekit.vision.image_features` returns, or activations of your own, 0 or more, patches row
                by row.
            images: With activations of your own: the images, grey values from 0 to 1.
            labels: With images as an array: the class of each, 0 and up.
            label_names: Names of these classes; by default their numbers.
            feature: The first feature shown; by default the first live one in walking order.
            names: Your names for features, ``{feature: name}`` or one for each feature.
            scores: One number for each feature; the walk then goes from the highest to the lowest. NaN: left out.
            order: See the trait; by default ``"score"`` where scores are given, else ``"number"``.

        Raises:
            TraitError: ``feature`` or another trait is out of range.
            VisionError: Activations and images that do not fit each other.
            FeatureIndexError: Scores of the wrong length.
        """
        self._features = _as_features(features, images, labels, label_names)
        self._names = named(names)
        scored = checked_scores(scores, self._features.d_sae)
        self._walks = Walk(self._features, "ImageActivations(features", scored)
        order = order or ("number" if scores is None else "score")
        facts = image_facts(self._features)
        facts["orders"] = self._walks.orders
        walk = self._walks.along(order)
        first = self._in_range((int(walk[0]) if len(walk) else 0) if feature is None else feature)
        card = image_card(self._features, first, self._names, facts)
        super().__init__(value=first, order=order, image=card["first"], _facts=facts, _walk=pack(walk), _card=card)

    # --- traits -----------------------------------------------------------------------------------------------

    def _in_range(self, feature: Any) -> int:
        try:
            return self._features.check(feature)
        except VisionError as error:
            raise t.TraitError(str(error)) from None

    @t.validate("value")
    def _check_value(self, proposal: dict) -> int:
        return self._in_range(proposal["value"])

    @t.validate("order")
    def _check_order(self, proposal: dict) -> str:
        self._walks.along(proposal["value"])  # says what is wrong
        return proposal["value"]

    @t.validate("image")
    def _check_image(self, proposal: dict) -> int | None:
        image, most = proposal["value"], len(self._features.data) - 1
        if image is not None and not 0 <= image <= most:
            raise t.TraitError(f"image must be None or the number of an image, 0 to {most}, not {image}")
        return image

    @t.observe("value")
    def _on_value(self, change: Any) -> None:
        if not self._card or self._card["feature"] == change["new"]:
            return
        card = self._card_of(change["new"])
        with self.hold_sync():
            self._card, self.image, self.error = card, card["first"], ""

    @t.observe("order")
    def _on_order(self, change: Any) -> None:
        self._walk = pack(self._walks.along(change["new"]))

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "dead" if self._card["dead"] else "live"
        return f"ImageActivations(feature {self.value} of {self._features.d_sae}, {state})"

    def _title(self) -> str:
        return " · ".join(filter(None, ("Image activations", self._facts["data"], self._facts["hook"])))

    def state(self) -> dict[str, Node]:
        """Return what the view shows as plain data, panel by panel; see `saekit.views._shared.nodes`."""
        return {name: self._card["panels"][name] for name in PANELS if name in self._card["panels"]}

    def _card_of(self, feature: int) -> dict[str, Any]:
        return image_card(self._features, feature, self._names, self._facts)

    def to_html(self, features: Iterable[int] | None = None) -> str:
        """Return a self-contained interactive page that needs no kernel and no network.

        Args:
            features: The features whose images the page holds; by default this one and those next on the walk.

        Raises:
            TraitError: A feature is out of range.
        """
        walk = np.frombuffer(self._walk, "<f4").astype(int)
        if features is None:
            start = int(np.flatnonzero(walk == self.value)[0]) if self.value in walk else 0
            features = np.roll(walk, -start)[:_ON_A_PAGE]
        held = list(dict.fromkeys([self.value, *(self._in_range(int(f)) for f in features)]))
        cards = {f: self._card_of(f) for f in held}
        return features_page(self, {f: {"_card": card, "image": card["first"]} for f, card in cards.items()})


def _class_numbers(labels: Any) -> Int[np.ndarray, " image"]:
    found = np.asarray(labels)
    if not np.issubdtype(found.dtype, np.integer) and found.size:
        one = found.ravel().tolist()[0]
        raise VisionError(f"labels must be whole numbers, the place of each class in label_names, not {one!r}")
    return found.astype(np.int64)


def _as_features(features: Any, images: Any, labels: Any, label_names: Any) -> ImageFeatures:
    """Return the features, made of arrays where arrays were given."""
    if isinstance(features, ImageFeatures):
        if images is not None or labels is not None:
            raise VisionError("these features hold their images already: leave images= and labels= out")
        return features
    if images is None:
        raise VisionError("activations of your own need their images: ImageActivations(values, images)")
    if not isinstance(images, LabelledImages):
        if labels is None:
            labels, label_names = np.zeros(len(images), np.int64), ("",)
        labels = _class_numbers(labels)
        names = map(str, label_names if label_names is not None else range(int(labels.max(initial=0)) + 1))
        images = LabelledImages("images", np.asarray(images), labels, tuple(names), "the user's own", "the user's own")
    elif labels is not None:
        raise VisionError("these images hold their labels already: leave labels= out")
    return features_of(features, images)
