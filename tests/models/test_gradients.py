"""The gradient on the line between two runs: what it has to be for metrics whose integrals are known."""

import numpy as np
import pytest
import torch

from saekit.models import AT_START, gauss_legendre, integrated_gradient, midpoints


@pytest.fixture
def runs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64).unbind(0)  # [prompt, pos, d]


def cubes(states, prompt):
    """A metric of its own for each prompt: the sum of cubes, times the prompt's number plus one."""
    return (prompt + 1) * states.pow(3).sum((1, 2))


def accounted(gradient, start, end):
    return ((start - end) * gradient).sum((1, 2))


def test_at_the_start_it_is_the_gradient_there_and_the_reading_of_the_first_run(runs):
    start, end = runs
    gradient, values = integrated_gradient(cubes, start, end)
    weights = torch.arange(1, 4)[:, None, None]
    torch.testing.assert_close(gradient, weights * 3 * start**2)
    torch.testing.assert_close(values, cubes(start, torch.arange(3))[None])


def test_two_gauss_points_account_for_a_cubic_metric_exactly_and_midpoints_ever_more_nearly(runs):
    start, end = runs
    whole = cubes(start, torch.arange(3)) - cubes(end, torch.arange(3))
    gradient, values = integrated_gradient(cubes, start, end, gauss_legendre(2))
    torch.testing.assert_close(accounted(gradient, start, end), whole)
    assert values.shape == (2, 3)
    left = [
        (accounted(integrated_gradient(cubes, start, end, points)[0], start, end) - whole).abs().max()
        for points in (AT_START, midpoints(2), midpoints(20))
    ]
    assert left[0] > left[1] > 50 * left[2] > 0, "the error of midpoints falls with the square of their number"


def test_a_linear_metric_has_the_same_gradient_at_all_points(runs):
    start, end = runs
    direction = torch.linspace(-1, 1, 4, dtype=torch.float64)

    def linear(states, prompt):
        return (states @ direction).sum(1)

    for points in (AT_START, midpoints(3), gauss_legendre(3)):
        gradient, _ = integrated_gradient(linear, start, end, points)
        torch.testing.assert_close(gradient, direction.expand(3, 5, 4))


def test_points_are_read_in_batches_and_every_run_knows_its_prompt(runs):
    """One hundred points of three prompts do not fit into one pass."""
    start, end = runs
    sizes = []

    def metric(states, prompt):
        sizes.append(len(states))
        assert prompt.tolist() == list(range(3)) * (len(states) // 3)
        return cubes(states, prompt)

    gradient, values = integrated_gradient(metric, start.float(), end.float(), midpoints(100))
    assert sum(sizes) == 300
    assert max(sizes) <= 32
    assert (gradient.dtype, values.shape) == (torch.float64, (100, 3))
    exact, _ = integrated_gradient(cubes, start, end, gauss_legendre(2))
    np.testing.assert_allclose(gradient, exact, rtol=1e-3, atol=1e-3)
    assert not values.requires_grad
