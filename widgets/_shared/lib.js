// Shared by every view. Pure functions, no DOM at import time, so `node --test` can load it.

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

/** Read a feature number out of what a person typed; null when it is none in 0…count-1. */
export function parseFeature(text, count) {
  const clean = String(text).trim().replaceAll(",", "");
  if (!/^\d+$/.test(clean)) return null;
  const feature = Number(clean);
  return feature < count ? feature : null;
}
