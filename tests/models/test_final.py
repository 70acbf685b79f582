"""The output side of a model: norm and unembedding give the model's own logits."""

import torch

from saekit.models import final_norm, hidden_states, load_model, unembedding


def test_final_norm_of_a_state_gives_the_models_logits_up_to_its_scale(model):
    """Independent: the model's own norm and unembedding on a whole residual."""
    ids = torch.tensor([[0, 7, 9, 30]])
    state = hidden_states(model, ids, "blocks.2.hook_resid_post")[0, -1]
    scale = (state.square().mean() + model.cfg.eps).sqrt()
    logits = final_norm(model, state) / scale @ unembedding(model)
    torch.testing.assert_close(logits, model(ids)[0, -1], atol=1e-4, rtol=1e-4)


def test_final_norm_centres_for_a_model_with_layer_norm(tmp_path, model_folder):
    """A random GPT-2: its bias is a constant over features, so it is added back here."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    sizes = {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=1, initializer_range=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = GPT2LMHeadModel(config).eval()
        torch.nn.init.normal_(reference.transformer.ln_f.weight, 1, 0.3)
        torch.nn.init.normal_(reference.transformer.ln_f.bias, 0, 0.3)
    reference.save_pretrained(tmp_path)
    gpt2 = load_model(tmp_path)
    ids = torch.tensor([[0, 7, 9, 30]])
    with torch.no_grad():
        want = reference(ids).logits[0, -1]
    torch.testing.assert_close(gpt2(ids)[0, -1], want, atol=1e-4, rtol=1e-4)
    state = hidden_states(gpt2, ids, "blocks.1.hook_resid_post")[0, -1]
    scale = (state.var(correction=0) + config.layer_norm_epsilon).sqrt()
    logits = (final_norm(gpt2, state) / scale + gpt2.ln_final.bias) @ unembedding(gpt2)
    torch.testing.assert_close(logits, want, atol=1e-4, rtol=1e-4)
