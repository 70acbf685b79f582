"""The package keeps its shape: imports point downwards, files stay readable, nothing prints or pickles."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "saekit"
FILES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
MOST_LINES = 340
LONGER = {"index.py": 380}  # one class, half of it docstrings; may shrink, not grow
# A module may import from lower floors, and from its own as long as no circle arises. A private sibling
# (`_index_text`) stands with the module that it is a part of.
FLOORS = (
    ("errors", "_assets", "_cache", "_sources"),
    ("models", "_models", "saes", "_saes", "data", "_data", "_harvest"),
    ("index", "_index", "evaluation", "_evaluation"),
    (
        *("training", "_training", "attribution", "_attribution", "circuits", "_circuits", "steering", "_steering"),
        *("probes", "_probes", "superposition", "_superposition", "explain", "_explain", "vision", "_vision"),
    ),
    ("exercises", "_exercise"),
    ("views",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def floor(module: str) -> int:
    """Return the floor of the first part of a module's path, by its own name or by its family's."""
    return FLOOR[module] if module in FLOOR else FLOOR["_" + module.split("_")[1]]


def imports(source: str, *, for_types: bool = True) -> set[str]:
    """Return the first parts of all saekit modules that a file imports, wherever in the file."""
    found = set()
    tree = ast.parse(source)
    if not for_types:
        tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if TYPE_CHECKING:")]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full: from saekit.errors import ..."
            if node.module == "saekit":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("saekit."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("saekit.")}
    return found


def graph(*, for_types: bool) -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    found: dict[str, set[str]] = {}
    for file, source in FILES.items():
        if file != "__init__.py":
            module = file.split("/")[0].removesuffix(".py")
            found.setdefault(module, set()).update(imports(source, for_types=for_types) - {module})
    return found


GRAPH = graph(for_types=True)


def test_every_module_stands_on_a_floor():
    for module in GRAPH:
        assert 0 <= floor(module) < len(FLOORS)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_never_point_upwards(module):
    assert sorted(name for name in GRAPH[module] if floor(name) > floor(module)) == []


def test_no_circle_of_imports():
    left = graph(for_types=False)
    while left:
        free = [module for module, names in left.items() if not names & left.keys()]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for module in free:
            del left[module]


@pytest.mark.parametrize("file", sorted(FILES))
def test_files_stay_readable(file):
    assert FILES[file].count("\n") <= LONGER.get(file, MOST_LINES)


@pytest.mark.parametrize("file", sorted(FILES))
def test_nothing_prints_pickles_or_seeds_globally(file):
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(FILES[file])) if isinstance(node, ast.Call)]
    global_seeds = re.compile(r"torch\.manual_seed|(np|numpy)\.random\.seed|random\.seed")
    assert [name for name in calls if global_seeds.fullmatch(name)] == []
    assert [name for name in calls if name in ("print", "torch.load", "torch.save", "np.save", "np.load", "exec")] == []
    assert (
        re.findall(r"^\s*(?:import|from) (?:pickle|dill|cloudpickle|joblib|shelve)\b", FILES[file], re.MULTILINE) == []
    )


def test_there_is_no_utils_module():
    assert [file for file in FILES if re.search(r"util|helper|misc|common", file)] == []
