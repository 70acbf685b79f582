// The steering view: choose, run, read both texts beside each other and what steering costs.
import { download, guardKeys, h } from "../_shared/dom.js";
import { sameTexts, timesFactor } from "./state.js";
import { steeringControls } from "./controls.js";
import { sweepFigures, textColumn } from "./texts.js";

const BASELINES = [
  ["prompt", "asks for the concept in words instead of steering: “Talk about …”"],
  ["difference of means", "along the mean of texts with the concept minus that of texts without it"],
  ["random direction", "along a direction drawn by lot, with the seed"],
  ["random feature", "along a live feature drawn by lot, with the seed"],
];

function render({ model, el }) {
  const facts = model.get("_facts");
  const live = model.get("_has_kernel");
  const put = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  // What the reader has chosen, until the kernel answers; then what the kernel says.
  let pending = null;
  const draft = () => pending ?? model.get("setting");
  const wish = (setting, button) => {
    const last = model.get("_wish");
    const asked = { ...last.asked };
    if (button) asked[button] = (asked[button] ?? 0) + 1;
    pending = setting;
    put("_wish", { turn: (last.turn ?? 0) + 1, setting, asked });
    controls.draw();
    drawState();
  };
  const press = (button) => wish(draft(), button);
  const say = (words) => (alert.textContent = words);

  const controls = steeringControls(model, draft, wish, say);
  const go = h("button", { type: "button", class: "saekit-go", onclick: () => press("run") }, "Run");
  const halt = h(
    "button",
    {
      type: "button",
      class: "saekit-stop",
      onclick: () => model.get("busy") && put("_stops", model.get("_stops") + 1),
    },
    "Stop",
  );
  const doing = h("span", { class: "saekit-quiet saekit-doing" });
  const status = h("p", { class: "saekit-unseen", role: "status" });
  const alert = h("p", { class: "saekit-error", role: "alert" });
  const older = h("p", { class: "saekit-quiet saekit-older" });
  const texts = h("div", { class: "saekit-texts" });
  const key = h(
    "p",
    { class: "saekit-quiet saekit-shade-key" },
    "shade: how much steering changed a token’s probability, ",
    h("span", { class: "saekit-written saekit-likelier" }, "more likely"),
    " ",
    h("span", { class: "saekit-written saekit-rarer" }, "less likely"),
    "; choose a token for the figures",
  );
  const file = h("input", {
    type: "file",
    accept: ".json,application/json",
    hidden: true,
    "aria-label": "Setting file",
    onchange: () => load(file.files[0]),
  });
  const exports = h(
    "span",
    { class: "saekit-exports" },
    h(
      "button",
      {
        type: "button",
        onclick: () => download("steering.json", "application/json", JSON.stringify(draft(), null, 1)),
      },
      "Save setting",
    ),
    live ? h("button", { type: "button", onclick: () => file.click() }, "Load setting") : null,
    file,
  );
  const word = (name, label, placeholder, title) =>
    h(
      "label",
      { class: "saekit-option", title },
      h("span", { class: "saekit-quiet" }, label),
      h("input", {
        type: "text",
        "data-name": name,
        placeholder,
        oninput: (event) => wish({ ...draft(), [name]: event.target.value }),
      }),
    );
  const words = [
    word("topic", "concept in words", "e.g. the sea", "for the baseline that asks for it: “Talk about …”"),
    word(
      "concept",
      "words that count as it",
      "e.g. sea|ship|wave",
      "a regular expression; the next run counts such words",
    ),
  ];
  const compare = h(
    "div",
    { class: "saekit-compare", role: "group", "aria-label": "Baselines" },
    h("span", { class: "saekit-quiet" }, "compare with"),
    ...BASELINES.map(([name, help]) =>
      h(
        "button",
        { type: "button", title: `${help}; its edit as long as the steered text's`, onclick: () => press(name) },
        name,
      ),
    ),
    ...words,
  );
  const sweep = h("section", { class: "saekit-sweep", "aria-label": "Strength sweep" });
  const figures = h("div");
  sweep.append(
    h(
      "div",
      { class: "saekit-compare" },
      h("h3", {}, "Strength sweep"),
      live
        ? h(
            "button",
            {
              type: "button",
              title: "a quarter, a half, one, two and four times the strengths that are set",
              onclick: () => press("sweep"),
            },
            "Sweep",
          )
        : null,
      live
        ? h(
            "button",
            {
              type: "button",
              title: "and the baselines, their edits as long: about four times the work",
              onclick: () => press("sweep with baselines"),
            },
            "Sweep with baselines",
          )
        : null,
    ),
    figures,
  );
  if (!live) compare.hidden = true;
  const root = h(
    "section",
    { class: "saekit-panel saekit-view saekit-steering", "aria-label": "Steering" },
    h(
      "div",
      { class: "saekit-steering-head" },
      h("h2", {}, "Steering"),
      h("p", { class: "saekit-quiet" }, `${facts.model} · ${facts.hook}`),
      exports,
    ),
    controls.node,
    h("div", { class: "saekit-run" }, ...(live ? [go, halt] : []), doing, older),
    alert,
    status,
    texts,
    key,
    compare,
    sweep,
  );
  guardKeys(root);
  el.append(root);

  let columns = [];

  async function load(chosen) {
    file.value = "";
    if (!chosen) return;
    try {
      wish(JSON.parse(await chosen.text()));
    } catch {
      say("This file is no saved setting: expected the JSON that Save setting writes.");
    }
  }

  function drawState() {
    const busy = model.get("busy");
    root.setAttribute("aria-busy", String(busy));
    // Not `disabled`: that would throw the focus out of the view, into JupyterLab's command mode.
    halt.setAttribute("aria-disabled", String(!busy));
    go.textContent = busy ? "Run again" : "Run";
    doing.textContent = busy ? `${model.get("_doing") || "at work"} …` : "";
    const ran = model.get("_ran");
    older.textContent = ran.features && !sameTexts(ran, draft()) ? "The texts below are of an earlier setting." : "";
    words.forEach((label) => {
      const box = label.querySelector("input");
      if (document.activeElement !== box) box.value = draft()[box.dataset.name] ?? "";
    });
  }

  function drawTexts() {
    const wanted = model.get("_columns");
    if (JSON.stringify(columns.map(({ data }) => data)) !== JSON.stringify(wanted)) {
      columns = wanted.map((data) => ({ data, ...textColumn(data) }));
      texts.replaceChildren(...columns.map(({ node }) => node));
    }
    const [all, read, busy] = [model.get("_texts"), model.get("_read"), model.get("busy")];
    for (const column of columns) column.draw(all[column.key] ?? { text: "", end: "" }, read[column.key], busy);
    key.hidden = !columns.some((column) => read[column.key]);
    const done = columns.length && columns.every((column) => all[column.key]?.end);
    const says = done ? `${columns.length} texts are written` : "";
    if (status.textContent !== says) status.textContent = says;
  }

  function drawSweep() {
    const shown = model.get("_sweep");
    const pick = live
      ? (factor) => wish(timesFactor({ ...draft(), unit: shown.unit, features: shown.features }, factor))
      : null;
    figures.replaceChildren(...(shown.lines ? sweepFigures(shown, pick) : []));
    sweep.hidden = !live && !shown.lines;
  }

  function drawSetting() {
    if (model.get("_heard") >= (model.get("_wish").turn ?? 0)) pending = null;
    controls.draw();
    drawState();
  }

  function drawError() {
    say(model.get("error"));
  }

  const draws = {
    "change:setting": [drawSetting],
    "change:_heard": [drawSetting, drawError],
    "change:error": [drawError],
    "change:busy": [drawState, drawTexts],
    "change:_doing": [drawState],
    "change:_ran": [drawState],
    "change:_columns": [drawTexts],
    "change:_texts": [drawTexts],
    "change:_read": [drawTexts],
    "change:_sweep": [drawSweep],
    "change:_cards": [controls.drawCards],
    "change:_walk": [controls.drawWalk],
    "change:order": [controls.drawWalk],
    "change:_hits": [controls.drawHits],
  };
  const wired = Object.entries(draws).flatMap(([event, all]) => all.map((draw) => [event, draw]));
  wired.forEach(([event, draw]) => model.on(event, draw));
  [drawSetting, drawTexts, drawSweep, drawError].forEach((draw) => draw());
  return () => wired.forEach(([event, draw]) => model.off(event, draw));
}

export default { render };
