// The circuit view: the picture with its slider, the card of a node, faithfulness, exports.
import { draw, show } from "../_shared/draw.js";
import { hasModifier, keepKeys } from "../_shared/keys.js";
import { doingWords, saveAs, setterOf, startOrStop, wire } from "../_shared/view.js";
import { drawPictureOf, nextNode, placeOf, standalonePicture, wholePicture } from "./picture.js";

const button = (words, name, more = {}) => ["button", { type: "button", class: name, ...more }, words];
const share = (name) => ["div", {}, ["dt", {}, name], ["dd", {}]];
const POINT =
  "Point at a node, or walk over them with the arrow keys, to read what it is; click or press Enter to select it.";

function frameOfView(facts) {
  return draw([
    "section",
    { class: "panel circuit", "aria-label": "Circuit" },
    [
      "div",
      { class: "circuit-head" },
      facts.head,
      button("", "go"),
      button("Measure the curve", "more-sizes", {
        title: "Measure circuits of 0, 1, 3, 10, 30, 100, 300 and 1000 features",
      }),
      ["span", { class: "exports" }, button("Save SVG", "save-svg"), button("Save JSON", "save-json")],
    ],
    [
      "div",
      { class: "circuit-controls" },
      [
        "label",
        { class: "threshold" },
        ["span", {}, "features kept"],
        ["input", { type: "range", min: 0, max: facts.most, step: 1, "aria-label": "Features kept" }],
        ["output", {}],
      ],
      [
        "label",
        {},
        "reconstruction errors ",
        ["select", {}, ["option", { value: "kept" }, "kept"], ["option", { value: "ablated" }, "ablated"]],
      ],
      ["dl", { class: "shares" }, share("faithfulness"), share("completeness")],
    ],
    ["p", { class: "faint doing" }],
    ["p", { class: "alert", role: "alert" }],
    ["p", { class: "silent", role: "status" }],
    [
      "div",
      { class: "circuit-body" },
      ["div", { class: "picture-frame" }],
      [
        "div",
        { class: "circuit-side" },
        ["div", { class: "card", role: "region", "aria-label": "Node" }],
        ["div", { class: "curve-side" }],
      ],
    ],
    [
      "details",
      { class: "all-nodes" },
      ["summary", {}, "Nodes as a table"],
      ["div", { class: "table-frame", tabindex: 0, role: "region", "aria-label": "Nodes" }],
    ],
    ["div", { class: "notes" }],
  ]);
}

function render({ model, el }) {
  const set = setterOf(model);
  const root = frameOfView(model.get("_facts"));
  const part = (name) => root.querySelector(name);
  const [slider, count, errors] = [part("input"), part("output"), part("select")];
  const [go, more, frame] = [part(".saekit-go"), part(".saekit-more-sizes"), part(".saekit-picture-frame")];
  const [card, curve, table] = [part(".saekit-card"), part(".saekit-curve-side"), part(".saekit-table-frame")];
  const drawGo = startOrStop(go, model);
  keepKeys(root);
  el.append(root);

  let picture = { node: null, options: [] }; // what is drawn
  let hovered = null; // numbers of nodes: of this display only, never state
  let focused = null;

  const numberOf = (option) => Number(option.dataset.node);
  const numbers = () => picture.options.map(numberOf);
  const point = () => model.get("_measured")[`${model.get("errors")}/${model.get("size")}`];
  const named = (number) => model.get("_record").nodes[number].node;
  const select = (number) => set("value", named(number));

  /** The number of the selected node; null where none is, or one that is not in the picture. */
  function chosen() {
    const value = JSON.stringify(model.get("value"));
    const at = (model.get("_record").nodes ?? []).findIndex(({ node }) => JSON.stringify(node) === value);
    return at < 0 ? null : at;
  }

  function drawControls() {
    const { counts } = model.get("_facts");
    const size = model.get("size");
    const busy = model.get("busy");
    const live = model.get("_has_kernel");
    const known = Boolean(model.get("_drawing").kept);
    const measured = point();
    slider.value = size;
    slider.setAttribute("aria-valuetext", counts[size]);
    count.textContent = counts[size];
    errors.value = model.get("errors");
    root.querySelectorAll(".saekit-shares dd").forEach((value, i) => (value.textContent = measured?.shares[i] ?? "…"));
    root.setAttribute("aria-busy", String(busy));
    const kind = busy ? "stop" : measured && known ? "" : "start";
    drawGo(kind);
    more.setAttribute("aria-disabled", String(busy || !known));
    go.hidden = more.hidden = !live;
    const missing = measured || live ? "" : "This size was not measured: open the view in a notebook to measure it.";
    part(".saekit-doing").textContent = doingWords(model) || missing;
    part(".saekit-alert").textContent = model.get("error");
    const status = part("[role=status]");
    if (measured && measured.told !== status.textContent) status.textContent = measured.told;
  }

  const drawNotes = () => show(part(".saekit-notes"), model.get("_about"));

  function drawCurve() {
    const open = curve.querySelector("details")?.open ?? false;
    show(curve, [model.get("_curve")[model.get("errors")]]);
    if (open) curve.querySelector("details")?.setAttribute("open", "");
    const size = String(model.get("size"));
    for (const node of curve.querySelectorAll("[data-size]"))
      node.classList.toggle("saekit-now", node.dataset.size === size);
  }

  function drawTable() {
    if (model.get("_table").length) show(table, [model.get("_table")]);
    const kept = new Set(numbers());
    for (const row of table.querySelectorAll("[data-node]")) row.hidden = !kept.has(numberOf(row));
  }

  function drawPicture() {
    const { parts, frames } = model.get("_drawing")[model.get("errors")] ?? {};
    const held = frame.contains(document.activeElement);
    const panel = frames?.[Math.min(model.get("size"), frames.length - 1)] ?? [
      "p",
      { class: "nothing" },
      "No circuit yet.",
    ];
    picture = drawPictureOf(wholePicture(panel, parts));
    frame.replaceChildren(picture.node);
    const kept = numbers();
    if (!kept.includes(hovered)) hovered = null;
    if (!kept.includes(focused)) focused = null;
    drawTable();
    drawSelection();
    if (held) picture.options[kept.indexOf(stop())]?.focus({ preventScroll: true });
  }

  /** The node that Tab reaches: the one focused last, else the selected one, else the strongest. */
  function stop() {
    const kept = numbers();
    return [focused, chosen(), kept[0]].find((number) => kept.includes(number));
  }

  function drawSelection() {
    const at = chosen();
    const tabbed = stop();
    for (const option of picture.options) {
      option.setAttribute("aria-selected", String(numberOf(option) === at));
      option.setAttribute("tabindex", numberOf(option) === tabbed ? 0 : -1);
    }
    drawCard();
  }

  function drawCard() {
    const number = hovered ?? focused ?? chosen();
    for (const edge of root.querySelectorAll("[data-ends]"))
      edge.classList.toggle("saekit-edge-near", edge.dataset.ends.split(" ").includes(String(number)));
    const panel = model.get("_cards")[number];
    const value = model.get("value");
    const outside = value && model.get("_cards").length;
    const hint = outside
      ? `Feature ${value[2]} of ${value[0]} at ${value[1]} is not among the nodes of this picture.`
      : POINT;
    show(card, [panel ?? ["p", { class: "faint" }, hint]]);
    const left = card.querySelector(".saekit-outside");
    if (left) left.hidden = numbers().includes(number);
  }

  function saveRecord() {
    const { nodes = [], edges = [], ...about } = model.get("_record");
    const kept = numbers();
    const { faithfulness = null, completeness = null } = point() ?? {};
    const record = {
      ...about,
      size: model.get("size"),
      errors: model.get("errors"),
      faithfulness,
      completeness,
      nodes: kept.map((number) => nodes[number]),
      edges: edges
        .filter(([source, target]) => kept.includes(source) && kept.includes(target))
        .map(([source, target, weight]) => ({ source: named(source), target: named(target), weight })),
    };
    saveAs("circuit.json", "application/json", JSON.stringify(record, null, 1));
  }

  slider.addEventListener("input", () => set("size", Number(slider.value)));
  errors.addEventListener("change", () => set("errors", errors.value));
  more.addEventListener("click", () => model.get("busy") || set("_curves", model.get("_curves") + 1));
  part(".saekit-save-json").addEventListener("click", saveRecord);
  part(".saekit-save-svg").addEventListener("click", () => {
    if (picture.options.length) saveAs("circuit.svg", "image/svg+xml", standalonePicture(picture.node));
  });

  const optionAt = (event) => event.target.closest?.("[role=option]") ?? null;
  const numberAt = (event) => (optionAt(event) ? numberOf(optionAt(event)) : null);
  frame.addEventListener("pointerover", (event) => {
    const over = numberAt(event);
    if (over === hovered) return;
    hovered = over;
    drawCard();
  });
  frame.addEventListener("pointerleave", () => {
    hovered = null;
    drawCard();
  });
  frame.addEventListener("focusin", (event) => {
    const now = numberAt(event);
    if (now === null || now === focused) return;
    focused = now;
    hovered = null;
    drawSelection();
  });
  frame.addEventListener("focusout", (event) => {
    if (frame.contains(event.relatedTarget) || !event.target.isConnected) return;
    focused = null;
    drawCard();
  });
  frame.addEventListener("click", (event) => {
    if (!optionAt(event)) return;
    select(numberAt(event));
    optionAt(event).focus({ preventScroll: true });
  });
  frame.addEventListener("keydown", (event) => {
    if (!optionAt(event) || hasModifier(event)) return;
    if (event.key === "Enter" || event.key === " ") select(numberAt(event));
    else {
      const next = nextNode(event.key, picture.options.indexOf(optionAt(event)), picture.options.map(placeOf));
      if (next === null) return;
      picture.options[next].focus();
    }
    event.preventDefault();
  });

  [drawControls, drawPicture, drawCurve, drawNotes].forEach((one) => one());
  return wire(model, {
    _about: drawNotes,
    _drawing: [drawControls, drawPicture],
    _record: drawSelection,
    _table: drawTable,
    _cards: drawCard,
    _measured: drawControls,
    _curve: drawCurve,
    _doing: drawControls,
    busy: drawControls,
    error: drawControls,
    size: [drawControls, drawPicture, drawCurve],
    errors: [drawControls, drawPicture, drawCurve],
    value: drawSelection,
  });
}

export default { render };
