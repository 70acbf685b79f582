// The image view: the images on which a feature is strong or weak, one of them large, classes and places.
import { aligned, float32, grouped, percent, sig, step } from "../_shared/lib.js";
import { guardKeys, h, histogramFigure } from "../_shared/dom.js";
import { chooser } from "../_shared/chooser.js";
import { exampleArrays, patchTable, picture, placeOf, strongestPatch } from "./picture.js";

const MOST_COLUMNS = 8; // of patches, up to which each has room for its number
const IMAGE_KEYS = [
  ["n  p", "next and previous live feature"],
  ["r", "a random live feature"],
  ["g", "go to the number"],
  ["← → Home End", "along the images"],
  ["↑ ↓", "to the image above or below"],
  ["?", "these keys"],
];

function render({ model, el }) {
  const set = (name, value) => {
    if (value === model.get(name)) return;
    model.set(name, value);
    model.save_changes();
  };
  const go = (feature) => {
    set("value", feature);
    drawChoice(); // a feature that was refused (an exported page) leaves number and slider as they were
  };
  const choose = chooser(model, go, { searches: false, keyHelp: IMAGE_KEYS });
  const slider = h("input", {
    type: "range",
    class: "saekit-slide",
    min: 0,
    step: 1,
    "aria-label": "Place of the feature in the walk",
  });
  slider.addEventListener("input", () => go(float32(model.get("_walk"))[slider.value]));
  const alertLine = h("p", { class: "saekit-error", role: "alert" });
  const head = h("header", { class: "saekit-head" });
  const status = h("p", { class: "saekit-unseen", role: "status" });
  const main = h("div", { class: "saekit-main" });
  const lens = h("section", { class: "saekit-lens", "aria-label": "The chosen image", "aria-live": "polite" });
  const facets = h("div", { class: "saekit-facets" });
  const side = h("div", { class: "saekit-side" }, lens, facets);
  const root = h("section", { class: "saekit-panel saekit-view saekit-images", "aria-label": "Image activations" });
  root.append(choose.node, slider, alertLine, head, status, h("div", { class: "saekit-columns" }, main, side));
  guardKeys(root);
  root.addEventListener("keydown", (event) => {
    if (
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      event.target.closest("input, select") ||
      !choose.press(event.key)
    )
      return;
    event.preventDefault();
  });
  el.append(root);

  let card = null; // the card that is drawn, with its activations read once

  function drawChoice() {
    const walk = float32(model.get("_walk"));
    const at = walk.indexOf(model.get("value"));
    choose.draw();
    slider.max = Math.max(0, walk.length - 1);
    slider.disabled = walk.length < 2;
    slider.value = Math.max(0, at);
    slider.setAttribute("aria-valuetext", `feature ${model.get("value")}`);
    const late = model.get("_card").feature !== model.get("value");
    root.classList.toggle("saekit-waiting", late);
    root.setAttribute("aria-busy", String(late));
  }

  function drawCard() {
    card = { ...model.get("_card"), activations: float32(model.get("_card").values) };
    const facts = model.get("_facts");
    const within = main.contains(document.activeElement) || head.contains(document.activeElement);
    head.replaceChildren(...header(card, facts));
    main.replaceChildren(card.dead ? nothing(facts) : gallery(card, facts, (image) => set("image", image)));
    facets.replaceChildren(...panels(card, facts));
    status.textContent = `Feature ${card.feature}${card.name ? `, ${card.name}` : ""}${card.dead ? ", dead" : ""}`;
    drawChoice();
    drawImage();
    // A focus that falls to the page would hand the next key to JupyterLab's command mode.
    if (within)
      (main.querySelector("[role=option][tabindex='0']") ?? head.querySelector("h2")).focus({ preventScroll: true });
  }

  /** With the card that is drawn: a card and its image come in one message, the image's event sometimes first. */
  function drawImage() {
    const image = model.get("image");
    const options = [...main.querySelectorAll("[role=option]")];
    const chosen = options.filter((option) => option.saekitRow.image === image);
    // One image may stand in two groups: it stays chosen where the focus is.
    const stop = chosen.find((option) => option === document.activeElement) ?? chosen[0] ?? options[0];
    for (const option of options) {
      option.setAttribute("aria-selected", String(chosen.includes(option)));
      option.tabIndex = option === stop ? 0 : -1;
    }
    lens.replaceChildren(...(chosen.length ? large(card, model.get("_facts"), stop.saekitRow) : []));
  }

  const draws = {
    "change:_card": drawCard,
    "change:value": drawChoice,
    "change:order": drawChoice,
    "change:_walk": drawChoice,
    "change:image": drawImage,
    "change:error": () => (alertLine.textContent = model.get("error")),
  };
  for (const [event, draw] of Object.entries(draws)) model.on(event, draw);
  alertLine.textContent = model.get("error");
  drawCard();
  return () => Object.entries(draws).forEach(([event, draw]) => model.off(event, draw));
}

function header(card, facts) {
  const fact = (label, value, title) => h("div", { title }, h("dt", {}, label), h("dd", {}, value));
  return [
    h(
      "div",
      { class: "saekit-title" },
      h("h2", { tabindex: -1 }, h("span", { class: "saekit-kicker" }, "Feature "), String(card.feature)),
      card.name ? h("span", { class: "saekit-given", dir: "auto" }, card.name) : null,
      h("span", { class: card.dead ? "saekit-state saekit-dead" : "saekit-state" }, card.dead ? "dead" : "live"),
    ),
    h(
      "dl",
      { class: "saekit-facts" },
      fact("density", percent(card.density), `active on ${grouped(card.count)} of ${grouped(facts.n_patches)} patches`),
      fact(
        "images",
        `${grouped(card.images)} of ${grouped(facts.n_images)}`,
        "images with the feature active on some patch",
      ),
      fact("active patches", grouped(card.count)),
      fact("mean active", sig(card.mean), "mean activation where it is active"),
      fact("max", sig(card.max)),
      fact("L0 of the SAE", `${sig(facts.l0)} of ${grouped(facts.d_sae)}`, "mean number of active features on a patch"),
    ),
    h("p", { class: "saekit-quiet saekit-source" }, [facts.data, facts.hook].filter(Boolean).join(" · ")),
  ];
}

function nothing(facts) {
  const seen = `${grouped(facts.n_patches)} patches of ${grouped(facts.n_images)} images`;
  const words = `This feature is dead: it was never active on ${seen}, so there are no examples.`;
  return h("p", { class: "saekit-nothing" }, words);
}

/** All groups of images as one list with one tab stop; arrows move along and between its lines. */
function gallery(card, facts, onselect) {
  const list = h("div", { role: "listbox", "aria-label": "Images" });
  for (const group of card.groups) {
    if (!group.rows.length) continue;
    const title = groupTitle(group, card.max);
    list.append(
      h(
        "div",
        { role: "group", "aria-label": title, class: "saekit-group" },
        h("h4", { "aria-hidden": "true" }, title),
        h(
          "div",
          { class: `saekit-gallery saekit-gallery-${group.kind}`, role: "presentation" },
          ...group.rows.map((row) => thumbnail(card, facts, row)),
        ),
      ),
    );
  }
  const options = [...list.querySelectorAll("[role=option]")];
  const enter = (option) => {
    option.focus();
    onselect(option.saekitRow.image);
    // The same image in another group: the trait does not change, the tab stop does.
    for (const other of options) other.tabIndex = other === option ? 0 : -1;
  };
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) enter(option);
  });
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = options.indexOf(event.target);
    const next =
      event.key === "ArrowUp" || event.key === "ArrowDown"
        ? lineOn(options, at, event.key === "ArrowDown" ? 1 : -1)
        : step(event.key, at, options.length);
    if (at < 0 || next === null) return;
    event.preventDefault();
    enter(options[next]);
  });
  return h(
    "section",
    { class: "saekit-examples", "aria-label": "Examples" },
    h(
      "div",
      { class: "saekit-heading" },
      h("h3", {}, "Images"),
      h(
        "p",
        { class: "saekit-quiet saekit-scale" },
        h("span", { class: "saekit-ramp", "aria-hidden": "true" }),
        `shade = activation / ${sig(card.max)}, this feature's maximum; ` +
          `below each image its strongest activation${card.classes.length ? " and its class" : ""}`,
      ),
    ),
    list,
  );
}

/** The option nearest in the line above or below, by where they are drawn. */
function lineOn(options, at, by) {
  const boxes = options.map((option) => option.getBoundingClientRect());
  const beyond = boxes
    .map((box, i) => ({ i, away: by * (box.top - boxes[at].top), aside: Math.abs(box.left - boxes[at].left) }))
    .filter(({ away }) => away > 1);
  if (!beyond.length) return at;
  const nearest = Math.min(...beyond.map(({ away }) => away));
  return beyond.filter(({ away }) => away < nearest + 1).reduce((best, one) => (one.aside < best.aside ? one : best)).i;
}

function groupTitle(group, max) {
  if (group.kind === "top") return "Top";
  return `${aligned(group.low, max)} – ${aligned(group.high, max)} · ${percent(group.share)} of its images`;
}

function thumbnail(card, facts, row) {
  const arrays = exampleArrays(card, facts, row.at);
  const peak = placeOf(strongestPatch(arrays.values), facts.grid[1]);
  const words = `Image ${row.image}${row.label ? `, ${row.label}` : ""}, activation ${sig(row.value)} at ${peak}`;
  const node = h(
    "div",
    { class: "saekit-thumbnail", role: "option", tabindex: -1, "aria-selected": "false", "aria-label": words },
    picture(arrays, facts, card.max),
    h(
      "span",
      { class: "saekit-below" },
      h("span", { class: "saekit-value" }, aligned(row.value, card.max)),
      row.label ? h("span", { class: "saekit-class", dir: "auto", title: row.label }, row.label) : null,
    ),
  );
  node.saekitRow = row;
  return node;
}

function large(card, facts, row) {
  const arrays = exampleArrays(card, facts, row.at);
  const columns = facts.grid[1];
  const at = strongestPatch(arrays.values);
  return [
    h("h3", {}, `Image ${row.image}`),
    h(
      "p",
      { class: "saekit-quiet" },
      row.label ? h("bdi", {}, row.label) : null,
      `${row.label ? " · " : ""}strongest ${sig(row.value, 4)} at ${placeOf(at, columns)}`,
    ),
    h(
      "div",
      { class: "saekit-large" },
      picture(arrays, facts, card.max),
      columns <= MOST_COLUMNS ? patchTable("activation of each patch", arrays.values, columns, card.max) : null,
    ),
  ];
}

function panels(card, facts) {
  if (card.dead) return [];
  const made = [];
  if (card.classes.length)
    made.push(
      h(
        "section",
        { "aria-label": "Classes" },
        h("h3", {}, "Classes"),
        h("p", { class: "saekit-quiet" }, "share of each class's images on which it is active"),
        h(
          "table",
          { class: "saekit-classes" },
          h("tbody", {}, ...card.classes.map(([label, active, images]) => classRow(label, active, images))),
        ),
      ),
    );
  const places = float32(card.places);
  if (facts.grid[1] <= MOST_COLUMNS)
    made.push(
      h(
        "section",
        { "aria-label": "Places" },
        h("h3", {}, "Places"),
        patchTable(
          "share of all images on which each patch is active",
          places,
          facts.grid[1],
          Math.max(...places),
          percent,
        ),
      ),
    );
  if (card.histogram)
    made.push(
      h(
        "section",
        { "aria-label": "Histogram of activations" },
        h("h3", {}, "Activations"),
        h("p", { class: "saekit-quiet" }, "how often each value occurs, log count"),
        histogramFigure(card.histogram, card.count),
      ),
    );
  return made;
}

function classRow(label, active, images) {
  const bar = h("span", { class: "saekit-meter", "aria-hidden": "true" });
  const share = images ? active / images : 0;
  bar.style.setProperty("--saekit-length", share.toFixed(3));
  return h(
    "tr",
    { title: `${grouped(active)} of ${grouped(images)} images` },
    h("th", { scope: "row" }, h("bdi", {}, label)),
    h("td", {}, h("span", { class: "saekit-class-bar" }, bar)),
    h("td", {}, images ? percent(share) : "–"),
  );
}

export default { render };
