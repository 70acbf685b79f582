"""Every notebook keeps the rules of CONTRIBUTING.md: executed, stored with outputs, of one form, readable.

Whether its outputs are right is another test: nbval executes it again and compares cell by cell.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest

from saekit.exercises import EXERCISES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_LINES = 15
FORBIDDEN = {
    "installs packages": r"pip\s+install|conda\s+install",
    "uses an Output widget or interact, which nbval and screen readers do not see": r"\b(Output|interact)\s*\(",
    "names this machine": r"/home/|/root/|/tmp/|C:\\",
    "seeds globally": r"(np|numpy)\.random\.seed|torch\.manual_seed",
}
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def nb(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]


def code_lines(cell):
    """Return the lines that hold code: no blank lines, no comments of their own."""
    return [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]


def anchors(nb):
    """Return what JupyterLab and GitHub make of the headings: `## Try it` is reached as #Try-it and as #try-it."""
    texts = (cell.source for cell in nb.cells if cell.cell_type == "markdown")
    headings = [h for text in texts for h in re.findall(r"^#+\s+(.+?)\s*$", text, re.MULTILINE)]
    dashed = {heading.replace(" ", "-") for heading in headings}
    return dashed | {re.sub(r"[^\w-]", "", anchor).lower() for anchor in dashed}


def test_numbers_are_unique():
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert len(numbers) == len(set(numbers))
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in NOTEBOOKS)


def test_no_widget_state_is_stored(nb):
    assert "widgets" not in nb.metadata


def test_every_cell_was_executed_in_order_and_without_error(nb):
    cells = code_cells(nb)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    for cell in cells:
        kinds = {output.output_type for output in cell.outputs}
        assert "error" not in kinds or "raises-exception" in cell.metadata.get("tags", []), cell.source
        assert not any(output.get("name") == "stderr" for output in cell.outputs), cell.source


def test_every_view_has_a_still_picture(nb):
    for cell in code_cells(nb):
        for output in cell.outputs:
            data = output.get("data", {})
            if "application/vnd.jupyter.widget-view+json" in data:
                assert "<div" in data.get("text/html", ""), cell.source


def test_every_picture_has_alternative_text(nb):
    for cell in code_cells(nb):
        for output in cell.outputs:
            if {"image/png", "image/svg+xml"} & set(output.get("data", {})):
                stored = [part.get("alt") for part in output.metadata.values() if isinstance(part, dict)]
                inline = re.search(r"<svg[^>]*aria-label=|<title>", str(output.data.get("image/svg+xml", "")))
                assert cell.metadata.get("alt") or any(stored) or inline, cell.source


def test_ids_are_numbered_so_that_diffs_stay_small(nb):
    assert [cell.id for cell in nb.cells] == [f"cell-{number:03}" for number in range(len(nb.cells))]


def test_the_header_has_the_one_form(nb):
    header = nb.cells[0]
    assert header.cell_type == "markdown"
    lines = [line for line in header.source.splitlines() if line.strip()]
    assert lines[0].startswith("# ")
    assert re.fullmatch(r"\*\*.+\*\*", lines[1]), "the second line is the promise, in bold"
    assert "You will be able to" in header.source
    assert len(re.findall(r"^- ", header.source, re.MULTILINE)) >= 2
    table = [cell.strip() for cell in "|".join(line for line in lines if line.startswith("|")).split("|")]
    assert {"needs", "time to read", "time to run", "seed"} <= set(table)
    titles = [cell.source for cell in nb.cells if re.match(r"# ", cell.source) and cell.cell_type == "markdown"]
    assert len(titles) == 1, "one title; the sections are ##"


def test_cells_are_short(nb):
    long = {cell.id: len(code_lines(cell)) for cell in code_cells(nb) if len(code_lines(cell)) > MOST_LINES}
    assert long == {}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_cell_does_what_is_forbidden(nb, what):
    found = [cell.id for cell in code_cells(nb) if re.search(FORBIDDEN[what], cell.source)]
    assert found == [], what


def test_solutions_are_collapsed(nb):
    for cell in nb.cells:
        if "solution" in cell.metadata.get("tags", []):
            assert cell.metadata.get("jupyter", {}).get("source_hidden") is True, cell.id


def test_no_stored_output_shows_a_solution(nb):
    """Whoever scrolls, or opens an exported page, has not asked for it."""
    for cell in code_cells(nb):
        shown = [name for name in EXERCISES if f"def {name}(" in json.dumps(cell.outputs)]
        assert shown == [], cell.id


def test_links_resolve(nb, path):
    broken = []
    for cell in nb.cells:
        for target in LINK.findall(cell.source) if cell.cell_type == "markdown" else []:
            if target.startswith(("https://", "attachment:")):
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            if not there.exists() or not there.is_relative_to(ROOT):
                broken.append(target)
            elif anchor and there.suffix == ".ipynb":
                known = anchors(nbformat.read(there, as_version=4))
                broken += [] if anchor in known else [target]
    assert broken == []


def test_the_readme_lists_every_notebook():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in readme] == []
