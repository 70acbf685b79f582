"""Comparing dictionaries: what is the same scores 1, what has nothing to do with each other scores as chance does."""

import itertools

import pytest
import torch

from saekit.errors import SAEError
from saekit.evaluation import compare_dictionaries, mmcs


def directions(number: int, width: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(number, width, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def test_the_same_dictionary_permuted_and_rescaled_scores_one():
    true = directions(40, 16)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    scale = torch.rand(40, 1, generator=torch.Generator().manual_seed(2)) + 0.1
    match = compare_dictionaries((true * scale)[order], true)
    assert match.mmcs == pytest.approx(1)
    assert match.matched_mean == pytest.approx(1)
    assert match.share_found == match.matched_share == 1
    assert torch.equal(order[match.matched_learned], torch.arange(40))
    assert torch.equal(match.best_learned, match.matched_learned)


def test_signs_count_and_both_signs_can_be_asked_for():
    true = torch.eye(6)
    assert mmcs(-true, true) == 0  # the greatest of -1 and five zeros
    assert compare_dictionaries(-true, true).matched_mean == 0, "a matching of zeros beats one of -1"
    assert mmcs(torch.cat([-true, true]), true) == 1


def test_the_matching_is_the_best_of_all_permutations():
    learned, true = directions(6, 4, seed=3), directions(6, 4, seed=4)
    cosine = (true.double() @ learned.double().T).numpy()
    best = max(itertools.permutations(range(6)), key=lambda order: sum(cosine[i, j] for i, j in enumerate(order)))
    match = compare_dictionaries(learned, true, threshold=0.5)
    assert tuple(match.matched_learned.tolist()) == best
    pairs = [cosine[i, j] for i, j in enumerate(best)]
    assert match.matched_mean == pytest.approx(sum(pairs) / 6)
    assert match.matched_share == sum(value > 0.5 for value in pairs) / 6
    assert match.mmcs == pytest.approx(cosine.max(1).mean())
    assert match.share_found == (cosine.max(1) > 0.5).mean()
    torch.testing.assert_close(match.best, torch.from_numpy(cosine.max(1)).float())


def test_the_order_of_mmcs_is_learned_then_true():
    """One true direction found, among a hundred that are not there."""
    true = directions(5, 300)
    learned = torch.cat([true[:1], directions(100, 300, seed=1)])
    assert mmcs(true[:1], true) < 0.5
    assert mmcs(true, true[:1]) == pytest.approx(1)
    forth, back = compare_dictionaries(learned, true), compare_dictionaries(true, learned)
    assert forth.share_found == 1 / 5
    assert back.share_found == 1 / 101
    assert forth.matched_mean == pytest.approx(back.matched_mean)
    assert forth.matched_share == back.matched_share == 1 / 101


def test_two_features_merged_into_one_are_found_by_mmcs_and_not_by_the_matching():
    true = torch.tensor([[1.0, 0.05, 0], [1, -0.05, 0], [0, 0, 1]])
    learned = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    match = compare_dictionaries(learned, true)
    assert match.share_found == 1
    assert match.matched_share == pytest.approx(2 / 3)


def test_directions_that_know_nothing_of_each_other_score_what_chance_gives():
    """64 true directions in 32 dimensions: about .41 for 64 random ones, and for the axes with both signs.

    Chance is computed another way: the mean greatest of 64 cosines of random pairs.
    """
    scores, axes, chance = [], [], []
    for seed in range(5):
        true = directions(64, 32, seed)
        scores.append(mmcs(directions(64, 32, seed + 100), true))
        axes.append(mmcs(torch.cat([torch.eye(32), -torch.eye(32)]), true))
        draws = directions(64 * 2000, 32, seed + 200)[:, 0]  # a cosine of a random pair is one coordinate of a unit
        chance.append(draws.reshape(2000, 64).max(1).values.mean().item())
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert mean(scores) == pytest.approx(mean(chance), abs=0.015)
    assert mean(axes) == pytest.approx(mean(chance), abs=0.03)


def test_without_signs_it_is_the_correlation_coefficient_of_sae_lens():
    from sae_lens.synthetic import mean_correlation_coefficient

    learned, true = directions(20, 12, seed=5), directions(20, 12, seed=6)
    positive = learned.abs(), true.abs()  # all cosines are positive: the absolute value changes nothing
    assert compare_dictionaries(*positive).matched_mean == pytest.approx(mean_correlation_coefficient(*positive))
    assert mean_correlation_coefficient(-true, true) == pytest.approx(1)
    assert compare_dictionaries(-true, true).matched_mean < 0.9


def test_what_cannot_be_compared_is_refused():
    true = directions(3, 4)
    with pytest.raises(SAEError, match="have 5 dimensions and the true ones 4"):
        mmcs(directions(3, 5), true)
    with pytest.raises(SAEError, match="1 of the learned directions are zero or not finite"):
        mmcs(torch.cat([true, torch.zeros(1, 4)]), true)
    with pytest.raises(SAEError, match="1 of the true directions are zero or not finite"):
        compare_dictionaries(true, torch.cat([true, torch.full((1, 4), torch.nan)]))
    with pytest.raises(SAEError, match=r"true directions are \[0, 4\]"):
        mmcs(true, true[:0])


def test_the_result_reads_as_a_line():
    text = repr(compare_dictionaries(torch.eye(3), torch.eye(3)))
    assert text == "MMCS 1.000, 100.0% of 3 above 0.9; one to one: mean cosine 1.000, 100.0% above 0.9"
