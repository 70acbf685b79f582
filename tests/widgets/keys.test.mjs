import assert from "node:assert/strict";
import test from "node:test";
import { stepInTable, stepTo } from "../../widgets/_shared/keys.js";

test("a step along a line clamps and ignores other keys", () => {
  assert.equal(stepTo("ArrowRight", 2, 3), 2);
  assert.equal(stepTo("ArrowLeft", 0, 3), 0);
  assert.equal(stepTo("End", 0, 3), 2);
  assert.equal(stepTo("x", 0, 3), null);
});

test("keys move over a table and stop at its edges", () => {
  const go = (key, row, column) => stepInTable(key, [row, column], 3, 5);
  assert.deepEqual(
    [go("ArrowRight", 1, 4), go("ArrowLeft", 1, 0), go("ArrowUp", 0, 2), go("ArrowDown", 2, 2)],
    [
      [1, 4],
      [1, 0],
      [0, 2],
      [2, 2],
    ],
  );
  assert.deepEqual(
    [go("ArrowDown", 0, 2), go("Home", 2, 3), go("End", 2, 3), go("Tab", 0, 0)],
    [[1, 2], [2, 0], [2, 4], null],
  );
});
