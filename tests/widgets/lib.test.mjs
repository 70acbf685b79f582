import assert from "node:assert/strict";
import test from "node:test";
import { float32, grouped, parseFeature, visible, walkOn } from "../../widgets/_shared/lib.js";
import { spokenAs } from "../../widgets/_shared/strips.js";

test("float32 reads a DataView that does not start at an aligned offset", () => {
  const bytes = new Uint8Array(9);
  bytes.set(new Uint8Array(Float32Array.of(1.5, -2).buffer), 1);
  assert.deepEqual([...float32(new DataView(bytes.buffer, 1, 8))], [1.5, -2]);
  assert.equal(float32(undefined).length, 0);
});

test("counts are grouped by commas", () => {
  assert.equal(grouped(1234567), "1,234,567");
  assert.equal(grouped(12), "12");
});

test("visible marks whitespace and replaces controls", () => {
  assert.equal(visible(" a\n\t"), "·a↵⇥");
  assert.equal(visible("\0\x07"), "\ufffd\ufffd");
  assert.equal(visible("<img src=x>"), "<img·src=x>");
});

test("spokenAs names what is silent", () => {
  assert.deepEqual([" the", "\n", "\t", " ", ""].map(spokenAs), ["the", "new line", "tab", "space", "nothing"]);
});

test("the walk wraps around, and from a dead feature goes on by number", () => {
  const walk = Float32Array.of(5, 2, 9);
  assert.equal(walkOn(walk, 5, 1), 2);
  assert.equal(walkOn(walk, 5, -1), 9);
  assert.equal(walkOn(walk, 3, 1), 5);
  assert.equal(walkOn(walk, 3, -1), 2);
  assert.equal(walkOn(walk, 10, 1), 2);
  assert.equal(walkOn(new Float32Array(), 3, 1), null);
});

test("only whole numbers in range are features", () => {
  assert.deepEqual(
    [" 12 ", "1,204", "4608", "-1", "1.5", "", "x"].map((t) => parseFeature(t, 4608)),
    [12, 1204, null, null, null, null, null],
  );
});
