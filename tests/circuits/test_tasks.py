"""Tasks: pairs of prompts that differ where they should, with single-token answers at known positions."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from saekit.circuits import agreement_task, ioi_task, task_from_pairs
from saekit.errors import TaskError

VERBS = {" is": " are", " was": " were", " has": " have"}


class Words:
    """A tokenizer whose tokens are words with the space before them; " Mary" is two of them, " map" is unknown."""

    bos_token_id, unk_token_id = 0, 1

    def __init__(self):
        self.pieces = ["<s>", "<unk>"]

    def __call__(self, texts, *, add_special_tokens, split_special_tokens):
        assert (add_special_tokens, split_special_tokens) == (False, True)
        pieces = [re.findall(r" Ma(?=ry)|ry| ?[A-Za-z]+|[.,]", text) for text in texts]
        return {"input_ids": [[self.number(piece) for piece in row] for row in pieces]}

    def number(self, piece):
        if piece not in self.pieces and piece != " map":
            self.pieces.append(piece)
        return 1 if piece == " map" else self.pieces.index(piece)

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)


@pytest.fixture(scope="module")
def words():
    """A stand-in for a model."""
    return SimpleNamespace(
        tokenizer=Words(), cfg=SimpleNamespace(model_name="words", n_ctx=64, default_prepend_bos=True)
    )


def read(model, token) -> str:
    return model.tokenizer.decode([int(token)])


def test_positions_point_at_the_names_they_are_called_after(words):
    made = ioi_task(words, 60)
    for row, ids in enumerate(made.ids):
        at = {name: read(words, ids[where[row]]) for name, where in made.positions.items()}
        answer, foil = read(words, made.answers[row]), read(words, made.foils[row])
        assert at["IO"] == answer != foil == at["S1"] == at["S2"]
        assert at["end"] == " to"
        assert made.positions["S1+1"][row] == made.positions["S1"][row] + 1
        assert made.positions["S1"][row] < made.positions["S2"][row]
        assert made.clean[row].count(answer) == 1
        assert made.clean[row].count(foil) == 2


def test_each_template_comes_equally_often_in_both_orders(words):
    made = ioi_task(words, 120)
    io_first = made.positions["IO"] < made.positions["S1"]
    openings = Counter(
        (clean.split(read(words, ids[min(io, s)]))[0], bool(first))
        for clean, ids, io, s, first in zip(
            made.clean, made.ids, made.positions["IO"], made.positions["S1"], io_first, strict=True
        )
    )
    assert len(openings) == 2 * 15
    assert set(openings.values()) == {4}
    assert io_first.float().mean() == 0.5


@pytest.mark.parametrize(
    ("corruption", "differ"),
    [("subject", {"S2"}), ("indirect_object", {"IO"}), ("all_names", {"IO", "S1", "S2"})],
)
def test_a_corrupted_prompt_differs_at_the_promised_positions_only(words, corruption, differ):
    made = ioi_task(words, 45, corruption=corruption)
    for row, (clean, corrupted) in enumerate(zip(made.ids, made.ids_corrupted, strict=True)):
        expected = sorted(made.positions[name][row].item() for name in differ)
        assert (clean != corrupted).nonzero().flatten().tolist() == expected
        right = read(words, made.answers_corrupted[row])
        if corruption == "subject":
            assert made.answers_corrupted[row] == made.foils[row], "the answer flips"
        else:
            assert right == read(words, corrupted[made.positions["IO"][row]])
            assert right not in made.clean[row]


def test_three_names_that_differ_leave_no_name_twice(words):
    made = ioi_task(words, 45, corruption="all_names")
    for row, ids in enumerate(made.ids_corrupted):
        assert len({ids[made.positions[name][row]].item() for name in ("IO", "S1", "S2")}) == 3


def test_words_of_several_tokens_are_left_out_or_named(words):
    made = ioi_task(words, 300)
    assert not any(" Mary" in text or " map" in text for text in made.clean)
    with pytest.raises(TaskError, match=r"the name ' Mary' is 2 tokens for this tokenizer \(' Ma', 'ry'\)"):
        ioi_task(words, names=["John", "Anna", "Mary", "Emma", "Paul", "Mark"])
    with pytest.raises(TaskError, match="2 names, 8 places and 7 things are single tokens"):
        ioi_task(words, names=["John", "Anna"])


def test_seeds_repeat_and_differ(words):
    assert ioi_task(words, 20, seed=3).clean == ioi_task(words, 20, seed=3).clean
    assert ioi_task(words, 20, seed=3).clean != ioi_task(words, 20, seed=4).clean
    before = torch.random.get_rng_state()
    ioi_task(words, 20)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("structure", ["simple", "prepositional", "relative"])
def test_agreement_flips_with_the_number_of_the_subject_alone(words, structure):
    made = agreement_task(words, 24, structure=structure)
    for row, (clean, corrupted) in enumerate(zip(made.ids, made.ids_corrupted, strict=True)):
        where = made.positions["subject"][row].item()
        assert (clean != corrupted).nonzero().flatten().tolist() == [where]
        plural = read(words, clean[where]).endswith("s")
        assert read(words, made.answers[row]) in (VERBS.values() if plural else VERBS)
        assert made.foils[row] == made.answers_corrupted[row]
        pair = {read(words, token) for token in (made.answers[row], made.foils[row])}
        assert tuple(sorted(pair)) in {tuple(sorted(verbs)) for verbs in VERBS.items()}
        if structure != "simple":
            assert noun_between(words, clean[where + 1 :]).endswith("s") != plural, "the noun in between disagrees"


def noun_between(words, tokens):
    """Return the noun after the subject: the word after "the"."""
    texts = [read(words, token) for token in tokens]
    return texts[texts.index(" the") + 1]


def test_a_task_of_ones_own_finds_where_its_prompts_differ(words):
    own = task_from_pairs(
        words, [("The boy near", "The girl near", " is", " has"), ("The boy", "The boys", " is", " are")]
    )
    assert own.positions["first difference"].tolist() == [2, 2]
    assert own.positions["end"].tolist() == [3, 2]
    assert len(own) == 2
    assert own[1:].clean == ("The boy",)
    assert own.select([1, 0]).answers.tolist() == own.answers.flip(0).tolist()
    assert "2 pairs" in repr(own)
    assert "'The girl near'" in repr(own)


def test_batches_hold_every_prompt_once_and_one_length_each(words):
    made = ioi_task(words, 50)
    seen = []
    for rows, part in made.batches(8):
        assert len({len(ids) for ids in part.ids}) == 1
        assert len(part) <= 8
        assert part.clean == tuple(made.clean[row] for row in rows)
        seen += rows.tolist()
    assert sorted(seen) == list(range(50))


def test_what_cannot_be_a_task_is_explained(words):
    good = ("The boy", "The girl", " is", " has")
    for given, message in (
        ([], "at least one pair"),
        ([("The boy", "The boy", " is", " has")], "the same tokens, 'The boy': nothing is corrupted"),
        ([good[:3]], r"a pair is \(clean prompt, corrupted prompt, answer, foil\), not \('The boy'"),
        (["The boy"], "a pair is .* not 'The boy'"),
        ([("The boy", "The boy near", " is", " has")], "as many tokens.* not 3 and 4: .*boy.* and .*near"),
        ([("The boy", "The girl", " is", " is")], "answer and foil of 'The boy' are both ' is'"),
        ([("The boy", "The girl", " Mary", " is")], "continuation ' Mary' is 2 tokens .*' Ma', 'ry'"),
        ([("The boy", "The girl", "", " is")], "'' is 0 tokens"),
        ([("The boy", "The girl", " map", " is")], "' map' is unknown"),
    ):
        with pytest.raises(TaskError, match=message):
            task_from_pairs(words, given)
    for call, message in (
        (lambda: ioi_task(words, 0), "n must be a whole number from 1 on, not 0"),
        (lambda: ioi_task(words, corruption="names"), "'subject', 'indirect_object' or 'all_names', not 'names'"),
        (lambda: agreement_task(words, structure="x"), "'simple', 'prepositional' or 'relative', not 'x'"),
        (lambda: task_from_pairs(words, [good])[0], "a slice such as"),
        (
            lambda: next(task_from_pairs(words, [good]).batches(-1)),
            "batch_size must be .* from 1 on, not -1",
        ),
    ):
        with pytest.raises(TaskError, match=message):
            call()


def test_a_part_of_a_task_has_a_prompt_at_least(words):
    task = ioi_task(words, 4)
    for wrong in (4, -5):
        with pytest.raises(TaskError, match="numbers of prompts from 0 to 3"):
            task.select([wrong])
    with pytest.raises(TaskError, match="at least one"):
        task[4:]


def test_a_prompt_that_the_context_would_cut_is_refused(words):
    """Two prompts whose only difference is cut away would be one prompt, and their answer follows nothing."""
    filled = "The boy" + " near" * (words.cfg.n_ctx - 4)  # with BOS one token is left
    task = task_from_pairs(words, [(f"{filled} boy", f"{filled} girl", " is", " has")])
    assert len(task.ids[0]) == words.cfg.n_ctx
    assert task.positions["first difference"].tolist() == task.positions["end"].tolist() == [words.cfg.n_ctx - 1]
    for more in (" near", " near" * 9, " near" * 5000):
        with pytest.raises(TaskError, match="the model's context holds 64 tokens: its end"):
            task_from_pairs(words, [(f"{filled}{more} boy", f"{filled}{more} girl", " is", " has")])


def test_names_of_ones_own_stand_only_where_a_name_is_put(words):
    names = ["John", "Anna", "Emma", "Paul", "Mark", "Lisa"]
    for word in ("Sunday", "One", "book", "station"):
        with pytest.raises(TaskError, match=f"the name '{word}' is also a word of the prompts"):
            ioi_task(words, names=[*names, word])
    made = ioi_task(words, 60, names=[*names, *names, "John"])
    assert made.clean == ioi_task(words, 60, names=names).clean, "a name given twice is one name"
    with pytest.raises(TaskError, match="a list of names, not the text 'John'"):
        ioi_task(words, names="John")
