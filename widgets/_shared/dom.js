// Building blocks of the probes view, which draws for itself. Text reaches the page as text nodes and attributes only.
import { step } from "./lib.js";

/** Create an element: attributes, `onclick`-style listeners, children (strings become text nodes). */
export function h(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Keep plain keys inside the view: in JupyterLab's command mode `b` adds a cell and `d d` deletes one. */
export function guardKeys(node) {
  node.addEventListener("keydown", (event) => {
    const leaves = event.key === "Tab" || event.key === "Escape" || event.ctrlKey || event.metaKey || event.altKey;
    if (!leaves) event.stopPropagation();
  });
}

/**
 * A strip of tokens: a listbox with one tab stop; arrows, Home and End move and select.
 * `onselect(cell, node)` hears of every choice. Cells may stand in nested elements.
 */
export function tokenStrip(label, content, { onselect, tabbable = true }) {
  const list = h(
    "div",
    { class: "saekit-strip", role: "listbox", "aria-orientation": "horizontal", "aria-label": label, dir: "ltr" },
    ...content,
  );
  const options = () => [...list.querySelectorAll("[role=option]")];
  const first = () => list.querySelector("[data-saekit-first]") ?? list.querySelector("[role=option]");
  const choose = (node, quietly) => {
    for (const option of options()) {
      option.setAttribute("aria-selected", String(option === node));
      option.tabIndex = -1;
    }
    const stop = node ?? first();
    if (stop && (tabbable || node)) stop.tabIndex = 0;
    if (node && !quietly) onselect(node.saekitCell, node);
  };
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (!option) return;
    option.focus({ preventScroll: true });
    choose(option);
  });
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const all = options();
    const at = all.indexOf(event.target);
    const next = event.key === " " ? at : step(event.key, at, all.length);
    if (at < 0 || next === null) return;
    event.preventDefault();
    all[next].focus();
    choose(all[next]);
  });
  choose(null);
  return { node: list, choose, options, first };
}

/** Let the reader save a text as a file. */
export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
