// The card of one item: what it is, what it does here, where else it is active.

const NO_ITEM = "Choose a bar or a cell of the picture to read what that feature is.";

/** The panels of an item, {feature, position} or null; `items` holds the words that Python made of each. */
export function itemCard(item, items, indexed, live) {
  if (!item) return [["p", { class: "faint" }, NO_ITEM]];
  const error = item.feature < 0;
  const where = items.places[item.position] ?? `position ${item.position}, which this prompt does not have`;
  const effect = items.effects[items.features.indexOf(item.feature)]?.[item.position];
  const tone = effect?.startsWith("−") ? "minus" : "plus";
  const activation = items.activations[`${item.feature}/${item.position}`];
  const swatch = ["span", { class: "swatch", tone, "aria-hidden": "true" }];
  return [
    ["h3", {}, error ? "Reconstruction error" : `Feature ${item.feature}`],
    ["p", { class: "faint" }, ["bdi", {}, where]],
    effect ? ["p", { class: "effect" }, swatch, effect] : ["p", { class: "faint" }, "Not among the strongest."],
    activation ? ["p", { class: "faint" }, activation] : null,
    error ? ["p", { class: "faint" }, "What the SAE misses here."] : tickOf(item.feature, live),
    error ? null : (items.contexts[item.feature] ?? noContexts(indexed)),
  ];
}

function tickOf(feature, live) {
  const words = `Ablate feature ${feature} at every token`;
  const about = { type: "checkbox", "aria-label": words, title: words, "data-feature": feature, disabled: !live };
  return ["label", { class: "tick" }, ["input", about], " ablate it at every token"];
}

function noContexts(indexed) {
  return [
    "p",
    { class: "faint" },
    indexed ? "Its contexts are not read yet." : "Pass index= to read its top contexts here.",
  ];
}
