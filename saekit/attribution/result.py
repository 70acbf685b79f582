"""What every attribution returns: contributions, what they must add up to, and whether they do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from saekit._base.checks import one_of
from saekit._base.identity import Identity
from saekit.errors import ModelError

# What a contribution can come from. The last five arise where a whole model is taken apart, not an SAE's hook point.
KINDS = ("feature", "error", "bias", "rest", "output_bias", "embedding", "head", "attention", "mlp")
ALL_POSITIONS = -1
EXACT = 1e-4  # largest gap, in shares of the largest number involved, that float32 explains


@dataclass(frozen=True)
class Contribution:
    """One item of an `Attribution`.

    Attributes:
        prompt: Number of the prompt, -1 for a mean over all of them.
        position: Where the feature is active, BOS counts as 0; -1 for all positions together.
        token: The token there, "" for all positions together.
        hook_name: The hook point.
        kind: "feature", "error" (what the SAE misses), "bias" (the SAE's own), "rest" (all that is not at this hook
            point), "output_bias" (of the final norm and the unembedding); of a whole model taken apart: "embedding",
            "head", "attention" (a layer's bias, or the whole of it), "mlp".
        feature: Number of the feature or head; -1 if there is none.
        activation: Value of the feature in the clean run; length of the vector for other kinds.
        effect: Contribution in the attribution's units; positive in favour of the answer.
    """

    prompt: int
    position: int
    token: str
    hook_name: str
    kind: str
    feature: int
    activation: float
    effect: float

    @property
    def label(self) -> str:
        """Return a short name: ``18/123 at ' Mary'``."""
        layer = self.hook_name.split(".")[1] if self.hook_name.startswith("blocks.") else self.hook_name
        name = {
            "feature": f"{layer}/{self.feature}",
            "head": f"head {layer}.{self.feature}",
            "output_bias": "output bias",
            "embedding": "embedding",
        }.get(self.kind, f"{self.kind} {layer}")
        return f"{name} at {self.token!r}" if self.token else name


@dataclass(frozen=True)
class Agreement:
    """How well two methods agree on the items that both have.

    Attributes:
        n: Number of items compared.
        correlation: Pearson's correlation of the effects, NaN if one method gives the same to all.
        same_sign: Share of items with the same sign, weighted by the first method's absolute effect.
        largest_difference: Largest absolute difference of two effects, in the attributions' units.
    """

    n: int
    correlation: float
    same_sign: float
    largest_difference: float


@dataclass(frozen=True, repr=False)
class Attribution:
    """How much each item contributes to what is read off a model, and a check that it adds up.

    Items lie in arrays of equal length. Each belongs to one *reading* (a prompt, and the position whose prediction is
    read) and to one hook point. Within a reading the items of *each* hook point are a complete account of their own:
    residual streams of two layers hold much of the same, so items of two hook points are never added.

    Attributes:
        method: "direct", "patching", "integrated gradients" or "exact".
        towards: What is read, by prompt: ``' Mary' - ' John'``.
        baseline: What the clean run is compared with; "" for "direct".
        units: Units of effects.
        tokens: Text of each token, by prompt.
        hook_names: The hook points, as the SAEs name them.
        read_prompt: Prompt of each reading ``[read]``.
        read_position: Position of each reading ``[read]``.
        clean: What is read off the clean run ``[read]``, by the model itself.
        total: What the items of a hook point have to add up to ``[read, hook]``: direct, the reading itself; else the
            reading of the clean run minus that of a run with *all* items of the hook point at their baseline.
        at_read: Reading of each item ``[item]``.
        at_hook: Hook point of each item ``[item]``.
        position: Position of each item ``[item]``, -1 for all positions together.
        kind: Index into `KINDS` ``[item]``.
        feature: Number of feature or head ``[item]``, -1 if none.
        activation: Value in the clean run ``[item]``; the vector's length for other kinds than features.
        activation_baseline: Value in the run that it is compared with ``[item]``; 0 for "direct".
        effect: Contribution of each item in ``units`` ``[item]``; positive in favour of the answer.
        excluded_tokens: Number of positions left as they are (special and massive tokens), where the baseline is zero
            or a mean.
        together: Whether the hook points are parts of one account: a whole model taken apart.
        made_with: What decides the numbers of ``"model"`` and of each SAE, by hook point.
    """

    method: str
    towards: tuple[str, ...]
    baseline: str
    units: str
    tokens: tuple[tuple[str, ...], ...]
    hook_names: tuple[str, ...]
    read_prompt: Int[np.ndarray, "read"]
    read_position: Int[np.ndarray, "read"]
    clean: Float[np.ndarray, "read"]
    total: Float[np.ndarray, "read hook"]
    at_read: Int[np.ndarray, "item"]
    at_hook: Int[np.ndarray, "item"]
    position: Int[np.ndarray, "item"]
    kind: Int[np.ndarray, "item"]
    feature: Int[np.ndarray, "item"]
    activation: Float[np.ndarray, "item"]
    activation_baseline: Float[np.ndarray, "item"]
    effect: Float[np.ndarray, "item"]
    excluded_tokens: int = 0
    together: bool = False
    made_with: dict[str, Identity] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.effect)

    def __iter__(self) -> Iterator[Contribution]:
        return (self._item(i) for i in range(len(self)))

    # --- the check -----------------------------------------------------------------------------------------------

    @property
    def sums(self) -> Float[np.ndarray, "read hook"]:
        """What the items of each hook point do add up to."""
        place = self.at_read * self.total.shape[1] + (0 if self.together else self.at_hook)
        return np.bincount(place, self.effect, self.total.size).astype(np.float64).reshape(self.total.shape)

    @property
    def gap(self) -> float:
        """Largest absolute difference between what the items add up to and what they should."""
        return float(np.abs(self.sums - self.total).max())

    @property
    def complete(self) -> bool:
        """Whether the items add up, up to rounding: never expected of "patching" and "exact" in a real model."""
        largest = max(np.abs(self.total).max(), np.abs(self.effect).max(initial=0), 1e-12)
        return bool(self.gap <= EXACT * largest)

    @property
    def check(self) -> str:
        """The completeness check in words."""
        total, sums = self.total.mean(0), self.sums.mean(0)
        parts = []
        for hook, want, got in zip(["the whole model"] if self.together else self.hook_names, total, sums, strict=True):
            what = "the reading" if self.method == "direct" else "all at once"
            parts.append(f"{hook}: items add up to {got:+.4f}, {what} {want:+.4f}")
        # How large a rounding error is depends on the processor and its threads, so that no number of it is stated.
        verdict = "exact, up to rounding" if self.complete else f"not exact, largest gap {self.gap:.2g} {self.units}"
        mean = f" (means over {len(self.total)} readings)" if len(self.total) > 1 else ""
        return "; ".join(parts) + f"{mean}: {verdict}"

    # --- looking -------------------------------------------------------------------------------------------------

    def top(
        self,
        k: int = 10,
        *,
        kinds: Sequence[str] = ("feature",),
        prompt: int | None = None,
        by: str = "size",
    ) -> tuple[Contribution, ...]:
        """Return the k strongest items.

        Args:
            k: Number of items at most.
            kinds: Kinds of items to look at, see `Contribution`; ``()`` for all.
            prompt: Number of the only prompt to look at; None for all.
            by: "size" (absolute effect), "positive" or "negative" (most so first; none of the other sign).
        """
        by = one_of("by", by, ("size", "positive", "negative"), error=ModelError)
        score = {"size": np.abs(self.effect), "positive": self.effect, "negative": -self.effect}[by]
        keep = self._of(kinds, prompt)
        order = np.flatnonzero(keep if by == "size" else keep & (score > 0))
        order = order[np.argsort(-score[order], kind="stable")]
        return tuple(self._item(i) for i in order[:k])

    def by_feature(self, k: int = 10, *, kinds: Sequence[str] = ("feature",)) -> tuple[Contribution, ...]:
        """Return the k strongest features, summed over positions and averaged over the prompts, zeros counted."""
        keep = np.flatnonzero(self._of(kinds, None))
        columns = np.stack([self.at_hook[keep], self.kind[keep], self.feature[keep]], 1)
        rows, which = np.unique(columns, axis=0, return_inverse=True)
        means = [
            np.bincount(which.reshape(-1), of_item[keep], len(rows)) / len(self.tokens)
            for of_item in (self.activation, self.effect)
        ]
        out = []
        for i in np.argsort(-np.abs(means[1]), kind="stable")[:k]:
            hook, kind, feature = rows[i].tolist()
            activation, effect = (float(mean[i]) for mean in means)
            place = -1, ALL_POSITIONS, "", self.hook_names[hook]
            out.append(Contribution(*place, KINDS[kind], feature, activation, effect))
        return tuple(out)

    def matrix(
        self, features: Sequence[int], *, prompt: int = 0, hook: str | None = None
    ) -> Float[np.ndarray, "pos f"]:
        """Return the effects of some features at every position of one prompt, 0 where there is no item.

        Args:
            features: Numbers of the features, one per column.
            prompt: Number of the prompt.
            hook: The hook point; None for the first.
        """
        number = self.hook_names.index(hook) if hook is not None else 0
        out = np.zeros((len(self.tokens[prompt]), len(features)))
        column = {feature: i for i, feature in enumerate(features)}
        keep = self._of(("feature",), prompt) & (self.at_hook == number) & (self.position >= 0)
        for i in np.flatnonzero(keep & np.isin(self.feature, list(features))):
            out[self.position[i], column[int(self.feature[i])]] += self.effect[i]
        return out

    def only(self, *, prompt: int | None = None, hook: str | None = None, position: int | None = None) -> "Attribution":
        """Return the part of one prompt, of one hook point or of the readings at one position: complete in itself.

        Args:
            prompt: Number of the prompt; None for all.
            hook: The hook point; None for all.
            position: Position that is read; None for all.

        Raises:
            ModelError: No such prompt, hook point or position.
        """
        keep_read = np.ones(len(self.read_prompt), bool) if prompt is None else self.read_prompt == prompt
        reads = np.flatnonzero(keep_read if position is None else keep_read & (self.read_position == position))
        if self.together and hook is not None:
            raise ModelError("the hook points are parts of one account: expected hook=None")
        if not len(reads) or (hook is not None and hook not in self.hook_names):
            raise ModelError(
                f"expected a prompt below {len(self.tokens)}, a hook point of {', '.join(self.hook_names)} and a "
                f"position that is read, not prompt={prompt}, hook={hook!r}, position={position}"
            )
        hooks = np.arange(len(self.hook_names)) if hook is None else np.array([self.hook_names.index(hook)])
        keep = np.isin(self.at_read, reads) & np.isin(self.at_hook, hooks)
        one = slice(None) if prompt is None else slice(prompt, prompt + 1)
        arrays = {name: getattr(self, name)[keep] for name in ITEM_ARRAYS}
        arrays["at_read"] = np.searchsorted(reads, arrays["at_read"])
        arrays["at_hook"] = np.searchsorted(hooks, arrays["at_hook"])
        return replace(
            self,
            **arrays,
            towards=self.towards[one],
            tokens=self.tokens[one],
            hook_names=tuple(self.hook_names[i] for i in hooks),
            read_prompt=self.read_prompt[reads] - (prompt or 0),
            read_position=self.read_position[reads],
            clean=self.clean[reads],
            total=self.total[reads] if self.together else self.total[np.ix_(reads, hooks)],
        )

    def agreement(self, other: "Attribution") -> Agreement:
        """Compare with another method on the items that both have (same prompt, hook point, position and feature).

        Raises:
            ModelError: The two have no item in common, or are of different models or SAEs.
        """
        for name, one in self.made_with.items():
            if words := one.difference(other.made_with.get(name, {})):
                what = "models" if name == "model" else f"SAEs at {name}"
                raise ModelError(f"the two attributions are of different {what}: {'; '.join(words)}")
        mine, theirs = self._effects(), other._effects()
        shared = [key for key in mine if key in theirs]
        if not shared:
            raise ModelError(
                "the two attributions have no item in common: were they made of the same prompts and SAEs?"
            )
        a, b = (np.array([effects[key] for key in shared]) for effects in (mine, theirs))
        flat = a.std() == 0 or b.std() == 0
        same = np.abs(a)[np.sign(a) == np.sign(b)].sum() / max(np.abs(a).sum(), 1e-300)
        correlation = float("nan") if flat else float(np.corrcoef(a, b)[0, 1])
        return Agreement(len(shared), correlation, float(same), float(np.abs(a - b).max()))

    def __repr__(self) -> str:
        what = self.towards[0] if len(set(self.towards)) == 1 else f"{len(self.towards)} readouts"
        against = f", against {self.baseline}" if self.baseline else ""
        out = f", {self.excluded_tokens} special or massive tokens left as they are" if self.excluded_tokens else ""
        head = (
            f"Attribution({self.method}, towards {what}{against}: {len(self)} items of {len(self.tokens)} prompt(s), "
            f"{len(self.hook_names)} hook point(s){out})"
        )
        lines = [f"  {item.effect:+8.3f}  {item.label}" for item in self.top(5, kinds=())]
        return "\n".join([head, f"  {self.check}", *lines])

    # --- pieces --------------------------------------------------------------------------------------------------

    def _of(self, kinds: Sequence[str], prompt: int | None) -> Bool[np.ndarray, "item"]:
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ModelError(f"no kind {unknown[0]!r}: expected {', '.join(KINDS)}")
        keep = np.isin(self.kind, [KINDS.index(kind) for kind in kinds]) if kinds else np.ones(len(self), bool)
        return keep if prompt is None else keep & (self.read_prompt[self.at_read] == prompt)

    def _item(self, i: int) -> Contribution:
        prompt, position = int(self.read_prompt[self.at_read[i]]), int(self.position[i])
        # A token that goes on with the character of the one before shows that character.
        token = next((text for text in self.tokens[prompt][position::-1] if text), "") if position >= 0 else ""
        node = self.hook_names[self.at_hook[i]], KINDS[self.kind[i]], int(self.feature[i])
        return Contribution(prompt, position, token, *node, float(self.activation[i]), float(self.effect[i]))

    def _effects(self) -> dict[tuple, float]:
        columns = (self.read_prompt[self.at_read], self.at_hook, self.position, self.kind, self.feature)
        keys = zip(*(column.tolist() for column in columns), strict=True)
        return {
            (key[0], self.hook_names[key[1]], *key[2:]): value
            for key, value in zip(keys, self.effect.tolist(), strict=True)
        }


ITEM_ARRAYS = ("at_read", "at_hook", "position", "kind", "feature", "activation", "activation_baseline", "effect")


class ItemTable:
    """Collects items, part by part, for the arrays of an `Attribution`."""

    def __init__(self) -> None:
        self._parts: list[dict[str, np.ndarray]] = []

    def add(self, kind: str, **columns) -> None:
        """Add items of a kind: ``effect [item]``, and the other columns of that shape or a single number."""
        given = {"kind": KINDS.index(kind), "feature": -1, "activation_baseline": 0.0} | columns
        dtypes = {name: np.float64 if name.startswith(("activation", "effect")) else np.int64 for name in ITEM_ARRAYS}
        columns = {name: np.asarray(given[name], dtype) for name, dtype in dtypes.items()}
        self._parts.append({name: np.broadcast_to(of, columns["effect"].shape) for name, of in columns.items()})

    def arrays(self) -> dict[str, Any]:
        """Return all items, an array each, ordered by reading, hook point, kind and position."""
        if not self._parts:
            self.add(KINDS[0], at_read=0, at_hook=0, position=0, activation=0, effect=np.zeros(0))
        joined = {name: np.concatenate([part[name] for part in self._parts]) for name in ITEM_ARRAYS}
        order = np.lexsort([joined[name] for name in ("feature", "position", "kind", "at_hook", "at_read")])
        return {name: column[order] for name, column in joined.items()}
