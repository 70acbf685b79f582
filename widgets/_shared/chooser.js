// Choosing a feature: by number, along a walk, at random, or by searching tokens and contexts.
import { around, float32, grouped, mergePieces, parseFeature, sig, walkOn } from "./lib.js";
import { h, tokenCell } from "./dom.js";

const ORDER_NAMES = { number: "number", density: "density", max: "largest activation", score: "your score" };
const KEY_HELP = [
  ["n  p", "next and previous live feature"],
  ["r", "a random live feature"],
  ["g  /  t", "go to the number, the search, your own text"],
  ["← → Home End", "along the tokens of an example"],
  ["↑ ↓", "to the example above or below"],
  ["Enter", "open or close the whole window"],
  ["?", "these keys"],
];

/**
 * Returns {node, draw, drawHits, press}; `go(feature)` navigates.
 * Views without text have no search and keys of their own.
 */
export function chooser(model, go, { searches = true, keyHelp = KEY_HELP } = {}) {
  const facts = () => model.get("_facts");
  const walk = () => float32(model.get("_walk"));
  const push = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const move = (by) => {
    const next = walkOn(walk(), model.get("value"), by);
    if (next !== null) go(next);
  };
  const random = () => {
    const live = walk().filter((feature) => feature !== model.get("value"));
    if (live.length) go(live[Math.floor(Math.random() * live.length)]);
  };

  const field = h("input", {
    type: "number",
    min: 0,
    max: facts().d_sae - 1,
    step: 1,
    inputmode: "numeric",
    "aria-label": "Feature number",
  });
  const wrong = h("span", { class: "saekit-wrong", role: "alert" });
  const enter = () => {
    const feature = parseFeature(field.value, facts().d_sae);
    wrong.textContent = feature === null ? `Expected 0 to ${facts().d_sae - 1}` : "";
    if (feature === null) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
    if (feature !== null) go(feature);
  };
  field.addEventListener("change", enter);
  field.addEventListener("keydown", (event) => event.key === "Enter" && enter());
  const where = h("span", { class: "saekit-quiet saekit-where" });
  const order = h(
    "select",
    { "aria-label": "Walk by", onchange: () => push("order", order.value) },
    ...facts().orders.map((name) => h("option", { value: name }, ORDER_NAMES[name])),
  );
  const paths = { previous: "M10 3 5 8l5 5", next: "m6 3 5 5-5 5" };
  const arrow = (title, by, key, which) => {
    const button = h("button", {
      type: "button",
      class: "saekit-icon",
      title: `${title} (${key})`,
      "aria-label": title,
      onclick: () => move(by),
    });
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    icon.setAttribute("viewBox", "0 0 16 16");
    icon.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", paths[which]);
    icon.append(path);
    button.append(icon);
    return button;
  };

  const mode = h(
    "select",
    { "aria-label": "Search in" },
    h("option", { value: "token" }, "tokens"),
    h("option", { value: "text" }, "contexts"),
  );
  const words = h("input", { type: "search", placeholder: "Search", "aria-label": "Search features" });
  const search = h(
    "form",
    { class: "saekit-search", role: "search" },
    words,
    h("span", { class: "saekit-quiet" }, "in"),
    mode,
    h("button", { type: "submit" }, "Find"),
  );
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    push("_query", { mode: mode.value, text: words.value });
  });
  // The line stays in the page while results come and go: only then do screen readers announce its text.
  const said = h("span", { role: "status" });
  const head = h(
    "p",
    { class: "saekit-hits-head", hidden: true },
    said,
    h("button", { type: "button", onclick: () => push("_query", {}) }, "Close"),
  );
  const list = h("ol");
  const hits = h("div", { class: "saekit-hits" }, head, list);
  const keys = h(
    "details",
    { class: "saekit-keys" },
    h("summary", {}, "Keys"),
    h("dl", {}, ...keyHelp.flatMap(([key, does]) => [h("dt", {}, key), h("dd", {}, does)])),
  );

  const node = h(
    "div",
    { class: "saekit-chooser" },
    h(
      "div",
      { class: "saekit-controls" },
      h(
        "div",
        { class: "saekit-walk" },
        arrow("Previous feature", -1, "p", "previous"),
        field,
        arrow("Next feature", 1, "n", "next"),
        h("button", { type: "button", title: "A random live feature (r)", onclick: random }, "Random"),
      ),
      h("label", { class: "saekit-order" }, h("span", { class: "saekit-quiet" }, "by"), order),
      where,
      searches && facts().own_text !== "page" ? search : null,
      keys,
    ),
    wrong,
    hits,
  );

  function draw() {
    field.value = model.get("value");
    field.removeAttribute("aria-invalid");
    wrong.textContent = "";
    order.value = model.get("order");
    const live = walk();
    const at = live.indexOf(model.get("value"));
    const kind = facts().own_text === "page" ? "in this page" : "live";
    where.textContent =
      at < 0 ? `outside the ${grouped(live.length)} ${kind}` : `${grouped(at + 1)} of ${grouped(live.length)} ${kind}`;
  }

  function drawHits() {
    const found = model.get("_hits");
    const inside = hits.contains(document.activeElement);
    if (inside) words.focus();
    head.hidden = !found.found;
    hits.classList.toggle("saekit-open", Boolean(found.found));
    list.replaceChildren(...(found.found ?? []).map((hit) => hitLine(hit, float32(found.values))));
    said.textContent = "";
    if (!found.found) return;
    const kind = found.mode === "token" ? "tokens" : "contexts";
    const count = `${found.found.length || "No"} feature${found.found.length === 1 ? "" : "s"}`;
    said.textContent = `${count} for ${JSON.stringify(found.text)} in ${kind}`;
  }

  function hitLine({ feature, name, score, row }, all) {
    const cells = mergePieces(row.tokens, all.subarray(row.at, row.at + row.tokens.length));
    const { before, peak, after } = around(cells, row.peak, 5);
    const strip = h(
      "span",
      { class: "saekit-hit-text", dir: "ltr", "aria-hidden": "true" },
      ...[...before, ...peak, ...after].map((cell) => plainCell(cell, row.value)),
    );
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: "saekit-hit",
          "aria-label": `Feature ${feature}${name ? `, ${name}` : ""}, score ${sig(score)}`,
          onclick: () => go(feature),
        },
        h("b", {}, String(feature)),
        name ? h("span", { class: "saekit-name" }, name) : null,
        strip,
        h("span", { class: "saekit-score" }, sig(score)),
      ),
    );
  }

  function plainCell(cell, scale) {
    const span = tokenCell(cell, scale);
    for (const name of ["role", "tabindex", "aria-selected", "aria-label"]) span.removeAttribute(name);
    return span;
  }

  /** Single keys of the whole view; returns whether the key was one of them. */
  function press(key) {
    const does = {
      n: () => move(1),
      p: () => move(-1),
      r: random,
      g: () => (field.focus(), field.select()),
      "/": () => searches && words.focus(),
      "?": () => (keys.open = !keys.open),
    }[key];
    does?.();
    return Boolean(does);
  }

  return { node, draw, drawHits, press };
}
