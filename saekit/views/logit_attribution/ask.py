"""What the logit attribution view is asked, and which of its fields is wrong when something is."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

from saekit.attribution import counterparts_of, prompts_of, readout_of, tokens_of
from saekit.errors import ModelError

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

MOST_TOKENS = 128  # of a prompt: the picture has a column for each
BASELINES = ("zero", "mean", "corrupted")


class FieldError(ModelError):
    """A field of the view holds something that cannot be used."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Asked:
    """One question: whatever is the same here has the same answer.

    Attributes:
        prompt: The text.
        answer: The token that is explained.
        foil: The token that it is compared with, "" for none.
        baseline: One of `BASELINES`.
        corrupted: The text to compare with where the baseline is "corrupted", else "".
        hook: Hook point of the SAE.
    """

    prompt: str
    answer: str
    foil: str
    baseline: str
    corrupted: str
    hook: str


def ids_of(
    model: "SAETransformerBridge", asked: Asked, *, compared: bool = True
) -> tuple[Int[Tensor, "pos"], Int[Tensor, "token"]]:
    """Return the ids of the prompt ``[pos]`` and those of the answer and the foil ``[1 or 2]``.

    Args:
        model: The model.
        asked: The question.
        compared: Whether the corrupted prompt is looked at; direct attribution needs none.

    Raises:
        FieldError: With the field that is wrong: an empty or too long prompt, an answer or foil that is not one
            token (it names the pieces), two equal ones, a corrupted prompt of another length.
    """
    if not asked.prompt.strip():
        raise FieldError("prompt", "the prompt is empty: type at least one word")
    (ids,) = _of("prompt", lambda: prompts_of(model, [asked.prompt]))
    if len(ids) > MOST_TOKENS:
        raise FieldError(
            "prompt",
            f"the prompt has {len(ids)} tokens: this view draws a column for each and takes at most {MOST_TOKENS}. "
            f"Shorten it, or call sk.direct_logit_attribution",
        )
    if not asked.answer:
        raise FieldError("answer", "there is no answer: type one token, usually a space and a word")
    tokens = [_of("answer", lambda: tokens_of(model, asked.answer, 1, "answer"))]
    if asked.foil:
        tokens.append(_of("foil", lambda: tokens_of(model, asked.foil, 1, "foil")))
        _of("foil", lambda: readout_of(model, 1, asked.answer, asked.foil, None))
    if compared and asked.baseline == "corrupted":
        if not asked.corrupted.strip():
            raise FieldError(
                "corrupted",
                "there is no prompt to compare with: type one of as many tokens, with the words changed that decide "
                "between answer and foil",
            )
        _of("corrupted", lambda: counterparts_of(model, [ids], [asked.corrupted]))
    return ids, tokens[0] if len(tokens) == 1 else _joined(tokens)


def _of(field: str, check):
    """Return what a check returns; its error names the field. There is one prompt here, so it has no number."""
    try:
        return check()
    except ModelError as wrong:
        words = re.sub(r"^prompt 0: ", "", str(wrong))
        raise FieldError(field, re.sub(r"^prompt 0 ", "the prompt ", words)) from wrong


def _joined(tokens: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(tokens)


def swapped(prompt: str, answer: str, foil: str) -> str:
    """Return the prompt with answer and foil in each other's places, "" where neither occurs.

    >>> swapped("When Mary met John, John gave it to", " Mary", " John")
    'When John met Mary, Mary gave it to'
    """
    one, other = answer.strip(), foil.strip()
    if not one or not other:
        return ""
    places = {one: other, other: one}
    pattern = rf"(?<!\w)({re.escape(one)}|{re.escape(other)})(?!\w)"
    changed, n = re.subn(pattern, lambda found: places[found[1]], prompt)
    return changed if n else ""
