"""How good is an SAE: reconstruction, sparsity, dead features, and what the model loses when it is spliced in.

Every number is computed on the same tokens, in float32, and says what was left out.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saekit.data import Tokens, counted
from saekit.errors import DataError
from saekit.models import check_hook, hidden_states, special_token_ids
from saekit.saes import check_pair, sae_hook

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge


@dataclass(frozen=True)
class Evaluation:
    """Quality of an SAE on held-out text.

    Attributes:
        fvu: Fraction of variance unexplained: squared error over squared distance from the mean activation. 0 is
            perfect, 1 is no better than the mean. Does not depend on scale or offset of the activations.
        mse: Mean squared error a dimension, in squared units of the residual stream.
        l0: Mean number of active features a token.
        active_fraction: l0 / d_sae.
        dead_share: Share of features active on none of these tokens. It falls as tokens are added: read it with
            ``n_tokens``.
        cosine: Mean cosine between an activation and its reconstruction, both about the mean activation.
        loss_clean: Next-token loss of the model, nats a token.
        loss_spliced: With the reconstruction in place of the activations.
        loss_zero: With zeros in their place.
        loss_mean: With the mean activation in their place.
        loss_recovered_zero: (loss_zero - loss_spliced) / (loss_zero - loss_clean).
        loss_recovered_mean: The same against the mean: the harder floor.
        n_tokens: Tokens counted.
        excluded: Tokens left out, by reason. They keep their activations in the spliced runs too.
        n_loss_tokens: Predictions counted in the losses: tokens whose successor is text of the same document.
        held_out: Corpus and split.
    """

    fvu: float
    mse: float
    l0: float
    active_fraction: float
    dead_share: float
    cosine: float
    loss_clean: float
    loss_spliced: float
    loss_zero: float
    loss_mean: float
    loss_recovered_zero: float
    loss_recovered_mean: float
    n_tokens: int
    excluded: dict[str, int]
    n_loss_tokens: int
    held_out: str

    def as_dict(self) -> dict:
        """Return the numbers as plain JSON types."""
        return asdict(self)

    def __repr__(self) -> str:
        left_out = ", ".join(f"{count:,} {name}" for name, count in self.excluded.items())
        return (
            f"FVU {self.fvu:.3f}, L0 {self.l0:.1f}, dead {self.dead_share:.1%}, loss recovered "
            f"{self.loss_recovered_zero:.3f} against zero-, {self.loss_recovered_mean:.3f} against mean-ablation "
            f"({self.n_tokens:,} tokens of {self.held_out}; left out: {left_out})"
        )


@torch.no_grad()
def evaluate(model: "SAETransformerBridge", sae: "SAE[Any]", tokens: Tokens, *, batch_size: int = 8) -> Evaluation:
    """Measure an SAE on a corpus that it was not trained on.

    Two passes: one for the mean activation, one for everything else. The second runs the model four times: as it
    is, with the reconstruction, with zeros, and with the mean at every counted token.

    Args:
        model: In float32: in bfloat16 rounding alone costs some of the variance.
        sae: The SAE.
        tokens: Held-out text.
        batch_size: Sequences a forward pass.

    Raises:
        DataError: No token is left to count.
        SAEError, ModelError: The pair does not fit.
    """
    check_pair(model, sae)
    hook = check_hook(model, sae_hook(sae))
    batches = [tokens[start : start + batch_size] for start in range(0, len(tokens), batch_size)]
    special = torch.tensor(special_token_ids(model), dtype=torch.long)

    total, count = torch.zeros(sae.cfg.d_in, dtype=torch.float64), 0
    kept, states, excluded = [], [], {}
    for batch in batches:
        x = hidden_states(model, torch.from_numpy(batch.ids).long(), hook).float().cpu()
        keep, left_out = counted(batch, x, special)
        excluded = {reason: excluded.get(reason, 0) + n for reason, n in left_out.items()}
        kept.append(keep)
        states.append(x)
        total += x[keep].double().sum(0)
        count += int(keep.sum())
    if not count:
        raise DataError("no token is left to count: all are BOS, padding, special or massive")
    mean = (total / count).float()

    error = variance = cosine = active = 0.0
    alive = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    losses, predictions = dict.fromkeys(("clean", "spliced", "zero", "mean"), 0.0), 0
    for batch, keep, x in zip(batches, kept, states, strict=True):
        ids, document = torch.from_numpy(batch.ids).long(), torch.from_numpy(batch.document)
        features = sae.encode(x[keep])
        rebuilt = sae.decode(features)
        error += (x[keep] - rebuilt).double().square().sum().item()
        variance += (x[keep] - mean).double().square().sum().item()
        cosine += F.cosine_similarity(x[keep] - mean, rebuilt - mean, dim=-1).double().sum().item()
        active += (features > 0).sum().item()
        alive |= (features > 0).any(0).cpu()
        scored = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
        predictions += int(scored.sum())
        for name, new in (("clean", None), ("spliced", rebuilt), ("zero", torch.zeros_like(rebuilt)),
                          ("mean", mean.expand_as(rebuilt))):  # fmt: skip
            logits = _logits(model, ids, hook, None if new is None else (keep, new))
            nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
            losses[name] += nll[scored].double().sum().item()
    losses = {name: value / max(predictions, 1) for name, value in losses.items()}
    recovered = lambda floor: (floor - losses["spliced"]) / (floor - losses["clean"])  # noqa: E731
    return Evaluation(
        fvu=error / variance,
        mse=error / count / sae.cfg.d_in,
        l0=active / count,
        active_fraction=active / count / sae.cfg.d_sae,
        dead_share=1 - alive.double().mean().item(),
        cosine=cosine / count,
        loss_clean=losses["clean"],
        loss_spliced=losses["spliced"],
        loss_zero=losses["zero"],
        loss_mean=losses["mean"],
        loss_recovered_zero=recovered(losses["zero"]),
        loss_recovered_mean=recovered(losses["mean"]),
        n_tokens=count,
        excluded=excluded,
        n_loss_tokens=predictions,
        held_out=f"{tokens.name} ({tokens.split})",
    )


def _logits(
    model: "SAETransformerBridge", ids: Tensor, hook: str, replacement: tuple[Tensor, Tensor] | None
) -> Float[Tensor, "batch pos d_vocab"]:
    """Run the model, with new activations in some places: ``(where [batch, pos], new [n, d_in])``."""

    def edit(activation, hook):
        where, new = replacement
        activation = activation.clone()
        activation[where] = new.to(activation)
        return activation

    hooks = [] if replacement is None else [(hook, edit)]
    return model.run_with_hooks(ids.to(model.cfg.device), fwd_hooks=hooks, prepend_bos=False).float().cpu()
