import assert from "node:assert/strict";
import test from "node:test";
import {
  curveRows,
  curveWords,
  densityWords,
  duration,
  mergeRuns,
  nextAction,
  paceWords,
  summary,
  valueWords,
} from "../../widgets/training/runs.js";

const runs = (...states) => states.map((state, i) => ({ name: "abcdef"[i], state }));
const points = (...values) => new DataView(Float32Array.from(values).buffer);

test("the run under way shows its news, the others what they were", () => {
  const merged = mergeRuns(
    [
      { name: "a", state: "training", last: null },
      { name: "b", state: "waiting" },
    ],
    { name: "a", last: { fvu: 0.5 }, rate: 9 },
  );
  assert.deepEqual(merged[0], { name: "a", state: "training", last: { fvu: 0.5 }, rate: 9, number: 0 });
  assert.deepEqual(merged[1], { name: "b", state: "waiting", number: 1 });
  assert.deepEqual(mergeRuns([{ name: "a" }], {}), [{ name: "a", number: 0 }]);
  assert.deepEqual(mergeRuns([{ name: "a" }], undefined), [{ name: "a", number: 0 }]);
});

test("curves come as five rows of equal length", () => {
  const rows = curveRows({ points: points(1, 2, 10, 20, 0.5, 0.25, 7, 8, 0, 0.125) });
  assert.deepEqual(
    rows.map((row) => [...row]),
    [
      [1, 2],
      [10, 20],
      [0.5, 0.25],
      [7, 8],
      [0, 0.125],
    ],
  );
  assert.deepEqual(
    curveRows({ points: points() }).map((row) => row.length),
    [0, 0, 0, 0, 0],
  );
});

test("the button says what it will do", () => {
  const says = (states, busy = false, stopping = false) => Object.values(nextAction(runs(...states), busy, stopping));
  assert.deepEqual(says(["waiting", "waiting"]), ["Start", "start"]);
  assert.deepEqual(says(["training", "waiting"], true), ["Stop", "stop"]);
  assert.deepEqual(says(["training", "waiting"], true, true), ["Stopping …", ""]);
  assert.deepEqual(says(["stopped", "waiting"]), ["Start the other run", "start"]);
  assert.deepEqual(says(["stopped", "waiting", "waiting"]), ["Start the other 2 runs", "start"]);
  assert.deepEqual(says(["stopped", "done"]), ["Train again: a", "start"]);
  assert.deepEqual(says(["stopped", "failed"]), ["Train again", "start"]);
  assert.deepEqual(says(["stopped"]), ["Train again", "start"]);
  assert.deepEqual(says(["done", "done"]), ["Done", ""]);
});

test("times are said as people say them", () => {
  assert.deepEqual([0.2, 59, 61, 3599, 3700, 7262].map(duration), [
    "1 s",
    "59 s",
    "1 min 1 s",
    "59 min 59 s",
    "1 h 2 min",
    "2 h 1 min",
  ]);
  assert.deepEqual([119.7, 7199].map(duration), ["2 min 0 s", "2 h 0 min"], "rounding carries over");
  assert.deepEqual([null, undefined, NaN, Infinity].map(duration), [null, null, null, null]);
});

test("the pace has place, samples, speed and time left", () => {
  const live = { name: "b", last: { samples: 12288, all_samples: 102400 }, rate: 25123, seconds_left: 3.6 };
  assert.equal(
    paceWords(runs("done", "training"), live),
    "run 2 of 2: b · 12,288 of 102,400 samples · 25,000 samples/s · 4 s left",
  );
  assert.equal(paceWords(runs("training"), { name: "a" }), "a · preparing");
  assert.equal(paceWords(runs("done"), {}), "");
});

test("once nothing runs, the states are summed up", () => {
  assert.equal(summary(runs("waiting", "waiting")), "2 runs to train");
  assert.equal(summary(runs("waiting")), "1 run to train");
  assert.equal(
    summary(runs("done", "stopped", "failed", "waiting")),
    "1 done · 1 stopped, its result kept · 1 failed · 1 not trained",
  );
});

test("charts are said in sentences", () => {
  const last = { samples: 10240, fvu: 0.1234, dead_share: 0.2 };
  assert.equal(
    curveWords("FVU", "fvu", [
      { name: "a", last },
      { name: "b", last: null },
    ]),
    "FVU: a 0.123 after 10,240 samples",
  );
  assert.equal(curveWords("FVU", "fvu", []), "FVU: nothing yet");
  assert.equal(valueWords("dead_share", 0.2), "20 %");
  assert.equal(valueWords("fvu", null), "–");
  const counts = Array(30).fill(0);
  counts[20] = 40;
  assert.equal(
    densityWords("a", { counts, never: 3, features: 43 }),
    "a: 3 of 43 features fired on none of the last tokens; most often, 40 of them, on 1 % to 1.6 % of the tokens",
  );
  assert.equal(
    densityWords("a", { counts: Array(30).fill(0), never: 43, features: 43 }),
    "a: 43 of 43 features fired on none of the last tokens",
  );
});
