"""The slow work of the logit attribution view: all that the model has to run for. It knows no widget."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit.views._shared.contexts import context_rows
from saekit.views._shared.view import Changes
from saekit.views._shared.worker import Stopped
from saekit.views.logit_attribution.ask import Asked, FieldError, ids_of
from saekit.views.logit_attribution.numbers import Outcome, Shown, explained, features_shown

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.attribution import Attribution
    from saekit.index import FeatureIndex

AT_ONCE = ("direct", "patching")  # methods that follow every edit; the others wait until they are asked for
EXACT = 48  # features patched one by one, the strongest by attribution patching
EXACT_ERRORS = 16  # positions at which the error is patched
TOGETHER = 16  # patches between two looks at Stop
TOP = 7  # predictions listed
REMEMBERED = 8  # questions whose answers are kept


class Answerer:
    """Answers questions with attributions and predictions, and remembers the last of them."""

    def __init__(
        self,
        model: "SAETransformerBridge",
        saes: "Mapping[str, SAE[Any]]",
        indexes: "Mapping[str, FeatureIndex]",
        k: int,
    ) -> None:
        """Get ready to answer.

        Args:
            model: A copy of the model with hook points of its own, see `saekit.models.twin`.
            saes: SAEs by their hook points.
            indexes: Feature indexes of some of them, likewise.
            k: Features shown one by one.
        """
        self.model = model
        self._saes, self._indexes, self._k = saes, indexes, k
        self._known: dict[Asked, dict[str, Attribution]] = {}
        self._active: tuple[tuple[str, str], list[int]] = (("", ""), [])  # features active on a prompt at a hook point

    def answer(
        self,
        asked: Asked,
        method: str,
        ablated: tuple[int, ...],
        demanded: bool,
        outcome: Outcome | None,
        stopped: Stopped,
    ) -> Changes:
        """Bring everything up to date: predictions first, then the attribution, then what ablation does.

        Args:
            asked: The question.
            method: The method that is chosen.
            ablated: Ticked features.
            demanded: Whether to compute the method even if it is slow.
            outcome: Predictions that are shown.
            stopped: Whether the work is no longer wanted.
        """
        try:
            ids, tokens = ids_of(self.model, asked, compared=method != "direct")
        except FieldError as wrong:
            yield {"error": str(wrong), "_wrong": wrong.field, "_doing": ""}
            return
        yield {"error": "", "_wrong": ""}
        if outcome is None or outcome.asked != (asked.prompt, asked.answer, asked.foil):
            outcome = self._predicted(asked, ids, tokens, ())  # what the model says comes first, before any ablation
            yield {"_outcome": outcome}
        known = self._remembered(asked)
        if method not in known and (method in AT_ONCE or demanded):
            yield from self._attribute(asked, ids, tokens, method, known)
        if method in known:
            yield {"_answer": self._shown(asked, ids, method, known)}
        if (outcome.ablated, ablated and outcome.hook) != (ablated, ablated and asked.hook) and not stopped():
            yield {"_outcome": self._predicted(asked, ids, tokens, ablated)}
        yield {"_doing": ""}

    def _remembered(self, asked: Asked) -> "dict[str, Attribution]":
        """Return what was computed for a question; direct attribution is the same whatever is compared with."""
        known = self._known.setdefault(asked, {})
        for other, found in self._known.items():
            if "direct" in found and replace(other, baseline=asked.baseline, corrupted=asked.corrupted) == asked:
                known["direct"] = found["direct"]
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return known

    def _shown(self, asked: Asked, ids: Any, method: str, known: "Mapping[str, Attribution]") -> Shown:
        from saekit.models import special_token_ids

        special = special_token_ids(self.model)
        index = self._indexes.get(asked.hook)
        contexts = {}
        if index is not None:
            features = features_shown(explained(known[method]), self._k)
            contexts = {feature: context_rows(index, feature) for feature in features}
        return Shown(asked, method, dict(known), tuple(i in special for i in ids.tolist()), contexts, self._k)

    def _attribute(self, asked: Asked, ids: Any, tokens: Any, method: str, known: "dict[str, Attribution]") -> Changes:
        """Compute an attribution into ``known``."""
        from saekit.attribution import attribution_patching, direct_logit_attribution

        sae, reading = {asked.hook: self._saes[asked.hook]}, _reading(tokens)
        if method == "direct":
            known[method] = direct_logit_attribution(self.model, sae, ids, position="each", **reading)
            return
        against: dict[str, Any]
        against = {"corrupted": [asked.corrupted]} if asked.corrupted else {"baseline": asked.baseline}
        if method == "exact":
            yield from self._exact(asked, ids, {**reading, **against}, known)
            return
        if method == "integrated gradients":
            yield {"_doing": "ten gradients between the two runs"}
        kind = "gradient" if method == "patching" else "integrated"
        known[method] = attribution_patching(self.model, sae, ids, method=kind, **reading, **against)

    def _exact(self, asked: Asked, ids: Any, options: dict[str, Any], known: "dict[str, Attribution]") -> Changes:
        """Patch the strongest nodes one by one, a few between two looks at Stop."""
        from saekit.attribution import activation_patching, attribution_patching

        sae = {asked.hook: self._saes[asked.hook]}
        if "patching" not in known:
            known["patching"] = attribution_patching(self.model, sae, ids, **options)
        nodes = [*known["patching"].top(EXACT), *known["patching"].top(EXACT_ERRORS, kinds=("error",))]
        parts = []
        for start in range(0, len(nodes), TOGETHER):
            yield {"_doing": f"patching one by one: {start} of {len(nodes)}"}
            parts.append(activation_patching(self.model, sae, ids, nodes=nodes[start : start + TOGETHER], **options))
        known["exact"] = joined(parts)

    def _predicted(self, asked: Asked, ids: Any, tokens: Any, ablated: tuple[int, ...]) -> Outcome:
        """Return the predictions, with the ticked features ablated and with as many random ones."""
        from saekit.attribution import predictions

        sae = self._saes[asked.hook]
        found = predictions(self.model, ids, sae=sae, nodes=list(ablated), also=tokens.tolist(), k=TOP)
        random = self._drawn(asked, ids, ablated) if ablated else []
        control = None
        if random:
            control = predictions(self.model, ids, sae=sae, nodes=random, also=found.ids.tolist(), k=TOP)
        question = (asked.prompt, asked.answer, asked.foil)
        return Outcome(question, asked.hook, found, control, tuple(tokens.tolist()), ablated, tuple(random))

    def _drawn(self, asked: Asked, ids: Any, ticked: tuple[int, ...]) -> list[int]:
        """Return as many features as are ticked, of the others that are active: at the last token if it has enough."""
        key = (asked.prompt, asked.hook)
        if self._active[0] != key:
            self._active = (key, active_features(self.model, self._saes[asked.hook], ids))
        others = [feature for feature in self._active[1] if feature not in ticked]
        return sorted(others[: len(ticked)])


def _reading(tokens: Any) -> dict[str, Any]:
    ids = [int(token) for token in tokens]
    return {"answer": ids[0]} if len(ids) == 1 else {"answer": ids[0], "foil": ids[1]}


def joined(parts: "Sequence[Attribution]") -> "Attribution":
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
