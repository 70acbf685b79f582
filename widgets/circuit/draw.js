// Pieces of the circuit view that are drawn: the picture, the card of one node, the curve, the table of nodes.
import { grouped, signed, visible } from "../_shared/lib.js";
import { h, svg } from "../_shared/dom.js";
import {
  ERROR_NODE,
  PICTURE,
  curveText,
  edgesAt,
  effectWords,
  layoutCircuit,
  nodePlace,
  nodeRadius,
  nodeTitle,
  shareText,
  shortHook,
} from "./picture.js";
import { contextList } from "../_shared/contexts.js";

const MOST_EDGES = 150; // drawn; more would be a grey veil
const CURVE_BOX = { width: 300, height: 150, left: 36, right: 10, top: 10, bottom: 32 };

/** The picture: {node, options, places}. Options are the nodes, in the order of `numbers`; one tab stop in all. */
export function circuitPicture({ nodes, edges, numbers, facts, words }) {
  const kept = numbers.map((i) => nodes[i]);
  const placed = layoutCircuit(kept, facts.hooks.length, facts.positions.length);
  const at = new Map(numbers.map((number, i) => [number, placed.nodes[i]]));
  const largest = Math.max(0, ...nodes.map(({ effect }) => Math.abs(effect)));
  const options = numbers.map((number, i) => nodeMark(nodes[number], number, placed.nodes[i], largest, facts));
  const picture = svg(
    "svg",
    {
      class: "saekit-picture",
      viewBox: `0 0 ${placed.width} ${placed.height}`,
      width: placed.width,
      height: placed.height,
      role: "listbox",
      "aria-label": words,
    },
    svg("g", { "aria-hidden": "true" }, ...ground(facts, placed), ...lines(edges, at, placed.output)),
    ...options,
  );
  picture.style.setProperty("--saekit-width", `${placed.width}px`);
  return { node: picture, options, places: placed.nodes };
}

function ground(facts, { width, height, bands, columns, output }) {
  const { left, gap, foot } = PICTURE;
  const floor = height - foot;
  return [
    ...facts.hooks.flatMap((hook, i) => [
      svg("rect", {
        class: "saekit-band",
        x: left,
        y: bands[i][0],
        width: width - gap - left,
        height: bands[i][1],
        rx: 4,
      }),
      svg(
        "text",
        { class: "saekit-band-name", x: left - 8, y: bands[i][0] + bands[i][1] / 2 + 4, "text-anchor": "end" },
        svg("title", {}, hook),
        shortHook(hook),
      ),
    ]),
    ...facts.positions.flatMap((name, i) => [
      svg("text", { class: "saekit-column-name", x: columns[i], y: floor + 12, "text-anchor": "middle" }, name),
      svg(
        "text",
        { class: "saekit-column-token", x: columns[i], y: floor + 28, "text-anchor": "middle" },
        visible(facts.tokens[i] ?? ""),
      ),
    ]),
    svg(
      "text",
      { class: "saekit-column-name", x: output[0], y: output[1] - 4, "text-anchor": "middle" },
      "logit difference",
    ),
  ];
}

function lines(edges, at, output) {
  const shown = edges.slice(0, MOST_EDGES);
  const largest = Math.max(0, ...shown.map(([, , weight]) => Math.abs(weight)));
  return shown.toReversed().map(([source, target, weight]) => {
    const [x1, y1] = at.get(source);
    const [x2, y2] = target === null ? output : at.get(target);
    const share = largest ? Math.abs(weight) / largest : 0;
    const line = svg("path", {
      class: `saekit-edge saekit-${weight < 0 ? "minus" : "plus"}`,
      d: `M${x1} ${y1}L${x2} ${y2}`,
      "stroke-dasharray": weight < 0 ? "5 3" : null,
      "stroke-width": (0.5 + 3 * share).toFixed(2),
      "stroke-opacity": (0.3 + 0.5 * share).toFixed(2),
      "data-source": source,
      "data-target": target,
    });
    return line;
  });
}

function nodeMark(node, number, [x, y], largest, facts) {
  const r = nodeRadius(node.effect, largest);
  const error = node.feature === ERROR_NODE;
  const label = `${nodeTitle(node)}, ${nodePlace(node, facts)}, ${effectWords(node.effect)}`;
  const mark = svg(
    "g",
    {
      class: `saekit-node saekit-${node.effect < 0 ? "minus" : "plus"}${error ? " saekit-node-error" : ""}`,
      role: "option",
      tabindex: -1,
      "aria-selected": "false",
      "aria-label": label,
      "data-node": number,
    },
    svg("circle", { class: "saekit-halo", cx: x, cy: y, r: r + 4 }),
    error
      ? svg("path", { class: "saekit-mark", d: `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z` })
      : svg("circle", { class: "saekit-mark", cx: x, cy: y, r }),
    svg(
      "text",
      { class: "saekit-sign", x, y: y + 4, "text-anchor": "middle", "aria-hidden": "true" },
      node.effect < 0 ? "−" : "+",
    ),
    svg(
      "text",
      { class: "saekit-number", x, y: y + r + 9, "text-anchor": "middle", "aria-hidden": "true" },
      error ? "error" : String(node.feature),
    ),
  );
  mark.saekitNumber = number;
  return mark;
}

/** The card of a node: what it is, its effect, its strongest edges, its contexts. */
export function nodeCard({ node, number, nodes, edges, facts, contexts, kept }) {
  const found = contexts[`${node.layer}/${node.feature}`];
  const { from, to } = edgesAt(edges, number);
  const placed = (end) => `${nodeTitle(end)}, ${shortHook(facts.hooks[end.layer])}, ${facts.positions[end.position]}`;
  const told = ([other, weight]) =>
    h("li", {}, h("b", {}, signed(weight)), ` ${other === null ? "logit difference" : placed(nodes[other])}`);
  const list = (title, ends) =>
    ends.length ? [h("h4", {}, title), h("ul", { class: "saekit-ends" }, ...ends.map(told))] : [];
  const title = nodeTitle(node);
  return [
    h("h3", {}, title[0].toUpperCase() + title.slice(1)),
    h("p", { class: "saekit-faint" }, nodePlace(node, facts)),
    h(
      "p",
      { class: "saekit-effect" },
      h("span", { class: `saekit-swatch saekit-${node.effect < 0 ? "minus" : "plus"}`, "aria-hidden": "true" }),
      effectWords(node.effect),
    ),
    kept ? null : h("p", { class: "saekit-faint" }, "Not in the circuit that is shown."),
    ...(node.feature === ERROR_NODE
      ? [h("p", { class: "saekit-faint" }, "What the dictionary misses here, as one node.")]
      : nodeContexts(found, facts, node)),
    ...list("Acts through", to),
    ...list("Fed by", from),
  ].filter(Boolean);
}

function nodeContexts(found, facts, node) {
  if (!found && facts.indexed?.includes(node.layer))
    return [h("p", { class: "saekit-faint" }, "Its contexts are not read yet.")];
  return contextList(found);
}

/** Faithfulness and completeness against size, on a logarithmic axis of sizes; the size shown is marked. */
export function circuitCurve(points, size, errors) {
  const { width, height, left, right, top, bottom } = CURVE_BOX;
  const values = points.flatMap(({ faithfulness, completeness }) => [faithfulness, completeness]);
  const low = Math.min(0, ...values);
  const high = Math.max(1, ...values);
  const most = Math.max(10, ...points.map((point) => point.size));
  const x = (count) => left + (Math.log1p(count) / Math.log1p(most)) * (width - left - right);
  const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
  const ticks = [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000].filter((tick) => tick <= most);
  const line = (key) =>
    svg(
      "g",
      { class: `saekit-${key}` },
      svg("path", {
        d: `M${points.map((point) => `${x(point.size).toFixed(1)} ${y(point[key]).toFixed(1)}`).join("L")}`,
      }),
      ...points.map((point) =>
        svg("circle", {
          cx: x(point.size).toFixed(1),
          cy: y(point[key]).toFixed(1),
          r: point.size === size ? 4.5 : 2.6,
        }),
      ),
    );
  return svg(
    "svg",
    { class: "saekit-curve", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": curveText(points, errors) },
    ...[0, 1].map((value) =>
      svg(
        "g",
        {},
        svg("line", { class: "saekit-rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)),
      ),
    ),
    ...ticks.map((tick) =>
      svg(
        "text",
        { x: x(tick), y: height - bottom + 14, "text-anchor": "middle" },
        tick >= 1000 ? `${tick / 1000}k` : String(tick),
      ),
    ),
    svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "features kept"),
    line("completeness"),
    line("faithfulness"),
  );
}

/** All nodes of the circuit as a table, strongest first. */
export function nodeTable(nodes, numbers, facts) {
  const order = numbers.toSorted((a, b) => Math.abs(nodes[b].effect) - Math.abs(nodes[a].effect));
  const head = ["node", "hook point", "position", "effect"].map((title) => h("th", { scope: "col" }, title));
  return h(
    "table",
    { class: "saekit-nodes" },
    h("thead", {}, h("tr", {}, ...head)),
    h(
      "tbody",
      {},
      ...order.map((i) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, nodeTitle(nodes[i])),
          h("td", {}, facts.hooks[nodes[i].layer]),
          h("td", {}, facts.positions[nodes[i].position]),
          h("td", {}, signed(nodes[i].effect)),
        ),
      ),
    ),
  );
}

/** What was measured, as a table beside its curve. */
export function curveTable(points, size) {
  return h(
    "table",
    { class: "saekit-nodes" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ...["features kept", "faithfulness", "completeness"].map((title) => h("th", { scope: "col" }, title)),
      ),
    ),
    h(
      "tbody",
      {},
      ...points.map((point) =>
        h(
          "tr",
          { class: point.size === size ? "saekit-now" : null },
          h("th", { scope: "row" }, grouped(point.size)),
          h("td", {}, shareText(point.faithfulness)),
          h("td", {}, shareText(point.completeness)),
        ),
      ),
    ),
  );
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
  copy
    .querySelectorAll("g[aria-label]")
    .forEach((node) => node.prepend(svg("title", {}, node.getAttribute("aria-label"))));
  copy.removeAttribute("class");
  copy.removeAttribute("style");
  copy.setAttribute("role", "img");
  return new XMLSerializer().serializeToString(copy);
}
