"""Tasks: pairs of prompts that differ where they should, with single-token answers at known positions."""

import itertools
from collections import Counter
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from saekit.errors import TaskError

pairs = import_module("saekit.circuits.pairs")
tasks = import_module("saekit.circuits.tasks")


@pytest.fixture(scope="module")
def words():
    """A stand-in for a model: a tokenizer whose tokens are words with the space before them."""
    import re

    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    piece = r" ?[A-Za-z]+|[.,]"
    texts = [*tasks.TEMPLATES, *tasks._AGREEMENT.values(), *tasks.VERBS[0], *tasks.VERBS[1], *tasks.VERBS[2], " a one"]
    known = {found for text in texts for found in re.findall(piece, re.sub(r"\{\w+\}", "", text))}
    nouns = itertools.chain(*tasks.NOUNS)
    known |= {f" {word}" for word in (*tasks.NAMES, *tasks.PLACES, *tasks.THINGS, *nouns)} - {" Mary", " map"}
    vocabulary = {token: i for i, token in enumerate(["<s>", "<unk>", *sorted(known), " Ma", "ry"])}
    split = r" Ma(?=ry)|ry|" + piece
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(split), "removed", invert=True)
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    return SimpleNamespace(tokenizer=fast, cfg=SimpleNamespace(model_name="words", n_ctx=64))


def read(model, token) -> str:
    return model.tokenizer.decode([int(token)])


def test_positions_point_at_the_names_they_are_called_after(words):
    made = tasks.ioi_task(words, 60)
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
    made = tasks.ioi_task(words, 120)
    io_first = made.positions["IO"] < made.positions["S1"]
    openings = Counter(
        (clean.split(read(words, ids[min(io, s)]))[0], bool(first))
        for clean, ids, io, s, first in zip(
            made.clean, made.ids, made.positions["IO"], made.positions["S1"], io_first, strict=True
        )
    )
    assert len(openings) == 2 * len({template.split("{a}")[0] for template in tasks.TEMPLATES})
    assert io_first.float().mean() == 0.5


@pytest.mark.parametrize(
    ("corruption", "differ"),
    [("subject", {"S2"}), ("indirect_object", {"IO"}), ("all_names", {"IO", "S1", "S2"})],
)
def test_a_corrupted_prompt_differs_at_the_promised_positions_only(words, corruption, differ):
    made = tasks.ioi_task(words, 45, corruption=corruption)
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
    made = tasks.ioi_task(words, 45, corruption="all_names")
    for row, ids in enumerate(made.ids_corrupted):
        assert len({ids[made.positions[name][row]].item() for name in ("IO", "S1", "S2")}) == 3


def test_words_of_several_tokens_are_left_out_or_named(words):
    assert pairs.token_ids(words, " Mary") == [words.tokenizer.convert_tokens_to_ids(t) for t in (" Ma", "ry")]
    made = tasks.ioi_task(words, 300)
    assert not any(" Mary" in text or " map" in text for text in made.clean)
    with pytest.raises(TaskError, match="' Mary' is 2 tokens for this model: ' Ma' \\+ 'ry'"):
        tasks.ioi_task(words, names=["John", "Anna", "Mary", "Emma", "Paul", "Mark"])
    with pytest.raises(TaskError, match="2 names, 8 places and 7 things are single tokens"):
        tasks.ioi_task(words, names=["John", "Anna"])


def test_seeds_repeat_and_differ(words):
    assert tasks.ioi_task(words, 20, seed=3).clean == tasks.ioi_task(words, 20, seed=3).clean
    assert tasks.ioi_task(words, 20, seed=3).clean != tasks.ioi_task(words, 20, seed=4).clean
    before = torch.random.get_rng_state()
    tasks.ioi_task(words, 20)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("structure", tasks._AGREEMENT)
def test_agreement_flips_with_the_number_of_the_subject_alone(words, structure):
    made = tasks.agreement_task(words, 24, structure=structure)
    plurals = {f" {many}" for _, many in tasks.NOUNS}
    for row, (clean, corrupted) in enumerate(zip(made.ids, made.ids_corrupted, strict=True)):
        where = made.positions["subject"][row].item()
        assert (clean != corrupted).nonzero().flatten().tolist() == [where]
        plural = read(words, clean[where]) in plurals
        verbs = next(pair for pair in tasks.VERBS if read(words, made.answers[row]) in pair)
        assert read(words, made.answers[row]) == verbs[plural]
        assert made.foils[row] == made.answers_corrupted[row] != made.answers[row]
        if structure != "simple":
            later = [read(words, token) for token in clean[where + 1 :]]
            (other,) = [token for token in later if any(token[1:] in pair for pair in tasks.NOUNS)]
            assert (other in plurals) != plural, "the noun in between disagrees"


def test_a_task_of_ones_own_finds_where_its_prompts_differ(words):
    own = tasks.task_from_pairs(
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
    made = tasks.ioi_task(words, 50)
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
        ([("The boy", "The girl", " Mary", " is")], "' Ma' \\+ 'ry'"),
        ([("The boy", "The girl", "", " is")], "not an empty text"),
        ([("The boy", "The girl", " map", " is")], "' map' is unknown"),
    ):
        with pytest.raises(TaskError, match=message):
            tasks.task_from_pairs(words, given)
    for call, message in (
        (lambda: tasks.ioi_task(words, 0), "n must be a whole number from 1 on, not 0"),
        (lambda: tasks.ioi_task(words, corruption="names"), "'subject', 'indirect_object' or 'all_names', not 'names'"),
        (lambda: tasks.agreement_task(words, structure="x"), "'simple', 'prepositional' or 'relative', not 'x'"),
        (lambda: tasks.task_from_pairs(words, [good])[0], "a slice such as"),
        (
            lambda: next(tasks.task_from_pairs(words, [good]).batches(-1)),
            "batch_size must be .* from 1 on, not -1",
        ),
    ):
        with pytest.raises(TaskError, match=message):
            call()


def test_a_part_of_a_task_has_a_prompt_at_least(words):
    task = tasks.ioi_task(words, 4)
    for wrong in (4, -5):
        with pytest.raises(TaskError, match="numbers of prompts from 0 to 3"):
            task.select([wrong])
    with pytest.raises(TaskError, match="at least one"):
        task[4:]


def test_a_prompt_that_the_context_would_cut_is_refused(words):
    """Two prompts whose only difference is cut away would be one prompt, and their answer follows nothing."""
    filled = "The boy" + " near" * (words.cfg.n_ctx - 4)  # with BOS one token is left
    task = tasks.task_from_pairs(words, [(f"{filled} boy", f"{filled} girl", " is", " has")])
    assert len(task.ids[0]) == words.cfg.n_ctx
    assert task.positions["first difference"].tolist() == task.positions["end"].tolist() == [words.cfg.n_ctx - 1]
    for more in (" near", " near" * 9, " near" * 5000):
        with pytest.raises(TaskError, match="longer than the model's context of 64 tokens: its end"):
            tasks.task_from_pairs(words, [(f"{filled}{more} boy", f"{filled}{more} girl", " is", " has")])


def test_names_of_ones_own_stand_only_where_a_name_is_put(words):
    names = ["John", "Anna", "Emma", "Paul", "Mark", "Lisa"]
    for word in ("Sunday", "One", "book", "station"):
        words.tokenizer.add_tokens([f" {word}"])
        with pytest.raises(TaskError, match=f"the name '{word}' is also a word of the prompts"):
            tasks.ioi_task(words, names=[*names, word])
    made = tasks.ioi_task(words, 60, names=[*names, *names, "John"])
    assert made.clean == tasks.ioi_task(words, 60, names=names).clean, "a name given twice is one name"
    with pytest.raises(TaskError, match="a list of names, not the text 'John'"):
        tasks.ioi_task(words, names="John")
