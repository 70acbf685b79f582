// The steering view: choose, run, read both texts beside each other and what steering costs.
import { draw, make, show } from "../_shared/draw.js";
import { keepKeys } from "../_shared/keys.js";
import { drawStrip } from "../_shared/strips.js";
import { doingWords, saveAs, setterOf, wire } from "../_shared/view.js";
import { sameTexts, timesFactor } from "./state.js";
import { steeringControls } from "./controls.js";

const BASELINES = [
  ["prompt", "asks for the concept in words instead of steering: “Talk about …”"],
  ["difference of means", "along the mean of texts with the concept minus that of texts without it"],
  ["random direction", "along a direction drawn by lot, with the seed"],
  ["random feature", "along a live feature drawn by lot, with the seed"],
];
const SWEEPS = [
  ["sweep", "Sweep", "a quarter, a half, one, two and four times the strengths that are set"],
  ["sweep with baselines", "Sweep with baselines", "and the baselines, their edits as long: about four times the work"],
];
const WORDS = [
  ["topic", "concept in words", "e.g. the sea", "for the baseline that asks for it: “Talk about …”"],
  ["concept", "words that count as it", "e.g. sea|ship|wave", "a regular expression; the next run counts such words"],
];

function render({ model, el }) {
  const live = model.get("_has_kernel");
  const put = setterOf(model);
  // What the reader has chosen, until the kernel answers; then what the kernel says.
  let pending = null;
  const draft = () => pending ?? model.get("setting");
  const wish = (setting, button) => {
    const last = model.get("_wish");
    const asked = { ...last.asked };
    if (button) asked[button] = (asked[button] ?? 0) + 1;
    pending = setting;
    put("_wish", { turn: (last.turn ?? 0) + 1, setting, asked });
    controls.draw();
    drawState();
  };
  const press = (button) => wish(draft(), button);
  const say = (words) => (alert.textContent = words);

  const controls = steeringControls(model, draft, wish, say);
  const go = make("button", { type: "button", class: "go", onclick: () => press("run") }, "Run");
  const halt = make(
    "button",
    { type: "button", class: "stop", onclick: () => model.get("busy") && put("_stops", model.get("_stops") + 1) },
    "Stop",
  );
  const doing = make("span", { class: "quiet doing" });
  const status = make("p", { class: "unseen", role: "status" });
  const alert = make("p", { class: "error", role: "alert" });
  const older = make("p", { class: "quiet older" });
  const note = make("div", { class: "ran" });
  const texts = make("div", { class: "texts" });
  const key = make("div");
  const words = WORDS.map(([name, label, placeholder, title]) => {
    const oninput = (event) => wish({ ...draft(), [name]: event.target.value });
    const box = ["input", { type: "text", "data-name": name, placeholder, oninput }];
    return make("label", { class: "option", title }, ["span", { class: "quiet" }, label], box);
  });
  const compare = make(
    "div",
    { class: "compare", role: "group", "aria-label": "Baselines", hidden: !live },
    ["span", { class: "quiet" }, "compare with"],
    ...BASELINES.map(([name, help]) => [
      "button",
      { type: "button", title: `${help}; its edit as long as the steered text's`, onclick: () => press(name) },
      name,
    ]),
    ...words,
  );
  const sweeps = SWEEPS.map(([name, label, title]) => [
    "button",
    { type: "button", title, onclick: () => press(name) },
    label,
  ]);
  const figures = make("div");
  const sweep = make(
    "section",
    { class: "sweep", "aria-label": "Strength sweep" },
    live ? ["div", { class: "compare" }, ["span", { class: "quiet" }, "vary the strength"], ...sweeps] : null,
    figures,
  );
  const root = make(
    "section",
    { class: "panel view steering", "aria-label": "Steering" },
    ["div", { class: "steering-top" }, model.get("_head"), settingFile(draft, wish, say, live)],
    controls.node,
    ["div", { class: "run" }, ...(live ? [go, halt] : []), doing, older],
    alert,
    status,
    note,
    texts,
    key,
    compare,
    sweep,
  );
  keepKeys(root);
  figures.addEventListener("click", (event) => {
    const use = event.target.closest("[data-factor]");
    if (!use) return;
    const { unit, features } = model.get("_sweep").setting;
    wish(timesFactor({ ...draft(), unit, features }, Number(use.dataset.factor)));
  });
  el.append(root);

  function drawState() {
    const busy = model.get("busy");
    root.setAttribute("aria-busy", String(busy));
    // Not `disabled`: that would throw the focus out of the view, into JupyterLab's command mode.
    halt.setAttribute("aria-disabled", String(!busy));
    go.textContent = busy ? "Run again" : "Run";
    doing.textContent = doingWords(model);
    const ran = model.get("_ran");
    older.textContent = ran.features && !sameTexts(ran, draft()) ? "The texts below are of an earlier setting." : "";
    for (const label of words) {
      const box = label.querySelector("input");
      if (document.activeElement !== box) box.value = draft()[box.dataset.name] ?? "";
    }
  }

  let shown = []; // of each text what is drawn, as JSON: a text that grows leaves the others alone

  function drawTexts() {
    const wanted = model.get("_texts").map(([, panel]) => JSON.stringify(panel));
    const places = [...texts.children];
    wanted.forEach((panel, i) => {
      if (panel === shown[i]) return;
      const column = textColumn(JSON.parse(panel));
      if (places[i]) places[i].replaceWith(column);
      else texts.append(column);
    });
    places.slice(wanted.length).forEach((place) => place.remove());
    shown = wanted;
    const read = texts.querySelector("[data-effect]") !== null;
    show(key, read ? [model.get("_key")] : []);
    show(note, [model.get("_note")]);
    if (!wanted.length) show(note, [model.get("_note"), ["p", { class: "quiet" }, "not run yet"]]);
    if (status.textContent !== model.get("_said")) status.textContent = model.get("_said");
  }

  function drawSweep() {
    const { panel } = model.get("_sweep");
    show(figures, [panel]);
    for (const cell of figures.querySelectorAll(".saekit-take-over")) cell.hidden = !live;
    sweep.hidden = !live && !panel;
  }

  function drawSetting() {
    if (model.get("_heard") >= (model.get("_wish").turn ?? 0)) pending = null;
    controls.draw();
    drawState();
  }

  const drawError = () => say(model.get("error"));
  [drawSetting, drawTexts, drawSweep, drawError].forEach((one) => one());
  return wire(model, {
    setting: drawSetting,
    _heard: [drawSetting, drawError],
    error: drawError,
    busy: drawState,
    _doing: drawState,
    _ran: drawState,
    _note: drawTexts,
    _texts: drawTexts,
    _said: drawTexts,
    _sweep: drawSweep,
    _cards: controls.drawCards,
    _walk: controls.drawWalk,
    order: controls.drawWalk,
    _hits: controls.drawHits,
  });
}

/** One text; a token that is chosen tells its figures in the line below. */
function textColumn(panel) {
  const column = draw(panel, (strip) => {
    const say = ({ raw, exact }) =>
      (column.querySelector(".saekit-pointed").textContent = `${JSON.stringify(raw)} · ${exact}`);
    return drawStrip(strip, { onselect: say }).node;
  });
  return column;
}

/** Buttons that save the setting to a file and read one. */
function settingFile(draft, wish, say, live) {
  async function load(chosen) {
    file.value = "";
    if (!chosen) return;
    try {
      wish(JSON.parse(await chosen.text()));
    } catch {
      say("This file is no saved setting: expected the JSON that Save setting writes.");
    }
  }
  const accept = ".json,application/json";
  const onchange = () => load(file.files[0]);
  const file = make("input", { type: "file", accept, hidden: true, "aria-label": "Setting file", onchange });
  const save = () => saveAs("steering.json", "application/json", JSON.stringify(draft(), null, 1));
  return make(
    "span",
    { class: "exports" },
    ["button", { type: "button", onclick: save }, "Save setting"],
    live ? ["button", { type: "button", onclick: () => file.click() }, "Load setting"] : null,
    file,
  );
}

export default { render };
