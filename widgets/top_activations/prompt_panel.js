// The panel for a reader's own text: this feature on every token, and the strongest features at one of them.
import { aligned, float32, mergePieces, peakOf, sig, strongest } from "../_shared/lib.js";
import { h, tokenCell, tokenStrip } from "../_shared/dom.js";

const PROMPT_HELP = {
  off: "Pass the model and its SAE to try your own text: TopActivations(index, model=model, sae=sae).",
  page: "Your own text needs a running notebook; this page holds stored data only.",
};

/** Returns {node, update, drawResult, drawToken, focus}; `featureButton` makes a button that navigates. */
export function promptPanel(model, featureButton) {
  const { own_text: mode } = model.get("_facts");
  const result = h("div", { class: "saekit-prompt-result" });
  const said = h("p", { class: "saekit-quiet", "aria-live": "polite" });
  const found = h("div", { class: "saekit-at-token" });
  const node = h("section", { class: "saekit-own", "aria-label": "Your own text" }, h("h3", {}, "Try your own text"));
  const box = h("textarea", {
    rows: 2,
    spellcheck: "false",
    dir: "auto",
    "aria-label": "Your own text",
    placeholder: "Type or paste a sentence",
  });
  const halt = h(
    "button",
    { type: "button", class: "saekit-stop", hidden: true, onclick: () => push("_stops", model.get("_stops") + 1) },
    "Stop",
  );
  if (mode === "live") node.append(h("div", { class: "saekit-own-input" }, box, halt));
  else node.append(h("p", { class: "saekit-quiet" }, PROMPT_HELP[mode]));
  node.append(result, said, found);

  function push(name, value) {
    model.set(name, value);
    model.save_changes();
  }
  // No timer: ipywidgets keeps one message in flight, and the kernel's worker takes the newest text only.
  box.addEventListener("input", () => push("prompt", box.value));

  let strip = null;

  function drawPrompt() {
    if (box.value !== model.get("prompt") && document.activeElement !== box) box.value = model.get("prompt");
  }

  function drawBusy() {
    halt.hidden = !model.get("busy");
    node.setAttribute("aria-busy", String(model.get("busy")));
  }

  function drawResult() {
    const shown = model.get("_result");
    const card = model.get("_card");
    const inside = result.contains(document.activeElement);
    strip = null;
    result.replaceChildren();
    said.textContent = "";
    found.replaceChildren();
    if (!shown.tokens) return;
    // While the kernel still works on the new feature, the old one's values would be a lie: show none.
    if (shown.feature !== card.feature) return void (said.textContent = mode === "live" ? "Reading …" : "");
    const values = float32(shown.values);
    const cells = mergePieces(shown.tokens, values);
    const left = new Set(shown.excluded ?? []);
    const most = peakOf(cells, left);
    const scale = Math.max(card.max, most);
    strip = tokenStrip(
      `Your own text, feature ${card.feature}`,
      cells.map((cell) => tokenCell(cell, scale, { dim: left.has(cell.from) })),
      { onselect: (cell) => model.get("token") !== cell.from && push("token", cell.from) },
    );
    result.append(strip.node);
    said.textContent =
      most > 0
        ? `Feature ${card.feature}: strongest ${sig(most)}; shade = activation / ${sig(scale)}. ` +
          "Choose a token to list its strongest features."
        : `Feature ${card.feature} is not active on this text. Choose a token to list its strongest features.`;
    drawToken();
    if (inside) (result.querySelector("[tabindex='0']") ?? box).focus({ preventScroll: true });
  }

  function drawToken() {
    found.replaceChildren();
    const shown = model.get("_result");
    const token = model.get("token");
    if (!strip) return;
    const chosen =
      strip.options().find(({ saekitCell: c }) => token !== null && c.from <= token && token < c.to) ?? null;
    strip.choose(chosen, true);
    if (!chosen || !shown.features) return;
    const cell = chosen.saekitCell;
    const best = strongest(float32(shown.features), float32(shown.strengths), shown.k, cell.from, cell.to);
    const left = (shown.excluded ?? []).includes(cell.from)
      ? " This position is left out of the index's statistics."
      : "";
    found.append(
      h(
        "p",
        { class: "saekit-readout", "aria-live": "polite" },
        ...quoted(cell.text),
        ` · this feature ${sig(cell.value, 4)}.${left}`,
      ),
      h("h4", {}, best.length ? "Strongest features here" : "No feature is active here"),
      h(
        "ol",
        { class: "saekit-features" },
        ...best.map(({ feature, value }) => h("li", {}, featureButton(feature, "", aligned(value, best[0].value)))),
      ),
    );
  }

  drawPrompt();
  drawBusy();
  return { node, drawPrompt, drawBusy, drawResult, drawToken, focus: () => mode === "live" && box.focus() };
}

/** A token as it is, in quotes that show every character. */
export function quoted(text) {
  return [h("bdi", { class: "saekit-exact" }, JSON.stringify(text))];
}
