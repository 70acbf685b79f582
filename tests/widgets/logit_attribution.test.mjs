import assert from "node:assert/strict";
import test from "node:test";
import { isCurrent, promptHint, selectedItem, staleWords, toggled } from "../../widgets/logit_attribution/question.js";

const asked = {
  prompt: "a b",
  answer: " Mary",
  foil: " John",
  baseline: "zero",
  corrupted: "",
  hook: "blocks.1.hook_resid_post",
};

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
  const say = (more) =>
    staleWords({ shown, asked, method: "direct", words: "exact patching", busy: false, error: "", ...more });
  assert.equal(say({}), "");
  assert.match(say({ error: "the answer is two tokens" }), /last question that could be read/);
  assert.match(say({ busy: true, method: "patching" }), /question before; computing/);
  assert.match(say({ method: "exact" }), /exact patching takes seconds and waits for Compute/);
  assert.match(say({ asked: { ...asked, prompt: "x" } }), /earlier question/);
  assert.equal(staleWords({ shown: {}, asked, method: "direct", busy: true, error: "" }), "Computing …");
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

test("ticks stay in order", () => {
  assert.deepEqual([toggled([2, 9], 5), toggled([2, 9], 9)], [[2, 5, 9], [2]]);
});
