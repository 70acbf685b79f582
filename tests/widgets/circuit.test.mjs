import assert from "node:assert/strict";
import test from "node:test";
import {
  accountedWords,
  circuitRecord,
  contextWords,
  curvePoints,
  curveText,
  edgesAt,
  effectWords,
  keptEdges,
  keptNumbers,
  layoutCircuit,
  measuredWords,
  nextNode,
  nodeOfValue,
  nodeRadius,
  pointOf,
  shareText,
  shortHook,
  spacedText,
  valueOfNode,
} from "../../widgets/circuit/picture.js";

const node = (layer, position, feature, effect = 1) => ({ layer, position, feature, effect });
const facts = {
  task: "t",
  hooks: ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"],
  positions: ["S2", "end"],
  gap: 2,
  prompts: 30,
};
const nodes = [node(1, 1, 7, 3), node(0, 0, 4, -2), node(1, 0, 7, 1), node(0, 0, -1, 0.5), node(1, 1, -1, -4)];

test("nodes of a layer stand in its band, of a position in its column, none on another", () => {
  const kept = Array.from({ length: 60 }, (_, i) => node(i % 3, (i * i) % 4, i));
  const { nodes: places, bands, columns, width, height, output } = layoutCircuit(kept, 3, 4);
  const wide = columns[1] - columns[0];
  kept.forEach(({ layer, position }, i) => {
    const [x, y] = places[i];
    assert.ok(Math.abs(x - columns[position]) < wide / 2 - 10);
    assert.ok(y > bands[layer][0] + 10 && y < bands[layer][0] + bands[layer][1] - 10);
  });
  for (let i = 0; i < 60; i++)
    for (let j = 0; j < i; j++) assert.ok(Math.hypot(places[i][0] - places[j][0], places[i][1] - places[j][1]) >= 37.9);
  assert.ok(bands[0][0] > bands[1][0] && bands[1][0] > bands[2][0], "layers go upwards");
  assert.ok(output[1] < bands[2][0] && width > columns[3] && height > bands[0][0] + bands[0][1]);
});

test("an empty circuit still has its layers and positions", () => {
  const { nodes: places, bands, columns } = layoutCircuit([], 2, 3);
  assert.deepEqual([places.length, bands.length, columns.length], [0, 2, 3]);
});

test("the slider keeps the strongest features, the chooser the errors", () => {
  assert.deepEqual(keptNumbers(nodes, 2, "kept"), [0, 1, 3, 4]);
  assert.deepEqual(keptNumbers(nodes, 2, "ablated"), [0, 1]);
  assert.deepEqual(keptNumbers(nodes, 99, "ablated"), [0, 1, 2]);
  assert.deepEqual(keptNumbers(nodes, 0, "kept"), [3, 4]);
});

test("edges join kept nodes only, and the highest layer leads to the output", () => {
  const edges = [
    [1, 0, -1.5],
    [1, 2, 0.25],
    [3, 0, 0.5],
  ];
  assert.deepEqual(keptEdges(edges, nodes, [0, 1], 2), [
    [0, null, 3],
    [1, 0, -1.5],
  ]);
  assert.deepEqual(keptEdges(edges, nodes, [0, 1, 3, 4], 2), [
    [4, null, -4],
    [0, null, 3],
    [1, 0, -1.5],
    [3, 0, 0.5],
  ]);
  assert.deepEqual(
    edgesAt(
      [
        [0, null, 3],
        [1, 0, -1.5],
      ],
      0,
    ),
    { from: [[1, -1.5]], to: [[null, 3]] },
  );
});

test("the area of a node follows its effect, whatever its sign", () => {
  assert.equal(nodeRadius(-2, 2), 14);
  assert.equal(nodeRadius(0.5, 2) - 6, 4);
  assert.equal(nodeRadius(0, 0), 6);
});

test("keys walk along a layer and jump to the nearest node of the next", () => {
  const kept = [node(0, 0, 1), node(0, 1, 2), node(0, 1, 3), node(2, 1, 4), node(2, 0, 5)];
  const { nodes: places } = layoutCircuit(kept, 3, 2);
  const go = (key, at) => nextNode(key, at, kept, places);
  assert.deepEqual([go("ArrowRight", 0), go("ArrowRight", 1), go("ArrowRight", 2)], [1, 2, 2]);
  assert.deepEqual([go("ArrowLeft", 2), go("ArrowLeft", 0), go("Home", 2), go("End", 0)], [1, 0, 0, 2]);
  assert.deepEqual([go("ArrowUp", 0), go("ArrowUp", 1), go("ArrowUp", 3)], [4, 3, 3], "an empty layer is skipped");
  assert.deepEqual([go("ArrowDown", 4), go("ArrowDown", 0), go("Tab", 0), go("ArrowUp", 9)], [0, 0, null, null]);
});

test("a value names a node, and the other way round", () => {
  nodes.forEach((one, i) => assert.equal(nodeOfValue(valueOfNode(one, facts), nodes, facts), i));
  assert.equal(nodeOfValue(null, nodes, facts), -1);
  assert.equal(nodeOfValue(["blocks.0.hook_resid_post", "S2", 99], nodes, facts), -1);
});

test("what is measured is looked up by size and errors", () => {
  const measured = [
    { errors: "kept", size: 3, faithfulness: 0.5, completeness: -0.25 },
    { errors: "kept", size: 0, faithfulness: 0, completeness: 1 },
    { errors: "kept", size: 9, faithfulness: null, completeness: null },
  ];
  assert.equal(pointOf(measured, 3, "kept"), measured[0]);
  assert.equal(pointOf(measured, 3, "ablated"), undefined);
  assert.deepEqual(
    curvePoints(measured, "kept").map(({ size }) => size),
    [0, 3],
  );
  assert.equal(
    curveText(curvePoints(measured, "kept"), "kept"),
    "Faithfulness and completeness by number of features, errors kept: " +
      "0 features 0.00 and 1.00; 3 features 0.50 and −0.25",
  );
  assert.deepEqual([shareText(0.827), shareText(-0.1), shareText(null)], ["0.83", "−0.10", "–"]);
});

test("words say what the numbers mean", () => {
  assert.deepEqual([0.42, -0.42, 0].map(effectWords), [
    "+0.42 logits: supports the answer",
    "−0.42 logits: works against the answer",
    "+0.00 logits: does nothing",
  ]);
  assert.deepEqual(["blocks.18.hook_resid_post", "blocks.0.hook_resid_pre", "odd"].map(shortHook), [
    "layer 18",
    "layer 0 (in)",
    "odd",
  ]);
  assert.equal(
    measuredWords({ ...facts, same_prompts: true }, {}),
    "Measured on 30 prompts, those by which the circuit was found.",
  );
  assert.equal(
    measuredWords(facts, { model: 3, nothing: -0.5 }),
    "Measured on 30 prompts: logit difference +3.00 of the model (1), −0.50 with nothing kept (0).",
  );
  assert.match(
    accountedWords({ ...facts, pairs: 30, accounted: [0.8, null] }),
    /mean of 30 pairs; .* account for layer 0 80 %, layer 1 – of the gap of \+2\.00 logits/,
  );
  assert.equal(accountedWords(facts), "");
  assert.equal(contextWords({ dead: false, max: 12.34, rows: [[1, "", "", ""]] }), "Top contexts, of at most 12.3");
  assert.match(contextWords({ dead: true, rows: [] }), /Never active/);
  assert.match(contextWords(undefined), /no index of this layer/);
});

test("contexts keep their spaces, so that lines can break between words", () => {
  assert.equal(spacedText(" the war.\n In\tParis"), " the war.↵ In⇥Paris");
});

test("the record holds what is kept, by name", () => {
  const record = circuitRecord({
    facts,
    nodes,
    edges: [
      [1, 0, -1.5],
      [1, 2, 0.25],
    ],
    size: 2,
    errors: "ablated",
    measured: [{ errors: "ablated", size: 2, faithfulness: 0.5, completeness: 0.1 }],
  });
  assert.deepEqual(record.nodes, [
    { node: ["blocks.1.hook_resid_post", "end", 7], effect: 3 },
    { node: ["blocks.0.hook_resid_post", "S2", 4], effect: -2 },
  ]);
  assert.deepEqual(record.edges, [
    { source: ["blocks.0.hook_resid_post", "S2", 4], target: ["blocks.1.hook_resid_post", "end", 7], weight: -1.5 },
  ]);
  assert.deepEqual([record.faithfulness, record.completeness, record.gap], [0.5, 0.1, 2]);
});
