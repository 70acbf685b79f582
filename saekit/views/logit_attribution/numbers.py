"""What is shown of an attribution and of predictions, as numbers: what is drawn, and what is saved as JSON and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from saekit.views._shared.words import number, signed
from saekit.views.logit_attribution.ask import Asked

if TYPE_CHECKING:
    from saekit.attribution import Attribution, Predictions

SUMMED = ("error", "bias", "rest", "output_bias")  # kinds with one bar each, whatever their size
COLUMNS = ("kind", "feature", "position", "token", "items", "activation", "effect", "running")  # of the CSV


@dataclass(frozen=True)
class Shown:
    """One attribution that is shown, and those of other methods for the same question."""

    asked: Asked
    method: str
    known: "Mapping[str, Attribution]"
    special: tuple[bool, ...]  # which tokens are special: direct attribution shades none there
    contexts: Mapping[int, Mapping[str, Any]]  # of features, as far as there is an index
    k: int  # features shown one by one

    @property
    def found(self) -> "Attribution":
        """The attribution."""
        return self.known[self.method]


@dataclass(frozen=True)
class Outcome:
    """What the model says next, as it is, with ticked features ablated and with as many random ones."""

    asked: tuple[str, str, str]  # prompt, answer, foil
    hook: str
    found: "Predictions"
    control: "Predictions | None"
    tokens: tuple[int, ...]  # ids of the answer, and of the foil if there is one
    ablated: tuple[int, ...]
    random: tuple[int, ...]


def explained(found: "Attribution") -> "Attribution":
    """Return the account of the prompt's last prediction: direct attribution reads every position's own."""
    return found.only(position=int(found.read_position[-1])) if len(found.read_position) > 1 else found


def record(shown: Shown) -> dict[str, Any]:
    """Return what is shown of an attribution as numbers, as `LogitAttribution.to_json` writes it."""
    one = explained(shown.found)
    features = features_shown(one, shown.k)
    return {
        "asked": asdict(shown.asked),
        "method": shown.method,
        "tokens": list(shown.found.tokens[0]),
        "reading": float(one.clean[0]),
        "total": float(one.total[0, 0]),
        "sum": float(one.sums[0, 0]),
        "exact": one.complete,
        "check": check_words(one, reading_words(shown.asked)),
        "bars": bar_rows(one, shown.k),
        "features": features,
        "picture": picture(shown.found, features).tolist(),
    }


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """Return predictions as numbers, as `LogitAttribution.to_json` writes them."""
    rows = prediction_rows(outcome.found, outcome.control, outcome.tokens)
    return {"predictions": rows, "ablated": list(outcome.ablated), "control": list(outcome.random)}


def bar_rows(one: "Attribution", k: int) -> list[dict[str, Any]]:
    """Return the k strongest features one by one, all others as one, and the sum of each other kind, strongest first.

    ``running`` is what the bars down to this one add up to; the last one's is what all items add up to.
    """
    tokens = one.tokens[0]
    ranked = one.top(len(one))
    rows = [_row("feature", [item]) for item in ranked[:k]]
    if ranked[k:]:
        rows.append(_row("others", ranked[k:]))
    for kind in SUMMED:
        items = one.top(len(one), kinds=(kind,))
        if items and (kind != "output_bias" or any(item.effect for item in items)):
            rows.append(_row(kind, items))
    rows.sort(key=lambda row: -abs(row["effect"]))
    for row, running in zip(rows, np.cumsum([row["effect"] for row in rows]), strict=True):
        row["running"] = float(running)
        row["token"] = tokens[row["position"]] if row["position"] >= 0 else ""
    return rows


def _row(kind: str, items: Sequence[Any]) -> dict[str, Any]:
    alone = items[0] if len(items) == 1 else None
    return {
        "kind": kind,
        "feature": alone.feature if alone else -1,
        "position": alone.position if alone else -1,
        "items": len(items),
        "activation": number(alone.activation) if alone and kind == "feature" else None,
        "effect": float(sum(item.effect for item in items)),
    }


def features_shown(one: "Attribution", k: int) -> list[int]:
    """Return the features of the strongest items, each once: the rows of the picture."""
    return list(dict.fromkeys(item.feature for item in one.top(len(one))))[:k]


def picture(found: "Attribution", features: Sequence[int]) -> Float[np.ndarray, "row pos"]:
    """Return the effects of these features, then of the error, at every position."""
    error = np.zeros(len(found.tokens[0]))
    for item in found.top(len(found), kinds=("error",)):
        error[item.position] += item.effect
    return np.concatenate([found.matrix(features).T.reshape(len(features), -1), error[None]]).astype(np.float32)


def prediction_rows(found: "Predictions", control: "Predictions | None", tokens: Sequence[int]) -> list[dict[str, Any]]:
    """Return the likeliest tokens: probability as they are, with ticked features ablated, with random ones ablated.

    Args:
        found: Predictions of the model, and with the ticked features ablated if there are any.
        control: Predictions with random ones ablated; it has all tokens of ``found``.
        tokens: Ids of the answer, and of the foil if there is one.
    """
    roles = dict(zip(tokens, ("answer", "foil"), strict=False))
    random = {} if control is None else dict(zip(control.ids.tolist(), control.probability_patched, strict=True))
    return [
        {
            "token": token,
            "text": found.text[i],
            "role": roles.get(token, ""),
            "probability": float(found.probability[i]),
            "logit": float(found.logit[i]),
            "ablated": float(found.probability_patched[i]) if found.n_patched else None,
            "control": float(random[token]) if control else None,
        }
        for i, token in enumerate(found.ids.tolist())
    ]


def table_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the bars as CSV."""
    out = io.StringIO()
    write = csv.writer(out, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    write.writerow(COLUMNS)
    for row in rows:
        write.writerow([f"{row[name]:.6f}" if isinstance(row[name], float) else row[name] for name in COLUMNS])
    return out.getvalue()


def check_words(one: "Attribution", what: str) -> str:
    """Say whether the items add up, and why they need not; ``what`` is read."""
    total, got = float(one.total[0, 0]), float(one.sums[0, 0])
    if one.method == "direct":
        verdict = "exact" if one.complete else f"NOT exact, {signed(got - total)} too much"
        return f"All items add up to {signed(got)}, the {what} that the model gives is {signed(total)}: {verdict}."
    against = "as in the other prompt" if one.baseline == "corrupted prompts" else f"at the baseline ({one.baseline})"
    why = {
        "patching": "first-order estimates add up only where the layers above are linear",
        "integrated gradients": "ten points of the line between the two runs come near it",
        "exact": "measured one by one, effects overlap, and weak features were not measured",
    }[one.method]
    return (
        f"Items add up to {signed(got)}; all at once they are worth {signed(total)}, by which the {what} falls when "
        f"everything at this layer is {against}: {why}. The SAE's bias is the same in both runs."
    )


def reading_words(asked: Asked) -> str:
    """Say what is explained."""
    return "logit difference" if asked.foil else "logit"
