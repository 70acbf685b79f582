"""Prompts, answers and SAEs as an attribution needs them, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import real_tensor
from saekit._base.identity import Identity
from saekit.errors import ModelError, SAEError
from saekit.models import (
    FinalRun,
    check_hook,
    encode_whole,
    given_ids,
    model_identity,
    single_token,
    token_text,
    token_texts,
    unembedding,
)
from saekit.saes import check_pair, check_rebuilds, sae_hook, sae_identity

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

Prompts = str | Tensor | Sequence[str | Tensor]
Answers = str | int | Tensor | Sequence[str] | Sequence[int]
Direction = Tensor | np.ndarray | Sequence  # [d_model] or [prompt, d_model]
SAEs: TypeAlias = "SAE[Any] | Sequence[SAE[Any]] | Mapping[str, SAE[Any]]"


@dataclass(frozen=True)
class Readout:
    """What is read off the output of the final norm: ``normed @ direction + constant``.

    Attributes:
        direction: Direction of the final norm's output ``[prompt, d_model]``, float64.
        constant: Bias of the unembedding ``[prompt]``, float64.
        answers: Token ids of the answers ``[prompt]``; None for a direction that is no token's.
        foils: Token ids of the foils ``[prompt]``; None if there is nothing to compare with.
        towards: What is read of each prompt, in words.
    """

    direction: Float[Tensor, "prompt d_model"]
    constant: Float[Tensor, "prompt"]
    answers: Int[Tensor, "prompt"] | None
    foils: Int[Tensor, "prompt"] | None
    towards: tuple[str, ...]

    @property
    def units(self) -> str:
        """Units of what is read."""
        return "units of the direction" if self.answers is None else "logits"


def tokens_read(readout: Readout, rows: Int[Tensor, "batch"]) -> Int[Tensor, "batch token"] | None:
    """Return the tokens whose logits are read: answer, or answer and foil."""
    if readout.answers is None:
        return None
    columns = [readout.answers[rows]] + ([] if readout.foils is None else [readout.foils[rows]])
    return torch.stack(columns, 1)


def readings_in(run: FinalRun, readout: Readout, row: int, i: int, at: Tensor) -> np.ndarray:
    """Return the readings as the model gives them: its own logits, or its final norm along the direction."""
    if run.logits is None:
        return (run.normed[i, at].double().cpu() @ readout.direction[row]).numpy()
    return minus_foil(run.logits[i, at]).cpu().numpy()


def minus_foil(logits: Float[Tensor, "pos token"]) -> Float[Tensor, "pos"]:
    """Return the logits of the answer, the first column; minus those of the foil where there is a second."""
    logits = logits.double()
    return logits[:, 0] - logits[:, 1] if logits.shape[1] == 2 else logits[:, 0]


def prompts_of(model: "SAETransformerBridge", prompts: Prompts) -> tuple[Int[Tensor, "_pos"], ...]:
    """Return token ids of one prompt or several, BOS first where they are text.

    Raises:
        ModelError: No prompt, an empty one, or one that is longer than the model's context.
    """
    several = [prompts] if isinstance(prompts, (str, Tensor)) else list(prompts)
    if isinstance(prompts, Tensor) and prompts.dim() == 2:
        several = list(prompts)
    if not several:
        raise ModelError("there is no prompt: expected at least one")
    return tuple(_ids(model, prompt, f"prompt {number}") for number, prompt in enumerate(several))


def _ids(model: "SAETransformerBridge", prompt: Any, name: str) -> Int[Tensor, "_pos"]:
    if isinstance(prompt, str):
        return encode_whole(model, prompt, name=name)  # cut, its last token would not be the one that is read
    return given_ids(model, prompt, name=name)


def counterparts_of(
    model: "SAETransformerBridge", ids: Sequence[Tensor], corrupted: Prompts
) -> tuple[Int[Tensor, "_pos"], ...]:
    """Return token ids of the corrupted prompts, checked to match the clean ones position by position."""
    others = prompts_of(model, corrupted)
    if len(others) != len(ids):
        raise ModelError(f"{len(ids)} clean prompts, but {len(others)} corrupted ones: they go in pairs")
    for number, (one, other) in enumerate(zip(ids, others, strict=True)):
        if len(one) != len(other):
            raise ModelError(
                f"prompt {number} has {len(one)} tokens and its corrupted counterpart {len(other)}: they are compared "
                f"position by position. {_shown(model, one)} against {_shown(model, other)}. Use words of as many "
                f"tokens"
            )
        if torch.equal(one, other):
            raise ModelError(f"prompt {number} and its corrupted counterpart are the same tokens: nothing changes")
    return others


def _shown(model: "SAETransformerBridge", ids: Tensor) -> str:
    return "|".join(token_texts(model, ids))


def readout_of(
    model: "SAETransformerBridge",
    n_prompts: int,
    answer: Answers | None,
    foil: Answers | None,
    direction: Direction | None,
) -> Readout:
    """Return what is to be read: a token, one token minus another, or a direction.

    Raises:
        ModelError: Neither or both of answer and direction; an answer of several tokens (with its pieces); an answer
            that is its own foil; a direction of another width, not finite or zero.
    """
    if (answer is None) == (direction is None):
        raise ModelError("pass either answer= (and perhaps foil=) or direction=, the one thing to read off")
    if answer is None:
        if foil is not None:
            raise ModelError("foil= goes with answer=; a direction may be a difference itself")
        d_model = model.cfg.d_model
        direction = real_tensor("the direction", direction, shape="[d_model]", error=ModelError)
        if direction.shape not in {(d_model,), (n_prompts, d_model)}:
            raise ModelError(
                f"the direction is {list(direction.shape)}: expected [{d_model}], or [{n_prompts}, {d_model}] one per "
                f"prompt"
            )
        if not torch.isfinite(direction).all() or not direction.any():
            raise ModelError("the direction has entries that are not finite, or is zero")
        rows = direction.detach().cpu().double().expand(n_prompts, d_model)
        return Readout(rows, torch.zeros(n_prompts, dtype=torch.float64), None, None, n_prompts * ("a direction",))
    answers = tokens_of(model, answer, n_prompts, "answer")
    foils = None if foil is None else tokens_of(model, foil, n_prompts, "foil")
    columns, biases = unembedding(model).detach(), model.b_U.detach()

    def column(tokens: Tensor) -> Tensor:
        return columns[:, tokens.to(columns.device)].T.cpu().double()

    def bias(tokens: Tensor) -> Tensor:
        return biases[tokens.to(biases.device)].cpu().double()

    names = [repr(token_text(model, token)) for token in answers.tolist()]
    if foils is None:
        return Readout(column(answers), bias(answers), answers, None, tuple(names))
    for number, (one, other) in enumerate(zip(answers.tolist(), foils.tolist(), strict=True)):
        if one == other:
            raise ModelError(
                f"prompt {number}: answer and foil are the same token, {names[number]}: nothing to compare"
            )
    towards = tuple(f"{a} - {token_text(model, f)!r}" for a, f in zip(names, foils.tolist(), strict=True))
    return Readout(column(answers) - column(foils), bias(answers) - bias(foils), answers, foils, towards)


def tokens_of(model: "SAETransformerBridge", tokens: Answers, n_prompts: int, name: str) -> Int[Tensor, "prompt"]:
    """Return one token id per prompt, from text or ids; one for all is repeated."""
    if isinstance(tokens, Tensor):
        tokens = tokens.reshape(-1).tolist()
    several = [tokens] if isinstance(tokens, (str, int)) else list(tokens)
    if len(several) not in (1, n_prompts):
        raise ModelError(f"{len(several)} {name}s for {n_prompts} prompts: expected one, or one per prompt")
    ids = [_token(model, token, name) for token in several]
    return torch.tensor(ids * (n_prompts if len(ids) == 1 else 1))


def _token(model: "SAETransformerBridge", token: Any, name: str) -> int:
    if isinstance(token, str):
        return single_token(model, token, name=f"the {name}")
    whole = isinstance(token, (int, np.integer)) and not isinstance(token, bool)
    if not whole or not 0 <= token < model.cfg.d_vocab:
        raise ModelError(f"{name} {token!r}: expected text, or a token id from 0 to {model.cfg.d_vocab - 1}")
    return int(token)


def made_with(model: "SAETransformerBridge", saes: "Mapping[str, SAE[Any]]") -> dict[str, Identity]:
    """Return what decides the numbers of ``"model"``, and of the SAE by the name of its hook point."""
    return {"model": model_identity(model)} | {hook: sae_identity(sae) for hook, sae in saes.items()}


def saes_of(model: "SAETransformerBridge", saes: Any) -> dict[str, "SAE[Any]"]:
    """Return SAEs by the name of their hook point.

    Raises:
        SAEError: None, two on one hook point, one that does not fit or reads another hook point than it is given for,
            or a transcoder.
        ModelError: The model has no such hook point.
    """
    if isinstance(saes, Mapping):
        for asked, sae in saes.items():
            if check_hook(model, asked) != check_hook(model, sae_hook(sae)):
                raise SAEError(f"asked for {asked}, but this SAE reads {sae_hook(sae)}: load the SAE of {asked}")
        saes = list(saes.values())
    several = list(saes) if isinstance(saes, Sequence) else [saes]
    if not several:
        raise SAEError("there is no SAE: expected at least one")
    by_hook: dict[str, SAE[Any]] = {}
    taken: dict[str, str] = {}
    for sae in several:
        check_pair(model, sae)
        hook, point = sae_hook(sae), check_hook(model, sae_hook(sae))
        check_rebuilds(model, sae)
        if point in taken:
            raise SAEError(
                f"two SAEs read {taken[point]}: their features explain the same activations, so they cannot be added. "
                f"Ask for one after the other"
            )
        by_hook[hook] = sae
        taken[point] = hook
    return by_hook


def read_position(ids: Tensor, position: int | str) -> int:
    """Return a position from the start of a prompt; -1 is its last."""
    if not isinstance(position, int):
        raise ModelError(
            f"position must be a number, not {position!r}; direct_logit_attribution and logit_lens know 'each'"
        )
    if not -len(ids) <= position < len(ids):
        raise ModelError(f"position {position} is outside a prompt of {len(ids)} tokens")
    return position % len(ids)
