"""The top-activations view: what one feature of an SAE responds to, and what it does."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets as t
from jaxtyping import Float

from saekit.errors import FeatureIndexError
from saekit.views._shared.index_side import (
    ORDERS,
    check_index_pair,
    checked_scores,
    index_facts,
    named,
    search_hits,
    walk_in,
)
from saekit.views._shared.rows import pack
from saekit.views._shared.view import View
from saekit.views._shared.worker import Stopped
from saekit.views.top_activations.state import feature_card
from saekit.views.top_activations.still import feature_html

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex

STRONGEST = 10  # features listed for each token of a prompt
LONGEST_CHARACTERS = 2_000  # of a prompt; more is a corpus, and belongs in an index


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

    _card = t.Dict().tag(sync=True)
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
        if (model is None) != (sae is None):
            raise FeatureIndexError("got only one of model= and sae=: your own text needs both, an index alone neither")
        if model is not None and sae is not None:
            check_index_pair(index, model, sae)
        self._index, self._model, self._sae = index, model, sae
        self._names = named(names)
        self._scores = checked_scores(scores, index.d_sae)
        self._strongest: dict[str, Any] = {}
        order = order or ("number" if scores is None else "score")
        facts = index_facts(index, sae)
        facts["orders"] = [o for o in ORDERS if o != "score" or scores is not None]
        facts["own_text"] = "live" if model is not None else "off"
        walk = walk_in(order, index, self._scores)
        if feature is None:
            feature = int(walk[0]) if len(walk) else 0
        super().__init__(
            value=self._in_range(feature),
            order=order,
            _facts=facts,
            _walk=pack(walk),
            _card=feature_card(index, operator.index(feature), self._names),
        )
        if prompt:
            self.token = token
            self.prompt = prompt

    # --- traits -----------------------------------------------------------------------------------------------

    def _in_range(self, feature: Any) -> Any:
        d_sae = self._index.d_sae
        try:
            fits = 0 <= operator.index(feature) < d_sae
        except TypeError:
            fits = False
        if not fits:
            raise t.TraitError(f"feature must be an integer in 0…{d_sae - 1} (this SAE has {d_sae}), not {feature!r}")
        return operator.index(feature)

    @t.validate("value")
    def _check_value(self, proposal: dict) -> int:
        return self._in_range(proposal["value"])

    @t.validate("order")
    def _check_order(self, proposal: dict) -> str:
        walk_in(proposal["value"], self._index, self._scores)  # says what is wrong
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
                self._card = feature_card(self._index, change["new"], self._names)
                self.error = ""
                self._should_send_property("value", change["new"])  # queued here, sent with the card
            t.HasTraits.notify_change(self, change)
            if self.prompt and self._model is not None:
                self._background("prompt", self._read_prompt)

    @t.observe("order")
    def _on_order(self, change: Any) -> None:
        self._walk = pack(walk_in(change["new"], self._index, self._scores))

    @t.observe("prompt")
    def _on_prompt(self, change: Any) -> None:
        with self._guard:
            if not change["new"].strip():
                self._worker.stop()
                with self.hold_sync():
                    self._result, self.busy, self.token = {}, False, None
                    self.error = "The text is empty: type at least one character." if change["old"] else ""
            elif self._model is None:
                self.error = "Your own text needs the model: TopActivations(index, model=model, sae=sae)"
            else:
                self._background("prompt", self._read_prompt)

    @t.observe("_query")
    def _on_query(self, change: Any) -> None:
        query = change["new"]
        if query.get("text"):
            self._background("search", lambda stopped: self._search(query, stopped))
        else:
            self._hits = {}

    # --- background work --------------------------------------------------------------------------------------

    def _read_prompt(self, stopped: Stopped) -> None:
        """Run the model on the prompt: this feature on every token first, then the strongest of all features."""
        model, sae, prompt, feature = self._model, self._sae, self.prompt, self.value
        assert model is not None and sae is not None
        text = prompt[:LONGEST_CHARACTERS]
        told = ""
        if len(prompt) > len(text):
            told = f"The text has {len(prompt):,} characters: only the first {LONGEST_CHARACTERS:,} are used."
        seen = self._index.activations(model, sae, text, feature)
        if seen.truncated:
            told = f"The text is longer than the model's context: only its first {len(seen.tokens):,} tokens are used."
        values = np.asarray(seen.values, dtype=np.float32)
        result = {
            "prompt": prompt,
            "feature": feature,
            "tokens": list(seen.tokens),
            "values": pack(values),
            "excluded": [int(i) for i in np.flatnonzero(np.asarray(seen.excluded))],
        }
        known = self._strongest if self._strongest.get("prompt") == prompt else {}
        if not self._publish(stopped, _result={**result, **known}, error=told):
            return
        with self._guard:
            if self.token is not None and self.token >= len(values):
                self.token = len(values) - 1
        if known:
            return
        found = self._index.by_prompt(model, sae, text, k=STRONGEST)
        self._strongest = {
            "prompt": prompt,
            "k": int(np.shape(found.features)[1]),
            "features": pack(np.asarray(found.features).ravel()),
            "strengths": pack(np.asarray(found.values).ravel()),
        }
        self._publish(stopped, _result={**result, **self._strongest})

    def _search(self, query: Mapping[str, str], stopped: Stopped) -> None:
        self._publish(stopped, _hits=search_hits(self._index, query, self._names), error="")

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "dead" if self._card["dead"] else "live"
        return f"TopActivations(feature {self.value} of {self._index.d_sae}, {state})"

    def _title(self) -> str:
        return f"Top activations · {self._facts['model']} · {self._facts['hook']}"

    def _static(self) -> str:
        return feature_html(self._card, self._facts, self._result)

    def to_html(self, features: Iterable[int] | None = None) -> str:
        """Return a self-contained interactive page that needs no kernel and no network.

        Args:
            features: The features whose data the page holds; by default this one and its neighbours.

        Raises:
            TraitError: A feature is out of range.
        """
        if features is None:
            near = self._card["neighbours"]
            features = [n["feature"] for by in ("decoder", "coactivation") for n in near[by]]
        held = list(dict.fromkeys([self.value, *map(self._in_range, features)]))
        cards = {f: {"_card": feature_card(self._index, f, self._names), "_result": {}} for f in held}
        cards[self.value]["_result"] = dict(self._result)
        listed = ", ".join(map(str, sorted(held)[:12])) + (" …" if len(held) > 12 else "")
        missing = (
            f"This page holds {len(held)} features only ({listed}). Open the view in a notebook to see the others."
        )
        walk = [f for f in np.frombuffer(self._walk, "<f4").astype(int).tolist() if f in cards]
        replies = {"value": {**{str(f): card for f, card in cards.items()}, "": missing}}
        facts = {**self._facts, "own_text": "page", "orders": [self.order]}
        return self._page(replies=replies, _facts=facts, _walk=pack(walk), busy=False)
