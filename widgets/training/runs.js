// The runs of the training view, as data and in words. Pure functions, no DOM.
import { float32, grouped, percent, sig } from "../_shared/lib.js";

export const LOWEST = -6; // of the histogram: log10 density

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
  if (waiting)
    return {
      text: waiting === runs.length ? "Start" : `Start the other ${waiting === 1 ? "run" : `${waiting} runs`}`,
      kind: "start",
    };
  const again = runs.filter((run) => run.state === "stopped" || run.state === "failed");
  if (!again.length) return { text: "Done", kind: "" };
  return {
    text: again.length === 1 && runs.length > 1 ? `Train again: ${again[0].name}` : "Train again",
    kind: "start",
  };
}

/** A time as people say it; null where it is not known. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return null;
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
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
  const said = runs
    .filter((run) => run.last)
    .map((run) => `${run.name} ${valueWords(key, run.last[key])} after ${grouped(run.last.samples)} samples`);
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

/** The state of all runs once none is under way. */
export function summary(runs) {
  const count = (state) => runs.filter((run) => run.state === state).length;
  if (count("waiting") === runs.length) return `${runs.length} run${runs.length > 1 ? "s" : ""} to train`;
  const said = [
    ["done", "done"],
    ["stopped", "stopped, its result kept"],
    ["failed", "failed"],
    ["waiting", "not trained"],
  ];
  return said
    .filter(([state]) => count(state))
    .map(([state, text]) => `${count(state)} ${text}`)
    .join(" · ");
}
