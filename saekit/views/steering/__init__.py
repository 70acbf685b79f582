"""The steering view: unsteered and steered text side by side, with what steering costs beneath."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit.views.steering.browse import SteeringBrowse
from saekit.views.steering.setting import (
    DEFAULTS,
    checked_setting,
    feature_rows,
    from_json,
    intervention_of,
    setting_words,
)
from saekit.views.steering.state import STEERED
from saekit.views.steering.still import steering_html
from saekit.views.steering.work import SteeringWork

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.steering import Intervention, SideEffects, SteeringSweep


class Steering(SteeringBrowse, SteeringWork):
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
        self._sae, self._index, self._examples, self._effects = sae, index, examples, {}
        self._language_model = str(model.cfg.model_name)
        first = {
            "prompt": prompt, "features": feature_rows(features, strength, mode), "unit": unit, "positions": positions,
            "max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "chat": chat, "topic": topic,
            "concept": concept,
        }  # fmt: skip
        checked = self._checked(first)
        self._model = twin(model)
        facts = {
            "model": self._language_model,
            "hook": checked["hook_name"],
            "d_sae": int(sae.cfg.d_sae),
            "has_chat": has_chat(model),
            "has_index": index is not None,
            "orders": ["number", "density", "max"],
            "own_text": "live",
        }
        super().__init__(setting=checked, _facts=facts)
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
        return {key: one["text"] for key, one in self._texts.items()}

    @property
    def effects(self) -> "dict[str, SideEffects]":
        """Side effects of the texts as far as they are measured; their ``kl`` comes last and is NaN until then."""
        return dict(self._effects)

    @property
    def sweep(self) -> "SteeringSweep | None":
        """What `run_sweep` found so far; None before it."""
        return self._swept

    # --- traits -----------------------------------------------------------------------------------------------

    def _checked(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        return checked_setting(setting, self._language_model, self._sae, self._index)

    @t.validate("setting")
    def _check_setting(self, proposal: dict) -> dict[str, Any]:
        return self._checked(proposal["value"])

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
        end = self._texts.get(STEERED, {}).get("end")
        state = "under way" if self.busy else "not run" if end is None else f"text of {len(self.value)} characters"
        return f"Steering({words}: {state})"

    def _title(self) -> str:
        return f"Steering · {self._language_model} · {self.setting['hook_name']}"

    def _state(self) -> dict[str, Any]:
        names = ("setting", "_facts", "_ran", "_columns", "_texts", "_read", "_sweep")
        return {name.removeprefix("_"): getattr(self, name) for name in names}

    def _static(self) -> str:
        with self._guard:
            return steering_html(self._state())

    def to_html(self) -> str:
        """Return a self-contained page with the texts and what was measured, which needs no kernel."""
        return self._page(busy=False, _doing="", _has_kernel=False)

    def to_json(self) -> str:
        """Return the setting as JSON text, to save and to share; `from_setting` reads it."""
        return json.dumps(self.setting, indent=1, ensure_ascii=False, allow_nan=False)
