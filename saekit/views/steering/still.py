"""The steering view as static HTML: texts with shaded tokens, side effects and the sweep. No script, no stylesheet.

Figures have two digits, which most processors agree on; the charts are left out when stored notebooks are compared.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from saekit.views._shared.chart_still import Line, line_chart
from saekit.views._shared.words import escape, merge_pieces, percent, rough, visible
from saekit.views.steering.setting import setting_words
from saekit.views.steering.state import EFFECTS, STEERED

BLUE, ORANGE = "0,120,186", "213,94,0"
FULL = 4.0  # a token e^4 = 55 times as likely, or as unlikely, has the full shade
NAMES = {
    "kl": "KL on neutral text, nats",
    "perplexity": "perplexity, unsteered reader",
    "repetition": "repeated runs of 3 tokens",
    "feature_share": "tokens with the feature on",
    "concept_share": "words about the concept",
    "edit_norm": "edit / residual",
}
SHARES = ("repetition", "feature_share", "concept_share", "concept_hit", "fluency")
PANELS = (
    ("fluency", "Fluency"),
    ("concept_hit", "Concept in the text"),
    ("kl", "KL on neutral text"),
    ("perplexity", "Perplexity"),
)
FLUENCY_WORDS = (
    "Fluency: perplexity of the unsteered text over that of this one, less what it repeats; "
    "dotted: where it falls below one half."
)
_QUIET = "opacity:.75"
_CELL = "padding:.1em .9em .1em 0;text-align:left;font-weight:400;vertical-align:top"


def steering_html(state: Mapping[str, Any]) -> str:
    """Return the view as one ``<div>``."""
    setting = state["ran"] or state["setting"]
    head = (
        '<p style="margin:.2em 0;font-size:1.15em"><strong>Steering</strong></p>'
        f'<p style="margin:0;{_QUIET}">{escape(state["facts"]["model"])} · {escape(setting["hook_name"])}</p>'
        f'<p style="margin:.3em 0">prompt: <q style="white-space:pre-wrap">{escape(setting["prompt"])}</q><br>'
        f"{escape(setting_words(setting))} · {escape(how_words(setting))}</p>"
    )
    body = _texts(state) + _effects(state) if state["columns"] else f'<p style="{_QUIET}">not run yet</p>'
    return (
        f'<div style="max-width:68em;line-height:1.5;font-variant-numeric:tabular-nums">'
        f"{head}{body}{_sweep(state['sweep'])}</div>"
    )


def how_words(setting: Mapping[str, Any]) -> str:
    """Say how tokens are chosen."""
    chosen = f"sampled at {setting['temperature']:g}, seed {setting['seed']}" if setting["temperature"] else "greedy"
    return f"{chosen}, up to {setting['max_new_tokens']} tokens"


def change_words(change: float) -> str:
    """Say how much likelier steering made a token, as coarsely as its shade: the figures are in the live view.

    >>> [change_words(change) for change in (0.1, 2.0, -2.0, 9.0)]
    ['', 'about 7 times as likely', 'about 7 times less likely', 'at least 55 times as likely']
    """
    times = ("", "about 2", "about 4", "about 7", "about 14", "about 28", "at least 55")[round(10 * _shade(change))]
    return times and f"{times} times {'as' if change > 0 else 'less'} likely"


def _shade(change: float) -> float:
    """Return the shade of a token, 0 to 0.6 in steps: rounding noise of another processor must not change the bytes."""
    return round(0.6 * min(1.0, abs(change) / FULL), 1)


def effect_words(name: str, value: float | None) -> str:
    """Write a side effect with two digits."""
    if value is None:
        return "–"
    return percent(value) if name in SHARES else rough(value)


def _texts(state: Mapping[str, Any]) -> str:
    parts = []
    for column in state["columns"]:
        key = column["key"]
        text, read = state["texts"][key], state["read"].get(key)
        shown = _shaded(read) if read and not text["end"] == "stopped" else escape(text["text"])
        ended = {"eos": "", "length": " …", "context": " … (the context is full)", "stopped": " … (stopped)"}
        parts.append(
            f'<div style="flex:1 1 17em;min-width:0"><p style="margin:.6em 0 0"><b>{escape(column["title"])}</b> '
            f'<span style="{_QUIET}">{escape(column["note"] if key != STEERED else "")}</span></p>'
            f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere">{shown}'
            f"{ended.get(text['end'], ' …')}</div></div>"
        )
    key = (
        f'<p style="margin:.4em 0;{_QUIET}">shade: how much steering changed a token’s probability, '
        f'<span style="background:rgba({BLUE},.45)">more likely</span>, '
        f'<span style="background:rgba({ORANGE},.45)">less likely</span>; point at a token to read it</p>'
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 2em">{"".join(parts)}</div>{key}'


def _shaded(read: Mapping[str, Any]) -> str:
    changes = [after - before for after, before in zip(read["logprobs"], read["plain"], strict=True)]
    parts = []
    for text, _, first in merge_pieces(read["tokens"], changes):
        change, shown = changes[first], escape(text)
        if words := change_words(change):
            title = escape(f"{visible(text)}  {words}")
            colour = BLUE if change > 0 else ORANGE
            shown = f'<span title="{title}" style="background:rgba({colour},{_shade(change)})">{shown}</span>'
        parts.append(shown)
    return "".join(parts)


def _effects(state: Mapping[str, Any]) -> str:
    columns = [column for column in state["columns"] if column["key"] in state["read"]]
    if not columns:
        return ""
    effects = {column["key"]: state["read"][column["key"]]["effects"] for column in columns}
    head = "".join(f'<th scope="col" style="{_CELL};{_QUIET}">{escape(column["title"])}</th>' for column in columns)
    rows = []
    for name in EFFECTS:
        if all(one[name] is None for one in effects.values()):
            continue
        cells = "".join(f'<td style="{_CELL}">{effect_words(name, one[name])}</td>' for one in effects.values())
        rows.append(f'<tr><th scope="row" style="{_CELL}">{NAMES[name]}</th>{cells}</tr>')
    return (
        f'<table style="border-collapse:collapse"><thead><tr><th style="{_CELL};{_QUIET}">side effects</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _sweep(sweep: Mapping[str, Any]) -> str:
    if not sweep or not sweep["lines"]:
        return ""
    charts = [_chart(sweep, name, title) for name, title in PANELS]
    rows = "".join(
        f'<tr><td style="{_CELL}">{strength_words(point["strength"], sweep)}</td>'
        f'<td style="{_CELL}">{effect_words("fluency", point["fluency"])}</td>'
        f'<td style="{_CELL};white-space:pre-wrap">{escape(point["text"])}</td></tr>'
        for line in sweep["lines"][:1]
        for point in line["points"]
    )
    head = "".join(f'<th scope="col" style="{_CELL};{_QUIET}">{name}</th>' for name in ("strength", "fluency", "text"))
    skipped = "".join(
        f'<p style="margin:0;{_QUIET}">not run: {escape(k)} ({escape(v)})</p>' for k, v in sweep["skipped"].items()
    )
    return (
        f'<p style="margin:.9em 0 0"><b>Strength sweep</b> <span style="{_QUIET}">{escape(sweep["words"])}</span></p>'
        f'<p style="margin:0">{breaks_words(sweep)} '
        f'<span style="{_QUIET}">{FLUENCY_WORDS} {asked_words(sweep)}</span></p>'
        f'<div style="display:flex;flex-wrap:wrap;gap:.6em 1.5em">{"".join(charts)}</div>'
        f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{skipped}'
    )


def strength_words(factor: float, sweep: Mapping[str, Any]) -> str:
    """Write a strength of a sweep: of a single feature its own, else the multiple of what is set."""
    if factor == 0:
        return "off"
    return f"{factor:g} ×" if sweep["value"] is None else f"{factor * sweep['value']:.3g}".replace("-", "−")


def breaks_words(sweep: Mapping[str, Any]) -> str:
    """Say where fluency breaks."""
    at = sweep["breaks_at"]
    if at is None:
        return "Fluency stays above one half at every strength tried."
    return f"Fluency falls below one half at strength {strength_words(at, sweep)}."


def asked_words(sweep: Mapping[str, Any]) -> str:
    """Say how the baseline that asks for the concept does, which has no strength; "" where it did not run."""
    found = sweep["prompt"]
    if not found:
        return ""
    concept, fluency = (effect_words(name, found[name]) for name in ("concept_hit", "fluency"))
    return f"Asked for in the prompt instead: concept in the text {concept}, fluency {fluency}."


def _chart(sweep: Mapping[str, Any], name: str, title: str) -> str:
    lines, said = [], []
    scale = 1.0 if sweep["value"] is None else abs(sweep["value"])
    for number, line in enumerate(sweep["lines"]):
        known = [(p["strength"] * scale, p[name]) for p in line["points"] if p[name] is not None]
        xs, ys = np.array(known, dtype=float).reshape(-1, 2).T
        lines.append(Line(line["name"], number, xs, ys))
        said.append(f"{line['name']} {', '.join(f'{effect_words(name, y)} at {x:.3g}' for x, y in known)}")
    mark = None if sweep["breaks_at"] is None else sweep["breaks_at"] * scale
    linear = name in SHARES
    return line_chart(
        title, lines, f"{title} by strength: {'; '.join(said)}", linear=linear, x_label="strength", mark=mark
    )
