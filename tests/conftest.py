"""Fixtures for all tests: a tiny model on disk, loaded once."""

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def model(model_folder):
    from saekit.models import load_model

    loaded = load_model(str(model_folder))
    loaded.cfg.model_name = "tiny"
    return loaded
