"""The wheel: it holds what the checkout holds, and a view opens from it in an environment without the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

OPEN_A_VIEW = """
import json, sys
import saekit as sk

index = sk.FeatureIndex.load()
feature = int(index.density.argmax())
view = sk.TopActivations(index, feature=feature)
page = view.to_html()
bundle = view._repr_mimebundle_()
data = bundle[0] if isinstance(bundle, tuple) else bundle
print(json.dumps({
    "home": sk.__file__,
    "value": view.value,
    "feature": feature,
    "module": "export default" in view._esm,
    "style": ".saekit-" in view._css,
    "still": f"Feature {feature}" in data["text/html"],
    "page": page.lstrip()[:15].lower(),
    "bundled": [entry.release for entry in sk.list_saes() if entry.bundled],
}))
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built with the build backend that is installed, so without network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory):
    """The Python of a new environment that holds the wheel and nothing of the checkout.

    The dependencies are those of the running environment, found by path: its own .pth files, which would lead to an
    editable saekit, are not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", scheme="venv", vars=paths))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


def test_the_wheel_holds_the_package_and_the_front_end_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"saekit/{name}" for name in files(ROOT / "saekit")}
    expected |= {f"saekit/_widgets/{name}" for name in files(ROOT / "widgets")}
    assert names == expected


def test_the_wheel_brings_its_licence_and_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Version: {project['version']}\n" in text
    assert "License-Expression: MIT\n" in text
    assert "Requires-Python: >=3.11\n" in text


def test_a_view_opens_from_the_wheel_in_a_new_environment(python, tmp_path):
    cache = os.environ | {"SAEKIT_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(python), "-I", "-W", "ignore", "-c", OPEN_A_VIEW]
    done = subprocess.run(command, cwd=tmp_path, env=cache, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert Path(seen["home"]).is_relative_to(Path(python).parents[1])
    assert seen["value"] == seen["feature"]
    assert seen["module"] and seen["style"] and seen["still"]
    assert seen["page"] == "<!doctype html>"
    assert "smollm2-135m/blocks.18.hook_resid_post" in seen["bundled"]


def test_versions_agree(python):
    import saekit

    done = subprocess.run(
        [str(python), "-I", "-c", "import importlib.metadata; print(importlib.metadata.version('saekit'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == saekit.__version__


def test_every_pin_is_exact_and_within_the_range():
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert [str(pin) for pin in pins if not str(pin.specifier).startswith("==")] == []
    version = {pin.name.lower().replace("_", "-"): str(pin.specifier).removeprefix("==") for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for wanted in map(Requirement, ranges):
        if wanted.name != "saekit":
            pinned = version.get(wanted.name.lower(), "none")
            assert wanted.specifier.contains(pinned), f"{wanted} is pinned to {pinned}"


def test_the_readme_states_what_the_cards_measured():
    import saekit

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cards = sorted((ROOT / "saekit/assets/smollm2-135m").glob("*/sae/card.json"))
    assert len(cards) >= len(saekit.list_saes("smollm2")) > 0
    for file in cards:
        card = json.loads(file.read_text(encoding="utf-8"))
        layer, width = file.parts[-3].split(".")[1], round(card["l0"] / card["active_fraction"])
        row = (
            f"| {layer} | {width:,} | {card['l0']:.0f} | {card['fvu']:.3f} | {card['loss_recovered_zero']:.1%} "
            f"| {card['loss_recovered_mean']:.1%} | {card['dead_share']:.1%} |"
        )
        assert row.replace("%", " %") in readme
        assert f"{card['n_tokens']:,} held-out tokens" in readme
        assert f"{card['excluded']['bos_or_padding']} beginning-of-text or padding tokens" in readme
