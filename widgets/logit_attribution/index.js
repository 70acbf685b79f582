// The logit attribution view: the question on top, then what the model says, the bars, the item in focus, the picture.
import { draw, make, show } from "../_shared/draw.js";
import { hasModifier, keepKeys, stepInTable } from "../_shared/keys.js";
import { doingWords, saveAs, setterOf, startOrStop, wire } from "../_shared/view.js";
import { isCurrent, selectedItem, staleWords, toggled, SLOW_METHODS } from "./question.js";
import { textField } from "./field.js";
import { itemCard } from "./card.js";

const FIELDS = ["prompt", "answer", "foil", "corrupted"];
const BASELINES = [
  ["zero", "all features at zero"],
  ["mean", "their means over the prompt"],
  ["corrupted", "another prompt"],
];

function render({ model, el }) {
  const put = setterOf(model);
  const live = model.get("_has_kernel");
  const facts = model.get("_facts");
  const fields = Object.fromEntries(FIELDS.map((name) => [name, textField(model, name)]));
  const chooser = (name, label, options) =>
    make(
      "select",
      { "aria-label": label, disabled: !live && name !== "method", onchange: (event) => put(name, event.target.value) },
      ...options.map(([value, words]) => ["option", { value }, words]),
    );
  const method = chooser("method", "Method", facts.methods);
  const baseline = chooser("baseline", "Compared with", BASELINES);
  const hook = chooser("hook", "Layer", facts.hooks);
  const go = make("button", { type: "button", class: "go" });
  const drawGo = startOrStop(go, model);
  const compared = make("label", {}, ["span", {}, "compared with "], baseline);
  const doing = make("span", { class: "faint", role: "status" });
  const alert = make("p", { class: "alert", role: "alert" });
  const stale = make("p", { class: "stale-note", role: "status" });
  const status = make("p", { class: "silent", role: "status" });
  const head = make("div", { class: "attribution-asked" });
  const part = (name, label) => make("section", { class: name, "aria-label": label });
  const [says, bars] = [part("says-part", "Predictions"), part("bars-part", "Contributions")];
  const [card, grid] = [part("card", "Selected item"), part("grid-part", "Picture")];
  const body = make("div", { class: "attribution-body" }, says, bars, card, grid);
  const root = make(
    "section",
    { class: "panel attribution", "aria-label": "Logit attribution" },
    ["div", { class: "attribution-head" }, head, exportButtons(model)],
    [
      "div",
      { class: "question" },
      fields.prompt.node,
      ["div", { class: "tokens" }, fields.answer.node, fields.foil.node],
    ],
    [
      "div",
      { class: "choices" },
      ["label", {}, "method ", method],
      facts.hooks.length > 1 ? ["label", {}, "layer ", hook] : null,
      compared,
      go,
      doing,
    ],
    fields.corrupted.node,
    alert,
    stale,
    status,
    body,
  );
  keepKeys(root);
  el.append(root);

  const names = ["prompt", "answer", "foil", "baseline", "corrupted", "hook"];
  const asked = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const chosen = () => selectedItem(model.get("value"), model.get("_shown").asked?.hook);
  const itemAt = ({ dataset }) => ({ feature: Number(dataset.feature), position: Number(dataset.position) });
  const select = ({ feature, position }) => put("value", [model.get("_shown").asked.hook, position, feature]);

  function drawQuestion() {
    for (const name of FIELDS) fields[name].draw();
    method.value = model.get("method");
    baseline.value = model.get("baseline");
    hook.value = model.get("hook");
    const direct = model.get("method") === "direct";
    compared.hidden = direct;
    fields.corrupted.node.hidden = direct || model.get("baseline") !== "corrupted";
    drawState();
  }

  function drawState() {
    const [busy, error, shown] = ["busy", "error", "_shown"].map((name) => model.get(name));
    const chosenMethod = model.get("method");
    const named = facts.methods.find(([name]) => name === chosenMethod)[1];
    const words = staleWords({ shown, asked: asked(), method: chosenMethod, words: named, busy, error });
    root.setAttribute("aria-busy", String(busy));
    body.classList.toggle("saekit-stale", Boolean(words) && Boolean(shown.asked));
    stale.textContent = words;
    alert.textContent = FIELDS.includes(model.get("_wrong")) ? "" : error;
    const kind = busy ? "stop" : isCurrent(shown, asked(), chosenMethod) && !error ? "" : "start";
    drawGo(kind);
    go.hidden = !live;
    doing.textContent = SLOW_METHODS.includes(chosenMethod) ? doingWords(model) : "";
  }

  const drawHead = () => show(head, [model.get("_head")]);
  const drawSays = () => show(says, [model.get("_says").panel]);

  /** Redraw a part; a focus in it moves to what `again` finds in the new one, never to the page. */
  function redraw(place, panels, again) {
    const held = place.contains(document.activeElement) ? again(document.activeElement) : null;
    show(place, panels);
    if (held) (place.querySelector(held) ?? place.querySelector("[tabindex='0']") ?? go).focus({ preventScroll: true });
  }

  function drawShown() {
    const { panels = {}, said = "" } = model.get("_shown");
    redraw(bars, [panels.bars], sameAgain);
    redraw(grid, [panels.picture, panels.contexts], () => "[aria-selected=true]");
    for (const box of bars.querySelectorAll("input")) box.disabled = !live;
    status.textContent = said;
    drawState();
    drawSelection();
  }

  function sameAgain(focused) {
    const { feature, position, kind } = focused.closest("tr")?.dataset ?? {};
    const control = focused.matches("input") ? "input" : "button";
    return `tr[data-feature="${feature}"][data-position="${position}"][data-kind="${kind}"] ${control}`;
  }

  function drawSelection() {
    const item = chosen();
    const same = (one) => item !== null && one.feature === item.feature && one.position === item.position;
    const buttons = [...bars.querySelectorAll(".saekit-item")];
    const here = buttons.findIndex((button) => same(itemAt(button.closest("tr"))));
    buttons.forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === here));
      button.closest("tr").classList.toggle("saekit-now", i === here);
      button.tabIndex = i === Math.max(0, here) ? 0 : -1;
    });
    const cells = [...grid.querySelectorAll("[role=gridcell]")];
    let stop = grid.querySelector("tbody tr")?.lastChild;
    for (const cell of cells) {
      const now = same(itemAt(cell));
      cell.setAttribute("aria-selected", String(now));
      cell.tabIndex = -1;
      if (now) stop = cell;
    }
    if (stop) stop.tabIndex = 0;
    drawCard();
  }

  function drawTicks() {
    const ticked = model.get("ablated");
    for (const box of root.querySelectorAll("input[type=checkbox]"))
      box.checked = ticked.includes(Number(box.dataset.feature));
  }

  function drawCard() {
    const { items } = model.get("_shown");
    const panels = items ? itemCard(chosen(), items, facts.indexed && live, live) : [];
    redraw(card, panels, (focused) => focused.localName);
    drawTicks();
  }

  root.addEventListener("change", ({ target }) => {
    if (target.matches("input[type=checkbox]"))
      put("ablated", toggled(model.get("ablated"), Number(target.dataset.feature)));
  });
  bars.addEventListener("click", (event) => {
    const button = event.target.closest(".saekit-item");
    if (button) select(itemAt(button.closest("tr")));
  });
  bars.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by || hasModifier(event) || !event.target.matches(".saekit-item")) return;
    const buttons = [...bars.querySelectorAll(".saekit-item")];
    buttons[Math.min(buttons.length - 1, Math.max(0, buttons.indexOf(event.target) + by))].focus();
    event.preventDefault();
  });
  grid.addEventListener("click", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (!cell) return;
    select(itemAt(cell));
    cell.focus({ preventScroll: true });
  });
  grid.addEventListener("keydown", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (!cell || hasModifier(event)) return;
    if (event.key === "Enter" || event.key === " ") select(itemAt(cell));
    else {
      const lines = [...grid.querySelectorAll("tbody tr")].map((line) => [...line.querySelectorAll("[role=gridcell]")]);
      const row = lines.findIndex((line) => line.includes(cell));
      const next = stepInTable(event.key, [row, lines[row].indexOf(cell)], lines.length, lines[0].length);
      if (!next) return;
      lines[next[0]][next[1]].focus();
    }
    event.preventDefault();
  });

  [drawHead, drawQuestion, drawSays, drawShown].forEach((one) => one());
  const question = [...FIELDS, "baseline", "hook", "method", "_wrong", "error"];
  return wire(model, {
    ...Object.fromEntries(question.map((name) => [name, drawQuestion])),
    busy: drawState,
    _doing: drawState,
    _head: drawHead,
    _says: drawSays,
    _shown: drawShown,
    ablated: drawTicks,
    value: drawSelection,
  });
}

/** Buttons that save what is shown: texts that Python wrote, so that they are the same as there. */
function exportButtons(model) {
  const csv = () => saveAs("attribution.csv", "text/csv", model.get("_shown").csv ?? "");
  const json = () => {
    const { record } = model.get("_shown");
    const whole = record ? { ...record, ...model.get("_says").record } : {};
    saveAs("attribution.json", "application/json", JSON.stringify(whole, null, 1));
  };
  return draw([
    "span",
    { class: "exports" },
    ["button", { type: "button", onclick: csv }, "Save CSV"],
    ["button", { type: "button", onclick: json }, "Save JSON"],
  ]);
}

export default { render };
