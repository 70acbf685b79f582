// The probes view: a grid of probes as a heat map beside its baselines, one cell opened, and your own text classified.
import { draw, pressable, show } from "../_shared/draw.js";
import { hasModifier, keepKeys, stepInTable } from "../_shared/keys.js";
import { drawStrip } from "../_shared/strips.js";
import { saveAs, setterOf, startOrStop, wire } from "../_shared/view.js";

const BROAD = 600; // pixels of a heat map beside which nothing else has room
const TEXT_HELP = {
  off:
    "Pass the features, the model and its SAE to classify your own text: " +
    "Probes(grid, features, model=model, sae=sae).",
  page: "Your own text needs a running notebook; this page holds stored data only.",
};
const BOX = { rows: 2, spellcheck: "false", dir: "auto", "aria-label": "Your own text" };

function frameOfView({ head, figures, own_text: ownText }) {
  const options = figures.map(([name, words]) => ["option", { value: name }, words]);
  const box = ["textarea", { ...BOX, placeholder: "Type or paste a text" }];
  return draw([
    "section",
    { class: "panel probes", "aria-label": "Probes" },
    [
      "div",
      { class: "probes-head" },
      head,
      ["button", { type: "button", class: "go" }],
      [
        "span",
        { class: "exports" },
        ["label", {}, "figure ", ["select", { class: "figure" }, ...options]],
        ["button", { type: "button", class: "save" }, "Save CSV"],
      ],
    ],
    ["div", { class: "progress" }, ["progress", { "aria-label": "Cells done" }], ["span", { class: "faint" }]],
    ["p", { class: "alert", role: "alert" }],
    ["div", { class: "said" }],
    [
      "div",
      { class: "probes-body" },
      ["div", { class: "heat-side" }, ["div", { class: "heat-maps" }], ["p", { class: "faint readout" }]],
      [
        "section",
        { class: "own", "aria-label": "Your own text" },
        ["h3", {}, "Classify your own text"],
        ownText === "live" ? box : ["p", { class: "faint" }, TEXT_HELP[ownText]],
        ["p", { class: "class", role: "status" }],
        ["div", { class: "result" }],
      ],
      [
        "div",
        { class: "cell-side" },
        ["section", { class: "cell", "aria-label": "Selected cell" }],
        ["section", { class: "feature-card", "aria-label": "Selected feature" }],
      ],
    ],
  ]);
}

function render({ model, el }) {
  const set = setterOf(model);
  const root = frameOfView(model.get("_facts"));
  const part = (name) => root.querySelector(`.saekit-${name}`);
  const [figure, go, save, progress] = ["figure", "go", "save", "progress"].map(part);
  const [maps, readout, own, result] = ["heat-maps", "readout", "own", "result"].map(part);
  const [cell, card, said, words] = ["cell", "feature-card", "said", "class"].map(part);
  const box = root.querySelector("textarea");
  const drawGo = startOrStop(go, model);
  keepKeys(root);
  el.append(root);

  // Of this display only, never state: which class the lists and the shading are of.
  let listed = null;
  let shaded = null;
  let predicted = null; // the class of the text that is shown: another one is shaded at once

  const live = () => model.get("_has_kernel");
  const hasGrid = () => model.get("_said").length > 0;
  const nameOf = (node) => JSON.parse(node.dataset.set)[1];
  const cellsIn = (place) => [...place.querySelectorAll("[role=gridcell]")];
  const showClass = (place, number) => {
    for (const one of place.querySelectorAll("[data-class]")) one.hidden = one.dataset.class !== String(number);
  };

  function drawControls() {
    const [done, all] = model.get("_progress");
    const busy = model.get("busy");
    root.setAttribute("aria-busy", String(busy));
    go.hidden = !live() || (hasGrid() && !busy);
    drawGo(busy ? "stop" : "start");
    if (!busy) go.textContent = "Compute the grid";
    progress.hidden = done === undefined;
    const [bar, counted] = progress.children;
    if (all) [bar.max, bar.value] = [all, done];
    else bar.removeAttribute("value");
    counted.textContent = all ? `${done} of ${all} cells` : "the first cell is under way";
    part("alert").textContent = model.get("error");
    for (const option of figure.options) option.hidden = !live() && !model.get("_maps")[option.value];
    figure.value = model.get("figure");
    for (const one of [figure.parentElement, save, own]) one.hidden = !hasGrid();
  }

  function drawMaps() {
    show(said, model.get("_said"));
    const drawn = model.get("_maps");
    show(maps, [drawn[model.get("figure")] ?? drawn.macro_f1 ?? model.get("_facts").nothing]);
    const width = maps.querySelector("svg")?.getAttribute("width");
    part("probes-body").classList.toggle("saekit-broad", Number(width) > BROAD);
    drawSelection();
  }

  /** One tab stop a table: the selected cell, else the first. */
  function drawSelection() {
    for (const table of maps.querySelectorAll("[role=grid]")) {
      const all = cellsIn(table);
      const chosen = all.find((node) => nameOf(node) === model.get("value"));
      for (const node of all) {
        node.setAttribute("aria-selected", String(node === chosen));
        node.setAttribute("tabindex", node === (chosen ?? all[0]) ? 0 : -1);
      }
    }
    readout.textContent = "";
  }

  function drawCell() {
    const { name, panel } = model.get("_card");
    const held = cell.contains(document.activeElement);
    show(cell, [name === model.get("value") ? panel : null]);
    const chooser = cell.querySelector("select");
    if (chooser) {
      const many = chooser.options.length;
      if (listed === null || listed >= many) listed = many === 2 ? 1 : 0;
      chooser.value = listed;
      showClass(cell, listed);
    }
    if (held) keepFocus(cell, cell.querySelector("[tabindex='0']"));
    drawFeature();
  }

  /** A focus that falls to the page would hand the next key to JupyterLab's command mode. */
  function keepFocus(place, other) {
    if (!place.contains(document.activeElement)) other?.focus({ preventScroll: true });
  }

  function drawFeature() {
    const feature = model.get("feature");
    const { name, site, unread } = model.get("_card");
    card.hidden = feature === null || name !== model.get("value") || !unread;
    const contexts = model.get("_contexts")[`${site}/${feature}`] ?? unread;
    show(card, card.hidden ? [] : [["h4", {}, `Feature ${feature}`], contexts]);
    for (const button of root.querySelectorAll("[data-feature]"))
      button.setAttribute("aria-pressed", String(button.dataset.feature === String(feature)));
  }

  function drawText() {
    if (box && box.value !== model.get("text") && document.activeElement !== box) box.value = model.get("text");
  }

  function drawResult() {
    const { cell: by, class: number, said: told = "", panel } = model.get("_outcome");
    const held = result.contains(document.activeElement);
    if (words.textContent !== told) words.textContent = told;
    show(result, [panel], (strip) => drawStrip(strip, { onselect: tellPart }).node);
    result.classList.toggle("saekit-late", by !== model.get("value"));
    if (number !== predicted || !result.querySelector(`[data-shade="${shaded}"]`)) shaded = number;
    predicted = number;
    drawShaded();
    if (held) keepFocus(result, result.querySelector("[aria-pressed=true]") ?? box);
  }

  function drawShaded() {
    showClass(result, shaded);
    for (const button of result.querySelectorAll("[data-shade]"))
      button.setAttribute("aria-pressed", String(button.dataset.shade === String(shaded)));
    drawFeature();
  }

  function tellPart(token) {
    part("part").textContent = `${JSON.stringify(token.raw)}: ${token.words} ${token.exact}`;
  }

  figure.addEventListener("change", () => set("figure", figure.value));
  save.addEventListener("click", () => saveAs("probes.csv", "text/csv", model.get("_csv")));
  box?.addEventListener("input", () => set("text", box.value));
  cell.addEventListener("change", (event) => {
    listed = Number(event.target.value);
    showClass(cell, listed);
  });
  result.addEventListener("click", (event) => {
    const button = event.target.closest("[data-shade]");
    if (!button) return;
    shaded = Number(button.dataset.shade);
    drawShaded();
  });

  const cellAt = (event) => event.target.closest?.("[role=gridcell]") ?? null;
  const tell = (event) => {
    const node = cellAt(event);
    if (node) readout.textContent = `${node.querySelector("title").textContent}. ${node.dataset.told}`;
  };
  maps.addEventListener("pointerover", tell);
  maps.addEventListener("focusin", tell);
  maps.addEventListener("click", (event) => cellAt(event)?.focus({ preventScroll: true }));
  maps.addEventListener("keydown", (event) => {
    const node = cellAt(event);
    if (!node || hasModifier(event)) return;
    const rows = [...node.closest("[role=grid]").querySelectorAll("[role=row]")].map(cellsIn);
    const row = rows.findIndex((all) => all.includes(node));
    const next = stepInTable(event.key, [row, rows[row].indexOf(node)], rows.length, rows[0].length);
    if (event.key === "Enter" || event.key === " ") set("value", nameOf(node));
    else if (next === null) return;
    else {
      const to = rows[next[0]][next[1]];
      for (const other of rows.flat()) other.setAttribute("tabindex", other === to ? 0 : -1);
      to.focus();
    }
    event.preventDefault();
  });
  pressable(root, set);

  [drawControls, drawMaps, drawCell, drawText, drawResult].forEach((one) => one());
  return wire(model, {
    _said: [drawControls, drawMaps],
    _maps: [drawControls, drawMaps],
    figure: [drawControls, drawMaps],
    value: [drawSelection, drawCell, drawResult],
    _card: drawCell,
    _contexts: drawFeature,
    feature: drawFeature,
    text: drawText,
    _outcome: drawResult,
    _progress: drawControls,
    busy: drawControls,
    error: drawControls,
  });
}

export default { render };
