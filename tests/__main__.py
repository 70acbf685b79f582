"""Everything that CI runs: JavaScript, Python and browser tests, then every notebook, cell by cell: `make test`.

Without Node or Chromium their layers are skipped and one line says so. With SAEKIT_REQUIRE_BROWSER=1 or
SAEKIT_REQUIRE_NODE=1 (CI) their absence is a failure.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOK_SECONDS = 120


def javascript() -> bool:
    """Run the pure functions of the front-end under node's own test runner."""
    files = sorted(str(f) for f in (ROOT / "tests/widgets").glob("*.test.mjs"))
    if not shutil.which("node"):
        print("JavaScript tests skipped: no node on PATH", flush=True)
        return os.environ.get("SAEKIT_REQUIRE_NODE") != "1"
    return subprocess.run(["node", "--test", *files], cwd=ROOT, check=False).returncode == 0


def python() -> bool:
    """Run unit and browser tests."""
    if not (os.environ.get("SAEKIT_CHROMIUM") or shutil.which("chromium")):
        print("Browser tests skipped: no chromium on PATH", flush=True)
        if os.environ.get("SAEKIT_REQUIRE_BROWSER") == "1":
            return False
    command = [sys.executable, "-m", "pytest", "-q", "--durations=10", "tests"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def notebook(path: Path) -> bool:
    """Execute one notebook and compare every cell with its stored output."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=300"]
    command += ["--nbval-sanitize-with", "notebooks/nbval.cfg", "-W", "default", str(path.relative_to(ROOT))]
    passed = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    seconds = time.perf_counter() - start
    print(f"{path.name}: {seconds:.0f} s of at most {NOTEBOOK_SECONDS} s", flush=True)
    if seconds > NOTEBOOK_SECONDS:
        print(f"{path.name} is over its budget", flush=True)
    return passed and seconds <= NOTEBOOK_SECONDS


def models() -> bool:
    """Fetch and convert the model before anything is timed."""
    code = "from saekit.models import load_model; load_model(progress=False)"
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Run every layer, even after a failure, and say which failed."""
    layers = {"JavaScript": javascript, "model": models}
    layers |= {path.name: lambda path=path: notebook(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    layers |= {"Python": python}
    failed = [name for name, run in layers.items() if not run()]
    print(f"FAILED: {', '.join(failed)}" if failed else "all layers passed", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
