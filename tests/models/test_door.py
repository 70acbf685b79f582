"""The door to a model: what is refused before a pass and after it, on every way of running a model."""

import pytest
import torch

from saekit.errors import ModelError
from saekit.models import (
    CachedReader,
    check_finite,
    context_length,
    forward,
    hidden_states,
    hidden_states_at,
    hook_width,
    hooked,
    last_logits_from,
    load_model,
    logits_from,
    reading,
    readout_from,
)
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
BOUNDS = {"llama": 48, "qwen2": 48, "olmo2": 48, "gpt2": 48, "gpt_neox": 48, "bloom": None}


def states_like(ids):
    return torch.randn(*ids.shape, 32, generator=torch.Generator().manual_seed(1))


WAYS = {
    "forward": forward,
    "hidden_states": lambda model, ids: hidden_states(model, ids, HOOK),
    "hidden_states_at": lambda model, ids: hidden_states_at(model, ids, [HOOK, "blocks.0.attn.hook_z"]),
    "logits_from": lambda model, ids: logits_from(model, ids, states_like(ids), HOOK),
    "logits_from inside a block": lambda model, ids: logits_from(model, ids, states_like(ids), "blocks.1.hook_mlp_out"),
    "last_logits_from": lambda model, ids: last_logits_from(model, ids, states_like(ids), HOOK),
    "readout_from": lambda model, ids: readout_from(
        model,
        ids,
        states_like(ids),
        HOOK,
        torch.ones(len(ids), 32),
        torch.zeros(len(ids)),
        torch.zeros(len(ids)).long(),
    ),
    "CachedReader": lambda model, ids: CachedReader(model).begin(ids[0]),
}


@pytest.fixture(scope="module", params=list(BOUNDS))
def own(request, tmp_path_factory):
    """A small model of each architecture whose context holds 48 tokens."""
    folder = tiny.write_own(tmp_path_factory.mktemp("own") / request.param, request.param, n_ctx=48)
    return request.param, load_model(folder, progress=False)


def ids_of(rows: int, pos: int) -> torch.Tensor:
    return torch.randint(2, 400, (rows, pos), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", WAYS)
def test_a_text_longer_than_the_context_is_refused_and_one_that_just_fits_is_read(own, way):
    architecture, model = own
    bound = BOUNDS[architecture]
    assert context_length(model) == bound
    WAYS[way](model, ids_of(2, 48))
    if bound is None:
        WAYS[way](model, ids_of(2, 49))
    else:
        with pytest.raises(ModelError, match=r"49 tokens, the model's context holds 48"):
            WAYS[way](model, ids_of(2, 49))


def test_a_model_that_lays_out_its_distances_beforehand_reads_no_more_of_them(tmp_path):
    """MPT knows distances, not positions, and says under another name how many."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 48, "vocab_size": 400, "pad_token_id": None}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("mpt", **sizes)).save_pretrained(tmp_path)
    mpt = load_model(tiny.write_tokenizer(tmp_path), progress=False)
    forward(mpt, ids_of(2, 48))
    with pytest.raises(ModelError, match=r"49 tokens, the model's context holds 48"):
        forward(mpt, ids_of(2, 49))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [400, -1, 2**40])
def test_an_id_that_the_model_has_no_embedding_for_is_refused(own, way, bad):
    ids = ids_of(2, 9)
    ids[0, 4] = bad
    with pytest.raises(ModelError, match=r"token ids from .* outside 0 to 399"):
        WAYS[way](own[1], ids)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", ["model", "original_model", "last block"])
def test_training_mode_is_refused_whatever_part_of_the_model_is_in_it(own, way, part):
    model = own[1]
    parts = {"model": model, "original_model": model.original_model, "last block": model.blocks[-1]}
    try:
        parts[part].train()
        with pytest.raises(ModelError, match=r"is in training mode.*call model\.eval\(\)"):
            WAYS[way](model, ids_of(1, 5))
    finally:
        model.eval()
    WAYS[way](model, ids_of(1, 5))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_whole_numbers_of_any_dtype_are_token_ids(model, dtype):
    ids = ids_of(2, 7) % 100
    assert torch.equal(forward(model, ids.to(dtype)), forward(model, ids))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.ones(2, 3), r"is of torch\.float32: expected token ids"),
        (torch.ones(2, 3, dtype=torch.bfloat16), r"is of torch\.bfloat16"),
        (torch.ones(2, 3, dtype=torch.bool), r"is of torch\.bool"),
        (torch.ones(2, 3, dtype=torch.complex64), r"is of torch\.complex64"),
        ([[1, 2]], "is of list"),
        ("The cat", "is of str"),
        (torch.ones(3, dtype=torch.long), r"has the shape \[3\]: expected token ids \[batch, pos\]"),
        (torch.ones(1, 2, 3, dtype=torch.long), r"has the shape \[1, 2, 3\]"),
        (torch.ones(2, 0, dtype=torch.long), "has no tokens"),
        (torch.ones(0, 2, dtype=torch.long), "has no tokens"),
    ],
)
def test_what_is_no_token_ids_is_refused(model, ids, message):
    with pytest.raises(ModelError, match=message):
        forward(model, ids)
    with pytest.raises(ModelError, match=message):
        hidden_states(model, ids, HOOK)


def test_the_vocabulary_is_what_the_model_has_embeddings_for_whatever_its_tokenizer_says(tmp_path):
    """A model whose embeddings were padded to 448 rows beside a tokenizer of 400."""
    folder = tiny.write_own(tmp_path / "padded", d_vocab=448)
    tiny.write_tokenizer(folder, d_vocab=400)
    padded = load_model(folder, progress=False)
    forward(padded, torch.tensor([[0, 447]]))
    with pytest.raises(ModelError, match="outside 0 to 447"):
        forward(padded, torch.tensor([[0, 448]]))


def test_generation_that_goes_past_the_context_is_refused_at_the_token_that_does(own):
    architecture, model = own
    reader = CachedReader(model, 2)
    reader.begin(ids_of(1, 47)[0])
    reader.read(torch.tensor([[5], [6]]))
    if BOUNDS[architecture] is None:
        assert reader.read(torch.tensor([[5], [6]])).isfinite().all()
    else:
        with pytest.raises(ModelError, match=r"49 tokens, the model's context holds 48"):
            reader.read(torch.tensor([[5], [6]]))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_finite_is_refused_with_its_place_and_number(dtype, value):
    values = torch.ones(2, 5, 3, dtype=dtype)
    assert check_finite(values, "activations at here") is values
    values[0, 1, 2] = values[1, 4, 0] = values[1, 4, 1] = value
    values[0, 0, 0] = -value  # an infinity of the other sign does not make up for it
    advice = "Load the model, or the SAE, in torch.float32" if dtype == torch.float16 else "are all weights finite"
    with pytest.raises(ModelError, match=rf"activations at here are not finite .* at 3 of 10 tokens.*{advice}"):
        check_finite(values, "activations at here")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_numbers_that_are_finite_pass_although_their_sum_overflows(dtype):
    values = torch.full((4, 64, 32), torch.finfo(dtype).max, dtype=dtype)
    assert check_finite(values, "activations") is values


@pytest.mark.parametrize("where", ["activations", "logits"])
def test_a_half_precision_model_that_overflows_says_so_however_it_is_run(tmp_path, where):
    """The last MLP writes numbers above 65,504, or the unembedding does."""
    half = load_model(tiny.write_own(tmp_path / "half", "gpt_neox"), dtype=torch.float16, progress=False)
    weight = half.blocks[2].mlp.out.weight if where == "activations" else half.unembed.weight
    with torch.no_grad():
        weight.copy_(6e4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).sign())
    ids = ids_of(2, 9)
    last = "blocks.2.hook_resid_post"
    ways = {name: way for name, way in WAYS.items() if not name.startswith("hidden")}  # those end below
    if where == "activations":
        with pytest.raises(ModelError, match=r"activations at blocks\.2\.hook_resid_post are not finite.*float16"):
            hidden_states(half, ids, last)
    else:
        assert hidden_states(half, ids, last).isfinite().all()
        ways.pop("readout_from")  # it reads before the unembedding
    for way in ways.values():
        with pytest.raises(ModelError, match=r"not finite.*float16"):
            way(half, ids)


def test_gradients_that_are_left_on_change_no_number_and_keep_no_graph(model_folder):
    ids = ids_of(2, 9)
    plain, live = load_model(model_folder, progress=False), load_model(model_folder, progress=False)
    for parameter in live.parameters():
        parameter.requires_grad_(True)
    states = hidden_states(live, ids, HOOK)
    assert not states.requires_grad
    assert torch.equal(states, hidden_states(plain, ids, HOOK))
    assert torch.equal(logits_from(live, ids, states, HOOK), logits_from(plain, ids, states, HOOK))
    assert not CachedReader(live).begin(ids[0]).requires_grad
    assert all(parameter.grad is None for parameter in live.parameters())


# --- shapes ----------------------------------------------------------------------------------------------------------


def of_transformers(model, ids, layer: int, architecture: str) -> torch.Tensor:
    """What the output projection of attention is given, by a hook on transformers' own module."""
    attention = model.blocks[layer].attn.original_component
    name = {"gpt2": "c_proj", "gpt_neox": "dense", "bloom": "dense"}.get(architecture, "o_proj")
    seen = []
    handle = getattr(attention, name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        with torch.no_grad():
            model(ids, prepend_bos=False)
    finally:
        handle.remove()
    return seen[0]


def test_the_heads_of_hook_z_are_what_transformers_own_projection_is_given(own):
    architecture, model = own
    ids = ids_of(2, 9)
    found = hidden_states(model, ids, "blocks.1.attn.hook_z")
    assert found.shape == (2, 9, 32)
    torch.testing.assert_close(found, of_transformers(model, ids, 1, architecture), rtol=0, atol=0)


@pytest.mark.parametrize("point", ["z", "q", "k", "v"])
def test_heads_that_are_put_back_as_they_were_leave_the_logits_as_they_were(own, point):
    model, ids, hook = own[1], ids_of(2, 9), f"blocks.1.attn.hook_{point}"
    states = hidden_states(model, ids, hook)
    grouped = own[0] in ("llama", "qwen2", "olmo2") and point in "kv"  # two heads, shared by four
    assert states.shape[-1] == hook_width(model, hook) == (16 if grouped else 32)
    clean = forward(model, ids)
    torch.testing.assert_close(logits_from(model, ids, states, hook), clean)
    turned = states.flip(1)
    with hooked(model, {hook: lambda _: turned}), reading(model, [hook]) as seen:
        changed = forward(model, ids)
    assert torch.equal(seen[hook], turned)
    assert not torch.allclose(changed, clean)
    point = model._resolve_hook_name(hook)
    apart = turned.unflatten(-1, (-1, 8))
    want = model.run_with_hooks(ids, fwd_hooks=[(point, lambda x, hook: apart)], prepend_bos=False)
    torch.testing.assert_close(changed, want)


@pytest.mark.parametrize("pos", [3, 4, 9])
@pytest.mark.parametrize("point", ["hook_pattern", "hook_attn_scores"])
def test_numbers_for_pairs_of_tokens_are_refused_by_name_also_where_positions_are_as_many_as_heads(own, point, pos):
    hook = f"blocks.1.attn.{point}"
    for way in (lambda: hidden_states(own[1], ids_of(2, pos), hook), lambda: hook_width(own[1], hook)):
        with pytest.raises(ModelError, match=rf"{point} has no vector per token"):
            way()


@pytest.mark.parametrize("hook", ["embed.hook_in", "rotary_emb.hook_cos"])
def test_other_shapes_are_refused_with_the_shape(model, hook):
    with pytest.raises(ModelError, match=rf"{hook} has (the shape|no vector)"):
        hidden_states(model, ids_of(2, 9), hook)


@pytest.mark.parametrize("hook", ["blocks.1.attn.hook_result", "blocks.1.hook_mlp_in", "blocks.1.attn.hook_q_input"])
def test_a_hook_point_that_no_pass_reaches_is_refused(model, hook):
    with pytest.raises(ModelError, match=r"(computes nothing there|does not compute)"):
        hidden_states(model, ids_of(1, 4), hook)


@pytest.mark.parametrize("shape", [(1, 9, 32), (2, 8, 32), (2, 9, 31), (2, 9, 4, 8)])
def test_states_of_another_shape_are_not_put_in_place_of_the_models_own(model, shape):
    with (
        pytest.raises(ModelError, match=r"has states \[2, 9, 32\], what is to be put there is"),
        hooked(model, {HOOK: lambda _: torch.zeros(shape)}),
    ):
        forward(model, ids_of(2, 9))


def test_what_is_put_in_place_may_be_of_another_dtype(tmp_path):
    half = load_model(tiny.write_own(tmp_path / "bf"), dtype=torch.bfloat16, progress=False)
    ids = ids_of(2, 9)
    for hook in (HOOK, "blocks.1.attn.hook_z", "blocks.1.attn.hook_k"):
        states = hidden_states(half, ids, hook)
        with hooked(half, {hook: lambda _, states=states: states.double()}):
            assert torch.equal(forward(half, ids), forward(half, ids))
