"""Fixtures for all tests: shapes are checked, and a tiny model on disk is loaded once."""

import pytest

from tests import _shapes

_shapes.install()  # before the first import of saekit


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    from tests import tiny

    return tiny.write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def model(model_folder):
    from saekit.models import load_model

    loaded = load_model(str(model_folder))
    loaded.cfg.model_name = "tiny"
    return loaded
