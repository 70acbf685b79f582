// One image with its patches shaded, and tables of numbers laid out as the patches are.
// What is in them is told in `saekit/views/_shared/pixels.py`.

/** Grey values as RGBA: light by value, or dark by value where they are ink on paper. */
export function greys(pixels, ink) {
  const rgba = new Uint8ClampedArray(4 * pixels.length);
  pixels.forEach((value, i) => {
    const grey = ink ? 255 - value : value;
    rgba.set([grey, grey, grey, 255], 4 * i);
  });
  return rgba;
}

/** An image under its shaded patches; every patch tells its place and value on hover. */
export function drawPixels({ label, size, pixels, ink = false, grid, marks }) {
  const [rows, columns] = size;
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  canvas.setAttribute("aria-hidden", "true");
  const bytes = new Uint8Array(pixels.buffer, pixels.byteOffset, pixels.byteLength);
  canvas.getContext("2d").putImageData(new ImageData(greys(bytes, ink), columns, rows), 0, 0);
  const shades = document.createElement("span");
  shades.className = "saekit-patches";
  shades.setAttribute("aria-hidden", "true");
  shades.style.gridTemplate = `repeat(${grid[0]}, 1fr) / repeat(${grid[1]}, 1fr)`;
  const marked = new Map(marks.map(([number, ...mark]) => [number, mark]));
  for (let number = 0; number < grid[0] * grid[1]; number++) {
    const [, exact, shade] = marked.get(number) ?? ["0", "0", 0];
    const patch = document.createElement("span");
    patch.className = shade ? "saekit-patch saekit-patch-on" : "saekit-patch";
    patch.title = `row ${Math.floor(number / grid[1]) + 1}, column ${(number % grid[1]) + 1}: ${exact}`;
    patch.style.setProperty("--saekit-shade", shade);
    shades.append(patch);
  }
  const picture = document.createElement("span");
  picture.className = "saekit-picture";
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", label);
  picture.append(canvas, shades);
  return picture;
}

/** The node of a table of one number for each patch, shaded as the patches are. */
export function patchTable({ caption, grid, marks }) {
  const marked = new Map(marks.map(([number, words, , shade]) => [number, [words, shade]]));
  const cell = (number) => {
    const [words, shade] = marked.get(number) ?? ["0", 0];
    return ["td", { class: shade ? "shaded patch-on" : "shaded", shade }, words];
  };
  const line = (_, row) => ["tr", {}, ...Array.from({ length: grid[1] }, (__, at) => cell(row * grid[1] + at))];
  const body = Array.from({ length: grid[0] }, line);
  return ["table", { class: "patch-table" }, ["caption", {}, caption], ["tbody", {}, ...body]];
}
