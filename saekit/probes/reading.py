"""Reading a probe: the features behind its decisions with sign and class, where they fire, and one text shaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from saekit.errors import ProbeError
from saekit.models import join_pieces, token_bytes
from saekit.probes.classifiers import CLASSIFIERS, Classifier, Fitted
from saekit.probes.extract import extract_features
from saekit.probes.features import TextFeatures, check_made_with
from saekit.probes.pooling import POOLINGS, binarised, pool
from saekit.probes.result import ProbeResult

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Weight:
    """One column's part in the decisions for one class.

    Attributes:
        label: Name of the class.
        column: Number of the feature, or of the column.
        name: Name of the column; "" for a feature.
        weight: Weight in the score of the class for one unit of the column; for a tree, the share of the class above
            the threshold minus that below, at the column's highest node.
        effect: Weight times the column's standard deviation over the texts, so that columns of different scale can
            be compared; columns are in the order of its size. For a tree the same as the weight.
        share_in_class: Share of the texts of the class in which the column is not 0.
        share_in_others: Share of all other texts in which it is not 0.
    """

    label: str
    column: int
    name: str
    weight: float
    effect: float
    share_in_class: float
    share_in_others: float


@dataclass(frozen=True)
class Context:
    """A token at which a feature fires, in its text.

    Attributes:
        text: Number of the text in the extraction.
        label: Class of the text; "" if it has none.
        position: Place of the token in the text, from 0.
        activation: Activation of the feature there.
        before: Words before the token, if a model was given that can spell them.
        token: The token itself, spelled out likewise.
        after: Words after it.
    """

    text: int
    label: str
    position: int
    activation: float
    before: str = ""
    token: str = ""
    after: str = ""


@dataclass(frozen=True, eq=False)
class Classified:
    """One text, classified and taken apart.

    Attributes:
        text: The text as it was given; ``tokens`` is what was read of it.
        label: Class that the probe gives it.
        scores: Score of each class.
        tokens: Tokens of the text, spelled out; a character of several tokens stands at the first, the others are "".
        contributions: What each token adds to the score of each class, ``[class, token]``. With the intercept they
            add up to the scores; 0 throughout for a tree, which adds nothing up.
        features: Decisive features as ``(feature, pooled value, contribution to the predicted class)``, the largest
            contributions first; for a tree the features on the way to its leaf.
        truncated: Whether the text is longer than the texts of the probe's extraction could be, and was cut likewise.
    """

    text: str
    label: str
    scores: Float[np.ndarray, " c"]
    tokens: tuple[str, ...]
    contributions: Float[np.ndarray, "c token"]
    features: tuple[tuple[int, float, float], ...]
    truncated: bool = False


def inputs_of(result: ProbeResult, features: TextFeatures) -> "csr_array":
    """Return what a probe on SAE features reads of texts: pooled and made 0 or 1 as when it was fitted.

    Raises ProbeError if the probe reads something else, or the extraction is of another SAE or model.
    """
    weights = _fitted(result).weights
    pooled = pool(features.sae(result.setting["sae"]), result.setting["pooling"])
    check_made_with("the probe", result.made_with, features.made_with)
    if weights is not None and pooled.shape[1] != weights.shape[1]:
        raise ProbeError(f"the probe reads {weights.shape[1]} features, the SAE has {pooled.shape[1]}")
    return binarised(pooled, result.threshold)


def predict(result: ProbeResult, features: TextFeatures) -> Float[np.ndarray, "text c"]:
    """Return the scores that a fitted probe gives to other texts, in the order of their extraction."""
    inputs = inputs_of(result, features)
    return _fitted(result).scores(inputs)


def top_features(result: ProbeResult, features: TextFeatures, *, k: int = 10) -> dict[str, tuple[Weight, ...]]:
    """Return for every class the k features that weigh most, with their sign.

    Args:
        result: Probe on SAE features.
        features: Extraction that it was made from, or another with the same SAE.
        k: Number of features per class; fewer if fewer have any weight.

    Raises:
        ProbeError: The probe reads something else than SAE features, or the extraction lacks its SAE.
    """
    inputs = inputs_of(result, features)
    weights, effects = _weights(result, inputs)
    active = inputs.astype(bool).astype(np.float64)

    def share(rows: np.ndarray, column: int) -> float:
        return float(active[rows][:, [column]].mean()) if rows.any() else float("nan")

    by_class = {}
    for c, label in enumerate(result.label_names):
        mine = features.data.labels == c
        order = np.argsort(-np.abs(effects[c]), kind="stable")[:k]
        by_class[label] = tuple(
            Weight(label, int(j), "", float(weights[c, j]), float(effects[c, j]), *(share(r, j) for r in (mine, ~mine)))
            for j in order
            if weights[c, j] != 0
        )
    return by_class


def top_words(result: ProbeResult, *, k: int = 10) -> dict[str, tuple[tuple[str, float], ...]]:
    """Return for every class the k named columns with the largest weights, for a probe on words or own columns.

    Args:
        result: Probe whose columns have names.
        k: Number of columns per class.

    Raises:
        ProbeError: A probe without named columns, or without weights.
    """
    if result.fitted is None or result.fitted.weights is None or not result.columns:
        raise ProbeError(f"{result.name} has no named columns with weights")
    by_class = {}
    for c, label in enumerate(result.label_names):
        order = np.argsort(-np.abs(result.fitted.weights[c]), kind="stable")[:k]
        by_class[label] = tuple((result.columns[j], float(result.fitted.weights[c, j])) for j in order)
    return by_class


def contexts(
    features: TextFeatures,
    feature: int,
    *,
    sae: str | None = None,
    k: int = 5,
    window: int = 8,
    model: "SAETransformerBridge | None" = None,
) -> tuple[Context, ...]:
    """Return the tokens at which a feature is most active, the strongest of each text.

    Args:
        features: Extraction of texts.
        feature: Number of the feature.
        sae: Name of its SAE in the extraction; the first one if None.
        k: Number of texts, at most.
        window: Number of tokens shown on either side.
        model: Model that spells the tokens; without one, contexts hold numbers only.

    Raises:
        ProbeError: No such SAE or feature.
    """
    at = features.sae(sae)
    if not 0 <= feature < at.d_sae:
        raise ProbeError(f"no feature {feature}: {at.name} has {at.d_sae}, numbered from 0")
    column = at.events[:, [feature]].tocoo()
    rows, value = column.coords[0], column.data
    text = np.searchsorted(at.hook.starts, rows, side="right") - 1
    order = np.lexsort((rows, -value))
    _, first = np.unique(text[order], return_index=True)
    chosen = order[np.sort(first)][:k]
    places = []
    for i in chosen:
        t, position = int(text[i]), int(at.hook.position[rows[i]])
        words = ("", "", "")
        if model is not None:
            ids = features.ids[features.id_starts[t] : features.id_starts[t + 1]].tolist()
            texts = join_pieces(token_bytes(model, ids))
            whole = max((i for i in range(position + 1) if texts[i]), default=position)  # where its text stands
            parts = (max(0, whole - window), whole), (whole, position + 1), (position + 1, position + 1 + window)
            words = tuple("".join(texts[slice(*part)]) for part in parts)
        label = features.data.labels[t]
        name = features.data.label_names[label] if label >= 0 else ""
        places.append(Context(t, name, position, float(value[i]), *words))
    return tuple(places)


def classify(
    model: "SAETransformerBridge",
    sae: "SAE[Any]",
    result: ProbeResult,
    text: str,
    *,
    pieces: Sequence[bytes] | None = None,
) -> Classified:
    """Classify a text and say which tokens and features decided.

    Args:
        model: Model whose activations the probe reads.
        sae: SAE that the probe reads.
        result: Probe on SAE features.
        text: Any text. It is read as the probe's own texts were: what is beyond the context size of their extraction is
            left out, and the result says so (``truncated``).
        pieces: Bytes of all tokens (`saekit.models.token_bytes`), to save a moment where many texts are classified.

    Raises:
        ProbeError: The text is empty, or the SAE or the model is not the one that the probe was made with.
    """
    name = result.setting.get("sae", "")
    size = result.setting.get("context_size", min(model.cfg.n_ctx, 1024))
    features = extract_features(model, {name: sae}, [text], context_size=size, check_hooks=False, progress=False)
    read = features.sae()
    if not len(read.hook.position):
        raise ProbeError("no token of this text counts: expected at least one character")
    inputs, fitted = inputs_of(result, features), _fitted(result)
    scores, weights = fitted.scores(inputs)[0], _weights(result, inputs)[0]
    best, dense = int(scores.argmax()), inputs.toarray()[0]
    contributions = np.zeros((len(scores), len(features.ids)))
    if fitted.weights is not None:
        used = np.flatnonzero(dense)
        value = weights[:, used] * dense[used]
        shares = POOLINGS.of(result.setting["pooling"]).shares(read, used)
        contributions[:, read.hook.position] = value @ shares.T
        order = used[np.argsort(-np.abs(value[best]), kind="stable")]
    else:
        order = np.array(_path(fitted.tree, dense), np.int64)
    decisive = tuple((int(j), float(dense[j]), float(weights[best, j] * dense[j])) for j in order)
    pieces = token_bytes(model) if pieces is None else pieces
    tokens = tuple(join_pieces([pieces[i] for i in features.ids.tolist()]))
    return Classified(text, result.label_names[best], scores, tokens, contributions, decisive, features.truncated > 0)


def probabilities(classifier: str | Classifier, scores: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"] | None:
    """Return the probability that a classifier itself gives each class, or None where it gives scores alone.

    As scikit-learn defines them: softmax for logistic regression (of two classes, whose scores are each other's
    negative, the logistic function), each class against the rest and then normalised with L1, the shares in the leaf
    for a tree. Ridge and the difference of means have none. Whether they are calibrated, nobody has checked.

    Args:
        classifier: Classifier of the probe: ``result.setting["classifier"]``.
        scores: Scores of one text, by class.
    """
    return CLASSIFIERS.of(classifier).probabilities(scores)


def contribution_words(setting: Mapping[str, Any]) -> str:
    """Say in how far the parts that tokens have in a decision are exact, for this setting of a probe."""
    if setting["classifier"] == "tree":
        return "A tree adds nothing up, so no token has a part of its own: the features on the way to the leaf decide."
    pooling = POOLINGS.of(setting["pooling"])
    if setting["binarise"] != "none" and not pooling.one_token:
        return (
            "The parts add up to the score, but a feature is only on or off for the whole text: its weight is laid on "
            "the tokens that turn it on, by convention."
        )
    if pooling.reduce == "max":
        return (
            "The parts add up to the score. A maximum is one token's alone: without that token the next strongest "
            "would take its place, so the parts say what counted, not what would happen without it."
        )
    return "Exact: the score is the intercept plus the parts of the tokens."


def tree_text(result: ProbeResult, names: Mapping[int, str] | None = None) -> str:
    """Return a decision tree as indented lines, with the features it asks for and the class at each leaf.

    Args:
        result: Probe whose classifier is a tree.
        names: Names for features, as ``{feature: name}``; the others go by number.
    """
    if result.fitted is None or not result.fitted.tree:
        raise ProbeError(f"{result.name} is not a decision tree")
    tree = result.fitted.tree
    lines = []

    def walk(node: int, depth: int) -> None:
        share = tree["share"][node]
        if tree["left"][node] < 0:
            lines.append(f"{'  ' * depth}{result.label_names[int(share.argmax())]} ({share.max():.0%})")
            return
        column = int(tree["column"][node])
        name = result.columns[column] if result.columns else f"feature {column}"
        if names is not None and column in names:
            name = f"{name} ({names[column]})"
        lines.append(f"{'  ' * depth}{name} > {tree['threshold'][node]:.3g}?")
        for word, child in (("yes", tree["right"][node]), ("no", tree["left"][node])):
            lines.append(f"{'  ' * depth}- {word}")
            walk(int(child), depth + 1)

    walk(0, 0)
    return "\n".join(lines)


def _fitted(result: ProbeResult) -> Fitted:
    """Return the classifier of a probe on SAE features; raise ProbeError if the probe reads something else."""
    if "pooling" not in result.setting or result.fitted is None:
        raise ProbeError(f"{result.name} does not read SAE features: only probes made with `probe` can be taken apart")
    return result.fitted


def _weights(result: ProbeResult, inputs: "csr_array") -> tuple[np.ndarray, np.ndarray]:
    """Return weights and effects ``[class, column]``."""
    fitted = _fitted(result)
    if fitted.weights is not None:
        mean = np.asarray(inputs.mean(axis=0)).ravel()
        square = np.asarray(inputs.multiply(inputs).mean(axis=0)).ravel()
        return fitted.weights, fitted.weights * np.sqrt(np.maximum(square - mean**2, 0))
    tree, gaps = fitted.tree, np.zeros((len(result.label_names), inputs.shape[1]))
    for node in reversed(range(len(tree["left"]))):  # nodes are numbered from the root: its own word is the last
        if tree["left"][node] >= 0:
            gaps[:, tree["column"][node]] = tree["share"][tree["right"][node]] - tree["share"][tree["left"][node]]
    return gaps, gaps


def _path(tree: dict[str, np.ndarray], values: Float[np.ndarray, " column"]) -> list[int]:
    node, path = 0, []
    while tree["left"][node] >= 0:
        column = int(tree["column"][node])
        path.append(column)
        node = int(tree["left" if np.float32(values[column]) <= tree["threshold"][node] else "right"][node])
    return list(dict.fromkeys(path))
