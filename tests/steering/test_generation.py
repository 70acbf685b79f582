"""Generation: the same tokens as transformers and as a naive loop without cache; streams that leave nothing behind."""

import re
import threading
import time
from importlib import import_module
from itertools import product

import numpy as np
import pytest
import torch

from saekit.errors import ModelError, SteeringError
from saekit.models import check_hook, encode_text, load_model
from saekit.steering import Decoder, Intervention, Sampler, generate, generate_stream
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
PROMPT = "The cat sat on the mat. A dog, 3 birds and the cafe owner watched"


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, 96)


@pytest.fixture(scope="module")
def bare(model_folder):
    """The tiny model without a tokenizer."""
    loaded = load_model(str(model_folder))
    loaded.tokenizer = None
    return loaded


def hooks_on(model):
    points = sum(len(point._forward_hooks) for point in set(model.hook_dict.values()))
    return points + sum(len(block._forward_pre_hooks) for block in model.blocks)


def naive(model, sae, prompt, intervention, steps):
    """Greedy tokens and their log-probabilities: the whole text again each time, with one rule for the edit."""
    edit, ids, logprobs = intervention.edits[0], list(prompt), []
    start, stop = {"all": (1, 999), "generated": (len(prompt) - 1, 999)}.get(
        intervention.positions, intervention.positions
    )

    def rule(x, hook):
        f, d = sae.encode(x)[..., edit.feature], sae.W_dec[edit.feature]
        c = torch.tensor(edit.value * intervention.strength)
        amount = {"add": c.expand_as(f), "clamp": c - f, "ablate": -f, "scale": (c - 1) * f}[edit.mode]
        x = x.clone()
        x[:, start:stop] += (amount[..., None] * d)[:, start:stop]
        return x

    for _ in range(steps):
        logits = model.run_with_hooks(
            torch.tensor([ids]), fwd_hooks=[(check_hook(model, HOOK), rule)], prepend_bos=False
        )[0, -1]
        ids.append(int(logits.argmax()))
        logprobs.append(logits.double().log_softmax(-1).max().item())
    return tuple(ids[len(prompt) :]), logprobs


@pytest.mark.parametrize("positions", ["all", "generated", (3, 8), (5, 40)])
@pytest.mark.parametrize("mode", ["add", "clamp", "ablate"])
def test_steered_tokens_are_those_of_a_loop_without_cache(model, sae, mode, positions):
    one = Intervention.on(sae, 7, 3.0, mode=mode, unit="activation", positions=positions)
    got = generate(model, PROMPT, one, sae=sae, max_new_tokens=12, stop_at_eos=False)
    ids, logprobs = naive(model, sae, encode_text(model, PROMPT).tolist(), one, 12)
    assert got.ids[0] == ids
    assert got.logprobs[0] == pytest.approx(logprobs, abs=1e-4)
    assert got.ends == ("length",)


def test_many_interventions_in_one_batch_write_what_each_writes_alone(model, sae):
    rows = [
        None,
        Intervention.on(sae, 7, 3.0, unit="activation"),
        Intervention.on(sae, 9, 3.0, unit="activation", positions="generated"),
        Intervention.along(torch.ones(32), "blocks.0.hook_resid_post", 0.5),
    ]
    together = generate(model, PROMPT, rows, sae=sae, max_new_tokens=12, stop_at_eos=False)
    for row, one in enumerate(rows):
        alone = generate(model, PROMPT, one, sae=sae, max_new_tokens=12, stop_at_eos=False)
        assert together.ids[row] == alone.ids[0]
        assert together.texts[row] == alone.texts[0]
        assert together.logprobs[row] == pytest.approx(alone.logprobs[0], abs=1e-4)
    assert len(set(together.ids)) == 4


def test_a_beginning_that_no_row_edits_is_read_once_for_all(model, sae):
    one = Intervention.on(sae, 7, 3.0, unit="activation", positions="generated")
    shapes = []
    handle = model.blocks[0].register_forward_pre_hook(
        lambda block, args, kwargs: shapes.append((args[0] if args else kwargs["hidden_states"]).shape[:2]),
        with_kwargs=True,
    )
    try:
        generate(model, PROMPT, one, sae=sae, strengths=[0, 1, 2], max_new_tokens=3, stop_at_eos=False)
    finally:
        handle.remove()
    n = len(encode_text(model, PROMPT))
    assert shapes == [(1, n - 1), (3, 1), (3, 1), (3, 1)]


@pytest.mark.parametrize("positions", ["all", "generated", (7, 12)])
def test_a_long_prompt_is_read_in_pieces_with_the_same_result(model, sae, monkeypatch, positions):
    rows = [None, *(Intervention.on(sae, 7, value, unit="norm", positions=positions) for value in (0.5, 1))]
    for batch in (rows, rows[:1], rows[1:2]):
        whole = generate(model, PROMPT, batch, sae=sae, max_new_tokens=5)
        monkeypatch.setattr("saekit.models.reader.CHUNK", 9)
        pieces = generate(model, PROMPT, batch, sae=sae, max_new_tokens=5)
        monkeypatch.undo()
        assert pieces.ids == whole.ids
        assert pieces.edit_norms == pytest.approx(whole.edit_norms, rel=1e-4)
        for one, other in zip(pieces.logprobs, whole.logprobs, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_without_intervention_the_text_is_that_of_transformers(model, model_folder):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    ids = encode_text(model, PROMPT)
    expected = reference.generate(
        ids[None], max_new_tokens=20, do_sample=False, pad_token_id=1, attention_mask=torch.ones_like(ids)[None]
    )
    got = generate(model, PROMPT, max_new_tokens=20)
    assert list(got.ids[0]) == expected[0, len(ids) :].tolist()
    with torch.no_grad():
        logprobs = reference(expected).logits[0].double().log_softmax(-1)
    told = [logprobs[len(ids) - 1 + n, token].item() for n, token in enumerate(got.ids[0])]
    assert got.logprobs[0] == pytest.approx(told, abs=1e-4)


@pytest.mark.parametrize(
    ("setting", "value"), [("repetition_penalty", 5.0), ("no_repeat_ngram_size", 1), ("num_beams", 3)]
)
def test_a_models_own_settings_of_generation_change_no_token(model, monkeypatch, setting, value):
    """Those of transformers' `generate` would: it takes from them what it is not given."""
    expected = generate(model, PROMPT, max_new_tokens=30)
    monkeypatch.setattr(model.original_model.generation_config, setting, value)
    assert generate(model, PROMPT, max_new_tokens=30) == expected
    ids = encode_text(model, PROMPT)[None]
    upstream = model.original_model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, pad_token_id=1
    )
    assert tuple(upstream[0, ids.shape[1] :].tolist()) != expected.ids[0], "the setting is one that matters"


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("mode", ["add", "clamp", "ablate", "scale"])
def test_strength_zero_is_no_intervention_bit_for_bit(model, sae, mode, rows):
    one = Intervention.on(sae, 7, 3.0, mode=mode, unit="activation")
    off = generate(model, PROMPT, one, sae=sae, strengths=[0.0] * rows, max_new_tokens=12)
    plain = generate(model, PROMPT, [None] * rows, max_new_tokens=12)
    assert off.ids == plain.ids
    assert off.logprobs == plain.logprobs


def test_the_stream_and_the_callback_hand_out_the_text_of_the_result(model, sae):
    one = Intervention.on(sae, 7, 3.0, unit="activation")
    steps = []
    result = generate(model, PROMPT, one, sae=sae, strengths=[0, 1], max_new_tokens=9, on_step=steps.append)
    stream = generate_stream(model, PROMPT, one, sae=sae, strengths=[0, 1], max_new_tokens=9)
    assert list(stream) == steps
    assert stream.result == result
    for row in range(2):
        assert "".join(step.texts[row] for step in steps) == result.texts[row]
        assert tuple(step.ids[row] for step in steps if step.ids[row] is not None) == result.ids[row]
    assert [step.number for step in steps] == list(range(9))
    assert steps[-1].ends == ("length", "length")


def test_adding_features_takes_no_sae_and_writes_the_same(model, sae):
    rows = [None, Intervention.on(sae, 7, 3.0, unit="activation"), Intervention.on(sae, [8, 9], unit="norm")]
    expected = generate(model, PROMPT, rows, sae=sae, max_new_tokens=9)
    assert generate(model, PROMPT, rows, max_new_tokens=9) == expected
    stream = generate_stream(model, PROMPT, rows, max_new_tokens=9)
    assert len(list(stream)) == 9 and stream.result == expected


def test_progress_counts_the_tokens_of_a_row(model):
    seen = []
    generate(model, PROMPT, max_new_tokens=3, stop_at_eos=False, progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_row_that_has_ended_stays_ended(model, sae, monkeypatch):
    plain = generate(model, PROMPT, [None, Intervention.on(sae, 7, 3.0, unit="activation")], sae=sae, max_new_tokens=8)
    end = plain.ids[0][3]
    at = [row.index(end) if end in row else None for row in plain.ids]
    monkeypatch.setattr(import_module("saekit.steering.generation"), "end_tokens", lambda model: frozenset({end}))
    got = generate(model, PROMPT, plain.interventions, sae=sae, max_new_tokens=8)
    for row, first in enumerate(at):
        assert got.ids[row] == plain.ids[row][: None if first is None else first + 1]
        assert got.ends[row] == ("length" if first is None else "eos")
    assert got.texts[0] == model.tokenizer.decode(got.ids[0][:-1])


def test_the_length_of_the_edits_comes_with_the_text(model, sae):
    rows = [None, *(Intervention.on(sae, 7, value, unit="norm") for value in (0.25, -0.5))]
    got = generate(model, PROMPT, rows, sae=sae, max_new_tokens=5)
    assert got.edit_norms == pytest.approx((0, 0.25, 0.5), rel=1e-5)


# --- sampling --------------------------------------------------------------------------------------------------


def test_samples_follow_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    for temperature, top_k in ((1.0, None), (0.5, None), (1.0, 2)):
        sampler = Sampler(temperature, top_k, 0)
        drawn = torch.stack([sampler.choose(logits) for _ in range(4000)])
        for row in range(2):
            expected = (logits[row] / temperature).softmax(-1)
            if top_k and row == 0:
                expected = torch.where(logits[row] >= 1, expected, 0) / expected[[1, 2]].sum()
            seen = torch.bincount(drawn[:, row], minlength=4) / len(drawn)
            assert torch.allclose(seen, expected, atol=0.03)


def test_options_may_be_numbers_of_numpy(model):
    options = {"temperature": np.float32(1), "top_k": np.int64(5), "seed": np.int64(3)}
    plain = {name: value.item() for name, value in options.items()}
    assert generate(model, PROMPT, max_new_tokens=4, **options) == generate(model, PROMPT, max_new_tokens=4, **plain)


def test_a_seed_gives_the_same_text_again_and_rows_share_their_chance(model, sae):
    one = Intervention.on(sae, 7, 3.0, unit="activation")
    options = {"sae": sae, "temperature": 1.0, "max_new_tokens": 10}
    first = generate(model, PROMPT, one, strengths=[0, 0, 1], seed=1, **options)
    before = torch.random.get_rng_state()
    assert generate(model, PROMPT, one, strengths=[0, 0, 1], seed=1, **options) == first
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is not touched"
    assert first.ids[0] == first.ids[1] != first.ids[2]
    assert generate(model, PROMPT, one, strengths=[0, 0, 1], seed=2, **options).ids != first.ids


# --- stopping --------------------------------------------------------------------------------------------------


def test_stop_ends_with_the_text_so_far_and_a_clean_model(model, sae):
    one, before, seen = Intervention.on(sae, 7, 3.0, unit="activation"), hooks_on(model), []
    full = generate(model, PROMPT, one, sae=sae, max_new_tokens=9)
    got = generate(
        model, PROMPT, one, sae=sae, max_new_tokens=9, on_step=seen.append, stop=lambda: len(seen) >= 4
    )  # fmt: skip
    assert got.ends == ("stopped",)
    assert got.ids[0] == full.ids[0][:4]
    assert full.texts[0].startswith(got.texts[0])
    assert hooks_on(model) == before
    assert generate(model, PROMPT, one, sae=sae, stop=lambda: True).ids == ((),)


def test_stop_is_heard_in_the_middle_of_a_pass(model, sae):
    asked = []

    def stop():
        asked.append(1)
        return len(asked) >= 3  # once before the pass, then before blocks 0 and 1 of 3

    ran = []
    handle = model.blocks[2].register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        stream = generate_stream(model, PROMPT, Intervention.on(sae, 7, unit="norm"), sae=sae, stop=stop)
        assert list(stream) == []
    finally:
        handle.remove()
    assert ran == []
    assert stream.result.ends == ("stopped",)


def test_another_thread_can_stop_a_generation(model, sae):
    event, result = threading.Event(), []
    one = Intervention.on(sae, 7, unit="norm")
    options = {"sae": sae, "max_new_tokens": 200, "stop_at_eos": False, "stop": event.is_set}
    started = threading.Event()
    thread = threading.Thread(
        target=lambda: result.append(generate(model, PROMPT, one, on_step=lambda step: started.set(), **options))
    )
    thread.start()
    started.wait()
    event.set()
    thread.join()
    assert 0 < len(result[0].ids[0]) < 200
    assert result[0].ends == ("stopped",)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_clean(model, sae, error):
    before, ids = hooks_on(model), encode_text(model, PROMPT)[None]
    reference = model(ids, prepend_bos=False)

    def interrupt(*_):
        raise error

    for block in (0, 2):  # before and after the block whose output is edited
        handle = model.blocks[block].register_forward_pre_hook(interrupt)
        try:
            with pytest.raises(error):
                generate(model, PROMPT, Intervention.on(sae, 7, unit="norm"), sae=sae, stop=lambda: False)
        finally:
            handle.remove()
        assert hooks_on(model) == before
    with pytest.raises(error):
        generate(model, PROMPT, Intervention.on(sae, 7, unit="norm"), sae=sae, on_step=interrupt)
    assert hooks_on(model) == before
    assert torch.equal(model(ids, prepend_bos=False), reference)


def test_between_two_steps_and_after_leaving_half_way_no_hook_is_on_the_model(model, sae):
    before, ids = hooks_on(model), encode_text(model, PROMPT)[None]
    reference = model(ids, prepend_bos=False)
    stream = generate_stream(model, PROMPT, Intervention.on(sae, 7, 5.0, unit="norm"), sae=sae)
    next(stream)
    assert hooks_on(model) == before
    assert torch.equal(model(ids, prepend_bos=False), reference), "the model can be used while a stream waits"
    second = next(stream)
    stream.close()
    assert list(stream) == []
    assert stream.result.ends == ("stopped",)
    assert stream.result.ids[0][1] == second.ids[0]
    assert hooks_on(model) == before


# --- prompts ---------------------------------------------------------------------------------------------------


def test_a_prompt_can_be_tokens(model):
    ids = encode_text(model, PROMPT)
    expected = generate(model, PROMPT, max_new_tokens=5)
    for prompt in (ids, ids.tolist(), ids.numpy()):
        assert generate(model, prompt, max_new_tokens=5).ids == expected.ids


def test_the_chat_template_is_used_where_the_model_has_one(model_folder):
    chatty = load_model(str(model_folder))
    chatty.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"
    )
    expected = encode_text(chatty, "[user] The cat\n[assistant]").tolist()
    assert generate(chatty, "The cat", max_new_tokens=1).prompt_ids == tuple(expected)
    assert generate(chatty, "The cat", chat=False, max_new_tokens=1).prompt_ids == tuple(
        encode_text(chatty, "The cat").tolist()
    )


def test_a_model_without_tokenizer_reads_and_writes_token_ids(bare):
    got = generate(bare, [0, 5, 9], max_new_tokens=3)
    assert got.texts[0] == "".join(f"<{token}>" for token in got.ids[0])
    with pytest.raises(ModelError, match="has no tokenizer: pass token ids"):
        generate(bare, "words")


def test_generation_ends_where_the_context_ends(model, sae):
    ids = encode_text(model, "cat " * 250)[:250]
    got = generate(model, ids, Intervention.on(sae, 7, unit="norm"), sae=sae, max_new_tokens=64, stop_at_eos=False)
    assert len(got.ids[0]) == 6
    assert got.ends == ("context",)
    for prompt in ("cat " * 400, torch.ones(256, dtype=torch.long)):
        with pytest.raises(SteeringError, match="fills the context of 256 tokens"):
            generate(model, prompt)


def test_a_long_prompt_is_refused_at_once(model):
    start = time.process_time()
    with pytest.raises(SteeringError, match="fills the context"):
        generate(model, "cat " * 2_000_000)
    assert time.process_time() - start < 30  # not minutes


def test_characters_of_several_tokens_come_whole(model):
    text = "née 戦場 😀 مرحبا"
    decoder, parts = Decoder(model), []
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = [decoder.add(token) for token in ids]
    assert len(ids) > len(text.split())
    assert "".join(parts) == text == decoder.text
    assert decoder.rest() == ""
    decoder = Decoder(model)
    assert "".join(decoder.add(token) for token in ids[:-1]) + decoder.rest() == model.tokenizer.decode(ids[:-1])


def test_bad_options_are_refused_before_anything_runs(model, sae):
    one = Intervention.on(sae, 7, unit="norm")

    def refused(match, prompt=PROMPT, intervention=one, **options):
        with pytest.raises(SteeringError, match=match):
            generate_stream(model, prompt, intervention, **{"sae": sae, **options})

    for empty in ("", "  \n"):
        refused("prompt is empty", prompt=empty)
    refused("the prompt is of torch.float32: expected token ids", prompt=[])
    refused("the prompt has no tokens", prompt=torch.zeros(0, dtype=torch.long))
    refused("text or one row of token ids", prompt=torch.zeros(2, 3, dtype=torch.long))
    refused("the prompt is of torch.float32: expected token ids", prompt=[0.5, 1.0])
    refused("text or token ids", prompt=["a", "b"])
    refused("text or token ids", prompt=None)
    refused("the prompt has token ids from 3 to 400, outside 0 to 399", prompt=[3, 400])
    refused("no chat template", chat=True)
    refused("pass seed=", temperature=1.0)
    refused("temperature must be", temperature=-1.0, seed=0)
    refused("temperature must be", temperature=float("nan"), seed=0)
    refused("top_k must be", temperature=1.0, top_k=0, seed=0)
    for temperature in ("hot", "1.0", None, [1.0], float("inf")):
        refused("temperature must be", temperature=temperature, seed=0)
    for top_k in (2.5, "3", True):
        refused("top_k must be", temperature=1.0, top_k=top_k, seed=0)
    for seed in ("x", 1.5, -1, 2**63, True):
        refused("seed must be a whole number", temperature=1.0, seed=seed)
        refused("seed must be a whole number", seed=seed)
    for strengths in (2.0, "12", torch.tensor(2.0)):
        refused("strengths must be a list of numbers", strengths=strengths)
    refused("strength must be a number, not 'a'", strengths=["a"])
    refused("expected interventions or None, got 5", intervention=5)
    refused("max_new_tokens must be", max_new_tokens=0)
    refused("max_new_tokens must be", max_new_tokens=2.5)
    refused("an empty list", intervention=[])
    refused("got 'add'", intervention=["add"])
    refused("strengths= goes with one", intervention=[one], strengths=[1, 2])
    refused("an empty list", strengths=[])
    refused("pass sae=", intervention=Intervention.on(sae, 7, mode="ablate"), sae=None)
    refused("features of another SAE", sae=tiny.topk_sae(32, 4, k=2))
    outside = Intervention.on(sae, 7, unit="norm", positions=(90, 99))
    refused("lie outside of the text", intervention=outside, max_new_tokens=5)


@pytest.mark.parametrize("value", [float("inf"), -1e30, 1e9])
def test_no_strength_breaks_a_generation(model, sae, value):
    kinds = product(("add", "clamp"), ("norm", "activation"))
    rows = [Intervention.on(sae, 7, value, mode=mode, unit=unit) for mode, unit in kinds]
    for options in ({}, {"temperature": 1.0, "seed": 0}):
        got = generate(model, PROMPT, rows, sae=sae, max_new_tokens=4, stop_at_eos=False, **options)
        assert all(len(row) == 4 for row in got.ids)
        assert all(logprob <= 0 for row in got.logprobs for logprob in row)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_steered_too(model_folder, sae, dtype):
    half = load_model(str(model_folder), dtype=dtype)
    rows = [None, *(Intervention.on(sae, 7, value, mode="clamp", unit="norm") for value in (0.0, 0.5, 1e9))]
    got = generate(half, PROMPT, rows, sae=sae, max_new_tokens=4, stop_at_eos=False)
    assert all(len(row) == 4 for row in got.ids)
    assert got.ids[1] != got.ids[3]


@pytest.mark.slow
def test_a_feature_for_music_makes_the_packaged_model_write_about_music():
    from saekit.index import FeatureIndex
    from saekit.saes import load_sae

    model = load_model(progress=False)
    sae = load_sae(model=model)
    index = FeatureIndex.load(sae=sae)
    one = Intervention.on(sae, 3240, index=index, positions="generated")
    plain, steered = [], []
    for prompt in ("The most important thing is", "Yesterday I"):
        got = generate(model, prompt, one, sae=sae, strengths=[0, 1], chat=False, max_new_tokens=24)
        alone = generate(model, prompt, [None, None], chat=False, max_new_tokens=24)
        assert (got.ids[0], got.logprobs[0]) == (alone.ids[0], alone.logprobs[0])
        plain.append(got.texts[0])
        steered.append(got.texts[1])
    about = re.compile("music|song|sing|band|concert")
    assert not about.search(" ".join(plain)) and about.search(" ".join(steered))
    in_chat = generate(model, "Yesterday I", max_new_tokens=1)
    assert "<|im_start|>user" in model.tokenizer.decode(in_chat.prompt_ids)


def test_results_print_and_render_without_markup_of_the_text(model, sae):
    rows = [None, Intervention.on(sae, 7, unit="norm")]
    got = generate(model, "<script>alert(1)</script>", rows, sae=sae, max_new_tokens=4)
    assert "[no intervention; length]" in repr(got)
    assert "<script>" not in got._repr_html_()
    assert "feature 7" in got._repr_html_()


def test_a_model_without_cache_of_transformers_kind_reads_its_text_again():
    from tests.benchmarks.index_bench import random_parts

    model, _, _ = random_parts(1)
    ids = torch.arange(1, 20)
    one = Intervention.along(torch.arange(256) % 7, "blocks.1.hook_resid_post", 2.0, positions="generated")
    got = generate(model, ids, [None, one], max_new_tokens=4, stop_at_eos=False)
    text = ids.tolist()
    for token in got.ids[0]:
        assert token == int(model(torch.tensor([text]), prepend_bos=False)[0, -1].argmax())
        text.append(token)
    assert got.ids[1] == generate(model, ids, one, max_new_tokens=4, stop_at_eos=False).ids[0] != got.ids[0]


def test_a_cache_that_a_model_does_not_fill_is_not_relied_on(model, sae, monkeypatch):
    from transformers import DynamicCache

    rows = [None, Intervention.on(sae, 7, 3.0, unit="activation", positions="generated")]
    expected = generate(model, PROMPT, rows, sae=sae, max_new_tokens=6)

    class Empty(DynamicCache):
        def get_seq_length(self, layer_idx=0):
            return 0

        def update(self, keys, values, layer_idx, *args, **kwargs):
            return keys, values

    for chunk, cache in product((512, 9), (lambda model: Empty(), lambda model: None)):
        monkeypatch.setattr("saekit.models.reader.CHUNK", chunk)
        monkeypatch.setattr("saekit.models.reader._new_cache", cache)
        got = generate(model, PROMPT, rows, sae=sae, max_new_tokens=6)
        assert got.ids == expected.ids
