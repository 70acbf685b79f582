// What steering wrote: texts side by side with shaded tokens, side effects beneath each, the strength sweep.
import { mergePieces, spoken, visible } from "../_shared/lib.js";
import { h, tokenStrip } from "../_shared/dom.js";
import { lineChart, lineSample } from "../_shared/chart.js";
import {
  EFFECTS,
  END_NAMES,
  FLUENCY_WORDS,
  SWEEP_PANELS,
  askedWords,
  breaksWords,
  changeShade,
  changeWords,
  effectWords,
  strengthWords,
  sweepSeries,
  sweepWords,
} from "./state.js";

/** One text: title, what was done, the text, a line for the token that is pointed at, side effects. */
export function textColumn({ key, title, note }) {
  const body = h("div", { class: "saekit-text", dir: "auto" });
  const readout = h("p", { class: "saekit-quiet saekit-pointed", "aria-live": "polite" });
  const effects = h("dl", { class: "saekit-effects" });
  const node = h(
    "article",
    { class: "saekit-text-column", "data-text": key, "aria-label": `${title} text` },
    h("h3", {}, title),
    h("p", { class: "saekit-quiet" }, note),
    body,
    readout,
    effects,
  );
  let drawn = null;

  /** While it grows the text is plain; shades come once the unsteered model has read it. */
  function draw(text, read, busy) {
    const state = JSON.stringify([text, read?.tokens, read?.logprobs, read?.plain, busy]);
    if (state !== drawn) {
      drawn = state;
      readout.textContent = "";
      const end = END_NAMES[text.end];
      const growing = busy && !text.end ? h("span", { class: "saekit-caret", "aria-hidden": "true" }) : "";
      if (read)
        body.replaceChildren(
          shadedText(`${title} text, token by token`, read, (words) => (readout.textContent = words)),
          end,
        );
      else body.replaceChildren(text.text, end, growing);
      body.classList.toggle("saekit-empty", !text.text && !busy);
      if (!text.text && !busy) body.textContent = text.end ? "(no text)" : "";
    }
    effects.replaceChildren(...(read ? effectRows(read.effects, busy) : []));
  }

  return { key, node, draw };
}

function shadedText(label, { tokens, logprobs, plain }, say) {
  const changes = logprobs.map((value, i) => value - plain[i]);
  const cells = mergePieces(tokens, changes).map(({ text, from, to }) => {
    const words = changeWords(logprobs[from], plain[from]);
    const { tone, shade } = changeShade(logprobs[from], plain[from]);
    const node = h(
      "span",
      {
        class: `saekit-written saekit-${tone}`,
        role: "option",
        tabindex: -1,
        "aria-selected": "false",
        "aria-label": `${spoken(text)}, ${words}`,
        title: words,
      },
      text,
    );
    node.style.setProperty("--saekit-shade", shade.toFixed(2));
    node.saekitCell = { text, from, to };
    node.saekitWords = `“${visible(text)}” · ${words}`;
    return node;
  });
  return tokenStrip(label, cells, { onselect: (_, node) => say(node.saekitWords) }).node;
}

function effectRows(effects, busy) {
  const shown = EFFECTS.filter(([name]) => effects[name] !== null || (name === "kl" && busy));
  return shown.map(([name, label, help]) =>
    h(
      "div",
      { title: help },
      h("dt", {}, label),
      h("dd", { "data-effect": name }, effects[name] === null ? "…" : effectWords(name, effects[name])),
    ),
  );
}

/** The sweep: small multiples, the point where fluency breaks marked in each, and the texts behind them. */
export function sweepFigures(sweep, onpick) {
  const mark = sweep.breaks_at === null ? null : sweep.breaks_at * (sweep.value === null ? 1 : Math.abs(sweep.value));
  const charts = SWEEP_PANELS.map(([measure, title]) => {
    const series = sweepSeries(sweep, measure);
    const shared = ["fluency", "concept_hit"].includes(measure);
    return h(
      "figure",
      {},
      h("figcaption", {}, h("h4", {}, title)),
      lineChart({
        series,
        words: sweepWords(title, measure, series),
        xLabel: "strength",
        scale: shared ? "linear" : "auto",
        mark,
      }),
    );
  });
  const legend =
    sweep.lines.length > 1
      ? h(
          "p",
          { class: "saekit-legend" },
          ...sweep.lines.map(({ name }, i) => h("span", {}, lineSample(i), ` ${name} `)),
        )
      : null;
  const points = sweep.lines[0]?.points ?? [];
  const rows = points.map((point) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, strengthWords(point.strength, sweep)),
      h("td", {}, effectWords("fluency", point.fluency)),
      h("td", {}, effectWords("concept_hit", point.concept_hit)),
      h("td", { class: "saekit-sweep-text", dir: "auto" }, point.text),
      onpick
        ? h(
            "td",
            {},
            point.strength
              ? h(
                  "button",
                  {
                    type: "button",
                    "aria-label": `Use strength ${strengthWords(point.strength, sweep)}`,
                    onclick: () => onpick(point.strength),
                  },
                  "Use",
                )
              : null,
          )
        : null,
    ),
  );
  const skipped = Object.entries(sweep.skipped).map(([name, why]) =>
    h("p", { class: "saekit-quiet" }, `not run: ${name} (${why})`),
  );
  return [
    h("p", { class: "saekit-quiet" }, sweep.words),
    h(
      "p",
      {},
      points.length > 1 ? breaksWords(sweep) : "",
      sweep.complete || sweep.under_way ? "" : " Stopped before its end.",
    ),
    legend,
    h("p", { class: "saekit-quiet" }, `${FLUENCY_WORDS} ${askedWords(sweep)}`),
    h("div", { class: "saekit-multiples" }, ...charts),
    h(
      "div",
      { class: "saekit-table-frame", tabindex: 0, role: "region", "aria-label": "Texts of the sweep" },
      h(
        "table",
        { class: "saekit-sweep-table" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ...["strength", "fluency", "concept", "text", ...(onpick ? ["take over"] : [])].map((name) =>
              h("th", { scope: "col" }, name),
            ),
          ),
        ),
        h("tbody", {}, ...rows),
      ),
    ),
    ...skipped,
  ].filter(Boolean);
}
