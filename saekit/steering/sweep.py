"""The trade-off of steering: how much of the concept for how much of the fluency, beside baselines as strong.

`steering_sweep` runs interventions over strengths; a `SteeringSweep` holds the points, and reads the curves off them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import harmonic_mean
from typing import TYPE_CHECKING, Any

from saekit._base.checks import listed, one_of, seed_of, whole
from saekit._base.progress import Progress, Step, Stop, progress_of
from saekit._base.table import Column, Shown, Table
from saekit.errors import SteeringError, Stopped
from saekit.index import check_belongs
from saekit.steering.baselines import KINDS, baseline
from saekit.steering.effects import SideEffects, criterion, neutral_kl, side_effects
from saekit.steering.generation import generate
from saekit.steering.intervention import Intervention, bounded
from saekit.steering.plan import check_fits
from saekit.steering.prompt import prompt_ids

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
UNSTEERED = "unsteered"


@dataclass(frozen=True)
class SweepPoint:
    """One method at one strength: means over the prompts.

    Attributes:
        method: The target's label, the kind of baseline, or ``"unsteered"``.
        matched_to: The target whose edit this baseline is as long as; "" for anything else.
        strength: Strength of the target, or of the one it is matched to; 0 for unsteered, NaN for the prompt
            baseline.
        kl: KL divergence on neutral text, as in `SideEffects`; 0 for the prompt baseline, which does not change the
            model.
        perplexity: Geometric mean of the texts' perplexities, each judged after the plain prompt, also that of the
            prompt baseline, which was asked for with more words.
        repetition: Share of repeated runs of tokens, as in `SideEffects`.
        feature_share: Share of tokens on which a target feature is active, as in `SideEffects`.
        concept_share: Share of words that match the criterion, as in `SideEffects`.
        concept_hit: Share of texts with the concept in them at least once: by the criterion if there is one, else by
            the target features.
        edit_norm: Length of the edit relative to the residual's, as in `SideEffects`.
        fluency: 0 to 1: perplexity of the unsteered text over that of this one, at most 1, times one minus the
            repetition that the unsteered text does not have. A measure of saekit's own, no judge as in AxBench.
        score: Harmonic mean of ``concept_hit`` and ``fluency``: 0 if one of them is.
        intervention: What was done; None where the model was left alone.
        texts: The output to each prompt.
    """

    method: str
    matched_to: str
    strength: float
    kl: float
    perplexity: float
    repetition: float
    feature_share: float
    concept_share: float
    concept_hit: float
    edit_norm: float
    fluency: float
    score: float
    intervention: Intervention | None
    texts: tuple[str, ...]


_COLUMNS = (
    Column("method", "method"),
    Column("strength", "strength", ".2f"),
    Column("edit", "edit_norm", ".2f"),
    Column("KL", "kl", ".2f"),
    Column("perplexity", "perplexity", ".1f"),
    Column("repetition", "repetition", ".0%"),
    Column("concept", "concept_hit", ".0%"),
    Column("score", "score", ".2f"),
)


@dataclass(frozen=True, repr=False)
class SteeringSweep(Shown):
    """Points of a sweep, and what could not be run.

    Attributes:
        prompts: The prompts.
        points: Unsteered first, then targets and baselines.
        skipped: Why a baseline did not run, by its kind.
        complete: Whether the sweep ran to its end.
    """

    prompts: tuple[str, ...]
    points: tuple[SweepPoint, ...]
    skipped: dict[str, str]
    complete: bool = True

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of everything that was run, in order."""
        return tuple(dict.fromkeys(point.method for point in self.points))

    def curve(self, method: str, *, matched_to: str | None = None) -> tuple[SweepPoint, ...]:
        """Return the points of a method by strength, the unsteered one among them at 0.

        Args:
            method: One of ``methods``.
            matched_to: The target beside which a baseline stands, where there are several targets.

        Raises:
            SteeringError: No such method.
        """
        if method not in self.methods:
            raise SteeringError(f"no method {method!r} in this sweep: there are {', '.join(self.methods)}")
        points = [p for p in self.points if p.method == method and matched_to in (None, p.matched_to)]
        if not any(math.isnan(p.strength) for p in points):
            points += [p for p in self.points if p.method == UNSTEERED != method]
        return tuple(sorted(points, key=lambda p: p.strength))

    def best(self, method: str) -> SweepPoint:
        """Return the point with the highest score; the weakest of several with the same."""
        return max(self.curve(method), key=lambda p: (p.score, -abs(p.strength)))

    def breaks_at(self, method: str, *, fluency: float = 0.5) -> float | None:
        """Return the weakest strength above 0 at which fluency is below a limit, None if it holds throughout."""
        broken = [p.strength for p in self.curve(method) if p.strength > 0 and p.fluency < fluency]
        return min(broken, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain types for JSON; numbers that do not exist as None."""
        points = [
            {**asdict(point), "intervention": None if point.intervention is None else point.intervention.as_dict()}
            for point in self.points
        ]
        return _plain({**asdict(self), "points": points})

    def _table(self) -> Table:
        notes = [f"not run: {name} ({why})" for name, why in self.skipped.items()]
        notes += [] if self.complete else ["stopped before its end"]
        return Table(self.points, _COLUMNS, note="\n".join(notes))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- running one -----------------------------------------------------------------------------------------------


def steering_sweep(
    model: "SAETransformerBridge",
    prompts: str | Sequence[str],
    targets: Intervention | Sequence[Intervention],
    *,
    sae: "SAE[Any] | None" = None,
    strengths: Sequence[float] = STRENGTHS,
    concept: Any = None,
    topic: str | None = None,
    examples: tuple[Sequence[str], Sequence[str]] | None = None,
    index: "FeatureIndex | None" = None,
    baselines: str | Iterable[str] = KINDS,
    baseline_seed: int = 0,
    neutral: Sequence | None = None,
    batch_size: int = 16,
    on_point: Callable[[SweepPoint], object] | None = None,
    progress: Progress = False,
    stop: Stop = None,
    **options: Any,
) -> SteeringSweep:
    """Run interventions over strengths, and baselines whose edits are as long.

    Every text, of whatever method, is judged by the model left alone that reads it after the plain prompt.

    Args:
        model: The model.
        prompts: One prompt or several.
        targets: Interventions of different labels; their ``strength`` is replaced by each of ``strengths``.
        sae: The SAE of the features; not needed to add them, nor for directions, but their activations are then not
            read in the texts.
        strengths: Strengths of the targets; 0 is always run as well, once.
        concept: Criterion of the concept, see `side_effects`; None: the target features themselves, which takes the
            SAE.
        topic: Topic for the prompt baseline, which asks for it: "Talk about {topic}. {prompt}". What it writes is
            judged after the prompt alone, as all texts are: no reader is told the topic.
        examples: Texts with and without the concept, for the difference of means. None: the feature's strongest
            examples in the index against neutral sentences.
        index: The SAE's index, which has those examples and knows the live features.
        baselines: Any of ``"prompt"``, ``"difference of means"``, ``"random direction"``, ``"random feature"``.
        baseline_seed: Seed of the random ones.
        neutral: Texts for the KL, see `side_effects`.
        batch_size: Largest number of rows that are generated side by side.
        on_point: Function that is given every `SweepPoint` as it is done.
        progress: Show a progress bar; or a function that is given (done, total) points.
        stop: Function that is asked before every block of the model; once it returns True, the sweep ends, and
            points that are done are kept.
        **options: Options of `generate`: ``max_new_tokens``, ``temperature`` and ``seed``, ``chat``.

    Raises:
        SteeringError: What `generate` refuses, and targets or baselines that cannot be told apart or do not exist.
    """
    several = partial(listed, error=SteeringError)
    prompts = [prompts] if isinstance(prompts, str) else several("prompts", prompts, "texts")
    targets = [targets] if isinstance(targets, Intervention) else several("targets", targets, "interventions")
    kinds = [baselines] if isinstance(baselines, str) else several("baselines", baselines, "names")
    strengths = several("strengths", strengths, "numbers")
    _check(prompts, targets, strengths, kinds)
    criterion(concept)  # before anything runs
    for target in targets:
        check_fits(model, target, sae)
    if index is not None and sae is not None:
        check_belongs(index, sae=sae, error=SteeringError)
    every = sorted({feature for target in targets for feature in target.features})
    if every and sae is None and concept is None:
        raise SteeringError("without a criterion the target features are read in the texts: pass sae=, or concept=")
    baseline_seed = seed_of(baseline_seed, name="baseline_seed", error=SteeringError)
    batch_size = whole("batch_size", batch_size, at_least=1, error=SteeringError)
    strengths = sorted({bounded("strength", strength) for strength in strengths} - {0.0})
    directions = [kind for kind in kinds if kind != "prompt"]
    beside = partial(baseline, model, sae=sae, index=index, examples=examples, seed=baseline_seed, stop=stop)
    total = 1 + ("prompt" in kinds) + len(targets) * len(strengths) * (1 + len(directions))
    points: list[SweepPoint] = []
    skipped: dict[str, str] = {}
    try:
        with progress_of(progress, total, "point", stop=stop, title="Sweeping") as step:
            sweep = _Sweep(
                model, tuple(prompts), sae, concept, neutral, batch_size, options, points, skipped, on_point, step, stop
            )
            sweep.run([_Row(UNSTEERED, None, 0.0)], every)
            if "prompt" in kinds:
                sweep.run_prompt(topic, every)
            for target in targets:
                sweep.run_target(target, strengths, directions, beside)
    except Stopped:
        return SteeringSweep(tuple(prompts), tuple(points), skipped, complete=False)
    return SteeringSweep(tuple(prompts), tuple(points), skipped)


@dataclass(frozen=True)
class _Row:
    method: str
    intervention: Intervention | None
    strength: float
    matched_to: str = ""


@dataclass(frozen=True)
class _Sweep:
    """Runs rows of a sweep and collects their points; the first row is the unsteered one."""

    model: "SAETransformerBridge"
    prompts: tuple[str, ...]
    sae: "SAE[Any] | None"
    concept: Any
    neutral: Sequence | None
    batch_size: int
    options: dict[str, Any]
    points: list[SweepPoint]
    skipped: dict[str, str]
    on_point: Callable[[SweepPoint], object] | None
    step: Step
    stop: Stop

    def run_prompt(self, topic: str | None, features: list[int]) -> None:
        """Run the baseline that asks for the topic."""
        if topic is None:
            self.skipped["prompt"] = "it needs a topic: pass topic="
            self.step()
            return
        asked = tuple(f"Talk about {topic}. {prompt}" for prompt in self.prompts)
        self.run([_Row("prompt", None, math.nan)], features, asked)

    def run_target(
        self, target: Intervention, strengths: list[float], kinds: list[str], beside: Callable[..., Intervention]
    ) -> None:
        """Run a target at all strengths, then what ``beside`` makes of each kind, as long."""
        self.run([_Row(target.label, target.scaled(strength), strength) for strength in strengths], target.features)
        lengths = {point.strength: point.edit_norm for point in self.points if point.method == target.label}
        rows = []
        for kind in kinds:
            try:
                other = beside(target, kind)
            except SteeringError as error:
                self.skipped[kind] = str(error)
                self.step(len(strengths))
                continue
            for strength, length in lengths.items():
                rows.append(_Row(kind, other.scaled(math.copysign(length, strength)), strength, target.label))
        self.run(rows, target.features)

    def run(self, rows: list[_Row], features: list[int], prompts: tuple[str, ...] | None = None) -> None:
        """Run rows in batches, on every prompt or on others in their places. Raises Stopped once stop() is True."""
        for start in range(0, len(rows), self.batch_size):
            self._run_batch(rows[start : start + self.batch_size], features, prompts or self.prompts)

    def _run_batch(self, rows: list[_Row], features: list[int], prompts: tuple[str, ...]) -> None:
        interventions = [row.intervention for row in rows]
        written: list[tuple[str, ...]] = []
        measured: list[tuple[SideEffects, ...]] = []
        options: dict[str, Any] = {"sae": self.sae, "stop": self.stop}
        read: dict[str, Any] = {"features": None if self.sae is None else features, "concept": self.concept}
        for prompt, plain in zip(prompts, self.prompts, strict=True):
            made = generate(self.model, prompt, interventions, **options, **self.options)
            if "stopped" in made.ends:
                raise Stopped("the sweep was stopped within a text")
            judged_after = prompt_ids(self.model, plain, self.options.get("chat"))
            written.append(made.texts)
            measured.append(side_effects(self.model, made, prompt=judged_after, neutral=[], **read, **options))
        kl = neutral_kl(self.model, interventions, neutral=self.neutral, **options)
        known = self.concept is not None or bool(features)
        by_row = zip(rows, zip(*written, strict=True), zip(*measured, strict=True), kl, strict=True)
        for row, texts, effects, one in by_row:
            self.points.append(self._point(row, texts, effects, one, known))
            if self.on_point is not None:
                self.on_point(self.points[-1])
        self.step(len(rows))

    def _point(
        self, row: _Row, texts: tuple[str, ...], effects: tuple[SideEffects, ...], kl: float, known: bool
    ) -> SweepPoint:
        """Return the means over the prompts; ``known``: whether anybody knows what the concept is."""
        shares = [e.feature_share if self.concept is None else e.concept_share for e in effects]
        hit = _mean([float(share > 0) for share in shares]) if known else math.nan
        perplexity, repetition = _geometric([e.perplexity for e in effects]), _mean([e.repetition for e in effects])
        plain = (self.points[0].perplexity, self.points[0].repetition) if self.points else (perplexity, repetition)
        fluency = _fluency(perplexity, repetition, *plain)
        return SweepPoint(
            method=row.method,
            matched_to=row.matched_to,
            strength=row.strength,
            kl=kl,
            perplexity=perplexity,
            repetition=repetition,
            feature_share=_mean([e.feature_share for e in effects]),
            concept_share=_mean([e.concept_share for e in effects]),
            concept_hit=hit,
            edit_norm=_mean([e.edit_norm for e in effects]),
            fluency=fluency,
            score=harmonic_mean((hit, fluency)) if known else math.nan,
            intervention=row.intervention,
            texts=texts,
        )


def _fluency(perplexity: float, repetition: float, plain_perplexity: float, plain_repetition: float) -> float:
    if math.isnan(perplexity):
        return 0.0  # no text at all
    ratio = 1.0 if math.isnan(plain_perplexity) else min(1.0, plain_perplexity / perplexity)
    return ratio * (1 - max(0.0, repetition - plain_repetition))


def _mean(values: list[float]) -> float:
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def _geometric(values: list[float]) -> float:
    logarithm = _mean([math.log(value) if value > 0 else math.nan for value in values])
    return math.nan if math.isnan(logarithm) else math.exp(min(logarithm, 700))


def _check(prompts: list, targets: list, strengths: list, kinds: list) -> None:
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise SteeringError("prompts must be texts: expected at least one")
    wrong = [one for one in targets if not isinstance(one, Intervention)]
    if wrong or not targets:
        raise SteeringError(
            f"targets must be interventions: expected at least one, got {wrong[0] if wrong else 'none'!r:.80}. "
            f"Intervention.on(sae, feature, ...) makes one"
        )
    labels = [target.label for target in targets]
    if len(set(labels)) < len(labels) or {UNSTEERED, *KINDS} & set(labels):
        raise SteeringError(f"the targets are called {', '.join(labels)}: expected different names, none a baseline's")
    for kind in kinds:
        one_of("a baseline", kind, KINDS, error=SteeringError)
    if not strengths:
        raise SteeringError("no strengths: expected at least one")
