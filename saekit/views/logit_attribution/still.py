"""The logit attribution view as static HTML: predictions, sorted bars with a running total, the picture. No script.

Layout and words are those of `widgets/logit_attribution/data.js`. The drawn ``<svg data-saekit="picture">`` are left
out when stored notebooks are compared (`notebooks/nbval.cfg`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saekit.views._shared.contexts import short_hook, spaced
from saekit.views._shared.words import escape, percent, signed, visible

BLUE, ORANGE = "0,120,186", "213,94,0"
_QUIET = "opacity:.75"
_CELL = "padding:.05em .9em .05em 0;text-align:left;font-weight:400"
_CODE = "font-family:ui-monospace,monospace"
_LABEL, _BARS, _ROW = 230, 240, 20  # of the bars: width of names, of the bars themselves, height of a row
_NAME, _COLUMN = 96, 46  # of the picture: width of names and of a token
_LETTERS = 6  # of a token above its column
_CONTEXTS = 6  # features with a context


def repr_words(shown: Mapping[str, Any]) -> str:
    """Return the view in one line."""
    if not shown:
        return "LogitAttribution(not computed yet)"
    top = next((row for row in shown["bars"] if row["kind"] == "feature"), None)
    strongest = f", strongest {bar_name(row=top)}: {top['effect']:+.2f}" if top else ""
    return (
        f"LogitAttribution({reading_name(shown)} = {shown['reading']:+.2f}, {shown['method']} at "
        f"{shown['asked']['hook']}{strongest})"
    )


def reading_name(shown: Mapping[str, Any]) -> str:
    """Name what is read: ``' Mary' - ' John'``."""
    asked = shown["asked"]
    return repr(asked["answer"]) + (f" - {asked['foil']!r}" if asked["foil"] else "")


def visible_reading(asked: Mapping[str, Any]) -> str:
    """Name what is read for the eye: ``·Mary − ·John``."""
    return visible(asked["answer"]) + (f" − {visible(asked['foil'])}" if asked["foil"] else "")


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


def agreement_words(method: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how well the methods computed so far agree."""
    said = []
    for row in rows:
        if row["correlation"] is None:
            said.append(f"{row['method']}: {row['items']} shared items, too flat to compare")
        else:
            correlation = f"{row['correlation']:.2f}".replace("-", "−")
            share = percent(row["same_sign"])
            said.append(f"{row['method']}: r = {correlation}, {share} of the effect with the same sign")
    return f"Agreement of {method} with {'; '.join(said)}." if said else ""


def baseline_words(asked: Mapping[str, Any], method: str) -> str:
    """Say what the effects are measured against."""
    if method == "direct":
        return "what each feature writes towards the answer, through the final norm with its scale frozen"
    return {
        "zero": "against all features at zero",
        "mean": "against their means over the prompt",
        "corrupted": f"against “{asked['corrupted']}”",
    }[asked["baseline"]]


def attribution_html(
    shown: Mapping[str, Any],
    outcome: Mapping[str, Any],
    agreement: Sequence[Mapping[str, Any]],
    contexts: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> str:
    """Return the view as one ``<div>``."""
    head = f'<p style="margin:.2em 0;font-size:1.15em"><strong>Logit attribution</strong> {escape(facts["model"])}'
    if not shown:
        body = f"{head}</p><p>not computed yet: show the view again once <code>view.wait()</code> is done</p>"
        return f'<div style="max-width:76em;line-height:1.5">{body}</div>'
    asked, method = shown["asked"], shown["method"]
    parts = [
        f"{head} · {escape(asked['hook'])}</p>",
        f'<p style="margin:0;{_CODE}">{escape(spaced(asked["prompt"]))}</p>',
        _predictions(outcome),
        f'<p style="margin:.8em 0 0"><b>{escape(visible_reading(asked))} = {signed(shown["reading"])}</b> '
        f'<span style="{_QUIET}">logits, {method}: {escape(baseline_words(asked, method))}</span></p>',
        _bars(shown),
        f'<p style="margin:0">{escape(shown["check"])} {escape(agreement_words(method, agreement))}</p>',
        _picture(shown),
        _contexts(shown, contexts),
    ]
    return f'<div style="max-width:76em;line-height:1.5;font-variant-numeric:tabular-nums">{"".join(parts)}</div>'


def _predictions(outcome: Mapping[str, Any]) -> str:
    rows = outcome.get("rows", [])
    n = len(outcome.get("ablated", []))
    titles = ["says next", "probability"]
    if n:
        titles += [f"{n} ablated", *([f"{n} random ablated"] if outcome["control"] else [])]
    lines = []
    for row in rows:
        role = f' <span style="{_QUIET}">{row["role"]}</span>' if row["role"] else ""
        cells = [row["probability"]] + [row[key] for key in ("ablated", "control") if row[key] is not None]
        shown = "".join(f'<td style="{_CELL}">{percent(value)}</td>' for value in cells)
        token = f'<span style="{_CODE}">{escape(visible(row["text"]))}</span>'
        lines.append(f'<tr><th scope="row" style="{_CELL}">{token}{role}</th>{shown}</tr>')
    head = "".join(f'<th scope="col" style="{_CELL};{_QUIET}">{title}</th>' for title in titles)
    ticked = ""
    if n:
        features = ", ".join(map(str, outcome["ablated"]))
        against = f" ({outcome['kl_control']:.2f} with random ones)" if outcome["control"] else ""
        ticked = (
            f'<p style="margin:0;{_QUIET}">ablated at every token, error kept: {features} · KL '
            f"{outcome['kl']:.2f} nats{against}</p>"
        )
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<table style="border-collapse:collapse;font-size:1em;margin-top:.4em">{table}</table>{ticked}'


def _bars(shown: Mapping[str, Any]) -> str:
    rows = shown["bars"]
    low = min(0.0, *(row["effect"] for row in rows))
    high = max(0.0, *(row["effect"] for row in rows))
    scale = _BARS / ((high - low) or 1.0)
    zero = _LABEL - low * scale
    right = _LABEL + _BARS
    parts = [
        f'<text x="{right + 60}" y="12" text-anchor="end" opacity=".75">logits</text>'
        f'<text x="{right + 140}" y="12" text-anchor="end" opacity=".75">running total</text>'
    ]
    for i, row in enumerate(rows):
        y = 18 + i * _ROW
        width = abs(row["effect"]) * scale
        x = zero if row["effect"] >= 0 else zero - width
        fill = f"rgba({_hue(row['effect'])},{'.75' if row['kind'] == 'feature' else '.35'})"
        parts.append(
            f'<text x="{_LABEL - 10}" y="{y + 13}" text-anchor="end">{escape(bar_name(row))}</text>'
            f'<rect x="{x:.1f}" y="{y + 3}" width="{max(width, 0.5):.1f}" height="13" fill="{fill}"/>'
            f'<text x="{right + 60}" y="{y + 13}" text-anchor="end">{signed(row["effect"])}</text>'
            f'<text x="{right + 140}" y="{y + 13}" text-anchor="end">{signed(row["running"])}</text>'
        )
    height = 20 + len(rows) * _ROW
    parts.append(f'<path d="M{zero:.1f} 16V{height}" stroke="currentColor" stroke-opacity=".5"/>')
    words = f"{len(rows)} bars, strongest first: {'; '.join(_spoken(row) for row in rows[:6])}"
    return _svg(parts, right + 146, height, words)


def _spoken(row: Mapping[str, Any]) -> str:
    return f"{bar_name(row)} {signed(row['effect'])}"


def _picture(shown: Mapping[str, Any]) -> str:
    tokens, left = shown["tokens"], set(shown["left"])
    values = np.frombuffer(shown["picture"], "<f4").reshape(-1, len(tokens))
    scale = max((abs(row["effect"]) for row in shown["bars"] if row["kind"] == "feature"), default=0.0)
    names = [*(str(feature) for feature in shown["features"]), "error"]
    parts = [f'<text x="{_NAME - 10}" y="14" text-anchor="end" opacity=".75">feature</text>']
    for column, token in enumerate(tokens):
        x = _NAME + (column + 0.5) * _COLUMN
        weight = "700" if column == len(tokens) - 1 else "400"
        name = visible(token)
        name = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        parts.append(
            f'<text x="{x:g}" y="14" text-anchor="middle" font-family="ui-monospace,monospace" '
            f'font-weight="{weight}">{escape(name)}</text>'
        )
    for row, name in enumerate(names):
        y = 22 + row * _ROW
        parts.append(f'<text x="{_NAME - 10}" y="{y + 14}" text-anchor="end">{name}</text>')
        for column, value in enumerate(values[row]):
            shade = min(1.0, abs(float(value)) / scale) if scale and column not in left else 0.0
            x = _NAME + column * _COLUMN
            if shade >= 0.02:
                parts.append(
                    f'<rect x="{x + 1}" y="{y + 1}" width="{_COLUMN - 2}" height="{_ROW - 2}" rx="2" '
                    f'fill="rgba({_hue(value)},{0.08 + 0.55 * shade:.2f})"/>'
                    f'<text x="{x + _COLUMN / 2:g}" y="{y + 14}" text-anchor="middle">{signed(float(value))}</text>'
                )
    width, height = _NAME + len(tokens) * _COLUMN, 26 + len(names) * _ROW
    said = picture_words(shown["method"])
    words = f"Effects of {len(names) - 1} features and the error at {len(tokens)} tokens; {said}"
    note = f'<p style="margin:.8em 0 0;{_QUIET}">{escape(said)}</p>'
    return f'{note}<div style="overflow-x:auto">{_svg(parts, width, height, words, fixed=True)}</div>'


def picture_words(method: str) -> str:
    """Say what the picture's cells are."""
    if method == "direct":
        return (
            "Strongest features at every token, in logits towards each token's own prediction; the last one's is "
            "explained above."
        )
    return "Strongest features at every token, in logits: what each does there to the last token's prediction."


def _contexts(shown: Mapping[str, Any], contexts: Mapping[str, Any]) -> str:
    lines = []
    for feature in shown["features"][:_CONTEXTS]:
        found = contexts.get(f"{shown['asked']['hook']}/{feature}")
        if found and found["rows"]:
            _, before, peak, after = found["rows"][0]
            mark = f'<mark style="color:inherit;background:rgba({BLUE},.3)">{escape(visible(peak))}</mark>'
            text = f'<bdi style="{_CODE}">{escape(spaced(before))}{mark}{escape(spaced(after))}</bdi>'
            lines.append(f"<div><b>{feature}</b> {text}</div>")
    if not lines:
        return ""
    where = escape(short_hook(shown["asked"]["hook"]))
    return f'<p style="margin:.8em 0 0;{_QUIET}">Strongest contexts of features of {where}</p>{"".join(lines)}'


def _svg(parts: Sequence[str], width: float, height: float, words: str, *, fixed: bool = False) -> str:
    limit = "" if fixed else "max-width:100%;"
    return (
        f'<svg data-saekit="picture" role="img" aria-label="{escape(words)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" style="{limit}display:block;margin:.4em 0;font-size:11.5px" fill="currentColor">'
        f"{''.join(parts)}</svg>"
    )


def _hue(value: float) -> str:
    return BLUE if value >= 0 else ORANGE
