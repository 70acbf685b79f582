"""An editor sees the public names as they are: signatures, classes and rooms, though all are imported on first use."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import saekit

pytest.importorskip("ty")
ROOT = Path(__file__).parents[1]


def checked(code: str, tmp_path: Path) -> dict[int, str]:
    """Return what the type checker says of each line, by its number from 1."""
    file = tmp_path / "lecture.py"
    file.write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "ty", "check", "--output-format=concise", f"--extra-search-path={ROOT}"]
    done = subprocess.run(
        [*command, f"--python={sys.prefix}", file.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = re.findall(r"^lecture\.py:(\d+):\d+: (.*)$", done.stdout, re.MULTILINE)
    assert said, done.stdout + done.stderr
    return {int(line): words for line, words in said}


def test_every_public_name_has_its_signature_class_or_room(tmp_path):
    names = sorted(set(saekit.__all__) - {"__version__"})
    lines = ["from typing import reveal_type", "import saekit as sk", *(f"reveal_type(sk.{name})" for name in names)]
    said = checked("\n".join(lines), tmp_path)
    assert sorted(said) == list(range(3, 3 + len(names)))
    for words, name in zip((said[line] for line in sorted(said)), names, strict=True):
        value = getattr(saekit, name)
        if isinstance(value, FunctionType):
            assert f"`def {value.__name__}(" in words
            assert all(re.search(rf"\b{parameter}\b", words) for parameter in inspect.signature(value).parameters)
        elif isinstance(value, ModuleType):
            assert f"`<module '{value.__name__}'>`" in words
        else:
            assert f"`<class '{value.__name__}'>`" in words


def test_what_cannot_work_is_an_error_before_it_runs(tmp_path):
    lines = [
        "import saekit as sk",
        "model = sk.load_model(nme='smollm2-135m')",
        "sk.load_modle()",
        "model.cfg.n_layers",
        "sk.FeatureIndex.load().densty",
        "sk.load_sae(3)",
    ]
    said = checked("\n".join(lines), tmp_path)
    assert sorted(said) == [2, 3, 5, 6]
    assert "nme" in said[2] and "load_modle" in said[3] and "densty" in said[5] and "str" in said[6]
