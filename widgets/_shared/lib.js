// Shared by every view. Pure functions, no DOM at import time, so `node --test` can load it.

/** Read a little-endian float32 array out of a binary trait; its DataView may begin at any offset. */
export function float32(view) {
  if (!view || !view.byteLength) return new Float32Array();
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** Thousands separated by commas, whatever the browser's locale: the same as in the static HTML. */
export function grouped(count) {
  return String(count).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** Show whitespace as a mark, never as a blank; controls such as NUL have no picture of their own. */
export function visible(token) {
  const marks = { " ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };
  // eslint-disable-next-line no-control-regex
  return token.replace(/[ \n\r\t\u00a0]/g, (c) => marks[c]).replace(/[\u0000-\u001f]/g, "\ufffd");
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
