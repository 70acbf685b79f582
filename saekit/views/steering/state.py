"""What the steering view shows of texts, side effects and sweeps, as plain data for the front-end."""

from typing import TYPE_CHECKING, Any

from saekit.views._shared.contexts import context_rows
from saekit.views._shared.rows import number

if TYPE_CHECKING:
    from saekit.index import FeatureIndex
    from saekit.steering import Generation, SideEffects, SteeringSweep

PROMOTED = 6  # tokens of a feature's card
UNSTEERED, STEERED = "unsteered", "steered"
# Name, what it says, whether more of it is worse: the rows under each text, in this order.
EFFECTS = ("kl", "perplexity", "repetition", "feature_share", "concept_share", "edit_norm")


def feature_facts(index: "FeatureIndex | None", feature: int) -> dict[str, Any]:
    """Return what helps to recognise a feature: its strongest contexts and the tokens that it promotes."""
    if index is None:
        return {"known": False}
    found = {"known": True, **context_rows(index, feature)}
    promoted = index.logits(feature, PROMOTED).promoted
    return {**found, "promoted": [str(text) for _, text, _ in promoted]}


def effects_row(effects: "SideEffects") -> dict[str, Any]:
    """Return side effects as numbers, None for what is not known."""
    return {name: number(getattr(effects, name)) for name in EFFECTS}


def token_rows(pieces: list[bytes], generation: "Generation", row: int, effects: "SideEffects") -> dict[str, Any]:
    """Return the tokens of an output, and the natural logarithm of each one's probability with and without steering.

    Args:
        pieces: Bytes of every token of the vocabulary.
        generation: Where the output is.
        row: Which row of it.
        effects: Of that row.
    """
    from saekit.models import join_pieces

    ids = generation.ids[row][: -1 if generation.ends[row] == "eos" else None]
    n = len(ids)
    return {
        "tokens": join_pieces([pieces[token] for token in ids]),
        "logprobs": [round(value, 4) for value in effects.logprobs[:n]],
        "plain": [round(value, 4) for value in effects.logprobs_plain[:n]],
    }


def sweep_rows(sweep: "SteeringSweep", target: str) -> dict[str, Any]:
    """Return a sweep as lines over strength: of the target, and of the baselines whose edits are as long."""
    measures = ("fluency", "concept_hit", "kl", "perplexity", "repetition", "edit_norm")
    lines = []
    for method in sweep.methods:
        if method in (UNSTEERED, "prompt"):
            continue
        points = sweep.curve(method)
        rows = [
            {"strength": p.strength, "text": p.texts[0], **{name: number(getattr(p, name)) for name in measures}}
            for p in points
        ]
        lines.append({"name": "steered" if method == target else method, "points": rows})
    asked = next((p for p in sweep.points if p.method == "prompt"), None)
    return {
        "lines": lines,
        "breaks_at": sweep.breaks_at(target) if target in sweep.methods else None,
        "prompt": asked and {name: number(getattr(asked, name)) for name in ("fluency", "concept_hit")},
        "skipped": dict(sweep.skipped),
        "complete": sweep.complete,
    }
