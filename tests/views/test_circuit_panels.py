"""What the circuit view says and draws of a circuit whose effects are known: places, sizes, words, exports."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from saekit.circuits import Edge, Node, feature_circuit
from saekit.views.circuit import Circuit
from tests.views.circuit_parts import HIGH, LOW, random_saes, shown_nodes, small_task
from tests.views.panels import elements, text

A, B, C = Node(1, 1, 7), Node(0, 0, 4), Node(1, 0, 7)  # of effects 3, -2 and 1
EDGES = (Edge(B, A, -1.5), Edge(B, C, 0.25))


@pytest.fixture(scope="module")
def parts(model):
    saes, task = random_saes(), small_task(model)
    return model, saes, task, feature_circuit(model, saes, task)


def known(circuit, effects, errors=((0.5, 0.0), (0.0, -4.0))):
    """Return a circuit in which these nodes alone have effects."""
    features = [np.zeros_like(layer) for layer in circuit.features]
    for node, effect in effects.items():
        features[node.layer][node.position, node.feature] = effect
    return replace(circuit, features=tuple(features), errors=np.array(errors), gap=2.0, elsewhere=np.zeros(2))


@pytest.fixture
def view(parts):
    model, saes, task, circuit = parts
    made = Circuit(model, saes, task, known(circuit, {A: 3.0, B: -2.0, C: 1.0}), EDGES, k=2)
    made.stop()
    made.wait(300)
    return made


def marks(panel):
    """Return the drawn nodes: number, place and radius of each."""
    found = []
    for mark in elements(panel, "g", "node"):
        x, y = map(float, re.findall(r"-?[\d.]+", mark[1]["transform"]))
        shape = (elements(mark, "circle", "mark") or elements(mark, "path", "missed"))[0][1]
        size = shape.get("r") or float(re.match(r"M0 -([\d.]+)L", shape["d"])[1])
        found.append((int(mark[1]["data-node"]), (x, y), size))
    return found


def drawn_edges(panel):
    """Return the drawn edges, strongest last: the nodes they join ("" is the output), tone, width."""
    return [
        (edge[1]["data-ends"], edge[1]["tone"], edge[1]["stroke-width"]) for edge in elements(panel, "path", "edge")
    ]


def test_the_slider_keeps_the_strongest_features_the_chooser_the_errors(view):
    def numbers(size, errors):
        view.size, view.errors = size, errors
        view.stop()
        return [number for number, *_ in marks(view.state()["picture"])]

    features = [[HIGH, "end", 7], [LOW, "first difference", 4], [HIGH, "first difference", 7]]
    assert numbers(2, "kept") == [0, 1, 3, 4, 5, 6]
    assert numbers(2, "ablated") == [0, 1]
    assert [row["node"] for row in shown_nodes(view)] == features[:2]
    assert numbers(99, "ablated") == [0, 1, 2]
    assert [row["node"] for row in shown_nodes(view)] == features
    assert numbers(0, "kept") == [3, 4, 5, 6]
    assert numbers(0, "ablated") == []
    assert text(view.state()["picture"]) == "Nothing is kept."


def test_edges_join_kept_nodes_only_and_the_highest_layer_leads_to_the_output(view):
    view.errors = "ablated"
    view.stop()
    assert drawn_edges(view.state()["picture"]) == [("1 0", "minus", 2.0), ("0 ", "plus", 3.5)]
    view.errors, view.size = "kept", 3
    view.stop()
    ends = [edge for edge, *_ in drawn_edges(view.state()["picture"])]
    strongest_last = [float(width) for *_, width in drawn_edges(view.state()["picture"])]
    assert strongest_last == sorted(strongest_last)
    assert set(ends) == {"1 0", "1 2", "0 ", "2 ", "5 ", "6 "}
    view.value = (HIGH, "end", 7)
    card = text(view.state()["card"])
    assert "Acts through+3.00 logit difference" in card
    assert "Fed by−1.50 feature 4, layer 0, first difference" in card


def test_the_area_of_a_node_follows_its_effect_whatever_its_sign(view):
    view.size = 3
    view.stop()
    sizes = {number: size for number, _, size in marks(view.state()["picture"])}
    for number, effect in enumerate([3, -2, 1, 0.5, 0, 0, -4]):
        assert sizes[number] == pytest.approx(6 + 8 * math.sqrt(abs(effect) / 4), abs=0.06)
    none = [mark for mark in elements(view.state()["picture"], "g", "node") if mark[1]["data-node"] == "4"]
    assert "+0.00 logits: does nothing" in text(none[0])


@pytest.mark.parametrize("count", [0, 1, 7, 60])
def test_nodes_of_a_layer_stand_in_its_band_of_a_position_in_its_column_none_on_another(parts, count):
    model, saes, task, circuit = parts
    effects = {Node(i % 2, (i * i // 2) % 2, i): 100.0 - i for i in range(count)}
    view = Circuit(model, saes, task, known(circuit, effects), (), k=count, errors="kept")
    view.stop()
    picture = view.state()["picture"]
    width, height = map(float, picture[1]["viewBox"].split()[2:])
    bands = [(float(band[1]["y"]), float(band[1]["height"])) for band in elements(picture, "rect", "band")]
    columns = [float(token[1]["x"]) for token in elements(picture, "text", "column-token")]
    assert (len(bands), len(columns)) == (2, 2), "an empty circuit still has its layers and positions"
    assert bands[0][0] > bands[1][0], "layers go upwards"
    assert bands[0][0] + bands[0][1] < height
    assert columns[1] < width
    output = next(one for one in elements(picture, "text") if text(one) == "logit difference")
    assert output[1]["y"] < bands[1][0]
    places = []
    for mark in elements(picture, "g", "node"):
        x, y = map(float, re.findall(r"-?[\d.]+", mark[1]["transform"]))
        top, tall = bands[mark[1]["data-layer"]]
        assert abs(x - columns[mark[1]["data-position"]]) < (columns[1] - columns[0]) / 2 - 10
        assert top + 10 < y < top + tall - 10
        assert all(math.dist((x, y), other) >= 37.9 for other in places)
        places.append((x, y))
    assert len(places) == count + 4


def test_words_say_what_the_numbers_mean(view):
    assert text(view.state()["head"]) == f"Circuit own · {LOW} and {HIGH}"
    assert text(view.state()["told"]) == "2 of 384 features kept, errors kept: faithfulness not computed"
    assert text(view.state()["about"]).startswith("effects in logits, mean of 3 pairs; faithfulness on 3 prompts")
    note = text(view.state()["note"])
    assert "account for layer 0 -75 %, layer 1 0 % of the gap of +2.00 logits" in note
    titles = [text(title) for title in elements(view.state()["picture"], "title")]
    assert f"feature 7, {HIGH} at end, +3.00 logits: supports the answer" in titles
    assert f"feature 4, {LOW} at first difference, −2.00 logits: works against the answer" in titles
    assert f"reconstruction error, {HIGH} at end, −4.00 logits: works against the answer" in titles
    view.value = (HIGH, "end", 7)
    card = text(view.state()["card"])
    assert card.startswith(f"Feature 7{HIGH} at end+3.00 logits: supports the answer")
    assert "no index of this layer" in card
    view.value = (HIGH, "end", -1)
    assert "What the dictionary misses here" in text(view.state()["card"])
    view.value = (LOW, "end", 90)
    assert "card" not in view.state(), "it is not among the nodes"


def test_a_share_that_is_not_known_is_a_dash(parts):
    model, saes, task, circuit = parts
    unknown = replace(known(circuit, {A: 1.0}), elsewhere=np.array([1.5, np.nan]))
    view = Circuit(model, saes, task, unknown, ())
    view.stop()
    assert "account for layer 0 100 %, layer 1 – of the gap" in text(view.state()["note"])


def test_the_table_has_the_strongest_first_and_a_still_its_first_rows(parts):
    model, saes, task, circuit = parts
    view = Circuit(model, saes, task, known(circuit, {Node(0, 0, i): i + 1.0 for i in range(20)}), (), k=20)
    view.stop()
    rows = elements(elements(view.state()["table"], "tbody")[0], "tr")
    values = [abs(float(text(row[4]).replace("−", "-"))) for row in rows]
    assert values == sorted(values, reverse=True)
    assert len(rows) == 24
    assert [row[1].get("only") for row in rows] == [None] * 12 + ["live"] * 12
    assert text(rows[0]) == f"feature 19 · layer 0 · first difference{LOW}+20.00"


def test_the_curve_shows_what_was_measured_of_one_kind_of_errors(parts):
    model, saes, task, circuit = parts
    view = Circuit(model, saes, task, circuit, (), k=3)
    view.measure_curve((0, 3))
    assert view.wait(300)
    words = {size: [f"{share:.2f}".replace("-", "−") for share in view.measured["kept", size]] for size in (0, 3)}
    curve = elements(view.state()["curve"], "svg")[0]
    assert curve[1]["aria-label"] == (
        "Faithfulness and completeness by number of features, errors kept: "
        f"0 features {words[0][0]} and {words[0][1]}; 3 features {words[3][0]} and {words[3][1]}"
    )
    rows = elements(elements(view.state()["curve"], "tbody")[0], "tr")
    assert [[text(cell) for cell in row[2:]] for row in rows] == [["0", *words[0]], ["3", *words[3]]]
    view.errors = "ablated"
    view.stop()
    assert "curve" not in view.state(), "nothing of this kind is measured"


def test_the_record_holds_what_is_kept_by_name(view):
    view.size = 3
    view.errors = "ablated"
    view.stop()
    record = json.loads(view.to_json())
    assert record["nodes"] == [
        {"node": [HIGH, "end", 7], "effect": 3.0},
        {"node": [LOW, "first difference", 4], "effect": -2.0},
        {"node": [HIGH, "first difference", 7], "effect": 1.0},
    ]
    assert [(edge["source"][2], edge["target"], edge["weight"]) for edge in record["edges"]] == [
        (4, [HIGH, "end", 7], -1.5),
        (4, [HIGH, "first difference", 7], 0.25),
    ]
    assert (record["gap"], record["faithfulness"], record["completeness"]) == (2.0, None, None)
    view.size = 1
    view.stop()
    assert json.loads(view.to_json())["edges"] == []
