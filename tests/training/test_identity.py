"""Harvests and checkpoints are taken up only by the model, the corpus and the settings that they are of."""

import json
from itertools import count

import numpy as np
import pytest
import torch

from saekit.errors import DataError, SAEError, Stopped
from saekit.models import load_model, shuffled_model
from saekit.training import Activations, harvest, stream_activations, train_sae, train_sweep
from tests import tiny

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def tokens():
    return tiny.random_tokens(24, 16, 400)


def loaded(folder, **options):
    model = load_model(folder, **options)
    model.cfg.model_name = "tiny"
    return model


def other_models(folder):
    normed, toned = loaded(folder), loaded(folder)
    with torch.no_grad():
        next(p for n, p in normed.named_parameters() if "norm" in n)[3] += 0.5
    toned.tokenizer.bos_token = "</s>"
    return {
        "model weights": shuffled_model(loaded(folder)),
        "model weights ": normed,
        "model dtype 'bfloat16' against 'float32'": loaded(folder, dtype=torch.bfloat16),
        "model tokenizer BOS '</s>' against '<s>'": toned,
    }


def test_a_harvest_is_not_taken_for_that_of_another_model(model_folder, tokens, tmp_path):
    model = loaded(model_folder)
    whole = harvest(model, tokens, HOOK, tmp_path / "a", progress=False)
    for words, other in other_models(model_folder).items():
        with pytest.raises(DataError, match=f"of another {words}"):
            harvest(other, tokens, HOOK, tmp_path / "a", progress=False)
    again = harvest(loaded(model_folder), tokens, HOOK, tmp_path / "a", progress=False)
    np.testing.assert_array_equal(again.rows, whole.rows)
    shuffled = harvest(shuffled_model(model), tokens, HOOK, tmp_path / "b", progress=False)
    assert not np.array_equal(shuffled.rows, whole.rows)
    assert shuffled.identity() != whole.identity()


def test_a_broken_off_harvest_is_not_resumed_with_another_model_or_corpus(model_folder, tokens, tmp_path):
    asked = count()
    with pytest.raises(Stopped):
        harvest(loaded(model_folder), tokens, HOOK, tmp_path / "a", progress=False, stop=lambda: next(asked) == 2)
    for words, other in other_models(model_folder).items():
        with pytest.raises(DataError, match=f"of another {words}"):
            harvest(other, tokens, HOOK, tmp_path / "a", progress=False)
    changed = tokens.ids.copy()
    changed[-1, -1] = 5 if changed[-1, -1] != 5 else 6
    with pytest.raises(DataError, match="of another tokens content "):
        harvest(loaded(model_folder), tiny.Tokens(changed, tokens.document, tokens.sequence_ids), HOOK, tmp_path / "a")
    resumed = harvest(loaded(model_folder), tokens, HOOK, tmp_path / "a", progress=False)
    alone = harvest(loaded(model_folder), tokens, HOOK, tmp_path / "b", progress=False)
    np.testing.assert_array_equal(resumed.rows, alone.rows)


def test_a_training_checkpoint_is_not_resumed_on_the_activations_of_another_model(model_folder, tokens, tmp_path):
    options = {"d_sae": 64, "k": 4, "batch_size": 64, "epochs": 2}
    model = loaded(model_folder)
    own = harvest(model, tokens, HOOK, tmp_path / "own", progress=False)
    other = harvest(shuffled_model(model), tokens, HOOK, tmp_path / "other", progress=False)
    train_sae(own, checkpoint=tmp_path / "c", **options)
    with pytest.raises(SAEError, match=r"another .*model weights"):
        train_sae(other, checkpoint=tmp_path / "c", **options)
    with pytest.raises(SAEError, match=r"another .*rows [0-9a-f]{8} against none"):
        train_sae(own.rows, checkpoint=tmp_path / "c", **options)
    stream = stream_activations(model, tokens, HOOK, buffer_tokens=64)
    train_sae(stream, checkpoint=tmp_path / "s", **options)
    with pytest.raises(SAEError, match="another buffer_tokens 128 against 64"):
        train_sae(stream_activations(model, tokens, HOOK, buffer_tokens=128), checkpoint=tmp_path / "s", **options)
    with pytest.raises(SAEError, match=r"another .*model weights"):
        train_sae(
            stream_activations(shuffled_model(model), tokens, HOOK, buffer_tokens=64),
            checkpoint=tmp_path / "s",
            **options,
        )


def test_a_sweep_is_measured_on_the_model_that_was_harvested(model_folder, tokens, tmp_path):
    model = loaded(model_folder)
    own = harvest(model, tokens, HOOK, tmp_path / "own", progress=False)
    settings = {"d_sae": 64, "batch_size": 64, "seeds": [0], "progress": False}
    with pytest.raises(SAEError, match=r"of another model .*weights"):
        train_sweep(shuffled_model(model), own, [{"k": 4}], tokens, **settings)
    half = loaded(model_folder, dtype=torch.bfloat16)
    quick = harvest(half, tokens, HOOK, tmp_path / "half", progress=False)
    with pytest.warns(UserWarning, match="dtype 'bfloat16' against 'float32'"):
        assert len(train_sweep(model, quick, [{"k": 4}], tokens, **settings).points) == 1


def test_a_harvest_of_an_earlier_saekit_opens_and_is_trained_on(model_folder, tokens, tmp_path):
    model = loaded(model_folder)
    whole = harvest(model, tokens, HOOK, tmp_path / "a", progress=False)
    file = tmp_path / "a/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["tokens_fingerprint"] = manifest.pop("tokens")["content"]
    for name in ("model", "finished", "checksum"):
        manifest.pop(name)
    file.write_text(json.dumps(manifest))
    old = Activations.load(tmp_path / "a")
    np.testing.assert_array_equal(old.rows, whole.rows)
    assert old.tokens_identity is not None and not old.tokens_identity.difference(tokens.identity())
    train_sae(old, d_sae=64, k=4, batch_size=64)
    with pytest.raises(DataError, match=r"model .* against one that is not recorded"):
        harvest(model, tokens, HOOK, tmp_path / "a", progress=False)
