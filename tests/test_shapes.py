"""The shapes in saekit's signatures are checked while tests run, and nothing but shapes."""

from types import SimpleNamespace

import jaxtyping
import pytest
import torch

from saekit import models
from tests._shapes import has_shape


def test_a_wrong_shape_is_an_error_in_the_tests():
    assert models.massive(torch.ones(2, 5)).shape == (2, 5)
    with pytest.raises(jaxtyping.TypeCheckError, match="norms"):
        models.massive(torch.ones(5))


def test_a_wrong_result_is_an_error_too():
    assert models.unembedding(SimpleNamespace(W_U=torch.ones(3, 5))).shape == (3, 5)
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        models.unembedding(SimpleNamespace(W_U=torch.ones(3, 5, 1)))


def test_only_arrays_are_checked():
    array = jaxtyping.Float[torch.Tensor, "batch pos"]
    assert has_shape(array)
    assert has_shape(array | None)
    assert has_shape(tuple[array, int])
    assert not has_shape(int)
    assert not has_shape("SAE[Any]")
    assert not has_shape(list[int] | None)
