// Of the logit attribution view, what needs no page: words, scales, moves over the picture, what is exported.
import { grouped, percent, visible } from "../_shared/lib.js";

export const METHOD_WORDS = {
  direct: "direct",
  patching: "attribution patching",
  "integrated gradients": "integrated gradients",
  exact: "exact patching",
};
export const SLOW_METHODS = ["integrated gradients", "exact"];
const CSV_COLUMNS = ["kind", "feature", "position", "token", "items", "activation", "effect", "running"];
const FACTIONAL = ["activation", "effect", "running"];

/** What is read: "·Mary − ·John". */
export function readingName({ answer, foil }) {
  return visible(answer) + (foil ? ` − ${visible(foil)}` : "");
}

/** What is odd about a prompt that can still be read. */
export function promptHint(prompt) {
  return /\S\s+$/.test(prompt)
    ? "The prompt ends with a space or a line break: " +
        "most words bring a space of their own, so the next token is an odd one."
    : "";
}

/** What a bar is. */
export function barName(row) {
  const at = row.token ? ` at ${visible(row.token)}` : "";
  return {
    feature: `feature ${row.feature}${at}`,
    others: `${grouped(row.items)} other features`,
    error: `reconstruction error${row.items > 1 ? `, ${row.items} tokens` : at}`,
    bias: "bias of the SAE",
    rest: "rest of the model",
    output_bias: "output bias",
  }[row.kind];
}

/** What a bar that is no feature stands for. */
export function barHelp(row) {
  return (
    {
      others: "the features that are not listed, together",
      error: "what the SAE misses",
      bias: "what the SAE gives without any feature",
      rest: "all that later heads and MLPs write; they compute it from the features too",
      output_bias: "of the final norm and the unembedding",
    }[row.kind] ?? null
  );
}

/** Where the bars' zero lies and how long a logit is, both in shares of the width. */
export function barScale(bars) {
  const low = Math.min(0, ...bars.map(({ effect }) => effect));
  const high = Math.max(0, ...bars.map(({ effect }) => effect));
  const unit = 1 / (high - low || 1);
  return { zero: Math.abs(low) * unit, unit };
}

/** What the effects are measured against. */
export function baselineWords(asked, method) {
  if (method === "direct")
    return "what each feature writes towards the answer, through the final norm with its scale frozen";
  return {
    zero: "against all features at zero",
    mean: "against their means over the prompt",
    corrupted: `against “${asked.corrupted}”`,
  }[asked.baseline];
}

/** How well the methods computed so far agree. */
export function agreementWords(method, rows) {
  const said = rows.map(({ method: other, correlation, same_sign, items }) =>
    correlation === null
      ? `${other}: ${items} shared items, too flat to compare`
      : `${other}: r = ${correlation.toFixed(2).replace("-", "−")}, ` +
        `${percent(same_sign)} of the effect with the same sign`,
  );
  return said.length ? `Agreement of ${method} with ${said.join("; ")}.` : "";
}

/** What the picture's cells are. */
export function pictureWords(method) {
  return method === "direct"
    ? "Strongest features at every token, in logits towards each token's own prediction; " +
        "the last one's is explained above."
    : "Strongest features at every token, in logits: what each does there to the last token's prediction.";
}

/** Whether what is shown answers what is asked now. */
export function isCurrent(shown, asked, method) {
  if (!shown.asked || shown.method !== method) return false;
  const free = method === "direct" ? ["baseline", "corrupted"] : asked.baseline === "corrupted" ? [] : ["corrupted"];
  return Object.keys(shown.asked).every((name) => free.includes(name) || shown.asked[name] === asked[name]);
}

/** Why the picture is not the answer to what is asked now; "" when it is. */
export function staleWords({ shown, asked, method, busy, error }) {
  if (isCurrent(shown, asked, method) && !error) return "";
  if (!shown.asked) return busy ? "Computing …" : "Nothing is computed yet.";
  if (error) return "The picture below answers the last question that could be read.";
  if (busy) return "The picture below answers the question before; computing …";
  const earlier = "The picture below answers an earlier question";
  if (SLOW_METHODS.includes(method)) return `${earlier}: ${METHOD_WORDS[method]} takes seconds and waits for Compute.`;
  return `${earlier}.`;
}

/** The cell to which a key moves in a grid of rows × columns, null when the key is not ours. */
export function nextCell(key, row, column, rows, columns) {
  const inside = (value, count) => Math.min(count - 1, Math.max(0, value));
  const moves = {
    ArrowRight: [row, column + 1],
    ArrowLeft: [row, column - 1],
    ArrowDown: [row + 1, column],
    ArrowUp: [row - 1, column],
    Home: [row, 0],
    End: [row, columns - 1],
  };
  return key in moves ? [inside(moves[key][0], rows), inside(moves[key][1], columns)] : null;
}

/** The shade of a cell, 0 to 1: its share of the strongest bar of a feature; left-out columns are not shaded. */
export function cellShade(value, bars, leftOut) {
  const scale = Math.max(0, ...bars.filter(({ kind }) => kind === "feature").map(({ effect }) => Math.abs(effect)));
  const share = scale > 0 && !leftOut ? Math.min(1, Math.abs(value) / scale) : 0;
  return share < 0.02 ? 0 : share;
}

/** The row of features and errors that a value names: {feature, position}, null where it is of another layer. */
export function selectedItem(value, hook) {
  return value && value[0] === hook ? { position: value[1], feature: value[2] } : null;
}

/** The bars as CSV: the same as `LogitAttribution.to_csv`. */
export function barsCsv(shown) {
  const field = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cell = (row, name) => {
    if (row[name] === null || row[name] === undefined) return "";
    return FACTIONAL.includes(name) ? row[name].toFixed(6) : field(String(row[name]));
  };
  return [CSV_COLUMNS, ...(shown.bars ?? []).map((row) => CSV_COLUMNS.map((name) => cell(row, name)))]
    .map((line) => `${line.join(",")}\n`)
    .join("");
}

/** All that is shown: the same as `LogitAttribution.to_json`. */
export function attributionRecord(shown, values, outcome) {
  if (!shown.asked) return {};
  const kept = ["asked", "method", "tokens", "reading", "total", "sum", "exact", "check", "bars", "features"];
  const width = shown.tokens.length;
  const rows = Array.from({ length: values.length / width }, (_, i) =>
    Array.from(values.subarray(i * width, (i + 1) * width)),
  );
  return {
    ...Object.fromEntries(kept.map((name) => [name, shown[name]])),
    picture: rows,
    predictions: outcome.rows ?? [],
    ablated: outcome.ablated ?? [],
    control: outcome.control ?? [],
  };
}

/** A predicted token's bars in words. */
export function predictionWords(row) {
  const parts = [`${percent(row.probability)}`];
  if (row.ablated !== null) parts.push(`${percent(row.ablated)} with the ticked features ablated`);
  if (row.control !== null) parts.push(`${percent(row.control)} with random ones ablated`);
  return parts.join(", ");
}

/** What ablation did, in a sentence. */
export function ablationWords(outcome) {
  const n = outcome.ablated?.length;
  if (!n) return "";
  const counted = (count, what) => `${count} ${what}${count > 1 ? "s" : ""}`;
  const { control, kl, kl_control } = outcome;
  const beside = control.length
    ? `; with ${counted(control.length, "random active feature")}: KL ${kl_control.toFixed(2)}`
    : "";
  const ablated = `${counted(n, "feature")} ablated at every token, error kept`;
  return `${ablated}: KL ${kl.toFixed(2)} nats from the original${beside}.`;
}

/** Ticks after one was changed, in order. */
export function toggled(ticked, feature) {
  return ticked.includes(feature)
    ? ticked.filter((one) => one !== feature)
    : [...ticked, feature].toSorted((a, b) => a - b);
}
