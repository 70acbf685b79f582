// What can be chosen in the steering view: prompt, features with their sliders, positions, sampling.
import { parseFeature } from "../_shared/lib.js";
import { make, show } from "../_shared/draw.js";
import { setterOf } from "../_shared/view.js";
import { chooser } from "../_shared/chooser.js";
import { MODES, UNIT_NAMES, inUnit, isOff, sliderRange, startValue, typedNumber } from "./state.js";

/**
 * Returns {node, draw, drawCards, drawWalk, drawHits, say}. `draft()` is the setting as it is shown, `send(setting)`
 * asks for another one; `say(words)` shows what is wrong with an entry that cannot even be asked for.
 */
export function steeringControls(model, draft, send, say) {
  const live = model.get("_has_kernel");
  const change = (changes) => send({ ...draft(), ...changes });
  const changeRow = (at, changes) =>
    change({ features: draft().features.map((row, i) => (i === at ? { ...row, ...changes } : row)) });
  const prompt = make("textarea", {
    rows: 2,
    dir: "auto",
    spellcheck: "false",
    "aria-label": "Prompt",
    placeholder: "Type what the model is asked, or what it goes on with",
    readonly: !live,
    oninput: () => change({ prompt: prompt.value }),
  });
  const list = make("div", { class: "steered", role: "group", "aria-label": "Steered features" });
  const add = adder(model, (feature) => {
    if (draft().features.some((row) => row.feature === feature))
      return void say(
        `Feature ${feature} is in the list already: one intervention a feature. Move its slider instead.`,
      );
    const maximum = model.get("_cards")[String(feature)]?.max || null;
    change({
      features: [
        ...draft().features,
        { feature, mode: "add", value: startValue({ mode: "add", maximum }, draft().unit) },
      ],
    });
  });

  const number = (label, name, attributes, read = (value) => value) =>
    make("input", {
      type: "number",
      class: "short",
      "aria-label": label,
      ...attributes,
      onchange: (event) => {
        const value = typedNumber(event.target.value);
        if (value === null) say(`${label}: expected a number.`);
        else change(read(value));
      },
    });
  const choice = (label, options, onchange) =>
    make(
      "select",
      { "aria-label": label, onchange: (event) => onchange(event.target.value) },
      ...options.map(([value, name]) => make("option", { value }, name)),
    );
  const unit = choice("Unit of strength", Object.entries(UNIT_NAMES), (value) => send(inUnit(draft(), value)));
  const positions = choice(
    "Positions",
    [
      ["all", "all tokens"],
      ["generated", "generated tokens"],
      ["span", "a span"],
    ],
    (value) => change({ positions: value === "span" ? [1, 10] : value }),
  );
  const span = [0, 1].map((end) =>
    number(end ? "End of the span" : "Start of the span", "", { min: 0, step: 1 }, (value) => ({
      positions: draft().positions.map((old, i) => (i === end ? value : old)),
    })),
  );
  const sampling = choice(
    "Choice of tokens",
    [
      ["greedy", "greedy"],
      ["sampled", "sampled"],
    ],
    (value) => change({ temperature: value === "greedy" ? 0 : 0.8 }),
  );
  const temperature = number("Temperature", "", { min: 0, step: 0.1 }, (value) => ({ temperature: value }));
  const seed = number("Seed", "", { min: 0, step: 1 }, (value) => ({ seed: value }));
  const length = number("Length in tokens", "", { min: 1, step: 1 }, (value) => ({ max_new_tokens: value }));
  const chat = make("input", { type: "checkbox", onchange: () => change({ chat: chat.checked }) });
  const named = (name, ...parts) =>
    make("label", { class: "option" }, make("span", { class: "quiet" }, name), ...parts);
  const spanBox = make("span", { class: "option" }, span[0], make("span", { class: "quiet" }, "to"), span[1]);
  const temperatureBox = named("temperature", temperature);
  const seedBox = named("seed", seed);
  const options = make(
    "div",
    { class: "options" },
    named("strength in", unit),
    named("at", positions),
    spanBox,
    named("tokens", sampling),
    temperatureBox,
    seedBox,
    named("length", length),
    model.get("_facts").has_chat
      ? make("label", { class: "option" }, chat, make("span", { class: "quiet" }, "as a chat message"))
      : null,
  );
  const node = make(
    "fieldset",
    { class: "setting", disabled: !live },
    make("legend", { class: "unseen" }, "Setting"),
    prompt,
    list,
    add.node,
    options,
  );
  let rows = [];

  /** One feature: slider and number box for one value, and what the feature is. */
  function featureRow(at) {
    const { feature } = draft().features[at];
    const slider = make("input", {
      type: "range",
      "aria-label": `Strength of feature ${feature}`,
      oninput: () => changeRow(at, { value: Number(slider.value) }),
    });
    const box = make("input", {
      type: "number",
      class: "short",
      step: "any",
      "aria-label": `Strength of feature ${feature}, as a number`,
      onchange: () => {
        const value = typedNumber(box.value);
        if (value === null) say(`The strength of feature ${feature} must be a number.`);
        else changeRow(at, { value });
      },
    });
    const mode = make(
      "select",
      {
        "aria-label": `Mode of feature ${feature}`,
        onchange: () =>
          changeRow(at, {
            mode: mode.value,
            value:
              mode.value === "scale" || draft().features[at].mode === "scale"
                ? startValue({ ...draft().features[at], mode: mode.value }, draft().unit)
                : draft().features[at].value,
          }),
      },
      ...MODES.map((name) => make("option", { value: name }, name)),
    );
    const away = make(
      "button",
      {
        type: "button",
        class: "icon",
        title: `Take feature ${feature} out`,
        "aria-label": `Take feature ${feature} out`,
        onclick: () => change({ features: draft().features.filter((_, i) => i !== at) }),
      },
      "✕",
    );
    const what = make("span", { class: "quiet what" });
    const units = make("span", { class: "quiet units" });
    const row = make(
      "div",
      { class: "steered-row", role: "group", "aria-label": `Feature ${feature}` },
      make("b", {}, `Feature ${feature}`),
      mode,
      slider,
      box,
      units,
      away,
      what,
    );
    function drawRow() {
      const data = draft().features[at];
      const { min, max, step } = sliderRange(data, draft().unit);
      const quiet = data.mode === "ablate";
      Object.assign(slider, { min, max, step });
      if (document.activeElement !== slider || Number(slider.value) !== data.value) slider.value = data.value;
      if (document.activeElement !== box) box.value = Number(data.value.toPrecision(6));
      mode.value = data.mode;
      for (const one of [slider, box, units]) one.hidden = quiet;
      units.textContent = data.mode === "scale" ? "× its activation" : UNIT_NAMES[draft().unit];
      slider.setAttribute("aria-valuetext", `${data.mode} ${box.value} ${units.textContent}`);
      row.classList.toggle("saekit-off", isOff(data));
      show(what, model.get("_cards")[String(feature)]?.words ?? []);
    }
    return { feature, row, drawRow };
  }

  function draw() {
    const setting = draft();
    if (document.activeElement !== prompt && prompt.value !== setting.prompt) prompt.value = setting.prompt;
    const features = setting.features.map(({ feature }) => feature);
    if (JSON.stringify(rows.map(({ feature }) => feature)) !== JSON.stringify(features)) {
      const inside = list.contains(document.activeElement);
      rows = features.map((_, at) => featureRow(at));
      list.replaceChildren(...rows.map(({ row }) => row));
      if (!rows.length) list.append(make("p", { class: "quiet" }, "No feature is steered yet: add one below."));
      if (inside) (list.querySelector("input") ?? prompt).focus({ preventScroll: true });
    }
    rows.forEach(({ drawRow }) => drawRow());
    const whole = Array.isArray(setting.positions);
    unit.value = setting.unit;
    positions.value = whole ? "span" : setting.positions;
    spanBox.hidden = !whole;
    span.forEach((box, i) => fill(box, whole ? setting.positions[i] : ""));
    sampling.value = setting.temperature ? "sampled" : "greedy";
    temperatureBox.hidden = seedBox.hidden = !setting.temperature;
    fill(temperature, setting.temperature);
    fill(seed, setting.seed);
    fill(length, setting.max_new_tokens);
    chat.checked = setting.chat ?? model.get("_facts").has_chat;
  }

  draw();
  return {
    node,
    draw,
    drawCards: () => (rows.forEach(({ drawRow }) => drawRow()), add.draw()),
    drawWalk: add.drawWalk,
    drawHits: add.drawHits,
  };
}

function fill(box, value) {
  if (document.activeElement !== box) box.value = value;
}

/** Where a feature is looked for, seen, and added. */
function adder(model, onadd) {
  const { d_sae: count, has_index: indexed } = model.get("_facts");
  const put = setterOf(model);
  if (!model.get("_has_kernel")) return { node: make("span"), draw() {}, drawWalk() {}, drawHits() {} };
  if (!indexed) {
    const field = make("input", {
      type: "number",
      min: 0,
      max: count - 1,
      step: 1,
      "aria-label": "Feature number",
      class: "short",
    });
    const wrong = make("span", { class: "wrong", role: "alert" });
    const form = make(
      "form",
      { class: "add", novalidate: true },
      make("span", { class: "quiet" }, "add feature"),
      field,
      make("button", { type: "submit" }, "Add"),
      wrong,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const feature = parseFeature(field.value, count);
      wrong.textContent = feature === null ? `Expected 0 to ${count - 1}` : "";
      if (feature !== null) onadd(feature);
    });
    return { node: form, draw() {}, drawWalk() {}, drawHits() {} };
  }
  let seen = null; // the feature that is looked at
  const what = make("span", { class: "what" });
  const button = make("button", { type: "button", class: "go", onclick: () => seen !== null && onadd(seen) });
  const look = (feature) => {
    seen = feature;
    put("_peek", feature);
    draw();
    choose.draw();
  };
  const walk = () => model.get("_walk");
  const seenModel = {
    get: (name) => (name === "value" ? (seen ?? 0) : model.get(name)),
    set: (name, value) => model.set(name, value),
    save_changes: () => model.save_changes(),
  };
  const choose = chooser(seenModel, look);
  const found = make("p", { class: "found", hidden: true }, button, what);
  const node = make(
    "details",
    { class: "add" },
    make("summary", {}, "Add a feature: by number, along the list, at random, or by searching tokens and contexts"),
    choose.node,
    found,
  );
  function draw() {
    found.hidden = seen === null;
    button.textContent = `Steer with feature ${seen}`;
    show(what, model.get("_cards")[String(seen)]?.words ?? []);
  }
  if (walk()) choose.draw();
  return { node, draw, drawWalk: choose.draw, drawHits: choose.drawHits };
}
