"""The package keeps its shape: files and bodies stay readable, hooks stand in one room, nothing prints or pickles.

Who may import whom is held by import-linter: `[tool.importlinter]` in pyproject.toml, run by `make lint`.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "saekit"
FILES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
MOST_LINES = 450
MOST_BODY_LINES = 60  # without the docstring
ROOMS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
HOOKING = re.compile(r"register_(full_)?(forward|backward)_(pre_)?hook|add_hook\(|\.hooks\(|run_with_(hooks|cache)")


def test_nothing_lies_outside_a_room_but_the_ground_floor():
    flat = {file for file in FILES if "/" not in file}
    assert flat <= {"__init__.py", "errors.py", "superposition.py", "fetch.py", "doctor.py"}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_room_says_what_it_is_for(room):
    assert ast.get_docstring(ast.parse(FILES[f"{room}/__init__.py"]))


@pytest.mark.parametrize("file", sorted(FILES))
def test_files_stay_readable(file):
    assert FILES[file].count("\n") <= MOST_LINES


@pytest.mark.parametrize("file", sorted(FILES))
def test_bodies_stay_readable(file):
    for node in ast.walk(ast.parse(FILES[file])):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= MOST_BODY_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("file", sorted(FILES))
def test_no_rule_against_named_lambdas_is_switched_off(file):
    assert "noqa: E731" not in FILES[file]


@pytest.mark.parametrize("file", sorted(FILES))
def test_nothing_prints_pickles_or_seeds_globally(file):
    if file == "fetch.py":
        return  # a command: it prints
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(FILES[file])) if isinstance(node, ast.Call)]
    global_seeds = re.compile(r"torch\.manual_seed|(np|numpy)\.random\.seed|random\.seed")
    assert [name for name in calls if global_seeds.fullmatch(name)] == []
    assert [name for name in calls if name in ("print", "torch.load", "torch.save", "np.save", "np.load", "exec")] == []
    assert (
        re.findall(r"^\s*(?:import|from) (?:pickle|dill|cloudpickle|joblib|shelve)\b", FILES[file], re.MULTILINE) == []
    )


def test_there_is_no_utils_module():
    assert [file for file in FILES if re.search(r"util|helper|misc|common", file)] == []


@pytest.mark.parametrize("file", sorted(FILES))
def test_only_the_models_room_puts_hooks_on_a_model(file):
    if not file.startswith("models/"):
        assert HOOKING.findall(FILES[file]) == []
