// The steering view.
import { h } from "./dom.js";

function render({ el }) {
  el.append(h("section", { class: "saekit-view saekit-steering", "aria-label": "Steering" }));
}

export default { render };
