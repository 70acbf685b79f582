"""The feature index: an inverted index from features to the tokens that activate them.

One pass of the model fills it; every view, search and statistic afterwards is a slice of it, in milliseconds and
without the model. A full index keeps every event. A bounded one (``examples_per_feature=``) keeps the strongest
examples and a sample of the rest, so that neither memory nor disk grows with the corpus: the bundled indexes are of
this kind.

Files, in the order of import:

- ``identity``: of which model and SAE an index is
- ``collect``: what one pass keeps: statistics, the best few of each of many groups, who fires with whom
- ``read``: from the arrays of an opened index to examples, intervals, histograms
- ``build``: the pass: from batches to events, counted in and checkpointed
- ``search``: neighbours, logits, search, prompts
- ``merge``: what lies on disk; several indexes as one
- ``feature_index``: `FeatureIndex`, the door to all of it
"""

from saekit.index.build import batch_events
from saekit.index.feature_index import FeatureIndex
from saekit.index.identity import check_belongs
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
)

__all__ = [
    "Example",
    "Examples",
    "FeatureIndex",
    "Histogram",
    "Hit",
    "Interval",
    "Logits",
    "Neighbour",
    "PromptActivations",
    "PromptFeatures",
    "PromptReading",
    "batch_events",
    "check_belongs",
]
