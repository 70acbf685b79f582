// The top-activations view: examples, histogram, logits and neighbours of one feature, and your own text.
import { aligned, around, float32, grouped, mergePieces, percent, sig } from "../_shared/lib.js";
import { guardKeys, h, histogramFigure, logitTable, tokenCell, tokenStrip } from "../_shared/dom.js";
import { chooser } from "../_shared/chooser.js";
import { promptPanel, quoted } from "./prompt_panel.js";

const SIDE = 10; // tokens shown on each side of the peak
const FIRST_ROWS = 8; // of the top examples, before "more"

function render({ model, el }) {
  const go = (feature) => {
    if (feature !== model.get("value")) {
      model.set("value", feature);
      model.save_changes();
    }
    choose.draw(); // a feature that was refused (an exported page) leaves the number as it was
  };
  const featureButton = (feature, name, score) =>
    h(
      "button",
      { type: "button", class: "saekit-feature", title: `Go to feature ${feature}`, onclick: () => go(feature) },
      h("b", {}, String(feature)),
      name ? h("span", { class: "saekit-name" }, name) : null,
      h("span", { class: "saekit-score" }, score),
    );

  const choose = chooser(model, go);
  const own = promptPanel(model, featureButton);
  const head = h("header", { class: "saekit-head" });
  const alertLine = h("p", { class: "saekit-error", role: "alert" });
  const status = h("p", { class: "saekit-unseen", role: "status" });
  const main = h("div", { class: "saekit-main" });
  const side = h("div", { class: "saekit-side" });
  const root = h("section", { class: "saekit-panel saekit-view saekit-top", "aria-label": "Top activations" });
  root.append(choose.node, alertLine, head, status, h("div", { class: "saekit-columns" }, main, side), own.node);
  guardKeys(root);
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    if (event.key === "t") own.focus();
    else if (!choose.press(event.key)) return;
    event.preventDefault();
  });
  el.append(root);

  /** Until the kernel answers (it may be running a cell), the old card fades: it is not the chosen feature's. */
  function waiting() {
    const late = model.get("_card").feature !== model.get("value");
    root.classList.toggle("saekit-waiting", late);
    root.setAttribute("aria-busy", String(late));
  }

  function drawCard() {
    const card = model.get("_card");
    const facts = model.get("_facts");
    const active = document.activeElement;
    const within = [main, head, side, own.node].find((part) => part.contains(active));
    head.replaceChildren(...header(card, facts));
    main.replaceChildren(...(card.dead ? [nothing(facts)] : [examples(card)]));
    side.replaceChildren(...panels(card, featureButton));
    status.textContent = `Feature ${card.feature}${card.name ? `, ${card.name}` : ""}${card.dead ? ", dead" : ""}`;
    choose.draw();
    waiting();
    own.drawResult();
    // A focus that falls to the page would hand the next key to JupyterLab's command mode.
    if (within && !root.contains(document.activeElement))
      ((within === main && main.querySelector("[role=option][tabindex='0']")) || head.querySelector("h2")).focus({
        preventScroll: true,
      });
  }

  const draws = {
    "change:_card": drawCard,
    "change:value": () => {
      choose.draw();
      waiting();
    },
    "change:order": choose.draw,
    "change:_walk": choose.draw,
    "change:_hits": choose.drawHits,
    "change:prompt": own.drawPrompt,
    "change:busy": own.drawBusy,
    "change:_result": own.drawResult,
    "change:token": own.drawToken,
    "change:error": () => (alertLine.textContent = model.get("error")),
  };
  for (const [event, draw] of Object.entries(draws)) model.on(event, draw);
  alertLine.textContent = model.get("error");
  drawCard();
  choose.drawHits();
  return () => Object.entries(draws).forEach(([event, draw]) => model.off(event, draw));
}

function header(card, facts) {
  const fact = (label, value, title) => h("div", { title }, h("dt", {}, label), h("dd", {}, value));
  const excluded = Object.entries(facts.excluded).filter(([, count]) => count);
  const left = excluded.reduce((sum, [, count]) => sum + count, 0);
  const link = facts.neuronpedia
    ? h(
        "a",
        {
          href: `https://www.neuronpedia.org/${facts.neuronpedia}/${card.feature}`,
          target: "_blank",
          rel: "noopener noreferrer",
        },
        "Neuronpedia ↗",
      )
    : null;
  return [
    h(
      "div",
      { class: "saekit-title" },
      h("h2", { tabindex: -1 }, h("span", { class: "saekit-kicker" }, "Feature "), String(card.feature)),
      card.name ? h("span", { class: "saekit-given", dir: "auto" }, card.name) : null,
      h("span", { class: card.dead ? "saekit-state saekit-dead" : "saekit-state" }, card.dead ? "dead" : "live"),
      link,
    ),
    h(
      "dl",
      { class: "saekit-facts" },
      fact("density", percent(card.density), `active on ${grouped(card.count)} of ${grouped(facts.n_tokens)} tokens`),
      fact("active tokens", grouped(card.count)),
      fact("mean active", sig(card.dead ? null : card.mean), "mean activation where it is active"),
      fact("max", sig(card.max)),
      fact("L0 of the SAE", `${sig(facts.l0)} of ${grouped(facts.d_sae)}`, "mean number of active features on a token"),
      fact("tokens", grouped(facts.n_tokens)),
      fact(
        "left out",
        left ? excluded.map(([kind, count]) => `${grouped(count)} ${kind}`).join(", ") : "none",
        "positions excluded from every statistic",
      ),
    ),
    h("p", { class: "saekit-quiet saekit-source" }, `${facts.model} · ${facts.hook}`),
  ];
}

function nothing(facts) {
  const seen = `${grouped(facts.n_tokens)} tokens`;
  const words = `This feature is dead: it was never active on ${seen}, so there are no examples.`;
  return h("p", { class: "saekit-nothing" }, words);
}

/** All groups of examples: one tab stop for the lot, arrows move within and between them. */
function examples(card) {
  const values = float32(card.values);
  const readout = h("p", { class: "saekit-readout saekit-sticky", "aria-live": "polite" });
  const node = h(
    "section",
    { class: "saekit-examples", "aria-label": "Examples" },
    h("div", { class: "saekit-heading" }, h("h3", {}, "Examples"), scaleKey(card.max)),
  );
  const rows = [];
  for (const group of card.groups) {
    if (!group.rows.length) continue;
    const list = h("div", { class: "saekit-rows" });
    const drawn = group.rows.map((data, i) => exampleRow({ data, values, card, readout, rows, rank: i + 1 }));
    const hidden = group.kind === "top" ? drawn.slice(FIRST_ROWS) : [];
    list.append(...drawn.map((row) => row.node));
    for (const row of hidden) row.node.hidden = true;
    for (const row of drawn) if (!row.node.hidden) row.show();
    rows.push(...drawn);
    node.append(h("h4", {}, ...groupTitle(group, card.max)), list);
    if (hidden.length) {
      const more = h(
        "button",
        { type: "button", class: "saekit-more", "aria-expanded": "false" },
        `Show ${hidden.length} more`,
      );
      more.addEventListener("click", () => {
        const open = more.getAttribute("aria-expanded") === "true";
        for (const row of hidden) {
          row.show();
          row.node.hidden = open;
        }
        more.setAttribute("aria-expanded", String(!open));
        more.textContent = open ? `Show ${hidden.length} more` : "Show fewer";
      });
      node.append(more);
    }
  }
  rows[0]?.enter(false);
  node.append(readout);
  return node;
}

function groupTitle(group, max) {
  if (group.kind === "top") return ["Top"];
  const range = `${aligned(group.low, max)} – ${aligned(group.high, max)}`;
  return [
    h("span", { class: "saekit-range" }, range),
    h("span", { class: "saekit-quiet" }, ` ${percent(group.share)} of its activations`),
  ];
}

function scaleKey(max) {
  return h(
    "p",
    { class: "saekit-quiet saekit-scale" },
    h("span", { class: "saekit-ramp", "aria-hidden": "true" }),
    `shade = activation / ${sig(max)}, this feature's maximum; choose a token for its exact value`,
  );
}

/** One example: value, tokens around the peak (or the whole window), folded duplicates, a toggle. */
function exampleRow({ data, values, card, readout, rows, rank }) {
  const activations = values.subarray(data.at, data.at + data.tokens.length);
  const cells = mergePieces(data.tokens, activations);
  const node = h("div", { class: "saekit-row" });
  const value = h("span", { class: "saekit-value" }, aligned(data.value, card.max));
  const again = h(
    "span",
    { class: "saekit-again", title: "identical windows, folded into this one" },
    data.duplicates ? `×${data.duplicates + 1}` : "",
  );
  const toggle = h("button", {
    type: "button",
    class: "saekit-icon saekit-toggle",
    "aria-expanded": "false",
    tabindex: -1,
  });
  const self = { node, show, enter, leave };
  let strip = null;
  let open = false;

  function tell(cell) {
    const place = `sequence ${data.sequence}, position ${data.position + cell.from - data.peak}`;
    readout.replaceChildren(...quoted(cell.text), ` · activation ${sig(cell.value, 4)} · ${place}`);
    rows.filter((row) => row !== self).forEach((row) => row.leave());
    toggle.tabIndex = 0;
  }

  function draw(keep) {
    const label = `Example ${rank}, activation ${sig(data.value)}, sequence ${data.sequence}`;
    const { before, peak, after } = around(cells, data.peak, open ? Infinity : SIDE);
    const make = (cell) => tokenCell(cell, card.max);
    const centre = peak.map(make);
    centre[0]?.setAttribute("data-saekit-first", "");
    centre[0]?.classList.add("saekit-peak");
    const content = open
      ? [...before.map(make), ...centre, ...after.map(make)]
      : [
          h("span", { class: "saekit-before" }, h("span", { dir: "ltr" }, ...before.map(make))),
          h("span", { class: "saekit-centre" }, ...centre),
          h("span", { class: "saekit-after" }, ...after.map(make)),
        ];
    strip = tokenStrip(label, content, { onselect: tell, tabbable: false });
    strip.node.classList.toggle("saekit-whole", open);
    node.replaceChildren(value, strip.node, again, toggle);
    toggle.setAttribute("aria-expanded", String(open));
    toggle.setAttribute("aria-label", `Whole window of ${data.tokens.length} tokens, example ${rank}`);
    toggle.title = open ? "Close (Enter)" : "Show the whole window (Enter)";
    toggle.textContent = open ? "−" : "+";
    if (keep) {
      const same = strip.options().find((option) => option.saekitCell === keep) ?? strip.first();
      strip.choose(same);
      same.focus();
    }
  }

  function flip(keep) {
    open = !open;
    draw(keep);
  }

  /** Draw on first sight: half of the rows are folded away, and a change of feature should be quick. */
  function show() {
    if (!strip) draw(null);
  }

  /** Make this row the examples' tab stop, and move the focus into it. */
  function enter(focus) {
    const stop = strip.first();
    if (!stop) return;
    if (focus) {
      strip.choose(stop);
      stop.focus();
    } else stop.tabIndex = toggle.tabIndex = 0;
  }

  function leave() {
    strip?.choose(null);
    toggle.tabIndex = -1;
  }

  toggle.addEventListener("click", () => flip(null));
  node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === toggle) return;
    if (event.key === "Enter") flip(event.target.saekitCell);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const shown = rows.filter((row) => !row.node.hidden);
      const next = shown[shown.indexOf(self) + (event.key === "ArrowDown" ? 1 : -1)];
      next?.enter(true);
    } else return;
    event.preventDefault();
  });
  // Clipped context scrolls into sight under the keyboard; give it back its place afterwards.
  node.addEventListener("focusout", () =>
    node.querySelectorAll(".saekit-before, .saekit-after").forEach((half) => (half.scrollLeft = 0)),
  );
  return self;
}

function panels(card, featureButton) {
  const made = [];
  if (card.histogram && card.histogram.counts.some(Boolean))
    made.push(
      h(
        "section",
        { "aria-label": "Histogram of activations" },
        h("h3", {}, "Activations"),
        h("p", { class: "saekit-quiet" }, "how often each value occurs, log count"),
        histogramFigure(card.histogram, card.count),
      ),
    );
  const { promoted, suppressed } = card.logits;
  if (promoted.length + suppressed.length) {
    const scale = Math.max(...[...promoted, ...suppressed].map(([, , value]) => Math.abs(value)));
    made.push(
      h(
        "section",
        { class: "saekit-logit-panel", "aria-label": "Effect on the output" },
        h("h3", {}, "Output"),
        h("p", { class: "saekit-quiet" }, "logits per unit of activation, through the final norm"),
        h(
          "div",
          { class: "saekit-pair" },
          logitTable("Promotes", promoted, scale, "promoted"),
          logitTable("Suppresses", suppressed, scale, "suppressed"),
        ),
      ),
    );
  }
  const list = (title, unit, found) =>
    h(
      "div",
      {},
      h("h4", {}, title),
      h("p", { class: "saekit-quiet" }, found.length ? unit : `${unit}: none above 0`),
      h(
        "ol",
        { class: "saekit-features" },
        ...found.map((n) => h("li", {}, featureButton(n.feature, n.name, n.score.toFixed(2)))),
      ),
    );
  const { decoder, coactivation } = card.neighbours;
  if (decoder.length + coactivation.length)
    made.push(
      h(
        "section",
        { "aria-label": "Neighbours" },
        h("h3", {}, "Neighbours"),
        h(
          "div",
          { class: "saekit-pair" },
          list("Same direction", "decoder cosine", decoder),
          list("Same tokens", "co-activation, Jaccard", coactivation),
        ),
      ),
    );
  return made;
}

export default { render };
