// The strongest contexts of a feature, as a list: what circuits and logit attribution show of a feature index.
import { sig, visible } from "./lib.js";
import { h } from "./dom.js";
import { contextWords, spacedText } from "../circuit/picture.js";

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
