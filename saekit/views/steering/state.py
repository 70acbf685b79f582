"""What the steering view shows of texts, side effects and sweeps, panel by panel. Figures have two digits."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit.views._shared.chart import Line, line_chart, sample
from saekit.views._shared.contexts import context_rows
from saekit.views._shared.nodes import Element, Node, el, figure, line, table
from saekit.views._shared.strips import strip
from saekit.views._shared.words import join_starts, number, percent, rough
from saekit.views.steering.setting import setting_words

if TYPE_CHECKING:
    from saekit.index import FeatureIndex
    from saekit.steering import Generation, SideEffects, SteeringSweep

UNSTEERED, STEERED = "unsteered", "steered"
FULL = 4.0  # a token e^4 = 55 times as likely, or as unlikely, has the full shade
# What each step of a token's shade means: how many times as likely it became.
STEPS = ("", "about 2", "about 4", "about 7", "about 14", "about 28", "at least 55")
ENDS = {"eos": "", "length": " …", "context": " … (the context is full)", "stopped": " … (stopped)", "": ""}
# Side effects under each text in this order: name, what it is called, what it means.
EFFECTS = {
    "kl": (
        "KL on neutral text, nats",
        "how much the next-token distribution changes on six everyday sentences: 0 is no side effect",
    ),
    "perplexity": (
        "perplexity, unsteered reader",
        "how surprised the unsteered model is by this text; low also for a word said again and again",
    ),
    "repetition": (
        "repeated runs of 3 tokens",
        "share of the text's runs of three tokens that occurred in it before",
    ),
    "feature_share": (
        "tokens with the feature on",
        "where the unsteered model, reading the text again, activates the features",
    ),
    "concept_share": ("words about the concept", "words that match your expression"),
    "edit_norm": (
        "edit / residual",
        "length of the change relative to the residual stream, mean over edited tokens",
    ),
}
SHARES = ("repetition", "feature_share", "concept_share", "concept_hit", "fluency")
CHARTS = {
    "fluency": "Fluency",
    "concept_hit": "Concept in the text",
    "kl": "KL on neutral text",
    "perplexity": "Perplexity",
}
FLUENCY_WORDS = (
    "Fluency: perplexity of the unsteered text over that of this one, less what it repeats; "
    "dotted: where it falls below one half."
)
PROMOTED = 4  # tokens of a feature's card
BEFORE, AFTER = 40, 30  # characters of its context


@dataclass(frozen=True)
class Written:
    """Texts as far as they are written and read, and the setting that they were written with.

    Fields:
        ran: The setting; empty before the first run.
        columns: ``{key, title, note}`` of each text.
        texts: Text and end (a key of `ENDS`) of each; the end is ``""`` while it grows.
        read: ``{tokens, logprobs, plain}`` of each that the unsteered model has read again.
        effects: Side effects of these; ``kl`` comes last and is NaN until then.
        edit_norm: How long the steered text's edit is, relative to the residual.
    """

    ran: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[Mapping[str, str], ...] = ()
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    read: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    effects: "Mapping[str, SideEffects]" = field(default_factory=dict)
    edit_norm: float = 0.0


@dataclass(frozen=True)
class Swept:
    """A sweep as far as it came: what it varies, in which setting, and whether it goes on."""

    sweep: "SteeringSweep"
    setting: Mapping[str, Any]
    target: str  # label of what is steered
    under_way: bool

    @property
    def value(self) -> float | None:
        """Strength of the only feature, in which the axis is measured; None: in multiples of what is set."""
        rows = self.setting["features"]
        return (rows[0]["value"] or None) if len(rows) == 1 and rows[0]["mode"] in ("add", "clamp") else None


def head(facts: Mapping[str, Any], setting: Mapping[str, Any]) -> Node:
    """Return what the view is, and on what."""
    source = line(f"{facts['model']} · {setting['hook_name']}", look="quiet")
    return el("div", {"class": "steering-head"}, el("h2", {}, "Steering"), source)


def ran_panel(setting: Mapping[str, Any]) -> Element:
    """Return with which setting texts are written."""
    chosen = f"sampled at {setting['temperature']:g}, seed {setting['seed']}" if setting["temperature"] else "greedy"
    how = f"{setting_words(setting)} · {chosen}, up to {setting['max_new_tokens']} tokens"
    return el("div", {}, line("prompt: ", el("q", {"class": "as-written"}, setting["prompt"])), line(how))


def text_panels(written: Written, *, busy: bool) -> dict[str, Node]:
    """Return each text, its tokens shaded once it was read again, with what it costs beneath."""
    return {column["key"]: _text(column, written, busy) for column in written.columns}


def texts_panel(panels: Mapping[str, Node]) -> Node:
    """Return the texts side by side."""
    return el("div", {"class": "texts beside"}, *panels.values()) if panels else line("not run yet", look="quiet")


def shade_key() -> Node:
    """Return what the shade of tokens means."""
    more = el("span", {"class": "shaded", "tone": "plus", "shade": 0.6}, "more likely")
    less = el("span", {"class": "shaded", "tone": "minus", "shade": 0.6}, "less likely")
    what = "shade: how much steering changed a token’s probability, "
    return line(what, more, ", ", less, "; point at a token to read it", look="quiet shade-key")


def _text(column: Mapping[str, str], written: Written, busy: bool) -> Node:
    key = column["key"]
    text, end = written.texts[key]
    read, effects = written.read.get(key), written.effects.get(key)
    growing = busy and not end
    if read:
        shown = _shaded(f"{column['title']} text, token by token", read)
    else:
        shown = text or ("" if growing or not end else "(no text)")
    caret = el("span", {"class": "caret", "aria-hidden": "true", "only": "live"}) if growing else None
    ending = " …" if growing and text else ENDS[end]
    body = el("div", {"class": "text as-written", "dir": "auto"}, shown, ending or None, caret)
    rows = _effects(effects, busy) if effects else []
    return el(
        "article",
        {"class": "text-column", "data-text": key, "aria-label": f"{column['title']} text"},
        el("h3", {}, column["title"]),
        el("p", {"class": "quiet", "only": "live" if key == STEERED else None}, column["note"]),  # a still has it above
        body,
        el("p", {"class": "quiet pointed", "aria-live": "polite", "only": "live"}),
        el("dl", {"class": "effects"}, *rows),
    )


def _shaded(label: str, read: Mapping[str, Any]) -> Node:
    marks, starts = [], [start for start, _ in join_starts(read["tokens"])]
    for at, start in enumerate(starts):
        after, before = read["logprobs"][start], read["plain"][start]
        words = change_words(after, before)
        marks.append([at, words, words, *_step(after - before)])
    tokens = [read["tokens"][start] or "\ufffd" for start in starts]
    return strip(label, tokens, [*starts, len(read["tokens"])], marks, written=True)


def change_words(logprob: float, plain: float) -> str:
    """Say what steering did to a token's probability, given its logarithm with and without steering.

    >>> change_words(math.log(0.5), math.log(0.004)), change_words(-1, -1)
    ('probability 0.4 % → 50 %', 'probability 37 %, as without steering')
    """
    before, after = percent(math.exp(plain)), percent(math.exp(logprob))
    return f"probability {after}, as without steering" if before == after else f"probability {before} → {after}"


def coarse_words(change: float) -> str:
    """Say how much likelier steering made a token, as coarsely as its shade: the figures are in the live view.

    >>> [coarse_words(change) for change in (0.1, 2.0, -2.0, 9.0)]
    ['', 'about 7 times as likely', 'about 7 times less likely', 'at least 55 times as likely']
    """
    times = STEPS[_steps(change)]
    return times and f"{times} times {'as' if change > 0 else 'less'} likely"


def _steps(change: float) -> int:
    """Return the shade in steps: rounding noise of another processor must not change the bytes of a still."""
    return round((len(STEPS) - 1) * min(1.0, abs(change) / FULL))


def _step(change: float) -> tuple[float, str]:
    share = _steps(change) / (len(STEPS) - 1)
    return math.copysign(round(share, 3), change) if share else 0.0, coarse_words(change)


def _effects(effects: "SideEffects", busy: bool) -> list[Node]:
    rows = []
    for name, (words, meaning) in EFFECTS.items():
        value = number(getattr(effects, name))
        if value is None and not (name == "kl" and busy):
            continue
        shown = el("dd", {"data-effect": name}, "…" if value is None else effect_words(name, value))
        rows.append(el("div", {"title": meaning}, el("dt", {}, words), " ", shown))
    return rows


def effect_words(name: str, value: float | None) -> str:
    """Write a side effect with two digits."""
    if value is None:
        return "–"
    return percent(value) if name in SHARES else rough(value)


def sweep_panel(swept: Swept) -> Node:
    """Return a sweep: where fluency breaks, small charts over strength, and the texts behind them."""
    sweep = swept.sweep
    lines = {name: sweep.curve(name) for name in sweep.methods if name not in (UNSTEERED, "prompt")}
    lines = {STEERED if name == swept.target else name: points for name, points in lines.items()}
    texts = lines.get(STEERED, ())
    breaks = [breaks_words(swept)] if len(texts) > 1 else []
    ended = [] if sweep.complete or swept.under_way else [" Stopped before its end."]
    names = [el("span", {}, sample(i), f" {name} ") for i, name in enumerate(lines)] if len(lines) > 1 else []
    charts = (_chart(swept, lines, name) for name in CHARTS)
    titles = [
        "strength",
        "fluency",
        "concept",
        "text",
        el("th", {"class": "take-over", "scope": "col", "only": "live"}, "take over"),
    ]
    rows = table(titles, [_point(point, swept) for point in texts], **{"class": "sweep-table"})
    scrolls = {"class": "table-frame", "tabindex": 0, "role": "region", "aria-label": "Texts of the sweep"}
    return el(
        "div",
        {},
        el("h3", {}, "Strength sweep"),
        line(setting_words(swept.setting), look="quiet"),
        line(*breaks, *ended),
        line(*names, look="legend") if names else None,
        line(f"{FLUENCY_WORDS} {asked_words(sweep)}".strip(), look="quiet"),
        el("div", {"class": "multiples beside"}, *charts),
        el("div", scrolls, rows),
        *(line(f"not run: {name} ({why})", look="quiet") for name, why in sweep.skipped.items()),
    )


def strength_words(factor: float, value: float | None) -> str:
    """Write a strength of a sweep: of a single feature its own ``value`` times the factor, else the factor.

    >>> strength_words(0, -3), strength_words(2, -3), strength_words(0.25, None)
    ('off', '−6', '0.25 ×')
    """
    if factor == 0:
        return "off"
    return f"{factor:g} ×" if value is None else f"{factor * value:.3g}".replace("-", "−")


def breaks_words(swept: Swept) -> str:
    """Say where fluency breaks."""
    at = _breaks_at(swept)
    if at is None:
        return f"Fluency stays above one half at every strength {'so far' if swept.under_way else 'tried'}."
    return f"Fluency falls below one half at strength {strength_words(at, swept.value)}."


def asked_words(sweep: "SteeringSweep") -> str:
    """Say how the baseline that asks for the concept does, which has no strength; "" where it did not run."""
    asked = next((point for point in sweep.points if point.method == "prompt"), None)
    if asked is None:
        return ""
    concept, fluency = (effect_words(name, number(getattr(asked, name))) for name in ("concept_hit", "fluency"))
    return f"Asked for in the prompt instead: concept in the text {concept}, fluency {fluency}."


def _breaks_at(swept: Swept) -> float | None:
    return swept.sweep.breaks_at(swept.target) if swept.target in swept.sweep.methods else None


def _chart(swept: Swept, lines: Mapping[str, Sequence[Any]], name: str) -> Node:
    scale = 1.0 if swept.value is None else abs(swept.value)
    drawn, said = [], []
    for at, (method, points) in enumerate(lines.items()):
        known = [(p.strength * scale, value) for p in points if (value := number(getattr(p, name))) is not None]
        xs, ys = np.array(known, dtype=float).reshape(-1, 2).T
        drawn.append(Line(method, at, xs, ys))
        said.append(f"{method} {', '.join(f'{effect_words(name, y)} at {x:.3g}' for x, y in known)}")
    at = _breaks_at(swept)
    mark = None if at is None else at * scale
    words = f"{CHARTS[name]} by strength: {'; '.join(said)}"
    chart = line_chart(drawn, words, linear=name in SHARES, x_label="strength", mark=mark)
    return figure(CHARTS[name], chart)


def _point(point: Any, swept: Swept) -> list[Node]:
    strength = strength_words(point.strength, swept.value)
    use = {"type": "button", "aria-label": f"Use strength {strength}", "data-factor": point.strength}
    button = el("button", use, "Use") if point.strength else None
    cells = (effect_words(name, number(getattr(point, name))) for name in ("fluency", "concept_hit"))
    text = el("td", {"class": "sweep-text as-written", "dir": "auto"}, point.texts[0])
    return [strength, *cells, text, el("td", {"class": "take-over", "only": "live"}, button)]


def feature_card(index: "FeatureIndex | None", feature: int) -> dict[str, Any]:
    """Return what helps to recognise a feature: ``max`` and, as nodes, its strongest context and promoted tokens."""
    if index is None:
        return {"max": None, "words": []}
    found = context_rows(index, feature)
    if found["dead"]:
        return {"max": found["max"], "words": ["dead: it was never active on the texts of the index"]}
    _, before, peak, after = found["rows"][0] if found["rows"] else (0, "", "", "")
    context = el(
        "span",
        {"class": "context", "dir": "auto", "title": f"{before}{peak}{after}"},
        *("… ", el("bdi", {}, before[-BEFORE:]), el("mark", {}, peak), el("bdi", {}, after[:AFTER]), " …"),
    )
    promoted = (str(text) for _, text, _ in index.logits(feature, PROMOTED).promoted)
    tokens = " ".join(json.dumps(text.strip() or text, ensure_ascii=False) for text in promoted)
    return {"max": found["max"], "words": [context, *([el("span", {}, f"promotes {tokens}")] if tokens else [])]}


def token_rows(pieces: list[bytes], generation: "Generation", row: int, effects: "SideEffects") -> dict[str, Any]:
    """Return the tokens of an output, and the natural logarithm of each one's probability with and without steering.

    Args:
        pieces: Bytes of every token of the vocabulary.
        generation: Where the output is.
        row: Number of its row.
        effects: Side effects of that row.
    """
    from saekit.models import join_pieces

    ids = generation.ids[row][: -1 if generation.ends[row] == "eos" else None]
    n = len(ids)
    return {
        "tokens": join_pieces([pieces[token] for token in ids]),
        "logprobs": [round(value, 4) for value in effects.logprobs[:n]],
        "plain": [round(value, 4) for value in effects.logprobs_plain[:n]],
    }
