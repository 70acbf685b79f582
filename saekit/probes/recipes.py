"""What a probe can read: SAE features, hidden states, words, or nothing. Each learns from its training rows alone.

A new baseline is a function that returns a recipe, and a line in `baseline_recipe`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import whole
from saekit.errors import ProbeError
from saekit.probes.classifiers import CLASSIFIERS, Classifier, Fitted, fit
from saekit.probes.features import Hook, SAEFeatures, TextFeatures, as_extracted
from saekit.probes.pooling import BINARISINGS, Binarising, Pooling, binarised, learn_thresholds, pool
from saekit.probes.score import Scored
from saekit.probes.validation import Recipe, Rows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Columns = tuple[Any, tuple[str, ...]]  # of all texts, and their names: () for features, which go by number
CONTROLS = ("random", "permuted")


@dataclass(frozen=True)
class HiddenPCA:
    """Baseline: the first k principal components of the mean hidden state; "pca-k" in print.

    Attributes:
        k: Number of components; fewer where there are fewer texts or dimensions.
    """

    k: int

    def __post_init__(self) -> None:
        whole("k of HiddenPCA", self.k, at_least=1, error=ProbeError)

    def __str__(self) -> str:
        return f"pca-{self.k}"


WORDS = ("bag-of-words", "tfidf-word", "tfidf-char")
BASELINES = ("majority", "length", *WORDS, "hidden-last", "hidden-mean", HiddenPCA(32))


@dataclass(frozen=True)
class Settings:
    """How texts become columns, and how those are learned from.

    Attributes:
        pooling: Way from tokens to texts; see `pool`.
        binarise: What makes 0 or 1 of pooled activations; see `learn_thresholds`.
        classifier: Name of the classifier, or the object.
        balanced: Whether texts are weighed so that every class counts the same.
        seed: Seed of the choice between columns that are equally good.
    """

    pooling: str | Pooling = "max"
    binarise: str | Binarising = "none"
    classifier: str | Classifier = "logistic"
    balanced: bool = False
    seed: int = 0


@dataclass(frozen=True)
class ColumnRecipe(Recipe):
    """A classifier on columns that are made for all texts by what the training rows say.

    Attributes:
        prepare: Function from the training rows to the columns of all texts and their names.
        settings: Classifier and its options.
    """

    prepare: Callable[[Rows], Columns]
    settings: Settings

    def each(self, train: Rows, strengths: tuple[float, ...]) -> Iterator[Scored]:
        """Learn with each strength; yield the scores of all texts."""
        columns, _ = self.prepare(train)
        for fitted in self._fits(columns, train, strengths):
            yield fitted.scores(columns)

    def final(self, train: Rows, strength: float) -> tuple[Fitted | None, tuple[str, ...]]:
        """Return the classifier learned from the training rows, and the names of its columns."""
        columns, names = self.prepare(train)
        return next(self._fits(columns, train, (strength,))), names

    def _fits(self, columns: Any, train: Rows, among: tuple[float, ...]) -> Iterator[Fitted]:
        how, part = self.settings, (columns[train], self.labels[train])
        return fit(how.classifier, *part, self.n_classes, among, balanced=how.balanced, seed=how.seed)


class MajorityRecipe(Recipe):
    """The most frequent class of the training rows, whatever the text."""

    def each(self, train: Rows, strengths: tuple[float, ...]) -> Iterator[Scored]:
        """Yield the share of each class among the training rows, for every text."""
        share = np.bincount(self.labels[train], minlength=self.n_classes) / len(train)
        for _ in strengths:
            yield np.tile(share, (len(self.labels), 1))


def sae_recipe(
    features: TextFeatures, sae: SAEFeatures, settings: Settings = Settings(), *, pooled: "csr_array | None" = None
) -> ColumnRecipe:
    """Return the recipe of a probe on SAE features; ``pooled`` saves pooling again."""
    pooling, binarise = settings.pooling, settings.binarise
    inputs = pool(sae, pooling) if pooled is None else pooled
    BINARISINGS.of(binarise)  # an unknown one is refused at once

    def prepare(train: Rows) -> Columns:
        return binarised(inputs, learn_thresholds(binarise, inputs, train)), ()

    name = f"{sae.name}, {pooling}, {binarise}, {settings.classifier}"
    setting = {"sae": sae.name, "pooling": pooling, "binarise": binarise}
    return _recipe(name, "control" if sae.control else "sae", setting, prepare, features, settings)


def hidden_recipe(
    features: TextFeatures, hook_name: str, how: str | HiddenPCA, settings: Settings = Settings()
) -> ColumnRecipe:
    """Return the recipe of a probe on hidden states: ``"hidden-last"``, ``"hidden-mean"`` or `HiddenPCA`."""
    hook = features.hooks[hook_name]
    states = hook.last if how == "hidden-last" else hook.mean

    def prepare(train: Rows) -> Columns:
        if not isinstance(how, HiddenPCA):
            return states, ()
        from sklearn.decomposition import PCA

        known = states[train].astype(np.float64)
        return PCA(min(how.k, *known.shape), svd_solver="full").fit(known).transform(states), ()

    return _recipe(str(how), "hidden", {"hook": hook_name}, prepare, features, settings)


def text_recipe(features: TextFeatures, how: str, settings: Settings = Settings()) -> ColumnRecipe:
    """Return the recipe of a probe on words: ``"bag-of-words"``, ``"tfidf-word"`` or ``"tfidf-char"``.

    Words and pieces are counted once; which of them there are, and how rare, is learned from the training rows, as
    scikit-learn's vectorisers fitted on those texts would.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    words = {"token_pattern": r"(?u)\b\w+\b"}  # scikit-learn's own drops words of one letter
    options = {"bag-of-words": words, "tfidf-word": {**words, "ngram_range": (1, 2)}}
    options["tfidf-char"] = {"analyzer": "char_wb", "ngram_range": (2, 4)}
    counter = CountVectorizer(**options[how])
    try:
        counts = csr_array(counter.fit_transform(features.data.texts).astype(np.float64))
    except ValueError as error:
        raise ProbeError(f"{how}: no text holds a word") from error
    vocabulary = counter.get_feature_names_out()

    def prepare(train: Rows) -> Columns:
        known = np.unique(counts[train].indices)
        table = counts[:, known]
        if how != "bag-of-words":
            table = csr_array(TfidfTransformer().fit(table[train]).transform(table))
        return table, tuple(vocabulary[known])

    return _recipe(how, "text", {}, prepare, features, settings)


def length_recipe(features: TextFeatures, settings: Settings = Settings()) -> ColumnRecipe:
    """Return the recipe of a probe on nothing but how long a text is."""
    texts = features.data.texts
    lengths = [np.diff(features.id_starts), [len(t) for t in texts], [len(t.split()) for t in texts]]
    table, names = np.log1p(np.stack(lengths, 1)), ("log tokens", "log characters", "log words")
    return _recipe("length", "text", {}, lambda train: (table, names), features, settings)


def own_recipe(features: TextFeatures, name: str, columns: np.ndarray, settings: Settings = Settings()) -> ColumnRecipe:
    """Return the recipe of a probe on columns of the user's own, in the order of the data that was extracted.

    For example a model's confidence in its answer, to see whether features say more than that.
    """
    columns = np.asarray(columns, np.float64).reshape(len(columns), -1)
    table = as_extracted(features, name, columns)
    if not np.isfinite(columns).all():
        raise ProbeError(f"{name}: not all values are finite numbers")
    return _recipe(name, "own", {}, lambda train: (table, ()), features, settings)


def reads_hidden(baseline: str | HiddenPCA) -> bool:
    """Return whether a baseline reads the model's own activations, so that it differs from layer to layer."""
    return isinstance(baseline, HiddenPCA) or baseline in ("hidden-last", "hidden-mean", "attention")


def baseline_recipe(
    features: TextFeatures, sae: SAEFeatures, name: str | HiddenPCA, settings: Settings = Settings()
) -> Recipe:
    """Return a baseline by name, beside an SAE.

    Args:
        features: Extraction of the texts.
        sae: Activations of the SAE beside which it stands: hidden states are read at its hook point.
        name: Baseline; see `baselines`.
        settings: Classifier with its options, but for majority and attention, which have their own; pooling and
            binarising are those of the controls.

    Raises:
        ProbeError: No such baseline, or one for which the extraction has kept too little.
    """
    labels, n_classes = features.data.labels, len(features.data.label_names)
    if name == "majority":
        return MajorityRecipe("majority", "none", {}, labels, n_classes, (0.0,))
    if name == "attention":
        options = settings.balanced, settings.seed
        return AttentionRecipe("attention", "hidden", {}, labels, n_classes, _ATTENTION, sae.hook, *options)
    if reads_hidden(name):
        return hidden_recipe(features, sae.hook.name, name, settings)
    if name in CONTROLS:
        if f"{sae.name} ({name})" not in features.saes:
            raise ProbeError(f"no {name} control of {sae.name} was extracted: extract with controls=({name!r},)")
        control = features.sae(f"{sae.name} ({name})")
        return sae_recipe(features, control, settings)
    if name == "length":
        return length_recipe(features, settings)
    if not isinstance(name, str) or name not in BASELINES:
        known = ", ".join(each for each in BASELINES if isinstance(each, str))
        raise ProbeError(f"no baseline {name!r}: expected {known}, HiddenPCA(k), attention, random or permuted")
    return text_recipe(features, name, settings)


def with_baselines(
    features: TextFeatures, sae: SAEFeatures, names: Sequence[str | HiddenPCA], settings: Settings
) -> list[Recipe]:
    """Return the recipe of a probe on an SAE's features, and after it those of baselines with the same settings."""
    return [sae_recipe(features, sae, settings), *(baseline_recipe(features, sae, name, settings) for name in names)]


def _recipe(
    name: str, family: str, setting: dict, prepare: Callable[[Rows], Columns], features: TextFeatures, how: Settings
) -> ColumnRecipe:
    setting, data = {**setting, "classifier": how.classifier}, features.data
    strengths = CLASSIFIERS.of(how.classifier).strengths  # an unknown one is refused at once
    return ColumnRecipe(name, family, setting, data.labels, len(data.label_names), strengths, prepare, how)


_STEPS = 60
_RATE = 0.05
# Attention off is logistic regression on the mean: its C, negative. Else the weight decay.
_ATTENTION = (*(-c for c in CLASSIFIERS.of("logistic").strengths), 1.0, 0.1)


@dataclass(frozen=True)
class AttentionRecipe(Recipe):
    """Attention-pooled hidden states, weights and query learned together by full-batch Adam.

    A strong rival for features: it learns which tokens to look at. A text is the mean of its tokens' activations,
    weighted by the softmax of ``query @ activation``; a linear layer reads that (the attention-like probe of Kantamneni
    et al. 2025). The query starts at 0, so that it starts as the mean-pooled probe. Strengths are weight decays; those
    below 0 stand for attention that is off, the baseline ``"hidden-mean"`` itself: on few texts a query learns noise,
    and the inner folds then choose the mean.
    """

    hook: Hook
    balanced: bool
    seed: int

    def __post_init__(self):
        if self.hook.states is None:
            raise ProbeError("the attention-pooled probe needs the tokens' states: extract with keep_states=True")

    def each(self, train: Rows, strengths: tuple[float, ...]) -> Iterator[Scored]:
        """Learn with each strength; yield the scores of all texts."""
        mean, among = self.hook.mean, tuple(-s for s in strengths if s < 0)
        part = mean[train], self.labels[train], self.n_classes
        off = fit("logistic", *part, among, balanced=self.balanced, seed=self.seed)
        standardised = self._standardised(train) if max(strengths) > 0 else None
        for strength in strengths:
            if strength < 0 or standardised is None:
                yield next(off).scores(mean)
                continue
            tokens, text = standardised
            query, weights, bias = self._learned(tokens, text, train, strength)
            with torch.no_grad():
                yield (_pooled(tokens, text, query, weights, len(self.labels)) + bias).double().numpy()

    def _standardised(self, train: Rows) -> tuple[Float[Tensor, "token d_model"], Int[Tensor, " token"]]:
        assert self.hook.states is not None
        starts = self.hook.starts
        text = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        rows = np.isin(text, train)
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
    tokens: Float[Tensor, "token d_model"],
    text: Int[Tensor, " token"],
    query: Float[Tensor, " d_model"],
    weights: Float[Tensor, "c d_model"],
    n_texts: int,
) -> Float[Tensor, "text c"]:
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
