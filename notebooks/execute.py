"""Run every notebook and store its outputs, ready to commit: `python notebooks/execute.py [names]`."""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
# Outputs are stored, and compared (conftest.py), with as many threads whatever the machine has: sums of floats depend
# on how they are split, and a training run that starts with another last digit ends elsewhere. Waiting threads sleep,
# so that several notebooks can run side by side.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
THREADS |= {"OMP_WAIT_POLICY": "passive"}


def execute(path: Path) -> float:
    """Run one notebook and store it with its outputs; return the seconds it took.

    A cell that raises ends the run, and the file stays as it was.
    """
    nb = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    resources = {"metadata": {"path": str(HERE)}}
    NotebookClient(nb, timeout=600, kernel_name="python3", resources=resources, coalesce_streams=True).execute()
    seconds = time.perf_counter() - start
    clean(nb)
    nbformat.validate(nb)
    draft = path.with_suffix(".ipynb.part")
    nbformat.write(nb, draft)
    draft.replace(path)
    return seconds


def clean(nb: nbformat.NotebookNode) -> None:
    """Take out what differs from run to run, and what hides the views where there is no kernel."""
    # Stored widget state would hide the views' own HTML on GitHub and in nbconvert. It is dropped after the run:
    # nbclient 0.11 fails on an Output widget when it is told not to store any.
    nb.metadata.pop("widgets", None)
    nb.metadata.pop("language_info", None)  # the Python version of this machine
    for number, cell in enumerate(nb.cells):
        cell.id = f"cell-{number:03}"
        cell.metadata.pop("execution", None)  # wall-clock times
        if cell.cell_type != "code":
            continue
        # What goes to stderr (a library's warning about this machine) is no part of a notebook.
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
            if view:
                view["model_id"] = f"view-{number:03}"
            if "image/png" in output.get("data", {}) and "alt" in cell.metadata:
                output.metadata.setdefault("image/png", {})["alt"] = cell.metadata.alt  # where nbconvert looks for it


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all."""
    paths = [HERE / Path(name).name for name in names] or sorted(HERE.glob("*.ipynb"))
    # The kernel imports this checkout, installed or not.
    os.environ.update(THREADS)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    for path in paths:
        print(f"{path.name}: {execute(path):.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
