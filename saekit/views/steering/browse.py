"""What the steering view hears from the browser: settings, presses of buttons, and the search for features."""

from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit.errors import SaekitError
from saekit.views._shared.index_side import ORDERS, search_hits, walk_in
from saekit.views._shared.rows import pack
from saekit.views._shared.view import View, in_words
from saekit.views._shared.worker import Stopped, Worker
from saekit.views.steering.state import feature_facts

if TYPE_CHECKING:
    from saekit.index import FeatureIndex


class SteeringBrowse(View):
    """The listening side of `saekit.views.steering.Steering`.

    The browser writes ``_wish`` only, and Python answers with ``setting`` and ``_heard``. So a setting that cannot be
    never becomes the setting, and says why in ``error``.
    """

    order = t.Enum(ORDERS, "number", help="in which features are walked through").tag(sync=True)

    _wish = t.Dict(help="{turn, setting, asked: {button: presses}}").tag(sync=True)
    _heard = t.Int(0, help="turn of the last wish that was answered").tag(sync=True)
    _peek = t.Int(-1, help="feature that is looked at before it is added").tag(sync=True)
    _cards = t.Dict(help="{feature: contexts and promoted tokens}").tag(sync=True)
    _walk = t.Bytes(help="live features in walking order, float32").tag(sync=True)
    _query = t.Dict(help='{"mode": "token" | "text", "text": str}').tag(sync=True)
    _hits = t.Dict().tag(sync=True)

    _index: "FeatureIndex | None"

    # What `SteeringWork` brings.
    _facts: Any
    run: Any
    run_sweep: Any
    baselines_ready: Any
    compare: Any

    def __init__(self, **traits: Any) -> None:
        self._pressed: dict[str, int] = {}
        super().__init__(**traits)
        # A search takes half a second and must not wait for a run that takes many.
        self._searcher = Worker(self._guard, on_idle=lambda: None)
        if self._index is not None:
            self._walk = pack(walk_in(self.order, self._index, None))
        self._show_cards()

    @t.observe("_wish")
    def _on_wish(self, change: Any) -> None:
        wish = change["new"]
        with self._guard, self.hold_sync():
            try:
                self.setting = wish["setting"]
                self.error = ""
                self._press(wish["asked"])
            except (SaekitError, t.TraitError) as failure:
                self.error = in_words(failure)
            self._heard = wish["turn"]

    def _press(self, asked: dict[str, int]) -> None:
        """Do what was asked for since the last wish; Run comes first, and ends all else that is under way."""
        new = [name for name in asked if asked[name] > self._pressed.get(name, 0)]
        self._pressed |= asked
        for name in sorted(new, key=lambda name: name != "run"):
            if name == "run":
                self.run()
            elif name == "sweep":
                self.run_sweep()
            elif name == "sweep with baselines":
                self.run_sweep(baselines=self.baselines_ready())
            else:
                self.compare(name)

    @t.observe("order")
    def _on_order(self, change: Any) -> None:
        if self._index is not None:
            self._walk = pack(walk_in(change["new"], self._index, None))

    @t.observe("setting", "_peek")
    def _show_cards(self, _change: Any = None) -> None:
        wanted = [row["feature"] for row in self.setting["features"]]
        if 0 <= self._peek < self._facts["d_sae"]:
            wanted.append(self._peek)
        known = {feature: self._cards.get(str(feature)) or feature_facts(self._index, feature) for feature in wanted}
        self._cards = {str(feature): card for feature, card in known.items()}

    @t.observe("_query")
    def _on_query(self, change: Any) -> None:
        query, index = change["new"], self._index
        if not query.get("text") or index is None:
            self._hits = {}
            return

        def search(stopped: Stopped) -> None:
            try:
                self._publish(stopped, _hits=search_hits(index, query, {}))
            except SaekitError as failure:
                self._publish(stopped, error=in_words(failure))

        with self._guard:
            self._searcher.submit("search", search)
