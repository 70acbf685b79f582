"""Prompts in pairs, clean and corrupted, whose answer a circuit has to find: IOI, agreement, and the reader's own."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from saekit._base.checks import one_of, whole
from saekit.circuits.pairs import Task, is_single, single_token, task_of
from saekit.errors import TaskError

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

Corruption = Literal["subject", "indirect_object", "all_names"]
Structure = Literal["simple", "prepositional", "relative"]

# The first clause names both people, the second repeats one of them, the subject; the other is the indirect object.
TEMPLATES = (
    "After the rain,{a} and{b} walked to the{place}.{s} handed a{thing} to",
    "When{a} and{b} arrived at the{place},{s} gave a{thing} to",
    "Last week{a} and{b} met at the{place}, and{s} brought a{thing} to",
    "While{a} and{b} were working at the{place},{s} offered a{thing} to",
    "Then{a} and{b} had a long talk at the{place}. Later{s} sent a{thing} to",
    "In the evening{a} and{b} stopped by the{place}, where{s} showed a{thing} to",
    "Because{a} and{b} both liked the{place},{s} lent a{thing} to",
    "Once{a} and{b} had found the{place},{s} passed a{thing} to",
    "Friends said that{a} and{b} loved the{place}. On Sunday{s} sold a{thing} to",
    "Before{a} and{b} left the{place},{s} returned a{thing} to",
    "This morning{a} and{b} were late for the{place}, so{s} threw a{thing} to",
    "Yesterday{a} and{b} spent an hour at the{place}, until{s} promised a{thing} to",
    "As soon as{a} and{b} reached the{place},{s} decided to give a{thing} to",
    "For years{a} and{b} went to the same{place}. One day{s} gave a{thing} to",
    "The guide took{a} and{b} to the{place}, and there{s} carried a{thing} to",
)
NAMES = (
    *("Mary", "John", "Anna", "James", "Emma", "David", "Laura", "Peter", "Sarah", "Michael", "Alice", "Robert"),
    *("Julia", "Thomas", "Rachel", "Daniel", "Lisa", "Mark", "Susan", "Paul", "Linda", "Steven", "Karen", "George"),
    *("Kate", "Simon", "Amy", "Kevin", "Jane", "Brian", "Maria", "Adam", "Helen", "Jason", "Nancy", "Eric"),
    *("Ruth", "Frank", "Rose", "Henry", "Claire", "Martin", "Diana", "Andrew", "Grace", "Scott", "Lucy", "Tom"),
)
PLACES = ("station", "market", "library", "garden", "school", "office", "church", "museum")
THINGS = ("book", "ring", "key", "drink", "letter", "ball", "picture", "map")
NOUNS = (
    *(("teacher", "teachers"), ("doctor", "doctors"), ("author", "authors"), ("driver", "drivers")),
    *(("student", "students"), ("farmer", "farmers"), ("manager", "managers"), ("girl", "girls")),
    *(("boy", "boys"), ("worker", "workers"), ("friend", "friends"), ("writer", "writers")),
)
VERBS = ((" is", " are"), (" was", " were"), (" has", " have"))
_AGREEMENT = {
    "simple": "The{noun}",
    "prepositional": "The{noun} near the{other}",
    "relative": "The{noun} that the{other} knew",
}


def ioi_task(
    model: "SAETransformerBridge",
    n: int = 120,
    *,
    corruption: Corruption = "subject",
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Task:
    """Make prompts for indirect object identification (Wang et al. 2022): "When Mary and John ..., John gave a key to".

    The templates are saekit's own: fifteen, each with the indirect object first (ABBA) or second (BABA), used equally
    often. The answer is the indirect object, the foil the subject. Positions: "IO", "S1", "S1+1" (the token after the
    subject's first mention), "S2" and "end".

    Args:
        model: For its tokenizer: names, places and things must be single tokens, and those that are not are left out.
        n: Pairs of prompts.
        corruption: What the corrupted prompt changes. "subject": the second subject becomes the indirect object, so
            one token differs and the answer flips. "indirect_object": another name stands for the indirect object and
            the subject stays (Cunningham et al. 2023, section 4). "all_names": three other names that differ from
            each other, so that no answer is right ("p_ABC"); the corrupted answer is then the first of them.
        names: Names to draw from, without the space before them; default: 48 common ones. Names of your own must all
            be single tokens, and words that stand nowhere else in the prompts.
        seed: Of the draws.

    Raises:
        TaskError: Too few names, names that are not single tokens (with their pieces), or names that are words of the
            prompts already; an unknown corruption.
    """
    corruption = one_of("corruption", corruption, get_args(Corruption), error=TaskError)
    n = whole("n", n, at_least=1, error=TaskError)
    if names is not None:
        names = _own_names(model, names)
    known = {kind: _single(model, words) for kind, words in (("n", names or NAMES), ("p", PLACES), ("t", THINGS))}
    if len(set(known["n"])) < 6 or not known["p"] or not known["t"]:
        raise TaskError(
            f"{len(set(known['n']))} names, {len(known['p'])} places and {len(known['t'])} things are single tokens of "
            f"this tokenizer; at least 6, 1 and 1 are needed: pass names="
        )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(n):
        io, s, *others = _draw(known["n"], 5, generator)
        (place,), (thing,) = _draw(known["p"], 1, generator), _draw(known["t"], 1, generator)
        io_first = (number // len(TEMPLATES)) % 2 == 0
        template = TEMPLATES[number % len(TEMPLATES)].replace("{place}", place).replace("{thing}", thing)

        def text(io: str, s: str, again: str, template: str = template, io_first: bool = io_first) -> str:
            return template.format(a=io if io_first else s, b=s if io_first else io, s=again)

        changed = {
            "subject": (text(io, s, io), s),
            "indirect_object": (text(others[0], s, s), others[0]),
            "all_names": (text(*others), others[0]),
        }
        corrupted, answer = changed[corruption]
        rows.append((text(io, s, s), corrupted, io, s, answer))
    task = task_of(model, f"IOI, other {corruption.replace('_', ' ')}", rows)
    return replace(task, positions=_ioi_positions(task))


def agreement_task(
    model: "SAETransformerBridge", n: int = 60, *, structure: Structure = "prepositional", seed: int = 0
) -> Task:
    """Make prompts for subject-verb agreement (after Marks et al. 2024, templates of saekit): "The boy near the cars".

    The corrupted prompt has the subject in the other number; the noun between it and the verb, where there is one,
    always disagrees with the clean subject. Positions: "subject" and "end".

    Raises TaskError for an unknown structure, or a tokenizer that splits too many of the nouns.
    """
    structure = one_of("structure", structure, get_args(Structure), error=TaskError)
    n = whole("n", n, at_least=1, error=TaskError)
    nouns = [pair for pair in NOUNS if len(_single(model, pair)) == 2]
    verbs = [pair for pair in VERBS if all(is_single(model, verb) for verb in pair)]
    if len(nouns) < 2 or not verbs:
        raise TaskError(f"only {len(nouns)} nouns and {len(verbs)} verbs are single tokens in both numbers")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(n):
        plural = number % 2
        noun, other = _draw(nouns, 2, generator)
        verb = verbs[number // 2 % len(verbs)]
        clean, corrupted = (
            _AGREEMENT[structure].format(noun=f" {noun[which]}", other=f" {other[1 - plural]}")
            for which in (plural, 1 - plural)
        )
        rows.append((clean, corrupted, verb[plural], verb[1 - plural], verb[1 - plural]))
    task = task_of(model, f"subject-verb agreement, {structure}", rows)
    return replace(task, positions={"subject": _first_difference(task), **task.positions})


def task_from_pairs(
    model: "SAETransformerBridge", pairs: Sequence[tuple[str, str, str, str]], *, name: str = "own"
) -> Task:
    """Make a task of one's own.

    Args:
        model: For its tokenizer.
        pairs: ``(clean prompt, corrupted prompt, answer, foil)``; answer and foil are single tokens, usually with a
            space before them. The answer of the corrupted prompt is taken to be the foil.
        name: For tables and figures.

    Raises:
        TaskError: No pairs; prompts of different length (both are shown in pieces), of the same tokens, or longer than
            the model's context; an answer or foil of several tokens; an answer that equals its foil.
    """
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 4:
            raise TaskError(f"a pair is (clean prompt, corrupted prompt, answer, foil), not {pair!r}")
    task = task_of(model, name, [(*pair, pair[3]) for pair in pairs])
    return replace(task, positions={"first difference": _first_difference(task), **task.positions})


# --- pieces ----------------------------------------------------------------------------------------------------


def _own_names(model: "SAETransformerBridge", names: Sequence[str]) -> list[str]:
    """Return a reader's names, each once, after a check that each would stand only where a name is put."""
    if isinstance(names, str):
        raise TaskError(f"names must be a list of names, not the text {names!r}")
    fixed = {word for template in TEMPLATES for word in re.findall(r"\w+", re.sub(r"\{\w+\}", " ", template))}
    for name in names:
        single_token(model, f" {name}")
        if name in fixed or name in (*PLACES, *THINGS):
            raise TaskError(
                f"the name {name!r} is also a word of the prompts: it would stand there twice, and no position would "
                f"be the name's own. Choose another name"
            )
    return list(dict.fromkeys(names))


def _ioi_positions(task: Task) -> dict[str, Int[Tensor, "prompt"]]:
    found = defaultdict(list)
    for ids, io, s in zip(task.ids, task.answers, task.foils, strict=True):
        first, second = (ids == s).nonzero().flatten().tolist()
        (other,) = (ids == io).nonzero().flatten().tolist()
        for name, where in (("IO", other), ("S1", first), ("S1+1", first + 1), ("S2", second), ("end", len(ids) - 1)):
            found[name].append(where)
    return {name: torch.tensor(where) for name, where in found.items()}


def _first_difference(task: Task) -> Int[Tensor, "prompt"]:
    pairs = zip(task.ids, task.ids_corrupted, strict=True)
    return torch.tensor([int((clean != other).float().argmax()) for clean, other in pairs])


def _single(model: "SAETransformerBridge", words: Sequence[str]) -> list[str]:
    return [f" {word}" for word in words if is_single(model, f" {word}")]


def _draw(items: Sequence, k: int, generator: torch.Generator) -> list:
    return [items[i] for i in torch.randperm(len(items), generator=generator)[:k].tolist()]
