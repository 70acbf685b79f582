"""The logit lens: what a model would predict if it stopped after each layer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import whole
from saekit.attribution.inputs import Answers, minus_foil, prompts_of, read_position, readout_of, tokens_read
from saekit.attribution.result import EXACT
from saekit.errors import ModelError
from saekit.models import final_run, frozen_norm, token_text, token_texts

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


@dataclass(frozen=True, repr=False)
class LogitLens:
    """Predictions read off the residual stream layer by layer.

    Attributes:
        towards: What is read: ``' Mary' - ' John'``; "" if no answer was given.
        tokens: Text of each token of the prompt.
        layers: Name of each row: "embedding", then the blocks by number.
        positions: Position of each column ``[pos]``.
        reading: Logit (difference) at each layer, each with its own final norm ``[layer, pos]``; NaN without answer.
        accumulated: Logit (difference) with the norm's scale frozen at that of the last layer: what has been written
            *directly* towards the answer so far; the difference of two rows is what the layer between them wrote
            ``[layer, pos]``.
        probability: Probability of the answer ``[layer, pos]``.
        rank: Rank of the answer among all tokens, 0 is the first ``[layer, pos]``; -1 without answer.
        top: Token ids of the likeliest tokens ``[layer, pos, k]``.
        top_text: Text of the likeliest tokens, in the same nesting.
        top_probability: Probabilities of the likeliest tokens ``[layer, pos, k]``.
        gap: Largest difference between the last row and the model's own logits.
    """

    towards: str
    tokens: tuple[str, ...]
    layers: tuple[str, ...]
    positions: Int[np.ndarray, "pos"]
    reading: Float[np.ndarray, "layer pos"]
    accumulated: Float[np.ndarray, "layer pos"]
    probability: Float[np.ndarray, "layer pos"]
    rank: Int[np.ndarray, "layer pos"]
    top: Int[np.ndarray, "layer pos k"]
    top_text: tuple[tuple[tuple[str, ...], ...], ...]
    top_probability: Float[np.ndarray, "layer pos k"]
    gap: float

    @property
    def complete(self) -> bool:
        """Whether the last row is what the model itself gives, up to rounding."""
        largest = np.abs(self.accumulated).max() if self.towards else 1.0
        return bool(self.gap <= EXACT * max(largest, 1.0))

    def __repr__(self) -> str:
        what = f" towards {self.towards}" if self.towards else ""
        gap = "exact, up to rounding" if self.complete else f"NOT exact: largest gap {self.gap:.0e} logits"
        last = ", ".join(f"{name} {text!r}" for name, text in self._last(6))
        return (
            f"LogitLens({len(self.layers)} rows, {len(self.positions)} position(s){what}; the last row is the model's "
            f"own, {gap})\n  most likely at the last position: {last}"
        )

    def _last(self, rows: int) -> list[tuple[str, str]]:
        chosen = np.unique(np.linspace(0, len(self.layers) - 1, rows).astype(int))
        return [(self.layers[i], self.top_text[i][-1][0]) for i in chosen]


@torch.no_grad()
def logit_lens(
    model: "SAETransformerBridge",
    prompt: str | Int[Tensor, "pos"],
    *,
    answer: Answers | None = None,
    foil: Answers | None = None,
    k: int = 5,
    position: int | str = "each",
) -> LogitLens:
    """Read a prediction off the residual stream after every layer (nostalgebraist 2020).

    Two readings are given, and they differ. ``reading`` norms each layer's residual stream by itself, as if the model
    ended there. ``accumulated`` divides all layers by the scale of the last one, so that rows add up: it ends at the
    same logit, and its steps are the layers' direct contributions (`logit_attribution_by_component` takes them
    further apart). Neither says what a layer's information does by way of later layers.

    Args:
        model: The model.
        prompt: One prompt: text, or token ids.
        answer: Token to follow, text or id.
        foil: Token whose logit is subtracted.
        k: Number of the likeliest tokens to keep.
        position: "each", or the number of one position.

    Raises:
        ModelError: A prompt, answer or foil that cannot be used.
    """
    (ids,) = prompts_of(model, [prompt])
    k = whole("k", k, at_least=1, at_most=model.cfg.d_vocab, error=ModelError)
    readout = None if answer is None else readout_of(model, 1, answer, foil, None)
    if readout is None and foil is not None:
        raise ModelError("foil= goes with answer=")
    at = torch.arange(len(ids)) if position == "each" else torch.tensor([read_position(ids, position)])
    hooks = ["blocks.0.hook_resid_pre"]
    hooks += [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    read = None if readout is None else tokens_read(readout, torch.tensor([0]))
    read = torch.zeros(1, 1, dtype=torch.long) if read is None else read
    run = final_run(model, ids[None], hooks, read)
    norm = None if readout is None else frozen_norm(model, run, readout.direction, readout.constant)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("reading", "accumulated", "probability", "rank")}
    top, likely = [], []
    for hook in hooks:
        states = run.states[hook][:, at]
        before_cap = model.unembed(model.ln_final(states))[0].float()
        logits = model.adapter.apply_output_logits_transform(before_cap)
        probability = logits.softmax(-1)
        best = probability.topk(k, dim=-1)
        top.append(best.indices.cpu().numpy())
        likely.append(best.values.double().cpu().numpy())
        last = minus_foil(before_cap[:, read[0]])
        if norm is None:
            nothing = np.full(len(at), np.nan)
            found = (nothing, nothing, nothing, np.full(len(at), -1))
        else:
            own = probability[:, read[0, 0]]
            found = (
                last.cpu().numpy(),
                ((states[0].double() * norm.direction[0, at]).sum(-1) + norm.bias[0]).cpu().numpy(),
                own.double().cpu().numpy(),
                (probability > own[:, None]).sum(-1).cpu().numpy(),
            )
        for name, value in zip(rows, found, strict=True):
            rows[name].append(value)
    assert run.logits is not None
    gap = (last - minus_foil(run.logits[0, at])).abs().max().item()
    return LogitLens(
        towards="" if readout is None else readout.towards[0],
        tokens=token_texts(model, ids),
        layers=("embedding", *map(str, range(model.cfg.n_layers))),
        positions=at.numpy(),
        **{name: np.stack(values) for name, values in rows.items()},
        top=np.stack(top),
        top_text=tuple(tuple(tuple(token_text(model, i) for i in one) for one in row.tolist()) for row in top),
        top_probability=np.stack(likely),
        gap=gap,
    )
