"""The hash of weights: no change of a weight goes unseen."""

import weakref

import pytest
import torch

from saekit._base.weights import remembered, weights_hash


def tensors(size=5000, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {
        "W": torch.randn(size, 7, generator=generator).to(dtype),
        "b": torch.randn(3, generator=generator).to(dtype),
    }


def one_entry(t):
    t["W"][1234, 3] += 1e-3


def two_rows(t):
    t["W"][[10, 11]] = t["W"][[11, 10]]


def two_entries(t):
    t["W"][10, [2, 4]] = t["W"][10, [4, 2]]


def one_bias(t):
    t["b"][1] = 0


CHANGES = [one_entry, two_rows, two_entries, one_bias]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_change_gives_another_hash(change, dtype):
    before, after = tensors(dtype=dtype), tensors(dtype=dtype)
    assert weights_hash(before.items()) == weights_hash(after.items())
    change(after)
    if dtype == torch.bfloat16 and change is one_entry:
        after["W"][1234, 3] *= 2
    assert weights_hash(before.items()) != weights_hash(after.items())


def test_shape_dtype_name_and_storage_are_told_apart():
    plain = {"W": torch.arange(6, dtype=torch.int32).float()}
    prints = {
        weights_hash(one.items())
        for one in (
            plain,
            {"W": plain["W"].view(2, 3)},
            {"V": plain["W"]},
            {"W": plain["W"].view(torch.int32)},
            {"W": torch.zeros(0)},
        )
    }
    assert len(prints) == 5
    inside = torch.cat([torch.zeros(1), plain["W"], torch.zeros(1)])[1:-1]
    strided = torch.stack([plain["W"], plain["W"]], 1)[:, 0]
    for same in (inside, strided):
        assert weights_hash({"W": same}.items()) == weights_hash(plain.items())


class Owner:
    """Something that can be kept by weak reference."""


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("past_the_count", [False, True])
def test_what_is_remembered_goes_with_the_first_change(change, past_the_count):
    held, calls, owner = tensors(), [], Owner()

    def ask():
        return remembered(owner, held.items(), lambda: calls.append(1) or str(len(calls)))

    assert ask() == ask() == "1"
    change({name: tensor.data for name, tensor in held.items()} if past_the_count else held)
    assert ask() == ask() == "2"


def test_in_large_tensors_rows_columns_and_counted_changes_are_seen(monkeypatch):
    from saekit._base import weights

    monkeypatch.setattr(weights, "_SMALL", 0)
    held, calls, owner = tensors(), [], Owner()

    def ask():
        remembered(owner, held.items(), lambda: calls.append(1) or "")
        return len(calls)

    changes = [
        lambda: one_entry(held),
        lambda: held["W"].data[17].zero_(),
        lambda: held["W"].data[:, 1].zero_(),
        lambda: held["W"].data.mul_(1.01),
        lambda: held["b"].data[2].zero_(),
        lambda: held.update(W=held["W"].clone()),
    ]
    for number, change in enumerate(changes, 1):
        assert ask() == ask() == number
        change()
    assert ask() == len(changes) + 1


def test_what_is_remembered_keeps_nothing_alive():
    owner = Owner()
    gone = weakref.ref(owner)
    remembered(owner, tensors().items(), lambda: "")
    del owner
    assert gone() is None
