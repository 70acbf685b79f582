"""Everything that CI runs: `make test`. What the tests need is fetched first; what can run side by side does.

    python -m tests             # JavaScript tests, every notebook cell by cell, then all Python and browser tests
    python -m tests quick       # the Python tests that need no browser, no model and only seconds: `make check`
    python -m tests 04 07_st    # the notebooks whose names begin like this

There are as many processes as the machine has cores (four at most), each with one thread for its arithmetic, or with
the two with which the outputs of the notebooks were stored. Nothing fails for being slow; what took how long stands in
a table at the end, and in build/notebooks.json for the benchmarks.

Without Node or Chromium their layers are skipped and one line says so; with SAEKIT_REQUIRE_NODE=1 or
SAEKIT_REQUIRE_BROWSER=1 (CI) that is a failure.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOK_SECONDS = ROOT / "build" / "notebooks.json"
CELL_SECONDS = 600  # ends what hangs
AT_ONCE = min(os.cpu_count() or 1, 4)  # more would need more memory than a laptop has
REQUIRE_NODE = os.environ.get("SAEKIT_REQUIRE_NODE") == "1"
REQUIRE_BROWSER = os.environ.get("SAEKIT_REQUIRE_BROWSER") == "1"


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its name, whether it succeeded, how long it took and what it printed."""

    name: str
    passed: bool
    seconds: float
    output: str


def environment(scratch: str) -> dict[str, str]:
    """Return the environment of a process that runs beside others.

    Args:
        scratch: A folder of its own for what it leaves behind; two kernels would fight over one IPython history.
    """
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return os.environ | dict.fromkeys(threads, "1") | dict.fromkeys(("IPYTHONDIR", "TMPDIR"), scratch)


def javascript() -> list[str] | None:
    """Return the command that tests the front-end's pure functions with node's own test runner; None without node."""
    files = sorted(str(file) for file in (ROOT / "tests/widgets").glob("*.test.mjs"))
    node = find_node()
    return None if node is None else [node, "--test", "--test-reporter=dot", *files]


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


def notebook(path: Path) -> list[str]:
    """Return the command that executes a notebook and compares every cell with its stored output."""
    return [
        sys.executable, "-m", "pytest", "--quiet", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider",
        f"--nbval-cell-timeout={CELL_SECONDS}", f"--nbval-kernel-startup-timeout={CELL_SECONDS}",
        "--nbval-sanitize-with=notebooks/nbval.cfg", "-W", "default", str(path.relative_to(ROOT)),
    ]  # fmt: skip


def run(name: str, command: list[str]) -> Outcome:
    """Run a command in the repository beside others, and keep what it prints until it has ended."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="saekit-tests-") as scratch:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(scratch), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    return Outcome(name, done.returncode == 0, time.perf_counter() - start, done.stdout.decode(errors="replace"))


def side_by_side(commands: dict[str, list[str]]) -> list[Outcome]:
    """Run commands, as many at once as there are cores, and print what each has printed when it has ended."""
    outcomes = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in as_completed([pool.submit(run, name, command) for name, command in commands.items()]):
            outcome = future.result()
            say(f"--- {outcome.name}: {outcome.seconds:.0f} s{'' if outcome.passed else ', FAILED'}\n{outcome.output}")
            outcomes.append(outcome)
    return outcomes


def notebooks(prefixes: tuple[str, ...] = ("",)) -> dict[str, list[str]]:
    """Return the commands for the notebooks whose names begin like one of these; the slowest of last time first."""
    paths = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.stem.startswith(prefixes)]
    earlier = json.loads(NOTEBOOK_SECONDS.read_text(encoding="utf-8")) if NOTEBOOK_SECONDS.is_file() else {}
    return {path.stem: notebook(path) for path in sorted(paths, key=lambda path: -earlier.get(path.stem, float("inf")))}


def all_side_by_side() -> list[Outcome]:
    """Run all notebooks, the JavaScript tests, and a fixed piece of model work to compare the notebooks' times with."""
    commands = list(notebooks().items())
    work = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.notebooks_bench"]
    commands.insert(len(commands) // 2, ("model work", work))
    if (command := javascript()) is not None:
        commands.append(("JavaScript", command))
    outcomes = side_by_side(dict(commands))
    seconds = {outcome.name: round(outcome.seconds, 1) for outcome in outcomes}
    NOTEBOOK_SECONDS.parent.mkdir(exist_ok=True)
    NOTEBOOK_SECONDS.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")
    return outcomes


def python(*options: str) -> bool:
    """Run the unit and the browser tests, a file at a time in each process."""
    with tempfile.TemporaryDirectory(prefix="saekit-tests-") as scratch:
        command = [sys.executable, "-m", "pytest", "--quiet", f"--numprocesses={AT_ONCE}", "--dist=loadfile"]
        done = subprocess.run([*command, *options, "tests"], cwd=ROOT, env=environment(scratch), check=False)
    return done.returncode == 0


def say(line: str) -> None:
    """Print at once, in order with what the commands print."""
    print(line, flush=True)


def main(arguments: list[str]) -> int:
    """Run every layer, also after a failure, and say which failed; the Python tests last."""
    if arguments == ["quick"]:
        return 0 if python("-m", "not slow and not browser") else 1
    if arguments:
        outcomes = side_by_side(notebooks(tuple(name.removesuffix(".ipynb") for name in arguments)))
        return 0 if outcomes and all(outcome.passed for outcome in outcomes) else 1
    say("--- what the tests need")
    start = time.perf_counter()
    if subprocess.run([sys.executable, "-W", "ignore", "-m", "saekit.fetch"], cwd=ROOT, check=False).returncode:
        return 1  # what failed would fail for this one reason
    fetched = Outcome("fetching", True, time.perf_counter() - start, "")
    say(f"\n--- notebooks, {AT_ONCE} side by side")
    outcomes = [fetched, *all_side_by_side()]
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    if find_node() is None:
        say("JavaScript tests skipped: no Node 20.19 or newer")
        failed += ["JavaScript"] if REQUIRE_NODE else []
    if not (os.environ.get("SAEKIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")):
        say("Browser tests skipped: no chromium on PATH, and SAEKIT_CHROMIUM does not name one")
        failed += ["browser"] if REQUIRE_BROWSER else []
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.seconds):
        say(f"{outcome.name:32} {outcome.seconds:6.0f} s")
    say(f"--- {time.perf_counter() - start:.0f} s; " + (f"FAILED: {', '.join(failed)}" if failed else "all passed"))
    say("--- Python")  # the last layer, so that pytest's closing line ends the log
    passed = python("--durations=15")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
