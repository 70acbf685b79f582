"""The trade-off of steering: how much of the concept for how much of the fluency, beside baselines as strong."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saekit.errors import SteeringError
from saekit.steering.baselines import KINDS, baseline
from saekit.steering.curve import UNSTEERED, SteeringSweep, SweepPoint
from saekit.steering.edit import checked_seed, finite, listed, whole
from saekit.steering.effects import NEUTRAL, SideEffects, criterion, neutral_kl, side_effects
from saekit.steering.generation import generate
from saekit.steering.intervention import Intervention, check_index
from saekit.steering.plan import check_fits
from saekit.steering.prompt import prompt_ids
from saekit.steering.reader import Interrupted

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


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
    baselines: Iterable[str] = KINDS,
    baseline_seed: int = 0,
    neutral: Sequence | None = None,
    batch_size: int = 16,
    on_point: Callable[[SweepPoint], object] | None = None,
    stop: Callable[[], bool] | None = None,
    **options: Any,
) -> SteeringSweep:
    """Run interventions over strengths, and baselines whose edits are as long.

    Every text, of whatever method, is judged by the model left alone that reads it after the plain prompt.

    Args:
        model: The model.
        prompts: One or several.
        targets: Interventions of different labels; their ``strength`` is replaced by each of ``strengths``.
        sae: Of the features.
        strengths: 0 is always run as well, once.
        concept: Criterion of the concept, see `side_effects`; None: the target features themselves.
        topic: For the prompt baseline, which asks for it: "Talk about {topic}. {prompt}". What it writes is judged
            after the prompt alone, as all texts are: no reader is told the topic.
        examples: Texts with and without the concept, for the difference of means. None: the feature's strongest
            examples in the index against neutral sentences.
        index: For that, and to know which features are live.
        baselines: Among ``"prompt"``, ``"difference of means"``, ``"random direction"``, ``"random feature"``.
        baseline_seed: Of the random ones.
        neutral: For the KL, see `side_effects`.
        batch_size: Most rows that are generated side by side.
        on_point: Called with every point as it is done.
        stop: Ends the sweep when it says True; points that are done are kept.
        **options: Of `generate`: ``max_new_tokens``, ``temperature`` and ``seed``, ``chat``.

    Raises:
        SteeringError: As `generate`, and targets or baselines that cannot be told apart or do not exist.
    """
    prompts = (prompts,) if isinstance(prompts, str) else tuple(listed(prompts, "prompts", "texts"))
    targets = [targets] if isinstance(targets, Intervention) else listed(targets, "targets", "interventions")
    kinds = [baselines] if isinstance(baselines, str) else listed(baselines, "baselines", "names")
    strengths = listed(strengths, "strengths", "numbers")
    baseline_seed = checked_seed(baseline_seed, "baseline_seed")
    _check(prompts, targets, strengths, kinds, batch_size)
    criterion(concept)  # before anything runs
    for target in targets:
        check_fits(model, target, sae)
    if index is not None and sae is not None:
        check_index(index, sae)
    strengths = sorted({finite(strength, "strength") for strength in strengths} - {0.0})
    sweep = _Sweep(model, prompts, sae, concept, neutral, on_point, stop, options)
    skipped: dict[str, str] = {}
    every = sorted({e.feature for t in targets for e in t.edits if e.feature is not None})
    complete = sweep.add([_Row(UNSTEERED, None, 0.0)], every)
    if "prompt" in kinds and complete:
        if topic is None:
            skipped["prompt"] = "it needs a topic: pass topic="
        else:
            asked = tuple(f"Talk about {topic}. {prompt}" for prompt in prompts)
            complete = sweep.add([_Row("prompt", None, math.nan)], every, asked)
    for target in targets:
        features = [edit.feature for edit in target.edits if edit.feature is not None]
        rows = [_Row(target.label, target.scaled(strength), strength) for strength in strengths]
        complete = complete and sweep.add_all(rows, features, batch_size)
        lengths = {p.strength: p.edit_norm for p in sweep.points if p.method == target.label}
        rows = []
        for kind in kinds if complete else ():
            if kind == "prompt":
                continue
            try:
                made = baseline(kind, model, target, sae=sae, index=index, examples=examples, seed=baseline_seed)
            except SteeringError as error:
                skipped[kind] = str(error)
                continue
            for strength, length in lengths.items():
                rows.append(_Row(kind, made.scaled(math.copysign(length, strength)), strength, target.label))
        complete = complete and sweep.add_all(rows, features, batch_size)
    return SteeringSweep(prompts, tuple(sweep.points), skipped, complete)


@dataclass(frozen=True)
class _Row:
    method: str
    intervention: Intervention | None
    strength: float
    matched_to: str = ""


class _Sweep:
    """Runs rows of a sweep and collects their points; the first row is the unsteered one."""

    def __init__(self, model, prompts, sae, concept, neutral, on_point, stop, options):
        self.model, self.prompts, self.sae, self.concept, self.neutral = model, prompts, sae, concept, neutral
        self.on_point, self.stop, self.options = on_point, stop, options
        self.points: list[SweepPoint] = []

    def add_all(self, rows: list[_Row], features: list[int], batch_size: int) -> bool:
        """Run rows in batches; return False when stopped."""
        return all(self.add(rows[start : start + batch_size], features) for start in range(0, len(rows), batch_size))

    def add(self, rows: list[_Row], features: list[int], prompts: tuple[str, ...] | None = None) -> bool:
        """Run one batch of rows on every prompt, or on others in their places; return False when stopped."""
        interventions = [row.intervention for row in rows]
        texts: list[list[str]] = [[] for _ in rows]
        effects: list[list[SideEffects]] = [[] for _ in rows]
        for prompt, plain in zip(prompts or self.prompts, self.prompts, strict=True):
            made = generate(self.model, prompt, interventions, sae=self.sae, stop=self.stop, **self.options)
            if "stopped" in made.ends:
                return False
            judged_after = prompt_ids(self.model, plain, self.options.get("chat"))
            measured = side_effects(
                self.model, made, sae=self.sae, features=features, concept=self.concept, neutral=[],
                prompt=judged_after,
            )  # fmt: skip
            for row, (text, one) in enumerate(zip(made.texts, measured, strict=True)):
                texts[row].append(text)
                effects[row].append(one)
        neutral = self.neutral if self.neutral is not None else NEUTRAL if self.model.tokenizer is not None else ()
        try:
            kl = neutral_kl(self.model, interventions, sae=self.sae, neutral=neutral, stop=self.stop)
        except Interrupted:
            return False
        known = self.concept is not None or bool(features)
        for row, spec in enumerate(rows):
            self._add_point(spec, tuple(texts[row]), effects[row], kl[row], known=known)
        return True

    def _add_point(
        self, row: _Row, texts: tuple[str, ...], effects: list[SideEffects], kl: float, *, known: bool
    ) -> None:
        shares = [e.feature_share if self.concept is None else e.concept_share for e in effects]
        hit = _mean([float(share > 0) for share in shares]) if known else math.nan
        perplexity, repetition = _geometric([e.perplexity for e in effects]), _mean([e.repetition for e in effects])
        plain = (self.points[0].perplexity, self.points[0].repetition) if self.points else (perplexity, repetition)
        fluency = _fluency(perplexity, repetition, *plain)
        point = SweepPoint(
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
            score=harmonic(hit, fluency) if known else math.nan,
            intervention=row.intervention,
            texts=texts,
        )
        self.points.append(point)
        if self.on_point is not None:
            self.on_point(point)


def harmonic(*parts: float) -> float:
    """Return the harmonic mean of numbers from 0 to 1: 0 if one of them is 0."""
    return len(parts) / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


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


def _check(prompts, targets, strengths, kinds, batch_size) -> None:
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
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise SteeringError(f"no baseline {unknown[0]!r}: there are {', '.join(KINDS)}")
    if not len(strengths):
        raise SteeringError("no strengths: expected at least one")
    if not whole(batch_size) or batch_size < 1:
        raise SteeringError(f"batch_size must be a whole number from 1 on, not {batch_size!r:.80}")
