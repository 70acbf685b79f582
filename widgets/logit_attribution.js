// The logit attribution view.
import { h } from "./dom.js";

function render({ model, el }) {
  el.append(h("p", {}, model.get("prompt")));
}

export default { render };
