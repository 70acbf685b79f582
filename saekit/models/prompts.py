"""From text to tokens, and tokens to batches: the one place that cuts a text, and says so.

`encode_texts` and `encode_start` cut at the model's context and return that they did; `encode_text` warns,
`encode_whole` refuses. What is no text is refused at `token_ids`, through which all texts go.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from saekit._base.checks import listed, unicode_text
from saekit.errors import ModelError, SaekitError
from saekit.models.door import check_tokens
from saekit.models.vocabulary import join_pieces, readable, token_bytes

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

# Of a very long text only the start can fit, and tokenising the rest would take seconds. A token has some four.
CHARACTERS = 32
LONGEST = 10_000_000  # characters of a text that is read whole: some gigabyte while it is tokenised


@dataclass(frozen=True)
class Encoded:
    """A text as a model reads it.

    Attributes:
        ids: Token ids, BOS first where the model has one.
        cut: Whether the text goes on where the ids end.
        size: Length of the whole text in words, "301 tokens"; in characters where it is too long to be tokenised.
    """

    ids: Int[Tensor, "pos"]
    cut: bool
    size: str


def special_token_ids(model: "SAETransformerBridge") -> list[int]:
    """Return the ids of BOS, EOS, padding and chat markers; [] for a model without a tokenizer."""
    from sae_lens.util import get_special_token_ids

    return sorted(get_special_token_ids(model.tokenizer)) if model.tokenizer is not None else []


def bos_token_id(model: "SAETransformerBridge") -> int | None:
    """Return the id that `encode_text` and the corpora put first, None where the model's texts begin without BOS."""
    return None if model.tokenizer is None or not model.cfg.default_prepend_bos else model.tokenizer.bos_token_id


def token_ids(
    model: "SAETransformerBridge", texts: Sequence[str], *, error: type[SaekitError] = ModelError
) -> list[list[int]]:
    """Return the token ids of whole texts, without BOS. Markers of special tokens inside a text stay text.

    Args:
        model: The model.
        texts: The texts; an empty one has no tokens.
        error: Class of the error for texts that cannot be read.

    Raises:
        ModelError: The model has no tokenizer.
        SaekitError: One of them is no str of whole characters, or longer than `LONGEST`; of the class ``error``.
    """
    if model.tokenizer is None:
        raise ModelError(f"{model.cfg.model_name} has no tokenizer: pass token ids, or load the model with one")
    texts = [
        unicode_text(f"text {i}", text, error=error)
        for i, text in enumerate(listed("texts", texts, "texts", error=error))
    ]
    if long := [i for i, text in enumerate(texts) if len(text) > LONGEST]:
        raise error(
            f"text {long[0]} has {len(texts[long[0]]):,} characters, of which at most {LONGEST:,} can be tokenised in "
            f"one piece: split it into documents"
        )
    if not texts:
        return []
    return model.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def token_text(model: "SAETransformerBridge", token: int) -> str:
    """Return the text of one token on its own: a piece of a character as its bytes, ``"<0xD0>"``.

    A model without a tokenizer has the token's number for a text.
    """
    if model.tokenizer is None:
        return f"<{token}>"
    text = model.tokenizer.decode([int(token)])
    return readable(token_bytes(model, [int(token)])[0]) if "\ufffd" in text else text


def token_texts(model: "SAETransformerBridge", ids: Iterable[int]) -> tuple[str, ...]:
    """Return the texts of consecutive tokens, one per token.

    A character that is spread over several tokens stands whole at the first of them; the rest get ``""``.
    """
    ids = [int(token) for token in ids]
    if model.tokenizer is None:
        return tuple(f"<{token}>" for token in ids)
    texts = [model.tokenizer.decode([token]) for token in ids]
    return tuple(join_pieces(token_bytes(model, ids)) if "\ufffd" in "".join(texts) else texts)


def single_token(
    model: "SAETransformerBridge", text: str, *, name: str = "the word", error: type[SaekitError] = ModelError
) -> int:
    """Return the id of a text that is one token.

    Args:
        model: The model.
        text: The text, usually with a space before it: ``" Mary"``.
        name: Name of the text in messages.
        error: Class of the error for a text of no or several tokens, or one that the tokenizer does not know.

    Raises:
        ModelError: The model has no tokenizer.
        SaekitError: The text is not one known token; of the class ``error``, with the pieces that it is.
    """
    (ids,) = token_ids(model, [text])
    if len(ids) != 1:
        pieces = ", ".join(repr(token_text(model, i)) for i in ids) or "none"
        first = f" Its first piece is {token_text(model, ids[0])!r}." if ids else ""
        raise error(
            f"{name} {text!r} is {len(ids)} tokens for this tokenizer ({pieces}); one logit belongs to one "
            f"token.{first} Words inside a text usually begin with a space: {' ' + text.strip()!r}"
        )
    if ids[0] == model.tokenizer.unk_token_id:
        raise error(f"{name} {text!r} is unknown to this model's tokenizer: choose another word")
    return int(ids[0])


def given_ids(
    model: "SAETransformerBridge", ids: Any, *, name: str = "the prompt", error: type[SaekitError] = ModelError
) -> Int[Tensor, "pos"]:
    """Return the token ids of a prompt that is given as ids, checked.

    Args:
        model: The model.
        ids: The ids ``[pos]``: a tensor, an array or a list of whole numbers, BOS among them where it is wanted.
        name: Name of the prompt in messages.
        error: Class of the error.

    Raises:
        SaekitError: Not one row of whole numbers, none, more than the model's context holds, or not tokens of the
            model; of the class ``error``.
    """
    try:
        given = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise error(f"{name} must be text or token ids, not {ids!r:.80}") from problem
    if given.ndim != 1:
        raise error(f"{name} must be text or one row of token ids, not of the shape {list(given.shape)}")
    return check_tokens(model, given[None], name=name, error=error)[0].cpu()


def encode_texts(
    model: "SAETransformerBridge",
    texts: Sequence[str],
    *,
    most: int | None = None,
    error: type[SaekitError] = ModelError,
) -> tuple[Encoded, ...]:
    """Return texts as the model reads them, cut where they are too long.

    Args:
        model: The model.
        texts: The texts; an empty one is BOS alone.
        most: Number of tokens at which to cut, BOS included; None for the model's context.
        error: Class of the error for what is no text.

    Raises:
        ModelError: The model has no tokenizer.
        SaekitError: One of them is no str of whole characters; of the class ``error``.
    """
    most = model.cfg.n_ctx if most is None else most
    bos = [] if bos_token_id(model) is None else [bos_token_id(model)]
    encoded = []
    starts = [text[: CHARACTERS * most] if isinstance(text, str) else text for text in texts]
    for text, ids in zip(texts, token_ids(model, starts, error=error), strict=True):
        ids, long = [*bos, *ids], len(text) > CHARACTERS * most
        size = f"{len(text):,} characters" if long else f"{len(ids):,} tokens"
        encoded.append(Encoded(torch.tensor(ids[:most], dtype=torch.long), long or len(ids) > most, size))
    return tuple(encoded)


def encode_start(
    model: "SAETransformerBridge",
    text: str,
    *,
    most: int | None = None,
    name: str = "the text",
    error: type[SaekitError] = ModelError,
) -> Encoded:
    """Return one text as the model reads it, cut where it is too long.

    Args:
        model: The model.
        text: The text.
        most: Number of tokens at which to cut, BOS included; None for the model's context.
        name: Name of the text in messages.
        error: Class of the error for an empty text, or what is no text.

    Raises:
        ModelError: The model has no tokenizer.
        SaekitError: The text is empty, or no str of whole characters; of the class ``error``.
    """
    (encoded,) = encode_texts(model, [unicode_text(name, text, error=error)], most=most, error=error)
    if len(encoded.ids) == (bos_token_id(model) is not None):
        raise error(f"{name} is empty: expected at least one character")
    return encoded


def encode_text(model: "SAETransformerBridge", text: str) -> Int[Tensor, "pos"]:
    """Return the token ids of a text, BOS first where the model has one, cut at the model's context.

    Raises:
        ModelError: The text is empty, or the model has no tokenizer.

    Warns:
        UserWarning: The text is longer than the model's context.
    """
    encoded = encode_start(model, text)
    if encoded.cut:
        n_ctx = model.cfg.n_ctx
        warnings.warn(
            f"the text has {encoded.size}, the model's context holds {n_ctx} tokens: only the first {n_ctx} are read",
            stacklevel=2,
        )
    return encoded.ids


def encode_whole(
    model: "SAETransformerBridge", text: str, *, name: str = "the prompt", error: type[SaekitError] = ModelError
) -> Int[Tensor, "pos"]:
    """Return the token ids of a text of which nothing may be missing, BOS first where the model has one.

    Args:
        model: The model.
        text: The text.
        name: Name of the text in messages.
        error: Class of the error for an empty or too long text, or what is no text.

    Raises:
        ModelError: The model has no tokenizer.
        SaekitError: The text is empty or longer than the model's context; of the class ``error``.
    """
    encoded = encode_start(model, text, name=name, error=error)
    if encoded.cut:
        raise error(
            f"{name} has {encoded.size}, the model's context holds {model.cfg.n_ctx} tokens: its end would be cut off. "
            f"Shorten it"
        )
    return encoded.ids


def batches_of_one_length(rows: Sequence[Sized], size: int) -> Iterator[Int[Tensor, "batch"]]:
    """Yield numbers of rows that are equally long, so that none needs padding: the shortest first, then in order.

    Args:
        rows: Token ids of each row; only their number counts.
        size: Number of rows in a batch, at most.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_length[len(row)].append(number)
    for _, alike in sorted(by_length.items()):
        yield from torch.tensor(alike).split(size)
