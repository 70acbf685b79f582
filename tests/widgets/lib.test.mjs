import assert from "node:assert/strict";
import test from "node:test";
import {
  aligned,
  around,
  float32,
  grouped,
  histogramBars,
  histogramWords,
  logTicks,
  mergePieces,
  parseFeature,
  peakOf,
  percent,
  sig,
  signed,
  spoken,
  step,
  strongest,
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

test("a column of values stands on one decimal point", () => {
  assert.deepEqual(
    [11, 9.74, 0].map((v) => aligned(v, 11)),
    ["11.0", "9.7", "0.0"],
  );
  assert.deepEqual(
    [2, 1.234].map((v) => aligned(v, 2)),
    ["2.00", "1.23"],
  );
  assert.equal(aligned(123.4, 500), "123");
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

test("around keeps the peak in the middle, also when the peak is a continuation piece", () => {
  const cells = mergePieces(["a", "b", "戦", "", "c", "d"], [0, 0, 1, 2, 0, 0]);
  const { before, peak, after } = around(cells, 3, 1);
  assert.deepEqual(
    [before, peak, after].map((part) => part.map((c) => c.text).join("")),
    ["b", "戦", "c"],
  );
  assert.equal(around(cells, 3, Infinity).before.length, 2);
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

test("strongest joins the pieces of a token and drops silent features", () => {
  const features = [7, 8, 8, 9],
    strengths = [2, 1, 5, 0];
  assert.deepEqual(strongest(features, strengths, 2, 0, 2), [
    { feature: 8, value: 5 },
    { feature: 7, value: 2 },
  ]);
  assert.deepEqual(strongest(features, strengths, 2, 1, 2), [{ feature: 8, value: 5 }]);
});

test("histogram bars grow with the logarithm of the count; one activation still has a bar", () => {
  const bars = histogramBars([1000, 10, 1, 0], 100, 50);
  assert.ok(bars[0].height > bars[1].height && bars[1].height > bars[2].height && bars[2].height > 0);
  assert.equal(bars[3].height, 0);
  assert.ok(bars.every((bar) => bar.y >= 0 && bar.y + bar.height <= 50.001));
  assert.deepEqual(
    logTicks([1000, 3], 50).map((tick) => tick.count),
    [1, 10, 100, 1000],
  );
  assert.ok(logTicks([1000, 3], 50).every((tick) => tick.y >= 0));
});

test("a histogram in words", () => {
  const words = histogramWords({ edges: [0, 1, 2], counts: [1200, 3] }, 1203);
  assert.equal(words, "1,203 activations in 2 bins from 0 to 2; most (1,200) between 0 and 1, 3 in the highest bin");
});

test("only whole numbers in range are features", () => {
  assert.deepEqual(
    [" 12 ", "1,204", "4608", "-1", "1.5", "", "x"].map((t) => parseFeature(t, 4608)),
    [12, 1204, null, null, null, null, null],
  );
});

test("a token that is left out does not set the scale", () => {
  const cells = [
    { from: 0, value: 1947 },
    { from: 1, value: 3 },
    { from: 2, value: 5 },
  ];
  assert.equal(peakOf(cells, new Set([0])), 5);
  assert.equal(peakOf(cells, new Set()), 1947);
  assert.equal(peakOf([], new Set()), 0);
});
