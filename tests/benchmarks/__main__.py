"""Run the benchmarks, write build/bench.json, print a table; end with 1 if a bound is broken."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from tests.benchmarks import bound_of

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "build" / "bench.json"


def collect(names: Iterable[str]) -> dict[str, float]:
    """Run the named bench modules, or all, and return their numbers as one flat dictionary."""
    results: dict[str, float] = {}
    for name in names or sorted(path.stem.removesuffix("_bench") for path in HERE.glob("*_bench.py")):
        for bench in import_module(f"tests.benchmarks.{name}_bench").BENCHES:
            start, before = time.perf_counter(), sum(os.times()[:4])  # with the processes that it starts
            print(f"{name}: {bench.__name__} ...", end=" ", flush=True)
            found = bench()
            wall, processor = time.perf_counter() - start, sum(os.times()[:4]) - before
            print(f"{wall:.0f} s ({processor:.0f} s of processor time)", flush=True)
            twice = sorted(found.keys() & results.keys())
            if twice:
                raise ValueError(f"{bench.__name__} gives keys that another bench gave already: {', '.join(twice)}")
            results |= {key: float(value) for key, value in found.items()}
    return results


def table(results: dict[str, float]) -> str:
    """Return the results as lines of text: keys with a bound first."""
    lines = []
    for key in sorted(results, key=lambda key: bound_of(key) is None):
        bound = bound_of(key)
        limit = f"{bound.sign} {bound.limit:g}" if bound else ""
        verdict = ("ok" if bound.holds(results[key]) else "BROKEN") if bound else ""
        lines.append(f"{key:32} {results[key]:10.4g}  {limit:8} {verdict:7} {bound.meaning if bound else ''}".rstrip())
    return "\n".join(lines)


def broken(results: dict[str, float]) -> list[str]:
    """Return the keys that do not keep their bound."""
    return [key for key, value in results.items() if (bound := bound_of(key)) and not bound.holds(value)]


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if a bound is broken. Numbers of benches that did not run this time stay in the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="bench modules without _bench.py, for example: import; default: all")
    names = parser.parse_args(arguments).names
    results = collect(names)
    earlier = json.loads(RESULTS.read_text(encoding="utf-8")) if names and RESULTS.is_file() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(earlier | results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{table(results)}\n\nwritten to {RESULTS}")
    if failed := broken(results):
        print(f"bounds broken: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
