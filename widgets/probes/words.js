// What the probes view says and computes: numbers, sentences, the scale of colours, keys. Pure functions, no DOM.

export const PROBE_FIGURES = { macro_f1: "macro F1", auroc: "AUROC", accuracy: "accuracy" };
export const CONFUSED_CLASSES = 12; // in a confusion matrix; beyond, the largest confusions are listed

/** Two decimals with a real minus, three where less than 1 would read 1.00; a dash for what is no number. */
export function twoPlaces(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value >= 0.995 && value < 1) return (Math.floor(1000 * value) / 1000).toFixed(3);
  return value.toFixed(2).replace("-0.00", "0.00").replace("-", "−");
}

/** A value with its interval: 0.93 [0.91, 0.95]; with signs for a difference. */
export function intervalText([value, low, high], signs = false) {
  const write = (v) => (signs && v !== null && v > 0 ? `+${twoPlaces(v)}` : twoPlaces(v));
  return `${write(value)} [${write(low)}, ${write(high)}]`;
}

/**
 * The values of no colour and of full colour, at least as far apart as a usual interval is wide.
 * See `scale_of` in Python.
 */
export function probeScale(figures, nCells) {
  const known = figures.slice(0, nCells).filter(([value]) => value !== null);
  if (!known.length) return [0, 1];
  const high = Math.max(...figures.map(([value]) => value).filter((value) => value !== null));
  const widths = known
    .filter(([, low, top]) => low !== null && top !== null)
    .map(([, low, top]) => top - low)
    .toSorted((a, b) => a - b);
  const half = widths.length / 2;
  const usual = !widths.length
    ? 0
    : widths.length % 2
      ? widths[Math.floor(half)]
      : (widths[half - 1] + widths[half]) / 2;
  const low = Math.min(...known.map(([value]) => value), high - usual);
  return high > low ? [low, high] : [low - 0.5, high];
}

/** How much colour a value has, 0 to 1. */
export function probeShade(value, [low, high]) {
  return value === null ? 0 : Math.min(1, Math.max(0, (value - low) / (high - low)));
}

/** The sign beside a figure: the best cell, and those that cannot be told from it. */
export function probeMark(row, number, best) {
  if (number === best) return "★";
  return row.as_good ? "≈" : "";
}

/** Say how a cell stands to the best one; verdicts only where the interval of the difference excludes 0. */
export function standingWords(row, number, facts) {
  if (number === facts.best)
    return "Best in validation by macro F1: chosen as the best of many, so its figure there flatters it.";
  const gap = `best cell minus this one: ${intervalText(row.behind, true)} macro F1`;
  const [, low, high] = row.behind;
  if (low > 0) return `Worse than the best cell (${gap}).`;
  if (high < 0) return `Better than the best cell (${gap}).`;
  return `These texts cannot tell it from the best cell (${gap}, which holds 0).`;
}

/** Say how a cell stands to the best baseline in validation. */
export function overBaselineWords(gap, name) {
  if (!gap) return "";
  const [value, low, high] = gap;
  const words = `this cell minus it: ${intervalText(gap, true)} macro F1`;
  if (low > 0 || high < 0) return `${value > 0 ? "Better" : "Worse"} than ${name}, the best baseline (${words}).`;
  return `No verdict against ${name}, the best baseline (${words}, which holds 0).`;
}

/** Where an arrow, Home or End key leads in a table of rows × columns; null when the key is not ours. */
export function gridStep(key, [row, column], rows, columns) {
  const moves = {
    ArrowRight: [row, column + 1],
    ArrowLeft: [row, column - 1],
    ArrowDown: [row + 1, column],
    ArrowUp: [row - 1, column],
    Home: [row, 0],
    End: [row, columns - 1],
  };
  if (!(key in moves)) return null;
  const [y, x] = moves[key];
  return [Math.min(rows - 1, Math.max(0, y)), Math.min(columns - 1, Math.max(0, x))];
}

/** Numbers of cells as the heat map lays them out: rows pooling × binarising, columns site × classifier. */
export function heatRows(cells, axes) {
  const [nBinarise, nClassifiers] = [axes.binarise.length, axes.classifier.length];
  const rows = Array.from({ length: axes.pooling.length * nBinarise }, () =>
    Array(axes.sae.length * nClassifiers).fill(null),
  );
  cells.forEach(({ at }, number) => {
    if (!at) return;
    const [site, pooling, binarise, classifier] = at;
    rows[pooling * nBinarise + binarise][site * nClassifiers + classifier] = number;
  });
  return rows;
}

/** The largest entries off the diagonal of a confusion matrix: [true, predicted, count]. */
export function largestConfusions(matrix) {
  const off = matrix.flatMap((row, t) => row.map((n, p) => [t, p, n])).filter(([t, p, n]) => n && t !== p);
  return off.toSorted((a, b) => b[2] - a[2]).slice(0, CONFUSED_CLASSES);
}

/** Say the class of a text, with its probability where the classifier has one. */
export function resultText(result) {
  if (result.probabilities) return `${result.label}, probability ${twoPlaces(result.probabilities[result.class])}`;
  const [first, second] = result.scores.toSorted((a, b) => b - a);
  return `${result.label}, by ${twoPlaces(first - second)} in score: this classifier gives no probability`;
}

/** Parts of one class from the packed [class, token] array. */
export function partsOf(parts, number, tokens) {
  return parts.subarray(number * tokens, (number + 1) * tokens);
}

/** Every cell and baseline as CSV, as `Probes.to_csv` writes it. */
export function probesCsv(facts, cells, figures) {
  const field = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const axes = Object.entries(facts.axes);
  const names = Object.keys(figures);
  const head = [
    "kind",
    "name",
    ...axes.map(([axis]) => axis),
    ...names.flatMap((f) => [f, `${f}_low`, `${f}_high`]),
    "behind_best",
    "behind_best_low",
    "behind_best_high",
  ];
  const rows = cells.map(({ name, at, behind }, i) => {
    const levels = axes.map(([, all], k) => (at ? all[at[k]] : ""));
    return [at ? "cell" : "baseline", name, ...levels, ...names.flatMap((f) => figures[f][i]), ...behind];
  });
  return [head, ...rows].map((row) => `${row.map(field).join(",")}\n`).join("");
}
