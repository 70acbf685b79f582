import assert from "node:assert/strict";
import test from "node:test";
import {
  gridStep,
  heatRows,
  intervalText,
  largestConfusions,
  overBaselineWords,
  partsOf,
  probeMark,
  probeScale,
  probeShade,
  probesCsv,
  resultText,
  standingWords,
  twoPlaces,
} from "../../widgets/probes/words.js";

test("numbers have two decimals and a real minus, and zero has no sign", () => {
  assert.deepEqual([0.125, -0.5, -0.001, null, NaN, 0.9961, 0.9999, 1].map(twoPlaces), [
    "0.13",
    "−0.50",
    "0.00",
    "–",
    "–",
    "0.996",
    "0.999",
    "1.00",
  ]);
  assert.equal(intervalText([0.9, 0.85, null]), "0.90 [0.85, –]");
  assert.equal(intervalText([0.01, -0.02, 0.04], true), "+0.01 [−0.02, +0.04]");
  assert.equal(intervalText([0.01, 0, 0.004], true), "+0.01 [0.00, +0.00]");
});

test("a difference smaller than the intervals never gets all the colour", () => {
  const close = [
    [0.9, 0.85, 0.95],
    [0.91, 0.86, 0.96],
    [0.5, 0.4, 0.6],
  ];
  const [low, high] = probeScale(close, 2);
  assert.ok(Math.abs(low - 0.81) < 1e-12 && high === 0.91);
  assert.equal(probeShade(0.5, [low, high]), 0);
  assert.equal(probeShade(null, [low, high]), 0);
  assert.deepEqual(
    probeScale(
      [
        [0.6, 0.55, 0.65],
        [0.9, 0.85, 0.95],
        [0.95, 0.9, 1],
      ],
      2,
    ),
    [0.6, 0.95],
  );
  assert.deepEqual(probeScale([[0.7, null, null]], 1), [0.19999999999999996, 0.7]);
  assert.deepEqual(probeScale([], 0), [0, 1]);
});

test("words claim a difference only where its interval excludes 0", () => {
  const facts = { best: 0 };
  assert.match(standingWords({ behind: [0, 0, 0] }, 0, facts), /^Best in validation/);
  assert.match(standingWords({ behind: [0.02, -0.01, 0.05] }, 1, facts), /^These texts cannot tell it .*holds 0/);
  assert.match(
    standingWords({ behind: [0.02, 0.01, 0.05] }, 1, facts),
    /^Worse than the best cell .*\+0\.02 \[\+0\.01, \+0\.05\]/,
  );
  assert.match(standingWords({ behind: [-0.02, -0.05, -0.01] }, 9, facts), /^Better than the best cell/);
  assert.match(overBaselineWords([0.01, -0.02, 0.04], "tfidf"), /^No verdict against tfidf/);
  assert.match(overBaselineWords([0.03, 0.02, 0.04], "tfidf"), /^Better than tfidf/);
  assert.match(overBaselineWords([-0.03, -0.04, -0.02], "tfidf"), /^Worse than tfidf/);
  assert.equal(overBaselineWords(undefined, ""), "");
  assert.deepEqual(
    [probeMark({ as_good: true }, 0, 0), probeMark({ as_good: true }, 1, 0), probeMark({ as_good: false }, 2, 0)],
    ["★", "≈", ""],
  );
});

test("arrow keys stay inside the table", () => {
  assert.deepEqual(gridStep("ArrowRight", [1, 1], 3, 2), [1, 1]);
  assert.deepEqual(gridStep("ArrowDown", [1, 1], 3, 2), [2, 1]);
  assert.deepEqual(gridStep("ArrowUp", [0, 0], 3, 2), [0, 0]);
  assert.deepEqual(gridStep("Home", [2, 1], 3, 2), [2, 0]);
  assert.deepEqual(gridStep("End", [2, 0], 3, 2), [2, 1]);
  assert.equal(gridStep("x", [0, 0], 3, 2), null);
});

test("every cell has its place: pooling and binarising down, site and classifier across", () => {
  const axes = { sae: ["a", "b"], pooling: ["max", "sum"], binarise: ["none", "above"], classifier: ["l", "d", "t"] };
  const cells = [];
  for (let s = 0; s < 2; s++)
    for (let p = 0; p < 2; p++)
      for (let b = 0; b < 2; b++) for (let c = 0; c < 3; c++) cells.push({ at: [s, p, b, c] });
  const rows = heatRows([...cells, { at: null }], axes);
  assert.deepEqual([rows.length, rows[0].length], [4, 6]);
  assert.deepEqual(cells[rows[3][4]].at, [1, 1, 1, 1]);
  assert.equal(new Set(rows.flat()).size, 24);
});

test("confusions, parts and results", () => {
  assert.deepEqual(
    largestConfusions([
      [5, 1, 0],
      [3, 5, 2],
      [0, 0, 1],
    ]),
    [
      [1, 0, 3],
      [1, 2, 2],
      [0, 1, 1],
    ],
  );
  assert.deepEqual([...partsOf(Float32Array.of(1, 2, 3, 4, 5, 6), 1, 3)], [4, 5, 6]);
  assert.equal(resultText({ label: "spam", class: 1, probabilities: [0.1, 0.9] }), "spam, probability 0.90");
  assert.match(
    resultText({ label: "spam", class: 1, probabilities: null, scores: [-1, 1.5] }),
    /^spam, by 2\.50 in score/,
  );
});

test("csv quotes what needs it", () => {
  const facts = { axes: { sae: ['a,"b'], pooling: ["max"], binarise: ["none"], classifier: ["tree"] } };
  const cells = [
    { name: 'a,"b, max, none, tree', at: [0, 0, 0, 0], behind: [0, 0, 0] },
    { name: "majority", at: null, behind: [0.5, 0.4, null] },
  ];
  const lines = probesCsv(facts, cells, {
    macro_f1: [
      [0.9, 0.8, 1],
      [0.4, null, null],
    ],
  }).split("\n");
  assert.equal(
    lines[0],
    "kind,name,sae,pooling,binarise,classifier,macro_f1,macro_f1_low,macro_f1_high," +
      "behind_best,behind_best_low,behind_best_high",
  );
  assert.equal(lines[1], 'cell,"a,""b, max, none, tree","a,""b",max,none,tree,0.9,0.8,1,0,0,0');
  assert.equal(lines[2], "baseline,majority,,,,,0.4,,,0.5,0.4,");
});
