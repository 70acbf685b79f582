// The image view: the images on which a feature is strong or weak, one of them large, classes and places.
import { draw, pressable, show } from "../_shared/draw.js";
import { drawPixels } from "../_shared/pixels.js";
import { hasModifier, keepKeys, stepTo } from "../_shared/keys.js";
import { setterOf, wire } from "../_shared/view.js";
import { chooser } from "../_shared/chooser.js";
import { float32 } from "../_shared/lib.js";

const MOST_COLUMNS = 8; // of patches, up to which each has room for its number
const SIDE_PANELS = ["classes", "places", "histogram"];
const IMAGE_KEYS = [
  ["n  p", "next and previous live feature"],
  ["r", "a random live feature"],
  ["g", "go to the number"],
  ["← → Home End", "along the images"],
  ["↑ ↓", "to the image above or below"],
  ["?", "these keys"],
];

function render({ model, el }) {
  const set = setterOf(model);
  const go = (feature) => {
    set("value", feature);
    drawChoice(); // a feature that was refused (an exported page) leaves number and slider as they were
  };
  const choose = chooser(model, go, { searches: false, keyHelp: IMAGE_KEYS });
  const root = draw([
    "section",
    { class: "panel view images", "aria-label": "Image activations" },
    ["input", { type: "range", class: "slide", min: 0, step: 1, "aria-label": "Place of the feature in the walk" }],
    ["p", { class: "error", role: "alert" }],
    ["header", { class: "head" }],
    ["p", { class: "unseen", role: "status" }],
    [
      "div",
      { class: "columns" },
      ["div", { class: "main" }],
      [
        "div",
        { class: "side" },
        ["section", { class: "lens", "aria-label": "The chosen image", "aria-live": "polite" }],
        ["div", { class: "facets" }],
      ],
    ],
  ]);
  const part = (name) => root.querySelector(`.saekit-${name}`);
  const [slider, alertLine, head, status] = ["slide", "error", "head", "unseen"].map(part);
  const [main, lens, facets] = ["main", "lens", "facets"].map(part);
  root.prepend(choose.node);
  keepKeys(root);
  pressable(root, set);
  slider.addEventListener("input", () => go(float32(model.get("_walk"))[slider.value]));
  root.addEventListener("keydown", (event) => {
    if (hasModifier(event) || event.target.closest("input, select") || !choose.press(event.key)) return;
    event.preventDefault();
  });
  el.append(root);

  let images = new Map(); // what is drawn: of each option its image, as the state has it

  function drawChoice() {
    const walk = float32(model.get("_walk"));
    choose.draw();
    slider.max = Math.max(0, walk.length - 1);
    slider.disabled = walk.length < 2;
    slider.value = Math.max(0, walk.indexOf(model.get("value")));
    slider.setAttribute("aria-valuetext", `feature ${model.get("value")}`);
    const late = model.get("_card").feature !== model.get("value");
    root.classList.toggle("saekit-waiting", late);
    root.setAttribute("aria-busy", String(late));
  }

  function drawCard() {
    const { panels, said, dead } = model.get("_card");
    const within = main.contains(document.activeElement) || head.contains(document.activeElement);
    show(head, [panels.head]);
    images = new Map();
    main.replaceChildren(dead ? draw(panels.images) : gallery(panels.images, (image) => set("image", image)));
    const shown = [...main.querySelectorAll("[role=option]")];
    pixelsOf(panels.images).forEach((about, i) => images.set(shown[i], about));
    show(
      facets,
      SIDE_PANELS.map((name) => panels[name]),
    );
    status.textContent = said;
    drawChoice();
    drawImage();
    // A focus that falls to the page would hand the next key to JupyterLab's command mode.
    if (within)
      (main.querySelector("[role=option][tabindex='0']") ?? head.querySelector("h2")).focus({ preventScroll: true });
  }

  /** With the card that is drawn: a card and its image come in one message, the image's event sometimes first. */
  function drawImage() {
    const image = String(model.get("image"));
    const options = [...images.keys()];
    const chosen = options.filter((option) => option.dataset.image === image);
    // One image may stand in two groups: it stays chosen where the focus is.
    const stop = chosen.find((option) => option === document.activeElement) ?? chosen[0] ?? options[0];
    for (const option of options) {
      option.setAttribute("aria-selected", String(chosen.includes(option)));
      option.tabIndex = option === stop ? 0 : -1;
    }
    lens.replaceChildren();
    if (!chosen.length) return;
    lens.append(draw(["h3", {}, `Image ${image}`]), draw(["p", { class: "quiet", dir: "auto" }, stop.dataset.told]));
    lens.append(large(images.get(stop)));
  }

  const drawError = () => (alertLine.textContent = model.get("error"));
  drawError();
  drawCard();
  return wire(model, {
    _card: drawCard,
    value: drawChoice,
    order: drawChoice,
    _walk: drawChoice,
    image: drawImage,
    error: drawError,
  });
}

/** The images of a panel in their order. */
function pixelsOf(node) {
  if (typeof node === "string") return [];
  return node[0] === "pixels" ? [node[1]] : node.slice(2).flatMap(pixelsOf);
}

/** All groups of images as one list with one tab stop; arrows move along and between its lines. */
function gallery(panel, onselect) {
  const list = draw(panel);
  const options = [...list.querySelectorAll("[role=option]")];
  const enter = (option) => {
    option.focus();
    onselect(Number(option.dataset.image));
    // The same image in another group: the trait does not change, the tab stop does.
    for (const other of options) other.tabIndex = other === option ? 0 : -1;
  };
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) enter(option);
  });
  list.addEventListener("keydown", (event) => {
    if (hasModifier(event)) return;
    const at = options.indexOf(event.target);
    const upOrDown = event.key === "ArrowUp" || event.key === "ArrowDown";
    const next = upOrDown
      ? lineOn(options, at, event.key === "ArrowDown" ? 1 : -1)
      : stepTo(event.key, at, options.length);
    if (at < 0 || next === null) return;
    event.preventDefault();
    enter(options[next]);
  });
  const examples = draw([
    "section",
    { class: "examples", "aria-label": "Examples" },
    [
      "div",
      { class: "heading" },
      ["h3", {}, "Images"],
      ["p", { class: "quiet scale" }, ["span", { class: "ramp" }], "below each image its strongest activation"],
    ],
  ]);
  examples.append(list);
  return examples;
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

/** The chosen image large, with the value of every patch as text where there is room. */
function large(about) {
  const node = draw(["div", { class: "large" }]);
  node.append(drawPixels(about));
  if (about.grid[1] <= MOST_COLUMNS)
    node.append(draw(["patches", { caption: "activation of each patch", grid: about.grid, marks: about.marks }]));
  return node;
}

export default { render };
