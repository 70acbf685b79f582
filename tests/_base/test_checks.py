"""Checks of arguments: what they take, in which form they return it, and what they say of the rest."""

import math

import numpy as np
import pytest
import torch

from saekit._base.checks import finite, listed, nearest, one_of, real_tensor, seed_of, text_of, whole
from saekit.errors import ProbeError, SAEError

HUGE = 10**400


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3])])
def test_a_whole_number_of_any_origin_becomes_an_int(value):
    number = whole("k", value, at_least=1, at_most=3, error=SAEError)
    assert type(number) is int
    assert number == 3


@pytest.mark.parametrize(
    "value",
    [True, np.True_, torch.tensor(True), 3.0, np.float32(3), "3", None, [3], 0, 4, HUGE, math.nan, np.arange(2)],
)
def test_what_is_no_whole_number_of_the_range_is_named(value):
    with pytest.raises(SAEError, match=r"^k must be a whole number from 1 to 3, not "):
        whole("k", value, at_least=1, at_most=3, error=SAEError)


def test_limits_are_said_as_they_are():
    with pytest.raises(SAEError, match="n must be a whole number from 1,000 on, not 2"):
        whole("n", 2, at_least=1000, error=SAEError)
    with pytest.raises(SAEError, match="n must be a whole number of at most 1, not 2"):
        whole("n", 2, at_most=1, error=SAEError)
    with pytest.raises(SAEError, match="n must be a whole number, not 'x'"):
        whole("n", "x", error=SAEError)
    with pytest.raises(ProbeError, match="share must be a finite number above 0 and at most 1, not 2"):
        finite("share", 2, above=0, at_most=1, error=ProbeError)
    with pytest.raises(SAEError) as caught:
        whole("n", "x" * 10**6, error=SAEError)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)])
def test_a_finite_number_of_any_origin_becomes_a_float(value):
    number = finite("lr", value, above=0, at_least=0.5, at_most=0.5, below=1, error=SAEError)
    assert type(number) is float
    assert number == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.5", b"1", True, None, [0.5], HUGE, 1j, torch.ones(2), -1])
def test_what_is_no_finite_number_is_named(value):
    with pytest.raises(SAEError, match="lr must be a finite number at least 0, not "):
        finite("lr", value, at_least=0, error=SAEError)


def test_infinity_is_taken_where_it_is_allowed():
    assert finite("strength", -math.inf, infinite=True, error=SAEError) == -math.inf
    with pytest.raises(SAEError, match="strength must be a number, not nan"):
        finite("strength", math.nan, infinite=True, error=SAEError)


def test_a_choice_names_all_options_and_the_nearest():
    assert one_of("mode", "add", ["add", "clamp"], error=SAEError) == "add"
    with pytest.raises(SAEError, match="mode must be 'add', 'scale' or 'clamp', not 'Clmap': did you mean 'clamp'"):
        one_of("mode", "Clmap", ["add", "scale", "clamp"], error=SAEError)
    many = [f"corpus{i}" for i in range(40)]
    with pytest.raises(SAEError, match=r"'corpus11' and 28 more, not 'corpos39': did you mean 'corpus39'\?\. See list"):
        one_of("name", "corpos39", many, error=SAEError, hint="See list_corpora()")
    assert one_of("chat", None, [True, False, None], error=SAEError) is None


@pytest.mark.parametrize("value", [1, None, ["add"], np.array(["add", "add"]), {}, True])
def test_a_choice_of_another_type_is_refused(value):
    with pytest.raises(SAEError, match="mode must be 'add' or 'clamp', not "):
        one_of("mode", value, ["add", "clamp"], error=SAEError)


def test_the_nearest_names_are_found_in_any_case():
    assert nearest("GPT2-SMAL", ["gpt2-small", "gemma-2-2b"])[0] == "gpt2-small"
    assert nearest("xyz", ["gpt2-small"]) == nearest(3, ["gpt2-small"]) == []


def test_seeds_are_what_generators_take():
    assert seed_of(np.int64(2**62), error=SAEError) == 2**62
    torch.Generator().manual_seed(seed_of(2**63 - 1, error=SAEError))
    for value in (-1, 2**63, 1.5, None, True):
        with pytest.raises(SAEError, match="seed must be a whole number from 0 to"):
            seed_of(value, error=SAEError)


def test_one_value_is_no_list_of_them():
    assert listed("texts", (text for text in "ab"), "texts", error=ProbeError) == ["a", "b"]
    for value in ("a text", b"bytes", 3, None, {"a": 1}, torch.tensor(1)):
        with pytest.raises(ProbeError, match="texts must be a list of texts, not "):
            listed("texts", value, "texts", error=ProbeError)
    with pytest.raises(ProbeError, match="at least one"):
        listed("texts", [], "texts", error=ProbeError, empty=False)


def test_a_text_is_not_blank():
    assert text_of("name", " a ", error=ProbeError) == " a "
    for value in (" \n", "", 3, None):
        with pytest.raises(ProbeError, match="name must be a text that is not blank"):
            text_of("name", value, error=ProbeError)


def test_real_numbers_of_any_origin_become_a_tensor():
    for values in ([1, 2], (1.0, 2.0), np.array([1, 2], np.int8), np.array([1, 2], np.float16)):
        tensor = real_tensor("direction", values, error=SAEError)
        assert tensor.dtype == torch.float64
        assert tensor.tolist() == [1, 2]
    half = torch.ones(3, dtype=torch.bfloat16)
    assert real_tensor("direction", half, error=SAEError) is half


@pytest.mark.parametrize("values", ["up", None, [[1], [1, 2]], [1j], [True], torch.tensor([True]), torch.ones(1) * 1j])
def test_what_is_no_tensor_of_real_numbers_is_named(values):
    with pytest.raises(SAEError, match=r"direction must be a tensor, array or list of real numbers \[d_model\], not "):
        real_tensor("direction", values, shape="[d_model]", error=SAEError)
