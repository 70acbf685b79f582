import assert from "node:assert/strict";
import test from "node:test";
import {
  LINE_COLOURS,
  LINE_DASHES,
  axisFor,
  decadeTicks,
  dodge,
  endPlaces,
  linePath,
  lineLook,
  linearTicks,
  powerOfTen,
  short,
} from "../../widgets/_shared/chart.js";

test("numbers on an axis are short", () => {
  assert.deepEqual([0, 0.05, 46, 1500, 12000, 250000, 1.5e6, 2e9].map(short), [
    "0",
    "0.05",
    "46",
    "1.5k",
    "12k",
    "250k",
    "1.5M",
    "2G",
  ]);
  assert.equal(short(NaN), "–");
  assert.deepEqual([-4, 0, -10].map(powerOfTen), ["10⁻⁴", "10⁰", "10⁻¹⁰"]);
});

test("linear ticks are round, begin at 0 and reach the largest value", () => {
  assert.deepEqual(linearTicks(100), [0, 50, 100]);
  assert.deepEqual(linearTicks(0.3), [0, 0.1, 0.2, 0.3]);
  assert.deepEqual(linearTicks(102400, 3), [0, 50000, 100000, 150000]);
  for (const bad of [0, NaN, -1, -Infinity]) assert.deepEqual(linearTicks(bad), [0, 1]);
  for (let high = 1e-7; high < 1e9; high *= 1.37) {
    const ticks = linearTicks(high, 4);
    assert.ok(ticks.at(-1) >= high * (1 - 1e-6) && ticks.length <= 5 && ticks.length >= 2, `${high}: ${ticks}`);
    assert.ok(ticks.at(-2) < high, `no empty step above ${high}`);
  }
});

test("logarithmic ticks enclose the values and stay few", () => {
  assert.deepEqual(decadeTicks(0.13, 1.7), [0.1, 0.2, 0.5, 1, 2]);
  assert.deepEqual(decadeTicks(30, 900), [20, 50, 100, 200, 500, 1000]);
  assert.deepEqual(decadeTicks(3, 3), [2, 5]);
  assert.deepEqual(decadeTicks(1, 1), [1, 2]);
  for (let low = 1e-8; low < 1e4; low *= 2.3)
    for (const ratio of [1, 3, 9, 80, 1e5, 1e12]) {
      const ticks = decadeTicks(low, low * ratio);
      assert.ok(
        ticks[0] <= low * (1 + 1e-6) && ticks.at(-1) >= low * ratio * (1 - 1e-6),
        `${low} × ${ratio}: ${ticks}`,
      );
      assert.ok(ticks.length >= 2 && ticks.length <= 7, `${low} × ${ratio}: ${ticks}`);
      assert.deepEqual(
        [...new Set(ticks)].toSorted((a, b) => a - b),
        ticks,
      );
    }
});

test("an axis is logarithmic where the values differ much, and never with a zero on it", () => {
  assert.equal(axisFor([10, 100]).log, true);
  assert.equal(axisFor([10, 20]).log, false);
  assert.equal(axisFor([0, 10, 100]).log, false);
  assert.equal(axisFor([10, 100], { scale: "linear" }).log, false);
  assert.equal(axisFor([]).log, false);
  const { at } = axisFor([1, 10, 100]);
  assert.ok([1, 10, 100].every((value, i) => Math.abs(at(value) - i / 2) < 1e-12));
  const tight = axisFor([102400, 512], { most: 3, tight: true });
  assert.deepEqual([tight.ticks, tight.at(51200)], [[0, 50000, 100000], 0.5], "a tight axis ends where the data end");
  assert.equal(axisFor([NaN, 30, Infinity]).high, 30, "what is no number does not set the scale");
});

test("a path leaves a gap where there is no number", () => {
  const same = (v) => v;
  assert.equal(linePath([0, 1, 2, 3], [5, 6, NaN, 8], same, same), "M0.0 5.0L1.0 6.0M3.0 8.0");
  assert.equal(linePath([0, 1], [0, 10], same, Math.log10), "M1.0 1.0", "a log axis has no 0");
  assert.equal(linePath([], [], same, same), "");
});

test("labels move apart, keep their order and stay inside where they fit", () => {
  assert.deepEqual(dodge([50, 10], 12, 0, 100), [50, 10], "far apart: left alone");
  const placed = dodge([98, 99, 97, 20], 12, 0, 100);
  assert.deepEqual(placed, [88, 100, 76, 20]);
  const many = dodge(Array(8).fill(50), 12, 0, 100).toSorted((a, b) => a - b);
  for (let i = 1; i < many.length; i++) assert.ok(many[i] - many[i - 1] >= 12 - 1e-9);
});

test("a label far from the others stays at the end of its line", () => {
  assert.deepEqual(endPlaces([180, 100, 180, 178], [50, 52, 51, 80], 60, [0, 100]), [50, 52, 62, 80]);
  assert.deepEqual(endPlaces([], [], 60, [0, 100]), []);
});

test("forty-two lines look different before one look comes again", () => {
  const looks = Array.from({ length: 42 }, (_, i) => JSON.stringify(lineLook(i)));
  assert.equal(new Set(looks).size, LINE_COLOURS * LINE_DASHES.length);
  assert.deepEqual(lineLook(42), lineLook(0));
  for (let i = 1; i < 6; i++) assert.notEqual(lineLook(i).colour, lineLook(0).colour);
});
