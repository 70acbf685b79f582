"""What a model predicts next, as it is and with some features changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import whole
from saekit.attribution.comparison import Baseline, chosen_nodes, compared_states, comparison_of, nodes_in_batch
from saekit.attribution.inputs import Answers, Prompts, prompts_of, read_position, tokens_of
from saekit.attribution.result import Contribution
from saekit.errors import ModelError
from saekit.models import forward, logits_from, token_text
from saekit.saes import changes

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge


@dataclass(frozen=True, repr=False)
class Predictions:
    """The likeliest next tokens of one prompt, clean and (if features were changed) patched.

    Attributes:
        ids: Token ids: the k likeliest of the clean run, then those of the patched one that are new, then those that
            were asked for ``[token]``.
        text: Text of each token.
        probability: Probability in the clean run ``[token]``.
        logit: Logit in the clean run ``[token]``.
        probability_patched: Probability in the patched run ``[token]``; the clean one if nothing was patched.
        logit_patched: Logit in the patched run ``[token]``; the clean one if nothing was patched.
        kl: KL divergence in nats from the clean to the patched prediction; 0 if nothing was patched.
        n_patched: Number of nodes patched together.
    """

    ids: Int[np.ndarray, "token"]
    text: tuple[str, ...]
    probability: Float[np.ndarray, "token"]
    logit: Float[np.ndarray, "token"]
    probability_patched: Float[np.ndarray, "token"]
    logit_patched: Float[np.ndarray, "token"]
    kl: float
    n_patched: int

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        patched = f", {self.n_patched} nodes patched together: KL {self.kl:.3f} nats" if self.n_patched else ""
        lines = [f"Predictions({len(self)} tokens{patched})"]
        for text, before, after in zip(self.text, self.probability, self.probability_patched, strict=True):
            lines.append(f"  {before:6.1%}" + (f" -> {after:6.1%}" if self.n_patched else "") + f"  {text!r}")
        return "\n".join(lines)


@torch.no_grad()
def predictions(
    model: "SAETransformerBridge",
    prompt: str | Int[Tensor, "pos"],
    *,
    sae: "SAE[Any] | None" = None,
    nodes: Sequence[Contribution] | Sequence[int] = (),
    corrupted: Prompts | None = None,
    baseline: Baseline | None = None,
    reference: Prompts | None = None,
    also: Answers = (),
    k: int = 10,
    position: int = -1,
) -> Predictions:
    """Return the likeliest next tokens, and what they become with features patched, all of them together.

    Args:
        model: The model.
        prompt: One prompt: text, or token ids.
        sae: The SAE whose features are patched.
        nodes: Items of an attribution, or numbers of features, each at all positions, as in `activation_patching`.
        corrupted: A prompt of the same length, whose values are the baseline of the nodes.
        baseline: Without one: "zero" (ablate; the default) or "mean".
        reference: Prompts over which "mean" is taken; this one by default.
        also: Tokens to report besides, text or ids: answer and foil, for example.
        k: Number of the likeliest tokens to report.
        position: Position whose prediction is read; -1 is the last.

    Raises:
        ModelError: A prompt, position or baseline that cannot be used; nodes without an SAE, or that do not exist.
        SAEError: An SAE that does not fit the model.
    """
    (ids,) = prompts_of(model, [prompt])
    at = read_position(ids, position)
    k = whole("k", k, at_least=1, at_most=model.cfg.d_vocab, error=ModelError)
    several: Any = [also] if isinstance(also, (str, int)) else also
    wanted = tokens_of(model, several, len(several), "token").tolist() if len(several) else []
    if not len(nodes):
        clean = patched = forward(model, ids[None])[0, at].float().cpu()
    else:
        if sae is None:
            raise ModelError("nodes= need the SAE whose features they are: pass sae=")
        others = corrupted if corrupted is None or isinstance(corrupted, Sequence) else [corrupted]
        against: dict[str, Any] = {"corrupted": others, "baseline": baseline, "reference": reference}
        comparison = comparison_of(model, sae, [ids], answer=0, **against)  # the answer is not read
        chosen = chosen_nodes(comparison, nodes)
        (batch,) = compared_states(model, comparison, 1)
        features, errors = nodes_in_batch(comparison, chosen, batch)
        states = batch.states.double()
        if len(features):
            states = states + changes(sae, batch.features, batch.features_baseline, *features.T).sum(0)
        for position_of_error in errors[:, 1].tolist():
            where = slice(None) if position_of_error < 0 else position_of_error
            states[0, where] += (batch.error_baseline - batch.error)[0, where].to(states.device)
        both = torch.cat([batch.states, states.to(batch.states.dtype)])  # from the hook point on, one pass for both
        logits = logits_from(model, batch.ids.expand(2, -1), both, batch.hook_name)
        clean, patched = logits[:, at].float().cpu()
    before, after = clean.log_softmax(-1), patched.log_softmax(-1)
    order = [
        *before.topk(k).indices.tolist(),
        *(after.topk(k).indices.tolist() if len(nodes) else []),
        *wanted,
    ]
    shown = torch.tensor(list(dict.fromkeys(order)))
    return Predictions(
        ids=shown.numpy(),
        text=tuple(token_text(model, token) for token in shown.tolist()),
        probability=before[shown].exp().double().numpy(),
        logit=clean[shown].double().numpy(),
        probability_patched=after[shown].exp().double().numpy(),
        logit_patched=patched[shown].double().numpy(),
        kl=(before.double().exp() * (before - after).double()).sum().item() if len(nodes) else 0.0,
        n_patched=len(nodes),
    )
