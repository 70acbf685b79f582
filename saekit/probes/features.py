"""What an extraction keeps: labelled texts, the model's own activations, and what SAEs say about every token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from saekit._base.identity import Identity
from saekit.data import LabelledItems
from saekit.errors import ProbeError
from saekit.models import other_than

if TYPE_CHECKING:
    from scipy.sparse import csr_array


_IN_TEXT = ("special", "massive", "special or massive")  # why a token of a text is left out; others stand before it


@dataclass(frozen=True)
class Hook:
    """The model's own activations at one hook point: what the hidden-state baselines read.

    A row is a token that counts: no BOS, no padding, no special token, no massive activation.

    Attributes:
        name: Name of the hook point.
        starts: First row of each text: the tokens of text i are rows ``starts[i]`` to ``starts[i + 1]``.
        position: Place of each token in its text, from 0.
        last: Activation at the last token that counts; 0 for a text without any.
        mean: Mean activation over the tokens that count; 0 for a text without any.
        states: Activations of all tokens in half precision; None if they were not asked for.
        excluded: Number of tokens left out, by reason.
    """

    name: str
    starts: Int[np.ndarray, " text1"]
    position: Int[np.ndarray, " token"]
    last: Float[np.ndarray, "text d_model"]
    mean: Float[np.ndarray, "text d_model"]
    states: Float[np.ndarray, "token d_model"] | None
    excluded: dict[str, int]


@dataclass(frozen=True)
class SAEFeatures:
    """What one SAE says about every token that counts.

    Attributes:
        name: Name of the SAE in this extraction.
        hook: Hook point at which it reads, whose tokens are the rows of ``events``.
        events: Feature activations ``[token, feature]``, compressed by rows.
        control: Kind of control, "random" or "permuted"; "" for an SAE.
        of: Name of the SAE that a control stands beside; "" for an SAE.
        identity: What decides the SAE's numbers; None where that is not known.
    """

    name: str
    hook: Hook
    events: "csr_array"
    control: str = ""
    of: str = ""
    identity: Identity | None = None

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.events.shape[1]


@dataclass(frozen=True)
class TextFeatures:
    """Labelled texts, and what every SAE says about their tokens.

    Attributes:
        data: Texts and their labels, in the order of all arrays here.
        index: Place of each text in the data that was given.
        ids: Token ids of all texts, end to end, without BOS.
        id_starts: First id of each text: the ids of text i are ``ids[id_starts[i]:id_starts[i + 1]]``.
        hooks: Activations of the model by hook point.
        saes: Activations of features by name of the SAE.
        cut: Whether each text was longer than the context, and was cut.
        context_size: Number of tokens of a text that were read, BOS included.
        model_name: Name of the model, whose tokens these are.
        model_identity: What decides the model's numbers; None where that is not known.
        n_extracted: Number of texts in the data that was given, of which a `subset` has some; None: as many as here.
    """

    data: LabelledItems
    index: Int[np.ndarray, " text"]
    ids: Int[np.ndarray, " id"]
    id_starts: Int[np.ndarray, " text1"]
    hooks: dict[str, Hook]
    saes: dict[str, SAEFeatures]
    cut: Bool[np.ndarray, " text"]
    context_size: int
    model_name: str
    n_extracted: int | None = None
    model_identity: Identity | None = None

    def __len__(self) -> int:
        return len(self.data)

    def sae(self, name: str | None = None) -> SAEFeatures:
        """Return the features of an SAE by its name; without a name, of the first one."""
        name = next(iter(self.saes)) if name is None else name
        if name not in self.saes:
            raise ProbeError(f"no SAE {name!r}: this extraction has {', '.join(self.saes)}")
        return self.saes[name]

    @property
    def made_with(self) -> dict[str, Identity]:
        """What decides the numbers of ``"model"`` and of each SAE, ``"SAE NAME"``, as far as they are known."""
        known = {"model": self.model_identity} | {f"SAE {name}": sae.identity for name, sae in self.saes.items()}
        return {name: identity for name, identity in known.items() if identity is not None}

    @property
    def truncated(self) -> int:
        """Number of texts that were cut."""
        return int(self.cut.sum())

    @property
    def empty(self) -> int:
        """Number of texts that have no token that counts."""
        return int((np.diff(next(iter(self.hooks.values())).starts) == 0).sum())

    @property
    def nbytes(self) -> int:
        """Bytes of the sparse matrices of all SAEs."""
        return sum(e.data.nbytes + e.indices.nbytes + e.indptr.nbytes for e in (s.events for s in self.saes.values()))

    def __repr__(self) -> str:
        hook = next(iter(self.hooks.values()))
        left_out = ", ".join(f"{count:,} {name}" for name, count in hook.excluded.items())
        notes = [f"{self.truncated:,} texts cut at {self.context_size} tokens"] if self.truncated else []
        notes += [f"{self.empty:,} texts without a token that counts"] if self.empty else []
        return (
            f"TextFeatures({self.data.name!r}, {len(self):,} texts, {len(hook.position):,} tokens; SAEs "
            f"{', '.join(self.saes)}; left out: {'; '.join([left_out, *notes])})"
        )


def check_made_with(what: str, held: Mapping[str, Identity], given: Mapping[str, Identity]) -> None:
    """Refuse a result beside another model or SAE than it was made with.

    Args:
        what: What the result is called: "the probe".
        held: What the result was made with; see `TextFeatures.made_with`.
        given: What it is used with.

    Raises:
        ProbeError: One of the same name differs; the message says in what.
    """
    for name, identity in held.items():
        if name in given and (words := other_than(identity, given[name], what)):
            raise ProbeError(
                f"{what} was made with another {name}: {'; '.join(words)} (that of {what} against the one given). Pass "
                f"the {name.split()[0]} that it was made with"
            )


def subset(features: TextFeatures, rows: Int[np.ndarray, " row"] | Bool[np.ndarray, " text"]) -> TextFeatures:
    """Return some of the texts, with their features; kept in the extraction's order.

    Args:
        features: Extraction to take texts from.
        rows: Numbers of the texts, or True or False for each.

    Raises:
        ProbeError: Not one True or False a text, or no such number.
    """
    rows = chosen_rows(rows, len(features))
    ids, id_starts = _tokens_of(features.id_starts, rows)
    hooks = {name: _hook_subset(hook, rows, len(ids)) for name, hook in features.hooks.items()}
    saes = {
        name: replace(sae, hook=hooks[sae.hook.name], events=sae.events[_tokens_of(sae.hook.starts, rows)[0]])
        for name, sae in features.saes.items()
    }
    return replace(
        features,
        data=features.data[rows],
        index=features.index[rows],
        ids=features.ids[ids],
        id_starts=id_starts,
        hooks=hooks,
        saes=saes,
        cut=features.cut[rows],
        n_extracted=_n_extracted(features),
    )


def _tokens_of(
    starts: Int[np.ndarray, " text1"], rows: Int[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " some1"]]:
    """Return the tokens of some texts, and where each of these texts starts among them."""
    tokens = np.concatenate([np.zeros(0, np.int64), *(np.arange(starts[i], starts[i + 1]) for i in rows)])
    return tokens, np.concatenate([[0], np.cumsum(np.diff(starts)[rows])])


def _hook_subset(hook: Hook, rows: Int[np.ndarray, " row"], n_ids: int) -> Hook:
    tokens, starts = _tokens_of(hook.starts, rows)
    states = None if hook.states is None else hook.states[tokens]
    excluded = _excluded_among(hook, len(rows), n_ids - len(tokens))
    return Hook(hook.name, starts, hook.position[tokens], hook.last[rows], hook.mean[rows], states, excluded)


def _excluded_among(hook: Hook, n_texts: int, left_out: int) -> dict[str, int]:
    """Return the tokens left out of some texts by reason; within a text it is known only that they are left out."""
    before = len(hook.starts) - 1
    counts = {reason: n * n_texts // max(before, 1) for reason, n in hook.excluded.items() if reason not in _IN_TEXT}
    reasons = [reason for reason in _IN_TEXT if hook.excluded.get(reason)]
    if len(reasons) > 1:
        return counts | {_IN_TEXT[-1]: left_out}
    return counts | {reason: left_out * (reason in reasons) for reason in _IN_TEXT if reason in hook.excluded}


def as_extracted(features: TextFeatures, name: str, values: np.ndarray) -> np.ndarray:
    """Return values of the user's own in the order of an extraction, or of a part of one.

    Args:
        features: Extraction that gives the order.
        name: Word for the values in the error.
        values: Values, one row for each text of the data that was extracted, in its order.
    """
    if len(values) != (expected := _n_extracted(features)):
        raise ProbeError(
            f"{name}: {len(values):,} rows for {expected:,} texts; expected one row for each text of the data that "
            f"was extracted"
        )
    return values[features.index]


def _n_extracted(features: TextFeatures) -> int:
    return len(features) if features.n_extracted is None else features.n_extracted


def chosen_rows(rows: "Sequence | np.ndarray", n_texts: int) -> Int[np.ndarray, " row"]:
    """Return numbers of texts in ascending order, each once, given numbers or True or False for each text."""
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if rows.shape != (n_texts,):
            raise ProbeError(f"expected one True or False for each of {n_texts:,} texts, got {len(rows):,}")
        return np.flatnonzero(rows)
    if rows.size and (not np.issubdtype(rows.dtype, np.integer) or not 0 <= rows.min() <= rows.max() < n_texts):
        raise ProbeError(f"expected numbers of texts, 0 to {n_texts - 1:,}, or True or False for each")
    return np.unique(rows).astype(np.int64)


def unlabelled(texts: Sequence[str]) -> LabelledItems:
    """Return texts as data without labels (-1)."""
    if isinstance(texts, str):
        raise ProbeError("expected a list of texts, got one string: write [text]")
    if not all(isinstance(text, str) for text in texts):
        raise ProbeError("expected texts: every one of them a string")
    return LabelledItems("texts", tuple(texts), np.full(len(texts), -1), (), "the user's own", "the user's own")
