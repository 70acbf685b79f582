"""The tokenizer as it is on disk, and whether texts of the model begin with BOS.

transformer-lens fills in what a tokenizer lacks: the end token becomes BOS, an unknown token becomes the end. Here the
tokenizer stays as its maker saved it; only padding, which upstream needs for batches, is filled in.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saekit.errors import ModelError

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_VOCABULARY = re.compile(r"tokenizer\.json|vocab.*|.*\.model|.*\.tiktoken|tekken.*|.*\.bpe|merges\.txt")


def own_tokenizer(source: str, **settings: Any) -> Any:
    """Return the tokenizer beside a model, None if there is none.

    Args:
        source: Model directory, or name on the hub.
        **settings: Further arguments of transformers, such as ``gguf_file``.

    Raises:
        ModelError: The files of the tokenizer in a directory cannot be read.
    """
    from transformers import AutoTokenizer

    folder = Path(source)
    if folder.is_dir() and not settings and not any(_VOCABULARY.fullmatch(path.name) for path in folder.iterdir()):
        return None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, **settings)
    except Exception as error:
        if not folder.is_dir():
            raise
        raise ModelError(
            f"the tokenizer in {source} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:300]}): "
            f"is it complete?"
        ) from error
    # Where it finds no vocabulary, transformers makes a tokenizer of special tokens alone.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) else None


def stand_in() -> Any:
    """Return a tokenizer of one token, for upstream to fill in where it would fill in the model's own."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")), unk_token="?")


def said_of_bos(source: str) -> bool | None:
    """Return whether a tokenizer's configuration says that BOS comes first, None if it does not say.

    transformers itself passes over this field where there is a ``tokenizer.json``.

    Args:
        source: Model directory, or name on the hub.
    """
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    return get_tokenizer_config(source).get("add_bos_token")


def attach(model: "SAETransformerBridge", tokenizer: Any, *, said: bool | None) -> None:
    """Give a model its tokenizer, as it is, and settle whether its texts begin with BOS.

    They do if the tokenizer has BOS and either itself puts it first, or its configuration says so, or, where that does
    not say, transformer-lens knows the architecture to be trained so (``cfg.default_prepend_bos``).

    Args:
        model: The model, loaded with `stand_in`.
        tokenizer: The tokenizer; None for a model without one.
        said: What the configuration says of it (`said_of_bos`).
    """
    from transformer_lens.model_bridge.sources import detect_tokenizer_bos_eos

    side = model.tokenizer.padding_side
    model.tokenizer = None  # upstream fills in a tokenizer that takes another's place
    if tokenizer is None:
        model.cfg.default_prepend_bos = False
        return
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = side
    puts_first, _ = detect_tokenizer_bos_eos(tokenizer)
    wanted = puts_first or (model.cfg.default_prepend_bos if said is None else said)
    model.cfg.default_prepend_bos = tokenizer.bos_token_id is not None and bool(wanted)
    if model.cfg.default_prepend_bos and not puts_first:
        tokenizer.add_bos_token = True  # as upstream sets it: calling the tokenizer gives what the model reads
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos, model.cfg.tokenizer_appends_eos = detect_tokenizer_bos_eos(tokenizer)
