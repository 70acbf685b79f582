"""What decides the numbers of something, said in words: stored beside a result, and compared before it is used again.

A room says what decides its numbers: `models.model_identity`, `saes.sae_identity`, `data.Tokens.identity`. Weights are
among it as one hash (`_base.weights`).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Identity:
    """Everything that decides the numbers of a model, an SAE, a corpus or of what was made with them.

    Attributes:
        kind: What it is the identity of, in messages: "SAE".
        facts: Value by name, as JSON knows it. Names and values are read by people: "k", 8.
    """

    kind: str
    facts: Mapping[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        """Keep the facts as a file gives them back."""
        object.__setattr__(self, "facts", json.loads(json.dumps(dict(self.facts), default=str)))

    @property
    def digest(self) -> str:
        """A SHA-256 over all facts."""
        return hashlib.sha256(json.dumps([self.kind, self.facts], sort_keys=True).encode()).hexdigest()

    def difference(self, other: "Identity | Mapping[str, Any]") -> list[str]:
        """Say in what two differ, "k 8 against k 2", by the facts that both know: an older file may know few.

        Args:
            other: The other identity, or its facts as they were stored.
        """
        return differences(self.facts, other.facts if isinstance(other, Identity) else other)


def differences(facts: Mapping[str, Any], others: Mapping[str, Any], *, whole: bool = False) -> list[str]:
    """Return in words what differs between facts of the same names, those within a fact too.

    Args:
        facts: The ones, as JSON knows them.
        others: The others.
        whole: Whether what only the first know is a difference too, on the top level.
    """
    words = []
    for name, value in facts.items():
        if name not in others:
            words += [f"{name} {_said(value)} against one that is not recorded"] if whole else []
        elif isinstance(value, Mapping) and isinstance(others[name], Mapping):
            words += [f"{name} {word}" for word in differences(value, others[name])]
        # As text: a number that does not exist is unlike itself, and it is the same setting all the same.
        elif json.dumps(value, sort_keys=True) != json.dumps(others[name], sort_keys=True):
            words.append(f"{name} {_said(value)} against {_said(others[name])}")
    return words


def short_hash(value: Any) -> str:
    """Return 16 hexadecimal digits that stand for plain data too long to be said."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _said(value: Any) -> str:
    """Return a value as it stands in a message: a hash by its first digits, a text in quotation marks."""
    if isinstance(value, str):
        return value[:8] if re.fullmatch("[0-9a-f]{16,}", value) else f"{value!r:.60}"
    return "none" if value is None else f"{json.dumps(value):.60}"
