// The probes view: a grid of probes as a heat map beside its baselines, one cell opened, and your own text classified.
import { download, guardKeys, h } from "../_shared/dom.js";
import {
  PROBE_FIGURES,
  gridStep,
  intervalText,
  overBaselineWords,
  probeScale,
  probesCsv,
  resultText,
  standingWords,
} from "./words.js";
import {
  baselineMap,
  classList,
  confusionTable,
  contextList,
  decisionList,
  featureTable,
  figureList,
  heatKey,
  heatMap,
  partStrip,
  wordTable,
} from "./draw.js";
import { signed } from "../_shared/lib.js";

const BROAD = 4; // columns of a heat map beside which nothing else has room
const TEXT_HELP = {
  off:
    "Pass the features, the model and its SAE to classify your own text: " +
    "Probes(grid, features, model=model, sae=sae).",
  page: "Your own text needs a running notebook; this page holds stored data only.",
};

function render({ model, el }) {
  const put = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const press = (counter) => put(counter, model.get(counter) + 1);
  const facts = () => model.get("_facts");
  const figure = h("select", { onchange: () => put("figure", figure.value) });
  const go = h("button", {
    type: "button",
    class: "saekit-go",
    onclick: () => press(model.get("busy") ? "_stops" : "_starts"),
  });
  const save = h(
    "button",
    {
      type: "button",
      onclick: () => download("probes.csv", "text/csv", probesCsv(facts(), model.get("_cells"), model.get("_figures"))),
    },
    "Save CSV",
  );
  const bar = h("progress", { "aria-label": "Cells done" });
  const done = h("span", { class: "saekit-faint" });
  const alert = h("p", { class: "saekit-alert", role: "alert" });
  const said = h("div", { class: "saekit-said" });
  const maps = h("div", { class: "saekit-maps" });
  const key = h("div", {});
  const readout = h("p", { class: "saekit-faint saekit-readout" });
  const card = h("section", { class: "saekit-cell", "aria-label": "Selected cell" });
  const box = h("textarea", {
    rows: 2,
    spellcheck: "false",
    dir: "auto",
    "aria-label": "Your own text",
    placeholder: "Type or paste a text",
    oninput: () => put("text", box.value),
  });
  const verdict = h("p", { class: "saekit-class", role: "status" });
  const outcome = h("div", { class: "saekit-outcome" });
  const live = facts().own_text === "live";
  const own = h(
    "section",
    { class: "saekit-own", "aria-label": "Your own text" },
    h("h3", {}, "Classify your own text"),
    live ? box : h("p", { class: "saekit-faint" }, TEXT_HELP[facts().own_text]),
    verdict,
    outcome,
  );
  const contexts = h("section", { class: "saekit-feature-card", "aria-label": "Selected feature" });
  const body = h(
    "div",
    { class: "saekit-probes-body" },
    h("div", { class: "saekit-heat-side" }, maps, key, readout),
    own,
    h("div", { class: "saekit-cell-side" }, card, contexts),
  );
  const root = h(
    "section",
    { class: "saekit-panel saekit-probes", "aria-label": "Probes" },
    h(
      "div",
      { class: "saekit-probes-head" },
      h("h2", {}, "Probes"),
      h("p", { class: "saekit-faint" }, facts().data),
      go,
      h("span", { class: "saekit-exports" }, h("label", {}, "figure ", figure), save),
    ),
    h("div", { class: "saekit-progress" }, bar, done),
    alert,
    said,
    body,
  );
  guardKeys(root);
  el.append(root);

  // Of this display only, never state: which class the lists and the shading are of.
  let listed = null;
  let shaded = null;
  let shadedFor = null;

  const state = () => ({ facts: facts(), cells: model.get("_cells"), figures: model.get("_figures")[shownFigure()] });
  const shownFigure = () => (model.get("_figures")[model.get("figure")] ? model.get("figure") : "macro_f1");
  const chosenCell = () => model.get("_cells").findIndex(({ name }) => name === model.get("value"));
  const site = () => {
    const at = model.get("_cells")[chosenCell()]?.at;
    return at ? facts().axes.sae[at[0]] : null;
  };
  const contextsOf = (feature) => model.get("_contexts")[`${site()}/${feature}`];
  const chooseFeature = (feature) => put("feature", feature);
  const cellLabel = (number) => {
    const { cells, figures } = state();
    const close = cells[number].as_good ? ", not to be told from the best" : "";
    const rank = number === facts().best ? ", best in validation" : close;
    return `${cells[number].name}: ${PROBE_FIGURES[shownFigure()]} ${intervalText(figures[number])}${rank}`;
  };

  function drawControls() {
    const busy = model.get("busy");
    const [at, all] = model.get("_progress");
    const searching = model.get("_progress").length > 0;
    const has = model.get("_cells").length > 0;
    root.setAttribute("aria-busy", String(busy));
    go.hidden = !model.get("_has_kernel") || (has && !busy);
    go.textContent = busy ? "Stop" : "Compute the grid";
    save.hidden = !has;
    bar.parentElement.hidden = !searching;
    if (all) bar.max = all;
    if (all) bar.value = at;
    else bar.removeAttribute("value");
    done.textContent = all ? `${at} of ${all} cells` : "the first cell is under way";
    alert.textContent = model.get("error");
    const offered = Object.keys(PROBE_FIGURES).filter(
      (name) => model.get("_has_kernel") || model.get("_figures")[name],
    );
    figure.replaceChildren(...offered.map((name) => h("option", { value: name }, PROBE_FIGURES[name])));
    figure.value = model.get("figure");
    figure.parentElement.hidden = !has;
  }

  function drawMaps() {
    const held = maps.contains(document.activeElement) ? document.activeElement.saekitCellNumber : null;
    const { choice, tested, verdict: words } = facts();
    own.hidden = !model.get("_cells").length;
    if (!model.get("_cells").length) {
      said.replaceChildren();
      return maps.replaceChildren(h("p", { class: "saekit-nothing" }, "No grid yet."));
    }
    said.replaceChildren(h("p", { class: "saekit-verdict" }, words), h("p", {}, choice), h("p", {}, tested));
    const all = { ...state(), label: cellLabel };
    all.scale = probeScale(all.figures, facts().n_cells);
    const drawn = [heatMap(all), baselineMap(all)].filter(Boolean);
    body.classList.toggle("saekit-broad", facts().axes.sae.length * facts().axes.classifier.length > BROAD);
    maps.replaceChildren(...drawn.map((table) => h("div", { class: "saekit-map-frame" }, table)));
    const on = `${facts().n_validation} texts${facts().repeats > 1 ? `, mean over ${facts().repeats} repeats` : ""}`;
    const read = `${PROBE_FIGURES[shownFigure()]} in validation on ${on}, with its 95 % interval`;
    key.replaceChildren(h("p", { class: "saekit-faint" }, read), heatKey(all.scale));
    drawSelection();
    if (held !== null) maps.querySelector(`[data-cell="${held}"]`)?.focus({ preventScroll: true });
  }

  /** One tab stop a table: the selected cell, else the first. */
  function drawSelection() {
    const number = chosenCell();
    for (const table of maps.querySelectorAll("table")) {
      const all = [...table.querySelectorAll("[role=gridcell]")];
      const stop = all.find((node) => node.saekitCellNumber === number) ?? all[0];
      for (const node of all) {
        node.setAttribute("aria-selected", String(node.saekitCellNumber === number));
        node.tabIndex = node === stop ? 0 : -1;
      }
    }
    readout.textContent = "";
  }

  function drawCell() {
    const number = chosenCell();
    const opened = model.get("_opened");
    const inside = card.contains(document.activeElement) ? document.activeElement.dataset : null;
    if (number < 0 || opened.number !== number) return card.replaceChildren();
    const { cells } = state();
    const { classes, best_baseline: line } = facts();
    const over = overBaselineWords(opened.over_baseline, line === null ? "" : cells[line].name);
    const parts = opened.features ?? opened.words;
    if (listed === null || listed >= classes.length) listed = classes.length === 2 ? 1 : 0;
    const choose = h(
      "select",
      {
        "data-part": "class",
        onchange: () => {
          listed = Number(choose.value);
          drawCell();
        },
      },
      ...classes.map((name, i) => h("option", { value: i }, name)),
    );
    choose.value = listed;
    const options = {
      label: classes[listed],
      contexts: contextsOf,
      chosen: model.get("feature"),
      onchoose: chooseFeature,
    };
    const weights = parts
      ? [
          h("label", { class: "saekit-for" }, opened.features ? "Features for class " : "Words for class ", choose),
          h(
            "div",
            { class: "saekit-frame", tabindex: 0, role: "region", "aria-label": "Weights" },
            opened.features ? featureTable(parts[listed], options) : wordTable(parts[listed]),
          ),
        ]
      : [];
    const none =
      parts || !model.get("_has_kernel")
        ? null
        : h(
            "p",
            { class: "saekit-faint" },
            facts().readable
              ? model.get("busy")
                ? "Fitting …"
                : "This one has no weights to read."
              : "Pass the features to see what a cell weighs: Probes(grid, features).",
          );
    card.replaceChildren(
      h("h3", { title: cells[number].name }, cells[number].label),
      figureList(model.get("_figures"), number, PROBE_FIGURES),
      h("p", {}, standingWords(cells[number], number, facts())),
      over ? h("p", {}, over) : "",
      h(
        "div",
        { class: "saekit-frame", tabindex: 0, role: "region", "aria-label": "Confusion matrix" },
        confusionTable(opened.confusion, classes, facts().repeats),
      ),
      ...weights,
      none ?? "",
    );
    refocus(card, inside);
  }

  function drawContexts() {
    const feature = model.get("feature");
    contexts.hidden = feature === null || feature === undefined || site() === null || !facts().readable;
    if (!contexts.hidden) contexts.replaceChildren(...contextList(feature, contextsOf(feature), { indexed: live }));
    for (const button of root.querySelectorAll("[data-feature]"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.feature) === feature));
  }

  function drawText() {
    if (box.value !== model.get("text") && document.activeElement !== box) box.value = model.get("text");
  }

  function drawResult() {
    const result = model.get("_result");
    const inside = outcome.contains(document.activeElement) ? document.activeElement.dataset : null;
    if (!result.tokens) {
      verdict.textContent = "";
      return outcome.replaceChildren();
    }
    const { classes } = facts();
    if (shadedFor !== result.label) shaded = result.class;
    shadedFor = result.label;
    outcome.classList.toggle("saekit-late", result.cell !== model.get("value"));
    const words = resultText(result);
    if (verdict.textContent !== words) verdict.textContent = words;
    const told = h("p", { class: "saekit-faint saekit-part", "aria-live": "polite" });
    const strip = partStrip(
      result,
      shaded,
      classes[shaded],
      (cell) =>
        (told.textContent = `${JSON.stringify(cell.text)}: ${signed(cell.value)} to the score of ${classes[shaded]}`),
    );
    const note = result.intercepts
      ? `Shade: part in the score of ${classes[shaded]}; blue for it, orange against; ` +
        `the intercept adds ${signed(result.intercepts[shaded])}. `
      : "";
    outcome.replaceChildren(
      classList(result, classes, shaded, (i) => {
        shaded = i;
        drawResult();
      }),
      strip.node,
      told,
      h("p", { class: "saekit-faint" }, note + result.exact),
      h("h4", {}, `Features behind the decision for ${result.label}`),
      decisionList(result, { chosen: model.get("feature"), onchoose: chooseFeature, contexts: contextsOf }),
    );
    if (inside)
      (
        outcome.querySelector(inside.feature ? `[data-feature="${inside.feature}"]` : "[aria-pressed='true']") ?? box
      ).focus({ preventScroll: true });
  }

  /** A focus that falls to the page would hand the next key to JupyterLab's command mode. */
  function refocus(part, was) {
    if (!was) return;
    const same = was.feature
      ? `[data-feature="${was.feature}"]`
      : was.part
        ? `[data-part="${was.part}"]`
        : ".saekit-frame";
    (part.querySelector(same) ?? part.querySelector(".saekit-frame"))?.focus({ preventScroll: true });
  }

  const cellAt = (event) => event.target.closest?.("[role=gridcell]") ?? null;
  const tell = (event) => {
    const number = cellAt(event)?.saekitCellNumber;
    if (number === undefined) return;
    readout.textContent = `${cellLabel(number)}. ${standingWords(model.get("_cells")[number], number, facts())}`;
  };
  maps.addEventListener("pointerover", tell);
  maps.addEventListener("focusin", tell);
  maps.addEventListener("click", (event) => {
    const node = cellAt(event);
    if (!node) return;
    node.focus({ preventScroll: true });
    put("value", model.get("_cells")[node.saekitCellNumber].name);
  });
  maps.addEventListener("keydown", (event) => {
    const node = cellAt(event);
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...node.closest("tbody").rows].map((row) => [...row.querySelectorAll("[role=gridcell]")]);
    const row = rows.findIndex((all) => all.includes(node));
    const next = gridStep(event.key, [row, rows[row].indexOf(node)], rows.length, rows[0].length);
    if (event.key === "Enter" || event.key === " ") put("value", model.get("_cells")[node.saekitCellNumber].name);
    else if (next === null) return;
    else {
      const to = rows[next[0]][next[1]];
      for (const other of rows.flat()) other.tabIndex = other === to ? 0 : -1;
      to.focus();
    }
    event.preventDefault();
  });

  const draws = {
    "change:_facts": [drawMaps],
    "change:_cells": [drawControls, drawMaps],
    "change:_figures": [drawControls, drawMaps, drawCell],
    "change:figure": [drawControls, drawMaps],
    "change:value": [drawSelection, drawCell, drawContexts, drawResult],
    "change:_opened": [drawCell],
    "change:_contexts": [drawCell, drawContexts, drawResult],
    "change:feature": [drawContexts],
    "change:text": [drawText],
    "change:_result": [drawResult],
    "change:_progress": [drawControls],
    "change:busy": [drawControls, drawCell],
    "change:error": [drawControls],
  };
  const wired = Object.entries(draws).flatMap(([event, all]) => all.map((draw) => [event, draw]));
  wired.forEach(([event, draw]) => model.on(event, draw));
  [drawControls, drawMaps, drawCell, drawContexts, drawText, drawResult].forEach((draw) => draw());
  return () => wired.forEach(([event, draw]) => model.off(event, draw));
}

export default { render };
