// Shared by every view. Pure functions, no DOM at import time, so `node --test` can load it.

/** The largest value among the cells that count: one left out (BOS above all) would drown all others. */
export function peakOf(cells, leftOut) {
  return cells.reduce((best, cell) => (leftOut.has(cell.from) ? best : Math.max(best, cell.value)), 0);
}

/** Read a little-endian float32 array out of a binary trait; its DataView may begin at any offset. */
export function float32(view) {
  if (!view || !view.byteLength) return new Float32Array();
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** Round to significant digits, without an exponent for everyday sizes: 0.0123, 12.3, "1,235". */
export function sig(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1000) return grouped(Math.round(value));
  return String(Number(value.toPrecision(digits)));
}

/** A column of values on one decimal point: as many decimals as three digits of the largest need. */
export function aligned(value, largest) {
  const decimals = largest >= 100 ? 0 : largest >= 10 ? 1 : largest >= 0.1 ? 2 : 4;
  return value >= 1000 ? sig(value) : value.toFixed(decimals);
}

/** Thousands separated by commas, whatever the browser's locale: the same as in the static HTML. */
export function grouped(count) {
  return String(count).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** Two decimals with the sign in front, and a real minus. */
export function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

/** A share as a percentage with two significant digits. */
export function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return "–";
  const value = 100 * share;
  return `${value >= 99.5 || value === 0 ? Math.round(value) : sig(value, 2)} %`;
}

/** Show whitespace as a mark, never as a blank; controls such as NUL have no picture of their own. */
export function visible(token) {
  const marks = { " ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };
  // eslint-disable-next-line no-control-regex
  return token.replace(/[ \n\r\t\u00a0]/g, (c) => marks[c]).replace(/[\u0000-\u001f]/g, "\ufffd");
}

/** What a screen reader should say for a token: names for what is silent. */
export function spoken(token) {
  const text = token.trim();
  if (text) return text;
  if (token.includes("\n")) return "new line";
  return token.includes("\t") ? "tab" : token ? "space" : "nothing";
}

/**
 * Join continuation pieces ("" = the character began in an earlier token) to the token before them.
 * Returns cells {text, value, from, to}: positions from…to-1, the strongest value of the pieces.
 */
export function mergePieces(tokens, values) {
  const cells = [];
  tokens.forEach((token, i) => {
    const last = cells.at(-1);
    if (token === "" && last) {
      last.to = i + 1;
      last.value = Math.max(last.value, values[i]);
    } else cells.push({ text: token || "\ufffd", value: values[i], from: i, to: i + 1 });
  });
  return cells;
}

/** Cells before, at and after the peak, at most `side` of them on each side (all of them: Infinity). */
export function around(cells, peak, side) {
  const found = cells.findIndex((cell) => cell.from <= peak && peak < cell.to);
  const at = Math.max(0, found);
  return {
    before: cells.slice(Math.max(0, at - side), at),
    peak: cells.slice(at, at + 1),
    after: cells.slice(at + 1, at + 1 + side),
  };
}

/** Next index for an arrow, Home or End key, or null when the key is not ours. */
export function step(key, index, count) {
  const moves = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: count - 1 };
  return key in moves ? Math.min(count - 1, Math.max(0, moves[key])) : null;
}

/** The feature `by` steps along the walk; from a feature outside it (a dead one), the next one by number. */
export function walkOn(walk, feature, by) {
  if (!walk.length) return null;
  const at = walk.indexOf(feature);
  if (at >= 0) return walk[(at + by + walk.length) % walk.length];
  const wanted = Array.from(walk).filter((f) => (by > 0 ? f > feature : f < feature));
  if (!wanted.length) return by > 0 ? Math.min(...walk) : Math.max(...walk);
  return wanted.reduce((best, f) => ((by > 0 ? f < best : f > best) ? f : best));
}

/** The k strongest features over positions from…to-1 of a [position, k] pair of flat arrays. */
export function strongest(features, strengths, k, from, to) {
  const best = new Map();
  for (let i = from * k; i < Math.min(to * k, features.length); i++)
    if (strengths[i] > 0) best.set(features[i], Math.max(strengths[i], best.get(features[i]) ?? 0));
  return [...best]
    .map(([feature, value]) => ({ feature, value }))
    .toSorted((a, b) => b.value - a.value || a.feature - b.feature)
    .slice(0, k);
}

/** Bars of a histogram with a logarithmic count axis, in a box of width × height: {x, width, y, height, count}. */
export function histogramBars(counts, width, height) {
  const top = logTop(Math.max(1, ...counts));
  const slot = width / counts.length;
  return counts.map((count, i) => {
    // log10(1 + n): a single activation still has a bar, none has none.
    const tall = count ? Math.max(1.5, (height * Math.log10(1 + count)) / top) : 0;
    return { x: i * slot, width: Math.max(1, slot - 1), y: height - tall, height: tall, count };
  });
}

/** Height of the count axis in decades: up to the next power of ten, so that its gridlines are round. */
export function logTop(most) {
  return Math.ceil(Math.log10(1 + most) * 2) / 2;
}

/** Gridlines of that axis: 1, 10, 100 … with their height. */
export function logTicks(counts, height) {
  const most = Math.max(1, ...counts);
  const ticks = [];
  for (let count = 1; count <= most; count *= 10)
    ticks.push({ count, y: height - (height * Math.log10(1 + count)) / logTop(most) });
  return ticks;
}

/** A histogram in a sentence, for those who do not see it. */
export function histogramWords({ edges, counts }, total) {
  const tallest = counts.indexOf(Math.max(...counts));
  return (
    `${grouped(total)} activations in ${counts.length} bins from ${sig(edges[0])} to ${sig(edges.at(-1))}; most ` +
    `(${grouped(counts[tallest])}) between ${sig(edges[tallest])} and ${sig(edges[tallest + 1])}, ` +
    `${grouped(counts.at(-1))} in the highest bin`
  );
}

/** Read a feature number out of what a person typed; null when it is none in 0…count-1. */
export function parseFeature(text, count) {
  const clean = String(text).trim().replaceAll(",", "");
  if (!/^\d+$/.test(clean)) return null;
  const feature = Number(clean);
  return feature < count ? feature : null;
}
