// Choosing a feature: by number, along a walk, at random, or by searching tokens and contexts.
import { draw, show } from "./draw.js";
import { float32, grouped, parseFeature, walkOn } from "./lib.js";
import { setterOf } from "./view.js";

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
  const set = setterOf(model);
  const move = (by) => {
    const next = walkOn(walk(), model.get("value"), by);
    if (next !== null) go(next);
  };
  const random = () => {
    const live = walk().filter((feature) => feature !== model.get("value"));
    if (live.length) go(live[Math.floor(Math.random() * live.length)]);
  };

  const highest = facts().d_sae - 1;
  const number = {
    type: "number",
    min: 0,
    max: highest,
    step: 1,
    inputmode: "numeric",
    "aria-label": "Feature number",
  };
  const orders = facts().orders.map((name) => ["option", { value: name }, ORDER_NAMES[name]]);
  const node = draw([
    "div",
    { class: "chooser" },
    [
      "div",
      { class: "controls" },
      [
        "div",
        { class: "walk" },
        arrow("Previous feature", "p", "M10 3 5 8l5 5"),
        ["input", number],
        arrow("Next feature", "n", "m6 3 5 5-5 5"),
        ["button", { type: "button", title: "A random live feature (r)" }, "Random"],
      ],
      [
        "label",
        { class: "order" },
        ["span", { class: "quiet" }, "by"],
        ["select", { "aria-label": "Walk by" }, ...orders],
      ],
      ["span", { class: "quiet where" }],
    ],
    ["span", { class: "wrong", role: "alert" }],
  ]);
  const [previous, field, next, dice] = node.querySelector(".saekit-walk").children;
  const [order, where, wrong] = [".saekit-order select", ".saekit-where", ".saekit-wrong"].map((s) =>
    node.querySelector(s),
  );
  const hits = searches ? searchOf(model, go, set) : null;
  const keys = draw([
    "details",
    { class: "keys" },
    ["summary", {}, "Keys"],
    [
      "dl",
      {},
      ...keyHelp.flatMap(([key, does]) => [
        ["dt", {}, key],
        ["dd", {}, does],
      ]),
    ],
  ]);
  if (hits && facts().own_text !== "page") where.after(hits.form);
  node.querySelector(".saekit-controls").append(keys);
  if (hits) node.append(hits.node);

  const enter = () => {
    const feature = parseFeature(field.value, facts().d_sae);
    wrong.textContent = feature === null ? `Expected 0 to ${highest}` : "";
    if (feature === null) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
    if (feature !== null) go(feature);
  };
  field.addEventListener("change", enter);
  field.addEventListener("keydown", (event) => event.key === "Enter" && enter());
  previous.addEventListener("click", () => move(-1));
  next.addEventListener("click", () => move(1));
  dice.addEventListener("click", random);
  order.addEventListener("change", () => set("order", order.value));

  function drawPlace() {
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

  /** Single keys of the whole view; returns whether the key was one of them. */
  function press(key) {
    const does = {
      n: () => move(1),
      p: () => move(-1),
      r: random,
      g: () => (field.focus(), field.select()),
      "/": () => hits?.focus(),
      "?": () => (keys.open = !keys.open),
    }[key];
    does?.();
    return Boolean(does);
  }

  return { node, draw: drawPlace, drawHits: () => hits?.draw(), press };
}

function arrow(title, key, path) {
  const about = { type: "button", class: "icon", title: `${title} (${key})`, "aria-label": title };
  return ["button", about, ["svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, ["path", { d: path }]]];
}

/** The search of tokens and contexts: {form, node, draw, focus}. */
function searchOf(model, go, set) {
  const form = draw([
    "form",
    { class: "search", role: "search" },
    ["input", { type: "search", placeholder: "Search", "aria-label": "Search features" }],
    ["span", { class: "quiet" }, "in"],
    [
      "select",
      { "aria-label": "Search in" },
      ["option", { value: "token" }, "tokens"],
      ["option", { value: "text" }, "contexts"],
    ],
    ["button", { type: "submit" }, "Find"],
  ]);
  const [words, , mode] = form.children;
  // The line stays in the page while results come and go: only then do screen readers announce its text.
  const node = draw([
    "div",
    { class: "hits" },
    ["p", { class: "hits-head", hidden: true }, ["span", { role: "status" }], ["button", { type: "button" }, "Close"]],
    ["div", {}],
  ]);
  const [head, list] = node.children;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    set("_query", { mode: mode.value, text: words.value });
  });
  head.lastChild.addEventListener("click", () => set("_query", {}));
  list.addEventListener("click", (event) => {
    const hit = event.target.closest("[data-feature]");
    if (hit) go(Number(hit.dataset.feature));
  });

  function drawHits() {
    const { said = "", panel } = model.get("_hits");
    if (node.contains(document.activeElement)) words.focus();
    head.hidden = !panel;
    node.classList.toggle("saekit-open", Boolean(panel));
    show(list, [panel]);
    head.firstChild.textContent = said;
  }

  return { form, node, draw: drawHits, focus: () => words.focus() };
}
