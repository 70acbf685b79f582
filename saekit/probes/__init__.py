"""Features as classifiers: from texts to a verdict, with the baselines that a verdict needs.

    features = extract_features(model, sae, load_labelled("sms-spam").sample(1000))
    found = probe(features)
    compare(found, baselines(features)).verdict

The framework is that of Gallifant et al. 2025 (arXiv 2502.11367); the rules are stricter: whatever is fitted is
fitted on training texts alone, settings are chosen by the figure that is reported, duplicates never part, every
figure has an interval, and nothing depends on the order of the texts.
"""

from saekit.probes.cell import (
    cell_figures,
    check_grid,
    contribution_words,
    fit_cell,
    number_of,
    probabilities,
    training_part,
)
from saekit.probes.classifiers import fit
from saekit.probes.curves import Curve, curve, load_curve
from saekit.probes.extract import extract_features, named_saes
from saekit.probes.features import Hook, SAEFeatures, TextFeatures, as_extracted, subset
from saekit.probes.grid_result import Cell, Grid, load_grid
from saekit.probes.pooling import fit_binariser, pool
from saekit.probes.probing import baselines, compare, probe, probe_columns
from saekit.probes.questions import Answers, Question, answer_questions, beside_features, cloze, word_frequency
from saekit.probes.reading import (
    Classified,
    Context,
    Weight,
    classify,
    contexts,
    predict,
    top_features,
    top_words,
    tree_text,
)
from saekit.probes.result import ProbeResult, ProbeTable, load_probe
from saekit.probes.score import Comparison, Estimate, Scores, confusion_of
from saekit.probes.search import grid, grid_axes
from saekit.probes.split import Duplicates, Folds, check_labels, find_duplicates, in_both, make_folds
from saekit.probes.store import read_result, write_plain
from saekit.probes.transfers import Transfer, load_transfer, transfer

__all__ = [
    "Answers",
    "Cell",
    "Classified",
    "Comparison",
    "Context",
    "Curve",
    "Duplicates",
    "Estimate",
    "Folds",
    "Grid",
    "Hook",
    "ProbeResult",
    "ProbeTable",
    "Question",
    "SAEFeatures",
    "Scores",
    "TextFeatures",
    "Transfer",
    "Weight",
    "answer_questions",
    "as_extracted",
    "baselines",
    "beside_features",
    "cell_figures",
    "check_grid",
    "check_labels",
    "classify",
    "cloze",
    "compare",
    "confusion_of",
    "contexts",
    "contribution_words",
    "curve",
    "extract_features",
    "find_duplicates",
    "fit",
    "fit_binariser",
    "fit_cell",
    "grid",
    "grid_axes",
    "in_both",
    "load_curve",
    "load_grid",
    "load_probe",
    "load_transfer",
    "make_folds",
    "named_saes",
    "number_of",
    "pool",
    "predict",
    "probabilities",
    "probe",
    "probe_columns",
    "read_result",
    "subset",
    "top_features",
    "top_words",
    "training_part",
    "transfer",
    "tree_text",
    "word_frequency",
    "write_plain",
]
