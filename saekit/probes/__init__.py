"""Features as classifiers: from texts to a verdict, with the baselines that a verdict needs.

    features = extract_features(model, sae, load_labelled("sms-spam").sample(1000))
    spam = probe(features)
    compare(spam, baselines(features)).verdict

The framework is that of Gallifant et al. 2025 (arXiv 2502.11367); the rules are stricter: whatever is fitted is
fitted on training texts alone, settings are chosen by the figure that is reported, duplicates never part, every
figure has an interval, and nothing depends on the order of the texts.

To read in this order: `features` and `extract` (what is kept of texts), `alignment` (does an SAE read its own layer),
`choices`, `pooling` and `classifiers` (what can be chosen), `score` and `validation` (how it is judged), `recipes`
(what a probe can read), `result` and `probing` (one probe), `grid_result` and `search` (many), `curves` and
`transfers` (fewer labels, other texts), `reading` (what a probe has learned), `questions` (will an answer be right).
"""

from saekit.probes.alignment import hook_alignment, warn_if_misaligned
from saekit.probes.classifiers import (
    CLASSIFIERS,
    Classifier,
    Fitted,
    SparseLogistic,
    best_columns,
    fit,
    mean_differences,
)
from saekit.probes.curves import Curve, curve, training_texts
from saekit.probes.extract import Column, encode_texts, extract_features, named_saes, text_order
from saekit.probes.features import Hook, SAEFeatures, TextFeatures, as_extracted, check_made_with, subset
from saekit.probes.grid_result import Cell, Grid, Round, cell_figures, check_grid, fit_cell, number_of, training_part
from saekit.probes.pooling import (
    BINARISINGS,
    POOLINGS,
    Binarising,
    FirstK,
    Pooling,
    Quantile,
    Threshold,
    TopN,
    binarised,
    learn_thresholds,
    pool,
)
from saekit.probes.probing import baselines, compare, probe, probe_columns
from saekit.probes.questions import Answers, Question, answer_questions, beside_features, cloze, word_frequency
from saekit.probes.reading import (
    Classified,
    Context,
    Weight,
    classify,
    contexts,
    contribution_words,
    inputs_of,
    predict,
    probabilities,
    top_features,
    top_words,
    tree_text,
)
from saekit.probes.recipes import HiddenPCA, Settings, baseline_recipe, sae_recipe
from saekit.probes.result import ProbeResult, ProbeTable, Saved
from saekit.probes.score import (
    Comparison,
    Estimate,
    Scores,
    auroc_resampled,
    compare_predictions,
    confusion_of,
    estimate,
    f1_of,
    f1_resampled,
    resamples,
    score,
    verdict_of,
)
from saekit.probes.search import grid, grid_axes
from saekit.probes.transfers import Transfer, join, transfer
from saekit.probes.validation import (
    Duplicates,
    Folds,
    Recipe,
    check_labels,
    deal_rest,
    find_duplicates,
    in_both,
    make_folds,
    nested,
    validate,
)

__all__ = [
    "BINARISINGS",
    "CLASSIFIERS",
    "POOLINGS",
    "Answers",
    "Binarising",
    "Cell",
    "Classified",
    "Classifier",
    "Column",
    "Comparison",
    "Context",
    "Curve",
    "Duplicates",
    "Estimate",
    "FirstK",
    "Fitted",
    "Folds",
    "Grid",
    "HiddenPCA",
    "Hook",
    "Pooling",
    "ProbeResult",
    "ProbeTable",
    "Quantile",
    "Question",
    "Recipe",
    "Round",
    "SAEFeatures",
    "Saved",
    "Scores",
    "Settings",
    "SparseLogistic",
    "TextFeatures",
    "Threshold",
    "TopN",
    "Transfer",
    "Weight",
    "answer_questions",
    "as_extracted",
    "auroc_resampled",
    "baseline_recipe",
    "baselines",
    "beside_features",
    "best_columns",
    "binarised",
    "cell_figures",
    "check_grid",
    "check_labels",
    "check_made_with",
    "classify",
    "cloze",
    "compare",
    "compare_predictions",
    "confusion_of",
    "contexts",
    "contribution_words",
    "curve",
    "deal_rest",
    "encode_texts",
    "estimate",
    "extract_features",
    "f1_of",
    "f1_resampled",
    "find_duplicates",
    "fit",
    "fit_cell",
    "grid",
    "grid_axes",
    "hook_alignment",
    "in_both",
    "inputs_of",
    "join",
    "learn_thresholds",
    "make_folds",
    "mean_differences",
    "named_saes",
    "nested",
    "number_of",
    "pool",
    "predict",
    "probabilities",
    "probe",
    "probe_columns",
    "resamples",
    "sae_recipe",
    "score",
    "subset",
    "text_order",
    "top_features",
    "top_words",
    "training_part",
    "training_texts",
    "transfer",
    "tree_text",
    "validate",
    "verdict_of",
    "warn_if_misaligned",
    "word_frequency",
]
