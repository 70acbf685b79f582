"""The logit attribution view: what each feature of a prompt does to the model's next token."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit._base.checks import whole
from saekit.errors import FeatureIndexError
from saekit.views._shared.contexts import indexes_by_hook, short_hook
from saekit.views._shared.nodes import Node, line
from saekit.views._shared.view import View
from saekit.views.logit_attribution.ask import BASELINES, Asked, ids_of, swapped
from saekit.views.logit_attribution.numbers import (
    Outcome,
    Shown,
    bar_rows,
    explained,
    outcome_record,
    record,
    table_csv,
)
from saekit.views.logit_attribution.state import METHODS, head_panel, outcome_panel, repr_words, shown_data
from saekit.views.logit_attribution.work import Answerer

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.attribution import Attribution, Predictions
    from saekit.index import FeatureIndex
    from saekit.views.top_activations import TopActivations

MOST_ABLATED = 100


class LogitAttribution(View):
    """See which features of a prompt speak for an answer, and which against it.

    The logit of the answer, or its difference from the foil's, is taken apart into features, the reconstruction error,
    the SAE's bias and the rest of the model, by one of four methods; a picture shows the strongest features at every
    token. Ticked features are ablated at every token, the reconstruction error kept, and the predictions shown beside
    the original ones and beside those with as many random features ablated.

    The model runs in one worker thread, on hook points of its own; an edit drops work that nobody waits for any more.
    ``direct`` and ``patching`` follow every edit. ``integrated gradients`` and ``exact`` take seconds: choosing them
    computes them once, and `compute` again after an edit.

    Traits (typed, checked, linkable with ``ipywidgets.link``; observe with ``names=``):
        value: The selected item, ``(hook name, position, feature)``, -1 for the reconstruction error; None for none.
        prompt: The text; what the model says next is explained.
        answer: One token, mostly with a space in front.
        foil: The token that it is compared with; "" explains the answer's logit alone.
        method: ``"direct"``, ``"patching"`` (attribution patching), ``"integrated gradients"``, ``"exact"``.
        baseline: What features are compared with by the last three: ``"zero"``, ``"mean"`` over the prompt, or
            ``"corrupted"``, another prompt.
        corrupted: That prompt; by default the prompt with answer and foil in each other's places.
        hook: Hook point of the SAE that is shown.
        ablated: The ticked features of that SAE.

    >>> view = LogitAttribution(model, sae, "When Mary met John, John thanked", index=index)  # doctest: +SKIP
    >>> view.wait(); view.attribution.top(5)                                                  # doctest: +SKIP
    """

    _name = "logit_attribution"
    prompt = t.Unicode("").tag(sync=True)
    answer = t.Unicode("").tag(sync=True)
    foil = t.Unicode("").tag(sync=True)
    baseline = t.Enum(BASELINES, "zero").tag(sync=True)
    corrupted = t.Unicode("").tag(sync=True)
    hook = t.Unicode("").tag(sync=True)
    method = t.Enum(tuple(METHODS), "direct").tag(sync=True)
    ablated = t.List(t.Int()).tag(sync=True)
    value = t.Tuple(t.Unicode(), t.Int(), t.Int(), default_value=None, allow_none=True).tag(sync=True)

    _answer = t.Instance(Shown, None, allow_none=True, help="the last attribution; stays in Python")
    _outcome = t.Instance(Outcome, None, allow_none=True, help="the last predictions; stays in Python")

    _facts = t.Dict().tag(sync=True)
    _head = t.List(help="panel: which question the pictures answer").tag(sync=True)
    _shown = t.Dict(help="the last attribution as it is drawn").tag(sync=True)
    _says = t.Dict(help="{panel, record} of the predictions").tag(sync=True)
    _wrong = t.Unicode("", help="the field that the error is about").tag(sync=True)
    _starts = t.Int(0, help="counts presses of Compute").tag(sync=True)

    _ready = False
    _filled = ""  # the corrupted prompt that the view made up itself
    _demanded: tuple[Asked, str] | None = None

    def __init__(
        self,
        model: "SAETransformerBridge",
        saes: "SAE[Any] | Sequence[SAE[Any]]",
        prompt: str,
        answer: str = " Mary",
        foil: str | None = " John",
        *,
        corrupted: str | None = None,
        baseline: str | None = None,
        method: str = "direct",
        hook: str | None = None,
        index: "FeatureIndex | Sequence[FeatureIndex] | None" = None,
        k: int = 12,
        ablated: Sequence[int] = (),
    ) -> None:
        """Explain what the model says after ``prompt``.

        Args:
            model: The model.
            saes: One SAE, or several on different hook points: a chooser then says which is shown.
            prompt: Text of at most 128 tokens.
            answer: The token that is explained.
            foil: The token that it is compared with; None or "" for none.
            corrupted: Another prompt of as many tokens: features are compared with their values there.
            baseline: See the trait; by default ``"corrupted"`` where such a prompt is given, else ``"zero"``.
            method: See the trait.
            hook: Which SAE is shown first; by default the first given.
            index: Feature indexes of some of the SAEs, in any order: features then show their top contexts.
            k: Features shown one by one.
            ablated: Features ticked at first.

        Raises:
            ModelError: A prompt, answer, foil or corrupted prompt that cannot be used; the message says why. Later
                edits that cannot be used are told in ``error`` instead, and the last good picture stays.
            SAEError: An SAE that does not fit the model, two on one hook point, or an index of another SAE.
            FeatureIndexError: An index of a hook point without an SAE, or two of one.
            TraitError: Another argument is out of range.
        """
        from saekit.attribution import saes_of
        from saekit.models import twin

        self._saes = saes_of(model, saes)
        indexes = indexes_by_hook(model, list(self._saes.items()), index)
        self._indexes = {list(self._saes)[i]: one for i, one in indexes.items()}
        self.k = k = whole("k", k, at_least=1, at_most=100, error=t.TraitError)
        self._answerer = Answerer(twin(model), self._saes, self._indexes, k)
        facts = {
            "model": str(model.cfg.model_name),
            "hooks": [[hook, short_hook(hook)] for hook in self._saes],
            "methods": [[name, words] for name, words in METHODS.items()],
            "indexed": bool(self._indexes),
        }
        super().__init__(
            hook=hook or next(iter(self._saes)),
            prompt=prompt,
            answer=answer,
            foil=foil or "",
            method=method,
            baseline=baseline or ("zero" if corrupted is None else "corrupted"),
            corrupted=corrupted or "",
            _facts=facts,
            _head=head_panel(facts, None),
        )
        self.ablated = list(ablated)
        if self.baseline == "corrupted":
            self._fill()
        ids_of(self._answerer.model, self._asked())  # says what is wrong
        self._ready = True
        self.compute()

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def attribution(self) -> "Attribution | None":
        """The attribution that is shown, of the last token's prediction; None before there is one."""
        return None if self._answer is None else explained(self._answer.found)

    @property
    def predictions(self) -> "Predictions | None":
        """The predictions that are shown, patched where features are ticked; None before there are any."""
        return None if self._outcome is None else self._outcome.found

    @property
    def control(self) -> "Predictions | None":
        """The same with as many random features ablated (seed 0; active at the last token if it has enough)."""
        return None if self._outcome is None else self._outcome.control

    def link(self, top: "TopActivations") -> Callable[[], None]:
        """Show the selected feature in a `TopActivations` view; features of other hook points pass it by.

        Returns:
            A function that ends the link.

        Raises:
            FeatureIndexError: The view browses no SAE of this one.
        """
        hook = top._facts["hook"]
        if hook not in self._saes:
            raise FeatureIndexError(f"the view to link shows features of {hook}, this one of {', '.join(self._saes)}")

        def follow(_change: Any = None) -> None:
            if self.value is not None and self.value[0] == hook and self.value[2] >= 0:
                top.value = self.value[2]

        self.observe(follow, names="value")
        follow()
        return lambda: self.unobserve(follow, names="value")

    # --- what can be asked for ---------------------------------------------------------------------------------

    def compute(self) -> None:
        """Compute what is shown, slow methods included, in the background; see `wait`. The Compute button calls it."""
        with self._guard:
            self._demanded = (self._asked(), self.method)
            self._begin()

    def _asked(self) -> Asked:
        corrupted = self.corrupted if self.baseline == "corrupted" else ""
        return Asked(self.prompt, self.answer, self.foil, self.baseline, corrupted, self.hook)

    def _begin(self) -> None:
        def job(stopped: Callable[[], bool]) -> Any:
            with self._guard:  # what is asked now, not when the work was queued
                asked, method = self._asked(), self.method
                demanded = self._demanded == (asked, method)
                question = (asked, method, tuple(self.ablated), demanded, self._outcome)
            return self._answerer.answer(*question, stopped)

        self._background("answer", job)

    # --- traits -----------------------------------------------------------------------------------------------

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
                self._begin()

    @t.observe("_answer")
    def _show_answer(self, change: Any) -> None:
        self._shown = shown_data(change["new"])
        self._head = head_panel(self._facts, change["new"].asked)

    @t.observe("_outcome")
    def _show_outcome(self, change: Any) -> None:
        self._says = {"panel": outcome_panel(change["new"]), "record": outcome_record(change["new"])}

    @t.validate("hook")
    def _check_hook(self, proposal: dict) -> str:
        if proposal["value"] not in self._saes:
            raise t.TraitError(f"there is no SAE at {proposal['value']!r}: there are SAEs at {', '.join(self._saes)}")
        return proposal["value"]

    @t.validate("ablated")
    def _check_ablated(self, proposal: dict) -> list[int]:
        d_sae = self._saes[self.hook].cfg.d_sae
        features = sorted(set(proposal["value"]))
        if len(features) > MOST_ABLATED:
            raise t.TraitError(f"at most {MOST_ABLATED} features are ablated together, not {len(features)}")
        if features and not 0 <= features[0] <= features[-1] < d_sae:
            raise t.TraitError(f"ablated features must be in 0…{d_sae - 1}, not {features}")
        return features

    @t.validate("value")
    def _check_value(self, proposal: dict) -> tuple[str, int, int] | None:
        value = proposal["value"]
        if value is None:
            return None
        hook, position, feature = value
        if hook not in self._saes:
            raise t.TraitError(f"there is no SAE at {hook!r}: there are SAEs at {', '.join(self._saes)}")
        if position < 0:
            raise t.TraitError(f"position must be 0 or more, not {position}")
        d_sae = self._saes[hook].cfg.d_sae
        if not -1 <= feature < d_sae:
            raise t.TraitError(f"feature must be in 0…{d_sae - 1}, or -1 for the reconstruction error, not {feature}")
        return value

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def __repr__(self) -> str:
        return repr_words(self._answer)

    def _title(self) -> str:
        return f"Logit attribution · {self._facts['model']} · {self.hook}"

    def state(self) -> dict[str, Node]:
        """Return what the view shows as plain data, panel by panel; see `saekit.views._shared.nodes`."""
        with self._guard:
            panels = {"head": self._head} | ({"says": self._says["panel"]} if self._says else {})
            if not self._shown:
                return panels | {"wait": line("Not computed yet.", look="faint")}
            return panels | self._shown["panels"]

    def to_html(self) -> str:
        """Return a self-contained interactive page; its method chooser knows the methods computed so far."""
        self._settle()
        with self._guard:
            shown = self._answer
            held = {}
            if shown is not None and shown.asked == self._asked():
                held = {json.dumps(name): {"_shown": shown_data(replace(shown, method=name))} for name in shown.known}
        missing = "This page holds the methods computed before it was saved. Open the view in a notebook for others."
        return self._page(replies={"method": {**held, "": missing}})

    def to_csv(self) -> str:
        """Return the bars that are shown as CSV, with the running total, in logits."""
        self._settle()
        with self._guard:
            return table_csv([] if self._answer is None else bar_rows(explained(self._answer.found), self._answer.k))

    def to_json(self) -> str:
        """Return all that is shown as JSON: question, bars, picture (logits), predictions (probabilities)."""
        self._settle()
        with self._guard:
            found = {} if self._answer is None else record(self._answer) | self._says.get("record", {})
            return json.dumps(found, indent=1, ensure_ascii=False)
