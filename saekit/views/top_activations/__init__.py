"""The top-activations view: what one feature of an SAE responds to, and what it does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets as t
from jaxtyping import Float

from saekit._base.checks import whole
from saekit.views._shared.index_side import ORDERS, Walk, checked_scores, features_page, index_facts, named
from saekit.views._shared.nodes import Node, pressed
from saekit.views._shared.view import View
from saekit.views._shared.words import pack
from saekit.views.top_activations.state import PANELS, feature_card
from saekit.views.top_activations.work import Reading

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex


class TopActivations(View):
    """Browse the features of an SAE: examples, histogram, logits, neighbours, and your own text.

    Traits (typed, checked, linkable with ``ipywidgets.link``; observe with ``names=``):
        value: The feature, 0 … d_sae - 1.
        order: How previous and next walk: ``"number"``, ``"density"``, ``"max"`` or ``"score"``; live features only.
        prompt: Your own text, at most 2000 characters of it are used.
        token: The position chosen in the prompt, None for none.

    >>> view = TopActivations(index, feature=1234)                      # doctest: +SKIP
    >>> view = TopActivations(index, model=model, sae=sae, prompt="…")  # doctest: +SKIP
    >>> view.observe(lambda change: print(change.new), names="value")   # doctest: +SKIP
    """

    _name = "top_activations"
    value = t.Int().tag(sync=True)
    order = t.Enum(ORDERS, "number").tag(sync=True)
    prompt = t.Unicode("").tag(sync=True)
    token = t.Int(None, allow_none=True).tag(sync=True)

    _card = t.Dict(help="the feature, panel by panel").tag(sync=True)
    _facts = t.Dict().tag(sync=True)
    _walk = t.Bytes(help="live features in walking order, float32").tag(sync=True)
    _result = t.Dict(help="the feature on the prompt, and the strongest features there").tag(sync=True)
    _query = t.Dict(help='{"mode": "token" | "text", "text": str}').tag(sync=True)
    _hits = t.Dict().tag(sync=True)

    def __init__(
        self,
        index: "FeatureIndex",
        feature: int | None = None,
        *,
        model: "SAETransformerBridge | None" = None,
        sae: "SAE | None" = None,
        names: Mapping[int, str] | Sequence[str] | None = None,
        scores: Float[np.ndarray, " d_sae"] | Sequence[float] | None = None,
        order: str | None = None,
        prompt: str = "",
        token: int | None = None,
    ) -> None:
        """Show ``index``, beginning with ``feature``.

        Args:
            index: The feature index to browse.
            feature: The first feature shown; by default the first live one in walking order.
            model: With ``sae``, brings the panel for your own text to life.
            sae: The SAE that the index was built with.
            names: Your names for features, ``{feature: name}`` or one for each feature.
            scores: One number for each feature; the walk then goes from the highest to the lowest. NaN: left out.
            order: See the trait; by default ``"score"`` where scores are given, else ``"number"``.
            prompt: A first text for the panel.
            token: A first chosen position of the prompt.

        Raises:
            TraitError: ``feature`` or another trait is out of range.
            FeatureIndexError: ``model`` without ``sae`` or the reverse, or scores of the wrong length.
            SAEError: The SAE is not the one that the index was built with, or does not fit the model.
        """
        self._index, self._names = index, named(names)
        self._reading = Reading(index, model, sae, self._names)
        self._walks = Walk(index, "TopActivations(index", checked_scores(scores, index.d_sae))
        order = order or ("number" if scores is None else "score")
        facts = index_facts(index, sae)
        facts["orders"] = self._walks.orders
        facts["own_text"] = "live" if self._reading.live else "off"
        walk = self._walks.along(order)
        if feature is None:
            feature = int(walk[0]) if len(walk) else 0
        feature = self._in_range(feature)
        card = feature_card(index, feature, self._names, facts)
        super().__init__(value=feature, order=order, _facts=facts, _walk=pack(walk), _card=card)
        if prompt:
            self.token = token
            self.prompt = prompt

    # --- traits -----------------------------------------------------------------------------------------------

    def _in_range(self, feature: Any) -> int:
        return whole("feature", feature, at_least=0, at_most=self._index.d_sae - 1, error=t.TraitError)

    @t.validate("value")
    def _check_value(self, proposal: dict) -> int:
        return self._in_range(proposal["value"])

    @t.validate("order")
    def _check_order(self, proposal: dict) -> str:
        self._walks.along(proposal["value"])  # says what is wrong
        return proposal["value"]

    @t.validate("token")
    def _check_token(self, proposal: dict) -> int | None:
        token = proposal["value"]
        if token is not None and token < 0:
            raise t.TraitError(f"token must be a position of the prompt, 0 or more, or None, not {token}")
        return token

    def notify_change(self, change: Any) -> None:
        """Send a change of feature and the card that belongs to it in one message, then call observers."""
        if change["name"] != "value" or not self._card or self._card["feature"] == change["new"]:
            return super().notify_change(change)
        with self._guard:
            with self.hold_sync():
                self._card = self._card_of(change["new"])
                self.error = ""
                self._should_send_property("value", change["new"])  # queued here, sent with the card
            t.HasTraits.notify_change(self, change)
            if self.prompt and self._reading.live:
                self._read_prompt()

    @t.observe("order")
    def _on_order(self, change: Any) -> None:
        self._walk = pack(self._walks.along(change["new"]))

    @t.observe("prompt")
    def _on_prompt(self, change: Any) -> None:
        with self._guard:
            if not change["new"].strip():
                self._worker.stop()
                with self.hold_sync():
                    self._result, self.busy, self.token = {}, False, None
                    self.error = "The text is empty: type at least one character." if change["old"] else ""
            elif not self._reading.live:
                self.error = "Your own text needs the model: TopActivations(index, model=model, sae=sae)"
            else:
                self._read_prompt()

    @t.observe("_result")
    def _on_result(self, change: Any) -> None:
        """Keep the chosen token within a text that became shorter."""
        last = change["new"].get("positions", 0) - 1
        if self.token is not None and 0 <= last < self.token:
            self.token = last

    @t.observe("_query")
    def _on_query(self, change: Any) -> None:
        query = change["new"]
        if query.get("text"):
            self._background("search", lambda _: self._reading.search(query))
        else:
            self._hits = {}

    def _read_prompt(self) -> None:
        # What is asked now, not when the work was queued: the newest prompt and feature count.
        self._background("prompt", lambda _: self._reading.prompt(self.prompt, self.value))

    def _card_of(self, feature: int) -> dict[str, Any]:
        return feature_card(self._index, feature, self._names, self._facts)

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "dead" if self._card["dead"] else "live"
        return f"TopActivations(feature {self.value} of {self._index.d_sae}, {state})"

    def _title(self) -> str:
        return f"Top activations · {self._facts['model']} · {self._facts['hook']}"

    def state(self) -> dict[str, Node]:
        """Return what the view shows as plain data, panel by panel; see `saekit.views._shared.nodes`."""
        with self._guard:
            panels = {name: self._card["panels"][name] for name in PANELS if name in self._card["panels"]}
            if self._result.get("feature") == self._card["feature"]:
                panels["prompt"] = self._result["panel"]
            return panels

    def to_html(self, features: Iterable[int] | None = None) -> str:
        """Return a self-contained interactive page that needs no kernel and no network.

        Args:
            features: The features whose data the page holds; by default this one and its neighbours.

        Raises:
            TraitError: A feature is out of range.
        """
        near = pressed(self._card["panels"].get("neighbours", ""), "value")
        held = list(dict.fromkeys([self.value, *map(self._in_range, near if features is None else features)]))
        cards = {f: {"_card": self._card_of(f), "_result": {}} for f in held}
        cards[self.value]["_result"] = dict(self._result)
        return features_page(self, cards)
