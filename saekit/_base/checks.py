"""Checks of arguments: each returns the value in its one form, or raises the caller's error with what was wanted.

    k = whole("k", k, at_least=1, at_most=sae.cfg.d_sae, error=SAEError)
    # SAEError: k must be a whole number from 1 to 4608, not 0
    lr = finite("lr", lr, above=0, error=SAEError)
    kind = one_of("architecture", kind, ARCHITECTURES, error=SAEError)
    # SAEError: architecture must be 'topk', 'batchtopk' or 'gated', not 'tokp': did you mean 'topk'?
    seed = seed_of(seed, error=SteeringError)
    texts = listed("texts", texts, "texts", error=ProbeError)     # one text alone is refused
    text = unicode_text("corpus.jsonl, line 3", text, error=DataError)
    # DataError: corpus.jsonl, line 3 must be a text (str), not None: leave it out
    direction = real_tensor("the direction", direction, shape="[d_model]", error=ModelError)

A whole number is one of Python or NumPy, or a tensor or array that holds a single one; True is none, nor is 2.0.
"""

import difflib
import math
import operator
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Error = type[Exception]


def whole(name: str, value: Any, *, error: Error, at_least: int | None = None, at_most: int | None = None) -> int:
    """Return a whole number as an int.

    Args:
        name: What the number is, as the message begins: "k", "batch_size".
        value: The number to check.
        error: Class of the error for anything else.
        at_least: Smallest number that is accepted; None for no limit.
        at_most: Largest number that is accepted; None for no limit.
    """
    try:
        number = None if _is_bool(value) else operator.index(value)
    except (TypeError, ValueError):
        number = None
    low, high = -math.inf if at_least is None else at_least, math.inf if at_most is None else at_most
    if number is None or not low <= number <= high:
        raise error(f"{name} must be a whole number{_range(at_least, at_most)}, not {value!r:.80}")
    return number


def finite(
    name: str,
    value: Any,
    *,
    error: Error,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    infinite: bool = False,
) -> float:
    """Return a real number as a float. Text is none, nor are True and NaN.

    Args:
        name: What the number is, as the message begins.
        value: The number to check.
        error: Class of the error for anything else.
        above: Number that it must be larger than.
        at_least: Smallest number that is accepted.
        below: Number that it must be smaller than.
        at_most: Largest number that is accepted.
        infinite: Whether infinite values are accepted.
    """
    try:
        number = math.nan if isinstance(value, str | bytes) or _is_bool(value) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last: a tensor of several numbers
        number = math.nan
    right = number == number and (infinite or math.isfinite(number))
    right = right and (above is None or number > above) and (at_least is None or number >= at_least)
    right = right and (below is None or number < below) and (at_most is None or number <= at_most)
    if not right:
        limits = [("above", above), ("at least", at_least), ("below", below), ("at most", at_most)]
        wanted = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        kind = "number" if infinite else "finite number"
        raise error(f"{name} must be a {kind}{wanted and ' '}{wanted}, not {value!r:.80}")
    return number


def one_of(name: str, value: Any, options: Iterable[T], *, error: Error, hint: str = "") -> T:
    """Return the one of several options that a value equals; the message names them, and the nearest.

    Args:
        name: What is chosen, as the message begins.
        value: The choice to check.
        options: All that can be chosen.
        error: Class of the error for anything else.
        hint: What to do otherwise, at the end of the message.
    """
    options = list(options)
    chosen = [option for option in options if type(value) is type(option) and value == option]
    if not chosen:
        shown = [repr(option) for option in options]
        wanted = f"{', '.join(shown[:-1])} or {shown[-1]}" if 1 < len(shown) <= 12 else ", ".join(shown[:12])
        more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
        near = nearest(value, [option for option in options if isinstance(option, str)], n=1)
        meant = f": did you mean {near[0]!r}?" if near else ""
        raise error(f"{name} must be {wanted}{more}, not {value!r:.80}{meant}{hint and '. '}{hint}")
    return chosen[0]


def nearest(value: Any, options: Iterable[str], *, n: int = 3) -> list[str]:
    """Return at most ``n`` options that read like a value, the nearest first, in any case; [] if none does."""
    if not isinstance(value, str):
        return []
    by_lower = {option.lower(): option for option in options}
    return [by_lower[near] for near in difflib.get_close_matches(value.lower(), by_lower, n=n)]


def seed_of(value: Any, *, error: Error, name: str = "seed") -> int:
    """Return a seed that every generator takes: a whole number from 0 to 2**63 - 1."""
    return whole(name, value, at_least=0, at_most=2**63 - 1, error=error)


def text_of(name: str, value: Any, *, error: Error) -> str:
    """Return a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise error(f"{name} must be a text that is not blank, not {value!r:.80}")
    return value


def unicode_text(name: str, value: Any, *, error: Error) -> str:
    """Return a text that every tokenizer can read: a str of whole characters. The one rule for texts.

    Nothing is converted: a number would be read as its digits, a null as the word None. Blank texts, control
    characters and NUL are characters like others.

    Args:
        name: What the text is, as the message begins: "the prompt", "corpus.jsonl, line 3".
        value: The text to check.
        error: Class of the error for anything else.
    """
    if not isinstance(value, str):
        raise error(f"{name} must be a text (str), not {value!r:.80}: {_instead_of_text(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as half:
        raise error(
            f"{name} holds half a surrogate pair (U+{ord(value[half.start]):04X} at character {half.start}), which is "
            f"no character: leave the text out, or write text.encode('utf-8', 'replace').decode()"
        ) from half
    return value


def _instead_of_text(value: Any) -> str:
    if isinstance(value, bytes):
        return "write .decode('utf-8'), or the encoding that it has"
    if isinstance(value, int | float | np.number) and not _is_bool(value) and value == value:
        return "write str(number) if its digits are the text"
    if isinstance(value, list | tuple | dict | np.ndarray):
        return "make one text of it first; a chat with tokenizer.apply_chat_template(messages, tokenize=False)"
    return "leave it out"


def listed(name: str, values: Any, of: str, *, error: Error, empty: bool = True) -> list:
    """Return several values as a list; a single one, a text above all, is refused.

    Args:
        name: What they are, as the message begins: "prompts".
        values: The values; any iterable but a text, bytes or a mapping.
        of: What each should be, in the plural: "texts".
        error: Class of the error for anything else.
        empty: Whether none at all is accepted.
    """
    try:
        several = None if isinstance(values, str | bytes | dict) else list(values)
    except TypeError:  # a number, or a tensor without dimensions
        several = None
    if several is None or not (several or empty):
        raise error(f"{name} must be a list of {of}{'' if empty else ', at least one'}, not {values!r:.80}")
    return several


def real_tensor(name: str, values: Any, *, error: Error, shape: str = "") -> "Tensor":
    """Return a tensor, an array or a (nested) list of real numbers as a tensor; lists and arrays as float64.

    Args:
        name: What it is, as the message begins.
        values: The numbers to check; neither complex nor boolean. Whether they are finite is the caller's to say.
        error: Class of the error for anything else.
        shape: What the message says of its shape, "[d_model]"; the shape itself is the caller's to check.
    """
    import torch

    found = None
    if isinstance(values, torch.Tensor):
        found = None if values.is_complex() or values.dtype == torch.bool else values
    else:
        with suppress(TypeError, ValueError, RuntimeError):  # rows of different lengths
            array = np.asarray(values)
            found = torch.from_numpy(array.astype(np.float64)) if array.dtype.kind in "fiu" else None
    if found is None:
        raise error(f"{name} must be a tensor, array or list of real numbers{shape and ' '}{shape}, not {values!r:.80}")
    return found


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def _range(at_least: int | None, at_most: int | None) -> str:
    if at_least is None:
        return "" if at_most is None else f" of at most {at_most:,}"
    return f" from {at_least:,} {'on' if at_most is None else f'to {at_most:,}'}"
