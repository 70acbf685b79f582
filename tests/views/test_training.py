"""The training view in Python: traits, what it refuses, Start and Stop, what is sent, the real trainer. No browser."""

import json
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import traitlets

from saekit.errors import SAEError
from saekit.views import training as views
from saekit.views._shared.chart import LINES
from saekit.views.training import Training
from saekit.views.training.runs import BINS, MOST_POINTS, histogram, in_short, thinned
from saekit.views.training.state import duration
from tests.views.fake_trainer import FakeTrainer, record
from tests.views.panels import elements, text

RUNS = {"TopK": {"k": 8}, "L1": {"architecture": "standard", "sparsity_coefficient": 2.0}}


def training(runs=RUNS, train=None, **options):
    return Training(None, runs, train=train or FakeTrainer(), **{"d_sae": 64, **options})


def until(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail("waited 10 s in vain")


def table_of(view):
    """Return the rows of the last values, each cell as text."""
    rows = elements(elements(view.state()["values"], "tbody")[0], "tr")
    return [[text(cell) for cell in row[2:]] for row in rows]


def states(view):
    """Return the state of every run, as the view shows it."""
    return [row[2] for row in table_of(view) if len(row) > 1]


def says(view):
    """Return what the button says, and what the line beside it."""
    return view._progress["action"], view._progress["words"]


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "got no run to train"),
        ({"": {}}, "must be a text that is not blank, not ''"),
        ({"  ": {}}, "must be a text that is not blank"),
        ({3: {}}, "must be a text that is not blank, not 3"),
        ({"a": 3}, "run 'a' needs its options as a dict"),
        ([("a", {}), ("a ", {})], "two runs are called 'a'"),
        ({"a": {"kk": 3}}, "run 'a' has the option 'kk', which the trainer does not take: did you mean 'k'?"),
        ({"a": {"zebra": 3}}, "'zebra', which the trainer does not take: it takes architecture, d_sae, k"),
        ({"a": {"on_step": print}}, "run 'a' has the option 'on_step', with which the view itself listens"),
    ],
)
def test_runs_that_cannot_be_trained_are_refused_at_once(runs, message):
    with pytest.raises(SAEError) as caught:
        training(runs)
    assert message in str(caught.value)


def test_an_option_that_the_trainer_needs_is_missed_at_once():
    with pytest.raises(SAEError, match="run 'a' lacks d_sae: give it in the run's options, or as a keyword to all"):
        Training(None, {"a": {}}, train=FakeTrainer())
    with pytest.raises(SAEError, match="run 'a' lacks d_sae"):
        Training(torch.zeros(4, 3), {"a": {"k": 2}})


def test_a_misspelt_option_of_the_real_trainer_is_named():
    with pytest.raises(SAEError, match="'batchsize', which the trainer does not take: did you mean 'batch_size'"):
        Training(torch.zeros(4, 3), {"a": {"k": 2}}, d_sae=8, batchsize=2)


def test_value_and_hidden_are_names_of_runs():
    view = training()
    assert view.value == "TopK"
    view.value, view.hidden = "L1", ["TopK"]
    with pytest.raises(traitlets.TraitError, match="there is no run 'Gated': the runs are 'TopK', 'L1'"):
        view.value = "Gated"
    with pytest.raises(traitlets.TraitError, match="there is no run 'Gated'"):
        view.hidden = ["Gated"]
    with pytest.raises(SAEError, match="there is no run 'Gated'"):
        view.start("Gated")
    assert (view.value, view.hidden) == ("L1", ["TopK"])


# --- training ----------------------------------------------------------------------------------------------------


def test_runs_learn_one_after_another_in_one_thread_that_is_not_this_one():
    trainer = FakeTrainer()
    view = training(train=trainer, sparsity_coefficient=1.0)
    assert trainer.calls == [], "nothing happens before Start"
    view.start()
    assert view.busy
    assert view.wait(None)
    assert trainer.calls == [("topk", 8, 1.0), ("standard", None, 2.0)], "a run's own option wins"
    assert len(trainer.threads) == 1
    assert threading.current_thread() not in trainer.threads
    assert view.saes == {"TopK": "topk after 40 steps", "L1": "standard after 40 steps"}
    assert not view.busy


def test_autostart_and_the_buttons_do_what_the_methods_do():
    view = training(autostart=True)
    assert view.wait(None)
    assert list(view.saes) == ["TopK", "L1"]
    trainer = FakeTrainer(gated=True)
    view = training(train=trainer)
    view.set_state({"_starts": 1})
    trainer.allow(2)
    until(lambda: len(view.history["TopK"]) == 2)
    view.set_state({"_stops": 1})
    assert view._stopping
    trainer.allow()
    assert view.wait(None)
    assert view.saes == {"TopK": "topk after 3 steps"}


def test_history_holds_every_record_and_the_densities_of_the_last():
    view = training(autostart=True)
    view.wait(None)
    history = view.history["TopK"]
    assert isinstance(history, tuple)
    assert [p.step for p in history] == list(range(1, 41))
    assert history[-1].fvu == record(40, 40).fvu
    assert torch.equal(history[-1].density, record(40, 40).density)
    assert {len(p.density) for p in history[:-1]} == {0}, "a long training must not fill the memory with densities"


def test_stop_keeps_the_result_and_start_goes_on_with_the_rest():
    trainer = FakeTrainer(gated=True)
    view = training(train=trainer, autostart=True)
    trainer.allow(5)
    until(lambda: len(view.history["TopK"]) == 5)
    view.stop()
    assert view._stopping
    assert view.busy, "the run ends at its next report"
    trainer.allow()
    assert view.wait(None)
    assert (view.busy, view._stopping) == (False, False)
    assert states(view) == ["stopped", "not trained"]
    assert view.saes == {"TopK": "topk after 6 steps"}
    assert len(view.history["TopK"]) == 6, "the record at which it stopped belongs to the result"

    trainer.allow(40)
    view.start()
    view.wait(None)
    assert states(view) == ["stopped", "done"]
    assert view.saes["TopK"] == "topk after 6 steps"

    trainer.allow(40)
    view.start()
    view.wait(None)
    assert states(view) == ["done", "done"]
    assert len(view.history["TopK"]) == 40, "trained again means from the beginning"
    view.start()
    assert not view.busy, "nothing is left to train"
    assert [call[0] for call in trainer.calls] == ["topk", "standard", "topk"]

    trainer.allow(40)
    view.start("L1")
    view.wait(None)
    assert trainer.calls[-1][0] == "standard", "a run that is named is trained again whatever its state"


def test_a_second_start_and_an_early_stop_do_nothing():
    trainer = FakeTrainer(gated=True)
    view = training(train=trainer)
    view.stop()
    view.start()
    view.start("L1")
    trainer.allow(80)
    view.wait(None)
    assert [call[0] for call in trainer.calls] == ["topk", "standard"]


def test_stop_in_the_last_report_is_too_late_for_that_run():
    view = training(steps=3)
    view.observe(lambda change: view.stop() if len(view.history["TopK"]) == 3 else None, names="_panels")
    views_every, views.EVERY_SECONDS = views.EVERY_SECONDS, 0
    try:
        view.start()
        view.wait(None)
    finally:
        views.EVERY_SECONDS = views_every
    assert states(view) == ["done", "not trained"]


def test_a_run_that_fails_says_why_and_the_others_go_on():
    view = training({"bad": {"k": 0}, **RUNS}, autostart=True)
    view.wait(None)
    assert view.error == "bad: k must be between 1 and 63, not 0"
    assert states(view) == ["failed", "done", "done"]
    assert list(view.saes) == ["TopK", "L1"]
    view.start()
    view.wait(None)
    assert view.error == "bad: k must be between 1 and 63, not 0", "trained again, it fails again"


def test_a_trainer_that_is_interrupted_without_a_result_leaves_its_curves():
    def trainer(activations, *, on_step):
        for step in range(1, 100):
            on_step(record(step, 100))
            time.sleep(0.01)

    view = Training(None, {"mine": {}}, train=trainer, autostart=True)
    until(lambda: len(view.history["mine"]) > 2)
    view.stop()
    view.wait(None)
    assert states(view)[0] == "stopped"
    assert view.saes == {}
    assert view.error == ""


def test_an_error_of_another_kind_is_told_with_its_type():
    def trainer(activations, **options):
        raise RuntimeError("out of luck")

    view = Training(None, {"mine": {"anything": 1}}, train=trainer, autostart=True)
    view.wait(None)
    assert view.error == "mine: RuntimeError: out of luck"


def test_closing_the_view_stops_training_and_keeps_what_there_is():
    trainer = FakeTrainer(gated=True)
    view = training(train=trainer, autostart=True)
    trainer.allow(3)
    until(lambda: len(view.history["TopK"]) == 3)
    view.close()
    trainer.allow()
    assert view.wait(None)
    assert view.saes == {"TopK": "topk after 4 steps"}
    assert len(trainer.calls) == 1
    view.close()


def test_showing_the_view_does_not_wait_for_the_end_of_training():
    trainer = FakeTrainer(gated=True)
    view = training(train=trainer, autostart=True)
    data, _ = view._repr_mimebundle_()
    page = view.to_html()
    assert view.busy
    assert data["text/plain"] == "Training(TopK, L1: training)"
    assert "view.wait(None)" in data["text/html"]
    assert "<script" in page
    view.stop()
    trainer.allow()
    view.wait(None)


# --- what is sent ------------------------------------------------------------------------------------------------


def test_messages_are_few_and_small_however_fast_the_steps(monkeypatch):
    view = training({"TopK": {"k": 8}}, train=FakeTrainer(), steps=5000)
    sent = []
    view.comm.send = lambda data=None, buffers=None, **_: sent.append((time.perf_counter(), data, buffers or []))
    start = time.perf_counter()
    view.start()
    view.wait(None)
    seconds = time.perf_counter() - start
    live = [data["state"]["_panels"] for _, data, _ in sent if "_panels" in data.get("state", {})]
    assert len(live) <= seconds / views.EVERY_SECONDS + 6, "each start, end and Stop is told besides"
    for panels in live:
        for curve in elements(panels["curves"], "path", "line"):
            assert curve[1]["d"].count("L") < MOST_POINTS
    assert not any(buffers for *_, buffers in sent)
    assert max(len(json.dumps(data, allow_nan=False, ensure_ascii=False)) for _, data, _ in sent) < 20_000


def test_the_last_message_holds_the_end_and_nothing_under_way():
    view = training(autostart=True)
    view.wait(None)
    assert says(view) == ("Done", "")
    assert view._progress["share"] == 1
    rows = {row[0].strip(): row for row in table_of(view)}
    for name in RUNS:
        last = view.history[name][-1]
        assert rows[name][3] == f"{last.samples:,}" == f"{40 * 256:,}"
        shown = [float(words.replace(" %", "e-2")) for words in rows[name][4:]]
        np.testing.assert_allclose(shown, [last.loss, last.fvu, last.l0, last.dead_share], rtol=5e-3)
    json.dumps(view.state(), allow_nan=False)


def test_a_curve_ends_where_its_last_value_is():
    view = training({"TopK": {"k": 8}}, autostart=True)
    view.wait(None)
    dead = elements(view.state()["curves"], "figure")[3]  # a straight line from 0.5 % to 20 %
    points = [tuple(map(float, at.split())) for at in elements(dead, "path", "line")[0][1]["d"][1:].split("L")]
    assert len(points) == 40
    rules = [float(rule[1]["d"].split()[1].split("H")[0]) for rule in elements(dead, "path", "rule")]
    names = [text(label) for label in elements(dead, "text") if label[1].get("text-anchor") == "end"]
    zero, twenty = rules[names.index("0 %")], rules[names.index("20 %")]
    assert points[-1] == pytest.approx((LINES.x(1), twenty), abs=0.1)
    assert points[0] == pytest.approx((LINES.x(1 / 40), zero + (twenty - zero) / 40), abs=0.1)


def test_the_run_under_way_tells_its_place_its_speed_and_the_time_left(monkeypatch):
    monkeypatch.setattr(views, "EVERY_SECONDS", 0)
    view = training({"a": {"k": 8}, "b": {"k": 9}}, train=FakeTrainer(seconds=0.01), steps=20)
    seen = []
    view.observe(lambda change: seen.append(change.new["words"]), names="_progress")
    view.start()
    view.wait(None)
    assert "run 2 of 2: b · preparing" in seen
    pattern = r"run 1 of 2: a · ([\d,]+) of 5,120 samples · ([\d,]+) samples/s · (\d+) s left"
    told = [
        [int(n.replace(",", "")) for n in match.groups()] for words in seen if (match := re.fullmatch(pattern, words))
    ]
    assert len(told) >= 15
    for samples, rate, left in told:
        assert 0 < rate <= 256 / 0.01 * 1.06, "rounded to two digits"
        assert left == pytest.approx((5120 - samples) / rate, abs=1.1)


def test_hidden_curves_give_the_others_an_axis_of_their_own():
    view = training({"small": {"k": 2}, "large": {"k": 900}}, d_sae=1000, autostart=True)
    view.wait(None)
    before = view.state()
    view.hidden = ["large"]
    l0 = elements(view.state()["curves"], "figure")[2]
    assert len(elements(l0, "path", "line")) == 1
    assert "large" not in elements(l0, "svg")[0][1]["aria-label"]
    assert elements(l0, "path", "line")[0] != elements(elements(before, "figure")[2], "path", "line")[0]
    assert len(table_of(view)) == 2, "its values stay in the table"
    view.hidden = []
    assert view.state() == before


# --- what is said ------------------------------------------------------------------------------------------------


def test_the_button_and_the_words_beside_it_follow_the_states_of_the_runs():
    trainer = FakeTrainer(gated=True)
    view = training({**RUNS, "BatchTopK": {"k": 9}}, train=trainer)
    assert says(view) == ("Start", "3 runs to train")
    view.start()
    assert view._progress["action"] == "Stop"
    trainer.allow(2)
    until(lambda: len(view.history["TopK"]) == 2)
    view.stop()
    assert says(view)[0] == "Stopping …"
    assert view._progress["press"] == ""
    trainer.allow()
    view.wait(None)
    assert says(view) == ("Start the other 2 runs", "1 stopped, its result kept · 2 not trained")
    assert text(view.state()["head"]).startswith("Training1 stopped, 2 not trained of 3")
    trainer.allow(40)
    view.start("L1")
    view.wait(None)
    assert says(view) == ("Start the other run", "1 done · 1 stopped, its result kept · 1 not trained")
    trainer.allow(40)
    view.start()
    view.wait(None)
    assert says(view)[0] == "Train again: TopK"
    trainer.allow(40)
    view.start()
    view.wait(None)
    assert says(view) == ("Done", "")


def test_runs_that_stopped_or_failed_are_trained_again_together():
    view = training({"bad": {"k": 0}, "worse": {"k": 0}}, autostart=True)
    view.wait(None)
    assert says(view) == ("Train again", "2 failed")
    view = training({"bad": {"k": 0}}, autostart=True)
    view.wait(None)
    assert says(view) == ("Train again", "1 failed")
    assert says(training({"a": {"k": 8}})) == ("Start", "1 run to train")


def test_times_are_said_as_people_say_them():
    assert [duration(s) for s in (0.2, 59, 61, 3599, 3700, 7262)] == [
        "1 s", "59 s", "1 min 1 s", "59 min 59 s", "1 h 2 min", "2 h 1 min",
    ]  # fmt: skip
    assert [duration(s) for s in (119.7, 7199)] == ["2 min 0 s", "2 h 0 min"], "rounding carries over"


def test_charts_are_said_in_sentences():
    view = training()
    labels = [picture[1]["aria-label"] for picture in elements(view.state()["curves"], "svg")]
    assert labels[1] == "FVU: nothing yet"
    assert text(view.state()["density"]) == "how often each feature fires: nothing yet"
    view.start("TopK")
    view.wait(None)
    labels = [picture[1]["aria-label"] for picture in elements(view.state()["curves"], "svg")]
    assert labels[1] == "FVU: TopK 0.112 after 10,240 samples"
    assert labels[3] == "Dead features: TopK 20 % after 10,240 samples"


@pytest.mark.parametrize(
    ("density", "words"),
    [
        (
            [0.0] * 3 + [10**-1.99] * 40,
            "a: 3 of 43 features fired on none of the last tokens; "
            "most often, 40 of them, on 1 % to 1.6 % of the tokens",
        ),
        ([0.0] * 43, "a: 43 of 43 features fired on none of the last tokens"),
    ],
)
def test_densities_are_said_in_a_sentence(density, words):
    def trainer(activations, *, on_step):
        on_step(replace(record(1, 1), density=torch.tensor(density)))

    view = Training(None, {"a": {}}, train=trainer, autostart=True)
    view.wait(None)
    (picture,) = elements(view.state()["density"], "svg")
    assert picture[1]["aria-label"] == words


@pytest.mark.parametrize("count", [0, 1, 2, 3, 399, 400, 401, 402, 799, 800, 5000, 100_001])
def test_thinning_keeps_the_ends_and_stays_under_the_limit(count):
    kept = thinned(count, 400)
    assert len(kept) <= 400
    assert len(kept) >= min(count, 199)
    assert (np.diff(kept) > 0).all()
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)


def test_thinned_points_stay_as_more_come():
    before = set(thinned(1000, 400)[:-1].tolist())
    assert before <= set(thinned(1100, 400).tolist())


def test_the_histogram_counts_every_feature_once():
    density = torch.tensor([0.0, 0.0, 1e-9, 1e-6, 3e-4, 0.5, 1.0])
    found = histogram(density)
    assert (found["never"], found["features"], sum(found["counts"])) == (2, 7, 5)
    where = np.flatnonzero(found["counts"]).tolist()
    width = 6 / BINS
    assert where == [0, int((np.log10(3e-4) + 6) / width), int((np.log10(0.5) + 6) / width), BINS - 1]
    assert histogram(torch.zeros(5)) == {"counts": [0] * BINS, "never": 5, "features": 5}


def test_numbers_that_are_none_do_not_break_the_message():
    def trainer(activations, *, on_step):
        on_step(replace(record(1, 2), fvu=float("nan")))
        return "an SAE"

    view = Training(None, {"a": {}}, train=trainer, autostart=True)
    view.wait(None)
    assert view.error == ""
    assert table_of(view)[0][5] == "–"
    json.dumps(view.get_state(["_panels", "_progress", "_densities"]), allow_nan=False)


def test_options_are_shown_without_addresses():
    assert in_short({"k": 46, "lr": 1e-3, "x": object(), "widths": (1, 2), "on": True, "no": None}) == (
        "k 46, lr 0.001, x object, widths 1 2, on True, no None"
    )
    assert len(in_short({"name": "a" * 900})) < 50


# --- the real trainer --------------------------------------------------------------------------------------------


def test_real_saes_come_out_of_the_view():
    x = torch.randn(2048, 12, generator=torch.Generator().manual_seed(0))
    view = Training(
        x,
        {
            "TopK": {"architecture": "topk", "k": 4},
            "L1": {"architecture": "standard", "sparsity_coefficient": 2.0},
            "wrong": {"k": 99},
        },
        d_sae=24, batch_size=128, epochs=3, report_every=5, autostart=True,
    )  # fmt: skip
    view.wait(None)
    assert view.error == "wrong: k must be a whole number from 1 to 23, not 99"
    history = view.history["TopK"]
    assert [p.step for p in history] == [5, 10, 15, 20, 25, 30, 35, 40, 45, 48]
    assert history[-1].fvu < history[0].fvu
    assert len(history[-1].density) == 24
    features = view.saes["TopK"].encode(x)
    assert features.shape == (2048, 24)
    assert (features > 0).sum(1).max() <= 4
    assert view.saes["L1"].cfg.architecture() == "standard"


def test_a_real_training_stops_at_its_next_report():
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    view = Training(x, {"TopK": {"k": 2}}, d_sae=16, batch_size=64, epochs=100_000, report_every=1, autostart=True)
    until(lambda: len(view.history["TopK"]) > 3)
    view.stop()
    assert view.wait(300)
    assert states(view)[0] == "stopped"
    assert view.saes["TopK"].encode(x).shape == (512, 16)
