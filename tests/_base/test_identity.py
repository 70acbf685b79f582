"""Identities: what differs is said in words."""

from saekit._base.identity import Identity


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
