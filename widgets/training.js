// The training view: curves of all runs side by side, feature densities of one, Start and Stop.
import { float32, grouped, percent, sig } from "./lib.js";
import { guardKeys, h } from "./dom.js";
import { barChart, lineChart, lineSample, powerOfTen, short } from "./chart.js";

const SPOKEN_EVERY = 15000; // milliseconds between two reports of figures to a screen reader
const LOWEST = -6; // of the histogram: log10 density
const PANELS = [
  { key: "loss", title: "Loss", about: "squared error a token", row: 1 },
  { key: "fvu", title: "FVU", about: "variance left unexplained", row: 2 },
  { key: "l0", title: "L0", about: "active features a token", row: 3 },
  { key: "dead_share", title: "Dead features", about: "share of all", row: 4, ticksAs: percent, scale: "linear" },
];

/** All runs as they are now: the one under way has news of its own. */
export function mergeRuns(runs, live) {
  return runs.map((run, number) => ({ ...run, ...(live?.name === run.name ? live : {}), number }));
}

/** The curves of a run: rows of samples, loss, FVU, L0 and dead share. */
export function curveRows(run) {
  const points = float32(run.points);
  const count = points.length / 5;
  return Array.from({ length: 5 }, (_, row) => points.subarray(row * count, (row + 1) * count));
}

/** What the button does now: {text, kind}, kind "stop", "start" or "" where there is nothing to do. */
export function nextAction(runs, busy, stopping) {
  if (busy) return stopping ? { text: "Stopping …", kind: "" } : { text: "Stop", kind: "stop" };
  const waiting = runs.filter((run) => run.state === "waiting").length;
  if (waiting) return { text: waiting === runs.length ? "Start" : `Start the other ${waiting === 1 ? "run" : `${waiting} runs`}`, kind: "start" };
  const again = runs.filter((run) => run.state === "stopped" || run.state === "failed");
  if (!again.length) return { text: "Done", kind: "" };
  return { text: again.length === 1 && runs.length > 1 ? `Train again: ${again[0].name}` : "Train again", kind: "start" };
}

/** A time as people say it; null where it is not known. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return null;
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

/** How the run under way is doing, in words. */
export function paceWords(runs, live) {
  const at = runs.findIndex((run) => run.name === live.name);
  if (at < 0) return "";
  const words = [runs.length > 1 ? `run ${at + 1} of ${runs.length}: ${live.name}` : live.name];
  if (live.last) words.push(`${grouped(live.last.samples)} of ${grouped(live.last.all_samples)} samples`);
  else words.push("preparing");
  if (live.rate) words.push(`${grouped(Number(live.rate.toPrecision(2)))} samples/s`);
  const left = duration(live.seconds_left);
  if (left) words.push(`${left} left`);
  return words.join(" · ");
}

/** A value as the table and the labels show it. */
export function valueWords(key, value) {
  return key === "dead_share" ? percent(value) : sig(value);
}

/** A chart in a sentence, for those who do not see it. */
export function curveWords(title, key, runs) {
  const said = runs.filter((run) => run.last).map((run) => `${run.name} ${valueWords(key, run.last[key])} after ${grouped(run.last.samples)} samples`);
  return `${title}: ${said.join("; ") || "nothing yet"}`;
}

/** The histogram of densities in a sentence. */
export function densityWords(name, { counts, never, features }) {
  const most = Math.max(...counts);
  const at = counts.indexOf(most);
  const edge = (i) => `${sig(100 * 10 ** (LOWEST + (i * -LOWEST) / counts.length), 2)} %`;
  const where = most ? `; most often, ${grouped(most)} of them, on ${edge(at)} to ${edge(at + 1)} of the tokens` : "";
  return `${name}: ${grouped(never)} of ${grouped(features)} features fired on none of the last tokens${where}`;
}

function render({ model, el }) {
  const press = (counter) => {
    model.set(counter, model.get(counter) + 1);
    model.save_changes();
  };
  const go = h("button", { type: "button", class: "saekit-go", onclick: () => go.dataset.kind && press(go.dataset.kind === "stop" ? "_stops" : "_starts") });
  const filled = h("span");
  const bar = h("div", { class: "saekit-pace-bar", role: "progressbar", "aria-label": "Progress of all runs", "aria-valuemin": 0, "aria-valuemax": 100 }, filled);
  const words = h("p", { class: "saekit-pace-words" });
  const alert = h("p", { class: "saekit-alert", role: "alert" });
  const status = h("p", { class: "saekit-silent", role: "status" });
  const legend = h("div", { class: "saekit-legend", role: "group", "aria-label": "Runs: switch their curves on and off" });
  const figures = PANELS.map(() => h("div"));
  const chosen = h("select", { "aria-label": "Run whose densities are shown", onchange: () => select(chosen.value) });
  const densities = h("div");
  const rows = h("tbody");
  const root = h(
    "section",
    { class: "saekit-training", "aria-label": "Training" },
    h("div", { class: "saekit-pace" }, h("h2", {}, "Training"), go, bar, words),
    h("p", { class: "saekit-faint" }, model.get("_common") ? `all runs: ${model.get("_common")}` : ""),
    alert,
    status,
    legend,
    h("div", { class: "saekit-panels" }, ...PANELS.map(({ title, about }, i) =>
      h("div", {}, h("h3", {}, title, h("span", { class: "saekit-faint" }, ` ${about}`)), figures[i]))),
    h(
      "div",
      { class: "saekit-below" },
      h("div", {}, h("div", { class: "saekit-density-head" }, h("h3", {}, "Feature density"), chosen), densities),
      h("div", { class: "saekit-values-frame", tabindex: 0, role: "region", "aria-label": "Last values" },
        h("table", { class: "saekit-values" }, h("caption", {}, "Last values"), tableHead(), rows)),
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
    return h("button", { type: "button", title, onclick: () => toggle(run.name) }, lineSample(number), h("span", {}, h("bdi", {}, run.name)));
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
      status.textContent = said.map((run) => `${run.name} ${run.state}, FVU ${sig(run.last.fvu, 2)}, L0 ${sig(run.last.l0, 2)}`).join("; ");
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
    const done = runs.reduce((sum, run) => sum + (run.state === "done" ? 1 : run.state === "training" && run.last ? run.last.samples / run.last.all_samples : 0), 0);
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
      figures[i].replaceChildren(lineChart({ series, words: curveWords(title, key, shown), xLabel: "samples", xHigh, scale, ticksAs }));
    });
    rows.replaceChildren(...runs.map(tableRow));
  }

  function drawDensity() {
    const runs = mergeRuns(model.get("_runs"), model.get("_live"));
    const run = runs.find(({ name }) => name === model.get("value"));
    chosen.value = model.get("value");
    chosen.hidden = runs.length < 2;
    if (!run?.density) return densities.replaceChildren(h("p", { class: "saekit-faint" }, "how often each feature fires: nothing yet"));
    const { counts, never } = run.density;
    densities.replaceChildren(
      barChart({
        counts, number: run.number, words: densityWords(run.name, run.density), apart: { count: never, label: "never" },
        ticks: [0, 2, 4, 6].map((i) => ({ at: i / -LOWEST, label: powerOfTen(LOWEST + i) })), xLabel: "share of the last tokens on which a feature fired",
      }),
    );
  }

  const draws = {
    "change:_live": [drawControls, drawCurves, drawDensity],
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

/** The state of all runs once none is under way. */
export function summary(runs) {
  const count = (state) => runs.filter((run) => run.state === state).length;
  if (count("waiting") === runs.length) return `${runs.length} run${runs.length > 1 ? "s" : ""} to train`;
  const said = [["done", "done"], ["stopped", "stopped, its result kept"], ["failed", "failed"], ["waiting", "not trained"]];
  return said.filter(([state]) => count(state)).map(([state, text]) => `${count(state)} ${text}`).join(" · ");
}

function tableHead() {
  const titles = [["run", true], ["state", true], ["samples", false], ...PANELS.map(({ title }) => [title, false])];
  return h("thead", {}, h("tr", {}, ...titles.map(([title, text]) => h("th", { scope: "col", class: text ? "saekit-as-text" : null }, title))));
}

function tableRow(run) {
  const state = run.state === "waiting" ? "not trained" : run.state;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, lineSample(run.number), " ", h("b", {}, h("bdi", {}, run.name)), h("span", { class: "saekit-faint" }, run.settings ? ` ${run.settings}` : "")),
    h("td", { class: "saekit-as-text" }, state),
    h("td", {}, run.last ? grouped(run.last.samples) : "–"),
    ...PANELS.map(({ key }) => h("td", {}, run.last ? valueWords(key, run.last[key]) : "–")),
  );
}

export default { render };
