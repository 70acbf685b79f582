"""Identities: what differs is said in words, and no change of a weight goes unseen."""

import weakref

import pytest
import torch

from saekit._base.identity import Identity, remembered, weights_hash


def test_what_differs_is_said_in_words():
    one = Identity(
        "SAE", {"k": 8, "weights": "ab" * 32, "BOS": "<s>", "scale": None, "rope": {"theta": 1e4, "type": "x"}}
    )
    other = Identity(
        "SAE", {"k": 2, "weights": "cd" * 32, "BOS": "</s>", "scale": 2.5, "rope": {"theta": 1e6, "type": "x"}}
    )
    assert one.difference(other) == [
        "k 8 against 2",
        "weights abababab against cdcdcdcd",
        "BOS '<s>' against '</s>'",
        "scale none against 2.5",
        "rope theta 10000.0 against 1000000.0",
    ]
    assert one.digest != other.digest


def test_a_setting_of_several_parts_differs_from_none():
    one, other = Identity("model", {"rope": None}), Identity("model", {"rope": {"type": "linear", "factor": 2.0}})
    assert one.difference(other) == ["""rope none against {"type": "linear", "factor": 2.0}"""]


def test_equal_facts_are_one_identity_whatever_their_order_and_form():
    one, other = Identity("SAE", {"k": 8, "pair": (1, 2)}), Identity("SAE", {"pair": [1, 2], "k": 8})
    assert one == other and one.digest == other.digest and not one.difference(other)
    assert hash(one) == hash(other)
    assert one.digest != Identity("model", one.facts).digest


def test_an_older_file_is_compared_by_what_it_knows():
    new = Identity("SAE", {"k": 8, "weights": "ab" * 32})
    assert new.difference({"weights": "ab" * 32}) == []
    assert new.difference({"weights": "cd" * 32}) == ["weights abababab against cdcdcdcd"]


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
    from saekit._base import identity

    monkeypatch.setattr(identity, "_SMALL", 0)
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
