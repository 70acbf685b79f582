// Small charts as inline SVG: lines on a linear or logarithmic axis, and bars. Pure functions first, drawing last.
import { sig } from "./lib.js";
import { svg } from "./dom.js";

export const LINE_COLOURS = 6;
export const LINE_DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "4 2", "13 4", "9 2.5 2 2.5 2 2.5"];
const LINE_BOX = { width: 250, height: 160, left: 36, right: 66, top: 8, bottom: 30 };
const BAR_BOX = { width: 300, height: 172, left: 38, right: 10, top: 8, bottom: 30 };
const LETTERS = 10; // of a name beside its line

/** A number on an axis: 250k, 1.5M, 0.05; short rather than exact. */
export function short(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return "–";
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(3))}G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e3) return `${Number((value / 1e3).toPrecision(3))}k`;
  return sig(value);
}

/** A power of ten as it is written by hand: 10⁻⁴. */
export function powerOfTen(exponent) {
  const raised = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  return `10${[...String(exponent)].map((c) => raised[c]).join("")}`;
}

/** Round values from 0 up to at least `high`, steps of 1, 2 or 5 times a power of ten, at most `most` + 1 of them. */
export function linearTicks(high, most = 4) {
  if (!(high > 0)) return [0, 1];
  const raw = high / most;
  const decade = 10 ** Math.floor(Math.log10(raw) + 1e-9);
  const step = decade * [1, 2, 5, 10].find((by) => by * decade >= raw * (1 - 1e-9));
  const count = Math.ceil(high / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

/** Round values around low…high for a logarithmic axis: 1, 2, 5, 10 …; decades alone where there are many. */
export function decadeTicks(low, high, most = 6) {
  const all = [];
  for (let e = Math.floor(Math.log10(low) + 1e-9); e <= Math.ceil(Math.log10(high) - 1e-9); e++)
    for (const by of [1, 2, 5]) all.push(Number((by * 10 ** e).toPrecision(12)));
  const from = all.findLastIndex((tick) => tick <= low * (1 + 1e-9));
  const to = all.findIndex((tick) => tick >= high * (1 - 1e-9));
  const fine = all.slice(from, Math.max(to, from + 1) + 1);
  if (fine.length <= most) return fine;
  const first = Math.floor(Math.log10(low) + 1e-9);
  const last = Math.max(first + 1, Math.ceil(Math.log10(high) - 1e-9));
  const apart = Math.ceil((last - first) / (most - 1));
  return Array.from({ length: Math.ceil((last - first) / apart) + 1 }, (_, i) =>
    Number((10 ** (first + i * apart)).toPrecision(12)),
  );
}

/**
 * An axis for these values: {log, low, high, ticks, at}; `at(value)` runs from 0 to 1.
 * `scale` is "linear" (from 0), "log", or "auto": logarithmic once the values differ more than eightfold.
 * It ends at a round value; a `tight` one, always linear, at the largest.
 */
export function axisFor(values, { scale = "auto", most = 4, tight = false } = {}) {
  const known = Array.from(values).filter(Number.isFinite);
  const low = known.reduce((a, b) => Math.min(a, b), Infinity);
  const high = known.reduce((a, b) => Math.max(a, b), -Infinity);
  const log = known.length > 0 && low > 0 && (scale === "log" || (scale === "auto" && high > 8 * low));
  if (tight && high > 0)
    return {
      log: false,
      low: 0,
      high,
      ticks: linearTicks(high, most).filter((tick) => tick <= high),
      at: (v) => v / high,
    };
  const ticks = log ? decadeTicks(low, high) : linearTicks(high, most);
  const [first, last] = [ticks[0], ticks.at(-1)];
  const at = log ? (v) => Math.log(v / first) / Math.log(last / first) : (v) => (v - first) / (last - first);
  return { log, low: first, high: last, ticks, at };
}

/** The d of a path through the points; a value that is no number, or that a log axis cannot show, leaves a gap. */
export function linePath(xs, ys, x, y) {
  let path = "";
  let pen = "M";
  for (let i = 0; i < xs.length; i++) {
    const [across, down] = [x(xs[i]), y(ys[i])];
    if (Number.isFinite(across) && Number.isFinite(down)) {
      path += `${pen}${across.toFixed(1)} ${down.toFixed(1)}`;
      pen = "L";
    } else pen = "M";
  }
  return path;
}

/** Move labels apart: each at least `gap` from the next, all within low…high where they fit, order kept. */
export function dodge(wanted, gap, low, high) {
  const order = wanted.map((_, i) => i).toSorted((a, b) => wanted[a] - wanted[b] || a - b);
  const placed = [];
  let floor = low;
  for (const i of order) {
    placed[i] = Math.max(wanted[i], floor);
    floor = placed[i] + gap;
  }
  let ceiling = high;
  for (const i of order.toReversed()) {
    placed[i] = Math.min(placed[i], ceiling);
    ceiling = placed[i] - gap;
  }
  return placed;
}

/** Heights of the labels at line ends: only those of lines that end within `near` of each other make room. */
export function endPlaces(across, heights, near, [low, high]) {
  const order = across.map((_, i) => i).toSorted((a, b) => across[a] - across[b]);
  const groups = [];
  for (const i of order) {
    const last = groups.at(-1);
    if (last && across[i] - across[last.at(-1)] < near) last.push(i);
    else groups.push([i]);
  }
  const placed = [];
  for (const group of groups)
    dodge(
      group.map((i) => heights[i]),
      12,
      low,
      high,
    ).forEach((place, n) => (placed[group[n]] = place));
  return placed;
}

/** Colour and dash of the line with this number: 42 pairs before one comes again. */
export function lineLook(number) {
  return { colour: number % LINE_COLOURS, dash: LINE_DASHES[number % LINE_DASHES.length] };
}

/** A short piece of the line, for legends. */
export function lineSample(number) {
  const { colour, dash } = lineLook(number);
  return svg(
    "svg",
    { class: `saekit-sample saekit-hue-${colour}`, viewBox: "0 0 28 8", width: 28, height: 8, "aria-hidden": "true" },
    svg("line", { class: "saekit-line", x1: 0, x2: 28, y1: 4, y2: 4, "stroke-dasharray": dash || null }),
  );
}

/**
 * Lines over a common x axis from 0 to `xHigh`. `series` is [{name, number, xs, ys}]; `words` says the chart in a
 * sentence; `ticksAs` writes the values of the y axis; at `mark` stands a dotted line. The name stands at the end of
 * each line.
 */
export function lineChart({ series, words, xLabel, xHigh = 0, scale = "auto", ticksAs = short, mark = null }) {
  const { width, height, left, right, top, bottom } = LINE_BOX;
  const drawn = series.filter(({ xs }) => xs.length);
  const across = axisFor([xHigh, ...drawn.map(({ xs }) => xs.at(-1))], { most: 3, tight: true });
  const up = axisFor(
    drawn.flatMap(({ ys }) => Array.from(ys)),
    { scale },
  );
  const x = (value) => left + across.at(value) * (width - left - right);
  const y = (value) => height - bottom - up.at(value) * (height - top - bottom);
  const ends = drawn.map(({ ys }) => y(Array.from(ys).findLast((v) => Number.isFinite(v) && (!up.log || v > 0))));
  const places = endPlaces(
    drawn.map(({ xs }) => x(xs.at(-1))),
    ends.map((end) => (Number.isFinite(end) ? end : height - bottom)),
    right,
    [top + 3, height - bottom],
  );
  return svg(
    "svg",
    { class: "saekit-chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
    ...up.ticks.map((tick) =>
      svg(
        "g",
        {},
        svg("line", { class: "saekit-rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 5, y: y(tick) + 3.5, "text-anchor": "end" }, drawn.length ? ticksAs(tick) : ""),
      ),
    ),
    ...across.ticks.map((tick, i) =>
      svg(
        "text",
        { x: x(tick), y: height - bottom + 13, "text-anchor": i ? "middle" : "start" },
        drawn.length ? short(tick) : "",
      ),
    ),
    svg(
      "text",
      { class: "saekit-axis-name", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" },
      xLabel,
    ),
    mark === null
      ? null
      : svg("line", { class: "saekit-chart-mark", x1: x(mark), x2: x(mark), y1: top, y2: height - bottom }),
    up.log ? svg("text", { x: width - right, y: top + 11, "text-anchor": "end" }, "log scale") : null,
    ...drawn.map(({ name, number, xs, ys }, i) => {
      const { colour, dash } = lineLook(number);
      const cut = name.length > LETTERS ? `${name.slice(0, LETTERS - 1)}…` : name;
      const end = x(xs.at(-1));
      return svg(
        "g",
        { class: `saekit-hue-${colour}` },
        svg("path", { class: "saekit-line", d: linePath(xs, ys, x, y), "stroke-dasharray": dash || null }),
        Number.isFinite(ends[i]) ? svg("circle", { class: "saekit-end", cx: end, cy: ends[i], r: 2.6 }) : null,
        svg("path", {
          class: "saekit-leader",
          d: `M${end + 3} ${Number.isFinite(ends[i]) ? ends[i] : places[i]}L${end + 8} ${places[i]}`,
        }),
        svg("text", { class: "saekit-label", x: end + 10, y: places[i] + 3.5 }, svg("title", {}, name), cut),
      );
    }),
  );
}

/**
 * Bars of counts over a common axis, and one bar apart at the left for what the axis cannot show.
 * `ticks` is [{at, label}] with `at` from 0 to 1 along the counts.
 */
export function barChart({ counts, apart, number, words, ticks, xLabel }) {
  const { width, height, left, right, top, bottom } = BAR_BOX;
  const up = axisFor([...counts, apart.count], { scale: "linear" });
  const y = (value) => height - bottom - up.at(value) * (height - top - bottom);
  const start = left + 50;
  const slot = (width - right - start) / counts.length;
  const bar = (x, wide, count) => {
    const tall = count ? Math.max(1, height - bottom - y(count)) : 0;
    return svg("rect", { x, y: height - bottom - tall, width: wide, height: tall });
  };
  return svg(
    "svg",
    { class: "saekit-chart saekit-chart-of-bars", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
    ...up.ticks.map((tick) =>
      svg(
        "g",
        {},
        svg("line", { class: "saekit-rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 5, y: y(tick) + 3.5, "text-anchor": "end" }, short(tick)),
      ),
    ),
    svg("g", { class: "saekit-bars saekit-apart" }, bar(left + 6, 16, apart.count)),
    svg("text", { x: left + 14, y: height - bottom + 13, "text-anchor": "middle" }, apart.label),
    svg(
      "g",
      { class: `saekit-bars saekit-hue-${lineLook(number).colour}` },
      ...counts.map((count, i) => bar(start + i * slot, Math.max(1, slot - 0.75), count)),
    ),
    ...ticks.map(({ at, label }) =>
      svg("text", { x: start + at * slot * counts.length, y: height - bottom + 13, "text-anchor": "middle" }, label),
    ),
    svg(
      "text",
      { class: "saekit-axis-name", x: (start + width - right) / 2, y: height - 4, "text-anchor": "middle" },
      xLabel,
    ),
  );
}
