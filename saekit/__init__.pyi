"""The public names of saekit, each with its home: read by editors, by the type checker and, on first use, by Python."""

from . import (
    attribution as attribution,
    circuits as circuits,
    data as data,
    doctor as doctor,
    errors as errors,
    evaluation as evaluation,
    exercises as exercises,
    fetch as fetch,
    functional as functional,
    index as index,
    models as models,
    probes as probes,
    saes as saes,
    steering as steering,
    superposition as superposition,
    training as training,
    views as views,
    vision as vision,
)
from .attribution import (
    activation_patching as activation_patching,
    attribution_patching as attribution_patching,
    direct_logit_attribution as direct_logit_attribution,
    logit_attribution_by_component as logit_attribution_by_component,
    logit_lens as logit_lens,
    predictions as predictions,
)
from .circuits import (
    agreement_task as agreement_task,
    circuit_edges as circuit_edges,
    faithfulness as faithfulness,
    feature_circuit as feature_circuit,
    ioi_task as ioi_task,
    localise as localise,
    minimality as minimality,
    patch_residual as patch_residual,
    task_from_pairs as task_from_pairs,
    task_performance as task_performance,
)
from .data import (
    Tokens as Tokens,
    list_corpora as list_corpora,
    list_labelled as list_labelled,
    load_corpus as load_corpus,
    load_labelled as load_labelled,
    load_parallel as load_parallel,
    tokens_from_ids as tokens_from_ids,
    tokens_from_texts as tokens_from_texts,
)
from .doctor import (
    check as check,
)
from .errors import (
    ChecksumError as ChecksumError,
    DataError as DataError,
    FeatureIndexError as FeatureIndexError,
    ModelError as ModelError,
    OfflineError as OfflineError,
    ProbeError as ProbeError,
    SAEError as SAEError,
    SaekitError as SaekitError,
    SteeringError as SteeringError,
    Stopped as Stopped,
    TaskError as TaskError,
    ToyModelError as ToyModelError,
    VisionError as VisionError,
)
from .evaluation import (
    compare_dictionaries as compare_dictionaries,
    evaluate as evaluate,
    evaluate_many as evaluate_many,
    mmcs as mmcs,
    published_gate as published_gate,
)
from .index import (
    FeatureIndex as FeatureIndex,
)
from .models import (
    load_model as load_model,
    shuffled_model as shuffled_model,
)
from .probes import (
    extract_features as extract_features,
    probe as probe,
)
from .saes import (
    baseline_sae as baseline_sae,
    list_saes as list_saes,
    load_sae as load_sae,
    neuron_directions as neuron_directions,
    principal_directions as principal_directions,
    random_directions as random_directions,
    sae_card as sae_card,
    sae_from_dictionary_learning as sae_from_dictionary_learning,
    sae_from_sparsify as sae_from_sparsify,
    save_sae as save_sae,
)
from .steering import (
    Intervention as Intervention,
    difference_of_means as difference_of_means,
    generate as generate,
    generate_stream as generate_stream,
    side_effects as side_effects,
    steering_sweep as steering_sweep,
)
from .training import (
    Activations as Activations,
    Sweep as Sweep,
    TrainConfig as TrainConfig,
    harvest as harvest,
    harvest_many as harvest_many,
    stream_activations as stream_activations,
    train_sae as train_sae,
    train_sweep as train_sweep,
)
from .views.circuit import (
    Circuit as Circuit,
)
from .views.image_activations import (
    ImageActivations as ImageActivations,
)
from .views.logit_attribution import (
    LogitAttribution as LogitAttribution,
)
from .views.probes import (
    Probes as Probes,
)
from .views.steering import (
    Steering as Steering,
)
from .views.top_activations import (
    TopActivations as TopActivations,
)
from .views.training import (
    Training as Training,
)

__version__: str
__all__: list[str]
