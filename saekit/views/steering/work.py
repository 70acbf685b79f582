"""The slow part of the steering view: writing, measuring, comparing and sweeping, in the view's worker thread."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit import errors
from saekit.errors import SaekitError, SteeringError
from saekit.steering import KINDS
from saekit.views._shared.view import View
from saekit.views._shared.worker import Stopped
from saekit.views.steering.setting import intervention_of, setting_words
from saekit.views.steering.state import STEERED, UNSTEERED, effects_row, sweep_rows, token_rows

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.steering import Generation, Intervention, SideEffects, SteeringSweep, SweepPoint


FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of a sweep


class SteeringWork(View):
    """What `saekit.views.steering.Steering` computes, and the traits in which the results travel."""

    setting = t.Dict().tag(sync=True)
    value = t.Unicode("", read_only=True).tag(sync=True)

    _facts = t.Dict().tag(sync=True)
    _ran = t.Dict(help="the setting that the texts were written with").tag(sync=True)
    _columns = t.List(t.Dict(), help="{key, title, note} of each text").tag(sync=True)
    _texts = t.Dict(help="{key: {text, end}}, growing").tag(sync=True)
    _read = t.Dict(help="{key: {tokens, logprobs, plain, effects}}, as they are ready").tag(sync=True)
    _sweep = t.Dict().tag(sync=True)
    _doing = t.Unicode("").tag(sync=True)
    _has_kernel = t.Bool(True).tag(sync=True)

    _model: "SAETransformerBridge"
    _sae: "SAE[Any]"
    _index: "FeatureIndex | None"
    _examples: tuple[Sequence[str], Sequence[str]] | None
    _pieces: list[bytes] | None = None
    _edit_norm: float = 0.0  # of the steered text
    _effects: "dict[str, SideEffects]"
    _swept: "SteeringSweep | None" = None

    # --- what can be asked for ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Write the unsteered and the steered text side by side, in the background; see `wait`.

        A run that is under way is dropped. Side effects follow once the texts are written.
        """
        with self._guard:
            self.stop()
            self._effects, self._edit_norm = {}, 0.0
            setting = dict(self.setting)
            columns = [
                {"key": UNSTEERED, "title": "Unsteered", "note": "the model left alone"},
                {"key": STEERED, "title": "Steered", "note": setting_words(setting)},
            ]
            with self.hold_sync():
                self.error, self._ran, self._read = "", setting, {}
                self._columns = columns
                self._texts = {column["key"]: {"text": "", "end": ""} for column in columns}
                self._background("run", lambda stopped: self._run(setting, stopped))

    def compare(self, *kinds: str) -> None:
        """Write baselines beside the steered text, their edits as long as its own, in the background.

        Args:
            kinds: Among ``"prompt"``, which asks for the topic of the setting, ``"difference of means"``,
                ``"random direction"`` and ``"random feature"``; by default all for which the
                setting, examples or an index give what they need.

        Raises:
            SteeringError: There is no such baseline.
        """
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise SteeringError(f"there is no baseline {unknown[0]!r:.80}: they are {', '.join(KINDS)}")
        with self._guard:
            if not self.busy and not self._written():
                self.run()
            for kind in kinds or self.baselines_ready():
                self._background(kind, lambda stopped, kind=kind: self._compare_with(kind, stopped))

    def _written(self) -> bool:
        """Return whether there is a whole steered text."""
        return self._texts.get(STEERED, {}).get("end", "") not in ("", "stopped")

    def baselines_ready(self) -> tuple[str, ...]:
        """Return the baselines for which everything needed is there."""
        features, concept = self.setting["features"], self.setting["topic"].strip()
        texts = self._examples is not None or (self._index is not None and len(features) == 1)
        ready = {"prompt": bool(concept), "difference of means": texts}
        return tuple(kind for kind in KINDS if ready.get(kind, True))

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
        setting = dict(self.setting)
        with self._guard:
            self.error = ""
            job = (setting, target, tuple(factors), tuple(baselines))
            self._background("sweep", lambda stopped: self._sweep_job(*job, stopped))

    def stop(self) -> None:
        """End what is under way; texts so far stay. The Stop button calls this."""
        with self._guard:
            super().stop()
            with self.hold_sync():
                self._doing = ""
                if any(not one["end"] for one in self._texts.values()):
                    self._texts = {k: {**one, "end": one["end"] or "stopped"} for k, one in self._texts.items()}
                if self._sweep.get("under_way"):
                    self._sweep = {**self._sweep, "under_way": False}

    @t.observe("_texts")
    def _on_texts(self, change: Any) -> None:
        self.set_trait("value", change["new"].get(STEERED, {}).get("text", ""))

    # --- in the worker thread ----------------------------------------------------------------------------------

    def _run(self, setting: dict, stopped: Stopped) -> None:
        from saekit.steering import criterion

        try:
            criterion(setting["concept"] or None)  # before anything is written
            self._write(setting, {UNSTEERED: None, STEERED: intervention_of(setting)}, setting["prompt"], stopped)
        except SaekitError:
            if not self.value:
                self._publish(stopped, _columns=[], _texts={}, _ran={})
            raise

    def _write(
        self, setting: dict, rows: "dict[str, Intervention | None]", prompt: str, stopped: Stopped
    ) -> "Generation | None":
        """Write texts side by side, then measure them; None when it was stopped."""
        from saekit.steering import generate_stream

        self._publish(stopped, _doing="writing")
        options = {name: setting[name] for name in ("max_new_tokens", "temperature", "seed", "chat")}
        stream = generate_stream(self._model, prompt, list(rows.values()), sae=self._sae, stop=stopped, **options)
        for step in stream:
            texts = dict(self._texts)
            for key, more, end in zip(rows, step.texts, step.ends, strict=True):
                if not texts[key]["end"]:
                    texts[key] = {"text": texts[key]["text"] + more, "end": end}
            if not self._publish(stopped, _texts=texts):
                stream.close()
                return None
        if stopped():
            return None
        if STEERED in rows:
            self._edit_norm = stream.result.edit_norms[list(rows).index(STEERED)]
        self._measure(setting, list(rows), stream.result, stopped)
        return stream.result

    def _measure(self, setting: dict, keys: list[str], generation: "Generation", stopped: Stopped) -> None:
        """Measure side effects; the KL divergence, which takes longest, comes last."""
        from saekit.models import token_bytes
        from saekit.steering import neutral_kl, prompt_ids, side_effects

        features = [row["feature"] for row in setting["features"]]
        try:
            self._publish(stopped, _doing="reading the texts again")
            found = side_effects(
                self._model, generation, sae=self._sae, features=features, concept=self.setting["concept"] or None,
                neutral=[],
                # Also what the prompt baseline was asked for with more words: one yardstick for all texts.
                prompt=prompt_ids(self._model, setting["prompt"], setting["chat"]),
                stop=stopped,
            )  # fmt: skip
            if self._pieces is None:
                self._pieces = token_bytes(self._model)
            self._tell(keys, generation, found, stopped)
            self._publish(stopped, _doing="measuring side effects on neutral text")
            kl = neutral_kl(self._model, generation.interventions, sae=self._sae, stop=stopped)
            found = tuple(replace(one, kl=value) for one, value in zip(found, kl, strict=True))
            self._tell(keys, generation, found, stopped)
            self._publish(stopped, _doing="")
        except errors.Stopped:
            return

    def _tell(
        self, keys: list[str], generation: "Generation", found: "Sequence[SideEffects]", stopped: Stopped
    ) -> None:
        assert self._pieces is not None
        read = {
            key: {**token_rows(self._pieces, generation, row, one), "effects": effects_row(one)}
            for row, (key, one) in enumerate(zip(keys, found, strict=True))
        }
        with self._guard:
            if self._publish(stopped, _read={**self._read, **read}):
                self._effects |= dict(zip(keys, found, strict=True))

    def _compare_with(self, kind: str, stopped: Stopped) -> None:
        from saekit.steering import baseline

        setting = dict(self._ran)
        target = intervention_of(setting) if setting else None
        if target is None:
            raise SteeringError("nothing is steered, so there is nothing to compare with: add a feature first")
        if not self._written():
            raise SteeringError("there is no steered text yet to compare with: run first")
        prompt, made, note = setting["prompt"], None, ""
        if kind == "prompt":
            if not (topic := self.setting["topic"].strip()):
                raise SteeringError("to ask for the concept, it needs a name: type it into “concept in words” (topic=)")
            prompt = f"Talk about {topic}. {prompt}"
            note = f"asked instead of steered: “Talk about {topic}. …”; judged without it, shaded by what it changed"
        else:
            self._publish(stopped, _doing=f"preparing: {kind}")
            options = {"sae": self._sae, "index": self._index, "examples": self._examples, "seed": setting["seed"]}
            try:
                made = baseline(self._model, target, kind, stop=stopped, **options).scaled(self._edit_norm)
            except errors.Stopped:
                return
            except SteeringError as error:
                raise SteeringError(f"{kind}: {error}") from error
            texts = "your texts" if self._examples else "the feature’s contexts and neutral sentences"
            what = {"difference of means": f"of {texts}; its", "random feature": f"{made.label}; its"}.get(kind, "its")
            note = f"{what} edit is as long as the steered text’s"
        column = {"key": kind, "title": kind.capitalize(), "note": note}
        with self._guard:
            columns = [one for one in self._columns if one["key"] != kind]
            read = {key: one for key, one in self._read.items() if key != kind}
            texts = {**self._texts, kind: {"text": "", "end": ""}}
            if not self._publish(stopped, _columns=[*columns, column], _texts=texts, _read=read, error=""):
                return
        self._write(setting, {kind: made}, prompt, stopped)

    def _sweep_job(
        self,
        setting: dict,
        target: "Intervention",
        factors: Sequence[float],
        baselines: Sequence[str],
        stopped: Stopped,
    ) -> None:
        from saekit.steering import SteeringSweep, steering_sweep

        points: list[SweepPoint] = []
        single = setting["features"][0] if len(setting["features"]) == 1 else None
        about = {
            "words": setting_words(setting),
            # Of a single feature the axis is its own strength, else multiples of what is set.
            "value": (single["value"] or None) if single and single["mode"] in ("add", "clamp") else None,
            "unit": setting["unit"],
            "features": setting["features"],
        }

        def show(sweep: "SteeringSweep", *, under_way: bool) -> None:
            with self._guard:
                shown = {**sweep_rows(sweep, target.label), **about, "under_way": under_way}
                if self._publish(stopped, _sweep=shown, _doing="sweeping" if under_way else ""):
                    self._swept = sweep

        def on_point(point: "SweepPoint") -> None:
            points.append(point)
            show(SteeringSweep((setting["prompt"],), tuple(points), {}, complete=False), under_way=True)

        self._publish(stopped, _doing="sweeping")
        done = steering_sweep(
            self._model, setting["prompt"], target, sae=self._sae, index=self._index, strengths=factors,
            concept=setting["concept"] or None, topic=setting["topic"].strip() or None,
            examples=self._examples, baselines=baselines, baseline_seed=setting["seed"],
            on_point=on_point, stop=stopped,
            **{name: setting[name] for name in ("max_new_tokens", "temperature", "seed", "chat")},
        )  # fmt: skip
        show(done, under_way=False)
