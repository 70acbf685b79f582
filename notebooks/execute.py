"""Run every notebook and store its outputs, ready to commit: `python notebooks/execute.py [names]`."""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(path: Path) -> float:
    """Run one notebook in place and return the seconds it took. An error in a cell ends everything."""
    nb = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
    seconds = time.perf_counter() - start
    # Stored widget state would hide the views' own HTML wherever there is no kernel (GitHub, nbconvert).
    nb.metadata.pop("widgets", None)
    nb.metadata.pop("language_info", None)
    for number, cell in enumerate(nb.cells):
        cell.id = f"cell-{number:03}"
        cell.metadata.pop("execution", None)  # wall-clock times
        # What goes to stderr (a library's warning about this machine) is no part of a notebook.
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
            if view:
                view["model_id"] = f"view-{number:03}"
    draft = path.with_suffix(".ipynb.part")
    nbformat.write(nb, draft)
    draft.replace(path)
    return seconds


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    for name in sys.argv[1:] or sorted(p.name for p in HERE.glob("*.ipynb")):
        print(f"{name}: {execute(HERE / name):.1f} s")
