import assert from "node:assert/strict";
import test from "node:test";
import {
  ablationWords,
  agreementWords,
  barName,
  barScale,
  barsCsv,
  attributionRecord,
  baselineWords,
  cellShade,
  isCurrent,
  nextCell,
  pictureWords,
  predictionWords,
  promptHint,
  readingName,
  selectedItem,
  staleWords,
  toggled,
} from "../../widgets/logit_attribution/data.js";

const bar = (kind, effect, more = {}) => ({
  kind,
  feature: -1,
  position: -1,
  token: "",
  items: 1,
  activation: null,
  effect,
  running: effect,
  ...more,
});
const asked = {
  prompt: "a b",
  answer: " Mary",
  foil: " John",
  baseline: "zero",
  corrupted: "",
  hook: "blocks.1.hook_resid_post",
};

test("bars lie on both sides of a zero that they share", () => {
  const { zero, unit } = barScale([bar("rest", 3), bar("bias", -1)]);
  assert.deepEqual([zero, unit], [0.25, 0.25]);
  assert.deepEqual(barScale([bar("rest", 2)]), { zero: 0, unit: 0.5 });
  assert.equal(barScale([bar("rest", 0)]).unit, 1, "nothing to show is no division by zero");
});

test("bars have names that show whitespace", () => {
  assert.equal(barName(bar("feature", 1, { feature: 7, token: " to" })), "feature 7 at ·to");
  assert.equal(barName(bar("error", 1, { items: 15 })), "reconstruction error, 15 tokens");
  assert.equal(barName(bar("error", 1, { token: "\n" })), "reconstruction error at ↵");
  assert.deepEqual(
    ["others", "bias", "rest", "output_bias"].map((kind) => barName(bar(kind, 1, { items: 1234 }))),
    ["1,234 other features", "bias of the SAE", "rest of the model", "output bias"],
  );
  assert.equal(readingName(asked), "·Mary − ·John");
  assert.equal(readingName({ answer: " Mary", foil: "" }), "·Mary");
});

test("keys move over the picture and stop at its edges", () => {
  const go = (key, row, column) => nextCell(key, row, column, 3, 5);
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

test("a cell is shaded by the strongest feature, never in a column that is left out", () => {
  const bars = [bar("rest", 9), bar("feature", -2)];
  assert.deepEqual(
    [
      cellShade(1, bars, false),
      cellShade(-5, bars, false),
      cellShade(1, bars, true),
      cellShade(0.03, bars, false),
      cellShade(1, [], false),
    ],
    [0.5, 1, 0, 0, 0],
  );
});

test("what is shown is current only if it answers what is asked", () => {
  const shown = { asked, method: "patching" };
  assert.ok(isCurrent(shown, asked, "patching"));
  assert.ok(!isCurrent(shown, asked, "exact"));
  assert.ok(!isCurrent(shown, { ...asked, answer: " Sue" }, "patching"));
  assert.ok(
    isCurrent(shown, { ...asked, corrupted: "typed before" }, "patching"),
    "a text that is not compared with does not matter",
  );
  assert.ok(!isCurrent(shown, { ...asked, baseline: "corrupted" }, "patching"));
  assert.ok(
    isCurrent({ asked, method: "direct" }, { ...asked, baseline: "corrupted", corrupted: "x" }, "direct"),
    "direct compares with nothing",
  );
  assert.ok(!isCurrent({}, asked, "direct"));
});

test("a picture that is not current says why", () => {
  const shown = { asked, method: "direct" };
  const say = (more) => staleWords({ shown, asked, method: "direct", busy: false, error: "", ...more });
  assert.equal(say({}), "");
  assert.match(say({ error: "the answer is two tokens" }), /last question that could be read/);
  assert.match(say({ busy: true, method: "patching" }), /question before; computing/);
  assert.match(say({ method: "exact" }), /exact patching takes seconds and waits for Compute/);
  assert.match(say({ asked: { ...asked, prompt: "x" } }), /earlier question/);
  assert.equal(staleWords({ shown: {}, asked, method: "direct", busy: true, error: "" }), "Computing …");
});

test("agreement and ablation are told in words", () => {
  assert.equal(agreementWords("direct", []), "");
  assert.equal(
    agreementWords("direct", [
      { method: "exact", items: 9, correlation: -0.5, same_sign: 0.97 },
      { method: "patching", items: 3, correlation: null, same_sign: 1 },
    ]),
    "Agreement of direct with exact: r = −0.50, 97 % of the effect with the same sign; " +
      "patching: 3 shared items, too flat to compare.",
  );
  assert.equal(ablationWords({ ablated: [], control: [] }), "");
  assert.equal(
    ablationWords({ ablated: [4], control: [9], kl: 1.333, kl_control: 0.004 }),
    "1 feature ablated at every token, error kept: KL 1.33 nats from the original; " +
      "with 1 random active feature: KL 0.00.",
  );
  assert.equal(
    predictionWords({ probability: 0.5, ablated: 0.25, control: 0.4 }),
    "50 %, 25 % with the ticked features ablated, 40 % with random ones ablated",
  );
  assert.equal(predictionWords({ probability: 0.5, ablated: null, control: null }), "50 %");
  assert.deepEqual([toggled([2, 9], 5), toggled([2, 9], 9)], [[2, 5, 9], [2]]);
});

test("effects say what they are measured against", () => {
  assert.match(baselineWords(asked, "direct"), /final norm/);
  assert.match(baselineWords({ ...asked, baseline: "corrupted", corrupted: "c d" }, "exact"), /“c d”/);
  assert.match(pictureWords("direct"), /each token's own prediction/);
  assert.match(pictureWords("exact"), /last token's prediction/);
});

test("a space at the end of a prompt is pointed out", () => {
  assert.match(promptHint("gave it to "), /ends with a space/);
  assert.deepEqual(["gave it to", "", "  "].map(promptHint), ["", "", ""]);
});

test("a value names an item of the layer that is shown, or none", () => {
  assert.deepEqual(selectedItem(["h", 3, -1], "h"), { position: 3, feature: -1 });
  assert.equal(selectedItem(["h", 3, 7], "other"), null);
  assert.equal(selectedItem(null, "h"), null);
});

test("tokens with commas, quotes and line breaks stay in their field", () => {
  const csv = barsCsv({ bars: [bar("feature", 1.5, { feature: 2, position: 0, token: ',"\n', activation: 3 })] });
  assert.equal(
    csv,
    'kind,feature,position,token,items,activation,effect,running\nfeature,2,0,",""\n",1,3.000000,1.500000,1.500000\n',
  );
  assert.equal(barsCsv({}), "kind,feature,position,token,items,activation,effect,running\n");
});

test("the record holds the picture by row", () => {
  const shown = {
    asked,
    method: "direct",
    tokens: ["a", "b"],
    reading: 1,
    total: 1,
    sum: 1,
    exact: true,
    check: "",
    bars: [],
    features: [4],
    left: [],
  };
  const record = attributionRecord(shown, new Float32Array([1, 2, 3, 4]), {});
  assert.deepEqual(
    [record.picture, record.predictions, record.features],
    [
      [
        [1, 2],
        [3, 4],
      ],
      [],
      [4],
    ],
  );
  assert.deepEqual(attributionRecord({}, new Float32Array(), {}), {});
});
