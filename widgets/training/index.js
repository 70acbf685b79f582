// The training view: curves of all runs side by side, feature densities of one, Start and Stop.
import { grouped, percent, sig } from "../_shared/lib.js";
import {
  LOWEST,
  curveRows,
  curveWords,
  densityWords,
  mergeRuns,
  nextAction,
  paceWords,
  summary,
  valueWords,
} from "./runs.js";
import { guardKeys, h } from "../_shared/dom.js";
import { barChart, lineChart, lineSample, powerOfTen, short } from "../_shared/chart.js";

const SPOKEN_EVERY = 15000; // milliseconds between two reports of figures to a screen reader
const PANELS = [
  { key: "loss", title: "Loss", about: "squared error a token", row: 1 },
  { key: "fvu", title: "FVU", about: "variance left unexplained", row: 2 },
  { key: "l0", title: "L0", about: "active features a token", row: 3 },
  { key: "dead_share", title: "Dead features", about: "share of all", row: 4, ticksAs: percent, scale: "linear" },
];

function render({ model, el }) {
  const press = (counter) => {
    model.set(counter, model.get(counter) + 1);
    model.save_changes();
  };
  const go = h("button", {
    type: "button",
    class: "saekit-go",
    onclick: () => go.dataset.kind && press(go.dataset.kind === "stop" ? "_stops" : "_starts"),
  });
  const filled = h("span");
  const bar = h(
    "div",
    {
      class: "saekit-pace-bar",
      role: "progressbar",
      "aria-label": "Progress of all runs",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
    },
    filled,
  );
  const words = h("p", { class: "saekit-pace-words" });
  const alert = h("p", { class: "saekit-alert", role: "alert" });
  const status = h("p", { class: "saekit-silent", role: "status" });
  const legend = h("div", {
    class: "saekit-legend",
    role: "group",
    "aria-label": "Runs: switch their curves on and off",
  });
  const figures = PANELS.map(() => h("div"));
  const chosen = h("select", { "aria-label": "Run whose densities are shown", onchange: () => select(chosen.value) });
  const densities = h("div");
  const rows = h("tbody");
  const root = h(
    "section",
    { class: "saekit-panel saekit-training", "aria-label": "Training" },
    h("div", { class: "saekit-pace" }, h("h2", {}, "Training"), go, bar, words),
    h("p", { class: "saekit-faint" }, model.get("_common") ? `all runs: ${model.get("_common")}` : ""),
    alert,
    status,
    legend,
    h(
      "div",
      { class: "saekit-panels" },
      ...PANELS.map(({ title, about }, i) =>
        h("div", {}, h("h3", {}, title, h("span", { class: "saekit-faint" }, ` ${about}`)), figures[i]),
      ),
    ),
    h(
      "div",
      { class: "saekit-below" },
      h("div", {}, h("div", { class: "saekit-density-head" }, h("h3", {}, "Feature density"), chosen), densities),
      h(
        "div",
        { class: "saekit-values-frame", tabindex: 0, role: "region", "aria-label": "Last values" },
        h("table", { class: "saekit-values" }, h("caption", {}, "Last values"), tableHead(), rows),
      ),
    ),
  );
  guardKeys(root);
  el.append(root);

  function select(name) {
    model.set("value", name);
    model.save_changes();
  }

  function toggle(name) {
    const hidden = model.get("hidden");
    model.set("hidden", hidden.includes(name) ? hidden.filter((other) => other !== name) : [...hidden, name]);
    model.save_changes();
  }

  const buttons = model.get("_runs").map((run, number) => {
    const title = `${run.name}${run.settings ? `: ${run.settings}` : ""}`;
    return h(
      "button",
      { type: "button", title, onclick: () => toggle(run.name) },
      lineSample(number),
      h("span", {}, h("bdi", {}, run.name)),
    );
  });
  legend.append(...buttons);
  chosen.append(...model.get("_runs").map((run) => h("option", { value: run.name }, run.name)));

  let spokenAt = 0;
  let spokenStates = "";
  /** Tell a screen reader of every change of state at once, of figures now and then. */
  function speak(runs) {
    const states = runs.map((run) => run.state).join();
    const due = model.get("busy") && Date.now() - spokenAt > SPOKEN_EVERY;
    if (spokenStates && (states !== spokenStates || due)) {
      spokenAt = Date.now();
      const said = runs.filter((run) => run.last && run.state !== "waiting");
      status.textContent = said
        .map((run) => `${run.name} ${run.state}, FVU ${sig(run.last.fvu, 2)}, L0 ${sig(run.last.l0, 2)}`)
        .join("; ");
    }
    spokenStates = states;
  }

  function drawControls() {
    const runs = mergeRuns(model.get("_runs"), model.get("_live"));
    const live = model.get("_live") ?? {};
    const busy = model.get("busy");
    const { text, kind } = nextAction(runs, busy, model.get("_stopping"));
    go.textContent = text;
    go.dataset.kind = kind;
    // Not `disabled`: that would throw the focus out of the view, into JupyterLab's command mode.
    go.setAttribute("aria-disabled", String(!kind));
    go.hidden = !model.get("_has_kernel");
    const done = runs.reduce(
      (sum, run) =>
        sum +
        (run.state === "done" ? 1 : run.state === "training" && run.last ? run.last.samples / run.last.all_samples : 0),
      0,
    );
    const share = done / runs.length;
    filled.style.setProperty("--saekit-share", share.toFixed(3));
    bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    words.textContent = busy ? paceWords(runs, live) : summary(runs);
    root.setAttribute("aria-busy", String(busy));
    alert.textContent = model.get("error");
    speak(runs);
  }

  function drawCurves() {
    const hidden = model.get("hidden");
    const runs = mergeRuns(model.get("_runs"), model.get("_live"));
    const shown = runs.filter((run) => !hidden.includes(run.name)).map((run) => ({ ...run, rows: curveRows(run) }));
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(!hidden.includes(runs[i].name))));
    const xHigh = Math.max(0, ...shown.map((run) => (run.state === "training" ? (run.last?.all_samples ?? 0) : 0)));
    PANELS.forEach(({ key, title, row, ticksAs = short, scale = "auto" }, i) => {
      const series = shown.map((run) => ({ name: run.name, number: run.number, xs: run.rows[0], ys: run.rows[row] }));
      figures[i].replaceChildren(
        lineChart({ series, words: curveWords(title, key, shown), xLabel: "samples", xHigh, scale, ticksAs }),
      );
    });
    rows.replaceChildren(...runs.map(tableRow));
  }

  function drawLive() {
    drawControls();
    drawCurves();
    if (model.get("_live")?.name === model.get("value")) drawDensity();
  }

  function drawDensity() {
    const runs = mergeRuns(model.get("_runs"), model.get("_live"));
    const run = runs.find(({ name }) => name === model.get("value"));
    chosen.value = model.get("value");
    chosen.hidden = runs.length < 2;
    if (!run?.density)
      return densities.replaceChildren(h("p", { class: "saekit-faint" }, "how often each feature fires: nothing yet"));
    const { counts, never } = run.density;
    densities.replaceChildren(
      barChart({
        counts,
        number: run.number,
        words: densityWords(run.name, run.density),
        apart: { count: never, label: "never" },
        ticks: [0, 2, 4, 6].map((i) => ({ at: i / -LOWEST, label: LOWEST + i ? powerOfTen(LOWEST + i) : "1" })),
        xLabel: "share of tokens on which a feature fired",
      }),
    );
  }

  const draws = {
    "change:_live": [drawLive],
    "change:_runs": [drawControls, drawCurves, drawDensity],
    "change:busy": [drawControls],
    "change:_stopping": [drawControls],
    "change:error": [drawControls],
    "change:hidden": [drawCurves],
    "change:value": [drawDensity],
  };
  const wired = Object.entries(draws).flatMap(([event, all]) => all.map((draw) => [event, draw]));
  wired.forEach(([event, draw]) => model.on(event, draw));
  [drawControls, drawCurves, drawDensity].forEach((draw) => draw());
  return () => wired.forEach(([event, draw]) => model.off(event, draw));
}

function tableHead() {
  const titles = [["run", true], ["state", true], ["samples", false], ...PANELS.map(({ title }) => [title, false])];
  return h(
    "thead",
    {},
    h(
      "tr",
      {},
      ...titles.map(([title, text]) => h("th", { scope: "col", class: text ? "saekit-as-text" : null }, title)),
    ),
  );
}

function tableRow(run) {
  const state = run.state === "waiting" ? "not trained" : run.state;
  return h(
    "tr",
    {},
    h(
      "th",
      { scope: "row" },
      lineSample(run.number),
      " ",
      h("b", {}, h("bdi", {}, run.name)),
      h("span", { class: "saekit-faint" }, run.settings ? ` ${run.settings}` : ""),
    ),
    h("td", { class: "saekit-as-text" }, state),
    h("td", {}, run.last ? grouped(run.last.samples) : "–"),
    ...PANELS.map(({ key }) => h("td", {}, run.last ? valueWords(key, run.last[key]) : "–")),
  );
}

export default { render };
