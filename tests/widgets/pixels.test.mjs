import assert from "node:assert/strict";
import test from "node:test";
import { greys, patchTable } from "../../widgets/_shared/pixels.js";

test("grey values become light, ink becomes dark", () => {
  assert.deepEqual([...greys([0, 200], false)], [0, 0, 0, 255, 200, 200, 200, 255]);
  assert.deepEqual([...greys([0, 200], true)], [255, 255, 255, 255, 55, 55, 55, 255]);
});

test("a table of patches has their rows and columns, and 0 where nothing is marked", () => {
  const [, , caption, [, , ...rows]] = patchTable({
    caption: "values",
    grid: [2, 2],
    marks: [[3, "1.5", "1.53", 0.5]],
  });
  assert.deepEqual(caption, ["caption", {}, "values"]);
  assert.deepEqual(
    rows.map(([, , ...cells]) => cells.map(([, , words]) => words)),
    [
      ["0", "0"],
      ["0", "1.5"],
    ],
  );
});
