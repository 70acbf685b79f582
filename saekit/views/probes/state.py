"""What the probes view says, panel by panel: the grid in words, one cell with what it weighs, one text taken apart."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit.views._shared.contexts import context, context_items, context_rows
from saekit.views._shared.nodes import Node, el, facts, line, meter, row_of, table
from saekit.views._shared.palette import sign
from saekit.views._shared.strips import strip
from saekit.views._shared.words import merge_pieces, number, percent, sig, signed, visible
from saekit.views.probes.words import (
    FIGURE_NAMES,
    choice_words,
    interval_words,
    over_baseline_words,
    result_words,
    setting_words,
    standing_words,
    test_words,
    two,
    verdict_words,
)

if TYPE_CHECKING:
    from saekit.index import FeatureIndex
    from saekit.probes import Classified, Estimate, Grid, TextFeatures
    from saekit.views.probes.work import Fit

STRONGEST = 8  # features of a class, words of a class, features behind one decision
IN_A_STILL = 5  # of these
MOST_CLASSES = 12  # in a confusion matrix, beyond the largest confusions are listed; with tables in a still
MOST_SHADED = 8  # classes for which the tokens of a text are shaded, the strongest
CONTEXTS = 4  # of a feature, from the labelled texts

Contexts = Mapping[str, Mapping[str, Any]]  # by "site/feature"


def head(data: str) -> Node:
    """Return the title."""
    return el("h2", {}, "Probes ", el("span", {"class": "faint"}, data))


def nothing() -> Node:
    """Return what stands where the grid will be."""
    return line(
        "not computed yet; a stored cell shows the grid if it is run once ",
        el("code", {}, "view.wait(None)"),
        " is done",
    )


def said(grid: "Grid") -> Node:
    """Return the verdict, and what it rests on."""
    return el(
        "div", {}, line(verdict_words(grid), look="strong verdict"), line(choice_words(grid)), line(test_words(grid))
    )


# --- one cell -----------------------------------------------------------------------------------------------------


def card(grid: "Grid", number: int, figures: "Mapping[str, Sequence[Estimate]]", weighed: Sequence[Node]) -> Node:
    """Return a cell or baseline: its figures, how it stands, whom it takes for whom, what it weighs.

    Args:
        grid: The grid.
        number: Number of the cell or baseline.
        figures: Figures known so far, of every cell and baseline.
        weighed: What it weighs, see `weights`, or why that is not shown.
    """
    cell, over = grid.lines[number], None
    if number < len(grid.cells) and grid.best_baseline is not None:
        best = len(grid.cells) + grid.best_baseline
        over = line(over_baseline_words(grid.difference(number, best), grid.lines[best].name))
    known = [(words, interval_words(figures[name][number])) for name, words in FIGURE_NAMES.items() if name in figures]
    return el(
        "div",
        {"class": "opened"},
        el("h3", {"title": cell.name}, setting_words(cell.setting) if number < len(grid.cells) else cell.name),
        facts(*known),
        line(standing_words(grid.behind_best(number), best=number == grid.best)),
        over,
        el("div", {"class": "beside"}, _region("Confusion matrix", confusion_table(grid, number)), *weighed),
    )


def _region(name: str, *inside: Node) -> Node:
    """Return something wide that scrolls by itself, and by keys."""
    about = {"class": "table-frame", "tabindex": 0, "role": "region", "aria-label": name, "key": name}
    return el("div", about, *inside)


def confusion(grid: "Grid", number: int) -> np.ndarray:
    """Return texts in validation by true class and prediction, summed over repeats: the diagonal is the accuracy."""
    from saekit.probes import confusion_of

    rows = grid.validation_rows
    each = [confusion_of(grid.labels[rows], r.predicted[number][rows], len(grid.label_names)) for r in grid.rounds]
    return np.sum(each, axis=0)


def confusion_table(grid: "Grid", number: int) -> Node:
    """Return the confusion matrix of a cell; of many classes the largest confusions."""
    matrix, classes, repeats = confusion(grid, number), grid.label_names, len(grid.rounds)
    counted = f", each counted once in each of {repeats} repeats" if repeats > 1 else ""
    if len(classes) > MOST_CLASSES:
        rows = [
            (el("th", {"scope": "row"}, el("bdi", {}, classes[t]), " taken for ", el("bdi", {}, classes[p])), f"{n:,}")
            for t, p, n in largest_confusions(matrix)
        ]
        caption = f"largest confusions in validation, texts{counted}"
        return table([], rows, caption=caption, **{"class": "confusion"})
    body = []
    for name, counts in zip(classes, matrix.tolist(), strict=True):
        whole = max(1, sum(counts))
        cells = (el("td", {"class": "shaded right", "shade": round(n / whole, 3)}, f"{n:,}") for n in counts)
        body.append([el("th", {"scope": "row", "title": name}, el("bdi", {}, name)), *cells])
    titles = [el("td", {}), *(el("th", {"scope": "col", "title": name}, el("bdi", {}, name)) for name in classes)]
    caption = f"texts in validation by true class (rows) and prediction (columns){counted}"
    return table(titles, body, caption=caption, **{"class": "confusion"})


def largest_confusions(matrix: np.ndarray) -> list[tuple[int, int, int]]:
    """Return ``(true, predicted, count)`` of the largest entries off the diagonal, largest first."""
    off = [(t, p, int(n)) for (t, p), n in np.ndenumerate(matrix) if n and t != p]
    return sorted(off, key=lambda entry: -entry[2])[:MOST_CLASSES]


def weights(fit: "Fit", contexts: Contexts) -> list[Node]:
    """Return what a fitted cell weighs, its features or its words by class; that there is nothing to read, if so.

    Of two classes, whose signs are opposite, a still has the second alone.
    """
    classes = fit.result.label_names
    if fit.features:
        tables = [_feature_table(fit, c, contexts) for c in range(len(classes))]
    elif fit.words:
        tables = [_word_table(fit.words[name]) for name in classes]
    else:
        return [el("p", {"class": "faint", "only": "live"}, "This one has no weights to read.")]
    what = "Features" if fit.features else "Words"
    options = (el("option", {"value": str(c)}, name) for c, name in enumerate(classes))
    chooser = el("select", {"key": "class"}, *options)
    shown = []
    for c, one in enumerate(tables):
        still = c == 1 if len(classes) == 2 else c < MOST_CLASSES
        shown.append(el("div", {"data-class": str(c), "only": None if still else "live"}, one))
    return [
        el("label", {"class": "for", "only": "live"}, f"{what} for class ", chooser),
        _region("Weights", *shown),
    ]


def no_weights(readable: bool) -> list[Node]:
    """Say why it is not shown what a cell weighs: it is not fitted yet, or there is nothing to fit it on."""
    how = "Pass the features to see what a cell weighs: Probes(grid, features)."
    return [el("p", {"class": "faint", "only": "live"}, "Its weights are not read yet." if readable else how)]


def _feature_table(fit: "Fit", c: int, contexts: Contexts) -> Node:
    classes, site = fit.result.label_names, fit.result.setting["sae"]
    rows = fit.features[classes[c]]
    most = max((abs(row.effect) for row in rows), default=0.0)
    body = []
    for i, row in enumerate(rows):
        shares = f"{percent(row.share_in_class)} / {percent(row.share_in_others)}"
        effect = el("td", {"title": f"weight {sig(row.weight, 2)}"}, _amount(row.effect, most))
        first = el("td", {"class": "snippet"}, _first_context(contexts.get(f"{site}/{row.column}")))
        cells = [_feature_button(row.column, f"{c}/{row.column}"), effect, shares, first]
        body.append(row_of(cells, only="live" if i >= IN_A_STILL else None))
    explained = "weight times the standard deviation of the feature over the texts"
    titles = ["feature", el("th", {"scope": "col", "title": explained}, "effect"), "active in", "strongest context"]
    against = f", − for {classes[1 - c]}" if len(classes) == 2 else ""
    caption = f"+ for {classes[c]}{against}; active in so many texts of {classes[c]} / of the others"
    return table(titles, body, caption=caption, **{"class": "rows"})


def _word_table(rows: Sequence[tuple[str, float]]) -> Node:
    most = max((abs(weight) for _, weight in rows), default=0.0)
    body = [(el("bdi", {}, visible(word)), _amount(weight, most)) for word, weight in rows]
    return table(["word", "weight"], body, **{"class": "rows"})


def _feature_button(feature: int, key: str) -> Node:
    about = {
        "type": "button",
        "class": "feature",
        "set": ["feature", feature],
        "data-feature": str(feature),
        "key": key,
    }
    return el("button", about, f"feature {feature}")


def _amount(value: float, most: float, words: str | None = None) -> Node:
    """Return a bar whose length is a share of the largest value, beside its number, whose sign the hue repeats."""
    length = min(1.0, abs(value) / most) if most > 0 else 0.0
    return el("span", {"class": "amount"}, meter(length, sign(value)), " ", el("span", {}, words or signed(value)))


# --- contexts -----------------------------------------------------------------------------------------------------


def feature_contexts(
    feature: int, index: "FeatureIndex | None", part: "TextFeatures", site: str, model: Any
) -> dict[str, Any]:
    """Return where a feature fires: in the index where there is one, else in the labelled texts."""
    if index is not None:
        return {"source": "index", **context_rows(index, feature)}
    from saekit.probes import contexts

    found = contexts(part, feature, sae=site, k=CONTEXTS, model=model)
    rows = [[number(c.activation), c.before, c.token, c.after, c.label] for c in found]
    return {"source": "labelled texts", "dead": not rows, "rows": rows}


def _first_context(found: Mapping[str, Any] | None) -> Node:
    return context(found["rows"][0]) if found and found["rows"] else ""


def contexts_panel(found: Mapping[str, Any]) -> Node:
    """Return all contexts of a feature, what `feature_contexts` returns."""
    if not found["rows"]:
        return line("It is dead there: never active." if found["dead"] else "No contexts.", look="faint")
    return el(
        "div", {}, line(f"strongest contexts in the {found['source']}", look="faint"), context_items(found["rows"])
    )


def no_contexts(readable: bool) -> Node:
    """Say why there are no contexts of a feature: they are under way, or nothing is there to read them from."""
    how = "Contexts need an index, or the model: Probes(grid, features, model=model, sae=sae, index=index)"
    return line("Its contexts are not read yet." if readable else how, look="faint")


# --- a text -------------------------------------------------------------------------------------------------------


def outcome(fit: "Fit", found: "Classified", contexts: Contexts) -> dict[str, Any]:
    """Return a classified text: its class in words, and a panel with the part of every token for every class.

    Args:
        fit: The cell that classified it.
        found: The text, classified.
        contexts: Contexts of features, as far as they are read.
    """
    from saekit.probes import contribution_words, probabilities

    setting, classes = fit.result.setting, list(fit.result.label_names)
    chances = probabilities(setting["classifier"], found.scores)
    own, values = classes.index(found.label), found.scores if chances is None else chances
    strongest = np.argsort(-values, kind="stable")[:MOST_SHADED].tolist()
    assert fit.result.fitted is not None
    exact, intercepts = contribution_words(setting), fit.result.fitted.intercept
    shaded = []
    for c in sorted({*strongest, own}):
        note = exact
        if intercepts is not None:
            note = (
                f"Shade: part in the score of {classes[c]}; blue for it, orange against; the intercept adds "
                f"{signed(intercepts[c])}. {exact}"
            )
        parts = [_parts_strip(found.tokens, found.contributions[c].tolist(), classes[c]), line(note, look="quiet")]
        shaded.append(el("div", {"data-class": str(c), "only": None if c == own else "live"}, *parts))
    most = 1.0 if chances is not None else float(np.abs(values).max())
    buttons = []
    for c in strongest:
        about = {
            "type": "button",
            "title": "shade the tokens for this class",
            "data-shade": str(c),
            "key": f"shade {c}",
        }
        words = None if chances is None else two(chances[c])
        buttons.append(
            el("li", {}, el("button", about, el("bdi", {}, classes[c]), " ", _amount(values[c], most, words)))
        )
    words = result_words(found, None if chances is None else chances[own])
    panel = el(
        "div",
        {"class": "outcome"},
        el("ul", {"class": "classes", "aria-label": "Classes", "only": "live"}, *buttons),
        *shaded,
        el("p", {"class": "faint part", "aria-live": "polite", "only": "live"}),
        _decision(found, setting["sae"], contexts),
    )
    return {"said": words, "class": own, "panel": panel}


def _parts_strip(tokens: Sequence[str], parts: Sequence[float], name: str) -> Node:
    """Return the tokens, shaded by their parts in the score of a class; a character's pieces count together."""
    merged = merge_pieces(list(tokens), list(parts))
    starts = [first for *_, first in merged]
    summed = np.add.reduceat(np.asarray(parts), starts).tolist()
    most = max(map(abs, summed))
    marks = [
        [i, signed(value), f"to the score of {name}", round(value / most, 3), signed(value)]
        for i, value in enumerate(summed)
        if most > 0
    ]
    label = f"Tokens, by their parts in the score of {name}"
    return strip(label, [text for text, *_ in merged], [*starts, len(tokens)], marks, rest=signed(0))


def _decision(found: "Classified", site: str, contexts: Contexts) -> Node:
    """Return the features behind a decision, with what each adds to the predicted class."""
    rows = found.features[:STRONGEST]
    most = max((abs(part) for *_, part in rows), default=0.0)
    body = []
    for feature, value, part in rows:
        button = _feature_button(feature, f"decision {feature}")
        named = el("th", {"scope": "row", "title": f"pooled activation {sig(value, 2)}"}, button)
        first = el("td", {"class": "snippet"}, _first_context(contexts.get(f"{site}/{feature}")))
        body.append([named, _amount(part, most), first])
    caption = f"Features behind the decision for {found.label}"
    return _region("Features behind the decision", table([], body, caption=caption, **{"class": "rows"}))
