"""A language model with random weights and a byte-level tokenizer, small enough to run a thousand times a second.

It is saved in transformers' format and loaded like any local model, so tests walk the real path.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saekit.data import Tokens

TEXT = (
    "The cat sat on the mat. A dog, 3 birds and the cafe owner (née Müller) watched: “Good morning!” "
    "In 1984 the 戦場 film was shown in Paris 😀; مرحبا, she said. "
) * 20
PAIRS = [  # for a task: clean prompt, corrupted prompt, answer, foil
    ("The cat sat on the mat", "The dog sat on the mat", "c", "d"),
    ("A dog sat", "A cat sat", "t", "s"),
    ("The cat and the mat", "The dog and the mat", "a", "s"),
]


def write_tokenizer(
    folder: Path, *, d_vocab: int = 400, bos: str | None = "<s>", eos: str | None = "</s>", texts: str = TEXT
) -> Path:
    """Write a byte-level BPE tokenizer; its special tokens come first, ``bos=None``: it has none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=list(dict.fromkeys(token for token in (bos, eos) if token)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([texts], trainer)
    special = {name: token for name, token in (("bos_token", bos), ("eos_token", eos)) if token}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def own_config(architecture: str = "llama", *, d_model: int = 32, n_layers: int = 3, d_vocab: int = 400, n_ctx=256):
    """Return transformers' configuration of a small model: llama, qwen2, olmo2, gpt2, gpt_neox or bloom."""
    from transformers import AutoConfig

    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    if architecture == "gpt2":
        return AutoConfig.for_model(
            "gpt2", vocab_size=d_vocab, n_embd=d_model, n_layer=n_layers, n_head=4, n_positions=n_ctx, **ends
        )
    if architecture == "bloom":
        return AutoConfig.for_model(
            "bloom", vocab_size=d_vocab, hidden_size=d_model, n_layer=n_layers, n_head=4, **ends
        )
    sizes = {"hidden_size": d_model, "intermediate_size": 2 * d_model, "num_hidden_layers": n_layers}
    heads = {} if architecture == "gpt_neox" else {"num_key_value_heads": 2, "tie_word_embeddings": True}
    return AutoConfig.for_model(
        architecture,
        vocab_size=d_vocab,
        num_attention_heads=4,
        max_position_embeddings=n_ctx,
        initializer_range=0.3,
        **sizes,
        **heads,
        **ends,
    )


def write_own(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    bos: str | None = "<s>",
    trained: bool = False,
    settings: Mapping[str, Any] | None = None,
    **sizes,
) -> Path:
    """Write a random model of an architecture with a tokenizer beside it.

    Args:
        folder: Folder to write.
        architecture: Name for `own_config`.
        seed: Seed of the weights.
        bos: BOS token; None: the tokenizer has none.
        trained: Whether norms have weights and biases other than 1 and 0, and attention is sharp, as after training.
        settings: Further fields of transformers' configuration.
        **sizes: Sizes for `own_config`.
    """
    from transformers import AutoModelForCausalLM

    config = own_config(architecture, **sizes)
    config.update(dict(settings or {}))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters() if trained else ():
            if weight.ndim == 1:
                weight.data += 0.3 * torch.randn_like(weight)
            else:
                weight.data *= 0.2 / weight.std()
        model.save_pretrained(folder)
    return write_tokenizer(folder, d_vocab=config.vocab_size, bos=bos)


def write_model(folder: Path, *, d_model: int = 32, n_layers: int = 3, d_vocab: int = 400, seed: int = 0) -> Path:
    """Write a random Llama with a tokenizer trained on `TEXT`; BOS is <s>."""
    return write_own(folder, seed=seed, d_model=d_model, n_layers=n_layers, d_vocab=d_vocab)


def own_sae(architecture: str, d_in: int, d_sae: int, *, hook_name: str = "blocks.1.hook_resid_post", seed=0, **fields):
    """Return a random SAE of one of sae-lens's inference architectures: standard, topk, jumprelu, gated...

    Args:
        architecture: Name in sae-lens's registry.
        d_in: Width of the hook point.
        d_sae: Number of features.
        hook_name: Hook point.
        seed: Seed of the weights.
        **fields: Fields of the configuration, or of its metadata.
    """
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    kind, configuration = get_sae_class(architecture)
    own = {name: fields.pop(name) for name in list(fields) if name in configuration.__dataclass_fields__}
    metadata = SAEMetadata(**{"model_name": "tiny", "hook_name": hook_name, "prepend_bos": True, **fields})
    sae = kind(configuration(d_in=d_in, d_sae=d_sae, metadata=metadata, **own))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            scale = 0.1 if parameter.ndim == 1 else 1 / d_in**0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.abs_()
            parameter.requires_grad_(False)
    return sae.eval()


def topk_sae(d_in: int, d_sae: int, *, k: int = 8, hook_name: str = "blocks.1.hook_resid_post", seed: int = 0):
    """Return a random TopK SAE whose last feature can never win: it is dead."""
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(model_name="tiny", hook_name=hook_name, prepend_bos=True)
    sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, apply_b_dec_to_input=True, metadata=metadata))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        sae.b_enc.zero_()
        sae.b_enc[-1] = -1e4
        sae.b_dec.zero_()
    for parameter in sae.parameters():
        parameter.requires_grad_(False)
    return sae.eval()


def random_tokens(rows: int, pos: int, d_vocab: int, *, seed: int = 0) -> Tokens:
    """Return rows of random ids after BOS; a second document begins in the middle of every third row."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(2, d_vocab, (rows, pos)).astype(np.int32)
    document = np.repeat(np.arange(rows, dtype=np.int32)[:, None] * 2, pos, 1)
    ids[:, 0], document[:, 0] = 0, -1
    ids[::3, pos // 2], document[::3, pos // 2] = 0, -1
    document[::3, pos // 2 + 1 :] += 1
    return Tokens(ids, document, np.arange(rows, dtype=np.int64), name="random")
