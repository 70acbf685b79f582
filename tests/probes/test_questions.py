"""Will the answer be right? Answers of a small random model against its plain logits; planted errors are foretold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saekit import probes
from saekit.errors import ProbeError
from saekit.models import encode_text, hidden_states, hooked
from saekit.probes import Answers, Question, answer_questions, beside_features, cloze, word_frequency
from tests.planted_texts import planted

QUESTIONS = (
    Question("The cat sat on the", (" mat", " dog and the cafe", " film"), 0),
    Question("A dog, 3 birds", (" sat", " and the cat"), 1),
    Question("The cat", (" sat", " 戦場", " owner"), 2),
)


def by_hand(model, question):
    """Return the summed log-probability of each choice, one choice at a time."""
    prompt = encode_text(model, question.prompt)
    found = []
    for choice in question.choices:
        ids = torch.tensor(model.tokenizer(choice, add_special_tokens=False)["input_ids"])
        logits = model(torch.cat([prompt, ids])[None], prepend_bos=False)[0].log_softmax(-1)
        found.append(sum(float(logits[len(prompt) - 1 + n, i]) for n, i in enumerate(ids.tolist())))
    return found


def test_log_probabilities_are_those_of_the_plain_model(model):
    got = answer_questions(model, QUESTIONS, batch_size=2)
    for row, question in zip(got.log_probs, QUESTIONS, strict=True):
        wanted = by_hand(model, question)
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-4)
        assert (row[len(wanted) :] == -np.inf).all()
    assert got.chosen.tolist() == [int(np.argmax(by_hand(model, q))) for q in QUESTIONS]


def test_raw_and_length_normalised_figures_stand_side_by_side(model):
    got = answer_questions(model, QUESTIONS, per_token=True)
    lengths = [[len(model.tokenizer(c, add_special_tokens=False)["input_ids"]) for c in q.choices] for q in QUESTIONS]
    for i, row in enumerate(lengths):
        assert got.n_tokens[i, : len(row)].tolist() == row
        np.testing.assert_allclose(got.ranked[i, : len(row)] * row, got.log_probs[i, : len(row)])
    assert max(map(max, lengths)) > 1
    assert "by the sum of log-probabilities" in repr(got) and "ranked by the mean" in repr(got)


def test_choices_of_one_token_take_one_pass_a_question(model):
    seen = []
    letters = tuple(Question(prompt, ("a", "b", "c", "d"), 0) for prompt in ("The cat", "A dog sat", "In 1984"))
    with hooked(model, {"blocks.0.hook_resid_pre": lambda states: seen.append(len(states))}):
        answer_questions(model, letters)
    assert sum(seen) == 3


def test_skipped_blocks_pass_the_state_on_as_it_is(model):
    """The last block skipped: what comes out is the final norm and unembedding of the state before it."""
    question = QUESTIONS[0]
    last = model.cfg.n_layers - 1
    got = answer_questions(model, [question], skip_blocks=[last])
    ids = encode_text(model, question.prompt)[None]
    before = hidden_states(model, ids, f"blocks.{last - 1}.hook_resid_post")
    logits = model.unembed(model.ln_final(before))[0, -1].log_softmax(-1)
    first = model.tokenizer(question.choices[0], add_special_tokens=False)["input_ids"]
    assert len(first) == 1, "or the next line says nothing"
    assert got.log_probs[0, 0] == pytest.approx(float(logits[first[0]]), rel=1e-4)
    assert got.model_name.endswith(f"without blocks {last}")
    plain = answer_questions(model, [question])
    np.testing.assert_array_equal(plain.log_probs, answer_questions(model, [question]).log_probs)
    assert not np.allclose(plain.log_probs, got.log_probs), "no hook stays behind, and the block did something"


def test_confidence_is_that_of_a_softmax_over_the_choices():
    log_probs = np.log([[0.2, 0.05, 0.25], [0.1, 0.1, 0.0001]])
    got = Answers(QUESTIONS[:2], log_probs, np.ones((2, 3), int), "made up")
    shares = np.exp(log_probs) / np.exp(log_probs).sum(1, keepdims=True)
    np.testing.assert_allclose(got.confidence[:, 0], shares.max(1))
    np.testing.assert_allclose(got.confidence[0, 1], 0.1)
    np.testing.assert_allclose(got.confidence[:, 2], -(shares * np.log(shares)).sum(1))
    assert got.confidence[1, 1] == pytest.approx(0, abs=1e-12)
    assert got.right.tolist() == [False, False]
    assert got.labelled().label_names == ("wrong", "right")
    fewer = Answers(QUESTIONS[:1], np.array([[0.0, 0.0, -np.inf]]), np.ones((1, 3), int), "made up")
    assert fewer.confidence[0].tolist() == pytest.approx([0.5, 0, np.log(2)])


def test_a_cloze_asks_for_the_last_word_among_others_as_frequent():
    endings = [f"word{chr(97 + i)}" for i in range(26)]
    texts = [f"this is sentence number {chr(97 + i // 26)}{chr(97 + i % 26)} {endings[i % 26]}." for i in range(80)]
    texts += ["too short.", "it does not end in a 7", "nor does this one end in Berlin."]
    got = cloze(texts, n_choices=4, seed=1)
    assert len(got) == 80
    for question, text in zip(got, texts, strict=False):
        assert question.prompt + question.choices[question.answer] == text.rstrip(".")
        assert len(set(question.choices)) == 4 and {c.strip() for c in question.choices} <= set(endings)
    places = np.bincount([q.answer for q in got], minlength=4)
    assert places.min() > 8, "the right one may stand anywhere"
    assert got == cloze(texts, n_choices=4, seed=1) != cloze(texts, n_choices=4, seed=2)
    with pytest.raises(ProbeError, match="26 different last words: a question with 40 choices"):
        cloze(texts, n_choices=40)


def test_frequencies_are_counted_in_the_corpus():
    got = word_frequency(["the cat", "The zebra!", ""], ["the cat and the dog", "THE END"])
    np.testing.assert_allclose(got, [[(np.log(4) + np.log(2)) / 2, np.log(2)], [np.log(4) / 2, 0], [0, 0]])


def test_planted_errors_are_foretold_and_shuffled_ones_are_not():
    features = planted(200)  # feature 1 fires where the answer is right
    found = probes.probe(features)
    assert found.auroc.value > 0.9
    shuffled = np.random.default_rng(1).permutation(features.data.labels)
    chance = probes.probe(replace(features, data=replace(features.data, labels=shuffled)))
    assert 0.35 < chance.auroc.value < 0.65


def test_features_stand_beside_columns_in_the_order_of_the_data():
    features = planted(60)
    order = np.random.default_rng(0).permutation(60)
    given = replace(features, index=order)  # text k stood at order[k]
    own = np.arange(60.0)
    both = beside_features(given, own)
    pooled = probes.pool(features.sae(), "max").toarray()
    assert both.shape == (60, 1 + pooled.shape[1])
    for k in range(60):
        assert both[order[k], 0] == order[k]
        np.testing.assert_array_equal(both[order[k], 1:], pooled[k])
    with pytest.raises(ProbeError, match="59 rows for 60 texts"):
        beside_features(given, own[:59])


def test_questions_that_cannot_be_answered_are_refused(model):
    with pytest.raises(ProbeError, match="no question"):
        answer_questions(model, [])
    with pytest.raises(ProbeError, match="question 0: answer 2 is not among 2 choices"):
        answer_questions(model, [Question("The", (" a", " b"), 2)])
