"""The steering view: unsteered and steered text side by side, with what steering costs beneath."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit.errors import SaekitError, SteeringError
from saekit.steering import KINDS
from saekit.views._shared.index_side import ORDERS, Walk, search_hits
from saekit.views._shared.nodes import Node
from saekit.views._shared.view import View, in_words
from saekit.views._shared.words import pack
from saekit.views._shared.worker import Stopped, Worker
from saekit.views.steering.setting import (
    DEFAULTS,
    checked_setting,
    feature_rows,
    from_json,
    intervention_of,
    setting_words,
)
from saekit.views.steering.state import (
    STEERED,
    Swept,
    Written,
    feature_card,
    head,
    ran_panel,
    shade_key,
    sweep_panel,
    text_panels,
    texts_panel,
)
from saekit.views.steering.work import Writer, begun, ended, has_text

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.steering import Intervention, SideEffects, SteeringSweep

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of a sweep


class Steering(View):
    """Steer a model along features, and read the text beside the one without, and what it costs.

    Run, or `run`, writes both texts, token by token, in one worker thread on hook points of its own: other cells may
    run the model meanwhile. Stop, or `stop`, keeps the texts so far. A feature of strength 0 is off, and a text
    without any other is the model's own, bit for bit. Tokens are shaded by how much steering changed their
    probability; side effects come beneath each text as they are ready. `compare` writes baselines beside it,
    `run_sweep` varies the strength. Closing the view ends the work; there is never a hook on your model.

    Traits (typed, checked, linkable with ``ipywidgets.link``; observe with ``names=``):
        setting: Everything that can be chosen, as plain data: ``prompt``, ``features`` (a list of ``{"feature": 7,
            "mode": "add", "value": 1.0}``), ``unit``, ``positions``, ``temperature`` (0: greedy), ``seed``,
            ``max_new_tokens``, ``chat``, ``topic``, ``concept``. Assign a whole one; what it leaves out is default.
        value: The steered text, as far as it is written. Read only.

    >>> view = Steering(model, sae, "My holiday was", features=[2771], index=index)   # doctest: +SKIP
    >>> view.run(); view.wait(); view.value, view.effects["steered"]                   # doctest: +SKIP
    >>> view = Steering.from_setting(model, sae, saved_json, index=index)              # doctest: +SKIP
    """

    _name = "steering"
    setting = t.Dict().tag(sync=True)
    value = t.Unicode("", read_only=True).tag(sync=True)
    order = t.Enum(ORDERS, "number", help="in which features are walked through").tag(sync=True)

    _written = t.Instance(Written, (), help="texts and what was measured of them; stays in Python")
    _swept = t.Instance(Swept, None, allow_none=True, help="the sweep; stays in Python")

    _head = t.List(help="panel: what the view is").tag(sync=True)
    _ran = t.Dict(help="the setting that the texts were written with").tag(sync=True)
    _note = t.List(help="panel: that setting in words").tag(sync=True)
    _texts = t.List(help="[key, panel] of each text").tag(sync=True)
    _key = t.List(help="panel: what shades mean").tag(sync=True)
    _said = t.Unicode("", help="what a screen reader is told of the texts").tag(sync=True)
    _sweep = t.Dict(help="{panel, setting} of the sweep").tag(sync=True)
    _facts = t.Dict().tag(sync=True)

    # The browser writes a wish only, and Python answers with ``setting`` and ``_heard``. So a setting that cannot be
    # never becomes the setting, and says why in ``error``.
    _wish = t.Dict(help="{turn, setting, asked: {button: presses}}").tag(sync=True)
    _heard = t.Int(0, help="turn of the last wish that was answered").tag(sync=True)
    _peek = t.Int(-1, help="feature that is looked at before it is added").tag(sync=True)
    _cards = t.Dict(help="{feature: what helps to recognise it}").tag(sync=True)
    _walk = t.Bytes(help="live features in walking order, float32").tag(sync=True)
    _query = t.Dict(help='{"mode": "token" | "text", "text": str}').tag(sync=True)
    _hits = t.Dict().tag(sync=True)

    def __init__(
        self,
        model: "SAETransformerBridge",
        sae: "SAE[Any]",
        prompt: str = "",
        features: int | Iterable[int | Mapping[str, Any]] | Mapping[int, float] = (),
        *,
        index: "FeatureIndex | None" = None,
        strength: float | None = None,
        mode: str = "add",
        unit: str | None = None,
        positions: str | tuple[int, int] = "all",
        max_new_tokens: int = DEFAULTS["max_new_tokens"],
        temperature: float = 0.0,
        seed: int = 0,
        chat: bool | None = None,
        topic: str = "",
        concept: str = "",
        examples: tuple[Sequence[str], Sequence[str]] | None = None,
        autostart: bool = False,
    ) -> None:
        """Get ready to steer ``model`` along features of ``sae``.

        Args:
            model: The model; no hook is ever put on it.
            sae: Whose features they are.
            prompt: What the model is asked, or what it goes on with.
            features: Numbers, or ``{number: strength}``, or rows as in the trait ``setting``.
            index: Brings search, the features' contexts and their maxima, in which strength is then measured.
            strength: Of features that come without one; by default 1 in unit ``"max"``, else 0.5.
            mode: ``"add"``, ``"clamp"``, ``"ablate"`` or ``"scale"``; see `saekit.steering.Edit`.
            unit: ``"max"``, ``"norm"`` or ``"activation"``; by default ``"max"`` with an index, else ``"norm"``.
            positions: ``"all"``, ``"generated"`` or ``(start, stop)``; see `saekit.steering.Intervention`.
            max_new_tokens: Most tokens of a text.
            temperature: 0: greedy; else tokens are sampled with ``seed``.
            seed: Of the sampling and of the random baselines.
            chat: Put the prompt into the model's chat template; by default if it has one.
            topic: The concept in words, for the baseline that asks for it: "Talk about {topic}. {prompt}".
            concept: A regular expression that says which words are about the concept; by default the features
                themselves, read again, say where it is.
            examples: Texts with and without the concept, for the difference of means.
            autostart: Run at once.

        Raises:
            SteeringError: The setting cannot be, for example a feature that the SAE does not have.
            SAEError: The SAE fits neither model nor index.
        """
        from saekit.models import twin
        from saekit.saes import check_pair
        from saekit.steering import has_chat
        from saekit.views._shared.index_side import check_index_pair

        if index is None:
            check_pair(model, sae)
        else:
            check_index_pair(index, model, sae)
        unit = unit or ("max" if index is not None else "norm")
        strength = (1.0 if unit == "max" else 0.5) if strength is None else strength
        self._sae, self._index = sae, index
        self._language_model = str(model.cfg.model_name)
        self._pressed: dict[str, int] = {}
        first = {
            "prompt": prompt, "features": feature_rows(features, strength, mode), "unit": unit, "positions": positions,
            "max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "chat": chat, "topic": topic,
            "concept": concept,
        }  # fmt: skip
        checked = self._checked(first)
        self._writer = Writer(twin(model), sae, index, examples)
        facts = {
            "model": self._language_model,
            "hook": checked["hook_name"],
            "d_sae": int(sae.cfg.d_sae),
            "has_chat": has_chat(model),
            "has_index": index is not None,
            "orders": ["number", "density", "max"],
            "own_text": "live",
        }
        walk = b"" if index is None else pack(Walk(index, "Steering(model, sae").along("number"))
        super().__init__(setting=checked, _facts=facts, _walk=walk, _head=head(facts, checked), _key=shade_key())
        # A search takes half a second and must not wait for a run that takes many.
        self._searcher = Worker(self._guard, on_idle=lambda: None)
        self._show_cards()
        self._show_texts()
        if autostart:
            self.run()

    @classmethod
    def from_setting(
        cls, model: "SAETransformerBridge", sae: "SAE[Any]", setting: Mapping[str, Any] | str, **options: Any
    ) -> "Steering":
        """Return a view with a setting that was saved: `to_json`'s text, or the dictionary.

        Args:
            model: The model.
            sae: The SAE that the setting was made with.
            setting: What was saved.
            options: ``index``, ``examples``, ``autostart``.

        Raises:
            SteeringError: It is no setting, or one for another SAE.
        """
        read = from_json(setting) if isinstance(setting, str) else setting
        autostart = options.pop("autostart", False)
        view = cls(model, sae, **options)
        view.setting = view._checked(read)  # a SteeringError, where the trait would say it another way
        if autostart:
            view.run()
        return view

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def intervention(self) -> "Intervention | None":
        """The setting as an `Intervention`; None where it does nothing."""
        return intervention_of(self.setting)

    @property
    def texts(self) -> dict[str, str]:
        """The texts as far as they are written: ``"unsteered"``, ``"steered"``, and baselines by their names."""
        return {key: text for key, (text, _) in self._written.texts.items()}

    @property
    def effects(self) -> "dict[str, SideEffects]":
        """Side effects of the texts as far as they are measured; their ``kl`` comes last and is NaN until then."""
        return dict(self._written.effects)

    @property
    def sweep(self) -> "SteeringSweep | None":
        """What `run_sweep` found so far; None before it."""
        return None if self._swept is None else self._swept.sweep

    # --- what can be asked for ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Write the unsteered and the steered text side by side, in the background; see `wait`.

        A run that is under way is dropped. Side effects follow once the texts are written.
        """
        with self._guard:
            self.stop()
            with self.hold_sync():
                self.error, self._written = "", begun(dict(self.setting))
                self._background("run", lambda stopped: self._writer.run(self._written, stopped))

    def compare(self, *kinds: str) -> None:
        """Write baselines beside the steered text, their edits as long as its own, in the background.

        Args:
            kinds: Names among ``"prompt"``, which asks for the topic of the setting, ``"difference of means"``,
                ``"random direction"`` and ``"random feature"``; by default all for which the
                setting, examples or an index give what they need.

        Raises:
            SteeringError: There is no such baseline.
        """
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise SteeringError(f"there is no baseline {unknown[0]!r:.80}: they are {', '.join(KINDS)}")
        with self._guard:
            if not self.busy and not has_text(self._written):
                self.run()
            for kind in kinds or self.baselines_ready():
                self._background(
                    kind,
                    lambda stopped, kind=kind: self._writer.compare(kind, self._written, self.setting, stopped),
                )

    def baselines_ready(self) -> tuple[str, ...]:
        """Return the baselines for which everything needed is there."""
        return self._writer.baselines_ready(self.setting)

    def run_sweep(self, factors: Sequence[float] = FACTORS, *, baselines: Sequence[str] = ()) -> None:
        """Run the setting at several strengths, in the background; the result is `sweep`.

        Args:
            factors: Positive numbers, by which all strengths of the setting are multiplied (for ablate and scale:
                the change that they make).
            baselines: Also run these, their edits as long; see `compare`.

        Raises:
            SteeringError: A factor is not positive, or the setting does nothing.
        """
        if not factors or not all(isinstance(f, int | float) and 0 < f <= 1e6 for f in factors):
            raise SteeringError(f"factors must be positive numbers, at least one, not {factors!r:.80}")
        target = intervention_of(self.setting)
        if target is None:
            raise SteeringError(
                "nothing is steered, so there is no strength to vary: add a feature, or move its slider"
            )
        job = (dict(self.setting), target, tuple(factors), tuple(baselines))
        with self._guard:
            self.error = ""
            self._background("sweep", lambda stopped: self._writer.sweep(*job, self._shower(stopped), stopped))

    def stop(self) -> None:
        """End what is under way; texts so far stay. The Stop button calls this."""
        with self._guard:
            super().stop()
            with self.hold_sync():
                self._written = ended(self._written)
                if self._swept is not None and self._swept.under_way:
                    self._swept = replace(self._swept, under_way=False)

    def _shower(self, stopped: Stopped) -> Any:
        return lambda **traits: self._publish(stopped, **traits)

    # --- traits -----------------------------------------------------------------------------------------------

    def _checked(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        return checked_setting(setting, self._language_model, self._sae, self._index)

    @t.validate("setting")
    def _check_setting(self, proposal: dict) -> dict[str, Any]:
        return self._checked(proposal["value"])

    @t.observe("_written", "setting", "busy")
    def _show_texts(self, _change: Any = None) -> None:
        written = self._written
        with self.hold_sync():
            self._ran, self._note = dict(written.ran), ran_panel(written.ran or self.setting)
            self._texts = [[key, panel] for key, panel in text_panels(written, busy=self.busy).items()]
            whole = bool(written.texts) and all(end for _, end in written.texts.values())
            self._said = f"{len(written.texts)} texts are written" if whole else ""
            self.set_trait("value", written.texts.get(STEERED, ("", ""))[0])

    @t.observe("_swept")
    def _show_sweep(self, change: Any) -> None:
        swept = change["new"]
        self._sweep = {"panel": sweep_panel(swept), "setting": dict(swept.setting)}

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
            self._walk = pack(Walk(self._index, "Steering(model, sae").along(change["new"]))

    @t.observe("setting", "_peek")
    def _show_cards(self, _change: Any = None) -> None:
        wanted = [row["feature"] for row in self.setting["features"]]
        if 0 <= self._peek < self._facts["d_sae"]:
            wanted.append(self._peek)
        self._cards = {str(f): self._cards.get(str(f)) or feature_card(self._index, f) for f in wanted}

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

    def close(self) -> None:
        """End the work and remove the view; what it found stays."""
        with self.__dict__.get("_guard") or nullcontext():  # absent where __init__ refused its arguments
            if "_searcher" in self.__dict__:
                self.stop()
                self._searcher.stop()
            super().close()

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def __repr__(self) -> str:
        words = setting_words(self.setting)
        end = self._written.texts.get(STEERED, ("", None))[1]
        state = "under way" if self.busy else "not run" if end is None else f"text of {len(self.value)} characters"
        return f"Steering({words}: {state})"

    def _title(self) -> str:
        return f"Steering · {self._language_model} · {self.setting['hook_name']}"

    def state(self) -> dict[str, Node]:
        """Return what the view shows as plain data, panel by panel; see `saekit.views._shared.nodes`."""
        with self._guard:
            panels = {"head": self._head, "ran": self._note, "texts": texts_panel(dict(self._texts))}
            if self._written.read:
                panels["key"] = self._key
            return panels | ({"sweep": self._sweep["panel"]} if self._sweep else {})

    def to_html(self) -> str:
        """Return a self-contained page with the texts and what was measured, which needs no kernel."""
        return self._page()

    def to_json(self) -> str:
        """Return the setting as JSON text, to save and to share; `from_setting` reads it."""
        return json.dumps(self.setting, indent=1, ensure_ascii=False, allow_nan=False)
