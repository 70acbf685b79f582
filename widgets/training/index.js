// The training view: curves of all runs side by side, feature densities of one, Start and Stop.
import { draw, show } from "../_shared/draw.js";
import { keepKeys } from "../_shared/keys.js";
import { setterOf, wire } from "../_shared/view.js";

const SPOKEN_EVERY = 15000; // milliseconds between two reports of figures to a screen reader
const BAR = { role: "progressbar", "aria-label": "Progress of all runs", "aria-valuemin": 0, "aria-valuemax": 100 };
const LEGEND = { class: "legend", role: "group", "aria-label": "Runs: switch their curves on and off" };
const FRAME = { class: "values-frame", tabindex: 0, role: "region", "aria-label": "Last values" };

function render({ model, el }) {
  const set = setterOf(model);
  const { names, legend } = model.get("_about");
  const options = names.map((name) => ["option", { value: name }, name]);
  const root = draw([
    "section",
    { class: "panel training", "aria-label": "Training" },
    ["div", { class: "training-head" }],
    [
      "div",
      { class: "pace" },
      ["button", { type: "button", class: "go" }],
      ["div", { class: "pace-bar", ...BAR }, ["span", {}]],
      ["p", { class: "pace-words" }],
    ],
    ["p", { class: "alert", role: "alert" }],
    ["p", { class: "silent", role: "status" }],
    ["div", LEGEND, ...legend],
    ["div", { class: "curves" }],
    [
      "div",
      { class: "below" },
      [
        "div",
        {},
        [
          "div",
          { class: "density-head" },
          ["h3", {}, "Feature density"],
          ["select", { "aria-label": "Run whose densities are shown" }, ...options],
        ],
        ["div", { class: "densities" }],
      ],
      ["div", FRAME],
    ],
  ]);
  const part = (name) => root.querySelector(`.saekit-${name}`);
  const [head, go, bar, words, alertLine] = ["training-head", "go", "pace-bar", "pace-words", "alert"].map(part);
  const [status, curves, densities, values] = ["silent", "curves", "densities", "values-frame"].map(part);
  const buttons = [...part("legend").children];
  const chosen = root.querySelector("select");
  chosen.hidden = names.length < 2;
  chosen.addEventListener("change", () => set("value", chosen.value));
  go.addEventListener("click", () => {
    const { press } = model.get("_progress");
    if (press) set(press, model.get(press) + 1);
  });
  const toggle = (changed) => {
    const hidden = model.get("hidden");
    const off = names.filter((name) => hidden.includes(name) !== (name === changed));
    set("hidden", off);
  };
  buttons.forEach((button, i) => button.addEventListener("click", () => toggle(names[i])));
  keepKeys(root);
  el.append(root);

  let spokenAt = 0;
  let spokenStates = "";
  /** Tell a screen reader of every change of state at once, of figures now and then. */
  function speak({ states, spoken }) {
    const due = model.get("busy") && Date.now() - spokenAt > SPOKEN_EVERY;
    if (spokenStates && (states !== spokenStates || due)) {
      spokenAt = Date.now();
      status.textContent = spoken;
    }
    spokenStates = states;
  }

  function drawProgress() {
    const progress = model.get("_progress");
    go.textContent = progress.action;
    // Not `disabled`: that would throw the focus out of the view, into JupyterLab's command mode.
    go.setAttribute("aria-disabled", String(!progress.press));
    go.hidden = !model.get("_has_kernel");
    bar.firstChild.style.setProperty("--saekit-share", progress.share);
    bar.setAttribute("aria-valuenow", String(Math.round(100 * progress.share)));
    words.textContent = progress.words;
    root.setAttribute("aria-busy", String(model.get("busy")));
    speak(progress);
  }

  function drawPanels() {
    const panels = model.get("_panels");
    show(head, [panels.head]);
    show(curves, [panels.curves]);
    show(values, [panels.values]);
    drawHidden();
  }

  /** At once, as the kernel may be running a cell; it then sends the other curves on axes of their own. */
  function drawHidden() {
    const hidden = model.get("hidden");
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(!hidden.includes(names[i]))));
    for (const line of curves.querySelectorAll("[data-line]"))
      line.toggleAttribute("hidden", hidden.includes(line.dataset.line));
  }

  function drawDensity() {
    chosen.value = model.get("value");
    show(densities, [model.get("_densities")[model.get("value")]]);
  }

  const drawError = () => (alertLine.textContent = model.get("error"));
  for (const drawn of [drawProgress, drawPanels, drawDensity, drawError]) drawn();
  return wire(model, {
    _progress: drawProgress,
    busy: drawProgress,
    _panels: drawPanels,
    hidden: drawHidden,
    value: drawDensity,
    _densities: drawDensity,
    error: drawError,
  });
}

export default { render };
