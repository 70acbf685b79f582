"""Text to tokens: what is cut, who says so, and batches without padding."""

import numpy as np
import pytest
import torch

from saekit.errors import ModelError, TaskError
from saekit.models import (
    batches_of_one_length,
    encode_start,
    encode_text,
    encode_texts,
    encode_whole,
    given_ids,
    single_token,
    special_token_ids,
    token_ids,
    token_text,
    token_texts,
)


def test_special_token_markers_in_a_text_stay_text(model):
    ids = encode_text(model, "<s> and </s>")
    assert ids[0] == model.tokenizer.bos_token_id
    assert not set(ids[1:].tolist()) & set(special_token_ids(model))


def test_a_very_long_text_is_cut_at_the_context_with_a_warning_and_an_empty_one_refused(model):
    with pytest.warns(UserWarning, match="the text has 100,000 characters.*only the first 256 are read"):
        assert len(encode_text(model, "word " * 20_000)) == model.cfg.n_ctx
    with pytest.raises(ModelError, match="empty"):
        encode_text(model, "")


def test_a_text_that_fills_the_context_exactly_is_not_cut(model):
    n_ctx = model.cfg.n_ctx
    whole = model.tokenizer.decode(token_ids(model, ["The cat sat. " * 200])[0][: n_ctx - 1])
    (fits,) = encode_texts(model, [whole])
    assert (len(fits.ids), fits.cut, fits.size) == (n_ctx, False, f"{n_ctx} tokens")
    (longer,) = encode_texts(model, [whole + " the mat"])
    assert longer.cut and torch.equal(longer.ids, fits.ids)
    assert encode_start(model, whole, most=10).cut
    assert torch.equal(encode_start(model, whole, most=10).ids, fits.ids[:10])


def test_characters_that_were_not_looked_at_count_as_cut(model):
    """A long run that is few tokens: the rest of the text is not read, though the ids fit."""
    end = encode_start(model, " " * 40 * model.cfg.n_ctx + "end", most=2)
    assert end.cut and end.size == f"{40 * model.cfg.n_ctx + 3:,} characters"


def test_a_text_of_which_nothing_may_be_missing_is_refused_in_the_callers_words(model):
    ids = encode_whole(model, "The cat")
    assert ids.tolist() == [model.tokenizer.bos_token_id, *token_ids(model, ["The cat"])[0]]
    with pytest.raises(
        TaskError, match=r"prompt 3 has 20,000 characters, the model's context holds 256 tokens: its end"
    ):
        encode_whole(model, "word " * 4_000, name="prompt 3", error=TaskError)
    with pytest.raises(ModelError, match=r"the prompt has [\d,]+ tokens, the model's context holds 256 tokens"):
        encode_whole(model, "word " * 1_000)
    with pytest.raises(TaskError, match="the prompt is empty"):
        encode_whole(model, "", error=TaskError)


def test_batches_hold_rows_of_one_length_and_every_row_once():
    rows = ["abc", "a", "xyz", "", "b", "uvw", "c"]
    batches = [batch.tolist() for batch in batches_of_one_length(rows, 2)]
    assert batches == [[3], [1, 4], [6], [0, 2], [5]]


def test_consecutive_tokens_are_shown_as_whole_characters_and_one_alone_as_its_bytes(model):
    for text in ("naïve 戦場 😀!", "ПРИВЕТ", "plain words", "מרחבא e\u0301"):
        (ids,) = token_ids(model, [text])
        texts = token_texts(model, ids)
        assert "".join(texts) == text
        assert len(texts) == len(ids)
        assert all("\ufffd" not in token_text(model, token) for token in ids)
    (ids,) = token_ids(model, ["戦"])
    assert "".join(token_text(model, token) for token in ids) == "<0xE6><0x88><0xA6>"
    assert token_texts(model, ids) == ("戦", *[""] * (len(ids) - 1))


@pytest.mark.parametrize("ids", [[3, 5, 399], (3, 5, 399), np.array([3, 5, 399]), torch.tensor([3, 5, 399])])
def test_token_ids_are_read_as_they_are_given(model, ids):
    assert torch.equal(given_ids(model, ids), torch.tensor([3, 5, 399]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "prompt 2 is of torch.float32"),
        (torch.zeros(0, dtype=torch.long), "prompt 2 has no tokens"),
        ([[3, 5], [7, 9]], r"one row of token ids, not of the shape \[2, 2\]"),
        ([0.5, 1.0], "prompt 2 is of torch.float32: expected token ids"),
        (np.array([True, False]), "prompt 2 is of torch.bool"),
        (torch.tensor([1j]), "prompt 2 is of torch.complex64"),
        (7, r"one row of token ids, not of the shape \[\]"),
        ([3, 400], "prompt 2 has token ids from 3 to 400, outside 0 to 399"),
        ([-1, 3], "prompt 2 has token ids from -1 to 3"),
        ([3] * 257, "prompt 2 has 257 tokens, the model's context holds 256"),
        (None, "prompt 2 must be text or token ids, not None"),
        (["a", "b"], "prompt 2 must be text or token ids"),
    ],
)
def test_what_are_no_token_ids_is_refused_in_the_callers_words(model, ids, message):
    with pytest.raises(TaskError, match=message):
        given_ids(model, ids, name="prompt 2", error=TaskError)


def test_a_text_is_one_token_that_the_tokenizer_knows_or_refused(model):
    for text in ("c", " the", "."):
        assert [single_token(model, text)] == token_ids(model, [text])[0]
    with pytest.raises(TaskError, match=r"the answer 'cat' is 2 tokens for this tokenizer \('c', 'at'\).*one token"):
        single_token(model, "cat", name="the answer", error=TaskError)
    with pytest.raises(ModelError, match=r"the word '' is 0 tokens for this tokenizer \(none\)"):
        single_token(model, "")
