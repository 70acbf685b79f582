// A text box that is sent once the typing pauses, with its own place for what is wrong with it.
import { make } from "../_shared/draw.js";
import { visible } from "../_shared/lib.js";
import { setterOf } from "../_shared/view.js";
import { promptHint } from "./question.js";

const PAUSE = 250; // ms without a key before a text is sent
const FIELD_NAMES = {
  prompt: "prompt",
  answer: "answer",
  foil: "foil (empty: none)",
  corrupted: "prompt to compare with",
};

/** Returns {node, draw} of the field for this trait. */
export function textField(model, name) {
  const put = setterOf(model);
  const words = FIELD_NAMES[name];
  const long = name === "prompt" || name === "corrupted";
  const id = `saekit-${Math.random().toString(36).slice(2)}`;
  const wrong = make("p", { class: "alert", id, role: "alert" });
  const read = make("span", { class: "faint read", "aria-hidden": "true" });
  const hint = make("p", { class: "faint" });
  const box = make(long ? "textarea" : "input", {
    rows: long ? 2 : null,
    type: long ? null : "text",
    spellcheck: "false",
    autocomplete: "off",
    dir: "auto",
    "aria-label": words,
    readonly: !model.get("_has_kernel"),
  });
  let timer = null;
  const send = () => {
    clearTimeout(timer);
    timer = null;
    put(name, box.value);
  };
  const tell = () => {
    read.textContent = long ? "" : visible(box.value);
    hint.textContent = long ? promptHint(box.value) : "";
  };
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(send, PAUSE);
    tell();
  });
  box.addEventListener("change", send);
  const label = ["label", {}, ["span", {}, words], read, box];
  const node = make("div", { class: `field field-${name}` }, label, hint, wrong);

  function drawField() {
    if (timer === null && box.value !== model.get(name)) box.value = model.get(name);
    tell();
    const about = model.get("_wrong") === name && model.get("error");
    wrong.textContent = about || "";
    if (about) box.setAttribute("aria-invalid", "true");
    else box.removeAttribute("aria-invalid");
    if (about) box.setAttribute("aria-describedby", id);
    else box.removeAttribute("aria-describedby");
  }

  return { node, draw: drawField };
}
