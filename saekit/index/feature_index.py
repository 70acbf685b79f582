"""The feature index: an inverted index from features to the tokens that activate them.

One pass of the model fills it; every view, search and statistic afterwards is a slice of it, in milliseconds and
without the model. A full index keeps every event. A bounded one (``examples_per_feature=``) keeps the strongest
examples and a sample of the rest, so that neither memory nor disk grows with the corpus: the bundled indexes are of
this kind.
"""

import json
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit._base.checks import one_of, whole
from saekit._base.files import publish
from saekit._base.locks import locked
from saekit._base.progress import Progress, Stop
from saekit.data import Tokens
from saekit.errors import FeatureIndexError
from saekit.index import merge as merging, search as text_side
from saekit.index.identity import check_belongs, made_with
from saekit.index.merge import INDEX
from saekit.index.read import (
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
    Reader,
)
from saekit.models import model_identity
from saekit.saes import ASSETS, DEFAULT, bundled, check_pair, sae_hook, sae_identity

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

STORED_EXAMPLES = 20  # per feature, in a full index: what search looks at; `top` reads every event


class FeatureIndex:
    """Features of one SAE on one corpus. Make one with `build`, `load` or `merge`.

    Attributes:
        path: Folder that it lies in.
        manifest: Everything that identifies the index: model, SAE, hashes of the tokens, versions, counts.
        d_sae: Number of features.
        n_tokens: Number of tokens that were counted.
        excluded: Number of tokens left out of all this, by reason.
        bounded: Whether it holds the strongest examples and a sample of the rest, not every event.
        hook_name: Hook point of the SAE.
        model_name: Name of the model.
        model_identity: What decides the numbers of the model; without facts in an index of an earlier saekit.
        sae_identity: What decides those of the SAE: weights and settings.
        count: Number of tokens on which each feature is active ``[d_sae]``.
        density: Share of counted tokens on which each feature is active ``[d_sae]``.
        max: Largest activation of each ``[d_sae]``.
        mean_active: Mean activation of each where it is active ``[d_sae]``; 0 for a dead feature.
        dead: Whether a feature is active on none of the tokens ``[d_sae]``.
        l0: Mean number of active features per token.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.path, self.manifest = path, dict(manifest)
        self.d_sae: int = manifest["d_sae"]
        self.n_tokens: int = manifest["counted"]
        self.excluded: dict[str, int] = dict(manifest["excluded"])
        self.bounded: bool = manifest["kind"] == "bounded"
        self.hook_name: str = manifest["hook_name"]
        self.model_name: str = manifest["model_name"]
        self.model_identity, self.sae_identity = made_with(manifest)
        self._read_with: weakref.WeakKeyDictionary[Any, weakref.WeakSet] = weakref.WeakKeyDictionary()
        self.count, self.max = arrays["count"], arrays["max"]
        self.density = self.count / max(self.n_tokens, 1)
        self.mean_active = arrays["sum"] / np.maximum(self.count, 1)
        self.dead = self.count == 0
        self.l0 = float(self.count.sum() / max(self.n_tokens, 1))
        self._read = Reader(self.manifest, arrays)

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
        progress: Progress = True,
        stop: Stop = None,
    ) -> "FeatureIndex":
        """Run a corpus through model and SAE once and index every active feature.

        Interrupted, the work so far stays in ``<path>.partial``; the same call goes on from there and ends with the
        same index. ``path`` itself appears only when it is complete. Of several processes that build at one path, one
        does and the others wait; if theirs is the same index, they open that.

        Args:
            model: The language model; layers above the SAE's do not run.
            sae: The SAE.
            tokens: The corpus.
            path: Folder to write; None for a temporary one that goes when the object goes. If it holds the result of
                this very call already, that is opened.
            examples_per_feature: None for a full index: 8 to 16 bytes per event, on disk. A number for a bounded one
                that keeps so many of the strongest examples, one per sequence, and 4 from each 16th of the range.
            window: Number of tokens of context that an example carries, two thirds of them before the peak.
            batch_size: Number of sequences in a forward pass.
            progress: Show a progress bar; or a function that is given (done, total) after each part.
            stop: Function that is asked between parts; once it returns True, `saekit.errors.Stopped` is raised.

        Raises:
            FeatureIndexError: Nothing to index; ``path`` holds something else, or the disk is full; or what lies at
                ``<path>.partial`` is the unfinished index of another model, SAE or corpus.
            SAEError, ModelError: Model and SAE do not fit.
        """
        check_pair(model, sae, row_length=tokens.ids.shape[1])
        tokens = merging.in_order(tokens)
        if examples_per_feature is not None:
            whole("examples_per_feature", examples_per_feature, at_least=1, error=FeatureIndexError)
        for name, value in (("window", window), ("batch_size", batch_size)):
            whole(name, value, at_least=1, error=FeatureIndexError)
        identity = {
            "kind": "full" if examples_per_feature is None else "bounded",
            "d_sae": sae.cfg.d_sae,
            "hook_name": sae_hook(sae),
            "sae": sae_identity(sae).facts,
            "model": model_identity(model).facts,
            "tokens_hash": merging.corpus_hash(tokens.ids, tokens.sequence_ids),
            "documents_hash": merging.corpus_hash(tokens.document, tokens.sequence_ids),
            "examples": examples_per_feature or STORED_EXAMPLES,
            "window": window,
        }
        settings = {"batch_size": batch_size, "progress": progress, "stop": stop}
        with merging.place(path) as (target, owner), locked(target, error=FeatureIndexError, stop=stop):
            if INDEX.holds(target, identity) and not (index := cls._open(target))._read.compacted:
                return index
            partial = merging.unfinished(target)
            if not INDEX.holds(partial, identity):
                merging.fill(partial, model, sae, tokens, identity, **settings)
            publish(partial, target)
            return cls._open(target, owner)

    @classmethod
    def merge(
        cls,
        indexes: "Sequence[FeatureIndex]",
        *,
        path: Path | str | None = None,
        progress: Progress = False,
        stop: Stop = None,
    ) -> "FeatureIndex":
        """Join indexes of disjoint parts of a corpus, in any order: the result equals one build over all of it.

        Args:
            indexes: The indexes.
            path: Folder to write; None for a temporary one that goes when the object goes.
            progress: Show a progress bar; or a function that is given (done, total) after each part.
            stop: Function that is asked between parts; once it returns True, `saekit.errors.Stopped` is raised.

        Raises:
            FeatureIndexError: They overlap, or are of different SAEs or settings; or ``path`` holds something else.
        """
        parts = merging.check([index._read for index in indexes])
        with merging.place(path) as (target, owner):
            with INDEX.new(target) as out:
                merging.join(parts, out, progress, stop)
            return cls._open(target, owner)

    def compacted(
        self,
        path: Path | str | None = None,
        *,
        intervals: int = 5,
        per: int = 4,
        progress: Progress = False,
        stop: Stop = None,
    ) -> "FeatureIndex":
        """Return a bounded index without what only `merge` needs: about half the size, and it cannot be merged.

        Args:
            path: Folder to write; None for a temporary one that goes when the object goes.
            intervals: Number of intervals for which ``intervals(feature)`` answers as before.
            per: Number of examples for which it does.
            progress: Show a progress bar; or a function that is given (done, total) after each part.
            stop: Function that is asked between parts; once it returns True, `saekit.errors.Stopped` is raised.

        Raises:
            FeatureIndexError: This index is a full one; or ``path`` holds something else.
        """
        with merging.place(path) as (target, owner):
            arrays = merging.compact_arrays(self._read, intervals, per, progress, stop)
            about = self.manifest | {"coactivation_tokens": self.coactivation_tokens}
            INDEX.save_folder(target, about, merging.packed(arrays))
            return self._open(target, owner)

    @classmethod
    def load(
        cls, path: Path | str | None = None, *, sae: "SAE[Any] | None" = None, verify: bool = True
    ) -> "FeatureIndex":
        """Open a saved index, or the one of a bundled SAE by its name; arrays stay on disk until they are read.

        Args:
            path: A folder, or a bundled SAE's name; default: the bundled index of ``sae``.
            sae: SAE whose index it must be; None for any.
            verify: Whether every array is compared with its checksum: about a second per gigabyte.

        Raises:
            FeatureIndexError: Absent, foreign, unfinished, truncated, altered, or of another SAE.
        """
        path = _bundled_with(sae) if path is None else path
        shipped = ASSETS / str(path) / "index"
        folder = shipped if isinstance(path, str) and shipped.is_dir() else Path(path).expanduser()
        partial = merging.unfinished(folder)
        if not folder.exists() and partial.is_dir():
            raise FeatureIndexError(
                f"there is no index at {folder} yet: {partial.name} beside it is an unfinished build"
                f"{merging.how_far(partial)}. Call build again with the same arguments to go on"
            )
        index = cls._open(folder, verify=verify)
        check_belongs(index, sae=sae)
        return index

    def save(self, path: Path | str) -> "FeatureIndex":
        """Write the index to a folder and return it as opened from there.

        Raises:
            FeatureIndexError: Something else is there, or the disk is full.
        """
        INDEX.save_folder(path, self.manifest, merging.packed(self._read.arrays))
        return self._open(Path(path).expanduser())

    @classmethod
    def _open(
        cls, path: Path, owner: "tempfile.TemporaryDirectory | None" = None, *, verify: bool = False
    ) -> "FeatureIndex":
        stored = INDEX.load(path, verify=verify)
        try:
            index = cls(path, stored.about, merging.unpacked(stored.arrays))
            if len(index.count) != index.d_sae:
                raise ValueError(f"{len(index.count)} counts of {index.d_sae} features")
        except (KeyError, ValueError) as problem:
            raise INDEX.damaged(path, f"its arrays do not belong together ({problem!r})") from problem
        if owner is not None:
            weakref.finalize(index, owner.cleanup)  # keeps the temporary folder as long as the index lives
        return index

    # --- ask it ------------------------------------------------------------------------------------------------

    def top(self, feature: int, k: int = 20, *, fold: bool = True) -> Examples:
        """Return the k strongest examples, one per sequence: value descending, then sequence id, then position.

        Args:
            feature: Number of the feature.
            k: Number of examples; a bounded index has at most ``examples_per_feature``.
            fold: Whether examples whose text around the peak (5 tokens before to 2 after) is the same are joined into
                one, and counted.
        """
        self._check(feature)
        items = self._read.top_examples(feature, k)
        return self._examples(feature, text_side.fold(items) if fold else items)

    def intervals(self, feature: int, n: int = 5, per: int = 4) -> list[Interval]:
        """Return the n equal-width intervals of (0, max], strongest first, with some examples of each.

        Which examples is decided by a hash of their place, so it is the same for every shard order. ``share`` comes
        from all events. A bounded index keeps 4 candidates in each of 16 equal bins up to the power of two above the
        maximum, so within an interval it samples evenly by strength, not by token; where that leaves an interval
        short, the strongest examples in it fill it up.

        Args:
            feature: Number of the feature; a dead one has no intervals.
            n: Number of intervals.
            per: Number of examples of each, at most.
        """
        self._check(feature)
        whole("n", n, at_least=1, error=FeatureIndexError)
        whole("per", per, at_least=0, error=FeatureIndexError)
        if self.dead[feature]:
            return []
        edges = np.linspace(0, float(self.max[feature]), n + 1)
        examples, shares = self._read.interval_examples(feature, edges, per)
        return [
            Interval(float(edges[i]), float(edges[i + 1]), float(shares[i]), self._examples(feature, examples[i]))
            for i in reversed(range(n))
        ]

    def histogram(self, feature: int) -> Histogram:
        """Return how often the feature is active how strongly: 33 to 64 linear bins up to just above its maximum."""
        self._check(feature)
        return self._read.histogram(feature)

    def neighbours(self, feature: int, by: str = "decoder", k: int = 10) -> list[Neighbour]:
        """Return the closest features, closest first.

        Args:
            feature: Number of the feature.
            by: ``"decoder"`` for the cosine of decoder rows; ``"coactivation"`` for the Jaccard overlap of the tokens
                on which both are active (`coactivation_tokens` of them are looked at): a feature that is active on
                none of these has no such neighbours.
            k: Number of neighbours, at most 10.
        """
        self._check(feature)
        if one_of("by", by, ("decoder", "coactivation"), error=FeatureIndexError) == "decoder":
            (ids,), (scores,) = text_side.cosine(self._read.arrays, np.array([feature]))
        else:
            ids, scores = text_side.coactivation(self._read, feature)
        pairs = [(int(i), float(s)) for i, s in zip(ids, scores, strict=True) if i != feature and s > 0]
        return [Neighbour(i, s) for i, s in pairs[:k]]

    @property
    def coactivation_tokens(self) -> int:
        """Number of tokens on which co-activation was counted: all of a full index, a sample in a bounded one."""
        if not self.bounded:
            return self.n_tokens
        return self.manifest.get("coactivation_tokens") or len(self._read.arrays["sample_place"])

    def logits(self, feature: int, k: int = 10) -> Logits:
        """Return the k tokens whose logits the feature raises and lowers most, at most 10 each."""
        self._check(feature)
        sides = []
        for side in ("promoted", "suppressed"):
            ids = self._read.arrays[f"{side}_ids"][feature][:k]
            values = self._read.arrays[f"{side}_logits"][feature][:k]
            sides.append([(int(i), self._read.text(i), float(v)) for i, v in zip(ids, values, strict=True)])
        return Logits(*sides)

    def search(self, token: str | None = None, text: str | None = None, *, k: int = 50) -> list[Hit]:
        """Find features by the token their examples peak on, or by text in their examples' contexts.

        Neither case nor outer whitespace matters, nor how accents are composed. Characters may be spread over
        tokens; a text is found within a row of the corpus and within a document. The score is the share of a feature's
        activation, over its strongest examples, that fits.

        Args:
            token: Token on which examples peak, or the character of which that is a piece.
            text: Text that stands in their contexts; give this or ``token``.
            k: Number of features, at most.

        Raises:
            FeatureIndexError: Both or neither is given, or what is no text.
        """
        if (token is None) == (text is None):
            raise FeatureIndexError("pass either token= or text=, not both")
        return text_side.search(self._read, token, text, k)

    def activations(self, model: "SAETransformerBridge", sae: "SAE[Any]", text: str, feature: int) -> PromptActivations:
        """Return one feature on every token of a text of your own."""
        self._check(feature)
        return self.read_prompt(model, sae, text).activations(feature)

    def by_prompt(self, model: "SAETransformerBridge", sae: "SAE[Any]", text: str, k: int = 10) -> PromptFeatures:
        """Return the k strongest features at every token of a text of your own."""
        return self.read_prompt(model, sae, text).strongest(k)

    def read_prompt(self, model: "SAETransformerBridge", sae: "SAE[Any]", text: str) -> PromptReading:
        """Return what `activations` and `by_prompt` are slices of, for more than one question about the same text.

        Args:
            model: The model that the index was built with; it and the SAE are compared when they first read a text.
            sae: The SAE that the index was built with.
            text: The text.

        Raises:
            FeatureIndexError: The model or the SAE is another; the message says what differs.
            ModelError: The text is empty, or the model has no tokenizer.
        """
        if sae not in self._read_with.setdefault(model, weakref.WeakSet()):
            check_belongs(self, model=model, sae=sae)
            self._read_with[model].add(sae)
        return text_side.read_prompt(self._read, model, sae, text)

    def corpus(self, rows: slice = slice(None)) -> Tokens:
        """Return the indexed text as `Tokens`, to index it again with another SAE.

        Of an index from before documents were stored, each row is one document.
        """
        ids = np.asarray(self._read.arrays["tokens"][rows]).astype(np.int32)
        numbers = np.asarray(self._read.arrays["sequence_ids"][rows])
        document, about = self._read.documents[0][rows], self.manifest
        return Tokens(ids, document, numbers, about["corpus"], tuple(about["sources"]), about["split"])

    def __repr__(self) -> str:
        left_out = ", ".join(f"{n:,} {reason}" for reason, n in self.excluded.items())
        return (
            f"FeatureIndex({self.d_sae:,} features, {int(self.dead.sum()):,} dead, of {self.hook_name} of "
            f"{self.model_name}; {self.n_tokens:,} tokens, L0 {self.l0:.1f}; left out: {left_out})"
        )

    def _check(self, feature: int) -> None:
        whole("feature", feature, at_least=0, at_most=self.d_sae - 1, error=FeatureIndexError)

    def _examples(self, feature: int, items: list[Example]) -> Examples:
        return Examples(int(feature), tuple(items), self.n_tokens, bool(self.dead[feature]))


def _bundled_with(sae: "SAE[Any] | None") -> str:
    """Return the name of the bundled SAE whose index this SAE has; if there is none, the default's."""
    wanted = None if sae is None else sae_identity(sae)
    for name in bundled():
        manifest = ASSETS / name / "index/manifest.json"
        if wanted and manifest.is_file():
            _, held = made_with(json.loads(manifest.read_text(encoding="utf-8")))
            if not held.difference(wanted):
                return name
    return DEFAULT
