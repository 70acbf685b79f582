// Draws a node of a view's state, plain data made in Python (`saekit/views/_shared/nodes.py`), as elements of the page.
// Text reaches the page as text nodes and attributes only.
import { drawPixels, patchTable } from "./pixels.js";
import { drawStrip, shownText } from "./strips.js";

const VARIABLES = ["shade", "length", "start", "zero"]; // numbers that stylesheets read as --saekit-NAME

/**
 * The elements of a node: `["p", {class: "quiet"}, "text", ["b", {}, "12"]]`.
 * `strips(strip)` draws strips of tokens, where they are more than text: see `drawStrip`. In a frame that a view writes
 * itself, an attribute such as `onclick` may be a function, a child an element that is drawn already, or null.
 */
export function draw(node, strips = plainStrip, inside = null) {
  if (typeof node === "string") return document.createTextNode(shownText(node));
  if (!Array.isArray(node)) return node;
  const [tag, attributes, ...children] = node;
  if (tag === "strip") return strips(attributes);
  if (tag === "pixels") return drawPixels(attributes);
  if (tag === "patches") return draw(patchTable(attributes));
  const space = tag === "svg" ? "http://www.w3.org/2000/svg" : inside;
  const element = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) dress(element, name, value);
  const there = children.filter((child) => child !== null && child !== undefined);
  element.append(...there.map((child) => draw(child, strips, space)));
  return element;
}

/** The same, for frames that a view writes itself. */
export function make(tag, attributes = {}, ...children) {
  return draw([tag, attributes, ...children]);
}

function plainStrip(strip) {
  return drawStrip(strip).node;
}

function dress(element, name, value) {
  if (value === false || value === null || value === undefined || name === "only" || name === "rough") return;
  if (typeof value === "function") return element.addEventListener(name.slice(2), value);
  if (name === "class") element.classList.add(...value.split(" ").map((look) => `saekit-${look}`));
  else if (name === "tone") element.classList.add(`saekit-tone-${value}`);
  else if (VARIABLES.includes(name)) element.style.setProperty(`--saekit-${name}`, value);
  else if (name === "set") element.setAttribute("data-set", JSON.stringify(value));
  else if (name === "key") element.setAttribute("data-key", value);
  else element.setAttribute(name, value === true ? "" : value);
}

/** Draw panels anew in `place`; a focus in it returns to the element with the same key. */
export function show(place, nodes, strips = plainStrip) {
  const active = document.activeElement;
  const key = place.contains(active) ? active.dataset.key : undefined;
  place.replaceChildren(...nodes.filter(Boolean).map((node) => draw(node, strips)));
  if (key !== undefined) place.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** Let every node with a `set` set its trait; `set(trait, value)` hears of it. */
export function pressable(root, set) {
  root.addEventListener("click", (event) => {
    const pressed = event.target.closest("[data-set]");
    if (pressed && root.contains(pressed)) set(...JSON.parse(pressed.dataset.set));
  });
}
