"""The slow work of the steering view: writing, measuring, comparing and sweeping. It knows no widget."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saekit.errors import SaekitError, SteeringError
from saekit.steering import KINDS
from saekit.views._shared.view import Changes
from saekit.views._shared.worker import Stopped
from saekit.views.steering.setting import intervention_of, setting_words
from saekit.views.steering.state import STEERED, UNSTEERED, Swept, Written, token_rows

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.steering import Generation, Intervention, SideEffects, SweepPoint

_GENERATED_WITH = ("max_new_tokens", "temperature", "seed", "chat")


class Writer:
    """Writes texts with and without steering, and measures them.

    Every method yields traits of the view, `Written` and `Swept` among them, as far as the work has come. Work that is
    no longer wanted ends with `saekit.errors.Stopped`, or where it is suspended.
    """

    def __init__(
        self,
        model: "SAETransformerBridge",
        sae: "SAE[Any]",
        index: "FeatureIndex | None",
        examples: tuple[Sequence[str], Sequence[str]] | None,
    ) -> None:
        """Get ready to work.

        Args:
            model: A copy of the model with hook points of its own, see `saekit.models.twin`.
            sae: The SAE whose features are steered.
            index: Its feature index, for baselines.
            examples: Texts with and without the concept, for the difference of means.
        """
        self.model = model
        self._sae, self._index, self._examples = sae, index, examples
        self._pieces: list[bytes] | None = None  # bytes of every token

    def baselines_ready(self, setting: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the baselines for which everything needed is there."""
        texts = self._examples is not None or (self._index is not None and len(setting["features"]) == 1)
        ready = {"prompt": bool(setting["topic"].strip()), "difference of means": texts}
        return tuple(kind for kind in KINDS if ready.get(kind, True))

    def run(self, written: Written, stopped: Stopped) -> Changes:
        """Write both texts of ``written.ran`` side by side, then measure them."""
        from saekit.steering import criterion

        setting = written.ran
        rows = {UNSTEERED: None, STEERED: intervention_of(setting)}
        latest = written
        try:
            criterion(setting["concept"] or None)  # before anything is written
            for changes in self._write(written, rows, setting["prompt"], setting["concept"], stopped):
                latest = changes.get("_written", latest)
                yield changes
        except SaekitError:
            if not latest.texts[STEERED][0]:
                yield {"_written": Written()}
            raise

    def compare(self, kind: str, written: Written, setting: Mapping[str, Any], stopped: Stopped) -> Changes:
        """Write a baseline beside the steered text, its edits as long.

        Args:
            kind: The baseline.
            written: What is written so far.
            setting: The setting as it is now, for the topic and the concept.
            stopped: Whether the work is no longer wanted.
        """
        target = intervention_of(written.ran) if written.ran else None
        if target is None:
            raise SteeringError("nothing is steered, so there is nothing to compare with: add a feature first")
        if not has_text(written):
            raise SteeringError("there is no steered text yet to compare with: run first")
        prompt, baseline = written.ran["prompt"], None
        if kind == "prompt":
            if not (topic := setting["topic"].strip()):
                raise SteeringError("to ask for the concept, it needs a name: type it into “concept in words” (topic=)")
            prompt = f"Talk about {topic}. {prompt}"
            note = f"asked instead of steered: “Talk about {topic}. …”; judged without it, shaded by what it changed"
        else:
            yield {"_doing": f"preparing: {kind}"}
            baseline, note = self._baseline(kind, target, written, stopped)
        columns = [column for column in written.columns if column["key"] != kind]
        written = replace(
            written,
            columns=(*columns, {"key": kind, "title": kind.capitalize(), "note": note}),
            texts={**written.texts, kind: ("", "")},
            read=_without(written.read, kind),
            effects=_without(written.effects, kind),
        )
        yield {"_written": written, "error": ""}
        yield from self._write(written, {kind: baseline}, prompt, setting["concept"], stopped)

    def sweep(
        self,
        setting: Mapping[str, Any],
        target: "Intervention",
        factors: Sequence[float],
        baselines: Sequence[str],
        show: Any,
        stopped: Stopped,
    ) -> Changes:
        """Run a setting at several strengths.

        Args:
            setting: The setting.
            target: What it does.
            factors: By which its strengths are multiplied.
            baselines: Also run these.
            show: Is called with traits of the view after every point.
            stopped: Whether the work is no longer wanted.
        """
        from saekit.steering import SteeringSweep, steering_sweep

        points: list[SweepPoint] = []

        def on_point(point: "SweepPoint") -> None:
            points.append(point)
            found = SteeringSweep((setting["prompt"],), tuple(points), {}, complete=False)
            show(_swept=Swept(found, setting, target.label, under_way=True))

        yield {"_doing": "sweeping"}
        done = steering_sweep(
            self.model,
            setting["prompt"],
            target,
            sae=self._sae,
            index=self._index,
            strengths=factors,
            concept=setting["concept"] or None,
            topic=setting["topic"].strip() or None,
            examples=self._examples,
            baselines=baselines,
            baseline_seed=setting["seed"],
            on_point=on_point,
            stop=stopped,
            **{name: setting[name] for name in _GENERATED_WITH},
        )
        yield {"_swept": Swept(done, setting, target.label, under_way=False), "_doing": ""}

    def _baseline(
        self, kind: str, target: "Intervention", written: Written, stopped: Stopped
    ) -> "tuple[Intervention, str]":
        from saekit.steering import baseline

        options = {"sae": self._sae, "index": self._index, "examples": self._examples, "seed": written.ran["seed"]}
        try:
            found = baseline(self.model, target, kind, stop=stopped, **options).scaled(written.edit_norm)
        except SteeringError as error:
            raise SteeringError(f"{kind}: {error}") from error
        texts = "your texts" if self._examples else "the feature’s contexts and neutral sentences"
        what = {"difference of means": f"of {texts}; its", "random feature": f"{found.label}; its"}.get(kind, "its")
        return found, f"{what} edit is as long as the steered text’s"

    def _write(
        self,
        written: Written,
        rows: "Mapping[str, Intervention | None]",
        prompt: str,
        concept: str,
        stopped: Stopped,
    ) -> Changes:
        """Write texts side by side, then measure them."""
        from saekit.steering import generate_stream

        yield {"_doing": "writing"}
        options = {name: written.ran[name] for name in _GENERATED_WITH}
        stream = generate_stream(self.model, prompt, list(rows.values()), sae=self._sae, stop=stopped, **options)
        try:
            for step in stream:
                texts = dict(written.texts)
                for key, more, end in zip(rows, step.texts, step.ends, strict=True):
                    text, ended = texts[key]
                    texts[key] = (text, ended) if ended else (text + more, end)
                written = replace(written, texts=texts)
                yield {"_written": written}
        except GeneratorExit:
            stream.close()  # leaves the model clean
            raise
        if stopped():
            return
        if STEERED in rows:
            written = replace(written, edit_norm=stream.result.edit_norms[list(rows).index(STEERED)])
        yield from self._measure(written, list(rows), stream.result, concept, stopped)

    def _measure(
        self, written: Written, keys: Sequence[str], generation: "Generation", concept: str, stopped: Stopped
    ) -> Changes:
        """Measure side effects; the KL divergence, which takes longest, comes last."""
        from saekit.models import token_bytes
        from saekit.steering import neutral_kl, prompt_ids, side_effects

        yield {"_doing": "reading the texts again"}
        found = side_effects(
            self.model,
            generation,
            sae=self._sae,
            features=[row["feature"] for row in written.ran["features"]],
            concept=concept or None,
            neutral=[],
            # Also what the prompt baseline was asked for with more words: one yardstick for all texts.
            prompt=prompt_ids(self.model, written.ran["prompt"], written.ran["chat"]),
            stop=stopped,
        )
        if self._pieces is None:
            self._pieces = token_bytes(self.model)
        rows = enumerate(zip(keys, found, strict=True))
        read = {key: token_rows(self._pieces, generation, row, one) for row, (key, one) in rows}
        effects: dict[str, SideEffects] = {**written.effects, **dict(zip(keys, found, strict=True))}
        written = replace(written, read={**written.read, **read}, effects=effects)
        yield {"_written": written}
        yield {"_doing": "measuring side effects on neutral text"}
        kl = neutral_kl(self.model, generation.interventions, sae=self._sae, stop=stopped)
        known = {key: replace(one, kl=value) for key, one, value in zip(keys, found, kl, strict=True)}
        yield {"_written": replace(written, effects={**effects, **known}), "_doing": ""}


def has_text(written: Written) -> bool:
    """Return whether there is a whole steered text."""
    return written.texts.get(STEERED, ("", ""))[1] not in ("", "stopped")


def begun(setting: Mapping[str, Any]) -> Written:
    """Return what is shown before the first token of a run."""
    columns = (
        {"key": UNSTEERED, "title": "Unsteered", "note": "the model left alone"},
        {"key": STEERED, "title": "Steered", "note": setting_words(setting)},
    )
    return Written(setting, columns, {column["key"]: ("", "") for column in columns})


def ended(written: Written) -> Written:
    """Return what is shown once the work is stopped: texts that were growing say so."""
    return replace(written, texts={key: (text, end or "stopped") for key, (text, end) in written.texts.items()})


def _without(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: one for name, one in found.items() if name != key}
