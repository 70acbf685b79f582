"""Reading a probe: the features behind its decisions with sign and class, where they fire, and one text shaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import ProbeError
from saekit.models import join_pieces, token_bytes
from saekit.probes.classifiers import Fitted
from saekit.probes.extract import extract_features
from saekit.probes.features import SAEFeatures, TextFeatures
from saekit.probes.pooling import Binariser, pool as pool_features, ranked_tokens
from saekit.probes.result import ProbeResult

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Weight:
    """One column's part in the decisions for one class.

    Attributes:
        label: The class.
        column: Number of the feature, or of the column.
        name: Of the column; "" for a feature.
        weight: In the score of the class for one unit of the column; for a tree, the share of the class above the
            threshold minus that below, at the column's highest node.
        effect: Weight times the column's standard deviation over the texts, so that columns of different scale can
            be compared; columns are in the order of its size. For a tree the same as the weight.
        share_in_class: Share of the texts of the class in which the column is not 0.
        share_in_others: The same of all other texts.
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

    ``text`` is its number in the extraction, ``position`` the token's place in it; ``before``, ``token`` and ``after``
    are words if a model was given that can spell them.
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
        label: What the probe says.
        scores: By class.
        tokens: Its tokens, spelled out; a character of several tokens stands at the first, the others are "".
        contributions: ``[class, token]``: what each token adds to the score of each class. With the intercept they
            add up to the scores; 0 throughout for a tree, which adds nothing up.
        features: ``(feature, pooled value, contribution to the predicted class)``, the largest contributions first;
            for a tree the features on the way to its leaf.
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

    Raises ProbeError if the probe reads something else, or the extraction lacks its SAE.
    """
    weights = _fitted(result).weights
    pooled = pool_features(features.sae(result.setting["sae"]), result.setting["pooling"])
    if weights is not None and pooled.shape[1] != weights.shape[1]:
        raise ProbeError(f"the probe reads {weights.shape[1]} features, the SAE has {pooled.shape[1]}")
    return Binariser(result.setting["binarise"], result.threshold)(pooled)


def predict(result: ProbeResult, features: TextFeatures) -> Float[np.ndarray, "text c"]:
    """Return the scores that a fitted probe gives to other texts, in the order of their extraction."""
    inputs = inputs_of(result, features)
    return _fitted(result).scores(inputs)


def top_features(result: ProbeResult, features: TextFeatures, *, k: int = 10) -> dict[str, tuple[Weight, ...]]:
    """Return for every class the k features that weigh most, with their sign.

    Args:
        result: A probe on SAE features.
        features: The extraction that it was made from, or another with the same SAE.
        k: How many a class; fewer if fewer have any weight.
    """
    inputs = inputs_of(result, features)
    weights, effects = _weights(result, inputs)
    active = inputs.astype(bool).astype(np.float64)
    found = {}
    for c, label in enumerate(result.label_names):
        mine = features.data.labels == c
        order = np.argsort(-np.abs(effects[c]), kind="stable")[:k]
        share = lambda rows, column: float(active[rows][:, [column]].mean()) if rows.any() else float("nan")  # noqa: E731
        found[label] = tuple(
            Weight(label, int(j), "", float(weights[c, j]), float(effects[c, j]), share(mine, j), share(~mine, j))
            for j in order if weights[c, j] != 0
        )  # fmt: skip
    return found


def top_words(result: ProbeResult, *, k: int = 10) -> dict[str, tuple[tuple[str, float], ...]]:
    """Return for every class the k named columns with the largest weights, for a probe on words or own columns."""
    if result.fitted is None or result.fitted.weights is None or not result.columns:
        raise ProbeError(f"{result.name} has no named columns with weights")
    found = {}
    for c, label in enumerate(result.label_names):
        order = np.argsort(-np.abs(result.fitted.weights[c]), kind="stable")[:k]
        found[label] = tuple((result.columns[j], float(result.fitted.weights[c, j])) for j in order)
    return found


def contexts(
    features: TextFeatures, feature: int, *, sae: str | None = None, k: int = 5, window: int = 8,
    model: "SAETransformerBridge | None" = None,
) -> tuple[Context, ...]:  # fmt: skip
    """Return the tokens at which a feature is most active, the strongest of each text.

    Args:
        features: The extraction.
        feature: Its number.
        sae: Of which SAE; the first one if None.
        k: How many texts.
        window: Tokens shown on either side.
        model: Spells the tokens; without it contexts hold numbers only.
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
    made = []
    for i in chosen:
        t, position = int(text[i]), int(at.hook.position[rows[i]])
        words = ("", "", "")
        if model is not None:
            ids = features.ids[features.id_starts[t] : features.id_starts[t + 1]].tolist()
            cut = ids[max(0, position - window) : position], ids[position : position + 1]
            words = tuple(map(model.tokenizer.decode, (*cut, ids[position + 1 : position + 1 + window])))
        label = features.data.labels[t]
        name = features.data.label_names[label] if label >= 0 else ""
        made.append(Context(t, name, position, float(value[i]), *words))
    return tuple(made)


def classify(
    result: ProbeResult, model: "SAETransformerBridge", sae: "SAE[Any]", text: str, *,
    pieces: Sequence[bytes] | None = None,
) -> Classified:  # fmt: skip
    """Classify a text and say which tokens and features decided.

    Args:
        result: A probe on SAE features.
        model: The model.
        sae: The SAE that the probe reads.
        text: Any text. It is read as the probe's own texts were: what is beyond the context size of their extraction is
            left out, and the result says so (``truncated``).
        pieces: The bytes of all tokens (`saekit.models.token_bytes`), to save a moment where many texts are classified.

    Raises:
        ProbeError: The text is empty, or the SAE is of another width.
    """
    name = result.setting.get("sae", "")
    size = int(result.setting.get("context_size", min(model.cfg.n_ctx, 1024)))
    features = extract_features(model, {name: sae}, [text], context_size=size, check_hooks=False, progress=False)
    read = features.sae()
    if not len(read.hook.position):
        raise ProbeError("no token of this text counts: expected at least one character")
    inputs = inputs_of(result, features)
    fitted = _fitted(result)
    scores = fitted.scores(inputs)[0]
    best = int(scores.argmax())
    n_ids = len(features.ids)
    contributions = np.zeros((len(scores), n_ids))
    weights, _ = _weights(result, inputs)
    used = np.flatnonzero(inputs.toarray()[0])
    if fitted.weights is not None:
        shares = _shares(read, result.setting["pooling"], used)
        value = inputs.toarray()[0][used]
        contributions[:, read.hook.position] = (weights[:, used] * value) @ shares.T
        order = used[np.argsort(-np.abs(weights[best, used] * value), kind="stable")]
    else:
        order = np.array(_path(fitted.tree, inputs.toarray()[0]), np.int64)
    dense = inputs.toarray()[0]
    listed = tuple((int(j), float(dense[j]), float(weights[best, j] * dense[j])) for j in order)
    pieces = token_bytes(model) if pieces is None else pieces
    tokens = tuple(join_pieces([pieces[i] for i in features.ids.tolist()]))
    return Classified(text, result.label_names[best], scores, tokens, contributions, listed, features.truncated > 0)


def tree_text(result: ProbeResult, names: Mapping[int, str] | None = None) -> str:
    """Return a decision tree as indented lines, with the features it asks for and the class at each leaf.

    Args:
        result: A probe whose classifier is a tree.
        names: Your names for features, as ``{feature: name}``; the others go by number.
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
    tree, made = fitted.tree, np.zeros((len(result.label_names), inputs.shape[1]))
    for node in reversed(range(len(tree["left"]))):  # nodes are numbered from the root: its own word is the last
        if tree["left"][node] >= 0:
            made[:, tree["column"][node]] = tree["share"][tree["right"][node]] - tree["share"][tree["left"][node]]
    return made, made


def _path(tree: dict[str, np.ndarray], values: Float[np.ndarray, " column"]) -> list[int]:
    node, path = 0, []
    while tree["left"][node] >= 0:
        column = int(tree["column"][node])
        path.append(column)
        node = int(tree["left" if np.float32(values[column]) <= tree["threshold"][node] else "right"][node])
    return list(dict.fromkeys(path))


def _shares(sae: SAEFeatures, how: str, used: Int[np.ndarray, " u"]) -> Float[np.ndarray, "token u"]:
    """Return which share of each pooled feature of one text comes from each token; columns add up to 1.

    A sum or mean comes from all tokens by their activations, a maximum from the token that has it, a count from the
    tokens that are counted.
    """
    rows = ranked_tokens(sae, how) if how.startswith("top-") else sae.events
    dense = rows[:, used].toarray().astype(np.float64)
    if how == "last":
        dense[:-1] = 0
    elif how.startswith("first-"):
        dense[int(how.split("-")[1]) :] = 0
    if how == "max" or how.startswith("first-"):
        dense = (np.arange(len(dense))[:, None] == dense.argmax(0)).astype(np.float64)
    return dense / np.maximum(dense.sum(0), 1e-300)
