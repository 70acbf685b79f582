"""The first thing to run on something of one's own: everything that can be wrong with it, looked at, in one table.

The doctor has no rules of its own: it calls the doors that every analysis goes through, and shows what they say.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from saekit._base.table import Column, Shown, Table
from saekit.data import Tokens
from saekit.evaluation import evaluate
from saekit.models import (
    bos_token_id,
    check_finite,
    check_tokens,
    context_length,
    forward,
    processing_of,
    special_token_ids,
    token_text,
)
from saekit.saes import (
    Finding,
    card_of,
    check_pair,
    check_rebuilds,
    check_sae,
    findings,
    sae_hook,
    unknown_fields,
)

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Verdict = Literal["right", "note", "wrong"]
SAMPLE = 512  # tokens on which an SAE's quality is measured


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at.

    Attributes:
        part: "model", "SAE", "pair" or "tokens".
        what: What was looked at.
        found: What was found.
        verdict: "right", "note" (numbers can be read, with care) or "wrong" (they would mean nothing).
        words: What to do; "" where all is right.
    """

    part: str
    what: str
    found: str
    verdict: Verdict = "right"
    words: str = ""


@dataclass(frozen=True, repr=False)
class Checkup(Shown):
    """Everything that `check` looked at.

    Attributes:
        rows: What was looked at, in order.
    """

    rows: tuple[Checked, ...]

    @property
    def wrong(self) -> tuple[Checked, ...]:
        """What makes numbers meaningless."""
        return tuple(row for row in self.rows if row.verdict == "wrong")

    @property
    def notes(self) -> tuple[Checked, ...]:
        """What has to be known to read the numbers."""
        return tuple(row for row in self.rows if row.verdict == "note")

    def _table(self) -> Table:
        counts = f"{len(self.wrong)} wrong, {len(self.notes)} to note, {len(self.rows)} looked at"
        return Table(self.rows, _COLUMNS, caption=counts)

    def __repr__(self) -> str:
        advice = [f"{row.verdict}: {row.part}, {row.what}: {row.words}" for row in (*self.wrong, *self.notes)]
        return "\n".join([repr(self._table()), *advice])


_COLUMNS = (
    Column("", "verdict"),
    Column("part", "part"),
    Column("looked at", "what"),
    Column("found", "found"),
    Column("what to do", "words", text=False),
)


def check(
    model: "SAETransformerBridge | None" = None, sae: "SAE[Any] | None" = None, tokens: Tokens | None = None
) -> Checkup:
    """Look at a model, an SAE and a corpus, alone and together, and return what is right with them and what is not.

    Nothing is changed, and no error is raised: what an analysis would refuse is a row that says what to do. With all
    three the SAE's L0 and FVU are measured on some 512 tokens and compared with its card or metadata.

    Args:
        model: Model from `load_model`; None to leave it out.
        sae: SAE from `load_sae`; None to leave it out.
        tokens: Corpus from `load_corpus` or `tokens_from_texts`; None to leave it out.
    """
    rows: list[Checked] = []
    if model is not None:
        rows += _all("model", lambda: _of_model(model))
    if sae is not None:
        rows += _all("SAE", lambda: _of_sae(sae))
    if tokens is not None:
        rows += _looked("tokens", "kind", lambda: _corpus(tokens))
    if any(row.verdict == "wrong" for row in rows if row.what == "kind"):  # nothing to look at together
        return Checkup(tuple(rows))
    if model is not None and sae is not None:
        rows += _all("pair", lambda: _of_pair(model, sae, tokens))
    if model is not None and tokens is not None:
        rows += _all("tokens", lambda: _of_tokens(model, tokens))
    said = [row.words for row in rows]  # what two doors say is one row
    return Checkup(tuple(row for at, row in enumerate(rows) if not row.words or row.words not in said[:at]))


def _all(part: str, look: Callable[[], list[Checked]]) -> list[Checked]:
    """Return what was looked at, or the error that kept from looking as a row."""
    try:
        return look()
    except Exception as error:  # what is broken beyond the doors' words is a row too
        return [Checked(part, "all of it", "cannot be looked at", "wrong", f"{type(error).__name__}: {error}")]


def _looked(part: str, what: str, look: Callable[[], str], *, bad: Verdict = "wrong") -> list[Checked]:
    """Return what was found, with a row for each warning, or the error as a row."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            row = Checked(part, what, look())
        except Exception as error:  # whatever is wrong with something of one's own is a row, not an end
            row = Checked(part, what, "refused" if bad == "wrong" else "", bad, str(error) or type(error).__name__)
    notes = [Checked(part, what, "", "note", str(one.message)) for one in said if one.category is UserWarning]
    return [row, *notes] if row.found or row.words else notes


def _row(part: str, what: str, found: str, *, note: str = "", wrong: str = "") -> Checked:
    return Checked(part, what, found, "wrong" if wrong else "note" if note else "right", wrong or note)


def _of_model(model: "SAETransformerBridge") -> list[Checked]:
    from sae_lens import SAETransformerBridge

    if not isinstance(model, SAETransformerBridge):
        return [_row("model", "kind", type(model).__name__, wrong="expected a model of load_model(name or folder)")]
    weights = list(model.parameters())
    kinds = {str(weight.dtype).removeprefix("torch.") for weight in weights}
    places = {str(weight.device) for weight in weights}
    cfg, most, treated = model.cfg, context_length(model), [k for k, v in processing_of(model).items() if v]
    learns = any(weight.requires_grad for weight in weights)
    rows = [
        _row("model", "kind", f"{cfg.model_name}: {cfg.n_layers} layers of {cfg.d_model}, {_size(weights)} weights"),
        *_looked("model", "weights", lambda: _finite(model)),
        _row(
            "model",
            "numbers",
            f"{' and '.join(sorted(kinds))} on {' and '.join(sorted(places))}",
            note=""
            if kinds == {"float32"}
            else "rounding shows in losses and attributions: load it in float32 for them",
            wrong="" if len(places) == 1 else "expected one device",
        ),
        _row(
            "model",
            "gradients",
            "on" if learns else "off",
            note="they cost memory: model.requires_grad_(False)" * learns,
        ),
        _row("model", "treatment", ", ".join(treated) or "weights as published"),
        _row("model", "context", "without bound" if most is None else f"{most:,} tokens"),
    ]
    rows += _looked("model", "a run", lambda: _run(model))
    return rows + _of_tokenizer(model)


def _of_tokenizer(model: "SAETransformerBridge") -> list[Checked]:
    if model.tokenizer is None:
        return [_row("model", "tokenizer", "none", note="texts are refused, and no token is left out as special")]
    size, rows = len(model.tokenizer), model.W_E.shape[0]
    bos = bos_token_id(model)
    begin = "without BOS" if bos is None else f"with {token_text(model, bos)} (id {bos})"
    few = f"it has ids that the model has no embedding for: it belongs to another model ({size:,} against {rows:,})"
    return [
        _row("model", "tokenizer", f"{size:,} tokens, {rows:,} embeddings", wrong=few if size > rows else ""),
        _row("model", "texts begin", begin),
    ]


def _of_sae(sae: "SAE[Any]") -> list[Checked]:
    from sae_lens import SAE

    if not isinstance(sae, SAE):
        return [_row("SAE", "kind", type(sae).__name__, wrong="expected an SAE of load_sae(name or folder)")]
    found = f"{sae.cfg.architecture()}: {sae.cfg.d_in:,} dimensions, {sae.cfg.d_sae:,} features"
    rows = [_row("SAE", "kind", found), *_looked("SAE", "weights and demands", lambda: _demands(sae))]
    rows += _also("SAE", findings(sae), rows)
    empty, unknown = int((sae.W_dec == 0).all(1).sum()), ", ".join(unknown_fields(sae))
    if empty:
        rows.append(_row("SAE", "decoder", f"{empty:,} empty rows", note="these features write nothing"))
    if unknown:
        rows.append(_row("SAE", "metadata", unknown, note="saekit does not know these fields, and passes them over"))
    return rows


def _also(part: str, found: list[Finding], rows: list[Checked]) -> list[Checked]:
    """Return demands that are not met beyond the first, which is all that a door names."""
    said = {row.words for row in rows}
    return [
        Checked(part, one.field, str(one.value), one.verdict, one.words)
        for one in found
        if one.verdict != "right" and one.words not in said
    ]


def _of_pair(model: "SAETransformerBridge", sae: "SAE[Any]", tokens: Tokens | None) -> list[Checked]:
    unsaid = copy.copy(sae)  # shares all weights; its warnings are said here, and again where the SAE is used

    def fit() -> str:
        check_pair(model, unsaid, row_length=0 if tokens is None else tokens.ids.shape[1])
        return f"{sae_hook(sae)} has {sae.cfg.d_in:,} dimensions"

    def back() -> str:
        check_rebuilds(model, sae)
        return "where it reads"

    rows = _looked("pair", "fit", fit)
    rows += _also("pair", [one for one in findings(sae, model) if one not in findings(sae)], rows)
    if any(row.verdict == "wrong" for row in rows):
        return rows
    written = _looked("pair", "writes", back, bad="note")
    rows += written
    if tokens is None or not len(tokens) or written[0].verdict != "right":
        return rows
    try:
        with warnings.catch_warnings(action="ignore"):
            quality = evaluate(model, unsaid, tokens[: max(2, ceil(SAMPLE / tokens.ids.shape[1]))], progress=False)
        return [*rows, _fvu(sae, quality), _l0(sae, quality)]
    except Exception as error:  # nor is a card whose numbers are none an end
        return [*rows, Checked("pair", "quality", "refused", "wrong", str(error) or type(error).__name__)]


def _fvu(sae: "SAE[Any]", quality: Any) -> Checked:
    card, found = card_of(sae).get("fvu"), f"{quality.fvu:.2f} on {quality.n_tokens:,} tokens"
    found += "" if card is None else f", {card:.2f} on its card"
    if not quality.fvu < 1:
        wrong = "it rebuilds no better than the mean: another model, layer or scale, or texts of another kind"
        return _row("pair", "FVU", found, wrong=wrong)
    far = quality.fvu > 2 * card + 0.1 if card is not None else quality.fvu > 0.5
    return _row("pair", "FVU", found, note="it rebuilds less than expected: the right model, layer and texts?" * far)


def _l0(sae: "SAE[Any]", quality: Any) -> Checked:
    cfg = sae.cfg
    expected, of = next(
        (
            (float(value), of)
            for value, of in (
                (card_of(sae).get("l0"), "on its card"),
                (cfg.metadata.l0, "in its metadata"),
                (getattr(cfg, "k", None), "at most, by its k"),
            )
            if value is not None
        ),
        (None, ""),
    )
    found = f"{quality.l0:.1f} features per token" + ("" if expected is None else f", {expected:.1f} {of}")
    if not quality.l0:
        return _row("pair", "L0", found, wrong="no feature is active: another model, layer or scale")
    far = expected is not None and not expected / 2 <= quality.l0 <= expected * 2
    return _row("pair", "L0", found, note="not what is expected: the right model, layer, scale and texts?" * far)


def _of_tokens(model: "SAETransformerBridge", tokens: Tokens) -> list[Checked]:
    ids, text = tokens.ids, tokens.document >= 0
    bos = bos_token_id(model)
    with_bos = float((ids[:, 0] == bos).mean()) if bos is not None else float((~text[:, 0]).mean())
    begin = f"{with_bos:.0%} of the rows begin with " + ("BOS" if bos is not None else "a token that is no text")
    other = (
        ""
        if with_bos == (bos is not None)
        else "the model's own texts begin otherwise: make the corpus with this model"
    )
    special = float(np.isin(ids[text], special_token_ids(model)).mean()) if text.any() else 0.0
    empty = int((~text.any(1)).sum())

    def fit() -> str:
        check_tokens(model, torch.from_numpy(ids), name="the corpus")
        return f"ids up to {int(ids.max()):,}, rows of {ids.shape[1]:,}"

    return [
        *_looked("tokens", "vocabulary, context", fit),
        _row("tokens", "begin", begin, note=other),
        _row(
            "tokens",
            "text",
            f"{special:.1%} special tokens, {empty:,} empty rows",
            note="special tokens are left out of statistics, and empty rows hold no text"
            * (special > 0.05 or empty > 0),
        ),
    ]


def _corpus(tokens: Any) -> str:
    if not isinstance(tokens, Tokens):
        raise TypeError(f"{type(tokens).__name__}: expected a corpus of load_corpus or tokens_from_texts")
    if not tokens.n_tokens:
        raise ValueError("the corpus holds no text token")
    documents = len(np.unique(tokens.document[tokens.document >= 0]))
    return f"{tokens.n_tokens:,} tokens in {len(tokens):,} rows, {documents:,} documents"


def _finite(model: "SAETransformerBridge") -> str:
    for name, weight in model.named_parameters():
        check_finite(weight, f"weights of {name}")
    return "all finite"


@torch.no_grad()
def _run(model: "SAETransformerBridge") -> str:
    logits = forward(model, torch.zeros(1, 4, dtype=torch.long))
    return f"finite logits for {logits.shape[-1]:,} tokens"


def _demands(sae: "SAE[Any]") -> str:
    check_sae(sae)
    return f"finite; {len(findings(sae))} settings met or harmless"


def _size(weights: Sequence[torch.Tensor]) -> str:
    count = sum(weight.numel() for weight in weights)
    return f"{count / 1e6:,.1f} million" if count >= 1e6 else f"{count:,}"
