// The panel for a reader's own text: this feature on every token, and the strongest features at one of them.
import { draw } from "../_shared/draw.js";
import { drawStrip } from "../_shared/strips.js";
import { setterOf } from "../_shared/view.js";

const PROMPT_HELP = {
  off: "Pass the model and its SAE to try your own text: TopActivations(index, model=model, sae=sae).",
  page: "Your own text needs a running notebook; this page holds stored data only.",
};
const CHOOSE_HINT = "Choose a token to list its strongest features.";

/** Returns {node, drawPrompt, drawBusy, drawResult, drawToken, focus}. */
export function promptPanel(model) {
  const set = setterOf(model);
  const { own_text: mode } = model.get("_facts");
  const node = draw([
    "section",
    { class: "own", "aria-label": "Your own text" },
    ["h3", {}, "Try your own text"],
    ["div", { class: "prompt-result" }],
    ["p", { class: "quiet", "aria-live": "polite" }],
    ["div", { class: "at-token" }],
  ]);
  const [title, result, said, found] = node.children;
  const box = draw([
    "textarea",
    {
      rows: 2,
      spellcheck: "false",
      dir: "auto",
      "aria-label": "Your own text",
      placeholder: "Type or paste a sentence",
    },
  ]);
  const halt = draw(["button", { type: "button", class: "stop", hidden: true }, "Stop"]);
  const input = draw(["div", { class: "own-input" }]);
  input.append(box, halt);
  title.after(mode === "live" ? input : draw(["p", { class: "quiet" }, PROMPT_HELP[mode]]));
  halt.addEventListener("click", () => set("_stops", model.get("_stops") + 1));
  // No timer: ipywidgets keeps one message in flight, and the kernel's worker takes the newest text only.
  box.addEventListener("input", () => set("prompt", box.value));

  let strip = null;

  function drawPrompt() {
    if (box.value !== model.get("prompt") && document.activeElement !== box) box.value = model.get("prompt");
  }

  function drawBusy() {
    halt.hidden = !model.get("busy");
    node.setAttribute("aria-busy", String(model.get("busy")));
  }

  function drawResult() {
    const { panel, feature } = model.get("_result");
    const inside = result.contains(document.activeElement);
    strip = null;
    result.replaceChildren();
    found.replaceChildren();
    said.textContent = "";
    if (!panel) return;
    // While the kernel still works on the new feature, the old one's values would be a lie: show none.
    if (feature !== model.get("_card").feature) return void (said.textContent = mode === "live" ? "Reading …" : "");
    const drawn = draw(panel, (about) => {
      strip = drawStrip(about, { onselect: (token) => set("token", token.from) });
      return strip.node;
    });
    result.append(drawn);
    said.textContent = CHOOSE_HINT;
    drawToken();
    if (inside) (result.querySelector("[tabindex='0']") ?? box).focus({ preventScroll: true });
  }

  function drawToken() {
    found.replaceChildren();
    const token = model.get("token");
    const holds = ({ saekitToken: { from, to } }) => token !== null && from <= token && token < to;
    const chosen = strip?.options().find(holds) ?? null;
    strip?.choose(chosen, true);
    const strongest = chosen && model.get("_result").strongest?.[chosen.saekitToken.number];
    if (strongest) found.append(...atToken(chosen.saekitToken, strongest).map((one) => draw(one)));
  }

  drawPrompt();
  drawBusy();
  return { node, drawPrompt, drawBusy, drawResult, drawToken, focus: () => mode === "live" && box.focus() };
}

/** What there is at a token: `strongest` is [[feature, activation in words], …], strongest first. */
function atToken({ raw, exact, out }, strongest) {
  const left = out ? " This position is left out of the index's statistics." : "";
  const quoted = ["bdi", { class: "exact" }, JSON.stringify(raw)];
  return [
    ["p", { class: "readout", "aria-live": "polite" }, quoted, ` · this feature ${exact}.${left}`],
    ["h4", {}, strongest.length ? "Strongest features here" : "No feature is active here"],
    ["ol", { class: "features" }, ...strongest.map(featureItem)],
  ];
}

function featureItem([feature, words]) {
  const about = { type: "button", class: "feature", title: `Go to feature ${feature}`, set: ["value", feature] };
  return ["li", {}, ["button", about, ["b", {}, String(feature)], ["span", { class: "score" }, words]]];
}
