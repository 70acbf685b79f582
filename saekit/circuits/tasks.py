"""Tasks: prompts in pairs, clean and corrupted, whose answer a circuit has to find: IOI, agreement, the reader's own.

1. A row of texts is drawn: a clean prompt, a corrupted one, the answer, a foil with which it is compared, and the
   answer of the corrupted prompt. Words that are not one token of the model's tokenizer are left out.
2. The rows are tokenised and checked: both prompts of a pair have as many tokens, so that positions match, and differ.
3. The places of the named positions are found by their tokens.

Sources: Wang et al. 2022 (indirect object identification), Marks et al. 2024 (agreement); the templates are saekit's.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import one_of, whole
from saekit.errors import TaskError
from saekit.models import batches_of_one_length, encode_whole, single_token, token_ids, token_texts

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


@dataclass(frozen=True)
class Task:
    """Prompts in pairs with their answers.

    Attributes:
        name: What the task is, and how it was corrupted.
        clean: Prompts whose right next token is the answer.
        corrupted: As many, pair by pair of the same length in tokens.
        answers: Token ids of the right continuations of the clean prompts ``[prompt]``.
        foils: Token ids of the continuations with which they are compared ``[prompt]``.
        answers_corrupted: Token ids of the right continuations of the corrupted prompts ``[prompt]``.
        positions: Places of each named position, one per prompt ``[prompt]``; BOS counts as 0.
        ids: Token ids of the clean prompts, one ``[pos]`` each, BOS first where the model has one.
        ids_corrupted: Token ids of the corrupted prompts, one ``[pos]`` each.
    """

    name: str
    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    answers: Int[Tensor, "prompt"]
    foils: Int[Tensor, "prompt"]
    answers_corrupted: Int[Tensor, "prompt"]
    positions: dict[str, Int[Tensor, "prompt"]]
    ids: tuple[Int[Tensor, "_pos"], ...]
    ids_corrupted: tuple[Int[Tensor, "_pos"], ...]

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, which: slice) -> "Task":
        """Return some of the prompts as a task of their own."""
        if not isinstance(which, slice):
            raise TaskError(f"expected a slice such as task[:8], not {which!r}: a task is never a single prompt")
        return self.select(range(len(self))[which])

    def select(self, which: Sequence[int]) -> "Task":
        """Return the prompts of these numbers as a task of their own, in this order; TaskError if there are none."""
        rows = torch.tensor(list(which), dtype=torch.long)
        if not len(rows) or rows.min() < -len(self) or rows.max() >= len(self):
            raise TaskError(f"expected numbers of prompts from 0 to {len(self) - 1}, at least one, not {rows.tolist()}")

        def pick(items: Sequence) -> tuple:
            return tuple(items[i] for i in rows.tolist())

        return replace(
            self,
            clean=pick(self.clean),
            corrupted=pick(self.corrupted),
            answers=self.answers[rows],
            foils=self.foils[rows],
            answers_corrupted=self.answers_corrupted[rows],
            positions={name: where[rows] for name, where in self.positions.items()},
            ids=pick(self.ids),
            ids_corrupted=pick(self.ids_corrupted),
        )

    def logit_difference(
        self, logits: Float[Tensor, "run d_vocab"], prompt: Int[Tensor, "run"] | slice = slice(None)
    ) -> Float[Tensor, "run"]:
        """Return logit of the answer minus logit of the foil.

        Args:
            logits: Logits at the last position of each run.
            prompt: Number of each run's prompt; by default there is one run per prompt.
        """
        answers, foils = (tokens[prompt, None].to(logits.device) for tokens in (self.answers, self.foils))
        return (logits.gather(1, answers) - logits.gather(1, foils))[:, 0]

    def batches(self, size: int = 16) -> Iterator[tuple[Int[Tensor, "batch"], "Task"]]:
        """Yield parts whose prompts are of one length, so that they need no padding, with the numbers of their rows.

        Args:
            size: Number of prompts in a part at most.

        Raises:
            TaskError: A size below 1.
        """
        size = whole("batch_size", size, at_least=1, error=TaskError)
        for rows in batches_of_one_length(self.ids, size):
            yield rows, self.select(rows.tolist())

    def __repr__(self) -> str:
        return f"Task({self.name}: {len(self)} pairs, for example {self.clean[0]!r} against {self.corrupted[0]!r})"


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
        model: The model, whose tokenizer decides which names, places and things are single tokens; others are left out.
        n: Number of pairs of prompts.
        corruption: What the corrupted prompt changes. "subject": the second subject becomes the indirect object, so
            one token differs and the answer flips. "indirect_object": another name stands for the indirect object and
            the subject stays (Cunningham et al. 2023, section 4). "all_names": three other names that differ from
            each other, so that no answer is right ("p_ABC"); the corrupted answer is then the first of them.
        names: Names to draw from, without the space before them; default: 48 common ones. Names of your own must all
            be single tokens, and words that stand nowhere else in the prompts.
        seed: Seed of the draws.

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
    task = _task_of(model, f"IOI, other {corruption.replace('_', ' ')}", rows)
    return replace(task, positions=_ioi_positions(task))


def agreement_task(
    model: "SAETransformerBridge", n: int = 60, *, structure: Structure = "prepositional", seed: int = 0
) -> Task:
    """Make prompts for subject-verb agreement (after Marks et al. 2024, templates of saekit): "The boy near the cars".

    The corrupted prompt has the subject in the other number; the noun between it and the verb, where there is one,
    always disagrees with the clean subject. Positions: "subject" and "end".

    Args:
        model: The model, whose tokenizer decides which nouns and verbs are single tokens; others are left out.
        n: Number of pairs of prompts.
        structure: "simple" (The boys), "prepositional" (The boys near the car) or "relative" (The boys that the car
            knew).
        seed: Seed of the draws.

    Raises:
        TaskError: An unknown structure, or a tokenizer that splits too many of the nouns.
    """
    structure = one_of("structure", structure, get_args(Structure), error=TaskError)
    n = whole("n", n, at_least=1, error=TaskError)
    nouns = [pair for pair in NOUNS if len(_single(model, pair)) == 2]
    verbs = [pair for pair in VERBS if all(_is_single(model, verb) for verb in pair)]
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
    task = _task_of(model, f"subject-verb agreement, {structure}", rows)
    return replace(task, positions={"subject": _first_difference(task), **task.positions})


def task_from_pairs(
    model: "SAETransformerBridge", pairs: Sequence[tuple[str, str, str, str]], *, name: str = "own"
) -> Task:
    """Make a task of one's own.

    Args:
        model: The model, whose tokenizer is used.
        pairs: Rows ``(clean prompt, corrupted prompt, answer, foil)``; answer and foil are single tokens, usually with
            a space before them. The answer of the corrupted prompt is taken to be the foil.
        name: Name of the task, for tables and figures.

    Raises:
        TaskError: No pairs; prompts of different length (both are shown in pieces), of the same tokens, or longer than
            the model's context; an answer or foil of several tokens; an answer that equals its foil.
    """
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 4:
            raise TaskError(f"a pair is (clean prompt, corrupted prompt, answer, foil), not {pair!r}")
    task = _task_of(model, name, [(*pair, pair[3]) for pair in pairs])
    return replace(task, positions={"first difference": _first_difference(task), **task.positions})


# --- pieces ----------------------------------------------------------------------------------------------------


def _own_names(model: "SAETransformerBridge", names: Sequence[str]) -> list[str]:
    """Return a reader's names, each once, after a check that each would stand only where a name is put."""
    if isinstance(names, str):
        raise TaskError(f"names must be a list of names, not the text {names!r}")
    fixed = {word for template in TEMPLATES for word in re.findall(r"\w+", re.sub(r"\{\w+\}", " ", template))}
    for name in names:
        single_token(model, f" {name}", name="the name", error=TaskError)
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
    return [f" {word}" for word in words if _is_single(model, f" {word}")]


def _draw(items: Sequence, k: int, generator: torch.Generator) -> list:
    return [items[i] for i in torch.randperm(len(items), generator=generator)[:k].tolist()]


def _task_of(model: "SAETransformerBridge", name: str, rows: Sequence[tuple[str, str, str, str, str]]) -> Task:
    """Make a task with the one position "end", of rows (clean prompt, corrupted prompt, answer, foil, its answer).

    Raises:
        TaskError: What `task_from_pairs` refuses.
    """
    if not rows:
        raise TaskError("a task needs at least one pair of prompts")
    ids = [(_encoded(model, row[0]), _encoded(model, row[1])) for row in rows]
    for row, (clean, corrupted) in zip(rows, ids, strict=True):
        if len(clean) != len(corrupted):
            shown = [" | ".join(token_texts(model, side)) for side in (clean, corrupted)]
            raise TaskError(
                f"the prompts of a pair must have as many tokens, so that positions match, not {len(clean)} and "
                f"{len(corrupted)}: {shown[0]!r} and {shown[1]!r}"
            )
        if torch.equal(clean, corrupted):
            raise TaskError(
                f"the prompts of a pair are the same tokens, {row[0]!r}: nothing is corrupted. Change a word that the "
                f"answer depends on"
            )
        if row[2] == row[3]:
            raise TaskError(f"answer and foil of {row[0]!r} are both {row[2]!r}: their difference is always zero")
    one_token = partial(single_token, model, name="the continuation", error=TaskError)
    answers, foils, corrupted = (torch.tensor([one_token(row[i]) for row in rows]) for i in (2, 3, 4))
    return Task(
        name=name,
        clean=tuple(row[0] for row in rows),
        corrupted=tuple(row[1] for row in rows),
        answers=answers,
        foils=foils,
        answers_corrupted=corrupted,
        positions={"end": torch.tensor([len(clean) - 1 for clean, _ in ids])},
        ids=tuple(clean for clean, _ in ids),
        ids_corrupted=tuple(corrupted for _, corrupted in ids),
    )


def _encoded(model: "SAETransformerBridge", text: str) -> Int[Tensor, "_pos"]:
    """Return the tokens of a whole prompt: from its end the answer follows."""
    return encode_whole(model, text, name=f"the prompt {text[:40]!r}", error=TaskError)


def _is_single(model: "SAETransformerBridge", text: str) -> bool:
    """Return whether a text is one token that the tokenizer knows."""
    (pieces,) = token_ids(model, [text])
    return len(pieces) == 1 and pieces[0] != model.tokenizer.unk_token_id
