"""What the top-activations view shows of one feature and of a reader's own text, panel by panel."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit.errors import FeatureIndexError
from saekit.views._shared.chart import histogram_bars, histogram_words
from saekit.views._shared.index_side import feature_head
from saekit.views._shared.nodes import Node, el, figure, line, meter, table, token
from saekit.views._shared.strips import shaded_strip
from saekit.views._shared.words import aligned, join_starts, percent, sig, signed

if TYPE_CHECKING:
    from saekit.index import Example, FeatureIndex, PromptReading

TOP, SHOWN_TOP = 20, 10  # examples in the live view and in a still
INTERVALS, PER_INTERVAL, SHOWN_PER_INTERVAL = 5, 4, 2
SIDE = 10  # tokens on each side of the peak
LOGITS, SHOWN_LOGITS = 10, 8
NEIGHBOURS, SHOWN_NEIGHBOURS = 8, 6
STRONGEST = 10  # features listed for each token of a prompt
PANELS = ("head", "examples", "histogram", "logits", "neighbours")
NEIGHBOURS_BY = {"decoder": "decoder cosine", "coactivation": "co-activation (Jaccard)"}


def feature_card(
    index: "FeatureIndex", feature: int, names: Mapping[int, str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return one feature as the front-end draws it.

    Args:
        index: The index.
        feature: The feature.
        names: ``{feature: name}``.
        about: What is the same for every feature, of `saekit.views._shared.index_side.index_facts`.

    Returns:
        ``feature`` and ``dead``; ``said``, the feature in words; ``panels``, of `PANELS` those that there are.
    """
    name, dead = names.get(feature, ""), bool(index.dead[feature])
    panels = {
        "head": _head(index, feature, name, about),
        "examples": _nothing(about) if dead else _examples(index, feature),
        "histogram": None if dead else _histogram(index, feature),
        "logits": _logits(index, feature),
        "neighbours": _neighbours(index, feature, names),
    }
    said = f"Feature {feature}{name and f', {name}'}{', dead' if dead else ''}"
    kept = {key: panel for key, panel in panels.items() if panel is not None}
    return {"feature": feature, "dead": dead, "said": said, "panels": kept}


def _head(index: "FeatureIndex", feature: int, name: str, about: Mapping[str, Any]) -> Node:
    seen = f"{about['n_tokens']:,} tokens"
    if index.dead[feature]:
        rows = [("", f"dead: never active on {seen}")]
    else:
        rows = [
            ("active on", f"{int(index.count[feature]):,} of {seen} ({percent(float(index.density[feature]))})"),
            ("mean when active", sig(float(index.mean_active[feature])), "mean activation where it is active"),
            ("max", sig(float(index.max[feature]))),
        ]
    unit = "mean number of active features on a token, and features that are active on none"
    source = f"{about['model']} · {about['hook']}"
    link = about["neuronpedia"] and f"https://www.neuronpedia.org/{about['neuronpedia']}/{feature}"
    return feature_head(feature, name, rows, about, unit=unit, source=source, link=link)


def _nothing(about: Mapping[str, Any]) -> Node:
    seen = f"{about['n_tokens']:,} tokens"
    return line(f"This feature is dead: it was never active on {seen}, so there are no examples.", look="nothing quiet")


def _examples(index: "FeatureIndex", feature: int) -> Node:
    most = float(index.max[feature])
    title = f"Top activations (shade = activation / {sig(most)})"
    groups = _group(title, index.top(feature, TOP), most, SHOWN_TOP)
    for interval in index.intervals(feature, INTERVALS, PER_INTERVAL):
        low, high = aligned(interval.low, most), aligned(interval.high, most)
        title = f"{low} to {high} ({percent(interval.share)} of activations)"
        groups += _group(title, interval.examples, most, SHOWN_PER_INTERVAL)
    heading = el(
        "div",
        {"class": "heading", "only": "live"},
        el("h3", {}, "Examples"),
        line(
            el("span", {"class": "ramp", "aria-hidden": "true"}),
            "choose a token for its exact value",
            look="quiet scale",
        ),
    )
    return el("section", {"class": "examples", "aria-label": "Examples"}, heading, *groups)


def _group(title: str, examples: "Iterable[Example]", most: float, shown: int) -> list[Node]:
    rows = [_row(example, rank, most, None if rank <= shown else "live") for rank, example in enumerate(examples, 1)]
    return [el("h4", {}, title), el("div", {"class": "rows"}, *rows)] if rows else []


def _row(example: "Example", rank: int, most: float, only: str | None) -> Node:
    value = float(example.value)
    label = f"Example {rank}, activation {sig(value)}, sequence {int(example.sequence_id)}"
    shown = shaded_strip(label, example.tokens, example.activations, most, peak=int(example.peak), side=SIDE)
    shown[1] |= {"sequence": int(example.sequence_id), "first": int(example.position) - int(example.peak)}
    again = {"class": "again", "title": "identical windows, folded into this one"}
    return el(
        "div",
        {"class": "row hanging", "only": only},
        el("span", {"class": "value"}, aligned(value, most)),
        el("span", again, f"×{int(example.duplicates) + 1} ") if example.duplicates else None,
        shown,
    )


def _histogram(index: "FeatureIndex", feature: int) -> Node | None:
    found = index.histogram(feature)
    if not any(found.counts):
        return None
    histogram = {"edges": [float(e) for e in found.edges], "counts": [int(c) for c in found.counts]}
    words = histogram_words(histogram, int(index.count[feature]))
    title = "Histogram of activations (log count)"
    return figure(title, histogram_bars(histogram, words), words, **{"aria-label": "Histogram of activations"})


def _logits(index: "FeatureIndex", feature: int) -> Node | None:
    logits = _or_none(index.logits, feature, k=LOGITS)
    if not logits or not (logits.promoted or logits.suppressed):
        return None
    scale = max(abs(float(value)) for side in (logits.promoted, logits.suppressed) for *_, value in side)
    return el(
        "section",
        {"class": "logit-panel", "aria-label": "Effect on the output"},
        el("h3", {}, "Output"),
        line("logits per unit of activation, through the final norm", look="quiet"),
        el(
            "div",
            {"class": "pair"},
            _logit_table("Promotes", logits.promoted, scale, "plus"),
            _logit_table("Suppresses", logits.suppressed, scale, "minus"),
        ),
    )


def _logit_table(caption: str, rows: Sequence[tuple[int, str, float]], scale: float, tone: str) -> Node:
    def row(rank: int, number: int, text: str, value: float) -> Node:
        about = {"title": f"{json.dumps(text, ensure_ascii=False)}  token {number}"}
        bar = meter(abs(value) / scale if scale else 0.0, tone)
        bar[1]["only"] = "live"  # in a still the line under the token has the colour
        amount = el("td", {}, el("span", {"class": "amount"}, bar, el("span", {}, signed(value))))
        name = el("th", {"scope": "row"}, token(text, **{"class": "code under", "tone": tone}))
        return el("tr", {**about, "only": "live" if rank >= SHOWN_LOGITS else None}, name, amount)

    drawn = [row(rank, int(number), str(text), float(value)) for rank, (number, text, value) in enumerate(rows)]
    return table(
        ["token", "logit"], drawn, caption=caption, head={"class": "unseen", "only": "live"}, **{"class": "logits flow"}
    )


def _neighbours(index: "FeatureIndex", feature: int, names: Mapping[int, str]) -> Node | None:
    found = {by: _or_none(index.neighbours, feature, by=by, k=NEIGHBOURS) for by in NEIGHBOURS_BY}
    if not any(found.values()):
        return None
    lists = (
        el("div", {}, el("h4", {}, f"Neighbours by {words}"), _neighbour_list(found[by], names))
        for by, words in NEIGHBOURS_BY.items()
    )
    return el("section", {"class": "pair", "aria-label": "Neighbours"}, *lists)


def _neighbour_list(found: Sequence[Any], names: Mapping[int, str]) -> Node:
    if not found:
        return line("none above 0", look="quiet")
    items = []
    for rank, near in enumerate(found):
        number, name = int(near.feature), names.get(int(near.feature), "")
        button = el(
            "button",
            {"type": "button", "class": "feature", "title": f"Go to feature {number}", "set": ["value", number]},
            el("b", {}, str(number)),
            " ",
            el("span", {"class": "name"}, f"{name} ") if name else None,
            el("span", {"class": "score"}, f"{near.score:.2f}"),
        )
        items.append(el("li", {"only": "live" if rank >= SHOWN_NEIGHBOURS else None}, button))
    return el("ol", {"class": "features"}, *items)


def prompt_result(reading: "PromptReading", prompt: str, feature: int, most_seen: float) -> dict[str, Any]:
    """Return one feature on a reader's own text as the front-end draws it, and the strongest features of each token.

    Args:
        reading: Of the text.
        prompt: The text.
        feature: The feature.
        most_seen: Its largest activation in the index.

    Returns:
        ``prompt`` and ``feature``; ``positions``, how many; ``panel``; ``strongest``, for each whole token
        ``[[feature, activation in words], …]``.
    """
    seen = reading.activations(feature)
    values, out = np.asarray(seen.values, np.float32), np.flatnonzero(np.asarray(seen.excluded)).tolist()
    most = float(np.delete(values, out).max(initial=0))  # BOS above all would drown all others
    said = f"strongest {sig(most, 2)}" if most > 0 else "not active on this text"
    shown = shaded_strip(f"Your own text, feature {feature}", seen.tokens, values, max(most_seen, most), out=out)
    panel = el("div", {}, el("h4", {}, f"On your own text ({said})"), shown)
    about = {"prompt": prompt, "feature": feature, "positions": len(reading.tokens)}
    return {**about, "panel": panel, "strongest": _strongest(reading)}


def _strongest(reading: "PromptReading") -> list[list[list[Any]]]:
    found = reading.strongest(STRONGEST)
    lists = []
    for start, end in join_starts(reading.tokens):
        best: dict[int, float] = {}
        for feature, value in zip(found.features[start:end].ravel(), found.values[start:end].ravel(), strict=True):
            if value > 0:
                best[int(feature)] = max(float(value), best.get(int(feature), 0.0))
        ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:STRONGEST]
        lists.append([[feature, aligned(value, ranked[0][1])] for feature, value in ranked])
    return lists


def _or_none(query: Any, *args: Any, **kwargs: Any) -> Any:
    """Ask the index for something that not every index holds; the view then leaves that panel out."""
    try:
        return query(*args, **kwargs)
    except FeatureIndexError:
        return ()
