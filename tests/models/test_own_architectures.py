"""What architectures and dtypes do in ways of their own, against transformers itself."""

import numpy as np
import pytest
import torch

from saekit.models import hidden_states, load_model, logits_from
from saekit.probes import extract_features
from saekit.steering import Intervention, generate
from tests import tiny
from tests.reference import NAMES, Reference

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # names of models; the way round norms


@pytest.fixture(scope="module")
def ids():
    return torch.randint(2, 400, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["llama", "olmo2", "gpt2", "gpt_neox", "bloom"])
@pytest.mark.parametrize("point", ["ln1", "ln2", "q", "z", "attn_out", "resid_post"])
def test_gradients_reach_what_is_put_at_any_hook_point(name, point, ids, tmp_path):
    folder = tiny.write_own(tmp_path, name, trained=True)
    model, reference = load_model(folder, progress=False), Reference(folder, torch.float32)
    hook = f"blocks.1.{NAMES[point]}"
    states = hidden_states(model, ids, hook).requires_grad_()
    (got,) = torch.autograd.grad(logits_from(model, ids, states, hook)[:, -1, 7].sum(), states)
    moved = torch.zeros_like(states, requires_grad=True)
    out = reference.run(ids, 1, {point: lambda state: state + moved})
    (want,) = torch.autograd.grad(out["logits"][:, -1, 7].sum(), moved)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


@pytest.mark.parametrize("name", ["llama", "olmo2", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_a_model_of_any_dtype_runs_from_the_middle(name, dtype, ids, tmp_path):
    folder = tiny.write_own(tmp_path, name)
    model, reference = load_model(folder, dtype=dtype, progress=False), Reference(folder, dtype)
    for point in ("resid_post", "resid_mid"):
        hook = f"blocks.1.{NAMES[point]}"
        got, want = logits_from(model, ids, hidden_states(model, ids, hook), hook), reference.logits(ids)
        torch.testing.assert_close(
            got, want, rtol=0, atol=(0.1 if dtype == torch.bfloat16 else 1e-5) * want.abs().max()
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_model_of_any_dtype_is_steered(dtype, ids, tmp_path):
    model = load_model(tiny.write_own(tmp_path), dtype=dtype, progress=False)
    along = Intervention.along(torch.ones(32), "blocks.1.hook_resid_post", 2)
    assert generate(model, ids[0], along, max_new_tokens=2).edit_norms[0] == pytest.approx(2, rel=1e-2)


def test_empty_texts_of_a_model_without_bos_have_no_features(tmp_path):
    model = load_model(tiny.write_own(tmp_path, "qwen2", bos=None), progress=False)
    texts = ["", "a cat", ""]
    found = extract_features(model, tiny.topk_sae(32, 24), texts, context_size=16, check_hooks=False, progress=False)
    np.testing.assert_array_equal(np.diff(found.id_starts) > 0, [False, False, True])
    assert np.diff(found.sae().hook.starts).tolist() == np.diff(found.id_starts).tolist()
