// What can be done to a setting before the kernel hears of it: units, ranges, numbers as people type them. No DOM.

const MINUS = "−";
export const MODES = ["add", "clamp", "ablate", "scale"];
export const UNIT_NAMES = { max: "× its maximum", norm: "× the residual's length", activation: "(activation)" };
/** Whether a feature is left alone: adding nothing, or scaling by one. To clamp to 0 is to ablate. */
export function isOff({ mode, value }) {
  return (mode === "add" && value === 0) || (mode === "scale" && value === 1);
}

/** Where the slider of a feature goes from and to; the number box goes beyond. */
export function sliderRange({ mode, maximum }, unit) {
  if (mode === "scale") return { min: -4, max: 6, step: 0.1 };
  if (unit === "norm") return { min: -2, max: 2, step: 0.05 };
  if (unit === "max") return { min: -6, max: 6, step: 0.1 };
  const end = 6 * Number((maximum || 10).toPrecision(1));
  return { min: -end, max: end, step: end / 60 };
}

/** The setting in another unit: strengths keep their meaning between maximum and activation, else begin anew. */
export function inUnit(setting, unit) {
  const move = (row) => {
    if (row.mode === "scale") return row;
    const { value, maximum } = row;
    if (maximum && setting.unit === "max" && unit === "activation") return { ...row, value: value * maximum };
    if (maximum && setting.unit === "activation" && unit === "max") return { ...row, value: value / maximum };
    return { ...row, value: startValue(row, unit) };
  };
  return { ...setting, unit, features: setting.features.map(move) };
}

/** A first strength: clearly there, short of breaking the text. */
export function startValue({ mode, maximum }, unit) {
  if (mode === "scale") return 2;
  return { max: 1, norm: 0.5, activation: maximum ? Number(maximum.toPrecision(2)) : 5 }[unit];
}

/** Whether two settings write the same texts. */
export function sameTexts(a, b) {
  const parts = ["prompt", "features", "unit", "positions", "temperature", "seed", "max_new_tokens", "chat"];
  return parts.every((part) => JSON.stringify(a[part]) === JSON.stringify(b[part]));
}

/** A finite number out of what a person typed, infinities as the largest that counts; null when it is none. */
export function typedNumber(text) {
  const clean = String(text).trim().replace(MINUS, "-").replace(",", ".");
  if (!clean) return null;
  const found = Number(clean.replace(/^([+-]?)(inf|infinity|∞)$/i, "$1Infinity"));
  return Number.isNaN(found) ? null : Math.max(-1e9, Math.min(1e9, found));
}

/** A setting with all strengths multiplied, as a point of the sweep has it. */
export function timesFactor(setting, factor) {
  const move = (row) => {
    if (row.mode === "ablate") return { ...row, mode: "scale", value: 1 - factor };
    if (row.mode === "scale") return { ...row, value: 1 + factor * (row.value - 1) };
    return { ...row, value: row.value * factor };
  };
  return { ...setting, features: setting.features.map(move) };
}
