// The circuit view: the picture with its slider, the card of a node, faithfulness, exports.
import { grouped } from "../_shared/lib.js";
import {
  accountedWords,
  circuitRecord,
  curvePoints,
  keptEdges,
  keptNumbers,
  measuredWords,
  nextNode,
  nodeOfValue,
  pointOf,
  shareText,
  valueOfNode,
} from "./picture.js";
import { download, guardKeys, h } from "../_shared/dom.js";
import { circuitCurve, circuitPicture, curveTable, nodeCard, nodeTable, standalonePicture } from "./draw.js";

function render({ model, el }) {
  const put = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const press = (counter) => put(counter, model.get(counter) + 1);
  const slider = h("input", {
    type: "range",
    min: 0,
    step: 1,
    "aria-label": "Features kept",
    oninput: () => put("size", Number(slider.value)),
  });
  const count = h("output", {});
  const errors = h(
    "select",
    { onchange: () => put("errors", errors.value) },
    h("option", { value: "kept" }, "kept"),
    h("option", { value: "ablated" }, "ablated"),
  );
  const go = h("button", {
    type: "button",
    class: "saekit-go",
    onclick: () => go.dataset.kind && press(go.dataset.kind === "stop" ? "_stops" : "_starts"),
  });
  const more = h(
    "button",
    {
      type: "button",
      title: "Measure circuits of 0, 1, 3, 10, 30, 100, 300 and 1000 features",
      onclick: () => !model.get("busy") && press("_curves"),
    },
    "Measure the curve",
  );
  const shares = ["faithfulness", "completeness"].map((name) => ({ name, value: h("dd", {}) }));
  const doing = h("p", { class: "saekit-faint saekit-doing" });
  const alert = h("p", { class: "saekit-alert", role: "alert" });
  const status = h("p", { class: "saekit-silent", role: "status" });
  const frame = h("div", { class: "saekit-picture-frame" });
  const card = h("div", { class: "saekit-card", role: "region", "aria-label": "Node" });
  const curve = h("div", { class: "saekit-curve-side" });
  const table = h(
    "details",
    {},
    h("summary", {}, "Nodes as a table"),
    h("div", { class: "saekit-table-frame", tabindex: 0, role: "region", "aria-label": "Nodes" }),
  );
  const note = h("p", { class: "saekit-faint" });
  const root = h(
    "section",
    { class: "saekit-panel saekit-circuit", "aria-label": "Circuit" },
    h(
      "div",
      { class: "saekit-circuit-head" },
      h("h2", {}, "Circuit"),
      h("p", { class: "saekit-faint" }, model.get("_facts").task),
      go,
      more,
      h(
        "span",
        { class: "saekit-exports" },
        h(
          "button",
          {
            type: "button",
            onclick: () => picture && download("circuit.svg", "image/svg+xml", standalonePicture(picture.node)),
          },
          "Save SVG",
        ),
        h(
          "button",
          {
            type: "button",
            onclick: () =>
              download("circuit.json", "application/json", JSON.stringify(circuitRecord(state()), null, 1)),
          },
          "Save JSON",
        ),
      ),
    ),
    h(
      "div",
      { class: "saekit-circuit-controls" },
      h("label", { class: "saekit-threshold" }, h("span", {}, "features kept"), slider, count),
      h("label", {}, "reconstruction errors ", errors),
      h("dl", { class: "saekit-shares" }, ...shares.map(({ name, value }) => h("div", {}, h("dt", {}, name), value))),
    ),
    doing,
    alert,
    status,
    h("div", { class: "saekit-circuit-body" }, frame, h("div", { class: "saekit-circuit-side" }, card, curve)),
    table,
    note,
  );
  guardKeys(root);
  el.append(root);

  let picture = null; // what is drawn: {node, options, places}
  let hovered = null; // numbers of nodes: of this display only, never state
  let focused = null;
  let spoken = "";

  const state = () => ({
    facts: model.get("_facts"),
    nodes: model.get("_nodes"),
    edges: model.get("_edges"),
    measured: model.get("_measured"),
    size: model.get("size"),
    errors: model.get("errors"),
  });
  const numbers = () => keptNumbers(model.get("_nodes"), model.get("size"), model.get("errors"));
  const chosen = () => nodeOfValue(model.get("value"), model.get("_nodes"), model.get("_facts"));
  const select = (number) => put("value", valueOfNode(model.get("_nodes")[number], model.get("_facts")));

  function drawControls() {
    const { facts, nodes, measured, size, errors: mode } = state();
    const busy = model.get("busy");
    const point = pointOf(measured, size, mode);
    slider.max = facts.most;
    slider.value = size;
    slider.setAttribute("aria-valuetext", `${size} of ${facts.most}`);
    count.textContent = `${grouped(size)} of ${grouped(facts.features ?? facts.most)}`;
    errors.value = mode;
    for (const { name, value } of shares) value.textContent = point ? shareText(point[name]) : "…";
    root.setAttribute("aria-busy", String(busy));
    const kind = busy ? "stop" : point && nodes.length ? "" : "start";
    go.textContent = { stop: "Stop", start: "Compute", "": "Up to date" }[kind];
    go.dataset.kind = kind;
    // Not `disabled`: that would throw the focus out of the view, into JupyterLab's command mode.
    go.setAttribute("aria-disabled", String(!kind));
    more.setAttribute("aria-disabled", String(busy || !nodes.length));
    go.hidden = more.hidden = !model.get("_has_kernel");
    const missing =
      !point && !model.get("_has_kernel")
        ? "This size was not measured: open the view in a notebook to measure it."
        : "";
    doing.textContent = busy ? `${model.get("_doing") || "at work"} …` : missing;
    alert.textContent = model.get("error");
    const says = point
      ? `${size} features, errors ${mode}: faithfulness ${shareText(point.faithfulness)}, ` +
        `completeness ${shareText(point.completeness)}`
      : "";
    if (says && says !== spoken) status.textContent = says;
    spoken = says;
    note.textContent = `${measuredWords(facts, model.get("_levels"))} ${accountedWords(facts)}`;
  }

  function drawCurve() {
    const { measured, size, errors: mode } = state();
    const points = curvePoints(measured, mode);
    if (points.length < 2) return curve.replaceChildren();
    const open = curve.querySelector("details")?.open ?? false;
    curve.replaceChildren(
      h("h3", {}, `Measured so far, errors ${mode}`),
      h(
        "p",
        { class: "saekit-curve-keys" },
        h("span", { class: "saekit-key saekit-key-faithfulness" }),
        "faithfulness ",
        h("span", { class: "saekit-key saekit-key-completeness" }),
        "completeness",
      ),
      circuitCurve(points, size, mode),
      h("details", { open }, h("summary", {}, "Values"), curveTable(points, size)),
    );
  }

  function drawPicture() {
    const { facts, nodes, edges } = state();
    const kept = numbers();
    const held = frame.contains(document.activeElement);
    if (!nodes.length) {
      picture = null;
      frame.replaceChildren(h("p", { class: "saekit-nothing" }, "No circuit yet."));
    } else {
      const places = `${facts.positions.length} positions across, ${facts.hooks.length} layers upwards`;
      const words = `Circuit: ${kept.length} nodes, ${places}`;
      picture = circuitPicture({
        nodes,
        edges: keptEdges(edges, nodes, kept, facts.hooks.length),
        numbers: kept,
        facts,
        words,
      });
      frame.replaceChildren(kept.length ? picture.node : h("p", { class: "saekit-nothing" }, "Nothing is kept."));
    }
    table.querySelector("div").replaceChildren(nodeTable(nodes, kept, facts));
    if (hovered !== null && !kept.includes(hovered)) hovered = null;
    if (focused !== null && !kept.includes(focused)) focused = null;
    drawSelection();
    if (held) picture?.options[kept.indexOf(stop())]?.focus({ preventScroll: true });
  }

  /** The node that Tab reaches: the one focused last, else the selected one, else the strongest. */
  function stop() {
    const kept = numbers();
    return [focused, chosen(), kept[0]].find((number) => number !== null && kept.includes(number));
  }

  function drawSelection() {
    const at = chosen();
    const tabbed = stop();
    for (const option of picture?.options ?? []) {
      option.setAttribute("aria-selected", String(option.saekitNumber === at));
      option.setAttribute("tabindex", option.saekitNumber === tabbed ? 0 : -1);
    }
    drawCard();
  }

  function drawCard() {
    const { facts, nodes, edges } = state();
    const number = [hovered, focused, chosen()].find((found) => found !== null && found >= 0);
    for (const edge of picture?.node.querySelectorAll(".saekit-edge") ?? [])
      edge.classList.toggle(
        "saekit-edge-near",
        number !== undefined && [edge.dataset.source, edge.dataset.target].includes(String(number)),
      );
    if (number === undefined || !nodes[number]) {
      const value = model.get("value");
      const outside =
        value && nodes.length
          ? `Feature ${value[2]} of ${value[0]} at ${value[1]} is not among the nodes of this picture.`
          : "";
      return card.replaceChildren(
        h(
          "p",
          { class: "saekit-faint" },
          outside ||
            "Point at a node, or walk over them with the arrow keys, to read what it is; " +
              "click or press Enter to select it.",
        ),
      );
    }
    const shown = keptEdges(edges, nodes, [...nodes.keys()], facts.hooks.length);
    card.replaceChildren(
      ...nodeCard({
        node: nodes[number],
        number,
        nodes,
        edges: shown,
        facts,
        contexts: model.get("_contexts"),
        kept: numbers().includes(number),
      }),
    );
  }

  const numberAt = (event) => event.target.closest?.("[role=option]")?.saekitNumber ?? null;
  frame.addEventListener("pointerover", (event) => {
    const over = numberAt(event);
    if (over !== hovered) {
      hovered = over;
      drawCard();
    }
  });
  frame.addEventListener("pointerleave", () => {
    hovered = null;
    drawCard();
  });
  frame.addEventListener("focusin", (event) => {
    const now = numberAt(event);
    if (now === null || now === focused) return;
    focused = now;
    hovered = null;
    drawSelection();
  });
  frame.addEventListener("focusout", (event) => {
    if (frame.contains(event.relatedTarget) || !event.target.isConnected) return;
    focused = null;
    drawCard();
  });
  frame.addEventListener("click", (event) => {
    const on = numberAt(event);
    if (on === null) return;
    select(on);
    event.target.closest("[role=option]").focus({ preventScroll: true });
  });
  frame.addEventListener("keydown", (event) => {
    const at = numberAt(event);
    if (at === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const kept = numbers();
    if (event.key === "Enter" || event.key === " ") select(at);
    else {
      const next = nextNode(
        event.key,
        kept.indexOf(at),
        kept.map((i) => model.get("_nodes")[i]),
        picture.places,
      );
      if (next === null) return;
      picture.options[next].focus();
    }
    event.preventDefault();
  });

  const draws = {
    "change:_facts": [drawControls],
    "change:_nodes": [drawControls, drawPicture],
    "change:_edges": [drawPicture],
    "change:_contexts": [drawCard],
    "change:_measured": [drawControls, drawCurve],
    "change:_levels": [drawControls],
    "change:_doing": [drawControls],
    "change:busy": [drawControls],
    "change:error": [drawControls],
    "change:size": [drawControls, drawPicture, drawCurve],
    "change:errors": [drawControls, drawPicture, drawCurve],
    "change:value": [drawSelection],
  };
  const wired = Object.entries(draws).flatMap(([event, all]) => all.map((draw) => [event, draw]));
  wired.forEach(([event, draw]) => model.on(event, draw));
  [drawControls, drawPicture, drawCurve].forEach((draw) => draw());
  return () => wired.forEach(([event, draw]) => model.off(event, draw));
}

export default { render };
