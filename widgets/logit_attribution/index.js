// The logit attribution view: the question on top, then what the model says, the bars, the item in focus, the picture.
import { float32, signed, visible } from "../_shared/lib.js";
import { download, guardKeys, h } from "../_shared/dom.js";
import { shortHook } from "../_shared/contexts.js";
import {
  METHOD_WORDS,
  SLOW_METHODS,
  agreementWords,
  attributionRecord,
  barsCsv,
  baselineWords,
  isCurrent,
  nextCell,
  pictureWords,
  promptHint,
  readingName,
  selectedItem,
  staleWords,
  toggled,
} from "./data.js";
import { attributionGrid, barTable, itemCard, predictionTable } from "./draw.js";

const PAUSE = 250; // ms without a key before a text is sent
const FIELDS = ["prompt", "answer", "foil", "corrupted"];

function render({ model, el }) {
  const put = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const live = model.get("_has_kernel");
  const fields = Object.fromEntries(FIELDS.map((name) => [name, textField(name)]));
  const chooser = (name, label, options) =>
    h(
      "select",
      { "aria-label": label, disabled: !live && name !== "method", onchange: (event) => put(name, event.target.value) },
      ...options.map(([value, words]) => h("option", { value }, words)),
    );
  const method = chooser("method", "Method", Object.entries(METHOD_WORDS));
  const baseline = chooser("baseline", "Compared with", [
    ["zero", "all features at zero"],
    ["mean", "their means over the prompt"],
    ["corrupted", "another prompt"],
  ]);
  const hook = chooser(
    "hook",
    "Layer",
    model.get("_facts").hooks.map((name) => [name, shortHook(name)]),
  );
  const go = h("button", {
    type: "button",
    class: "saekit-go",
    onclick: () => go.dataset.kind && press(go.dataset.kind === "stop" ? "_stops" : "_starts"),
  });
  const press = (counter) => put(counter, model.get(counter) + 1);
  const compared = h("label", {}, h("span", {}, "compared with "), baseline);
  const doing = h("span", { class: "saekit-faint", role: "status" });
  const alert = h("p", { class: "saekit-alert", role: "alert" });
  const stale = h("p", { class: "saekit-stale-note", role: "status" });
  const status = h("p", { class: "saekit-silent", role: "status" });
  const says = h("section", { class: "saekit-says-part", "aria-label": "Predictions" });
  const bars = h("section", { class: "saekit-bars-part", "aria-label": "Contributions" });
  const card = h("section", { class: "saekit-card", "aria-label": "Selected item" });
  const grid = h("section", { class: "saekit-grid-part", "aria-label": "Picture" });
  const body = h("div", { class: "saekit-attribution-body" }, says, bars, card, grid);
  const root = h(
    "section",
    { class: "saekit-panel saekit-attribution", "aria-label": "Logit attribution" },
    h(
      "div",
      { class: "saekit-attribution-head" },
      h("h2", {}, "Logit attribution"),
      h("p", { class: "saekit-faint" }, model.get("_facts").model),
      h(
        "span",
        { class: "saekit-exports" },
        h(
          "button",
          { type: "button", onclick: () => download("attribution.csv", "text/csv", barsCsv(model.get("_shown"))) },
          "Save CSV",
        ),
        h(
          "button",
          {
            type: "button",
            onclick: () =>
              download(
                "attribution.json",
                "application/json",
                JSON.stringify(attributionRecord(model.get("_shown"), values(), model.get("_outcome")), null, 1),
              ),
          },
          "Save JSON",
        ),
      ),
    ),
    h(
      "div",
      { class: "saekit-question" },
      fields.prompt.node,
      h("div", { class: "saekit-tokens" }, fields.answer.node, fields.foil.node),
    ),
    h(
      "div",
      { class: "saekit-choices" },
      h("label", {}, "method ", method),
      model.get("_facts").hooks.length > 1 ? h("label", {}, "layer ", hook) : null,
      compared,
      go,
      doing,
    ),
    fields.corrupted.node,
    alert,
    stale,
    status,
    body,
  );
  guardKeys(root);
  el.append(root);
  let cells = []; // of the picture, by row and column

  /** A text box that is sent once the typing pauses, with its own place for what is wrong with it. */
  function textField(name) {
    const words = {
      prompt: "prompt",
      answer: "answer",
      foil: "foil (empty: none)",
      corrupted: "prompt to compare with",
    }[name];
    const long = name === "prompt" || name === "corrupted";
    const id = `saekit-${Math.random().toString(36).slice(2)}`;
    const wrong = h("p", { class: "saekit-alert", id, role: "alert" });
    const read = h("span", { class: "saekit-faint saekit-read", "aria-hidden": "true" });
    const box = h(long ? "textarea" : "input", {
      rows: long ? 2 : null,
      type: long ? null : "text",
      spellcheck: "false",
      autocomplete: "off",
      dir: "auto",
      "aria-label": words,
      readonly: !live,
    });
    let timer = null;
    const send = () => {
      clearTimeout(timer);
      timer = null;
      if (box.value !== model.get(name)) put(name, box.value);
    };
    box.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(send, PAUSE);
      tell();
    });
    box.addEventListener("change", send);
    const hint = h("p", { class: "saekit-faint" });
    const tell = () => {
      read.textContent = long ? "" : visible(box.value);
      hint.textContent = long ? promptHint(box.value) : "";
    };
    const node = h(
      "div",
      { class: `saekit-field saekit-field-${name}` },
      h("label", {}, h("span", {}, words), read, box),
      hint,
      wrong,
    );
    const draw = () => {
      if (timer === null && box.value !== model.get(name)) box.value = model.get(name);
      tell();
      const about = model.get("_wrong") === name && model.get("error");
      wrong.textContent = about || "";
      if (about) box.setAttribute("aria-invalid", "true");
      else box.removeAttribute("aria-invalid");
      if (about) box.setAttribute("aria-describedby", id);
      else box.removeAttribute("aria-describedby");
    };
    return { node, draw };
  }

  const values = () => float32(model.get("_shown").picture);
  const asked = () =>
    Object.fromEntries(
      ["prompt", "answer", "foil", "baseline", "corrupted", "hook"].map((name) => [name, model.get(name)]),
    );
  const chosen = () => selectedItem(model.get("value"), model.get("_shown").asked?.hook);
  const select = ({ feature, position }) => put("value", [model.get("_shown").asked.hook, position, feature]);
  const tick = live ? (feature) => put("ablated", toggled(model.get("ablated"), feature)) : null;

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
    const busy = model.get("busy");
    const error = model.get("error");
    const current = isCurrent(model.get("_shown"), asked(), model.get("method"));
    const words = staleWords({ shown: model.get("_shown"), asked: asked(), method: model.get("method"), busy, error });
    root.setAttribute("aria-busy", String(busy));
    body.classList.toggle("saekit-stale", Boolean(words) && Boolean(model.get("_shown").asked));
    stale.textContent = words;
    alert.textContent = FIELDS.includes(model.get("_wrong")) ? "" : error;
    const kind = busy ? "stop" : current && !error ? "" : "start";
    go.textContent = { stop: "Stop", start: "Compute", "": "Up to date" }[kind];
    go.dataset.kind = kind;
    // Not `disabled`: that would throw the focus out of the view, into JupyterLab's command mode.
    go.setAttribute("aria-disabled", String(!kind));
    go.hidden = !live;
    doing.textContent =
      busy && SLOW_METHODS.includes(model.get("method")) ? `${model.get("_doing") || "at work"} …` : "";
  }

  function drawSays() {
    const outcome = model.get("_outcome");
    if (!outcome.rows) return says.replaceChildren();
    says.replaceChildren(h("h3", {}, "The model says"), ...predictionTable(outcome));
  }

  /** Redraw a part; a focus in it moves to what `again` finds in the new one, never to the page. */
  function redraw(part, nodes, again) {
    const held = part.contains(document.activeElement) ? again(document.activeElement) : null;
    part.replaceChildren(...nodes.filter(Boolean));
    if (held) (part.querySelector(held) ?? part.querySelector("[tabindex='0']") ?? go).focus({ preventScroll: true });
  }

  function drawBars() {
    const shown = model.get("_shown");
    if (!shown.asked) return bars.replaceChildren();
    const what = shown.asked.foil ? "logit difference" : "logit";
    redraw(
      bars,
      [
        h("h3", {}, h("bdi", {}, readingName(shown.asked)), ` = ${signed(shown.reading)}`),
        h(
          "p",
          { class: "saekit-faint" },
          `${what}, by ${METHOD_WORDS[shown.method]}: ${baselineWords(shown.asked, shown.method)}`,
        ),
        h("div", { class: "saekit-table-frame" }, barTable(shown, { ticked: model.get("ablated"), tick, select })),
        h(
          "p",
          { class: "saekit-check" },
          h("span", { class: "saekit-verdict", "aria-hidden": "true" }, shown.exact ? "✓" : "≠"),
          ` ${shown.check}`,
        ),
        h("p", { class: "saekit-faint saekit-agreement" }, agreementWords(shown.method, model.get("_agreement"))),
      ],
      sameAgain,
    );
    status.textContent = `${readingName(shown.asked)} = ${signed(shown.reading)}, ${METHOD_WORDS[shown.method]}`;
    drawSelection();
  }

  function sameAgain(focused) {
    const row = focused.closest("tr");
    const { feature, position, kind } = row?.dataset ?? {};
    const control = focused.matches("input") ? "input" : "button";
    return `tr[data-feature="${feature}"][data-position="${position}"][data-kind="${kind}"] ${control}`;
  }

  function drawPicture() {
    const shown = model.get("_shown");
    if (!shown.asked) return grid.replaceChildren();
    const words = pictureWords(shown.method);
    const made = attributionGrid(shown, values(), model.get("_contexts"), words);
    cells = made.cells;
    redraw(
      grid,
      [
        h("h3", {}, "Where in the prompt"),
        h("p", { class: "saekit-faint" }, words),
        h("div", { class: "saekit-table-frame" }, made.node),
      ],
      () => "[aria-selected=true]",
    );
    drawSelection();
  }

  function drawSelection() {
    const item = chosen();
    const same = (one) => item !== null && one.feature === item.feature && one.position === item.position;
    const buttons = [...bars.querySelectorAll(".saekit-item")];
    const at = buttons.map((button) => ({
      feature: Number(button.closest("tr").dataset.feature),
      position: Number(button.closest("tr").dataset.position),
    }));
    const here = at.findIndex(same);
    buttons.forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === here));
      button.closest("tr").classList.toggle("saekit-now", i === here);
      button.tabIndex = i === Math.max(0, here) ? 0 : -1;
    });
    let stop = cells[0]?.at(-1);
    for (const cell of cells.flat()) {
      const now = same(cell.saekitItem);
      cell.setAttribute("aria-selected", String(now));
      cell.tabIndex = -1;
      if (now) stop = cell;
    }
    if (stop) stop.tabIndex = 0;
    drawTicks();
    drawCard();
  }

  function drawTicks() {
    const ticked = model.get("ablated");
    for (const box of root.querySelectorAll("input[type=checkbox]"))
      box.checked = ticked.includes(Number(box.dataset.feature));
  }

  function drawCard() {
    const shown = model.get("_shown");
    if (!shown.asked) return card.replaceChildren();
    const item = chosen();
    if (!item)
      return redraw(
        card,
        [h("p", { class: "saekit-faint" }, "Choose a bar or a cell of the picture to read what that feature is.")],
        () => "p",
      );
    const row = shown.bars.find(
      (one) =>
        one.feature === item.feature && one.position === item.position && ["feature", "error"].includes(one.kind),
    );
    const line = [...shown.features, -1].indexOf(item.feature);
    const value = row
      ? row.effect
      : line < 0 || shown.tokens[item.position] === undefined
        ? null
        : values()[line * shown.tokens.length + item.position];
    const indexed = model.get("_facts").indexed.length > 0 && live;
    redraw(
      card,
      itemCard(item, shown, value, {
        row,
        contexts: model.get("_contexts"),
        indexed,
        ticked: model.get("ablated"),
        tick,
      }),
      () => "input",
    );
  }

  bars.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || !event.target.matches(".saekit-item")) return;
    const buttons = [...bars.querySelectorAll(".saekit-item")];
    buttons[Math.min(buttons.length - 1, Math.max(0, buttons.indexOf(event.target) + by))].focus();
    event.preventDefault();
  });
  grid.addEventListener("click", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (!cell) return;
    select(cell.saekitItem);
    cell.focus({ preventScroll: true });
  });
  grid.addEventListener("keydown", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") select(cell.saekitItem);
    else {
      const row = cells.findIndex((line) => line.includes(cell));
      const next = nextCell(event.key, row, cells[row].indexOf(cell), cells.length, cells[0].length);
      if (!next) return;
      cells[next[0]][next[1]].focus();
    }
    event.preventDefault();
  });

  const draws = {
    "change:_shown": [drawState, drawBars, drawPicture],
    "change:_agreement": [drawBars],
    "change:_outcome": [drawSays],
    "change:_contexts": [drawPicture],
    "change:ablated": [drawTicks],
    "change:value": [drawSelection],
  };
  for (const name of [...FIELDS, "baseline", "hook", "method", "_wrong", "error"])
    draws[`change:${name}`] = [drawQuestion];
  for (const name of ["busy", "_doing"]) draws[`change:${name}`] = [drawState];
  const wired = Object.entries(draws).flatMap(([event, all]) => all.map((draw) => [event, draw]));
  wired.forEach(([event, draw]) => model.on(event, draw));
  [drawQuestion, drawSays, drawBars, drawPicture].forEach((draw) => draw());
  return () => wired.forEach(([event, draw]) => model.off(event, draw));
}

export default { render };
