"""The feature index: an inverted index from features to the tokens that activate them.

One pass of the model fills it; every view, search and statistic afterwards is a slice of it, in milliseconds and
without the model. A full index keeps every event. A bounded one (``examples_per_feature=``) keeps the strongest
examples and a sample of the rest, so that neither memory nor disk grows with the corpus: the bundled indexes are of
this kind.
"""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit.data import Tokens
from saekit.errors import FeatureIndexError
from saekit.index import merge as merging, search as text_side
from saekit.index.build import Pass, read_log, run_pass
from saekit.index.collect import BINS, first_of_each, priority
from saekit.index.read import Reader, interval_of
from saekit.index.results import (
    Example,
    Examples,
    Histogram,
    Hit,
    Interval,
    Logits,
    Neighbour,
    PromptActivations,
    PromptFeatures,
    PromptReading,
)
from saekit.index.store import bundled_index, holds, read_folder, writable
from saekit.saes import ASSETS, check_pair, sae_fingerprint, sae_hook

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

STORED_EXAMPLES = 20  # a feature, in a full index: what search looks at; `top` reads every event


class FeatureIndex:
    """Features of one SAE on one corpus. Make one with `build`, `load` or `merge`.

    Attributes:
        manifest: Everything that identifies the index: hashes of SAE and tokens, hook, model, versions, counts.
        density: Share of counted tokens on which each feature is active, ``[d_sae]``.
        count: On how many tokens, ``[d_sae]``.
        max: Largest activation, ``[d_sae]``.
        mean_active: Mean activation where active, ``[d_sae]``; 0 for a dead feature.
        dead: Active on none of the tokens, ``[d_sae]``.
        excluded: How many tokens were left out of all this, by reason.
    """

    def __init__(self, path: Path, manifest: dict, arrays: dict[str, np.ndarray]):
        self.path, self.manifest, self._arrays = path, manifest, arrays
        self.d_sae: int = manifest["d_sae"]
        self.n_tokens: int = manifest["counted"]
        self.excluded: dict[str, int] = dict(manifest["excluded"])
        self.bounded: bool = manifest["kind"] == "bounded"
        self.hook_name: str = manifest["hook_name"]
        self.model_name: str = manifest["model_name"]
        self.sae_hash: str = manifest["sae_hash"]
        self.count = arrays["count"]
        self.max = arrays["max"]
        self.density = self.count / max(self.n_tokens, 1)
        self.mean_active = arrays["sum"] / np.maximum(self.count, 1)
        self.dead = self.count == 0
        self.l0 = float(self.count.sum() / max(self.n_tokens, 1))
        self._read = Reader(manifest, arrays)

    # --- make one ----------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        model: "SAETransformerBridge",
        sae: "SAE[Any]",
        tokens: Tokens,
        *,
        path: Path | str | None = None,
        examples_per_feature: int | None = None,
        window: int = 32,
        batch_size: int = 8,
        progress: bool = True,
    ) -> "FeatureIndex":
        """Run a corpus through model and SAE once and index every active feature.

        Interrupted, the work so far stays in ``<path>.partial``; the same call goes on from there and ends with the
        same index. ``path`` itself appears only when it is complete.

        Args:
            model: The language model; layers above the SAE's do not run.
            sae: The SAE.
            tokens: The corpus.
            path: Folder to write; None for a temporary one that goes when the object goes. If it holds the result of
                this very call already, that is opened.
            examples_per_feature: None for a full index: 8 to 16 bytes an event, on disk. A number for a bounded one
                that keeps so many of the strongest examples, one a sequence, and 4 from each 16th of the range.
            window: Tokens of context an example carries, two thirds of them before the peak.
            batch_size: Sequences a forward pass.
            progress: Show a progress bar.

        Raises:
            FeatureIndexError: Nothing to index, or ``path`` holds something else.
            SAEError, ModelError: Model and SAE do not fit.
        """
        check_pair(model, sae)
        if not len(tokens) or not tokens.n_tokens:
            raise FeatureIndexError("the corpus has no tokens: there is nothing to index")
        if len(np.unique(tokens.sequence_ids)) != len(tokens):
            raise FeatureIndexError("two rows of the corpus have the same sequence id: give each its own")
        if examples_per_feature is not None and examples_per_feature < 1:
            raise FeatureIndexError(f"examples_per_feature must be at least 1, not {examples_per_feature}")
        if window < 1:
            raise FeatureIndexError(f"window must be at least 1 token, not {window}")
        target, owner = writable(path)
        order = np.argsort(tokens.sequence_ids, kind="stable")
        if (np.diff(order) != 1).any():
            tokens = replace(
                tokens, ids=tokens.ids[order], document=tokens.document[order], sequence_ids=tokens.sequence_ids[order]
            )
        identity = {
            "kind": "full" if examples_per_feature is None else "bounded",
            "d_sae": sae.cfg.d_sae,
            "hook_name": sae_hook(sae),
            "model_name": model.cfg.model_name,
            "sae_hash": sae_fingerprint(sae),
            "tokens_hash": merging.corpus_hash(tokens.ids, tokens.sequence_ids),
            "documents_hash": merging.corpus_hash(tokens.document, tokens.sequence_ids),
            "examples": examples_per_feature or STORED_EXAMPLES,
            "window": window,
        }
        if holds(target, identity):
            return cls._open(target, owner)
        partial = target.with_name(target.name + ".partial")
        state = Pass.new(sae.cfg.d_sae, examples=identity["examples"], window=window, n_pos=tokens.ids.shape[1])
        run_pass(
            model, sae, tokens, identity["hook_name"], partial, identity, state=state,
            keep_events=examples_per_feature is None, batch_size=batch_size, progress=progress,
        )  # fmt: skip
        about = identity | {
            "corpus": tokens.name,
            "sources": list(tokens.sources),
            "split": tokens.split,
            "neuronpedia_id": getattr(sae.cfg.metadata, "neuronpedia_id", None),
            "versions": _versions(),
        }
        tables = text_side.tables(model, sae)
        log = read_log(partial, state, sae.cfg.d_sae) if examples_per_feature is None else None
        corpus = {"tokens": tokens.ids, "sequence_ids": tokens.sequence_ids}
        merging.finish(target, about, state, corpus | tables, log)
        shutil.rmtree(partial)
        return cls._open(target, owner)

    @classmethod
    def merge(cls, indexes: "Sequence[FeatureIndex]", *, path: Path | str | None = None) -> "FeatureIndex":
        """Join indexes of disjoint parts of a corpus, in any order: the result equals one build over all of it.

        Raises FeatureIndexError if they overlap, or are of different SAEs or settings.
        """
        parts = merging.check(indexes)
        target, owner = writable(path)
        state, corpus, log, about = merging.join(parts)
        merging.finish(target, about, state, corpus, log)
        return cls._open(target, owner)

    def compacted(self, path: Path | str | None = None, *, intervals: int = 5, per: int = 4) -> "FeatureIndex":
        """Return a bounded index without what only `merge` needs: about half the size.

        ``intervals(feature)`` answers as before for these ``intervals`` and ``per``; the result cannot be merged.
        """
        target, owner = writable(path)
        chosen = [self._read.interval_rows(f, float(self.max[f]), intervals, per) for f in np.flatnonzero(~self.dead)]
        merging.write_compact(self, target, np.unique(np.concatenate([np.zeros(0, np.int64), *chosen])))
        return self._open(target, owner)

    @classmethod
    def load(cls, path: Path | str | None = None, *, sae: "SAE[Any] | None" = None) -> "FeatureIndex":
        """Open a saved index, or the one of a bundled SAE by its name; arrays stay on disk until they are read.

        Args:
            path: A folder, or a bundled SAE's name; default: the bundled index of ``sae``.
            sae: If given, an index of another SAE is refused.

        Raises:
            FeatureIndexError: Absent, foreign, truncated, altered, or of another SAE.
        """
        path = bundled_index(sae) if path is None else path
        shipped = ASSETS / str(path) / "index"
        folder = shipped if isinstance(path, str) and shipped.is_dir() else Path(path).expanduser()
        index = cls._open(folder, None)
        if sae is not None and sae_fingerprint(sae) != index.sae_hash:
            raise FeatureIndexError(
                f"{folder} is the index of another SAE (hash {index.sae_hash[:12]}, expected "
                f"{sae_fingerprint(sae)[:12]}): load the SAE it was built with, or build an index for this one"
            )
        return index

    def save(self, path: Path | str) -> "FeatureIndex":
        """Write the index to a folder and return it as opened from there."""
        target, _ = writable(path)
        from saekit._base.cache import atomic

        with atomic(target) as draft:
            shutil.copytree(self.path, draft)
        return self._open(target, None)

    @classmethod
    def _open(cls, path: Path, owner: "tempfile.TemporaryDirectory | None") -> "FeatureIndex":
        manifest, arrays = read_folder(path)
        if "kind" not in manifest:
            raise FeatureIndexError(f"{path} is an unfinished build: call build again with the same arguments")
        index = cls(path, manifest, arrays)
        if owner is not None:
            weakref.finalize(index, owner.cleanup)  # keeps the temporary folder as long as the index lives
        return index

    # --- ask it ------------------------------------------------------------------------------------------------

    def top(self, feature: int, k: int = 20, *, fold: bool = True) -> Examples:
        """Return the k strongest examples, one a sequence: value descending, then sequence id, then position.

        A bounded index has at most ``examples_per_feature``. ``fold`` joins examples whose text around the peak (5
        tokens before to 2 after) is the same, and counts them.
        """
        self._check(feature)
        if self.bounded:
            rows = self._read.stored("top", feature)[:k]
            items = [self._read.stored_example("top", row) for row in rows]
        else:
            events = self._read.events(feature)
            sequence = events.place // self._read.n_pos
            order = first_of_each(1, -events.value, events.place, group=(sequence,))
            order = order[np.lexsort((events.place[order], -events.value[order]))][:k]
            items = self._read.event_examples(events, order)
        return self._examples(feature, text_side.fold(items) if fold else items)

    def intervals(self, feature: int, n: int = 5, per: int = 4) -> list[Interval]:
        """Return the n equal-width intervals of (0, max], strongest first, with up to ``per`` examples of each.

        Which examples is decided by a hash of their place, so it is the same for every shard order. ``share`` comes
        from all events. A bounded index keeps 4 candidates in each of 16 equal bins up to the power of two above the
        maximum, so within an interval it samples evenly by strength, not by token; where that leaves an interval
        short, the strongest examples in it fill it up.
        """
        self._check(feature)
        if n < 1 or per < 0:
            raise FeatureIndexError(f"expected n >= 1 intervals of per >= 0 examples, got n={n}, per={per}")
        if self.dead[feature]:
            return []
        edges = np.linspace(0, float(self.max[feature]), n + 1)
        if self.bounded:
            found = self._read.interval_examples(feature, edges[-1], n, per)
            shares = self._shares(feature, edges)
        else:
            events = self._read.events(feature)
            which = interval_of(events.value, edges[-1], n)
            found = {i: [] for i in range(n)}
            for row in first_of_each(per, priority(events.place), events.place, group=(which,)):
                found[int(which[row])] += self._read.event_examples(events, np.array([row]))
            shares = np.bincount(which, minlength=n) / len(which)
        return [
            Interval(float(edges[i]), float(edges[i + 1]), float(shares[i]), self._examples(feature, found[i]))
            for i in reversed(range(n))
        ]

    def histogram(self, feature: int) -> Histogram:
        """Return how often the feature is active how strongly: 33 to 64 linear bins up to just above its maximum."""
        self._check(feature)
        counts = np.asarray(self._arrays["histogram"][feature])
        top = 2.0 ** int(self._arrays["range_exponent"][feature])
        used = max(int(np.ceil(float(self.max[feature]) / top * BINS)), 1)
        return Histogram(np.arange(used + 1) * top / BINS, counts[:used].astype(np.int64))

    def neighbours(self, feature: int, by: str = "decoder", k: int = 10) -> list[Neighbour]:
        """Return the closest features: ``by="decoder"`` by cosine of decoder rows, ``"coactivation"`` by Jaccard
        overlap of active tokens (all tokens of a full index; the ``coactivation_tokens`` of a bounded one).

        A feature that is not active on those tokens has no co-activation neighbours.
        """
        self._check(feature)
        if by == "decoder":
            (ids,), (scores,) = text_side.cosine(self._arrays, np.array([feature]))
        elif by == "coactivation":
            ids, scores = text_side.coactivation(self._arrays, feature, self.d_sae, self.bounded)
        else:
            raise FeatureIndexError(f"by must be 'decoder' or 'coactivation', not {by!r}")
        pairs = [(int(i), float(s)) for i, s in zip(ids, scores, strict=True) if i != feature and s > 0]
        return [Neighbour(i, s) for i, s in pairs[:k]]

    @property
    def coactivation_tokens(self) -> int:
        """Tokens on which co-activation was counted."""
        if not self.bounded:
            return self.n_tokens
        return self.manifest.get("coactivation_tokens") or len(self._arrays["sample_place"])

    def logits(self, feature: int, k: int = 10) -> Logits:
        """Return the tokens whose logits the feature raises and lowers most (at most 10 each)."""
        self._check(feature)
        sides = []
        for side in ("promoted", "suppressed"):
            ids = self._arrays[f"{side}_ids"][feature][:k]
            values = self._arrays[f"{side}_logits"][feature][:k]
            sides.append([(int(i), self._read.text(i), float(v)) for i, v in zip(ids, values, strict=True)])
        return Logits(*sides)

    def search(self, token: str | None = None, text: str | None = None, *, k: int = 50) -> list[Hit]:
        """Find features by the token their examples peak on, or by text in their examples' contexts.

        Case and outer whitespace do not matter. The score is the share of a feature's activation, over its strongest
        examples, that fits.
        """
        if (token is None) == (text is None):
            raise FeatureIndexError("pass either token= or text=, not both")
        return text_side.search(self, token, text, k)

    def activations(self, model: "SAETransformerBridge", sae: "SAE[Any]", text: str, feature: int) -> PromptActivations:
        """Return one feature on every token of a text of your own."""
        self._check(feature)
        return self.read_prompt(model, sae, text).activations(feature)

    def by_prompt(self, model: "SAETransformerBridge", sae: "SAE[Any]", text: str, k: int = 10) -> PromptFeatures:
        """Return the k strongest features at every token of a text of your own."""
        return self.read_prompt(model, sae, text).strongest(k)

    def read_prompt(self, model: "SAETransformerBridge", sae: "SAE[Any]", text: str) -> PromptReading:
        """Return what `activations` and `by_prompt` are slices of, for more than one question about the same text."""
        return text_side.read_prompt(self, model, sae, text)

    def corpus(self, rows: slice = slice(None)) -> Tokens:
        """Return the indexed text as `Tokens`, to index again with another dictionary. Each row is one document."""
        ids = np.asarray(self._arrays["tokens"][rows]).astype(np.int32)
        numbers = np.asarray(self._arrays["sequence_ids"][rows])
        document = np.repeat(numbers[:, None], ids.shape[1], 1).astype(np.int32)
        if self.manifest["bos_first"]:
            document[ids == ids[0, 0]] = -1
        about = self.manifest
        return Tokens(ids, document, numbers, about["corpus"], tuple(about["sources"]), about["split"])

    def __repr__(self) -> str:
        left_out = ", ".join(f"{n:,} {reason}" for reason, n in self.excluded.items())
        return (
            f"FeatureIndex({self.d_sae:,} features, {int(self.dead.sum()):,} dead, of {self.hook_name} of "
            f"{self.model_name}; {self.n_tokens:,} tokens, L0 {self.l0:.1f}; left out: {left_out})"
        )

    def _check(self, feature: int) -> None:
        if isinstance(feature, bool) or not isinstance(feature, int | np.integer):
            raise FeatureIndexError(f"a feature is a whole number, not {feature!r}")
        if not 0 <= feature < self.d_sae:
            raise FeatureIndexError(f"feature must be 0 to {self.d_sae - 1}, not {feature}")

    def _examples(self, feature: int, items: list[Example]) -> Examples:
        return Examples(int(feature), tuple(items), self.n_tokens, bool(self.dead[feature]))

    def _shares(self, feature: int, edges: np.ndarray) -> np.ndarray:
        """Read interval shares off the histogram: exact up to the bin that an edge cuts, which is split evenly."""
        histogram = self.histogram(feature)
        below = np.concatenate([[0], np.cumsum(histogram.counts)]) / histogram.counts.sum()
        return np.diff(np.interp(edges, np.minimum(histogram.edges, edges[-1]), below))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformer-lens", "sae-lens")}
