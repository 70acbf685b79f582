// The strongest contexts of a feature, as a list: what circuits and logit attribution show of a feature index.
import { sig, signed, visible } from "./lib.js";
import { h } from "./dom.js";

/** What an effect means. */
export function effectWords(effect) {
  const does = effect > 0 ? "supports the answer" : effect < 0 ? "works against the answer" : "does nothing";
  return `${signed(effect)} logits: ${does}`;
}

/** The layer of a hook point in few letters. */
export function shortHook(hook) {
  const [blocks, number, point, more] = hook.split(".");
  if (blocks !== "blocks" || !point || more !== undefined) return hook;
  return `layer ${number}${point.endsWith("pre") ? " (in)" : ""}`;
}

function contextWords(found) {
  if (!found) return "No contexts: the view was given no index of this layer.";
  if (found.dead || !found.rows.length) return "Never active on the corpus of the index: it has no contexts.";
  return `Top contexts, of at most ${sig(found.max)}`;
}

function spacedText(text) {
  return text.split(" ").map(visible).join(" ");
}

/** What an index says of a feature: `{dead, max, rows: [[value, before, peak, after]]}`, or undefined for none. */
export function contextList(found) {
  if (!found?.rows.length) return [h("p", { class: "saekit-faint" }, contextWords(found))];
  return [
    h("h4", {}, contextWords(found)),
    h(
      "ol",
      { class: "saekit-contexts" },
      ...found.rows.map(([value, before, peak, after]) =>
        h(
          "li",
          { dir: "auto" },
          h("span", { class: "saekit-context-value" }, sig(value)),
          h("bdi", {}, spacedText(before), h("mark", {}, visible(peak)), spacedText(after)),
        ),
      ),
    ),
  ];
}
