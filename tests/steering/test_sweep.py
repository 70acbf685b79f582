"""Sweeps: their points are those of each run alone, baselines are as long as what they stand beside."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from saekit.errors import SteeringError, Stopped
from saekit.models import encode_text, hidden_states, massive
from saekit.saes import sae_identity
from saekit.steering import (
    Intervention,
    baseline,
    difference_of_means,
    generate,
    neutral_kl,
    random_feature,
    side_effects,
    steering_sweep,
)
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
PROMPTS = ("The cat sat on the mat.", "A dog and the cafe owner watched.")
EXAMPLES = (["The film was shown in Paris."], ["In 1984 the birds sat on the mat."])


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, 96)


@pytest.fixture(scope="module")
def sweep(model, sae):
    targets = [Intervention.on(sae, 7, unit="norm"), Intervention.on(sae, [8, 9], 2.0, mode="clamp", unit="activation")]
    return steering_sweep(
        model, PROMPTS, targets, sae=sae, strengths=[1, 0, 0.25], topic="cats", examples=EXAMPLES, batch_size=3,
        max_new_tokens=6, stop_at_eos=False, concept="a",
    )  # fmt: skip


def test_every_method_has_its_curve(sweep):
    names = [p.method for p in sweep.points]
    lot = next(name for name in names if name.startswith("random feature"))
    assert set(names) == {
        "unsteered", "prompt", "feature 7", "feature 8 + feature 9", "difference of means", "random direction",
        *[name for name in names if name.startswith("random feature")],
    }  # fmt: skip
    assert sweep.complete and not sweep.skipped
    for method in ("feature 7", "feature 8 + feature 9"):
        assert [p.strength for p in sweep.curve(method)] == [0, 0.25, 1]
        assert [p.strength for p in sweep.curve("random direction", matched_to=method)][-2:] == [0.25, 1]
    assert len(sweep.curve(lot)) >= 3
    assert [math.isnan(p.strength) for p in sweep.curve("prompt")] == [True]
    with pytest.raises(SteeringError, match="no method 'magic' in this sweep: there are unsteered"):
        sweep.curve("magic")


def test_a_point_is_what_each_run_alone_measures(model, sae, sweep):
    point = sweep.curve("feature 7")[2]
    one = Intervention.on(sae, 7, unit="norm")
    alone = [generate(model, prompt, one, sae=sae, max_new_tokens=6, stop_at_eos=False) for prompt in PROMPTS]
    effects = [side_effects(model, made, sae=sae, concept="a", neutral=[])[0] for made in alone]
    assert point.texts == tuple(made.texts[0] for made in alone)
    logs = [math.log(e.perplexity) for e in effects]
    assert point.perplexity == pytest.approx(math.exp(sum(logs) / 2), rel=1e-4)
    for name in ("repetition", "feature_share", "concept_share", "edit_norm"):
        assert getattr(point, name) == pytest.approx(sum(getattr(e, name) for e in effects) / 2, rel=1e-4)
    assert point.kl == pytest.approx(neutral_kl(model, [one], sae=sae)[0], rel=1e-4)
    assert point.concept_hit == sum("a" in text.lower() for text in point.texts) / 2
    plain = sweep.points[0]
    assert (plain.method, plain.strength, plain.kl, plain.edit_norm) == ("unsteered", 0, 0, 0)
    expected = min(1, plain.perplexity / point.perplexity) * (1 - max(0, point.repetition - plain.repetition))
    assert point.fluency == pytest.approx(expected)
    assert plain.fluency == 1


def test_baselines_are_as_long_as_what_they_stand_beside(sweep):
    for target in ("feature 7", "feature 8 + feature 9"):
        lengths = {p.strength: p.edit_norm for p in sweep.curve(target)}
        beside = [p for p in sweep.points if p.matched_to == target]
        assert len(beside) == 6
        for point in beside:
            assert point.edit_norm == pytest.approx(lengths[point.strength], rel=1e-3)
            assert lengths[point.strength] > 0


def test_a_negative_strength_turns_its_baselines_round(model, sae):
    sweep = steering_sweep(
        model, PROMPTS[0], Intervention.on(sae, 7, unit="norm"), sae=sae, strengths=[-0.5], neutral=[],
        baselines=["random direction"], max_new_tokens=2,
    )  # fmt: skip
    there = sweep.curve("random direction")[0]
    assert there.intervention.strength == pytest.approx(-0.5, rel=1e-4)
    assert there.edit_norm == pytest.approx(0.5, rel=1e-4)
    assert math.isnan(there.kl)


def test_the_prompt_baseline_asks_for_the_topic(model, sae, sweep):
    asked = generate(model, f"Talk about cats. {PROMPTS[1]}", max_new_tokens=6, stop_at_eos=False)
    assert sweep.curve("prompt")[0].texts[1] == asked.texts[0]


def test_what_the_prompt_baseline_wrote_is_judged_after_the_plain_prompt(model, model_folder, sae, sweep):
    """Like every other text: with the request in the context the reader would expect the topic."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    losses, shares = [], []
    for prompt in PROMPTS:
        asked = generate(model, f"Talk about cats. {prompt}", max_new_tokens=6, stop_at_eos=False)
        before = encode_text(model, prompt).tolist()
        ids = torch.tensor([[*before, *asked.ids[0]]])
        with torch.no_grad():
            losses.append(reference(ids, labels=ids.masked_fill(torch.arange(ids.shape[1]) < len(before), -100)).loss)
        active = sae.encode(hidden_states(model, ids, HOOK))[0, len(before) :, [7, 8, 9]].amax(-1)
        shares.append((active > 0).float().mean())
    point, plain = sweep.curve("prompt")[0], sweep.points[0]
    perplexity = float(torch.stack(losses).mean().exp())
    assert point.perplexity == pytest.approx(perplexity, rel=1e-3)
    assert point.feature_share == pytest.approx(float(torch.stack(shares).mean()))
    expected = min(1, plain.perplexity / perplexity) * (1 - max(0, point.repetition - plain.repetition))
    assert point.fluency == pytest.approx(expected, rel=1e-3)


def test_with_a_chat_template_the_plain_prompt_stands_in_it_too(model_folder):
    from saekit.models import load_model

    chatty = load_model(str(model_folder))
    chatty.tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[user] {{ m['content'] }}\n{% endfor %}[it]"
    one = Intervention.along(torch.ones(32), HOOK)
    options = {"max_new_tokens": 5, "stop_at_eos": False}
    for chat, before in ((None, "[user] The cat\n[it]"), (False, "The cat")):
        got = steering_sweep(
            chatty, "The cat", one, topic="sea", strengths=[0.5], baselines="prompt", neutral=[], chat=chat, **options
        )
        asked = generate(chatty, "Talk about sea. The cat", chat=chat, **options)
        (judged,) = side_effects(chatty, asked, neutral=[], prompt=encode_text(chatty, before))
        assert got.curve("prompt")[0].perplexity == pytest.approx(judged.perplexity)


def test_baselines_that_cannot_run_say_why(model, sae):
    one = Intervention.along(torch.ones(32), HOOK)
    sweep = steering_sweep(model, PROMPTS[0], one, strengths=[0.5], max_new_tokens=2, neutral=[])
    assert set(sweep.skipped) == {"prompt", "difference of means", "random feature"}
    assert "pass topic=" in repr(sweep) and "pass examples=" in repr(sweep) and "pass sae=" in repr(sweep)
    assert math.isnan(sweep.points[-1].score), "without a criterion or features nobody knows what the concept is"


def test_best_and_breaking_point_read_the_curve(sweep):
    from dataclasses import replace

    base = sweep.curve("feature 7")[1]
    made = [
        replace(base, method="m", strength=s, score=score, fluency=fluency)
        for s, score, fluency in ((0.5, 0.2, 0.9), (1, 0.7, 0.6), (2, 0.7, 0.4), (4, 0, 0.1), (-1, 0, 0.1))
    ]
    made = replace(sweep, points=(replace(sweep.points[0], score=0.0), *made))
    assert made.best("m").strength == 1
    assert made.breaks_at("m") == 2
    assert made.breaks_at("m", fluency=0.01) is None


def test_the_score_is_the_harmonic_mean_and_zero_if_a_part_is(model, sae, sweep):
    never = steering_sweep(
        model, PROMPTS[0], Intervention.on(sae, 7, unit="norm"), strengths=[0.5], concept="qqq", baselines=[],
        neutral=[], max_new_tokens=2,
    )  # fmt: skip
    assert [p.score for p in never.points] == [0, 0]
    scored = [p for p in sweep.points if p.concept_hit and p.fluency]
    assert scored and [p.score for p in scored] == pytest.approx(
        [2 * p.concept_hit * p.fluency / (p.concept_hit + p.fluency) for p in scored]
    )


def test_a_sweep_goes_to_json_and_prints(sweep):
    data = json.loads(json.dumps(sweep.as_dict(), allow_nan=False))
    assert data["points"][1]["strength"] is None
    assert data["points"][2]["intervention"]["edits"][0]["feature"] == 7
    assert "feature 7" in repr(sweep)


def test_points_arrive_as_they_are_done_and_stop_keeps_them(model, sae):
    seen = []
    one = Intervention.on(sae, 7, unit="norm")
    options = {"sae": sae, "strengths": [0.5, 1], "batch_size": 1, "max_new_tokens": 2, "baselines": []}
    got = steering_sweep(model, PROMPTS, one, on_point=seen.append, stop=lambda: len(seen) >= 2, **options)
    assert not got.complete
    assert list(got.points) == seen
    assert [p.method for p in seen] == ["unsteered", "feature 7"]
    assert "stopped before its end" in repr(got)
    assert steering_sweep(model, PROMPTS, one, stop=lambda: True, **options).points == ()
    assert steering_sweep(model, PROMPTS, one, **options).complete


def test_progress_counts_points_also_those_that_cannot_run(model, sae):
    seen = []
    options = {"strengths": [0.5, 1], "max_new_tokens": 2, "neutral": [], "concept": "a"}
    steering_sweep(
        model, PROMPTS[0], Intervention.on(sae, 7, unit="norm"), progress=lambda *n: seen.append(n), **options
    )
    total = 1 + 1 + 2 * 4  # the topic, texts and the SAE are missing: three baselines are skipped
    assert seen == [(1, total), (2, total), (4, total), (6, total), (8, total), (10, total)]


def test_a_sweep_that_adds_features_runs_without_the_sae_where_there_is_a_criterion(model, sae):
    one = Intervention.on(sae, 7, unit="norm")
    options = {"strengths": [0.5], "baselines": [], "neutral": [], "max_new_tokens": 4, "concept": "a"}
    alone, with_sae = (steering_sweep(model, PROMPTS, one, **options, **more) for more in ({}, {"sae": sae}))
    for point, other in zip(alone.points, with_sae.points, strict=True):
        assert (point.texts, point.score) == (other.texts, other.score)
        assert math.isnan(point.feature_share)


def test_baselines_are_stopped_within_a_pass(model, sae):
    one = Intervention.on(sae, 7, unit="norm")
    for kind in ("difference of means", "random feature"):
        asked = []

        def stop(asked=asked):
            asked.append(1)
            return len(asked) >= 2

        with pytest.raises(Stopped):
            baseline(model, one, kind, sae=sae, examples=EXAMPLES, stop=stop)
    with pytest.raises(
        SteeringError, match="kind must be 'difference of means', 'random direction' or 'random feature'"
    ):
        baseline(model, one, "prompt")


def test_difference_of_means_is_that_of_counted_tokens(model):
    means = []
    for texts in EXAMPLES:
        states = [hidden_states(model, encode_text(model, text)[None], HOOK)[0].double() for text in texts]
        kept = [s[1:][~massive(s.float().norm(dim=-1)[None])[0, 1:]] for s in states]
        means.append(torch.cat(kept).mean(0))
    expected = (means[0] - means[1]).float()
    assert torch.allclose(difference_of_means(model, HOOK, *EXAMPLES), expected, atol=1e-5)
    for texts in ([], "one text"):
        with pytest.raises(SteeringError, match="no texts with the concept"):
            difference_of_means(model, HOOK, texts, ["a"])
    with pytest.raises(SteeringError, match="the same mean"):
        difference_of_means(model, HOOK, ["The cat"], ["The cat"])


def test_the_random_feature_is_live_and_another(model, sae):
    drawn = {random_feature(model, sae, seed, but=[7]) for seed in range(40)}
    assert 95 not in drawn, "the last feature of the tiny SAE is dead"
    assert 7 not in drawn and len(drawn) > 10
    assert random_feature(model, sae, 3) == random_feature(model, sae, 3)


def test_bad_sweeps_are_refused(model, sae):
    one = Intervention.on(sae, 7, unit="norm")
    for match, prompts, targets, options in (
        ("prompts must be texts", [], one, {}),
        ("prompts must be texts", [[1, 2]], one, {}),
        ("prompt is empty", "", one, {}),
        ("targets must be interventions", PROMPTS, [], {}),
        ("targets must be interventions", PROMPTS, [7], {}),
        ("expected different names", PROMPTS, [one, one], {}),
        ("a baseline must be .*, not 'magic'", PROMPTS, one, {"baselines": ["magic"]}),
        ("prompts must be a list of texts, not 5", 5, one, {}),
        ("targets must be a list of interventions, not 7", PROMPTS, 7, {}),
        ("no strengths", PROMPTS, one, {"strengths": []}),
        ("strengths must be a list of numbers, not 2.0", PROMPTS, one, {"strengths": 2.0}),
        ("strengths must be a list of numbers, not '12'", PROMPTS, one, {"strengths": "12"}),
        ("baselines must be a list of names, not 5", PROMPTS, one, {"baselines": 5}),
        ("batch_size must be", PROMPTS, one, {"batch_size": -1}),
        ("batch_size must be", PROMPTS, one, {"batch_size": 2.5}),
        ("baseline_seed must be a whole number", PROMPTS, one, {"baseline_seed": "x"}),
        ("concept is empty", PROMPTS, one, {"concept": ""}),
        ("concept is empty", PROMPTS, one, {"concept": []}),
        ("matches the empty text", PROMPTS, one, {"concept": "sea|"}),
        ("strength must be a number", PROMPTS, one, {"strengths": ["a"]}),
        ("strength must be a number, not nan", PROMPTS, one, {"strengths": [math.nan]}),
        ("batch_size must be", PROMPTS, one, {"batch_size": 0}),
        ("no regular expression", PROMPTS, one, {"concept": "("}),
        ("pass seed=", PROMPTS, one, {"temperature": 1.0}),
    ):
        with pytest.raises(SteeringError, match=match):
            steering_sweep(model, prompts, targets, sae=sae, max_new_tokens=1, **options)


def test_a_sweep_on_another_sae_or_index_is_refused_before_anything_is_written(model, sae, monkeypatch):
    one, other = Intervention.on(sae, 7, unit="norm"), tiny.topk_sae(32, 48, seed=1)
    monkeypatch.setattr("saekit.steering.sweep.generate", lambda *_, **__: pytest.fail("something was written"))
    with pytest.raises(SteeringError, match=r"features of another SAE.*d_sae 96 against 48"):
        steering_sweep(model, PROMPTS, one, sae=other)
    with pytest.raises(SteeringError, match="pass sae="):
        steering_sweep(model, PROMPTS, one)
    with pytest.raises(SteeringError, match="index is of another SAE"):
        steering_sweep(model, PROMPTS, one, sae=sae, index=SimpleNamespace(sae_identity=sae_identity(other)))


def test_infinite_strengths_do_not_break_a_sweep(model, sae):
    got = steering_sweep(
        model, PROMPTS[0], Intervention.on(sae, 7, unit="norm"), sae=sae, strengths=[math.inf, -math.inf],
        max_new_tokens=3, baselines=["random direction"], neutral=[],
    )  # fmt: skip
    assert got.complete
    json.dumps(got.as_dict(), allow_nan=False)
