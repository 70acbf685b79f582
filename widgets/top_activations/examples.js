// The examples of a feature: a concordance with one tab stop, in which arrows move within and between the rows.
import { draw } from "../_shared/draw.js";
import { drawStrip } from "../_shared/strips.js";
import { hasModifier } from "../_shared/keys.js";

const FIRST_ROWS = 8; // of a group, before "more"

/** The panel of the examples, its rows come to life. */
export function exampleList(panel) {
  const drawn = [];
  const node = draw(panel, (strip) => {
    // A strip in this list is chosen from; which row it belongs to is known once all stand in the page.
    const told = { row: null };
    const made = drawStrip(strip, { onselect: (token) => told.row.tell(token), tabbable: false });
    drawn.push({ strip, made, told });
    return made.node;
  });
  const readout = draw(["p", { class: "readout sticky", "aria-live": "polite" }]);
  const rows = [];
  for (const group of node.querySelectorAll(".saekit-rows"))
    for (const [i, line] of [...group.children].entries()) {
      const own = drawn[rows.length];
      own.told.row = exampleRow(line, own, { rows, readout, rank: i + 1 });
      rows.push(own.told.row);
    }
  for (const group of node.querySelectorAll(".saekit-rows")) foldAway(group);
  rows[0]?.enter(false);
  node.append(readout);
  return node;
}

/** Hide what is beyond the first rows of a group behind a button. */
function foldAway(group) {
  const hidden = [...group.children].slice(FIRST_ROWS);
  if (!hidden.length) return;
  const closed = `Show ${hidden.length} more`;
  const more = draw(["button", { type: "button", class: "more", "aria-expanded": "false" }, closed]);
  for (const row of hidden) row.hidden = true;
  more.addEventListener("click", () => {
    const open = more.getAttribute("aria-expanded") === "true";
    for (const row of hidden) row.hidden = open;
    more.setAttribute("aria-expanded", String(!open));
    more.textContent = open ? closed : "Show fewer";
  });
  group.after(more);
}

/** One example: tokens around the peak (or the whole window), and a toggle between them. */
function exampleRow(node, { strip, made }, { rows, readout, rank }) {
  const length = made.tokens.at(-1).to;
  const toggle = draw(["button", { type: "button", class: "icon toggle", tabindex: -1 }]);
  const self = { node, tell, enter, leave };
  let open = false;

  function tell(token) {
    const place = `sequence ${strip.sequence}, position ${strip.first + token.from}`;
    readout.replaceChildren(draw(["bdi", { class: "exact" }, JSON.stringify(token.raw)]));
    readout.append(` · ${strip.unit}${token.exact} · ${place}`);
    rows.filter((row) => row !== self).forEach((row) => row.leave());
    toggle.tabIndex = 0;
  }

  function label() {
    toggle.setAttribute("aria-expanded", String(open));
    toggle.setAttribute("aria-label", `Whole window of ${length} tokens, example ${rank}`);
    toggle.title = open ? "Close (Enter)" : "Show the whole window (Enter)";
    toggle.textContent = open ? "−" : "+";
  }

  function flip(kept) {
    open = !open;
    made.draw(open);
    label();
    if (!kept) return;
    const same = made.options().find((option) => option.saekitToken === kept) ?? made.first();
    made.choose(same);
    same.focus();
  }

  /** Make this row the examples' tab stop, and move the focus into it. */
  function enter(focus) {
    const stop = made.first();
    if (focus) {
      made.choose(stop);
      stop.focus();
    } else stop.tabIndex = toggle.tabIndex = 0;
  }

  function leave() {
    made.choose(null);
    toggle.tabIndex = -1;
  }

  label();
  node.append(toggle);
  toggle.addEventListener("click", () => flip(null));
  node.addEventListener("keydown", (event) => {
    if (hasModifier(event) || event.target === toggle) return;
    if (event.key === "Enter") flip(event.target.saekitToken);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const shown = rows.filter((row) => !row.node.hidden);
      shown[shown.indexOf(self) + (event.key === "ArrowDown" ? 1 : -1)]?.enter(true);
    } else return;
    event.preventDefault();
  });
  // Clipped context scrolls into sight under the keyboard; give it back its place afterwards.
  node.addEventListener("focusout", () =>
    node.querySelectorAll(".saekit-before, .saekit-after").forEach((half) => (half.scrollLeft = 0)),
  );
  return self;
}
