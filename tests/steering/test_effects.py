"""Side effects against their definitions: transformers' loss, float64, and texts whose answer is known."""

import math
import re
from dataclasses import replace

import pytest
import torch

from saekit.errors import SteeringError, Stopped
from saekit.models import check_hook, encode_text, hidden_states
from saekit.steering import Intervention, generate, neutral_kl, side_effects
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
PROMPT = "The cat sat on the mat."
NEUTRAL = ["The film was shown in Paris.", "A dog watched the birds and the cafe owner."]


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, 96)


@pytest.fixture(scope="module")
def written(model, sae):
    one = Intervention.on(sae, 7, 0.5, unit="norm")
    return generate(model, PROMPT, [None, one, one.scaled(0)], sae=sae, max_new_tokens=12, stop_at_eos=False)


def with_rows(generation, ids, interventions=None):
    """A generation of which only the tokens, and perhaps the interventions, matter."""
    n = len(ids)
    return replace(
        generation,
        ids=ids,
        logprobs=tuple((0.0,) * len(row) for row in ids),
        texts=("",) * n,
        edit_norms=(0.0,) * n,
        ends=("length",) * n,
        interventions=(None,) * n if interventions is None else interventions,
    )


def test_kl_is_its_definition_on_neutral_text(model, sae, written):
    d = sae.W_dec[7].double()

    def rule(x, hook):
        x = x.clone()
        x[:, 1:] += (0.5 * x[:, 1:].norm(dim=-1, keepdim=True) * d / d.norm()).float()
        return x

    sums, tokens = 0.0, 0
    for text in NEUTRAL:
        ids = encode_text(model, text)[None]
        clean = model(ids, prepend_bos=False)[0, 1:].double().softmax(-1)
        steered = model.run_with_hooks(ids, fwd_hooks=[(check_hook(model, HOOK), rule)], prepend_bos=False)
        steered = steered[0, 1:].double().softmax(-1)
        sums, tokens = sums + (clean * (clean.log() - steered.log())).sum().item(), tokens + len(clean)
    found = side_effects(model, written, sae=sae, neutral=NEUTRAL)
    assert found[1].kl == pytest.approx(sums / tokens, rel=1e-4)
    assert found[0].kl == found[2].kl == 0
    generated = replace(written.interventions[1], positions="generated")
    assert neutral_kl(model, [generated], sae=sae, neutral=NEUTRAL) == pytest.approx([sums / tokens], rel=1e-4)
    assert neutral_kl(model, [replace(generated, positions=(200, 210))], sae=sae, neutral=NEUTRAL) == [0]


def test_perplexity_is_that_of_transformers(model, model_folder, sae, written):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    found = side_effects(model, written, sae=sae, neutral=[])
    for row, effects in enumerate(found):
        ids = torch.tensor([*written.prompt_ids, *written.ids[row]])[None]
        labels = ids.clone()
        labels[:, : len(written.prompt_ids)] = -100
        with torch.no_grad():
            loss = reference(ids, labels=labels).loss.item()
        assert effects.perplexity == pytest.approx(math.exp(loss), rel=1e-3)
        assert effects.perplexity == pytest.approx(math.exp(-sum(effects.logprobs_plain) / 12), rel=1e-6)
    assert found[0].logprobs_plain == pytest.approx(found[0].logprobs, abs=1e-4)
    assert found[1].perplexity > found[0].perplexity, "greedy text that was steered is not what the model would write"


def test_outputs_can_be_judged_after_another_prompt(model, model_folder, sae):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    asked = generate(model, f"Talk about cats. {PROMPT}", max_new_tokens=8, stop_at_eos=False)
    before = encode_text(model, PROMPT)
    ids = torch.cat([before, torch.tensor(asked.ids[0])])
    with torch.no_grad():
        logprobs = reference(ids[None]).logits[0].double().log_softmax(-1)
    told = [logprobs[len(before) - 1 + n, token].item() for n, token in enumerate(asked.ids[0])]
    for prompt in (PROMPT, before, before.tolist()):
        (found,) = side_effects(model, asked, neutral=[], prompt=prompt)
        assert found.logprobs_plain == pytest.approx(told, abs=1e-4)
        assert found.perplexity == pytest.approx(math.exp(-sum(told) / 8), rel=1e-3)
        assert found.logprobs == asked.logprobs[0]
    (own,) = side_effects(model, asked, neutral=[])
    assert own.perplexity == pytest.approx(math.exp(-sum(asked.logprobs[0]) / 8), rel=1e-3)
    assert own.perplexity != pytest.approx(found.perplexity, rel=1e-2)
    for match, prompt in (
        ("prompt is empty", " "),
        ("no room", [5] * 256),
        ("context has 256: expected a sho", [5] * 250),
    ):
        with pytest.raises(SteeringError, match=match):
            side_effects(model, asked, neutral=[], prompt=prompt)


def test_the_feature_is_read_in_the_text_by_the_model_left_alone(model, sae, written):
    found = side_effects(model, written, sae=sae, neutral=[], features=[7, 8])
    for row, effects in enumerate(found):
        ids = torch.tensor([*written.prompt_ids, *written.ids[row]])[None]
        active = sae.encode(hidden_states(model, ids, HOOK))[0, len(written.prompt_ids) :, [7, 8]].amax(-1)
        assert effects.feature_share == pytest.approx((active > 0).float().mean().item())
        assert effects.feature_mean == pytest.approx(active.mean().item(), rel=1e-4)
    own = side_effects(model, written, sae=sae, neutral=[])
    assert math.isnan(own[0].feature_share), "nothing was edited, so there is no target"
    assert not math.isnan(own[1].feature_share)


def test_rows_are_read_together_as_each_alone(model, sae, written, monkeypatch):
    """Rows of three lengths, one empty, more of one length than are read together."""
    cut = (12, 5, 5, 0, 12)
    rows = (0, 1, 2, 1, 1)
    made = with_rows(
        written,
        ids=tuple(written.ids[row][:n] for row, n in zip(rows, cut, strict=True)),
        interventions=tuple(written.interventions[row] for row in rows),
    )
    monkeypatch.setattr("saekit.steering.effects.READ_TOGETHER", 1)
    alone = side_effects(model, made, sae=sae, neutral=[])
    for most in (2, 8):
        monkeypatch.setattr("saekit.steering.effects.READ_TOGETHER", most)
        for one, other in zip(side_effects(model, made, sae=sae, neutral=[]), alone, strict=True):
            assert one.logprobs_plain == pytest.approx(other.logprobs_plain, abs=1e-4)
            assert one.feature_mean == pytest.approx(other.feature_mean, rel=1e-4, nan_ok=True)


def test_the_concept_is_counted_in_words_or_in_tokens(model, written):
    texts = ("The SEA, the sea; a seal.", "", "no water")
    made = replace(written, texts=texts, ids=((5, 6, 5), (), (6, 6, 6, 6)), logprobs=((), (), ()))
    shares = [e.concept_share for e in side_effects(model, made, concept=r"\bsea\b", neutral=[])]
    assert shares == [pytest.approx(2 / 6), 0, 0]
    shares = [e.concept_share for e in side_effects(model, made, concept=[5], neutral=[])]
    assert shares == [pytest.approx(2 / 3), 0, 0]
    assert math.isnan(side_effects(model, made, neutral=[])[0].concept_share)


def test_repetition_counts_runs_of_three_that_have_occurred(model, written):
    # The third is 10 runs, one of them new; the fourth is 123 231 312 123.
    ids = ((1, 2, 3, 4, 5), (1,) * 12, (1, 2, 3, 1, 2, 3), (1, 2), ())
    made = with_rows(written, ids=ids)
    assert [e.repetition for e in side_effects(model, made, neutral=[])] == pytest.approx([0, 0.9, 0.25, 0, 0])


def test_an_empty_output_has_no_perplexity(model, sae):
    empty = generate(model, PROMPT, Intervention.on(sae, 7, unit="norm"), sae=sae, stop=lambda: True)
    (found,) = side_effects(model, empty, sae=sae, neutral=NEUTRAL, concept="sea")
    assert math.isnan(found.perplexity) and math.isnan(found.feature_share)
    assert found.concept_share == found.repetition == 0
    assert found.kl > 0
    assert "KL" in repr(found)


def test_huge_strengths_are_measured_as_well(model, sae):
    rows = [Intervention.on(sae, 7, value, unit="norm") for value in (float("inf"), -1e30)]
    got = generate(model, PROMPT, rows, sae=sae, max_new_tokens=4)
    for effects in side_effects(model, got, sae=sae, neutral=NEUTRAL):
        assert math.isfinite(effects.kl) and math.isfinite(effects.perplexity) and effects.kl > 0


def test_what_adding_costs_is_measured_without_the_sae(model, sae, written):
    with_sae = side_effects(model, written, sae=sae, neutral=NEUTRAL)
    for one, other in zip(side_effects(model, written, neutral=NEUTRAL), with_sae, strict=True):
        assert math.isnan(one.feature_share)
        assert (one.kl, one.perplexity, one.logprobs_plain) == (other.kl, other.perplexity, other.logprobs_plain)


def test_measuring_counts_texts_and_can_be_stopped_within_a_pass(model, sae, written):
    seen, asked = [], []
    side_effects(model, written, sae=sae, neutral=NEUTRAL, progress=lambda *step: seen.append(step))
    assert seen == [(1, 5), (2, 5), (5, 5)], "two neutral texts, then three outputs of one length"

    def stop():
        asked.append(1)
        return len(asked) >= 3

    for measure in (
        lambda: side_effects(model, written, sae=sae, neutral=NEUTRAL, stop=stop),
        lambda: side_effects(model, written, sae=sae, neutral=[], stop=stop),
        lambda: neutral_kl(model, written.interventions, sae=sae, stop=stop),
    ):
        asked.clear()
        with pytest.raises(Stopped):
            measure()
        assert len(asked) == 3, "once before it begins, then before blocks 0 and 1 of 3"


def test_kl_leaves_out_special_tokens_wherever_they_stand(model, written):
    ids = encode_text(model, NEUTRAL[0])
    push = Intervention.along(torch.ones(32), "blocks.1.hook_resid_post", 0.5)
    twice = torch.cat([ids, ids[[0]]])  # a second BOS, at the end, where no other token hears of it
    assert neutral_kl(model, [push], neutral=[twice]) == pytest.approx(neutral_kl(model, [push], neutral=[ids]))


def test_measuring_leaves_the_model_clean(model, sae, written):
    ids = encode_text(model, PROMPT)[None]
    reference = model(ids, prepend_bos=False)
    side_effects(model, written, sae=sae)
    assert torch.equal(model(ids, prepend_bos=False), reference)


def test_what_cannot_be_measured_is_refused(model, sae, written):
    for match, options in (
        ("no regular expression", {"concept": "("}),
        ("regular expression or token ids", {"concept": 1.5}),
        ("regular expression or token ids", {"concept": [1.5]}),
        ("concept is empty", {"concept": " "}),
        ("concept is empty", {"concept": set()}),
        ("matches the empty text", {"concept": "x*"}),
        ("matches the empty text", {"concept": re.compile("")}),
        ("regular expression or token ids", {"concept": ["sea"]}),
        ("pass sae=", {"features": [3], "sae": None}),
        ("no feature 96", {"features": [96]}),
    ):
        with pytest.raises(SteeringError, match=match):
            side_effects(model, written, **{"sae": sae, **options})
