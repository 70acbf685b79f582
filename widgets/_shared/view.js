// What every view does with its model.

/** Call `draws[trait]`, a function or several, when a trait changes; returns what ends that. */
export function wire(model, draws) {
  const wired = Object.entries(draws).flatMap(([trait, all]) => [all].flat().map((one) => [`change:${trait}`, one]));
  for (const [event, one] of wired) model.on(event, one);
  return () => wired.forEach(([event, one]) => model.off(event, one));
}

/** Returns `set(trait, value)`, which changes a trait here and in the kernel; an equal value changes nothing. */
export function setterOf(model) {
  return (trait, value) => {
    if (value === model.get(trait)) return;
    model.set(trait, value);
    model.save_changes();
  };
}

/** Let a press of the button `go` compute or stop; returns `draw(kind)`, where kind is "start", "stop" or "". */
export function startOrStop(go, model) {
  const set = setterOf(model);
  go.addEventListener("click", () => {
    const counter = { start: "_starts", stop: "_stops" }[go.dataset.kind];
    if (counter) set(counter, model.get(counter) + 1);
  });
  return (kind) => {
    go.dataset.kind = kind;
    go.textContent = { stop: "Stop", start: "Compute", "": "Up to date" }[kind];
    // Not `disabled`: that would throw the focus out of the view, into JupyterLab's command mode.
    go.setAttribute("aria-disabled", String(!kind));
  };
}

/** What is under way, in words; "" where nothing is. */
export function doingWords(model) {
  return model.get("busy") ? `${model.get("_doing") || "at work"} …` : "";
}

/** Let the reader save a text as a file. */
export function saveAs(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
