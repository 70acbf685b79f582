"""A task: prompts in pairs, clean and corrupted, with their answers as single tokens, checked and tokenised."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import whole
from saekit.errors import TaskError
from saekit.models import bos_token_id, encode_text

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


@dataclass(frozen=True)
class Task:
    """Prompts in pairs with their answers.

    Attributes:
        name: What the task is, and how it was corrupted.
        clean: Prompts whose right next token is the answer.
        corrupted: As many, pair by pair of the same length in tokens.
        answers: Token ids ``[prompt]`` of the right continuation of the clean prompts.
        foils: Token ids ``[prompt]`` of the continuation to which it is compared.
        answers_corrupted: Token ids ``[prompt]`` of the right continuation of the corrupted prompts.
        positions: Names of positions, and where each is in every prompt ``[prompt]``; BOS counts as 0.
        ids: Token ids of the clean prompts, one ``[pos]`` a prompt, BOS first where the model has one.
        ids_corrupted: The same of the corrupted prompts.
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
        pick = lambda items: tuple(items[i] for i in rows.tolist())  # noqa: E731
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

        Raises TaskError if ``size`` is not at least 1.
        """
        size = whole("batch_size", size, at_least=1, error=TaskError)
        by_length = defaultdict(list)
        for row, ids in enumerate(self.ids):
            by_length[len(ids)].append(row)
        for _, rows in sorted(by_length.items()):
            for start in range(0, len(rows), size):
                yield torch.tensor(rows[start : start + size]), self.select(rows[start : start + size])

    def __repr__(self) -> str:
        return f"Task({self.name}: {len(self)} pairs, for example {self.clean[0]!r} against {self.corrupted[0]!r})"


def single_token(model: "SAETransformerBridge", text: str) -> int:
    """Return the id of a text that is one token. Raises TaskError, with the pieces, if it is not."""
    if not text:
        raise TaskError("expected a token, such as ' Mary', not an empty text")
    pieces = token_ids(model, text)
    if len(pieces) != 1:
        shown = " + ".join(repr(model.tokenizer.decode([piece])) for piece in pieces)
        hint = "" if text.startswith(" ") else f" (with a space before it: {' ' + text!r}?)"
        raise TaskError(f"{text!r} is {len(pieces)} tokens for this model: {shown}. Choose a word that is one{hint}")
    if pieces[0] == model.tokenizer.unk_token_id:
        raise TaskError(f"{text!r} is unknown to this model's tokenizer: choose another word")
    return pieces[0]


def task_of(model: "SAETransformerBridge", name: str, rows: Sequence[tuple[str, str, str, str, str]]) -> Task:
    """Make a task with the one position "end".

    Args:
        model: For its tokenizer.
        name: Of the task.
        rows: Clean prompt, corrupted prompt, answer, foil, answer of the corrupted prompt.

    Raises TaskError for what `task_from_pairs` refuses.
    """
    if not rows:
        raise TaskError("a task needs at least one pair of prompts")
    ids = [tuple(_encoded(model, text) for text in row[:2]) for row in rows]
    for row, (clean, corrupted) in zip(rows, ids, strict=True):
        if len(clean) != len(corrupted):
            shown = [" | ".join(model.tokenizer.decode([i]) for i in side) for side in (clean, corrupted)]
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
    tokens = lambda column: torch.tensor([single_token(model, row[column]) for row in rows])  # noqa: E731
    return Task(
        name=name,
        clean=tuple(row[0] for row in rows),
        corrupted=tuple(row[1] for row in rows),
        answers=tokens(2),
        foils=tokens(3),
        answers_corrupted=tokens(4),
        positions={"end": torch.tensor([len(clean) - 1 for clean, _ in ids])},
        ids=tuple(clean for clean, _ in ids),
        ids_corrupted=tuple(corrupted for _, corrupted in ids),
    )


def _encoded(model: "SAETransformerBridge", text: str) -> Int[Tensor, "_pos"]:
    """Return the tokens of a whole prompt: `encode_text` would cut it at the model's context without a word."""
    n_ctx = model.cfg.n_ctx
    cut = len(text) > 32 * n_ctx  # more characters than `encode_text` looks at
    ids = encode_text(model, text)
    if cut or (len(ids) == n_ctx and len(token_ids(model, text)) + (bos_token_id(model) is not None) > n_ctx):
        raise TaskError(
            f"the prompt {text[:40]!r}... of {len(text):,} characters is longer than the model's context of {n_ctx:,} "
            f"tokens: its end, from which the answer follows, would be cut off. Shorten it"
        )
    return ids


def is_single(model: "SAETransformerBridge", text: str) -> bool:
    """Return whether a text is one token that the tokenizer knows."""
    pieces = token_ids(model, text)
    return len(pieces) == 1 and pieces[0] != model.tokenizer.unk_token_id


def token_ids(model: "SAETransformerBridge", text: str) -> list[int]:
    """Return the tokens of a text, without BOS and without a limit."""
    return model.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
