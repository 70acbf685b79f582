import assert from "node:assert/strict";
import test from "node:test";
import {
  float32,
  grouped,
  mergePieces,
  parseFeature,
  percent,
  sig,
  signed,
  spoken,
  step,
  visible,
  walkOn,
} from "../../widgets/_shared/lib.js";

test("float32 reads a DataView that does not start at an aligned offset", () => {
  const bytes = new Uint8Array(9);
  bytes.set(new Uint8Array(Float32Array.of(1.5, -2).buffer), 1);
  assert.deepEqual([...float32(new DataView(bytes.buffer, 1, 8))], [1.5, -2]);
  assert.equal(float32(undefined).length, 0);
});

test("numbers are rounded to significant digits without exponents", () => {
  assert.deepEqual(
    [0, 0.012345, 1.5, 12.34, 1234.5].map((v) => sig(v)),
    ["0", "0.0123", "1.5", "12.3", "1,235"],
  );
  assert.equal(sig(null), "–");
  assert.equal(sig(NaN), "–");
  assert.equal(grouped(1234567), "1,234,567");
  assert.equal(grouped(12), "12");
});

test("signed values carry a sign in text, percentages two digits", () => {
  assert.deepEqual([0.417, -0.417, 0].map(signed), ["+0.42", "−0.42", "+0.00"]);
  assert.deepEqual([0, 0.00321, 0.5, 1].map(percent), ["0 %", "0.32 %", "50 %", "100 %"]);
});

test("visible marks whitespace and replaces controls", () => {
  assert.equal(visible(" a\n\t"), "·a↵⇥");
  assert.equal(visible("\0\x07"), "\ufffd\ufffd");
  assert.equal(visible("<img src=x>"), "<img·src=x>");
});

test("spoken names what is silent", () => {
  assert.deepEqual([" the", "\n", "\t", " ", ""].map(spoken), ["the", "new line", "tab", "space", "nothing"]);
});

test("pieces of one character are merged with the strongest of their values", () => {
  const cells = mergePieces(["a", "戦", "", "", "b"], [0, 1, 3, 2, 4]);
  assert.deepEqual(
    cells.map((c) => [c.text, c.value, c.from, c.to]),
    [
      ["a", 0, 0, 1],
      ["戦", 3, 1, 4],
      ["b", 4, 4, 5],
    ],
  );
  assert.equal(mergePieces(["", "b"], [1, 2])[0].text, "\ufffd", "a window that begins inside a character");
});

test("step clamps and ignores other keys", () => {
  assert.equal(step("ArrowRight", 2, 3), 2);
  assert.equal(step("ArrowLeft", 0, 3), 0);
  assert.equal(step("End", 0, 3), 2);
  assert.equal(step("x", 0, 3), null);
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
