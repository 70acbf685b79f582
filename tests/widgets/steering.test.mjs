import assert from "node:assert/strict";
import test from "node:test";
import {
  inUnit,
  isOff,
  sameTexts,
  sliderRange,
  startValue,
  timesFactor,
  typedNumber,
} from "../../widgets/steering/state.js";

const row = (mode, value, maximum = 50) => ({ feature: 7, mode, value, maximum });
const setting = {
  prompt: "x",
  features: [row("add", 1)],
  unit: "max",
  positions: "all",
  temperature: 0,
  seed: 0,
  max_new_tokens: 8,
  chat: null,
  topic: "",
  concept: "",
};

test("a feature is off when nothing is added, or scaled by one; clamped to zero it is ablated", () => {
  assert.deepEqual([row("add", 0), row("scale", 1), row("clamp", 0), row("ablate", 0), row("add", 0.1)].map(isOff), [
    true,
    true,
    false,
    false,
    false,
  ]);
});

test("every unit has a slider with its zero inside", () => {
  for (const unit of ["max", "norm", "activation"]) {
    for (const mode of ["add", "clamp", "scale"]) {
      const { min, max, step } = sliderRange(row(mode, 1), unit);
      assert.ok(min < 0 && max > 0 && step > 0 && step < max);
      const start = startValue(row(mode, 1), unit);
      assert.ok(start > 0 && start < max);
    }
  }
});

test("another unit keeps what a strength means where it can", () => {
  const moved = inUnit(setting, "activation");
  assert.equal(moved.features[0].value, 50);
  assert.deepEqual(inUnit(moved, "max"), setting);
  assert.equal(inUnit(setting, "norm").features[0].value, 0.5);
  const scaled = { ...setting, features: [row("scale", 3)] };
  assert.equal(inUnit(scaled, "norm").features[0].value, 3);
});

test("numbers are read as people type them", () => {
  assert.deepEqual(["1.5", " −2 ", "1,5", "1e400", "-∞", "Infinity"].map(typedNumber), [1.5, -2, 1.5, 1e9, -1e9, 1e9]);
  assert.deepEqual(["", "much", "1.2.3"].map(typedNumber), [null, null, null]);
});

test("texts are of another setting once anything that writes them has changed", () => {
  assert.ok(sameTexts(setting, { ...setting, topic: "sea", concept: "sea" }));
  for (const change of [{ prompt: "y" }, { features: [] }, { seed: 2 }, { positions: [1, 2] }])
    assert.ok(!sameTexts(setting, { ...setting, ...change }));
});

test("a point of the sweep as a setting does what the point did", () => {
  // x gets s·v (add), clamps to s·v, x − s f (ablate), x + s (c − 1) f (scale): see Intervention.strength.
  const all = { ...setting, features: [row("add", 2), row("clamp", 3), row("ablate", 1), row("scale", 3)] };
  const by = timesFactor(all, 0.5).features;
  assert.deepEqual(
    by.map(({ mode, value }) => [mode, value]),
    [
      ["add", 1],
      ["clamp", 1.5],
      ["scale", 0.5],
      ["scale", 2],
    ],
  );
});
