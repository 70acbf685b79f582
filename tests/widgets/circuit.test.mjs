import assert from "node:assert/strict";
import test from "node:test";
import { nextNode, placeOf, wholePicture } from "../../widgets/circuit/picture.js";

test("keys walk along a layer and jump to the nearest node of the next", () => {
  const place = (layer, position, x, y) => ({ layer, position, x, y });
  const places = [
    place(0, 0, 60, 300),
    place(0, 1, 140, 300),
    place(0, 1, 178, 300),
    place(2, 1, 159, 100),
    place(2, 0, 60, 100),
  ];
  const go = (key, at) => nextNode(key, at, places);
  assert.deepEqual([go("ArrowRight", 0), go("ArrowRight", 1), go("ArrowRight", 2)], [1, 2, 2]);
  assert.deepEqual([go("ArrowLeft", 0), go("End", 0), go("Home", 2)], [0, 2, 0]);
  assert.deepEqual([go("ArrowUp", 0), go("ArrowUp", 1), go("ArrowUp", 3)], [4, 3, 3], "an empty layer is skipped");
  assert.deepEqual([go("ArrowDown", 4), go("ArrowDown", 0), go("Tab", 0), go("ArrowUp", 9)], [0, 0, null, null]);
});

test("a node says where it is", () => {
  const option = { dataset: { layer: "1", position: "2" }, getAttribute: () => "translate(130.5 200)" };
  assert.deepEqual(placeOf(option), { layer: 1, position: 2, x: 130.5, y: 200 });
});

test("a picture is put together of its parts, each in its place", () => {
  const parts = { n0: ["g", { "data-node": "0" }, ["text", {}, "7"]] };
  const frame = ["svg", { width: 9 }, ["g", {}, "ground"], ["part", { of: "n0", transform: "translate(1 2)" }]];
  assert.deepEqual(wholePicture(frame, parts), [
    "svg",
    { width: 9 },
    ["g", {}, "ground"],
    ["g", { "data-node": "0", transform: "translate(1 2)" }, ["text", {}, "7"]],
  ]);
});
