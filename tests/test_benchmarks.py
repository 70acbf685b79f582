"""The benchmark runner: bounds are kept, variants share them, a broken one is an error."""

import json
from types import SimpleNamespace

import pytest

from tests.benchmarks import BOUNDS, __main__, bound_of

KEPT = {"import_over_torch": 1.5, "index_over_floor_16384": 1.0, "training_speedup": 5.0, "some_seconds": 1e9}
BROKEN = {
    "import_over_torch": 1.51,
    "index_over_floor_16384": 1.2,
    "training_speedup": 4.9,
    "index_view_ms": float("nan"),
}


@pytest.fixture
def bench_file(tmp_path, monkeypatch):
    monkeypatch.setattr(__main__, "RESULTS", tmp_path / "build" / "bench.json")
    return tmp_path / "build" / "bench.json"


def bench_modules(monkeypatch, **modules):
    """Pretend that these bench modules exist, each a list of results of its benches."""
    made = {
        f"tests.benchmarks.{name}_bench": SimpleNamespace(BENCHES=[_returning(result) for result in results])
        for name, results in modules.items()
    }

    monkeypatch.setattr(__main__, "import_module", made.__getitem__)


def _returning(result):
    return lambda: result


def test_a_bound_is_kept_up_to_its_limit():
    assert __main__.broken(KEPT) == []
    assert __main__.broken(BROKEN) == list(BROKEN)


def test_a_variant_has_the_bound_of_its_key():
    assert bound_of("index_over_floor_16384") is BOUNDS["index_over_floor"]
    assert bound_of("index_over_floor_full") is None


def test_results_are_written_and_tabled(bench_file, monkeypatch, capsys):
    bench_modules(monkeypatch, some=[KEPT])
    assert __main__.main(["some"]) == 0
    assert json.loads(bench_file.read_text()) == KEPT
    out = capsys.readouterr().out
    assert "BROKEN" not in out
    assert all(key in out for key in KEPT)


def test_a_broken_bound_ends_with_an_error_and_keeps_the_numbers(bench_file, monkeypatch, capsys):
    bench_modules(monkeypatch, some=[KEPT], other=[{"index_view_ms": 30}])
    assert __main__.main(["some"]) == 0
    assert __main__.main(["other"]) == 1
    assert json.loads(bench_file.read_text()) == KEPT | {"index_view_ms": 30}
    assert "bounds broken: index_view_ms" in capsys.readouterr().out


def test_one_key_from_two_benches_is_refused(bench_file, monkeypatch):
    bench_modules(monkeypatch, some=[KEPT, KEPT])
    with pytest.raises(ValueError, match="another bench gave already: import_over_torch"):
        __main__.main(["some"])


def test_every_bench_module_has_benches():
    for path in __main__.HERE.glob("*_bench.py"):
        module = __main__.import_module(f"tests.benchmarks.{path.stem}")
        assert module.BENCHES
        assert all(callable(bench) for bench in module.BENCHES)
