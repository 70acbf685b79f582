"""What the training view shows of its runs, panel by panel, and what it says of the one under way."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from saekit.views._shared.chart import Line, bar_chart, line_chart, power_of_ten, sample, short
from saekit.views._shared.nodes import Node, el, figure, line
from saekit.views._shared.words import percent, rough, sig
from saekit.views.training.runs import CURVES, LOWEST, Run, histogram, in_short

TITLES = {"loss": "Loss", "fvu": "FVU", "l0": "L0", "dead_share": "Dead features"}
ABOUT = {
    "loss": "squared error a token",
    "fvu": "variance left unexplained",
    "l0": "active features a token",
    "dead_share": "share of all",
}
_ENDS = {"done": "done", "stopped": "stopped, its result kept", "failed": "failed", "waiting": "not trained"}


def panels(runs: Sequence[Run], common: str, hidden: Collection[str], *, busy: bool) -> dict[str, Node]:
    """Return the panels of the view.

    While training is under way, figures are for the live view alone: a still would hold others at every execution.

    Args:
        runs: The runs.
        common: Options of all runs, in short.
        hidden: Names of the runs whose curves are switched off.
        busy: Training is under way.
    """
    shown = [(number, run) for number, run in enumerate(runs) if run.name not in hidden]
    drawn = not busy and any(run.last is not None for run in runs)
    curves = (_curve(curve, row, shown) for row, curve in enumerate(CURVES, start=1))
    title = el(
        "div", {"class": "title"}, el("h2", {}, "Training"), el("span", {"class": "stands"}, *_state(runs, busy))
    )
    about = line(f"all runs: {common}", look="faint") if common else None
    return {
        "head": el("div", {}, title, about),
        "curves": el("div", {"class": "panels beside", "only": None if drawn else "live"}, *curves),
        "values": _table(runs, busy),
    }


def _state(runs: Sequence[Run], busy: bool) -> list[Node]:
    if busy:
        wait = el("code", {}, "view.wait(None)")
        return ["under way; ", wait, ", then show the view again for the finished curves"]
    if all(run.state == "waiting" for run in runs):
        return ["not started: press Start in the live view, or call ", el("code", {}, "view.start()")]
    counts = {state: sum(run.state == state for run in runs) for state in _ENDS}
    words = ", ".join(f"{n} {_named(state)}" for state, n in counts.items() if n)
    return [f"{words} of {len(runs)}"]


def _named(state: str) -> str:
    return _ENDS["waiting"] if state == "waiting" else state


def _curve(curve: str, row: int, shown: Sequence[tuple[int, Run]]) -> Node:
    lines = [Line(run.name, number, points[0], points[row]) for number, run in shown for points in [run.curves()]]
    said = "; ".join(
        f"{run.name} {_value(curve, getattr(run.last, curve))} after {run.last.samples:,} samples"
        for _, run in shown
        if run.last is not None
    )
    share = curve == "dead_share"
    chart = line_chart(
        lines,
        f"{TITLES[curve]}: {said or 'nothing yet'}",
        linear=share,
        ticks_as=percent if share else short,
        x_high=max((run.all_samples for _, run in shown if run.state == "training"), default=0),
    )
    about = el("span", {"class": "faint", "only": "live"}, f" {ABOUT[curve]}")
    return figure(el("span", {}, TITLES[curve], about), chart)


def _value(curve: str, value: float) -> str:
    return percent(value) if curve == "dead_share" else sig(value)


def _table(runs: Sequence[Run], busy: bool) -> Node:
    """Return the last values: of those whose last digit depends on the processor, a still has two digits."""
    live = {"only": "live" if busy else None}
    titles = (
        *(el("th", {"scope": "col", "class": "quiet as-text"}, title) for title in ("run", "settings")),
        el("th", {"scope": "col", "class": "quiet as-text", **live}, "state"),
        *(el("th", {"scope": "col", "class": "quiet", **live}, title) for title in ("samples", *TITLES.values())),
    )
    rows = []
    for number, run in enumerate(runs):
        name = el("b", {}, el("bdi", {}, run.name))
        rows.append(
            el(
                "tr",
                {},
                el("th", {"scope": "row", "class": "nowrap as-text"}, sample(number), " ", name),
                el("td", {"class": "as-text"}, in_short(run.own) or "–"),
                el("td", {"class": "as-text", **live}, _named(run.state)),
                el("td", live, f"{run.last.samples:,}" if run.last else "–"),
                *(_cell(curve, run, live) for curve in CURVES),
            )
        )
        if run.error:
            rows.append(el("tr", live, el("td", {"class": "as-text", "colspan": len(titles)}, run.error)))
    caption = el("caption", {"only": "live"}, "Last values")
    return el("table", {"class": "values"}, caption, el("thead", {}, el("tr", {}, *titles)), el("tbody", {}, *rows))


def _cell(curve: str, run: Run, live: dict[str, Any]) -> Node:
    if run.last is None:
        return el("td", live, "–")
    value = getattr(run.last, curve)
    return el("td", {"rough": None if curve == "dead_share" else rough(value), **live}, _value(curve, value))


def legend(runs: Sequence[Run]) -> list[Node]:
    """Return one button for each run, which switches its curves."""
    return [
        el(
            "button",
            {"type": "button", "data-run": run.name, "title": ": ".join(filter(None, (run.name, in_short(run.own))))},
            sample(number),
            el("span", {}, el("bdi", {}, run.name)),
        )
        for number, run in enumerate(runs)
    ]


def density(run: Run, number: int) -> Node:
    """Return how often the features of a run fire, as bars."""
    if run.last is None:
        return line("how often each feature fires: nothing yet", look="faint")
    found = histogram(run.last.density)
    ticks = [(i / -LOWEST, power_of_ten(LOWEST + i) if LOWEST + i else "1") for i in (0, 2, 4, 6)]
    return bar_chart(
        found["counts"],
        _density_words(run.name, found),
        apart=(found["never"], "never"),
        number=number,
        ticks=ticks,
        x_label="share of tokens on which a feature fired",
    )


def _density_words(name: str, found: dict[str, Any]) -> str:
    counts = found["counts"]
    said = f"{name}: {found['never']:,} of {found['features']:,} features fired on none of the last tokens"
    if not (most := max(counts)):
        return said
    at = counts.index(most)
    low, high = (f"{sig(100 * 10 ** (LOWEST * (1 - i / len(counts))), 2)} %" for i in (at, at + 1))
    return f"{said}; most often, {most:,} of them, on {low} to {high} of the tokens"


def progress(runs: Sequence[Run], rate: float, *, busy: bool, stopping: bool) -> dict[str, Any]:
    """Return how training is getting on.

    Args:
        runs: The runs.
        rate: Samples a second of the run under way; 0 where it is not known.
        busy: Training is under way.
        stopping: It is to end at the next report.

    Returns:
        ``action`` and ``press``, what the button says and which trait it counts up; ``share`` of all training that is
        done; ``words``; ``states`` of all runs, and their figures as they are ``spoken`` to a screen reader.
    """
    action, press = _next_action(runs, busy, stopping)
    parts = (run.last.samples / run.all_samples for run in runs if run.state == "training" and run.last is not None)
    spoken = (
        f"{run.name} {run.state}, FVU {rough(run.last.fvu)}, L0 {rough(run.last.l0)}"
        for run in runs
        if run.last is not None and run.state != "waiting"
    )
    return {
        "action": action,
        "press": press,
        "share": round((sum(run.state == "done" for run in runs) + sum(parts)) / len(runs), 3),
        "words": _pace(runs, rate) if busy else _summary(runs),
        "states": ",".join(run.state for run in runs),
        "spoken": "; ".join(spoken),
    }


def _next_action(runs: Sequence[Run], busy: bool, stopping: bool) -> tuple[str, str]:
    if busy:
        return ("Stopping …", "") if stopping else ("Stop", "_stops")
    if waiting := sum(run.state == "waiting" for run in runs):
        rest = "run" if waiting == 1 else f"{waiting} runs"
        return "Start" if waiting == len(runs) else f"Start the other {rest}", "_starts"
    again = [run.name for run in runs if run.state in ("stopped", "failed")]
    if not again:
        return "Done", ""
    return f"Train again: {again[0]}" if len(again) == 1 < len(runs) else "Train again", "_starts"


def _pace(runs: Sequence[Run], rate: float) -> str:
    at = next((i for i, run in enumerate(runs) if run.state == "training"), None)
    if at is None:
        return ""
    run = runs[at]
    words = [f"run {at + 1} of {len(runs)}: {run.name}" if len(runs) > 1 else run.name]
    words.append("preparing" if run.last is None else f"{run.last.samples:,} of {run.all_samples:,} samples")
    if rate and run.last is not None:
        words.append(f"{rough(rate)} samples/s")
        words.append(f"{duration((run.all_samples - run.last.samples) / rate)} left")
    return " · ".join(words)


def _summary(runs: Sequence[Run]) -> str:
    if all(run.state == "waiting" for run in runs):
        return f"{len(runs)} run{'s' if len(runs) > 1 else ''} to train"
    if all(run.state == "done" for run in runs):
        return ""  # the head says it
    counts = {words: sum(run.state == state for run in runs) for state, words in _ENDS.items()}
    return " · ".join(f"{count} {words}" for words, count in counts.items() if count)


def duration(seconds: float) -> str:
    """Write a time as people say it.

    >>> [duration(s) for s in (0.2, 61, 119.7, 7262)]
    ['1 s', '1 min 1 s', '2 min 0 s', '2 h 1 min']
    """
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = math.floor(whole / 60 + 0.5)
    return f"{minutes // 60} h {minutes % 60} min"
