// What can be chosen in the steering view: prompt, features with their sliders, positions, sampling.
import { parseFeature } from "../_shared/lib.js";
import { h } from "../_shared/dom.js";
import { chooser } from "../_shared/chooser.js";
import { MODES, UNIT_NAMES, amountWords, inUnit, isOff, sliderRange, startValue, typedNumber } from "./state.js";

/**
 * Returns {node, draw, drawCards, drawWalk, drawHits, say}. `draft()` is the setting as it is shown, `send(setting)`
 * asks for another one; `say(words)` shows what is wrong with an entry that cannot even be asked for.
 */
export function steeringControls(model, draft, send, say) {
  const live = model.get("_has_kernel");
  const change = (changes) => send({ ...draft(), ...changes });
  const changeRow = (at, changes) =>
    change({ features: draft().features.map((row, i) => (i === at ? { ...row, ...changes } : row)) });
  const prompt = h("textarea", {
    rows: 2,
    dir: "auto",
    spellcheck: "false",
    "aria-label": "Prompt",
    placeholder: "Type what the model is asked, or what it goes on with",
    readonly: !live,
    oninput: () => change({ prompt: prompt.value }),
  });
  const list = h("div", { class: "saekit-steered", role: "group", "aria-label": "Steered features" });
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
    h("input", {
      type: "number",
      class: "saekit-short",
      "aria-label": label,
      ...attributes,
      onchange: (event) => {
        const value = typedNumber(event.target.value);
        if (value === null) say(`${label}: expected a number.`);
        else change(read(value));
      },
    });
  const choice = (label, options, onchange) =>
    h(
      "select",
      { "aria-label": label, onchange: (event) => onchange(event.target.value) },
      ...options.map(([value, name]) => h("option", { value }, name)),
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
  const chat = h("input", { type: "checkbox", onchange: () => change({ chat: chat.checked }) });
  const named = (name, ...parts) =>
    h("label", { class: "saekit-option" }, h("span", { class: "saekit-quiet" }, name), ...parts);
  const spanBox = h("span", { class: "saekit-option" }, span[0], h("span", { class: "saekit-quiet" }, "to"), span[1]);
  const temperatureBox = named("temperature", temperature);
  const seedBox = named("seed", seed);
  const options = h(
    "div",
    { class: "saekit-options" },
    named("strength in", unit),
    named("at", positions),
    spanBox,
    named("tokens", sampling),
    temperatureBox,
    seedBox,
    named("length", length),
    model.get("_facts").has_chat
      ? h("label", { class: "saekit-option" }, chat, h("span", { class: "saekit-quiet" }, "as a chat message"))
      : null,
  );
  const node = h(
    "fieldset",
    { class: "saekit-setting", disabled: !live },
    h("legend", { class: "saekit-unseen" }, "Setting"),
    prompt,
    list,
    add.node,
    options,
  );
  let rows = [];

  /** One feature: slider and number box for one value, and what the feature is. */
  function featureRow(at) {
    const { feature } = draft().features[at];
    const slider = h("input", {
      type: "range",
      "aria-label": `Strength of feature ${feature}`,
      oninput: () => changeRow(at, { value: Number(slider.value) }),
    });
    const box = h("input", {
      type: "number",
      class: "saekit-short",
      step: "any",
      "aria-label": `Strength of feature ${feature}, as a number`,
      onchange: () => {
        const value = typedNumber(box.value);
        if (value === null) say(`The strength of feature ${feature} must be a number.`);
        else changeRow(at, { value });
      },
    });
    const mode = h(
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
      ...MODES.map((name) => h("option", { value: name }, name)),
    );
    const away = h(
      "button",
      {
        type: "button",
        class: "saekit-icon",
        title: `Take feature ${feature} out`,
        "aria-label": `Take feature ${feature} out`,
        onclick: () => change({ features: draft().features.filter((_, i) => i !== at) }),
      },
      "✕",
    );
    const what = h("span", { class: "saekit-quiet saekit-what" });
    const units = h("span", { class: "saekit-quiet saekit-units" });
    const row = h(
      "div",
      { class: "saekit-steered-row", role: "group", "aria-label": `Feature ${feature}` },
      h("b", {}, `Feature ${feature}`),
      mode,
      slider,
      box,
      units,
      away,
      what,
    );
    function show() {
      const data = draft().features[at];
      const { min, max, step } = sliderRange(data, draft().unit);
      const quiet = data.mode === "ablate";
      Object.assign(slider, { min, max, step });
      if (document.activeElement !== slider || Number(slider.value) !== data.value) slider.value = data.value;
      if (document.activeElement !== box) box.value = Number(data.value.toPrecision(6));
      slider.setAttribute("aria-valuetext", amountWords(data, draft().unit));
      mode.value = data.mode;
      for (const one of [slider, box, units]) one.hidden = quiet;
      units.textContent = data.mode === "scale" ? "× its activation" : UNIT_NAMES[draft().unit];
      row.classList.toggle("saekit-off", isOff(data));
      what.replaceChildren(...cardWords(model.get("_cards")[String(feature)]));
    }
    return { feature, row, show };
  }

  function draw() {
    const setting = draft();
    if (document.activeElement !== prompt && prompt.value !== setting.prompt) prompt.value = setting.prompt;
    const features = setting.features.map(({ feature }) => feature);
    if (JSON.stringify(rows.map(({ feature }) => feature)) !== JSON.stringify(features)) {
      const inside = list.contains(document.activeElement);
      rows = features.map((_, at) => featureRow(at));
      list.replaceChildren(...rows.map(({ row }) => row));
      if (!rows.length) list.append(h("p", { class: "saekit-quiet" }, "No feature is steered yet: add one below."));
      if (inside) (list.querySelector("input") ?? prompt).focus({ preventScroll: true });
    }
    rows.forEach(({ show }) => show());
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
    drawCards: () => (rows.forEach(({ show }) => show()), add.draw()),
    drawWalk: add.drawWalk,
    drawHits: add.drawHits,
  };
}

function fill(box, value) {
  if (document.activeElement !== box) box.value = value;
}

/** What a feature is, as far as it is known: the tokens that it promotes and its strongest context. */
function cardWords(card) {
  if (!card?.known) return [];
  if (card.dead) return ["dead: it was never active on the texts of the index"];
  const [, before, peak, after] = card.rows[0] ?? [0, "", "", ""];
  const tokens = card.promoted
    .slice(0, 4)
    .map((token) => JSON.stringify(token.trim() || token))
    .join(" ");
  return [
    h(
      "span",
      { class: "saekit-context", dir: "auto", title: `${before}${peak}${after}` },
      "… ",
      h("bdi", {}, before.slice(-40)),
      h("mark", {}, peak),
      h("bdi", {}, after.slice(0, 30)),
      " …",
    ),
    tokens ? h("span", { class: "saekit-promotes" }, `promotes ${tokens}`) : null,
  ].filter(Boolean);
}

/** Where a feature is looked for, seen, and added. */
function adder(model, onadd) {
  const { d_sae: count, has_index: indexed } = model.get("_facts");
  const put = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  if (!model.get("_has_kernel")) return { node: h("span"), draw() {}, drawWalk() {}, drawHits() {} };
  if (!indexed) {
    const field = h("input", {
      type: "number",
      min: 0,
      max: count - 1,
      step: 1,
      "aria-label": "Feature number",
      class: "saekit-short",
    });
    const wrong = h("span", { class: "saekit-wrong", role: "alert" });
    const form = h(
      "form",
      { class: "saekit-add", novalidate: true },
      h("span", { class: "saekit-quiet" }, "add feature"),
      field,
      h("button", { type: "submit" }, "Add"),
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
  const what = h("span", { class: "saekit-what" });
  const button = h("button", { type: "button", class: "saekit-go", onclick: () => seen !== null && onadd(seen) });
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
  const found = h("p", { class: "saekit-found", hidden: true }, button, what);
  const node = h(
    "details",
    { class: "saekit-add" },
    h("summary", {}, "Add a feature: by number, along the list, at random, or by searching tokens and contexts"),
    choose.node,
    found,
  );
  function draw() {
    found.hidden = seen === null;
    button.textContent = `Steer with feature ${seen}`;
    what.replaceChildren(...cardWords(model.get("_cards")[String(seen)]));
  }
  if (walk()) choose.draw();
  return { node, draw, drawWalk: choose.draw, drawHits: choose.drawHits };
}
