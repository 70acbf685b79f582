"""Which tokens count in a statistic, and which are left out for what reason: one rule for all of saekit."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def massive(norms: Float[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Mark massive activations: a norm above 6 times the median norm of its own sequence.

    A few tokens (the first of a text, rare delimiters) have residuals some hundred times as long as others (Sun et
    al. 2024) and would decide every mean. The rule looks at one sequence only, so it knows no batches or shards.
    """
    if not norms.numel():  # empty texts of a model without BOS
        return norms > 0
    return norms > 6 * norms.median(-1, keepdim=True).values


def counted(
    ids: Int[Tensor, "batch pos"],
    states: Float[Tensor, "batch pos ..."],
    special: Int[Tensor, "n"],
    *,
    text: Bool[Tensor, "batch pos"] | None = None,
) -> tuple[Bool[Tensor, "batch pos"], dict[str, int]]:
    """Decide which tokens count in a statistic; return them, on the CPU, and how many are left out by reason.

    Left out are BOS, separators and padding; special tokens; and tokens with a massive norm.

    Args:
        ids: Token ids.
        states: The model's activations on them.
        special: Ids of special tokens, from `special_token_ids`.
        text: Mask of the tokens that are text; the others are BOS, separators or padding. None: all, so that a BOS
            counts among the special tokens.
    """
    text = torch.ones(ids.shape, dtype=torch.bool) if text is None else text
    marker = text & torch.isin(ids.cpu().long(), special)
    huge = text & ~marker & massive(states.flatten(2).float().norm(dim=-1)).cpu()
    left_out = {"bos_or_padding": int((~text).sum()), "special": int(marker.sum()), "massive": int(huge.sum())}
    return text & ~marker & ~huge, left_out
