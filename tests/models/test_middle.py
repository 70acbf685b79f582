"""What is put between attention and MLP goes on in the residual stream and in the MLP, as in a HookedTransformer."""

import pytest
import torch

from saekit.errors import ModelError
from saekit.models import forward, hidden_states, hooked, load_model, logits_from, reading
from saekit.steering import Intervention, generate
from tests import tiny
from tests.reference import Reference

MIDDLE = "blocks.1.hook_resid_mid"
SEQUENTIAL = {
    **{name: (name, {}) for name in ("llama", "qwen2", "olmo2", "gpt2", "bloom")},
    "gpt_neox in sequence": ("gpt_neox", {"use_parallel_residual": False}),
}


@pytest.fixture(scope="module", params=SEQUENTIAL.values(), ids=SEQUENTIAL)
def pair(request, tmp_path_factory):
    """A model with its weights as after training, and the same in transformers."""
    name, settings = request.param
    folder = tiny.write_own(tmp_path_factory.mktemp("middle"), name, trained=True, settings=settings)
    return load_model(folder, progress=False), Reference(folder, torch.float32)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(2, 400, (3, 9), generator=torch.Generator().manual_seed(0))


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


@torch.no_grad()
def test_what_is_put_in_the_middle_of_a_block_reaches_the_mlp_and_the_stream_around_it(pair, ids):
    model, reference = pair
    close(hidden_states(model, ids, MIDDLE), reference.run(ids, 1)["resid_mid"])
    noise = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(1))
    want = reference.run(ids, 1, {"resid_mid": lambda _: noise})
    assert not torch.allclose(want["logits"], reference.logits(ids), rtol=0.1)
    close(logits_from(model, ids, noise, MIDDLE), want["logits"])
    with reading(model, ["blocks.1.hook_resid_post"]) as seen, hooked(model, {MIDDLE: lambda _: noise}):
        close(forward(model, ids), want["logits"])  # whichever of the two was set first
    close(seen["blocks.1.hook_resid_post"], want["resid_post"])
    close(forward(model, ids), reference.logits(ids))  # and nothing stays


def test_gradients_in_the_middle_of_a_block_take_both_ways(pair, ids):
    model, reference = pair
    states = hidden_states(model, ids, MIDDLE).requires_grad_()
    (got,) = torch.autograd.grad(logits_from(model, ids, states, MIDDLE)[:, -1, 7].sum(), states)
    moved = torch.zeros(3, 9, 32, requires_grad=True)
    out = reference.run(ids, 1, {"resid_mid": lambda state: state + moved})
    (want,) = torch.autograd.grad(out["logits"][:, -1, 7].sum(), moved)
    close(got, want)


@torch.no_grad()
def test_steering_in_the_middle_of_a_block_writes_what_transformers_writes(pair, ids):
    model, reference = pair
    direction = torch.randn(32, generator=torch.Generator().manual_seed(2))
    along = Intervention.along(direction, MIDDLE, 5, unit="activation", positions=(1, 99))
    got = generate(model, ids[0], along, max_new_tokens=4, stop_at_eos=False)

    def add(state):
        state = state.clone()
        state[:, 1:] += 5 * direction / direction.norm()
        return state

    text = ids[:1]
    for token in got.ids[0]:
        logits = reference.run(text, 1, {"resid_mid": add})["logits"][0, -1]
        assert token == logits.argmax()
        text = torch.cat([text, torch.tensor([[token]])], 1)


def test_a_block_whose_middle_is_no_sum_can_be_read_there_and_not_edited(tmp_path, ids):
    settings = {"apply_residual_connection_post_layernorm": True}  # the stream around the MLP is normed on its way
    folder = tiny.write_own(tmp_path, "bloom", trained=True, settings=settings)
    model, reference = load_model(folder, progress=False), Reference(folder, torch.float32)
    close(hidden_states(model, ids, MIDDLE), reference.run(ids, 1)["resid_mid"])
    with pytest.raises(ModelError, match="does not add what its MLP writes to what stands at"):
        logits_from(model, ids, torch.zeros(3, 9, 32), MIDDLE)
