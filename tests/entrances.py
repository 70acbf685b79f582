"""Every way into saekit that takes a model, each as a function of a model, an SAE and token ids: one table.

What holds at one entrance has to hold at all of them: tests of a kind of input run over `ENTRANCES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from saekit import attribution, circuits, evaluation, index, probes, saes, steering, training
from saekit.data import Tokens
from saekit.errors import SaekitError
from saekit.views.circuit import Circuit
from saekit.views.logit_attribution import LogitAttribution
from saekit.views.steering import Steering
from saekit.views.top_activations import TopActivations

TEXTS = ["The cat sat on the mat", "A dog, 3 birds and the cafe owner watched", "Good morning! she said", "In 1984"]
QUIET: Any = {"progress": False}
FEATURES = [3, 5]


def corpus(ids: torch.Tensor) -> Tokens:
    """Return rows of ids as a corpus; the first token of each is BOS."""
    document = np.repeat(np.arange(len(ids), dtype=np.int32)[:, None], ids.shape[1], 1)
    document[:, 0] = -1
    return Tokens(ids.numpy().astype(np.int32), document, np.arange(len(ids), dtype=np.int64), name="own")


def other(ids: torch.Tensor) -> torch.Tensor:
    """Return ids of the same shape, another token at position 2 of each row."""
    changed = ids.clone()
    changed[:, 2] = 7 + (changed[:, 2] == 7).long()
    return changed


def task(ids: torch.Tensor) -> circuits.Task:
    """Return a task of rows of ids."""
    n = len(ids)
    answers, end = torch.full((n,), 9), torch.full((n,), ids.shape[1] - 1)
    return circuits.Task(
        "own", n * ("",), n * ("",), answers, answers + 2, answers + 2, {"end": end}, tuple(ids), tuple(other(ids))
    )


def intervention(sae: Any) -> steering.Intervention:
    return steering.Intervention.on(sae, FEATURES, mode="clamp", value=2.0, unit="norm")


def harvested(model, sae, ids, *, many: bool = False) -> np.ndarray:
    with TemporaryDirectory() as folder:
        hook = saes.sae_hook(sae)
        if many:
            return np.array(training.harvest_many(model, corpus(ids), [hook], Path(folder), **QUIET)[hook].rows)
        return np.array(training.harvest(model, corpus(ids), hook, Path(folder), **QUIET).rows)


def indexed(model, sae, ids) -> list[np.ndarray]:
    built = index.FeatureIndex.build(model, sae, corpus(ids), **QUIET)
    return [built.count, built.max, built.mean_active]


def extracted(model, sae, **options) -> list[Any]:
    found = probes.extract_features(model, sae, TEXTS, context_size=48, **QUIET, **options)
    return [part for at in found.saes.values() for part in (at.events.toarray(), at.hook.mean, at.hook.last)]


def shown(view) -> str:
    """Wait for a view's work; an error that it shows is raised."""
    assert view.wait(60)
    if view.error:
        raise SaekitError(view.error)
    return ""


def steered_view(model, sae):
    view = Steering(model, sae, TEXTS[0], FEATURES, max_new_tokens=2)
    view.run()
    return shown(view)


def circuit_of(model, sae, ids):
    found = circuits.feature_circuit(model, sae, task(ids), steps=2)
    return found, (model, sae, task(ids), found)


@dataclass(frozen=True)
class Entrance:
    """One way in.

    Attributes:
        run: Function of a model, an SAE and token ids ``[batch, pos]`` that returns numbers, in any nesting.
        sae: Whether it takes the SAE.
        ids: Whether it reads the ids; else texts of its own.
        everywhere: Whether it works at any hook point; else in the residual stream only.
    """

    run: Callable[[Any, Any, torch.Tensor], Any]
    sae: bool = True
    ids: bool = True
    everywhere: bool = True


ENTRANCES = {
    "FeatureIndex.build": Entrance(indexed),
    "harvest": Entrance(harvested, sae=False),
    "harvest_many": Entrance(lambda m, s, i: harvested(m, s, i, many=True), sae=False),
    "stream_activations": Entrance(
        lambda m, s, i: list(
            islice(training.stream_activations(m, corpus(i), saes.sae_hook(s), buffer_tokens=64).batches(8), 2)
        ),
        sae=False,
    ),
    "evaluate": Entrance(lambda m, s, i: evaluation.evaluate(m, s, corpus(i), **QUIET).as_dict()),
    "evaluate_many": Entrance(lambda m, s, i: [one.as_dict() for one in evaluation.evaluate_many(m, [s], corpus(i))]),
    "extract_features": Entrance(lambda m, s, i: extracted(m, s), ids=False),
    "extract_features, controls": Entrance(lambda m, s, i: extracted(m, s, controls=("random", "permuted")), ids=False),
    "hook_alignment": Entrance(lambda m, s, i: probes.hook_alignment(m, s, i[:, 1:].tolist())),
    "answer_questions": Entrance(
        lambda m, s, i: probes.answer_questions(m, [probes.Question(TEXTS[0], (" a", " the"), 0)]).log_probs,
        sae=False,
        ids=False,
    ),
    "direct_logit_attribution": Entrance(
        lambda m, s, i: attribution.direct_logit_attribution(m, s, i, answer=9, foil=11), everywhere=False
    ),
    "logit_attribution_by_component": Entrance(
        lambda m, s, i: attribution.logit_attribution_by_component(m, i, answer=9, by="layer"), sae=False
    ),
    "attribution_patching": Entrance(lambda m, s, i: attribution.attribution_patching(m, s, i, answer=9, foil=11)),
    "attribution_patching, integrated": Entrance(
        lambda m, s, i: attribution.attribution_patching(
            m, s, i, answer=9, corrupted=other(i), method="integrated", steps=3
        )
    ),
    "activation_patching": Entrance(
        lambda m, s, i: attribution.activation_patching(m, s, i, nodes=FEATURES, answer=9, foil=11)
    ),
    "logit_lens": Entrance(lambda m, s, i: attribution.logit_lens(m, i[0], answer=9), sae=False),
    "predictions": Entrance(lambda m, s, i: attribution.predictions(m, i[0]), sae=False),
    "predictions, patched": Entrance(lambda m, s, i: attribution.predictions(m, i[0], sae=s, nodes=FEATURES)),
    "task_performance": Entrance(lambda m, s, i: circuits.task_performance(m, task(i)), sae=False),
    "patch_residual": Entrance(lambda m, s, i: circuits.patch_residual(m, task(i)), sae=False),
    "localise": Entrance(lambda m, s, i: circuits.localise(m, s, task(i), counts=(1, 4))),
    "feature_circuit": Entrance(lambda m, s, i: circuit_of(m, s, i)[0], everywhere=False),
    "faithfulness": Entrance(
        lambda m, s, i: circuits.faithfulness(*circuit_of(m, s, i)[1], sizes=(1, 4)), everywhere=False
    ),
    "generate": Entrance(lambda m, s, i: steering.generate(m, i[0], intervention(s), sae=s, max_new_tokens=3).logprobs),
    "generate, a batch": Entrance(
        lambda m, s, i: (
            steering.generate(
                m, i[0], intervention(s), sae=s, strengths=[0, 1], max_new_tokens=3, temperature=1.0, seed=0
            ).logprobs
        )
    ),
    "side_effects": Entrance(
        lambda m, s, i: steering.side_effects(
            m, steering.generate(m, i[0], intervention(s), sae=s, max_new_tokens=3), sae=s
        )
    ),
    "neutral_kl": Entrance(lambda m, s, i: steering.neutral_kl(m, [intervention(s)], sae=s, neutral=list(i))),
    "difference_of_means": Entrance(
        lambda m, s, i: steering.difference_of_means(m, saes.sae_hook(s), TEXTS[:2], TEXTS[2:]), sae=False, ids=False
    ),
    "random feature": Entrance(
        lambda m, s, i: steering.baseline(m, intervention(s), "random feature", sae=s).edits[0].direction, ids=False
    ),
    "steering_sweep": Entrance(
        lambda m, s, i: [
            (point.perplexity, point.kl)
            for point in steering.steering_sweep(
                m, TEXTS[0], intervention(s), sae=s, strengths=(1,), baselines=(), max_new_tokens=3
            ).points
        ],
        ids=False,
    ),
    "TopActivations": Entrance(
        lambda m, s, i: shown(
            TopActivations(index.FeatureIndex.build(m, s, corpus(i), **QUIET), model=m, sae=s, prompt=TEXTS[0])
        )
    ),
    "Steering": Entrance(lambda m, s, i: steered_view(m, s), ids=False),
    "LogitAttribution": Entrance(
        lambda m, s, i: shown(LogitAttribution(m, s, TEXTS[0], "c", "d", k=4)), ids=False, everywhere=False
    ),
    "Circuit": Entrance(lambda m, s, i: shown(Circuit(m, s, task(i), k=4, steps=2)), everywhere=False),
}


def numbers(result: Any) -> np.ndarray:
    """Return all numbers in a result, whatever holds them, as one row of float64."""
    if isinstance(result, torch.Tensor):
        assert not result.requires_grad
        result = result.double().numpy()
    if isinstance(result, np.ndarray) and result.dtype.kind in "fiub":
        return result.astype(np.float64).ravel()
    if isinstance(result, (int, float, np.number)):
        return np.array([float(result)])
    if is_dataclass(result):
        result = [getattr(result, field.name) for field in fields(result)]
    if isinstance(result, dict):
        result = list(result.values())
    parts = [numbers(part) for part in result] if isinstance(result, (list, tuple)) else []
    return np.concatenate([np.zeros(0), *parts])
