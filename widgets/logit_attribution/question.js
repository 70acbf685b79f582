// Of the logit attribution view, what its question means before the kernel has answered it. No DOM.

export const SLOW_METHODS = ["integrated gradients", "exact"];

/** What is odd about a prompt that can still be read. */
export function promptHint(prompt) {
  return /\S\s+$/.test(prompt)
    ? "The prompt ends with a space or a line break: " +
        "most words bring a space of their own, so the next token is an odd one."
    : "";
}

/** Whether what is shown answers what is asked now. */
export function isCurrent(shown, asked, method) {
  if (!shown.asked || shown.method !== method) return false;
  const free = method === "direct" ? ["baseline", "corrupted"] : asked.baseline === "corrupted" ? [] : ["corrupted"];
  return Object.keys(shown.asked).every((name) => free.includes(name) || shown.asked[name] === asked[name]);
}

/** Why the picture is not the answer to what is asked now; "" when it is. `words` names the method. */
export function staleWords({ shown, asked, method, words, busy, error }) {
  if (isCurrent(shown, asked, method) && !error) return "";
  if (!shown.asked) return busy ? "Computing …" : "Nothing is computed yet.";
  if (error) return "The picture below answers the last question that could be read.";
  if (busy) return "The picture below answers the question before; computing …";
  const earlier = "The picture below answers an earlier question";
  return SLOW_METHODS.includes(method) ? `${earlier}: ${words} takes seconds and waits for Compute.` : `${earlier}.`;
}

/** The row of features and errors that a value names: {feature, position}, null where it is of another layer. */
export function selectedItem(value, hook) {
  return value && value[0] === hook ? { position: value[1], feature: value[2] } : null;
}

/** Ticks after one was changed, in order. */
export function toggled(ticked, feature) {
  return ticked.includes(feature)
    ? ticked.filter((one) => one !== feature)
    : [...ticked, feature].toSorted((a, b) => a - b);
}
