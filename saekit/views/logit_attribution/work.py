"""The slow part of the logit attribution view: all that the model has to run for, in the view's worker thread."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets as t

from saekit.views._shared.contexts import context_rows
from saekit.views._shared.view import View
from saekit.views._shared.worker import Stopped
from saekit.views.logit_attribution.ask import Asked, FieldError, ids_of, swapped
from saekit.views.logit_attribution.state import METHODS, agreement_rows, prediction_rows, shown_of

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.attribution import Attribution, Predictions
    from saekit.index import FeatureIndex

AT_ONCE = ("direct", "patching")  # methods that follow every edit; the others wait until they are asked for
EXACT = 48  # features patched one by one, the strongest by attribution patching
EXACT_ERRORS = 16  # positions at which the error is patched
TOGETHER = 16  # patches between two looks at Stop
TOP = 7  # predictions listed
REMEMBERED = 8  # questions whose answers are kept


class AttributionWork(View):
    """What `saekit.views.logit_attribution.LogitAttribution` computes, and the traits in which it travels."""

    prompt = t.Unicode("").tag(sync=True)
    answer = t.Unicode("").tag(sync=True)
    foil = t.Unicode("").tag(sync=True)
    baseline = t.Enum(("zero", "mean", "corrupted"), "zero").tag(sync=True)
    corrupted = t.Unicode("").tag(sync=True)
    hook = t.Unicode("").tag(sync=True)
    method = t.Enum(METHODS, "direct").tag(sync=True)
    ablated = t.List(t.Int()).tag(sync=True)

    _facts = t.Dict().tag(sync=True)
    _shown = t.Dict(help="what is drawn of the last attribution, and the question that it answers").tag(sync=True)
    _agreement = t.List(help="of the method shown with each other one computed").tag(sync=True)
    _outcome = t.Dict(help="predictions, and the question that they answer").tag(sync=True)
    _contexts = t.Dict(help='{"hook/feature": {dead, max, rows}}').tag(sync=True)
    _wrong = t.Unicode("", help="the field that the error is about").tag(sync=True)
    _doing = t.Unicode("").tag(sync=True)
    _starts = t.Int(0, help="counts presses of Compute").tag(sync=True)
    _has_kernel = t.Bool(True).tag(sync=True)

    k: int
    _model: "SAETransformerBridge"
    _saes: "dict[str, SAE[Any]]"
    _indexes: "dict[str, FeatureIndex]"
    _ready = False
    _filled = ""  # the corrupted prompt that the view made up itself
    _demanded: tuple[Asked, str] | None = None
    _known: "dict[Asked, dict[str, Attribution]]"
    _found: "Attribution | None" = None
    _predicted: tuple = ()  # what _outcome answers
    _active: "tuple[tuple, list[int]]" = ((), [])  # features active on a prompt at a hook point
    _predictions: "Predictions | None" = None
    _control: "Predictions | None" = None

    def compute(self) -> None:
        """Compute what is shown, slow methods included, in the background; see `wait`. The Compute button calls it."""
        with self._guard:
            self._demanded = (self._asked(), self.method)
            self._background("answer", self._answer)

    def stop(self) -> None:
        """Drop what is under way; it ends after the pass at hand. The Stop button calls this."""
        with self._guard:
            super().stop()
            self._doing = ""

    def _asked(self) -> Asked:
        corrupted = self.corrupted if self.baseline == "corrupted" else ""
        return Asked(self.prompt, self.answer, self.foil, self.baseline, corrupted, self.hook)

    @t.observe("_starts")
    def _on_start(self, _change: Any) -> None:
        self.compute()

    @t.observe("prompt", "answer", "foil", "baseline")
    def _on_question(self, _change: Any) -> None:
        """Keep a made-up corrupted prompt in step: it was not the reader's."""
        with self._guard:
            if self._ready and self.baseline == "corrupted":
                self._fill()
            self._follow()

    def _fill(self) -> None:
        """Make up a prompt to compare with, unless the reader typed one."""
        if self.corrupted in ("", self._filled):
            self.corrupted = self._filled = swapped(self.prompt, self.answer, self.foil)

    @t.observe("corrupted", "ablated")
    def _on_change(self, _change: Any) -> None:
        self._follow()

    @t.observe("hook")
    def _on_hook(self, _change: Any) -> None:
        with self._guard:
            if self._ready:
                self.ablated = []
            self._follow()

    @t.observe("method")
    def _on_method(self, _change: Any) -> None:
        """Choosing a slow method asks for it; editing the prompt afterwards does not."""
        if self._ready:
            self.compute()

    def _follow(self) -> None:
        with self._guard:
            if self._ready:
                self._background("answer", self._answer)

    # --- in the worker ----------------------------------------------------------------------------------------

    def _answer(self, stopped: Stopped) -> None:
        """Bring everything up to date: predictions first, then the attribution, then what ablation does."""
        with self._guard:
            asked, method, ablated, demanded = self._asked(), self.method, tuple(self.ablated), self._demanded
        try:
            ids, tokens = ids_of(self._model, asked, compared=method != "direct")
        except FieldError as wrong:
            self._publish(stopped, error=str(wrong), _wrong=wrong.field, _doing="")
            return
        if not self._publish(stopped, error="", _wrong=""):
            return
        if self._predicted[:3] != (asked.prompt, asked.answer, asked.foil):
            self._predict(asked, ids, tokens, (), stopped)  # what the model says comes first, before any ablation
        known = self._remembered(asked)
        if method not in known and (method in AT_ONCE or demanded == (asked, method)):
            found = self._attribute(asked, ids, tokens, method, stopped)
            if found is None:
                return
            known[method] = found
        if method in known:
            self._show(asked, ids, method, stopped)
        self._predict(asked, ids, tokens, ablated, stopped)
        self._publish(stopped, _doing="")

    def _remembered(self, asked: Asked) -> "dict[str, Attribution]":
        """Return what was computed for a question; direct attribution is the same whatever is compared with."""
        known = self._known.setdefault(asked, {})
        for other, found in self._known.items():
            if "direct" in found and replace(other, baseline=asked.baseline, corrupted=asked.corrupted) == asked:
                known["direct"] = found["direct"]
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return known

    def _show(self, asked: Asked, ids: Any, method: str, stopped: Stopped) -> None:
        from saekit.models import special_token_ids

        known = self._known[asked]
        special = special_token_ids(self._model) if method == "direct" else []
        shown = shown_of(asked, known[method], self.k, [token in special for token in ids.tolist()])
        contexts, agreement = self._read(asked.hook, shown), agreement_rows(known, method)
        with self._guard:
            if self._publish(stopped, _shown=shown, _agreement=agreement, _contexts=contexts):
                self._found = known[method]

    def _read(self, hook: str, shown: dict) -> dict[str, dict]:
        """Return the contexts of the features that are shown, as far as there is an index."""
        if hook not in self._indexes:
            return {}
        features = dict.fromkeys([*shown["features"], *(row["feature"] for row in shown["bars"])])
        index, known = self._indexes[hook], self._contexts
        return {
            key: known.get(key) or context_rows(index, feature)
            for feature in features
            if feature >= 0 and (key := f"{hook}/{feature}")
        }

    def _attribute(self, asked: Asked, ids: Any, tokens: Any, method: str, stopped: Stopped) -> "Attribution | None":
        from saekit.attribution import attribution_patching, direct_logit_attribution

        sae, reading = {asked.hook: self._saes[asked.hook]}, _reading(tokens)
        if method == "direct":
            return direct_logit_attribution(self._model, sae, ids, position="each", **reading)
        against: dict[str, Any]
        against = {"corrupted": [asked.corrupted]} if asked.corrupted else {"baseline": asked.baseline}
        if method == "exact":
            return self._exact(asked, ids, {**reading, **against}, stopped)
        if method == "integrated gradients":
            self._publish(stopped, _doing="ten gradients between the two runs")
        kind = "gradient" if method == "patching" else "integrated"
        return attribution_patching(self._model, sae, ids, method=kind, **reading, **against)

    def _exact(self, asked: Asked, ids: Any, options: dict[str, Any], stopped: Stopped) -> "Attribution | None":
        """Patch the strongest nodes one by one, a few between two looks at Stop."""
        from saekit.attribution import activation_patching, attribution_patching

        sae, known = {asked.hook: self._saes[asked.hook]}, self._known[asked]
        if "patching" not in known:
            known["patching"] = attribution_patching(self._model, sae, ids, **options)
        nodes = [*known["patching"].top(EXACT), *known["patching"].top(EXACT_ERRORS, kinds=("error",))]
        parts = []
        for start in range(0, len(nodes), TOGETHER):
            if not self._publish(stopped, _doing=f"patching one by one: {start} of {len(nodes)}"):
                return None
            parts.append(activation_patching(self._model, sae, ids, nodes=nodes[start : start + TOGETHER], **options))
        return joined(parts)

    def _predict(self, asked: Asked, ids: Any, tokens: Any, ablated: tuple[int, ...], stopped: Stopped) -> None:
        """Publish the predictions, with the ticked features ablated and with as many random ones."""
        from saekit.attribution import predictions

        key = (asked.prompt, asked.answer, asked.foil, asked.hook if ablated else "", ablated)
        if stopped() or self._predicted == key:
            return
        sae = self._saes[asked.hook]
        found = predictions(self._model, ids, sae=sae, nodes=list(ablated), also=tokens.tolist(), k=TOP)
        random = self._drawn(asked, ids, ablated) if ablated else []
        control = None
        if random:
            control = predictions(self._model, ids, sae=sae, nodes=random, also=found.ids.tolist(), k=TOP)
        outcome = {
            "asked": [asked.prompt, asked.answer, asked.foil],
            "rows": prediction_rows(found, control, tokens.tolist()),
            "ablated": list(ablated),
            "control": random,
            "kl": max(0.0, found.kl) if ablated else None,  # rounding can leave a tiny negative
            "kl_control": control and max(0.0, control.kl),
        }
        with self._guard:
            if not stopped():
                self._predicted, self._predictions, self._control = key, found, control
                self._publish(stopped, _outcome=outcome)

    def _drawn(self, asked: Asked, ids: Any, ticked: tuple[int, ...]) -> list[int]:
        """Return as many features as are ticked, of the others that are active: at the last token if it has enough."""
        key = (asked.prompt, asked.hook)
        if self._active[0] != key:
            self._active = (key, active_features(self._model, self._saes[asked.hook], ids))
        others = [feature for feature in self._active[1] if feature not in ticked]
        return sorted(others[: len(ticked)])


def _reading(tokens: Any) -> dict[str, Any]:
    ids = [int(token) for token in tokens]
    return {"answer": ids[0]} if len(ids) == 1 else {"answer": ids[0], "foil": ids[1]}


def joined(parts: "list[Attribution]") -> "Attribution":
    """Return one attribution with the items of several of the same readings."""
    names = ("at_read", "at_hook", "position", "kind", "feature", "activation", "activation_baseline", "effect")
    return replace(parts[0], **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def active_features(model: "SAETransformerBridge", sae: "SAE[Any]", ids: Any) -> list[int]:
    """Return the features that ablation would change, in random order (seed 0): first those of the last token."""
    import torch

    from saekit.attribution import compared_states, comparison_of

    (states,) = compared_states(model, comparison_of(model, sae, [ids], answer=0), 1)
    changes = (states.features != states.features_baseline)[0]
    at_last, anywhere = changes[-1], changes.any(0).nonzero().flatten()
    order = anywhere[torch.randperm(len(anywhere), generator=torch.Generator().manual_seed(0))].tolist()
    return sorted(order, key=lambda feature: not at_last[feature])
