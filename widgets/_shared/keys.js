// Keys: which are ours, and where they lead.

/** Keep plain keys inside the view: in JupyterLab's command mode `b` adds a cell and `d d` deletes one. */
export function keepKeys(root) {
  root.addEventListener("keydown", (event) => {
    const leaves = event.key === "Tab" || event.key === "Escape" || hasModifier(event);
    if (!leaves) event.stopPropagation();
  });
}

/** Whether a key was pressed together with one that makes it somebody else's. */
export function hasModifier(event) {
  return event.ctrlKey || event.metaKey || event.altKey;
}

/** Next index for an arrow, Home or End key, or null when the key is not ours. */
export function stepTo(key, index, count) {
  const moves = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: count - 1 };
  return key in moves ? Math.min(count - 1, Math.max(0, moves[key])) : null;
}

/** Where an arrow, Home or End key leads in a table of rows × columns; null when the key is not ours. */
export function stepInTable(key, [row, column], rows, columns) {
  const inside = (value, count) => Math.min(count - 1, Math.max(0, value));
  const moves = {
    ArrowRight: [row, column + 1],
    ArrowLeft: [row, column - 1],
    ArrowDown: [row + 1, column],
    ArrowUp: [row - 1, column],
    Home: [row, 0],
    End: [row, columns - 1],
  };
  return key in moves ? [inside(moves[key][0], rows), inside(moves[key][1], columns)] : null;
}
