"""The circuit view in Python: traits, what it refuses, what it computes and when, Stop, exports. No browser."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import traitlets

from saekit import circuits
from saekit.circuits import Ablation, Node, Task, circuit_edges, faithfulness, feature_circuit
from saekit.errors import FeatureIndexError, SAEError, Stopped
from saekit.views.circuit import Circuit
from tests import tiny
from tests.views.circuit_parts import HIGH, LOW, WIDTH, fake_index, random_saes, shown_nodes, small_task
from tests.views.panels import elements, text

SIZES = (0, 1, 5, 20)


@pytest.fixture(scope="module")
def saes():
    return random_saes()


@pytest.fixture(scope="module")
def task(model):
    return small_task(model)


@pytest.fixture(scope="module")
def found(model, saes, task):
    circuit = feature_circuit(model, saes, task)
    return circuit, circuit_edges(model, saes, task, circuit)


@pytest.fixture
def view(model, saes, task, found):
    made = Circuit(model, saes, task, *found, index=fake_index(saes[1]), k=5)
    assert made.wait(300)
    return made


@pytest.fixture
def slow(monkeypatch):
    """Measuring waits until ``slow.set()``; ``slow.asked`` lists what was begun."""
    gate = threading.Event()
    gate.asked = []
    real = Ablation.measure

    def waiting(self, size, errors, *, stop=None):
        gate.asked.append((errors, size))
        while not gate.wait(0.005):
            if stop():
                raise Stopped
        return real(self, size, errors, stop=stop)

    monkeypatch.setattr(Ablation, "measure", waiting)
    return gate


# --- what is refused ---------------------------------------------------------------------------------------------


def test_parts_that_do_not_belong_together_are_refused_at_once(model, saes, task, found):
    with pytest.raises(SAEError, match="pass those that it was made with"):
        Circuit(model, saes[:1], task, found[0])
    with pytest.raises(SAEError, match="at least one SAE"):
        Circuit(model, [], task)
    renamed = replace(task, positions={"first": task.positions["end"]})
    with pytest.raises(SAEError, match="the circuit has positions"):
        Circuit(model, saes, task, found[0], test=renamed)
    with pytest.raises(FeatureIndexError, match=r"an index of blocks\.2\.hook_resid_post, expected one of"):
        Circuit(model, saes, task, index=fake_index(saes[1], "blocks.2.hook_resid_post"))
    with pytest.raises(FeatureIndexError, match="two indexes"):
        Circuit(model, saes, task, index=[fake_index(saes[1])] * 2)
    with pytest.raises(SAEError, match=r"index is of another SAE.* Pass the SAE that it was built with"):
        Circuit(model, saes, task, index=fake_index(saes[0]))


@pytest.mark.parametrize("k", [-1, 101, 2.5, True, None])
def test_sizes_that_no_circuit_can_have_are_refused(model, saes, task, k):
    with pytest.raises(traitlets.TraitError, match=r"must be a whole number from 0 to 100"):
        Circuit(model, saes, task, k=k)


def test_traits_say_what_they_may_be(view):
    for value, message in [
        (("odd", "end", 1), "its hook points are blocks.0"),
        ((LOW, "odd", 1), "they are first difference, end"),
        ((LOW, "end", WIDTH), "feature must be in 0…95, or -1"),
        ((LOW, "end", -2), "feature must be in 0…95, or -1"),
    ]:
        with pytest.raises(traitlets.TraitError, match=message.replace(".", r"\.")):
            view.value = value
    view.value = (LOW, "end", -1)
    view.set_state({"value": [HIGH, "end", 3]})
    assert view.value == (HIGH, "end", 3), "a list from the browser is a tuple here"
    with pytest.raises(traitlets.TraitError):
        view.errors = "some"
    with pytest.raises(traitlets.TraitError):
        view.size = 101
    view.value = None


# --- what it computes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("errors", ["kept", "ablated"])
def test_faithfulness_is_that_of_the_analysis(model, saes, task, found, view, errors):
    expected = faithfulness(model, saes, task, found[0], sizes=SIZES, errors=errors)
    view.errors = errors
    for i, size in enumerate(SIZES):
        view.size = size
        assert view.wait(300)
        assert view.faithfulness == pytest.approx(expected.faithfulness[i], abs=1e-5)
        assert view.completeness == pytest.approx(expected.completeness[i], abs=1e-5)
    levels = f"logit difference {expected.model:+.2f} of the model, {expected.nothing:+.2f} with nothing"
    assert text(view.state()["about"]).endswith(levels.replace("-", "−"))


def test_nothing_given_everything_is_found(model, saes, task, found):
    view = Circuit(model, saes[::-1], task)
    assert view.wait(300)
    assert view.error == ""
    circuit, edges = found
    assert view.circuit.hook_names == (LOW, HIGH)
    for ours, theirs in zip(view.circuit.features, circuit.features, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert [(e.source, e.target) for e in view.edges[:20]] == [(e.source, e.target) for e in edges[:20]]
    assert view.faithfulness is not None
    same = "faithfulness on 3 prompts, those by which the circuit was found"
    assert same in text(view.state()["about"])
    other = Circuit(model, saes, task, test=task[:2])
    assert other.wait(300)
    assert "faithfulness on 2 prompts" in text(other.state()["about"])
    assert "by which the circuit was found" not in text(other.state()["about"])


def test_one_dictionary_has_no_edges_and_needs_no_list(model, saes, task):
    view = Circuit(model, saes[0], task, k=3)
    assert view.wait(300)
    assert view.edges == ()
    assert json.loads(view.to_json())["hook_names"] == [LOW]
    assert view.faithfulness is not None


def test_nodes_are_the_strongest_features_and_all_errors(view, found):
    circuit, edges = found
    view.size = 100
    view.wait(300)
    record = json.loads(view.to_json())
    rows = [
        Node(circuit.hook_names.index(hook), circuit.positions.index(position), feature)
        for hook, position, feature in (row["node"] for row in record["nodes"])
    ]
    features, errors = rows[: -2 * 2], rows[-2 * 2 :]
    assert features == [node for node in circuit.top(100) if circuit.effect(node)]
    assert set(errors) == {Node(layer, place, -1) for layer in (0, 1) for place in (0, 1)}
    effects = [row["effect"] for row in record["nodes"]]
    assert effects == [circuit.effect(node) for node in rows]
    at = {tuple(row["node"]): node for row, node in zip(record["nodes"], rows, strict=True)}
    known = {(at[tuple(e["source"])], at[tuple(e["target"])]): e["weight"] for e in record["edges"]}
    expected = {(e.source, e.target): e.weight for e in edges if e.source in rows and e.target in rows}
    assert known == expected
    json.dumps(view.state(), allow_nan=False)
    json.dumps(view.get_state(), allow_nan=False, default=str)


def test_contexts_are_those_of_the_index_around_their_peaks(view, saes):
    index = fake_index(saes[1])
    view.size = 100
    rows = [row[1]["data-node"] for row in elements(view.state()["table"], "tr") if "data-node" in row[1]]
    nodes = shown_nodes(view)
    by_number = dict(zip([mark[1]["data-node"] for mark in elements(view.state(), "g", "node")], nodes, strict=True))
    for number, row in zip(rows, elements(elements(view.state()["table"], "tbody")[0], "tr"), strict=True):
        hook, _, feature = by_number[number]["node"]
        last = text(row[-1])
        if hook == LOW or feature == -1:
            assert last == "–", "layer 0 has no index, an error no contexts"
        elif feature == 3:
            assert last == "dead on the index's corpus"
        elif feature != 7:  # which holds what only marks can show
            example = index.top(feature, 1)[0]
            before, peak, after = (text(part) for part in elements(row[-1], "bdi")[0][2:])
            tokens = [token.translate(str.maketrans({"\n": "↵", "\t": "⇥"})) for token in example.tokens]
            assert peak == tokens[example.peak].replace(" ", "·")
            assert "".join(tokens[: example.peak]).endswith(before)
            assert "".join(tokens[example.peak + 1 :]).startswith(after)
    dead = next((row["node"] for row in nodes if row["node"][2] == 3 and row["node"][0] == HIGH), None)
    if dead is not None:
        view.value = tuple(dead)
        assert "Never active on the corpus of the index" in text(view.state()["card"])


def test_each_size_is_measured_once(view, slow):
    slow.set()
    for size in (5, 9, 5, 9, 5):
        view.size = size
        assert view.wait(300)
    assert slow.asked == [("kept", 9)]
    view.errors = "ablated"
    view.wait(300)
    assert slow.asked == [("kept", 9), ("ablated", 5)]
    assert set(view.measured) == {("kept", 5), ("kept", 9), ("ablated", 5)}


def test_a_slider_on_its_way_leaves_no_queue_behind(view, slow):
    for size in range(20, 60):
        view.size = size
    assert view.busy
    assert view.faithfulness is None
    slow.set()
    assert view.wait(300)
    assert view.faithfulness is not None
    assert set(view.measured) == {("kept", 5), ("kept", 59)}, "sizes that were passed over are not measured"


def test_the_curve_is_measured_with_the_size_that_is_shown_first(view, slow):
    slow.set()
    view.set_state({"_curves": 1})
    assert view.wait(300)
    assert [size for _, size in slow.asked] == [0, 1, 3, 10, 30, 100, 300, 2 * 2 * WIDTH]
    slow.clear()
    view.measure_curve((2, 4))
    while len(slow.asked) < 9:
        time.sleep(0.005)
    view.size = 50
    assert slow.asked[8] == ("kept", 2)
    slow.set()
    assert view.wait(300)
    assert ("kept", 50) in view.measured


def test_stop_ends_the_work_and_compute_takes_it_up_again(view, slow):
    view.size = 33
    while not slow.asked:
        time.sleep(0.005)
    assert "measuring 33 features" in view._doing
    view.set_state({"_stops": 1})
    assert (view.busy, view._doing) == (False, "")
    assert view.wait(300)
    assert view.faithfulness is None
    slow.set()
    view.set_state({"_starts": 1})
    assert view.wait(300)
    assert view.faithfulness is not None


def test_a_curve_asked_for_while_the_circuit_is_found_is_measured_after_it(model, saes, task, monkeypatch):
    gate, searches = threading.Event(), []

    def waiting(*arguments, **options):
        searches.append(arguments)
        assert gate.wait(300)
        return feature_circuit(*arguments, **options)

    monkeypatch.setattr(circuits, "feature_circuit", waiting)
    view = Circuit(model, saes, task, k=5)
    while not searches:
        time.sleep(0.005)
    view.measure_curve((0, 3))
    gate.set()
    assert view.wait(300)
    assert {("kept", 5), ("kept", 0), ("kept", 3)} <= set(view.measured)
    assert len(view.edges) > 0
    assert len(searches) == 1, "it was not begun anew"


def test_stop_while_the_circuit_is_found_leaves_none(model, saes, task, monkeypatch):
    begun, gate = threading.Event(), threading.Event()
    real = Task.batches

    def waiting(self, size=16):
        begun.set()
        gate.wait(300)
        yield from real(self, size)

    monkeypatch.setattr(Task, "batches", waiting)
    view = Circuit(model, saes, task)
    assert begun.wait(300)
    view.stop()
    gate.set()
    assert view.wait(300)
    assert (view.circuit, view.error) == (None, "")
    assert text(view.state()["nothing"]).startswith("not found yet")
    assert repr(view) == "Circuit(own: not found yet)"
    view.size = 4
    assert not view.busy, "nothing is measured of no circuit"
    view.compute()
    assert view.wait(300)
    assert view.faithfulness is not None


def test_other_cells_may_run_the_model_meanwhile(model, saes, task, view, slow):
    """The worker's hooks sit on hook points of its own."""
    ids = task.ids[0][None]
    plain = model(ids)
    slow.set()
    view.measure_curve(range(0, 100, 4))
    for _ in range(50):
        assert torch.equal(model(ids), plain)
    view.stop()
    assert view.wait(300)


def test_what_goes_wrong_in_the_worker_is_told(model, saes, task, found, monkeypatch):
    def broken(self, *args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Ablation, "measure", broken)
    view = Circuit(model, saes, task, *found)
    assert view.wait(300)
    assert view.error == "RuntimeError: out of luck"
    assert not view.busy


def test_a_task_on_which_nothing_is_ablated_says_so_and_shows_no_number(model, saes, task, found):
    """The mean of one prompt is its own value: a share of what ablation changes would be noise."""
    for options in ({"test": task[:1]}, {"test": task.select([1, 1, 1])}):
        view = Circuit(model, saes, task, *found, **options)
        assert view.wait(300)
        assert view.error.endswith("Add pairs") or view.error.endswith("Add pairs with other prompts")
        assert not view.busy
        assert (view.faithfulness, view.completeness, view.measured) == (None, None, {})
        assert view.error in view._repr_html_()
        assert "faithfulness not computed" in repr(view)
    alone = Circuit(model, saes, task[:1])
    assert alone.wait(300)
    assert "has one pair" in alone.error
    assert len(json.loads(alone.to_json())["nodes"]) > 0, "the circuit itself needs no means"
    assert alone.faithfulness is None


def test_a_circuit_found_by_the_view_takes_as_many_steps_as_asked(model, saes, task):
    for options, steps in (({}, 5), ({"steps": 2}, 2)):
        view = Circuit(model, saes[0], task, **options)
        assert view.wait(300)
        assert view.circuit.steps == steps
        expected = feature_circuit(model, saes[0], task, steps=steps, batch_size=16)
        np.testing.assert_allclose(view.circuit.features[0], expected.features[0], atol=1e-5)
    with pytest.raises(SAEError, match="steps must be a whole number from 1 on, not 0"):
        Circuit(model, saes[0], task, steps=0)


def test_values_link_like_any_other(view):
    seen = []
    view.observe(lambda change: seen.append(change.new), names="value")
    view.set_state({"value": [LOW, "end", 4]})
    view.value = None
    assert seen == [(LOW, "end", 4), None]


def test_directions_are_dictionaries_too(model, task):
    from saekit.models import hidden_states
    from saekit.saes import random_directions

    ids = torch.as_tensor(tiny.random_tokens(8, 32, 400).ids).long()
    basis = random_directions(hidden_states(model, ids, LOW).flatten(0, 1).float(), LOW)
    view = Circuit(model, [basis], task, k=3)
    assert view.wait(300)
    assert view.error == ""
    assert view.faithfulness is not None
    index = fake_index(random_saes()[0], LOW)
    with pytest.raises(FeatureIndexError, match="directions and not an SAE: leave it out"):
        Circuit(model, [basis], task, index=index)


def test_the_record_names_what_is_kept(view, found):
    circuit, _ = found
    view.errors = "ablated"
    record = json.loads(view.to_json())
    names = [[circuit.hook_names[n.layer], circuit.positions[n.position], n.feature] for n in circuit.top(5)]
    assert [row["node"] for row in record["nodes"]] == names
    assert [row["effect"] for row in record["nodes"]] == [circuit.effect(node) for node in circuit.top(5)]
    assert all(edge["source"] in names and edge["target"] in names for edge in record["edges"])
    assert (record["size"], record["errors"], record["gap"]) == (5, "ablated", circuit.gap)
    assert record["faithfulness"] == view.faithfulness
