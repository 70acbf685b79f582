// Building blocks that every view draws with. Text reaches the page as text nodes and attributes only.
import { histogramBars, histogramWords, logTicks, sig, signed, spoken, step, visible } from "./lib.js";

/** Create an element: attributes, `onclick`-style listeners, children (strings become text nodes). */
export function h(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** The same in the SVG namespace. */
export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
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
 * One token: shade by value / scale, exact token and value in the tooltip and for screen readers.
 * A dim one is not shaded.
 */
export function tokenCell(cell, scale, { dim = false } = {}) {
  const shade = scale > 0 && !dim ? Math.min(1, Math.max(0, cell.value / scale)) : 0;
  const pieces = cell.to - cell.from > 1 ? `, ${cell.to - cell.from} pieces` : "";
  const leftOut = dim ? ", left out of the statistics" : "";
  const node = h(
    "span",
    {
      class: `saekit-token${dim ? " saekit-token-dim" : ""}`,
      role: "option",
      dir: "auto",
      tabindex: -1,
      "aria-selected": "false",
      "aria-label": `${spoken(cell.text)}, activation ${sig(cell.value)}${pieces}${leftOut}`,
      title: `${JSON.stringify(cell.text)}  ${sig(cell.value, 4)}${pieces}`,
    },
    visible(cell.text),
  );
  node.style.setProperty("--saekit-shade", shade.toFixed(3));
  node.saekitCell = cell;
  return node;
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

/** Histogram of activations as inline SVG with a log count axis and a sentence as its text. */
export function histogramFigure(histogram, total) {
  const width = 360;
  const height = 96;
  const left = 34;
  const words = histogramWords(histogram, total);
  const bars = histogramBars(histogram.counts, width - left, height).filter((bar) => bar.count);
  const ticks = logTicks(histogram.counts, height);
  return svg(
    "svg",
    { class: "saekit-histogram", viewBox: `0 -6 ${width} ${height + 24}`, role: "img", "aria-label": words },
    ...ticks.map(({ count, y }) =>
      svg(
        "g",
        {},
        svg("line", { class: "saekit-grid", x1: left, x2: width, y1: y, y2: y }),
        svg(
          "text",
          { x: left - 6, y: y + 3.5, "text-anchor": "end" },
          count >= 1000 ? `${count / 1000}k` : String(count),
        ),
      ),
    ),
    ...bars.map((bar) =>
      svg("rect", { class: "saekit-bar", x: left + bar.x, y: bar.y, width: bar.width, height: bar.height }),
    ),
    svg("line", { class: "saekit-axis", x1: left, x2: width, y1: height, y2: height }),
    svg("text", { x: left, y: height + 14 }, sig(histogram.edges[0])),
    svg("text", { x: width, y: height + 14, "text-anchor": "end" }, sig(histogram.edges.at(-1))),
    svg("text", { x: (left + width) / 2, y: height + 14, "text-anchor": "middle" }, "activation"),
  );
}

/** Tokens with signed values: text, value and a bar whose hue repeats the sign. */
export function logitTable(caption, rows, scale, kind) {
  return h(
    "table",
    { class: `saekit-logits saekit-${kind}` },
    h("caption", {}, caption),
    h(
      "thead",
      { class: "saekit-unseen" },
      h("tr", {}, h("th", { scope: "col" }, "token"), h("th", { scope: "col" }, "logit")),
    ),
    h(
      "tbody",
      {},
      ...rows.map(([id, text, value]) => {
        const bar = h("span", { class: "saekit-meter", "aria-hidden": "true" });
        bar.style.setProperty("--saekit-length", scale > 0 ? Math.min(1, Math.abs(value) / scale).toFixed(3) : 0);
        return h(
          "tr",
          { title: `${JSON.stringify(text)}  token ${id}` },
          h("th", { scope: "row" }, h("bdi", {}, visible(text))),
          h("td", {}, h("span", { class: "saekit-amount" }, bar, h("span", {}, signed(value)))),
        );
      }),
    ),
  );
}

/** Let the reader save a text as a file. */
export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
