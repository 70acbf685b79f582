// The picture of a circuit in the page: its nodes are a listbox with one tab stop. All places are Python's.
import { draw } from "../_shared/draw.js";

/** A picture with its parts in their places; `assembled` in `saekit/views/circuit/picture.py` does the same. */
export function wholePicture(node, parts) {
  if (typeof node === "string") return node;
  const [tag, attributes, ...children] = node;
  if (tag !== "part") return [tag, attributes, ...children.map((child) => wholePicture(child, parts))];
  const { of: name, ...placed } = attributes;
  const [own, about, ...inside] = parts[name];
  return [own, { ...about, ...placed }, ...inside];
}

/** The drawn picture and its nodes, in the order of their ranks: {node, options}. */
export function drawPictureOf(panel) {
  const node = draw(panel);
  const options = [...node.querySelectorAll("[data-node]")];
  if (options.length) {
    node.setAttribute("role", "listbox");
    node.style.setProperty("--saekit-width", `${node.getAttribute("width")}px`);
  }
  for (const option of options) {
    option.setAttribute("role", "option");
    option.setAttribute("aria-label", option.querySelector("title").textContent);
    for (const text of option.querySelectorAll("text")) text.setAttribute("aria-hidden", "true");
  }
  return { node, options };
}

/** Where a drawn node is: {layer, position, x, y}. */
export function placeOf(option) {
  const [x, y] = option
    .getAttribute("transform")
    .match(/-?[\d.]+/g)
    .map(Number);
  return { layer: Number(option.dataset.layer), position: Number(option.dataset.position), x, y };
}

/**
 * The node to which a key moves from the node `at`, null when the key is not ours: left and right along a layer,
 * up and down to the nearest node of the next layer that has any, Home and End to the ends of the layer.
 */
export function nextNode(key, at, places) {
  const inLayer = (layer) =>
    places
      .map((_, i) => i)
      .filter((i) => places[i].layer === layer)
      .toSorted(
        (a, b) => places[a].position - places[b].position || places[a].y - places[b].y || places[a].x - places[b].x,
      );
  if (!places[at]) return null;
  const here = inLayer(places[at].layer);
  const along = here.indexOf(at);
  const moves = { ArrowRight: along + 1, ArrowLeft: along - 1, Home: 0, End: here.length - 1 };
  if (key in moves) return here[Math.min(here.length - 1, Math.max(0, moves[key]))];
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const by = key === "ArrowUp" ? 1 : -1;
  const layers = [...new Set(places.map(({ layer }) => layer))].filter((layer) => (layer - places[at].layer) * by > 0);
  if (!layers.length) return at;
  const target = by > 0 ? Math.min(...layers) : Math.max(...layers);
  const far = (i) => Math.abs(places[i].x - places[at].x);
  return inLayer(target).reduce((best, i) => (far(i) < far(best) ? i : best));
}

const DRAWN = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-opacity",
  "stroke-dasharray",
  "font-size",
  "font-weight",
  "font-family",
];

/** The picture as a document that stands alone: the colours that a stylesheet gave it become its own. */
export function standalonePicture(picture) {
  const copy = picture.cloneNode(true);
  const originals = picture.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((node, i) => {
    const look = getComputedStyle(originals[i]);
    if (["path", "circle", "rect", "text"].includes(node.localName))
      for (const name of DRAWN) node.setAttribute(name, look.getPropertyValue(name));
    for (const name of ["class", "tabindex", "role", "aria-selected"]) node.removeAttribute(name);
  });
  copy.removeAttribute("class");
  copy.removeAttribute("style");
  copy.setAttribute("role", "img");
  return new XMLSerializer().serializeToString(copy);
}
