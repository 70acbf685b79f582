// Of the circuit view, what needs no page: places of nodes, moves between them, words, the record that is exported.
import { grouped, sig, signed, visible } from "../_shared/lib.js";

export const ERROR_NODE = -1; // the feature number of a reconstruction error
export const PICTURE = { pitch: 38, row: 38, left: 92, top: 52, foot: 46, gap: 14 };

/**
 * Places of nodes: positions across, layers upwards, within a cell the strongest first (`kept` is in order of rank).
 * {width, height, nodes: [[x, y]], bands: [[y, height]] from the lowest layer, columns: [x], output: [x, y]}
 */
export function layoutCircuit(kept, layers, positions) {
  const { pitch, row, left, top, foot, gap } = PICTURE;
  const cells = new Map();
  kept.forEach((node, i) => {
    const key = node.layer * positions + node.position;
    cells.set(key, [...(cells.get(key) ?? []), i]);
  });
  const most = Math.max(1, ...[...cells.values()].map((cell) => cell.length));
  const across = Math.min(6, Math.max(2, Math.ceil(Math.sqrt(most))));
  const wide = across * pitch + gap;
  const bands = [];
  let y = top;
  for (let layer = layers - 1; layer >= 0; layer--) {
    const inLayer = [...cells].filter(([key]) => Math.floor(key / positions) === layer);
    const rows = Math.max(1, ...inLayer.map(([, cell]) => Math.ceil(cell.length / across)));
    bands[layer] = [y, rows * row + 2 * gap];
    y += bands[layer][1] + gap;
  }
  const columns = Array.from({ length: positions }, (_, position) => left + wide * (position + 0.5));
  const nodes = [];
  for (const [key, cell] of cells) {
    const [from, tall] = bands[Math.floor(key / positions)];
    const rows = Math.ceil(cell.length / across);
    cell.forEach((number, place) => {
      const down = Math.floor(place / across);
      const here = Math.min(across, cell.length - down * across);
      const x = columns[key % positions] + ((place % across) - (here - 1) / 2) * pitch;
      nodes[number] = [x, from + tall / 2 + (down - (rows - 1) / 2) * row];
    });
  }
  return {
    width: left + wide * positions + gap,
    height: y + foot,
    nodes,
    bands,
    columns,
    output: [left + (wide * positions) / 2, top / 2],
  };
}

/** Numbers of the nodes in a circuit of `size` features, with the error nodes where they are kept. */
export function keptNumbers(nodes, size, errors) {
  const numbers = nodes.map((_, i) => i);
  const features = numbers.filter((i) => nodes[i].feature !== ERROR_NODE).slice(0, size);
  return [...features, ...numbers.filter((i) => nodes[i].feature === ERROR_NODE && errors === "kept")];
}

/** Edges among these nodes, and from each node of the highest layer to the logit difference (target null). */
export function keptEdges(edges, nodes, numbers, layers) {
  const kept = new Set(numbers);
  const inner = edges.filter(([source, target]) => kept.has(source) && kept.has(target));
  const last = numbers.filter((i) => nodes[i].layer === layers - 1).map((i) => [i, null, nodes[i].effect]);
  return [...inner, ...last].toSorted((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
}

/** The area of a node follows its effect. */
export function nodeRadius(effect, largest) {
  return largest > 0 ? 6 + 8 * Math.sqrt(Math.abs(effect) / largest) : 6;
}

/** What a node is called. */
export function nodeTitle(node) {
  return node.feature === ERROR_NODE ? "reconstruction error" : `feature ${node.feature}`;
}

/** Where a node is. */
export function nodePlace(node, facts) {
  return `${facts.hooks[node.layer]} at ${facts.positions[node.position]}`;
}

/** What an effect means. */
export function effectWords(effect) {
  const does = effect > 0 ? "supports the answer" : effect < 0 ? "works against the answer" : "does nothing";
  return `${signed(effect)} logits: ${does}`;
}

/** The layer of a hook point in few letters. */
export function shortHook(hook) {
  const [blocks, number, point, more] = hook.split(".");
  if (blocks !== "blocks" || !point || more !== undefined) return hook;
  return `layer ${number}${point.endsWith("pre") ? " (in)" : ""}`;
}

/**
 * The node to which a key moves from the node `at`, null when the key is not ours: left and right along a layer,
 * up and down to the nearest node of the next layer that has any, Home and End to the ends of the layer.
 */
export function nextNode(key, at, kept, places) {
  const inLayer = (layer) =>
    kept
      .map((_, i) => i)
      .filter((i) => kept[i].layer === layer)
      .toSorted(
        (a, b) => kept[a].position - kept[b].position || places[a][1] - places[b][1] || places[a][0] - places[b][0],
      );
  if (!kept[at]) return null;
  const here = inLayer(kept[at].layer);
  const along = here.indexOf(at);
  const moves = { ArrowRight: along + 1, ArrowLeft: along - 1, Home: 0, End: here.length - 1 };
  if (key in moves) return here[Math.min(here.length - 1, Math.max(0, moves[key]))];
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const by = key === "ArrowUp" ? 1 : -1;
  const layers = [...new Set(kept.map((node) => node.layer))].filter((layer) => (layer - kept[at].layer) * by > 0);
  if (!layers.length) return at;
  const target = by > 0 ? Math.min(...layers) : Math.max(...layers);
  const far = (i) => Math.abs(places[i][0] - places[at][0]);
  return inLayer(target).reduce((best, i) => (far(i) < far(best) ? i : best));
}

/** What was measured of a circuit, or undefined. */
export function pointOf(measured, size, errors) {
  return measured.find((point) => point.size === size && point.errors === errors);
}

/** A measured share: two decimals and a real minus; nothing known is a dash. */
export function shareText(value) {
  return value === null || value === undefined ? "–" : value.toFixed(2).replace("-", "−");
}

/** What faithfulness refers to, in a sentence. */
export function measuredWords(facts, levels) {
  const same = facts.same_prompts ? ", those by which the circuit was found" : "";
  const on = `Measured on ${grouped(facts.prompts)} prompts${same}`;
  if (levels?.model === undefined) return `${on}.`;
  const ends = `${signed(levels.model)} of the model (1), ${signed(levels.nothing)} with nothing kept (0)`;
  return `${on}: logit difference ${ends}.`;
}

/** How much of the gap the effects of each layer account for. */
export function accountedWords(facts) {
  if (!facts.accounted) return "";
  const shares = facts.hooks.map(
    (hook, i) =>
      `${shortHook(hook)} ${facts.accounted[i] === null ? "–" : `${Math.round(100 * facts.accounted[i])} %`}`,
  );
  return (
    `Effects are first-order estimates, mean of ${grouped(facts.pairs)} pairs; ` +
    `errors and other positions included they account for ${shares.join(", ")} ` +
    `of the gap of ${signed(facts.gap)} logits between clean and corrupted prompts.`
  );
}

/** The strongest edges at a node: {from: [[number, weight]], to: [[number, weight]]}; a target null is the output. */
export function edgesAt(edges, number, most = 4) {
  return {
    from: edges
      .filter(([, target]) => target === number)
      .slice(0, most)
      .map(([source, , weight]) => [source, weight]),
    to: edges
      .filter(([source]) => source === number)
      .slice(0, most)
      .map(([, target, weight]) => [target, weight]),
  };
}

/** The number of the node that a value names, -1 where it is none of these. */
export function nodeOfValue(value, nodes, facts) {
  if (!value) return -1;
  const [hook, position, feature] = value;
  return nodes.findIndex(
    (node) =>
      facts.hooks[node.layer] === hook && facts.positions[node.position] === position && node.feature === feature,
  );
}

/** The value that names a node. */
export function valueOfNode(node, facts) {
  return [facts.hooks[node.layer], facts.positions[node.position], node.feature];
}

/** Points of the curve of one kind of errors, by size. */
export function curvePoints(measured, errors) {
  return measured
    .filter((point) => point.errors === errors && point.faithfulness !== null)
    .toSorted((a, b) => a.size - b.size);
}

/** The curve in a sentence, for those who do not see it. */
export function curveText(points, errors) {
  const said = points.map(
    ({ size, faithfulness, completeness }) =>
      `${grouped(size)} features ${shareText(faithfulness)} and ${shareText(completeness)}`,
  );
  return `Faithfulness and completeness by number of features, errors ${errors}: ${said.join("; ")}`;
}

/** The circuit that is shown as plain data, the same as `Circuit.to_json` in Python. */
export function circuitRecord({ facts, nodes, edges, size, errors, measured }) {
  const kept = keptNumbers(nodes, size, errors);
  const point = pointOf(measured, size, errors);
  const named = (i) => valueOfNode(nodes[i], facts);
  return {
    task: facts.task,
    hook_names: facts.hooks,
    positions: facts.positions,
    gap: facts.gap ?? null,
    size,
    errors,
    faithfulness: point?.faithfulness ?? null,
    completeness: point?.completeness ?? null,
    nodes: kept.map((i) => ({ node: named(i), effect: nodes[i].effect })),
    edges: edges
      .filter(([source, target]) => kept.includes(source) && kept.includes(target))
      .map(([source, target, weight]) => ({ source: named(source), target: named(target), weight })),
  };
}

/** Facts of a context list: what the values are relative to. */
export function contextWords(found) {
  if (!found) return "No contexts: the view was given no index of this layer.";
  if (found.dead || !found.rows.length) return "Never active on the corpus of the index: it has no contexts.";
  return `Top contexts, of at most ${sig(found.max)}`;
}

/** Text with its spaces as spaces, where lines can break; other whitespace as marks. */
export function spacedText(text) {
  return text.split(" ").map(visible).join(" ");
}
