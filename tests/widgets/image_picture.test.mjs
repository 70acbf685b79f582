import assert from "node:assert/strict";
import test from "node:test";
import { exampleArrays, greys, placeOf, strongestPatch } from "../../widgets/image_activations/picture.js";

test("an example finds its own patches and pixels, at whatever offset the bytes begin", () => {
  const facts = { grid: [1, 2], pixels: [1, 3] };
  const bytes = Uint8Array.of(99, 1, 2, 3, 4, 5, 6);
  const card = { activations: Float32Array.of(0.5, 0, 0, 2.5), pixels: new DataView(bytes.buffer, 1) };
  assert.deepEqual([...exampleArrays(card, facts, 1).values], [0, 2.5]);
  assert.deepEqual([...exampleArrays(card, facts, 1).pixels], [4, 5, 6]);
});

test("grey values become light, ink becomes dark", () => {
  assert.deepEqual([...greys([0, 200], false)], [0, 0, 0, 255, 200, 200, 200, 255]);
  assert.deepEqual([...greys([0, 200], true)], [255, 255, 255, 255, 55, 55, 55, 255]);
});

test("places count from one, row by row, and the first of equal patches is the strongest", () => {
  assert.equal(placeOf(0, 4), "row 1, column 1");
  assert.equal(placeOf(6, 4), "row 2, column 3");
  assert.equal(strongestPatch(Float32Array.of(0, 2, 2, 1)), 1);
});
