"""Everything that CI runs: JavaScript, Python and browser tests, then every notebook, cell by cell: `make test`.

Without Node or Chromium their layers are skipped and one line says so; with SAEKIT_REQUIRE_NODE=1 or
SAEKIT_REQUIRE_BROWSER=1 (CI) that is a failure.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOK_SECONDS = 120
REQUIRE_NODE = os.environ.get("SAEKIT_REQUIRE_NODE") == "1"
REQUIRE_BROWSER = os.environ.get("SAEKIT_REQUIRE_BROWSER") == "1"


def javascript() -> bool:
    """Test the front-end's pure functions with node's own test runner."""
    files = sorted(str(file) for file in (ROOT / "tests/widgets").glob("*.test.mjs"))
    node = find_node()
    if node is None:
        say("JavaScript tests skipped: no Node 20.19 or newer")
        return not REQUIRE_NODE
    return run(node, "--test", "--test-reporter=dot", *files)


def find_node() -> str | None:
    """Return the node on PATH if it can run .js modules without a package.json, else playwright's, else None."""
    on_path = shutil.which("node")
    if on_path:
        version = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=False).stdout
        if tuple(int(n) for n in version.strip().lstrip("v").split(".")[:2] if n.isdigit()) >= (20, 19):
            return on_path
    spec = importlib.util.find_spec("playwright")
    folder = Path(spec.origin).parent / "driver" if spec and spec.origin else ROOT
    return next((str(path) for path in (folder / "node", folder / "node.exe") if path.is_file()), None)


def python() -> bool:
    """Run the unit and the browser tests."""
    if not (os.environ.get("SAEKIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")):
        say("Browser tests skipped: no chromium on PATH, and SAEKIT_CHROMIUM does not name one")
        if REQUIRE_BROWSER:
            return False
    return run(sys.executable, "-m", "pytest", "--quiet", "--durations=10", "tests")


def model() -> bool:
    """Fetch and convert the model, so that no notebook's time has it in it."""
    code = "import saekit; saekit.load_model(progress=False)"
    return run(sys.executable, "-W", "ignore", "-c", code)


def notebook(path: Path) -> bool:
    """Execute one notebook and compare every cell with its stored output."""
    start = time.perf_counter()
    passed = run(
        sys.executable, "-m", "pytest", "--quiet", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=120",
        "--nbval-sanitize-with=notebooks/nbval.cfg", "-W", "default", str(path.relative_to(ROOT)),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    say(f"{path.name}: {seconds:.0f} s of at most {NOTEBOOK_SECONDS} s")
    return passed and seconds <= NOTEBOOK_SECONDS


def run(*command: str) -> bool:
    """Run a command in the repository, its output passed through; return whether it succeeded."""
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def say(line: str) -> None:
    """Print at once, in order with what the commands print."""
    print(line, flush=True)


def main() -> int:
    """Run every layer, also after a failure, and say which failed."""
    layers: dict[str, Callable[[], bool]] = {"JavaScript": javascript}
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if notebooks:
        layers["model"] = model
    layers |= {path.name: partial(notebook, path) for path in notebooks}
    start = time.perf_counter()
    failed = []
    for name, layer in layers.items():
        say(f"--- {name}")
        if not layer():
            failed.append(name)
    say(f"--- {time.perf_counter() - start:.0f} s; " + (f"FAILED: {', '.join(failed)}" if failed else "all passed"))
    say("--- Python")  # the last layer, so that pytest's closing line ends the log
    passed = python()
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
