"""A language model with random weights and a byte-level tokenizer, small enough to run a thousand times a second.

It is saved in transformers' format and loaded like any local model, so tests walk the real path.
"""

from pathlib import Path

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


def write_model(folder: Path, *, d_model: int = 32, n_layers: int = 3, d_vocab: int = 400, seed: int = 0) -> Path:
    """Write a random Llama with a tokenizer trained on `TEXT`; BOS is <s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=d_vocab, hidden_size=d_model, intermediate_size=2 * d_model, num_hidden_layers=n_layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


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
