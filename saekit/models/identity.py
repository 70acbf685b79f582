"""What decides the numbers of a model, and what decides those of its tokenizer."""

import json
import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor

from saekit._base.identity import Identity, short_hash
from saekit._base.weights import remembered, weights_hash
from saekit.models.prompts import bos_token_id, special_token_ids

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

# Names of transformers' and transformer-lens's configurations that say where a model comes from, how it is trained,
# what it gives besides, or what the tokenizer's facts say: none of them changes a state.
_NO_NUMBERS = frozenset(
    """
    _name_or_path architectures transformers_version dtype torch_dtype use_cache return_dict output_attentions
    output_hidden_states is_encoder_decoder chunk_size_feed_forward problem_type id2label label2id
    initializer_range bos_token_id eos_token_id pad_token_id task_specific_params model_name tokenizer_name
    device n_devices seed init_mode init_weights n_params
    """.split()
)
_VOCABULARIES: WeakKeyDictionary[Any, tuple[int, dict[str, Any]]] = WeakKeyDictionary()


def model_identity(model: "SAETransformerBridge") -> Identity:
    """Return everything that decides what a model computes: dtype, weights, configuration, tokenizer.

    Two copies with the same weights are the same, wherever they were loaded from; a model in another dtype is another.
    SmolLM2-135M takes some 0.2 seconds, and some milliseconds until one of its weights changes.
    """
    weights = _weights(model)
    facts = {
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "weights": remembered(model, weights, lambda: weights_hash(weights)),
        **_configuration(model),
        **{f"tokenizer {name}": value for name, value in tokenizer_identity(model).facts.items()},
    }
    return Identity("model", facts)


def other_than(held: Identity, given: Identity, what: str) -> list[str]:
    """Say in what a model differs from the one that something was made with; [] where it does not.

    Args:
        held: Identity of the model that it was made with.
        given: Identity of the model at hand.
        what: What was made with it, as a message begins: "the index".

    Warns:
        UserWarning: The two are of different dtypes, in which the same weights are other numbers: only the rest is
            compared.
    """
    words = held.difference(given)
    if not words or not words[0].startswith("dtype "):
        return words
    warnings.warn(
        f"{what} was made with the model in another dtype ({words[0]}): activations differ a little, and whether the "
        f"weights are the same cannot be told",
        stacklevel=3,
    )
    return [word for word in words if not word.startswith(("dtype ", "weights "))]


def tokenizer_identity(model: "SAETransformerBridge") -> Identity:
    """Return everything that decides which tokens a model reads of a text; of a model without a tokenizer nothing."""
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        return Identity("tokenizer", {"vocabulary": None})
    facts = {
        **_vocabulary(tokenizer),
        "BOS": tokenizer.bos_token,
        "EOS": tokenizer.eos_token,
        "padding": tokenizer.pad_token,
        "begins with": bos_token_id(model),
        "special tokens": short_hash(special_token_ids(model)),
    }
    return Identity("tokenizer", facts)


def _weights(model: "SAETransformerBridge") -> list[tuple[str, Tensor]]:
    """Return parameters and buffers by name, each once. PyTorch walks once for each kind, which takes twice as long."""
    found: dict[int, tuple[str, Tensor]] = {}
    original: Any = model.original_model  # by its names: the bridge's own may be others in its next version
    for path, part in original.named_modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            # What turns with a position follows from the configuration, and some models change it as they run.
            if tensor is not None and "inv_freq" not in name:
                found.setdefault(id(tensor), (f"{path}.{name}".replace("._original_component", ""), tensor))
    return list(found.values())


def _configuration(model: "SAETransformerBridge") -> dict[str, Any]:
    """Return what the architecture's configuration says of the computation, in transformers' words if it is theirs."""
    config: Any = getattr(model.original_model, "config", None)
    if config is None:  # a model of transformer-lens's own making: its configuration is all that there is
        said = {name: value for name, value in vars(model.cfg).items() if not name.startswith("_")}
    else:
        said = json.loads(config.to_json_string(use_diff=False))
    facts = {name: value for name, value in said.items() if name not in _NO_NUMBERS}
    return facts | {"compatibility mode": bool(getattr(model, "compatibility_mode", False))}


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    """Return how a tokenizer cuts a text; what is long is read once as long as no token is added."""
    known = _VOCABULARIES.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = _VOCABULARIES[tokenizer] = (len(tokenizer), _long(tokenizer))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return known[1]
    parts = {"normaliser": backend.normalizer, "pre-tokeniser": backend.pre_tokenizer}
    return known[1] | {name: part and json.loads(part.__getstate__()) for name, part in parts.items()}


def _long(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    added = [[i, str(token), repr(token)] for i, token in sorted(tokenizer.added_tokens_decoder.items())]
    facts = {"vocabulary": short_hash(sorted(tokenizer.get_vocab().items())), "added tokens": short_hash(added)}
    if backend is None:  # a tokenizer in Python: its class and its settings say how it cuts
        settings = {name: str(value) for name, value in tokenizer.init_kwargs.items() if "path" not in name}
        return facts | {"algorithm": type(tokenizer).__name__, "merges": short_hash(settings)}
    algorithm = json.loads(backend.to_str())["model"]
    algorithm.pop("vocab", None)
    merges = algorithm.pop("merges", None)
    return facts | {"merges": merges and short_hash(merges), "algorithm": algorithm}
