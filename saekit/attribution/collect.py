"""Which nodes are patched, and the items that come of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.attribution.baselines import Question, Sides
from saekit.attribution.inputs import token_text
from saekit.attribution.result import ALL_POSITIONS, ERROR, FEATURE, Attribution, Contribution, Items
from saekit.errors import ModelError

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def strongest(effect: Float[Tensor, "batch pos d_sae"], k: int) -> Int[Tensor, "node 3"]:
    """Return row, position and feature of the k strongest of each prompt, strongest first; none without effect."""
    size = effect.abs().flatten(1)
    values, places = size.topk(min(k, size.shape[1]), dim=1)
    row, nth = (values > 0).nonzero(as_tuple=True)
    place = places[row, nth]
    return torch.stack([row, place // effect.shape[2], place % effect.shape[2]], 1).cpu()


def chosen_of(asked: Question, nodes: Sequence[Any]) -> list[tuple[int, int, int, int]]:
    """Return hook, prompt, position and feature of each node that is asked for; -1 for all, and for the error."""
    hooks, out = list(asked.by_hook), []
    if not len(nodes):
        raise ModelError("nodes is empty: expected items of an attribution, or numbers of features")
    for node in nodes:
        if not isinstance(node, Contribution):
            if len(hooks) > 1:
                raise ModelError(f"feature {node} of which SAE? With {len(hooks)} SAEs pass items of an attribution")
            node = Contribution(-1, ALL_POSITIONS, "", hooks[0], "feature", int(node), 0.0, 0.0)
        if node.hook_name not in hooks:
            raise ModelError(f"there is no SAE at {node.hook_name}: there are SAEs at {', '.join(hooks)}")
        if node.kind not in ("feature", "error"):
            raise ModelError(f"a node of kind {node.kind!r} cannot be patched: expected features and errors")
        d_sae = asked.by_hook[node.hook_name].cfg.d_sae
        if node.kind == "feature" and not 0 <= node.feature < d_sae:
            raise ModelError(f"there is no feature {node.feature} in an SAE of {d_sae}")
        if not -1 <= node.prompt < len(asked.ids):
            raise ModelError(f"there is no prompt {node.prompt}: there are {len(asked.ids)}")
        for one in asked.ids if node.prompt < 0 else [asked.ids[node.prompt]]:
            if not ALL_POSITIONS <= node.position < len(one):
                raise ModelError(f"position {node.position} is outside a prompt of {len(one)} tokens")
        out.append((hooks.index(node.hook_name), node.prompt, node.position, node.feature))
    return list(dict.fromkeys(out))


def of_batch(
    chosen: list[tuple[int, int, int, int]], number: int, rows: Tensor, side: Sides
) -> tuple[Int[Tensor, "node 3"], Int[Tensor, "error 2"]]:
    """Return the chosen features (row, position, feature) and errors (row, position) of one batch and hook point."""
    found = [
        (row, position, feature)
        for row, prompt in enumerate(rows.tolist())
        for hook, of, position, feature in chosen
        if hook == number and of in (-1, prompt)
    ]
    table = torch.tensor(found, dtype=torch.long).reshape(-1, 3)
    is_error = table[:, 2] < 0
    return table[~is_error], table[is_error, :2]


class Found:
    """Collects readings and items over batches."""

    def __init__(self, model: "SAETransformerBridge", asked: Question) -> None:
        self._asked, self._items = asked, Items()
        self._tokens = tuple(tuple(token_text(model, token) for token in one.tolist()) for one in asked.ids)
        self._clean = np.zeros(len(asked.ids))
        self._total = np.zeros((len(asked.ids), len(asked.by_hook)))
        self._left = [torch.zeros(len(one), dtype=torch.bool) for one in asked.ids]

    def read(self, rows: Tensor, number: int, clean: Tensor, baseline: Tensor, side: Sides) -> None:
        """Note what was read off both runs, and which positions were left as they are."""
        self._clean[rows.numpy()] = clean.cpu().numpy()
        self._total[rows.numpy(), number] = (clean - baseline).cpu().numpy()
        for i, row in enumerate(rows.tolist()):
            self._left[row] |= side.left[i].cpu()

    def add_features(self, rows: Tensor, number: int, side: Sides, which: Tensor, effect: Tensor) -> None:
        """Add features: row, position (-1 for all), feature in ``which [node, 3]``."""
        row, position, feature = which.cpu().T
        value = lambda features: torch.where(  # noqa: E731
            position < 0, features[row, :, feature].sum(1).cpu(), features[row, position.clamp(min=0), feature].cpu()
        )
        self._add(rows, number, row, position, FEATURE, feature, value(side.features), value(side.features_baseline),
                  effect)  # fmt: skip

    def add_errors(self, rows: Tensor, number: int, side: Sides, which: Tensor, effect: Tensor) -> None:
        """Add errors: row, position (-1 for all) in ``which [node, 2]``; their activation is their length."""
        row, position = which.cpu().T
        length = lambda error: torch.where(  # noqa: E731
            position < 0, error[row].flatten(1).norm(dim=1).cpu(), error[row, position.clamp(min=0)].norm(dim=-1).cpu()
        )
        none = torch.full_like(row, -1)
        self._add(rows, number, row, position, ERROR, none, length(side.error), length(side.error_baseline), effect)

    def _add(
        self, rows: Tensor, number: int, row: Tensor, position: Tensor, kind: int, feature: Tensor, value: Tensor,
        baseline: Tensor, effect: Tensor,
    ) -> None:  # fmt: skip
        self._items.add(
            at_read=rows[row].numpy(), at_hook=number, position=position.numpy(), kind=kind, feature=feature.numpy(),
            activation=value.double().numpy(), activation_baseline=baseline.double().numpy(),
            effect=effect.detach().double().cpu().numpy(),
        )  # fmt: skip

    def result(self, method: str) -> Attribution:
        """Return the attribution."""
        asked = self._asked
        return Attribution(
            method=method,
            towards=asked.readout.towards,
            baseline=asked.against,
            units="logits" if asked.readout.answers is not None else "units of the direction",
            tokens=self._tokens,
            hook_names=tuple(asked.by_hook),
            read_prompt=np.arange(len(asked.ids)),
            read_position=asked.position.numpy(),
            clean=self._clean,
            total=self._total,
            excluded_tokens=sum(int(left.sum()) for left in self._left),
            **self._items.arrays(),
        )
