"""Which tokens a statistic leaves out, and that it says how many."""

import torch

from saekit.models import counted, massive


def test_massive_norms_are_judged_within_their_own_sequence():
    norms = torch.tensor([[600.0, 10, 11, 9, 12], [600.0, 610, 590, 605, 600]])
    assert massive(norms).tolist() == [[True, False, False, False, False], [False] * 5]


def test_what_is_left_out_is_counted_by_its_first_reason():
    ids = torch.tensor([[0, 5, 1, 6, 7, 8, 9]])
    states = torch.ones(1, 7, 2)
    states[0, [0, 2, 4]] *= 100  # BOS and a marker are not counted again as massive
    special = torch.tensor([0, 1])
    keep, left_out = counted(ids, states, special)
    assert keep[0].tolist() == [False, True, False, True, False, True, True]
    assert left_out == {"bos_or_padding": 0, "special": 2, "massive": 1}
    keep, left_out = counted(ids, states, special, text=torch.arange(7)[None] > 0)
    assert left_out == {"bos_or_padding": 1, "special": 1, "massive": 1}
