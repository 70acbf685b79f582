// What the logit attribution view draws: predictions, sorted bars, the picture, the card of one item.
import { percent, sig, signed, spoken, visible } from "../_shared/lib.js";
import { h } from "../_shared/dom.js";
import { contextList, effectWords } from "../_shared/contexts.js";
import { ablationWords, barHelp, barName, barScale, cellShade, predictionWords } from "./data.js";

/** A box that ablates a feature; `tick(feature)` hears of it; without one (an exported page) nothing can be ticked. */
export function ablateBox(feature, ticked, tick) {
  return h("input", {
    type: "checkbox",
    checked: ticked.includes(feature),
    "aria-label": `Ablate feature ${feature} at every token`,
    title: `Ablate feature ${feature} at every token`,
    "data-feature": feature,
    disabled: !tick,
    onchange: () => tick(feature),
  });
}

/** What the model says next: probabilities as bars, beside those with features ablated. */
export function predictionTable(outcome) {
  const n = outcome.ablated.length;
  const m = outcome.control.length;
  const heads = ["says next", "", ...(n ? [`${n} ablated`] : []), ...(m ? [`${m} random`] : [])];
  const meter = (share, kind) => {
    const bar = h("span", { class: `saekit-share saekit-share-${kind}`, "aria-hidden": "true" });
    bar.style.setProperty("--saekit-length", share.toFixed(4));
    return bar;
  };
  const rows = outcome.rows.map((row) => {
    const kinds = ["probability", ...(n ? ["ablated"] : []), ...(m ? ["control"] : [])];
    return h(
      "tr",
      {
        class: row.role ? `saekit-role-${row.role}` : null,
        title: `${JSON.stringify(row.text)}: ${predictionWords(row)}`,
      },
      h(
        "th",
        { scope: "row" },
        h("bdi", {}, visible(row.text)),
        row.role ? h("span", { class: "saekit-faint" }, ` ${row.role}`) : null,
      ),
      ...kinds.map((kind) =>
        h("td", { class: "saekit-shares-cell" }, h("span", {}, percent(row[kind])), meter(row[kind], kind)),
      ),
    );
  });
  return [
    h(
      "table",
      { class: "saekit-says" },
      h(
        "thead",
        {},
        h("tr", {}, ...heads.map((title, i) => h("th", { scope: "col" }, i === 1 ? "probability" : title))),
      ),
      h("tbody", {}, ...rows),
    ),
    n ? h("p", { class: "saekit-faint" }, ablationWords(outcome)) : null,
  ].filter(Boolean);
}

/** Sorted bars with a running total. Features have a box to tick; `select(row)` hears of a choice. */
export function barTable(shown, { ticked, tick, select }) {
  const { zero, unit } = barScale(shown.bars);
  const rows = shown.bars.map((row) => {
    const node = row.position >= 0 && (row.kind === "feature" || row.kind === "error");
    const sign = row.effect < 0 ? "minus" : "plus";
    const whole = row.kind === "feature" ? "" : " saekit-whole-bar";
    const bar = h("span", { class: `saekit-bar saekit-${sign}${whole}` });
    bar.style.setProperty("--saekit-from", (zero + Math.min(0, row.effect * unit)).toFixed(4));
    bar.style.setProperty("--saekit-length", Math.abs(row.effect * unit).toFixed(4));
    const name = node
      ? h(
          "button",
          { type: "button", class: "saekit-item", tabindex: -1, "aria-pressed": "false", onclick: () => select(row) },
          h("bdi", {}, barName(row)),
        )
      : h("span", { class: "saekit-faint", title: barHelp(row) }, barName(row));
    return h(
      "tr",
      { "data-feature": row.feature, "data-position": row.position, "data-kind": row.kind },
      h("td", {}, row.kind === "feature" ? ablateBox(row.feature, ticked, tick) : null),
      h("th", { scope: "row" }, name),
      h("td", { class: "saekit-bar-cell", "aria-hidden": "true" }, bar),
      h("td", {}, signed(row.effect)),
      h("td", { class: "saekit-running" }, signed(row.running)),
    );
  });
  const head = [
    ["ablate", "tick to ablate the feature at every token"],
    ["strongest first"],
    [""],
    ["logits"],
    ["running total"],
  ];
  const table = h(
    "table",
    { class: "saekit-bars" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ...head.map(([title, help]) => (title ? h("th", { scope: "col", title: help ?? null }, title) : h("td", {}))),
      ),
    ),
    h("tbody", {}, ...rows),
  );
  table.style.setProperty("--saekit-zero", zero.toFixed(4));
  return table;
}

/** The picture: features down, tokens across; {node, cells: [row][column]}. */
export function attributionGrid(shown, values, contexts, words) {
  const width = shown.tokens.length;
  const left = new Set(shown.left);
  const names = [...shown.features, -1];
  const head = h(
    "tr",
    {},
    h("th", { scope: "col", class: "saekit-corner" }, "feature"),
    ...shown.tokens.map((token, i) =>
      h(
        "th",
        {
          scope: "col",
          class: i === width - 1 ? "saekit-last" : null,
          title: `${JSON.stringify(token)}, position ${i}`,
        },
        h("bdi", { "aria-hidden": "true" }, visible(token)),
        h("span", { class: "saekit-silent" }, spoken(token)),
      ),
    ),
  );
  const cells = names.map((feature, row) =>
    shown.tokens.map((token, column) => {
      const value = values[row * width + column];
      const shade = cellShade(value, shown.bars, left.has(column));
      const what = feature < 0 ? "reconstruction error" : `feature ${feature}`;
      const cell = h(
        "td",
        {
          role: "gridcell",
          tabindex: -1,
          class: shade ? `saekit-cell saekit-${value < 0 ? "minus" : "plus"}` : "saekit-cell",
          "aria-selected": "false",
          "aria-label": `${what} at ${spoken(token)}: ${signed(value)} logits`,
          title: `${what} at ${JSON.stringify(token)}: ${signed(value)}`,
        },
        shade ? signed(value) : "",
      );
      cell.style.setProperty("--saekit-shade", shade.toFixed(3));
      cell.saekitItem = { feature, position: column };
      return cell;
    }),
  );
  const rows = cells.map((line, row) =>
    h(
      "tr",
      {},
      h(
        "th",
        { scope: "row" },
        names[row] < 0 ? "error" : String(names[row]),
        peakOfContext(contexts[`${shown.asked.hook}/${names[row]}`]),
      ),
      ...line,
    ),
  );
  return {
    node: h(
      "table",
      { class: "saekit-grid-picture", role: "grid", "aria-label": words },
      h("thead", {}, head),
      h("tbody", {}, ...rows),
    ),
    cells,
  };
}

/** The strongest token of a feature's contexts: a first hint at what it is. */
function peakOfContext(found) {
  return found?.rows.length
    ? h(
        "bdi",
        { class: "saekit-peak-token", title: "strongest token on the index's corpus" },
        visible(found.rows[0][2]),
      )
    : null;
}

/** The card of one item: what it is, what it does here, where else it is active. */
export function itemCard(item, shown, value, { row, contexts, indexed, ticked, tick }) {
  const token = shown.tokens[item.position];
  const error = item.feature < 0;
  const found = contexts[`${shown.asked.hook}/${item.feature}`];
  const where =
    token === undefined
      ? `position ${item.position}, which this prompt does not have`
      : `at ${JSON.stringify(token)}, position ${item.position}`;
  return [
    h("h3", {}, error ? "Reconstruction error" : `Feature ${item.feature}`),
    h("p", { class: "saekit-faint" }, h("bdi", {}, where)),
    value === null
      ? h("p", { class: "saekit-faint" }, "Not among the strongest.")
      : h(
          "p",
          { class: "saekit-effect" },
          h("span", { class: `saekit-swatch saekit-${value < 0 ? "minus" : "plus"}`, "aria-hidden": "true" }),
          effectWords(value),
        ),
    row?.activation !== null && row ? h("p", { class: "saekit-faint" }, `activation ${sig(row.activation)}`) : null,
    error
      ? h("p", { class: "saekit-faint" }, "What the SAE misses here.")
      : h("label", { class: "saekit-tick" }, ablateBox(item.feature, ticked, tick), " ablate it at every token"),
    ...(error ? [] : itemContexts(found, indexed)),
  ].filter(Boolean);
}

function itemContexts(found, indexed) {
  if (found) return contextList(found);
  return [
    h(
      "p",
      { class: "saekit-faint" },
      indexed ? "Its contexts are not read yet." : "Pass index= to read its top contexts here.",
    ),
  ];
}
