"""What features do to the output: direct logit attribution, attribution patching, exact patching, the logit lens.

All of them take one prompt or several, one SAE or several on different hook points, and read off a token's logit, a
difference of two logits (answer minus foil) or any direction of the final norm's output. They return an `Attribution`,
which says in its repr whether the items add up to what they should.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from saekit.attribution.inputs import (
    Answers,
    Direction,
    Prompts,
    SAEs,
    batches,
    check_counts,
    given,
    prompts_of,
    read_position,
    readout_of,
    saes_of,
    token_text,
    tokens_read,
)
from saekit.attribution.points import added_at, check_added
from saekit.attribution.result import (
    BIAS,
    ERROR,
    FEATURE,
    OUTPUT_BIAS,
    REST,
    Attribution,
    ItemTable,
)
from saekit.models import FinalRun, FrozenNorm, final_run, frozen_norm
from saekit.saes import nodes_of, pulled_back

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def direct_logit_attribution(
    model: "SAETransformerBridge",
    saes: SAEs,
    prompts: Prompts,
    *,
    answer: Answers | None = None,
    foil: Answers | None = None,
    direction: Direction | None = None,
    position: int | str = -1,
    batch_size: int = 16,
) -> Attribution:
    """Take a logit apart by what each feature writes to the residual stream (direct logit attribution).

    A logit is linear in the residual stream after the last block, once the final norm's scale is frozen at what it
    was: ``logit = v · residual + bias``, v being the token's unembedding pulled back through the norm. The residual
    stream at the last block is that at an SAE's hook point plus what later heads and MLPs wrote. So, at one position,

        logit  =  sum of v · feature  +  v · error  +  v · SAE bias  +  v · rest  +  output bias

    holds exactly for any hook point, and `Attribution.complete` says so after comparing with the logit that the model
    itself gives. What it means depends on the **rest**, all that is not at the hook point: later heads and MLPs for
    the residual stream, everything else for one layer's attention or MLP output. At the last block's output the rest
    is zero and the account is of the whole logit. At an earlier one the direct part may be small beside the rest, and
    the rest was computed *from* the features: a feature with no direct effect may do all its work there. Features
    at earlier positions can act on a later prediction in no other way; they are therefore no items of that reading.
    `attribution_patching` and `activation_patching` measure what goes through later layers.

    Several SAEs give one such account each. They are not to be added up: the residual streams of two layers hold much
    of the same.

    Args:
        model: The model.
        saes: One SAE, several, or ``{hook name: SAE}``, which is checked. Of the residual stream, or of an attention
            or MLP output that is added to it as it stands.
        prompts: Text, or token ids ``[pos]``, or several of either.
        answer: The token to explain, text or id: one, or one a prompt.
        foil: What it is compared with; the logit difference is explained, in which the final norm's scale and the
            prediction's overall confidence matter less.
        direction: In place of a token, any direction of the final norm's output ``[d_model]``, or one a prompt.
        position: Whose prediction is read: -1, the prompt's last token; "each": every position's own, towards the
            same answer.
        batch_size: Prompts of one length run together.

    Returns:
        Items of the kinds "feature" (active ones), "error", "bias", "rest", "output_bias". Effects in logits, before
        the soft cap that some models put on them; in units of the direction otherwise.

    Raises:
        ModelError: A prompt, answer, foil, direction or hook point that cannot be used (the message says why).
        SAEError: An SAE that does not fit, two on one hook point, or one on another hook point than asked.
    """
    check_counts(batch_size=batch_size)
    by_hook = saes_of(model, saes)
    ids = prompts_of(model, prompts)
    readout = readout_of(model, len(ids), answer, foil, direction)
    reads = [list(range(len(one))) if position == "each" else [read_position(one, position)] for one in ids]
    first = np.cumsum([0, *map(len, reads)])
    clean, items = np.zeros(first[-1]), ItemTable()
    for rows in batches(ids, batch_size):
        batch = torch.stack([ids[row] for row in rows.tolist()])
        run = final_run(model, batch, [*by_hook, *added_at(model, by_hook)], tokens_read(readout, rows))
        norm = frozen_norm(model, run, readout.direction[rows], readout.constant[rows])
        check_added(model, run, by_hook)
        for i, row in enumerate(rows.tolist()):
            at = torch.tensor(reads[row])
            numbers = np.arange(first[row], first[row + 1])
            clean[numbers] = given(run, readout, row, i, at)
            for number, (hook, sae) in enumerate(by_hook.items()):
                _take_apart(items, run, norm, sae, hook, i, at, at_hook=number, numbers=numbers)
    return Attribution(
        method="direct",
        towards=readout.towards,
        baseline="",
        units="logits" if readout.answers is not None else "units of the direction",
        tokens=tuple(tuple(token_text(model, token) for token in one.tolist()) for one in ids),
        hook_names=tuple(by_hook),
        read_prompt=np.repeat(np.arange(len(ids)), np.diff(first)),
        read_position=np.concatenate([np.array(positions) for positions in reads]),
        clean=clean,
        total=np.repeat(clean[:, None], len(by_hook), 1),
        **items.arrays(),
    )


def _take_apart(
    items: ItemTable,
    run: FinalRun,
    norm: FrozenNorm,
    sae,
    hook: str,
    i: int,
    at: Tensor,
    *,
    at_hook: int,
    numbers: np.ndarray,
) -> None:
    """Add the items of one prompt and one hook point; ``at`` are the positions read, ``numbers`` their readings."""
    states, v = run.states[hook][i : i + 1, at], norm.direction[i : i + 1, at]
    nodes = nodes_of(sae, states)
    gradient = pulled_back(sae, nodes.features, v).double()
    rest = run.residual[i : i + 1, at].double() - states.double()
    positions = at.numpy()
    where, feature = nodes.features[0].nonzero(as_tuple=True)
    value = nodes.features[0, where, feature].double()
    where = where.cpu().numpy()
    items.add(
        at_read=numbers[where], at_hook=at_hook, position=positions[where], kind=FEATURE, feature=feature.cpu(),
        activation=value.cpu(), effect=(value * gradient[0][torch.from_numpy(where), feature]).cpu(),
    )  # fmt: skip
    for kind, vector in ((ERROR, nodes.error), (BIAS, nodes.bias), (REST, rest)):
        vector = vector[0].to(v.device)
        items.add(
            at_read=numbers, at_hook=at_hook, position=positions, kind=kind, activation=vector.norm(dim=-1).cpu(),
            effect=(vector * v[0]).sum(-1).cpu(),
        )  # fmt: skip
    bias = norm.bias[i].item()
    items.add(
        at_read=numbers, at_hook=at_hook, position=positions, kind=OUTPUT_BIAS, activation=abs(bias),
        effect=np.full(len(numbers), bias),
    )  # fmt: skip
