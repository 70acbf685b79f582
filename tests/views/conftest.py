"""Views on a fake index, which stands in for model and SAE too."""

import pytest

from saekit.views.top_activations import TopActivations, work
from tests.views.fake_index import FakeIndex


@pytest.fixture
def index():
    return FakeIndex()


@pytest.fixture
def live(index, monkeypatch):
    """A view with its own-text panel on; the fake index stands in for model and SAE."""
    monkeypatch.setattr(work, "check_index_pair", lambda *pair: None)
    return TopActivations(index, feature=12, model="model", sae="sae")
