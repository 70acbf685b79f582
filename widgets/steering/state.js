// What the steering view knows about settings, tokens and effects. Pure functions; Python has the same words.
import { percent, sig } from "../_shared/lib.js";

const MINUS = "−";
const FULL_CHANGE = 4; // a token e⁴ = 55 times as likely, or as unlikely, has the full shade
export const MODES = ["add", "clamp", "ablate", "scale"];
export const UNIT_NAMES = { max: "× its maximum", norm: "× the residual's length", activation: "(activation)" };
export const END_NAMES = {
  eos: "",
  length: " …",
  context: " … (the context is full)",
  stopped: " … (stopped)",
  "": "",
};
export const EFFECTS = [
  [
    "kl",
    "KL on neutral text, nats",
    "how much the next-token distribution changes on six everyday sentences: 0 is no side effect",
  ],
  [
    "perplexity",
    "perplexity, unsteered reader",
    "how surprised the unsteered model is by this text; low also for a word said again and again",
  ],
  ["repetition", "repeated runs of 3 tokens", "share of the text's runs of three tokens that occurred in it before"],
  [
    "feature_share",
    "tokens with the feature on",
    "where the unsteered model, reading the text again, activates the features",
  ],
  ["concept_share", "words about the concept", "words that match your expression"],
  ["edit_norm", "edit / residual", "length of the change relative to the residual stream, mean over edited tokens"],
];
export const SWEEP_PANELS = [
  ["fluency", "Fluency"],
  ["concept_hit", "Concept in the text"],
  ["kl", "KL on neutral text"],
  ["perplexity", "Perplexity"],
];
export const FLUENCY_WORDS =
  "Fluency: perplexity of the unsteered text over that of this one, less what it repeats; " +
  "dotted: where it falls below one half.";
const SHARES = ["repetition", "feature_share", "concept_share", "concept_hit", "fluency"];

/** A number as it is typed, with a real minus. */
function plainNumber(value) {
  return String(Number(value.toPrecision(6))).replace("-", MINUS);
}

/** Whether a feature is left alone: adding nothing, or scaling by one. To clamp to 0 is to ablate. */
export function isOff({ mode, value }) {
  return (mode === "add" && value === 0) || (mode === "scale" && value === 1);
}

/** What is done to one feature, in words. */
export function amountWords({ feature, mode, value }, unit) {
  const units = { max: " × its maximum", norm: " × the residual's length", activation: " (activation)" };
  const number = plainNumber(value);
  const what = {
    add: `add ${number}${units[unit]}`,
    clamp: `clamp to ${number}${units[unit]}`,
    ablate: "ablate",
    scale: `scale by ${number}`,
  };
  return `feature ${feature}: ${what[mode]}`;
}

/** Two digits without an exponent. */
export function rough(value) {
  return value === null || !Number.isFinite(value) ? "–" : sig(Number(value.toPrecision(2)));
}

/** A side effect with two digits; "" stands for what is still being measured. */
export function effectWords(name, value) {
  if (value === null || value === undefined) return "–";
  return SHARES.includes(name) ? percent(value) : rough(value);
}

/** What steering did to a token's probability. */
export function changeWords(logprob, plain) {
  const [before, after] = [percent(Math.exp(plain)), percent(Math.exp(logprob))];
  return before === after ? `probability ${after}, as without steering` : `probability ${before} → ${after}`;
}

/** Shade of a token, 0 to 1, and whether it became more or less likely. */
export function changeShade(logprob, plain) {
  const change = logprob - plain;
  return { tone: change > 0 ? "likelier" : "rarer", shade: Math.min(1, Math.abs(change) / FULL_CHANGE) };
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

/** A strength of the sweep: of a single feature its own, else the multiple of what is set. */
export function strengthWords(factor, { value }) {
  if (factor === 0) return "off";
  return value === null
    ? `${plainNumber(factor)} ×`
    : String(Number((factor * value).toPrecision(3))).replace("-", MINUS);
}

/** Where fluency breaks, in words. */
export function breaksWords(sweep) {
  if (sweep.breaks_at === null)
    return `Fluency stays above one half at every strength ${sweep.under_way ? "so far" : "tried"}.`;
  return `Fluency falls below one half at strength ${strengthWords(sweep.breaks_at, sweep)}.`;
}

/** How the baseline that asks for the concept does, which has no strength; "" where it did not run. */
export function askedWords({ prompt }) {
  if (!prompt) return "";
  const [concept, fluency] = ["concept_hit", "fluency"].map((name) => effectWords(name, prompt[name]));
  return `Asked for in the prompt instead: concept in the text ${concept}, fluency ${fluency}.`;
}

/** The lines of one panel: {name, number, xs, ys}, strength across. */
export function sweepSeries(sweep, measure) {
  const scale = sweep.value === null ? 1 : Math.abs(sweep.value);
  return sweep.lines.map(({ name, points }, number) => {
    const known = points.filter((point) => point[measure] !== null);
    return {
      name,
      number,
      xs: known.map(({ strength }) => strength * scale),
      ys: known.map((point) => point[measure]),
    };
  });
}

/** One panel as a sentence. */
export function sweepWords(title, measure, series) {
  const said = series.map(
    ({ name, xs, ys }) => `${name} ${ys.map((y, i) => `${effectWords(measure, y)} at ${sig(xs[i])}`).join(", ")}`,
  );
  return `${title} by strength: ${said.join("; ")}`;
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
