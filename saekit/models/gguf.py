"""Models in one file, as local runners have them (GGUF): dequantised by transformers, with the same checks."""

import math
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from saekit.errors import ModelError
from saekit.models.tokenizer import own_tokenizer
from saekit.models.weights import loaded


def read_gguf(path: Path, *, name: str, dtype: torch.dtype) -> tuple[Any, Any, bool | None]:
    """Return the model and the tokenizer of a GGUF file, as transformers reads them, and what it says of BOS.

    Args:
        path: The file.
        name: Name of the model in messages.
        dtype: Type of the weights.

    Raises:
        ModelError: The file holds another number of layers than it says, or a part of the model would be random.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.gguf import GgufHeader, read_gguf_metadata

    metadata, names = read_gguf_metadata(str(path))
    _check_layers(name, metadata, names)
    header = GgufHeader.from_file(str(path))
    end = max((header.data_start + tensor.offset + tensor.nbytes for tensor in header.tensors), default=0)
    if path.stat().st_size < end:
        raise ModelError(
            f"{name} is cut off: it has {path.stat().st_size:,} bytes of {end:,}. Download or copy it again"
        )
    with _alone(path) as folder:
        file = {"gguf_file": path.name}
        tokenizer = own_tokenizer(str(folder), **file) if "tokenizer.ggml.tokens" in metadata else None
        settings = {"dtype": dtype, "attn_implementation": "eager"}  # what upstream asks of it, for attention hooks
        model = loaded(name, AutoModelForCausalLM, folder, **settings, **file)
    # transformers leaves out in silence what it has no place for, such as biases that the architecture lacks.
    held = sum(math.prod(tensor.shape) for tensor in header.tensors if not tensor.name.startswith("rope_"))
    used = sum(parameter.numel() for parameter in model.parameters())
    if held > used:
        raise ModelError(
            f"{name} holds {held:,} weights, of which transformers uses {used:,}: the model would be another than "
            f"the one in the file. Load it from its directory in transformers' format"
        )
    # Dequantised, but still treated as quantised by transformers unless told otherwise.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    return model, tokenizer, metadata.get("tokenizer.ggml.add_bos_token")


def check_gguf(path: Path) -> None:
    """Refuse a file that is not GGUF. Raises ModelError."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{path} is not a GGUF file: expected one, or a model directory in transformers' format")


def _check_layers(name: str, metadata: dict[str, Any], tensors: tuple[str, ...]) -> None:
    """Refuse a file with more layers than it says: transformers would leave them out in silence."""
    said = metadata.get(f"{metadata.get('general.architecture')}.block_count")
    held = 1 + max((int(found[1]) for key in tensors if (found := re.match(r"blk\.(\d+)\.", key))), default=-1)
    if said != held:
        raise ModelError(f"{name} says that it has {said} layers and holds {held}: was it converted to its end?")


@contextmanager
def _alone(path: Path) -> Generator[Path]:
    """Yield a folder in which nothing but the file is seen: transformers reads what stands beside it, too."""
    with tempfile.TemporaryDirectory(prefix="saekit-") as folder:
        (Path(folder) / path.name).symlink_to(path.resolve())
        yield Path(folder)
