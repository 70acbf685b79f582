// One image with its patches shaded, and tables of numbers laid out as the patches are.
import { aligned, sig } from "../_shared/lib.js";
import { h } from "../_shared/dom.js";

/** The values and pixels of example `at` out of a card's packed arrays. */
export function exampleArrays(card, facts, at) {
  const patches = facts.grid[0] * facts.grid[1];
  const pixels = facts.pixels[0] * facts.pixels[1];
  const bytes = card.pixels ?? new DataView(new ArrayBuffer(0));
  return {
    values: card.activations.subarray(at * patches, (at + 1) * patches),
    pixels: new Uint8Array(bytes.buffer, bytes.byteOffset + at * pixels, pixels),
  };
}

/** Where patch number `i` stands, in words that count from 1. */
export function placeOf(i, columns) {
  return `row ${Math.floor(i / columns) + 1}, column ${(i % columns) + 1}`;
}

/** The number of the strongest patch. */
export function strongestPatch(values) {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}

/** Grey values as RGBA: light by value, or dark by value where they are ink on paper. */
export function greys(pixels, ink) {
  const rgba = new Uint8ClampedArray(4 * pixels.length);
  pixels.forEach((value, i) =>
    rgba.set(
      [0, 1, 2, 3].map((c) => (c === 3 ? 255 : ink ? 255 - value : value)),
      4 * i,
    ),
  );
  return rgba;
}

/** An image under its shaded patches; every patch tells its value on hover. */
export function picture({ values, pixels }, facts, scale) {
  const [rows, columns] = facts.pixels;
  const canvas = h("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  canvas.getContext("2d").putImageData(new ImageData(greys(pixels, facts.ink), columns, rows), 0, 0);
  const patches = h(
    "span",
    { class: "saekit-patches", "aria-hidden": "true" },
    ...shades(values, facts.grid[1], scale),
  );
  patches.style.gridTemplate = `repeat(${facts.grid[0]}, 1fr) / repeat(${facts.grid[1]}, 1fr)`;
  return h("span", { class: "saekit-picture" }, canvas, patches);
}

function shades(values, columns, scale) {
  return Array.from(values, (value, i) => {
    const patch = h("span", {
      class: value > 0 ? "saekit-patch saekit-patch-on" : "saekit-patch",
      title: `${placeOf(i, columns)}: ${sig(value, 4)}`,
    });
    patch.style.setProperty("--saekit-shade", shadeOf(value, scale));
    return patch;
  });
}

function shadeOf(value, scale) {
  return (scale > 0 ? Math.min(1, Math.max(0, value / scale)) : 0).toFixed(3);
}

/** One number for each patch in a table of the patches' rows and columns, shaded as they are. */
export function patchTable(caption, values, columns, scale, write = (value) => aligned(value, scale)) {
  const rows = [];
  for (let start = 0; start < values.length; start += columns)
    rows.push(
      h(
        "tr",
        {},
        ...Array.from(values.slice(start, start + columns), (value) => {
          const cell = h("td", { class: value > 0 ? "saekit-patch-on" : "" }, value > 0 ? write(value) : "0");
          cell.style.setProperty("--saekit-shade", shadeOf(value, scale));
          return cell;
        }),
      ),
    );
  return h("table", { class: "saekit-patch-table" }, h("caption", {}, caption), h("tbody", {}, ...rows));
}
