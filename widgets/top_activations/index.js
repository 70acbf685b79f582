// The top-activations view: examples, histogram, logits and neighbours of one feature, and your own text.
import { draw, pressable, show } from "../_shared/draw.js";
import { hasModifier, keepKeys } from "../_shared/keys.js";
import { setterOf, wire } from "../_shared/view.js";
import { chooser } from "../_shared/chooser.js";
import { exampleList } from "./examples.js";
import { promptPanel } from "./prompt_panel.js";

const SIDE_PANELS = ["histogram", "logits", "neighbours"];

function render({ model, el }) {
  const set = setterOf(model);
  const choose = chooser(model, (feature) => {
    set("value", feature);
    choose.draw(); // a feature that was refused (an exported page) leaves the number as it was
  });
  const own = promptPanel(model);
  const root = draw([
    "section",
    { class: "panel view top", "aria-label": "Top activations" },
    ["p", { class: "error", role: "alert" }],
    ["header", { class: "head" }],
    ["p", { class: "unseen", role: "status" }],
    ["div", { class: "columns" }, ["div", { class: "main" }], ["div", { class: "side" }]],
  ]);
  const part = (name) => root.querySelector(`.saekit-${name}`);
  const [alertLine, head, status, main, side] = ["error", "head", "unseen", "main", "side"].map(part);
  root.prepend(choose.node);
  root.append(own.node);
  keepKeys(root);
  pressable(root, (trait, value) => {
    set(trait, value);
    choose.draw();
  });
  root.addEventListener("keydown", (event) => {
    if (hasModifier(event) || event.target.closest("input, textarea, select")) return;
    if (event.key === "t") own.focus();
    else if (!choose.press(event.key)) return;
    event.preventDefault();
  });
  el.append(root);

  /** Until the kernel answers (it may be running a cell), the old card fades: it is not the chosen feature's. */
  function waiting() {
    const late = model.get("_card").feature !== model.get("value");
    root.classList.toggle("saekit-waiting", late);
    root.setAttribute("aria-busy", String(late));
    choose.draw();
  }

  function drawCard() {
    const { panels, said, dead } = model.get("_card");
    const within = [main, head, side, own.node].find((place) => place.contains(document.activeElement));
    show(head, [panels.head]);
    main.replaceChildren(dead ? draw(panels.examples) : exampleList(panels.examples));
    show(
      side,
      SIDE_PANELS.map((name) => panels[name]),
    );
    status.textContent = said;
    waiting();
    own.drawResult();
    // A focus that falls to the page would hand the next key to JupyterLab's command mode.
    if (!within || root.contains(document.activeElement)) return;
    const stop = within === main ? main.querySelector("[role=option][tabindex='0']") : null;
    (stop ?? head.querySelector("h2")).focus({ preventScroll: true });
  }

  const drawError = () => (alertLine.textContent = model.get("error"));
  drawError();
  drawCard();
  choose.drawHits();
  return wire(model, {
    _card: drawCard,
    value: waiting,
    order: choose.draw,
    _walk: choose.draw,
    _hits: choose.drawHits,
    prompt: own.drawPrompt,
    busy: own.drawBusy,
    _result: own.drawResult,
    token: own.drawToken,
    error: drawError,
  });
}

export default { render };
