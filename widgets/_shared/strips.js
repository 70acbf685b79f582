// A strip of tokens: a listbox with one tab stop, in which arrows, Home and End move and select.
// What is in a strip is told in `saekit/views/_shared/strips.py`.
import { hasModifier, stepTo } from "./keys.js";

/** Text as it is shown: controls such as NUL have no picture of their own. */
export function shownText(text) {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u0008\u000b-\u001f]/g, "\ufffd");
}

/** What a screen reader should say for a token: names for what is silent. */
export function spokenAs(token) {
  const text = token.trim();
  if (text) return text;
  if (token.includes("\n")) return "new line";
  return token.includes("\t") ? "tab" : token ? "space" : "nothing";
}

/** The tokens of a strip, each with its words: {number, text, raw, from, to, words, exact, shade, out, told}. */
export function tokensOf({ tokens, raw = [], at, marks, rest = "", out = [], written = false }) {
  const marked = new Map(marks.map(([number, ...mark]) => [number, mark]));
  const exactly = new Map(raw);
  return tokens.map((text, number) => {
    const [words, exact, shade, told] = marked.get(number) ?? [rest, rest, 0];
    const [from, to] = at ? [at[number], at[number + 1]] : [number, number + 1];
    const whole = exactly.get(number) ?? (written ? text : text.replaceAll("·", " "));
    return { number, text, raw: whole, from, to, words, exact, shade, told, out: out.includes(number) };
  });
}

/** One token; `option` is false where it cannot be chosen. */
export function tokenNode(token, { unit = "", written = false }, option = true) {
  const pieces = token.to - token.from > 1 ? `, ${token.to - token.from} pieces` : "";
  const leftOut = token.out ? ", left out of the statistics" : "";
  const node = document.createElement("span");
  node.className = `saekit-token saekit-tone-${token.shade < 0 ? "minus" : "plus"}`;
  node.classList.toggle("saekit-token-dim", token.out);
  node.classList.toggle("saekit-written", written);
  node.textContent = shownText(token.text);
  node.dir = "auto";
  node.title = [`${JSON.stringify(token.raw)}  ${token.exact}${pieces}`, token.told].filter(Boolean).join(", ");
  node.style.setProperty("--saekit-shade", Math.abs(token.shade));
  node.saekitToken = token;
  if (!option) return node;
  node.setAttribute("role", "option");
  node.setAttribute("tabindex", "-1");
  node.setAttribute("aria-selected", "false");
  node.setAttribute("aria-label", `${spokenAs(token.raw)}, ${unit}${token.words}${pieces}${leftOut}`);
  return node;
}

/**
 * Returns {node, tokens, options, first, choose, draw}. `onselect(token, node)` hears of every choice; a strip without
 * it is text. `tabbable` says whether Tab reaches it before anything in it is chosen.
 * A strip with `near` shows these tokens around its peak until `draw(true)`.
 */
export function drawStrip(strip, { onselect = null, tabbable = true } = {}) {
  const tokens = tokensOf(strip);
  const list = document.createElement("div");
  list.className = "saekit-strip";
  list.dir = strip.written ? "auto" : "ltr";
  if (onselect) {
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-orientation", "horizontal");
    list.setAttribute("aria-label", strip.label);
  }
  const options = () => [...list.querySelectorAll("[role=option]")];
  const first = () => list.querySelector("[data-first]") ?? list.querySelector("[role=option]");

  function draw(whole) {
    const nodes = tokens.map((token) => tokenNode(token, strip, Boolean(onselect)));
    const { peak = null, near } = strip;
    list.classList.toggle("saekit-whole", whole || !near);
    if (peak !== null) {
      nodes[peak].classList.add("saekit-peak");
      nodes[peak].setAttribute("data-first", "");
    }
    if (whole || !near) return list.replaceChildren(...nodes);
    const part = (name, inner) => {
      const node = document.createElement("span");
      node.className = `saekit-${name}`;
      node.append(...inner);
      return node;
    };
    const before = document.createElement("span");
    before.dir = "ltr";
    before.append(...nodes.slice(near[0], peak));
    list.replaceChildren(
      part("before", [before]),
      part("centre", [nodes[peak]]),
      part("after", nodes.slice(peak + 1, near[1])),
    );
  }

  function choose(node, quietly) {
    for (const option of options()) {
      option.setAttribute("aria-selected", String(option === node));
      option.tabIndex = -1;
    }
    const stop = node ?? first();
    if (stop && (tabbable || node)) stop.tabIndex = 0;
    if (node && !quietly) onselect(node.saekitToken, node);
  }

  if (onselect) {
    list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (!option) return;
      option.focus({ preventScroll: true });
      choose(option);
    });
    list.addEventListener("keydown", (event) => {
      if (hasModifier(event)) return;
      const all = options();
      const at = all.indexOf(event.target);
      const next = event.key === " " ? at : stepTo(event.key, at, all.length);
      if (at < 0 || next === null) return;
      event.preventDefault();
      all[next].focus();
      choose(all[next]);
    });
  }
  draw(false);
  if (onselect) choose(null);
  return { node: list, tokens, options, first, choose, draw };
}

/** The first strip of a panel, null where it has none. */
export function stripIn(node) {
  if (!node || typeof node === "string") return null;
  if (node[0] === "strip") return node[1];
  return node.slice(2).reduce((found, child) => found ?? stripIn(child), null);
}
