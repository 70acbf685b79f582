// Pieces of the probes view that are drawn: heat map, confusion matrix, features, contexts, a classified text.
import { float32, grouped, mergePieces, percent, sig, signed, spoken, visible } from "../_shared/lib.js";
import { h, tokenStrip } from "../_shared/dom.js";
import {
  CONFUSED_CLASSES,
  heatRows,
  intervalText,
  largestConfusions,
  partsOf,
  probeMark,
  probeShade,
  twoPlaces,
} from "./words.js";

const MANY_CLASSES = 8; // classes of a classified text that are listed
const BRIEF = 28; // characters before the peak of a context in a list

/** What a heat map draws: the state of the view, and `label(number)` for screen readers. */
function heatCell(number, { cells, figures, facts, scale, label }, tag = "td") {
  const [value, low, high] = figures[number];
  const node = h(
    tag,
    {
      role: "gridcell",
      class: "saekit-heat",
      tabindex: -1,
      "aria-selected": "false",
      "aria-label": label(number),
      title: label(number),
      "data-cell": number,
    },
    h(
      "span",
      { class: "saekit-heat-value" },
      `${twoPlaces(value)} ${probeMark(cells[number], number, facts.best)}`.trim(),
    ),
    h("span", { class: "saekit-heat-interval" }, `${twoPlaces(low)}–${twoPlaces(high)}`),
  );
  node.style.setProperty("--saekit-shade", probeShade(value, scale).toFixed(3));
  node.saekitCellNumber = number;
  return node;
}

/** The cells: sites and classifiers across, poolings and binarisings down. */
export function heatMap(state) {
  const { facts, cells } = state;
  const { axes, sites } = facts;
  const perSite = axes.classifier.length;
  const head = [
    h(
      "tr",
      {},
      h("th", { scope: "col", rowspan: 2 }, "pooling"),
      h("th", { scope: "col", rowspan: 2 }, "binarising"),
      ...sites.map((site, i) =>
        h("th", { scope: "colgroup", colspan: perSite, title: axes.sae[i], class: "saekit-heat-site" }, site),
      ),
    ),
    h("tr", {}, ...sites.flatMap(() => axes.classifier.map((name) => h("th", { scope: "col" }, name)))),
  ];
  const per = axes.binarise.length;
  const rows = heatRows(cells, axes).map((numbers, i) =>
    h(
      "tr",
      { class: i % per ? null : "saekit-heat-first" },
      i % per ? null : h("th", { scope: "rowgroup", rowspan: per }, axes.pooling[i / per]),
      h("th", { scope: "row" }, axes.binarise[i % per]),
      ...numbers.map((number) => heatCell(number, state)),
    ),
  );
  return h(
    "table",
    { class: "saekit-heat-map", role: "grid", "aria-label": "Cells of the grid" },
    h("thead", {}, ...head),
    h("tbody", {}, ...rows),
  );
}

/** The baselines, in the same scale, as a column of their own. */
export function baselineMap(state) {
  const { cells, facts } = state;
  const lines = cells.slice(facts.n_cells);
  if (!lines.length) return null;
  return h(
    "table",
    { class: "saekit-heat-map saekit-heat-lines", role: "grid", "aria-label": "Baselines" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col", colspan: 2 }, "baselines"))),
    h(
      "tbody",
      {},
      ...lines.map((row, i) => h("tr", {}, h("th", { scope: "row" }, row.name), heatCell(facts.n_cells + i, state))),
    ),
  );
}

/** The legend of the colours: its ends are values. */
export function heatKey([low, high]) {
  return h(
    "p",
    { class: "saekit-faint saekit-heat-key" },
    twoPlaces(low),
    h("span", { class: "saekit-ramp", "aria-hidden": "true" }),
    twoPlaces(high),
    "  ★ best by macro F1   ≈ not to be told from it",
  );
}

/** Texts by true class and prediction; many classes as their largest confusions. */
export function confusionTable(matrix, classes, repeats = 1) {
  const caption = (words) =>
    h("caption", {}, repeats > 1 ? `${words}; each text counted once in each of ${repeats} repeats` : words);
  if (classes.length > CONFUSED_CLASSES)
    return h(
      "table",
      { class: "saekit-confusion" },
      caption("largest confusions in validation, texts"),
      h(
        "tbody",
        {},
        ...largestConfusions(matrix).map(([t, p, n]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, h("bdi", {}, classes[t]), " taken for ", h("bdi", {}, classes[p])),
            h("td", {}, grouped(n)),
          ),
        ),
      ),
    );
  const square = (n, whole) => {
    const node = h("td", {}, grouped(n));
    node.style.setProperty("--saekit-shade", (n / Math.max(1, whole)).toFixed(3));
    return node;
  };
  return h(
    "table",
    { class: "saekit-confusion" },
    caption("texts in validation: true class down, prediction across"),
    h(
      "thead",
      {},
      h("tr", {}, h("td", {}), ...classes.map((name) => h("th", { scope: "col", title: name }, h("bdi", {}, name)))),
    ),
    h(
      "tbody",
      {},
      ...matrix.map((row, t) => {
        const whole = row.reduce((sum, n) => sum + n, 0);
        return h(
          "tr",
          {},
          h("th", { scope: "row", title: classes[t] }, h("bdi", {}, classes[t])),
          ...row.map((n) => square(n, whole)),
        );
      }),
    ),
  );
}

/** A bar whose length is a share and whose hue repeats the sign beside it. */
function signedBar(value, most) {
  const bar = h("span", { class: `saekit-bar ${value < 0 ? "saekit-minus" : "saekit-plus"}`, "aria-hidden": "true" });
  bar.style.setProperty("--saekit-length", most > 0 ? Math.min(1, Math.abs(value) / most).toFixed(3) : 0);
  return bar;
}

/** Words around the token where a feature fires; a brief one has a few on either side. */
export function contextLine([, before, peak, after], brief = false) {
  const [left, right] = [before, after].map((text) => Array.from(text.replace(/\s+/g, " ")));
  const words = brief ? [left.slice(-BRIEF), right.slice(0, BRIEF / 2)] : [left, right];
  return h("bdi", { class: "saekit-context" }, words[0].join(""), h("mark", {}, visible(peak)), words[1].join(""));
}

/** The features of one class, each a button; `contexts(feature)` is what is known of one. */
export function featureTable(rows, { label, contexts, chosen, onchoose }) {
  const most = Math.max(0, ...rows.map(([, effect]) => Math.abs(effect)));
  const line = ([feature, effect, weight, mine, others]) => {
    const context = contexts(feature)?.rows[0];
    const button = h(
      "button",
      {
        type: "button",
        class: "saekit-feature",
        "aria-pressed": String(feature === chosen),
        "data-feature": feature,
        onclick: () => onchoose(feature),
      },
      `feature ${feature}`,
    );
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, button),
      h(
        "td",
        { title: `weight ${sig(weight)}` },
        h("span", { class: "saekit-amount" }, signedBar(effect, most), signed(effect)),
      ),
      h("td", {}, `${percent(mine)} / ${percent(others)}`),
      h("td", { class: "saekit-snippet" }, context ? contextLine(context, true) : ""),
    );
  };
  return h(
    "table",
    { class: "saekit-rows" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "feature"),
        h("th", { scope: "col", title: "weight times the standard deviation of the feature over the texts" }, "effect"),
        h(
          "th",
          { scope: "col", title: `share of the texts in which it is active: of ${label} / of the others` },
          "active in / others",
        ),
        h("th", { scope: "col" }, "strongest context"),
      ),
    ),
    h("tbody", {}, ...rows.map(line)),
  );
}

/** The words of one class, for a baseline on words. */
export function wordTable(rows) {
  const most = Math.max(0, ...rows.map(([, weight]) => Math.abs(weight)));
  return h(
    "table",
    { class: "saekit-rows" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "word"), h("th", { scope: "col" }, "weight"))),
    h(
      "tbody",
      {},
      ...rows.map(([word, weight]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, h("bdi", {}, visible(word))),
          h("td", {}, h("span", { class: "saekit-amount" }, signedBar(weight, most), signed(weight))),
        ),
      ),
    ),
  );
}

/** All contexts of the selected feature. */
export function contextList(feature, found, { indexed }) {
  const title = h("h4", {}, `Feature ${feature}`);
  if (!found)
    return [
      title,
      h(
        "p",
        { class: "saekit-faint" },
        indexed
          ? "Its contexts are not read yet."
          : "Contexts need an index, or the model: Probes(grid, features, model=model, sae=sae, index=index)",
      ),
    ];
  const from =
    found.source === "index" ? "strongest contexts in the index" : "strongest contexts in the labelled texts";
  if (!found.rows.length)
    return [title, h("p", { class: "saekit-faint" }, found.dead ? "It is dead there: never active." : "No contexts.")];
  return [
    title,
    h("p", { class: "saekit-faint" }, from),
    h(
      "ol",
      { class: "saekit-contexts" },
      ...found.rows.map((row) =>
        h(
          "li",
          { dir: "auto" },
          h("span", { class: "saekit-faint" }, `${sig(row[0])} `),
          contextLine(row),
          row[4] ? h("span", { class: "saekit-faint" }, " · ", h("bdi", {}, row[4])) : null,
        ),
      ),
    ),
  ];
}

/** Classes of a classified text with their probabilities, strongest first; a click shades the tokens for that class. */
export function classList(result, classes, shaded, onchoose) {
  const values = result.probabilities ?? result.scores;
  const order = values
    .map((_, i) => i)
    .toSorted((a, b) => values[b] - values[a])
    .slice(0, MANY_CLASSES);
  const most = Math.max(...values.map(Math.abs));
  return h(
    "ul",
    { class: "saekit-classes", "aria-label": "Classes" },
    ...order.map((i) =>
      h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            "aria-pressed": String(i === shaded),
            title: "shade the tokens for this class",
            onclick: () => onchoose(i),
          },
          h("bdi", {}, classes[i]),
          h(
            "span",
            { class: "saekit-amount" },
            signedBar(values[i], result.probabilities ? 1 : most),
            result.probabilities ? twoPlaces(values[i]) : signed(values[i]),
          ),
        ),
      ),
    ),
  );
}

/** The tokens of a text, shaded by their parts in the score of one class: blue for it, orange against. */
export function partStrip(result, number, label, onselect) {
  const values = partsOf(float32(result.parts), number, result.tokens.length);
  const cells = mergePieces(result.tokens, values).map((cell) => ({
    ...cell,
    value: values.subarray(cell.from, cell.to).reduce((sum, v) => sum + v, 0),
  }));
  const most = Math.max(0, ...cells.map(({ value }) => Math.abs(value)));
  const nodes = cells.map((cell) => {
    const words = `${spoken(cell.text)}, ${signed(cell.value)}`;
    const node = h(
      "span",
      {
        class: `saekit-token ${cell.value < 0 ? "saekit-minus" : "saekit-plus"}`,
        role: "option",
        tabindex: -1,
        "aria-selected": "false",
        "aria-label": words,
        title: `${JSON.stringify(cell.text)}  ${signed(cell.value)}`,
        dir: "auto",
      },
      visible(cell.text),
    );
    node.style.setProperty("--saekit-shade", most > 0 ? (Math.abs(cell.value) / most).toFixed(3) : 0);
    node.saekitCell = cell;
    return node;
  });
  return tokenStrip(`Tokens, by their parts in the score of ${label}`, nodes, { onselect });
}

/** The features behind one decision, with what each adds to the predicted class. */
export function decisionList(result, { chosen, onchoose, contexts }) {
  const most = Math.max(0, ...result.features.map(([, , part]) => Math.abs(part)));
  return h(
    "ol",
    { class: "saekit-decision" },
    ...result.features.map(([feature, value, part]) => {
      const context = contexts(feature)?.rows[0];
      return h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            class: "saekit-feature",
            "aria-pressed": String(feature === chosen),
            "data-feature": feature,
            title: `pooled activation ${sig(value)}`,
            onclick: () => onchoose(feature),
          },
          `feature ${feature}`,
        ),
        h("span", { class: "saekit-amount" }, signedBar(part, most), signed(part)),
        context ? contextLine(context, true) : null,
      );
    }),
  );
}

/** A sentence on what is shown for a cell: all its figures. */
export function figureList(figures, number, names) {
  return h(
    "dl",
    { class: "saekit-figures" },
    ...Object.entries(names)
      .filter(([name]) => figures[name])
      .map(([name, words]) => h("div", {}, h("dt", {}, words), h("dd", {}, intervalText(figures[name][number])))),
  );
}
