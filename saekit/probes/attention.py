"""A strong rival for features: a probe that learns which tokens to look at (one query, softmax over the text)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.errors import ProbeError
from saekit.probes.classifiers import Fitted, fit, strengths
from saekit.probes.features import Hook

Rows = Int[np.ndarray, " row"]
_STEPS = 60
_RATE = 0.05
_OFF = tuple(-c for c in strengths("logistic"))  # attention off: logistic regression on the mean with this C, negative


@dataclass
class AttentionRecipe:
    """Attention-pooled hidden states, weights and query learned together by full-batch Adam.

    A text is the mean of its tokens' activations, weighted by the softmax of ``query @ activation``; a linear layer
    reads that (the attention-like probe of Kantamneni et al. 2025). The query starts at 0, so that it starts as the
    mean-pooled probe. Strengths are weight decays; those below 0 stand for attention that is off, the baseline
    ``"hidden-mean"`` itself: on few texts a query learns noise, and the inner folds then choose the mean.
    """

    hook: Hook
    labels: Int[np.ndarray, " text"]
    n_classes: int
    balanced: bool = False
    seed: int = 0
    name: str = "attention"
    family: str = "hidden"
    setting: dict[str, str] = field(default_factory=dict)
    strengths: tuple[float, ...] = (*_OFF, 1.0, 0.1)

    def __post_init__(self):
        if self.hook.states is None:
            raise ProbeError("the attention-pooled probe needs the tokens' states: extract with keep_states=True")

    def each(self, train: Rows, strengths: tuple[float, ...]) -> Iterator[Float[np.ndarray, "text c"]]:
        """Learn with each strength; yield the scores of all texts."""
        mean = self.hook.mean
        off = fit(
            "logistic", mean[train], self.labels[train], self.n_classes, tuple(-s for s in strengths if s < 0),
            balanced=self.balanced, seed=self.seed,
        )  # fmt: skip
        standardised = self._standardised(train) if max(strengths) > 0 else None
        for strength in strengths:
            if strength < 0 or standardised is None:
                yield next(off).scores(mean)
                continue
            tokens, text = standardised
            query, weights, bias = self._learned(tokens, text, train, strength)
            with torch.no_grad():
                yield (_pooled(tokens, text, query, weights, len(self.labels)) + bias).double().numpy()

    def final(self, train: Rows, strength: float) -> tuple[Fitted | None, tuple[str, ...]]:
        """Return no classifier: its columns depend on the query."""
        return None, ()

    def _standardised(self, train: Rows) -> tuple[Float[Tensor, "token d_model"], Int[Tensor, " token"]]:
        starts = self.hook.starts
        text = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        rows = np.isin(text, train)
        assert self.hook.states is not None
        states = self.hook.states.astype(np.float32)
        mean, deviation = states[rows].mean(0), states[rows].std(0) + 1e-6
        return torch.from_numpy((states - mean) / deviation), torch.from_numpy(text)

    def _learned(
        self, tokens: Float[Tensor, "token d_model"], text: Int[Tensor, " token"], train: Rows, decay: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.from_numpy(np.isin(text.numpy(), train))
        number = np.full(len(self.labels), -1)
        number[train] = np.arange(len(train))
        part, of = tokens[chosen], torch.from_numpy(number)[text[chosen]]
        truth = torch.from_numpy(self.labels[train])
        count = np.bincount(self.labels[train], minlength=self.n_classes)
        of_class = torch.from_numpy(len(train) / np.maximum(count, 1)).float() if self.balanced else None
        query = torch.zeros(tokens.shape[1], requires_grad=True)
        weights = torch.zeros(self.n_classes, tokens.shape[1], requires_grad=True)
        bias = torch.zeros(self.n_classes, requires_grad=True)
        optimiser = torch.optim.AdamW([query, weights, bias], lr=_RATE, weight_decay=decay)
        for _ in range(_STEPS):
            optimiser.zero_grad()
            logits = _pooled(part, of, query, weights, len(train)) + bias
            torch.nn.functional.cross_entropy(logits, truth, weight=of_class).backward()
            optimiser.step()
        return query.detach(), weights.detach(), bias.detach()


def _pooled(
    tokens: Float[Tensor, "token d_model"], text: Int[Tensor, " token"], query: Float[Tensor, " d_model"],
    weights: Float[Tensor, "c d_model"], n_texts: int,
) -> Float[Tensor, "text c"]:  # fmt: skip
    """Return what the weights read of each text's mean of tokens, weighted by the softmax of query @ token.

    A mean of readings is the reading of the mean, so that the tokens are gone through once. 0 for a text without any.
    """
    read = tokens @ torch.cat([query[None] / tokens.shape[1] ** 0.5, weights]).T
    logit, value = read[:, 0], read[:, 1:]
    highest = torch.full((n_texts,), -torch.inf).scatter_reduce(0, text, logit.detach(), "amax")
    weight = torch.exp(logit - highest[text])
    total = torch.zeros(n_texts).index_add(0, text, weight)
    summed = torch.zeros(n_texts, len(weights)).index_add(0, text, weight[:, None] * value)
    return summed / total.clamp_min(1e-9)[:, None]
