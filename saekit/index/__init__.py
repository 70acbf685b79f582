"""The feature index: an inverted index from features to the tokens that activate them.

One pass of the model fills it; every view, search and statistic afterwards is a slice of it, in milliseconds and
without the model. A full index keeps every event. A bounded one (``examples_per_feature=``) keeps the strongest
examples and a sample of the rest, so that neither memory nor disk grows with the corpus: the bundled indexes are of
this kind.
"""

from saekit.index.events import batch_events, sparse_form
from saekit.index.feature_index import STORED_EXAMPLES, FeatureIndex
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

__all__ = [
    "STORED_EXAMPLES",
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
    "sparse_form",
]
