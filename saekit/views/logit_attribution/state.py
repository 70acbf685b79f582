"""What the logit attribution view shows: predictions, sorted bars with a running total, the picture, panel by panel."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit.views._shared.contexts import context, context_list, short_hook
from saekit.views._shared.nodes import Element, Node, el, line, table, token
from saekit.views._shared.palette import sign
from saekit.views._shared.words import effect_words, number, percent, sig, signed, visible
from saekit.views.logit_attribution.ask import Asked
from saekit.views.logit_attribution.numbers import (
    Outcome,
    Shown,
    bar_rows,
    explained,
    outcome_record,
    reading_words,
    record,
    table_csv,
)

if TYPE_CHECKING:
    from saekit.attribution import Attribution

METHODS = {
    "direct": "direct",
    "patching": "attribution patching",
    "integrated gradients": "integrated gradients",
    "exact": "exact patching",
}
HELP = {
    "others": "the features that are not listed, together",
    "error": "what the SAE misses",
    "bias": "what the SAE gives without any feature",
    "rest": "all that later heads and MLPs write; they compute it from the features too",
    "output_bias": "of the final norm and the unembedding",
}
CONTEXTS = 6  # features with a context below the picture
LOWEST = 0.02  # share of the strongest effect below which a cell of the picture is not shaded


def repr_words(shown: Shown | None) -> str:
    """Return the view in one line."""
    if shown is None:
        return "LogitAttribution(not computed yet)"
    asked, one = shown.asked, explained(shown.found)
    name = repr(asked.answer) + (f" - {asked.foil!r}" if asked.foil else "")
    top = next((row for row in bar_rows(one, shown.k) if row["kind"] == "feature"), None)
    strongest = f", strongest {bar_name(top)}: {top['effect']:+.2f}" if top else ""
    return f"LogitAttribution({name} = {float(one.clean[0]):+.2f}, {shown.method} at {asked.hook}{strongest})"


def bar_name(row: Mapping[str, Any]) -> str:
    """Say what a bar is."""
    at = f" at {visible(row['token'])}" if row["token"] else ""
    everywhere = f", {row['items']} tokens" if row["items"] > 1 else at
    return {
        "feature": f"feature {row['feature']}{at}",
        "others": f"{row['items']:,} other features",
        "error": f"reconstruction error{everywhere}",
        "bias": "bias of the SAE",
        "rest": "rest of the model",
        "output_bias": "output bias",
    }[row["kind"]]


def agreement_words(known: "Mapping[str, Attribution]", method: str) -> str:
    """Say how well the method that is shown agrees with each other one computed for the same question."""
    said = []
    for name in METHODS:
        if name == method or name not in known:
            continue
        told = explained(known[method]).agreement(explained(known[name]))
        correlation, share = number(told.correlation), number(told.same_sign)
        if correlation is None or share is None:
            said.append(f"{name}: {told.n} shared items, too flat to compare")
        else:
            r = f"{correlation:.2f}".replace("-", "−")
            said.append(f"{name}: r = {r}, {percent(share)} of the effect with the same sign")
    return f"Agreement of {method} with {'; '.join(said)}." if said else ""


def baseline_words(asked: Asked, method: str) -> str:
    """Say what the effects are measured against."""
    if method == "direct":
        return "what each feature writes towards the answer, through the final norm with its scale frozen"
    return {
        "zero": "against all features at zero",
        "mean": "against their means over the prompt",
        "corrupted": f"against “{asked.corrupted}”",
    }[asked.baseline]


def picture_words(method: str) -> str:
    """Say what the picture's cells are."""
    if method == "direct":
        return (
            "Strongest features at every token, in logits towards each token's own prediction; the last one's is "
            "explained above."
        )
    return "Strongest features at every token, in logits: what each does there to the last token's prediction."


def _read_name(asked: Asked) -> str:
    return visible(asked.answer) + (f" − {visible(asked.foil)}" if asked.foil else "")


def head_panel(facts: Mapping[str, Any], asked: Asked | None) -> Element:
    """Return what the view is, and which question its pictures answer."""
    source = f"{facts['model']} · {asked.hook}" if asked else facts["model"]
    title = el("div", {"class": "title"}, el("h2", {}, "Logit attribution"), el("span", {"class": "faint"}, source))
    return el("div", {}, title, el("p", {"class": "asked as-written"}, asked.prompt) if asked else None)


def shown_data(shown: Shown) -> dict[str, Any]:
    """Return an attribution as the front-end draws it.

    Returns:
        ``asked`` and ``method``; ``panels``: the bars, the picture, contexts; ``said``, for screen readers; ``items``,
        what the card of an item says: ``places`` of tokens, ``features`` and their ``effects`` by position,
        ``activations`` and ``contexts`` by feature; ``record`` and ``csv``, to be saved.
    """
    numbers = record(shown)
    panels = {
        "bars": _bars(shown, numbers),
        "picture": _picture(shown, numbers),
        "contexts": _contexts(shown, numbers["features"]),
    }
    reading = f"{_read_name(shown.asked)} = {signed(numbers['reading'])}"
    return {
        "asked": numbers["asked"],
        "method": shown.method,
        "said": f"{reading}, {METHODS[shown.method]}",
        "panels": {name: panel for name, panel in panels.items() if panel is not None},
        "items": _items(shown, numbers),
        "record": numbers,
        "csv": table_csv(numbers["bars"]),
    }


def _items(shown: Shown, numbers: Mapping[str, Any]) -> dict[str, Any]:
    rows = [row for row in numbers["bars"] if row["activation"] is not None]
    quoted = [json.dumps(text, ensure_ascii=False) for text in numbers["tokens"]]
    return {
        "places": [f"at {text}, position {i}" for i, text in enumerate(quoted)],
        "features": [*numbers["features"], -1],
        "effects": [[effect_words(value) for value in values] for values in numbers["picture"]],
        "activations": {f"{row['feature']}/{row['position']}": f"activation {sig(row['activation'])}" for row in rows},
        "contexts": {str(feature): context_list(found) for feature, found in shown.contexts.items()},
    }


def _bars(shown: Shown, numbers: Mapping[str, Any]) -> Node:
    rows = numbers["bars"]
    low = min(0.0, *(row["effect"] for row in rows))
    span = (max(0.0, *(row["effect"] for row in rows)) - low) or 1.0
    what = f"{reading_words(shown.asked)}, by {METHODS[shown.method]}: {baseline_words(shown.asked, shown.method)}"
    titles = [
        el("th", {"scope": "col", "title": "tick to ablate the feature at every token", "only": "live"}, "ablate"),
        el("th", {"scope": "col"}, "strongest first"),
        el("td", {}),
        el("th", {"scope": "col"}, "logits"),
        el("th", {"scope": "col"}, "running total"),
    ]
    head = el("thead", {}, el("tr", {}, *titles))
    body = el("tbody", {}, *(_bar(row, -low / span, span) for row in rows))
    drawn = el("table", {"class": "bars drawn", "zero": round(-low / span, 4)}, head, body)
    verdict = el("span", {"class": "verdict", "aria-hidden": "true", "only": "live"}, "✓" if numbers["exact"] else "≠")
    agreement = agreement_words(shown.known, shown.method)
    return el(
        "div",
        {},
        el("h3", {}, el("bdi", {}, _read_name(shown.asked)), f" = {signed(numbers['reading'])}"),
        line(what, look="faint"),
        el("div", {"class": "table-frame"}, drawn),
        el("p", {"class": "check"}, verdict, f" {numbers['check']}"),
        line(agreement, look="faint agreement") if agreement else None,
    )


def _bar(row: Mapping[str, Any], zero: float, span: float) -> Node:
    length, start = abs(row["effect"]) / span, zero + min(0.0, row["effect"]) / span
    single = row["position"] >= 0 and row["kind"] in ("feature", "error")
    pressed = {"type": "button", "class": "item", "tabindex": -1, "aria-pressed": "false"}
    name = (
        el("button", pressed, el("bdi", {}, bar_name(row)))
        if single
        else el("span", {"class": "faint", "title": HELP.get(row["kind"])}, bar_name(row))
    )
    look = "span-bar" if row["kind"] == "feature" else "span-bar whole-bar"
    drawn = {"class": look, "tone": sign(row["effect"]), "start": round(start, 4), "length": round(length, 4)}
    box = _tick_box(row["feature"]) if row["kind"] == "feature" else None
    return el(
        "tr",
        {"data-feature": row["feature"], "data-position": row["position"], "data-kind": row["kind"]},
        el("td", {"only": "live"}, box),
        el("th", {"scope": "row"}, name),
        el("td", {"class": "bar-cell", "aria-hidden": "true"}, el("span", drawn)),
        el("td", {"class": "right"}, signed(row["effect"])),
        el("td", {"class": "right running"}, signed(row["running"])),
    )


def _tick_box(feature: int) -> Node:
    words = f"Ablate feature {feature} at every token"
    return el("input", {"type": "checkbox", "aria-label": words, "title": words, "data-feature": feature})


def _picture(shown: Shown, numbers: Mapping[str, Any]) -> Node:
    tokens, features = numbers["tokens"], numbers["features"]
    scale = max((abs(row["effect"]) for row in numbers["bars"] if row["kind"] == "feature"), default=0.0)
    quoted = [json.dumps(text, ensure_ascii=False) for text in tokens]
    head = [
        el(
            "th",
            {"scope": "col", "class": "last" if i == len(tokens) - 1 else None, "title": f"{quoted[i]}, position {i}"},
            token(text, **{"aria-label": text.strip() or quoted[i]}),
        )
        for i, text in enumerate(tokens)
    ]
    faint = [out and shown.method == "direct" for out in shown.special]
    rows = []
    for feature, values in zip([*features, -1], numbers["picture"], strict=True):
        what = "reconstruction error" if feature < 0 else f"feature {feature}"
        cells = [_cell(value, scale, faint[i], f"{what} at {quoted[i]}", feature, i) for i, value in enumerate(values)]
        rows.append(el("tr", {}, _row_name(feature, shown.contexts.get(feature)), *cells))
    words = picture_words(shown.method)
    corner = el("th", {"scope": "col", "class": "corner"}, "feature")
    parts = el("thead", {}, el("tr", {}, corner, *head)), el("tbody", {}, *rows)
    grid = el("table", {"class": "grid-picture drawn", "role": "grid", "aria-label": words}, *parts)
    title = el("h3", {}, "Where in the prompt")
    return el("div", {}, title, line(words, look="faint"), el("div", {"class": "table-frame"}, grid))


def _cell(value: float, scale: float, faint: bool, what: str, feature: int, position: int) -> Node:
    share = min(1.0, abs(value) / scale) if scale and not faint else 0.0
    seen = share >= LOWEST
    about = {
        "role": "gridcell",
        "class": "cell shaded right",
        "tone": sign(value),
        "shade": round(share, 3) if seen else 0,
        "tabindex": -1,
        "aria-selected": "false",
        "aria-label": f"{what}: {signed(value)} logits",
        "title": f"{what}: {signed(value)}",
        "data-feature": feature,
        "data-position": position,
    }
    return el("td", about, signed(value) if seen else None)


def _row_name(feature: int, found: Mapping[str, Any] | None) -> Node:
    if not found or not found["rows"]:
        return el("th", {"scope": "row"}, "error" if feature < 0 else str(feature))
    about = {"class": "peak-token", "title": "strongest token on the index's corpus", "only": "live"}
    return el("th", {"scope": "row"}, str(feature), token(found["rows"][0][2], **about))


def _contexts(shown: Shown, features: Sequence[int]) -> Node | None:
    known = [(feature, shown.contexts.get(feature)) for feature in features[:CONTEXTS]]
    lines = [
        el("div", {}, el("b", {}, str(feature)), " ", context(found["rows"][0]))
        for feature, found in known
        if found and found["rows"]
    ]
    title = f"Strongest contexts of features of {short_hook(shown.asked.hook)}"
    return el("div", {"class": "apart"}, line(title, look="faint"), *lines) if lines else None


def outcome_panel(outcome: Outcome) -> Node:
    """Return what the model says next: probabilities beside those with features ablated."""
    kinds = ["probability"]
    titles = ["says next", "probability"]
    if n := len(outcome.ablated):
        kinds, titles = [*kinds, "ablated"], [*titles, f"{n} ablated"]
    if outcome.control is not None:
        kinds, titles = [*kinds, "control"], [*titles, f"{n} random ablated"]
    rows = []
    for row in outcome_record(outcome)["predictions"]:
        role = el("span", {"class": "faint"}, f" {row['role']}") if row["role"] else None
        about = {"class": f"role-{row['role']}" if row["role"] else None, "title": _prediction_words(row)}
        cells = (_share(row[kind], kind) for kind in kinds)
        rows.append(el("tr", about, el("th", {"scope": "row"}, token(row["text"]), role), *cells))
    return el(
        "div",
        {},
        el("h3", {}, "The model says"),
        table(titles, rows, **{"class": "says"}),
        line(ablation_words(outcome), look="faint") if outcome.ablated else None,
    )


def _share(value: float, kind: str) -> Node:
    bar = {"class": f"share share-{kind}", "length": round(value, 4), "aria-hidden": "true", "only": "live"}
    return el("td", {"class": "shares-cell"}, el("span", {}, percent(value)), el("span", bar))


def _prediction_words(row: Mapping[str, Any]) -> str:
    parts = [percent(row["probability"])]
    if row["ablated"] is not None:
        parts.append(f"{percent(row['ablated'])} with the ticked features ablated")
    if row["control"] is not None:
        parts.append(f"{percent(row['control'])} with random ones ablated")
    return f"{json.dumps(row['text'], ensure_ascii=False)}: {', '.join(parts)}"


def ablation_words(outcome: Outcome) -> str:
    """Say what ablation did."""

    def counted(count: int, what: str) -> str:
        return f"{count} {what}{'s' if count > 1 else ''}"

    n, control = len(outcome.ablated), outcome.control
    beside = ""
    if control is not None:
        random = counted(len(outcome.random), "random active feature")
        beside = f"; with {random}: KL {max(0.0, control.kl):.2f}"
    kl = max(0.0, outcome.found.kl)  # rounding can leave a tiny negative
    which = ", ".join(map(str, outcome.ablated))
    return (
        f"{counted(n, 'feature')} ablated at every token, error kept ({which}): KL {kl:.2f} nats from the "
        f"original{beside}."
    )
