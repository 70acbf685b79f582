// Draws panels with widgets/_shared/draw.js on a stand-in for the page, and prints what can be read of each.
// Panels come as JSON on standard input; {name: {text, labels, titles}} goes to standard output.
import { readFileSync, writeFileSync } from "node:fs";

function element(tag) {
  const classes = new Set();
  const self = {
    tag,
    attributes: {},
    children: [],
    dataset: {},
    style: { setProperty() {} },
    classList: {
      add: (...names) => names.forEach((name) => classes.add(name)),
      toggle: (name, on) => (on ? classes.add(name) : classes.delete(name)),
      contains: (name) => classes.has(name),
    },
    append: (...nodes) => void self.children.push(...nodes),
    replaceChildren: (...nodes) => void self.children.splice(0, Infinity, ...nodes),
    setAttribute: (name, value) => (self.attributes[name] = String(value)),
    addEventListener() {},
    getContext: () => ({ putImageData() {} }),
    set className(names) {
      names.split(" ").forEach((name) => classes.add(name));
    },
    set textContent(text) {
      self.replaceChildren({ text });
    },
    set title(text) {
      self.attributes.title = text;
    },
  };
  return self;
}

globalThis.document = {
  createElement: element,
  createElementNS: (_, tag) => element(tag),
  createTextNode: (text) => ({ text }),
};
globalThis.ImageData = class {};
const { draw } = await import("../../widgets/_shared/draw.js");

/** What can be read of an element; the tooltips of tokens and patches are for the live view alone. */
function read(node, found) {
  if (node.text !== undefined) return void (found.text += node.text);
  const { title, "aria-label": label } = node.attributes;
  if (node.attributes.role === "img" || (node.tag === "svg" && label !== undefined)) found.labels.push(label);
  const hovered = ["saekit-token", "saekit-patch"].some((look) => node.classList.contains(look));
  if (title !== undefined && !hovered) found.titles.push(title);
  for (const child of node.children) read(child, found);
}

const bytes = (_, value) => (typeof value?.b64 === "string" ? new DataView(new ArrayBuffer(0)) : value);
const panels = JSON.parse(readFileSync(0, "utf8"), bytes);
const all = Object.entries(panels).map(([name, panel]) => {
  const found = { text: "", labels: [], titles: [] };
  read(draw(panel), found);
  return [name, found];
});
writeFileSync(1, JSON.stringify(Object.fromEntries(all)));
