"""Models: the same numbers as transformers, and clear errors."""

import hashlib
import http.server
import shutil
import threading

import huggingface_hub
import pytest
import torch

import saekit.models as models
from saekit._base.cache import package_file
from saekit.errors import ChecksumError, ModelError, OfflineError
from saekit.models.packaged import PACKAGED, _in_one_piece, transformers_without_bars
from tests import tiny


def test_a_local_model_gives_the_same_logits_and_states_as_transformers(model, model_folder):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    ids = torch.from_numpy(tiny.random_tokens(3, 20, 400).ids).long()
    with torch.no_grad():
        want = reference(ids, output_hidden_states=True)
        torch.testing.assert_close(model(ids), want.logits, atol=1e-4, rtol=1e-4)
    got = models.hidden_states(model, ids, "blocks.1.hook_resid_post")
    torch.testing.assert_close(got, want.hidden_states[2], atol=1e-4, rtol=1e-4)


def test_unknown_models_and_an_unreachable_hub_are_told_apart(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="no directory"):
        models.load_model("./nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        models.load_model(str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match=r"Did you mean 'smollm2-135m'\?.*local directory"):
        models.load_model("smollm2-135")
    with pytest.raises(ModelError, match="could not load 'no such name'"):
        models.load_model("no such name")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server on this machine in place of the hub, which knows no model at all, and an empty cache of the hub's."""
    constants = huggingface_hub.constants
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _EmptyHub) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def cached_on_hub(folder, repository, model_folder):
    """Put a model where the hub's library would, had it fetched it."""
    snapshot = (
        folder / f"hub/models--{repository.replace('/', '--')}/snapshots/0123456789abcdef0123456789abcdef01234567"
    )
    shutil.copytree(model_folder, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    return snapshot


def test_a_name_that_the_hub_does_not_know_is_refused_with_the_nearest(hub):
    with pytest.raises(ModelError, match=r"could not load 'smollm2-315m'\. Did you mean 'smollm2-135m'\?.*404"):
        models.load_model("smollm2-315m")


def test_a_model_in_the_hubs_cache_loads_where_the_hub_is_away(hub, model_folder, tmp_path, caplog):
    cached_on_hub(tmp_path, "EleutherAI/pythia-70m", model_folder)
    (cached_on_hub(tmp_path, "someone/partial", model_folder) / "model.safetensors").unlink()
    hub.shutdown()
    hub.server_close()
    model = models.load_model("pythia-70m")  # the short name of a model that has an owner
    assert (model.cfg.d_model, model.cfg.model_name) == (32, "pythia-70m")
    for missing in ("someone/other", "someone/partial"):
        words = f"'{missing}' is not in the local model cache .* a local directory .there is none of this name"
        with pytest.raises(OfflineError, match=words):
            models.load_model(missing)
    assert "Retrying" not in caplog.text, "a hub that is away is asked once, not for half a minute"


class _EmptyHub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args):
        pass


@pytest.mark.slow
def test_the_converted_model_is_the_packaged_file_as_transformers_reads_it():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = package_file(PACKAGED["smollm2-135m"].files[0], progress=False)
    with transformers_without_bars():
        reference = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    converted = models.load_model(progress=False)
    text = "When Mary and John went to the store, John gave a drink to"
    ids = models.encode_text(converted, text)
    assert ids[1:].tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        want = reference(ids[None]).logits
    got = converted(ids[None])
    # The cache holds half precision, which costs the third decimal of a logit.
    torch.testing.assert_close(got, want, atol=0.05, rtol=0.01)
    assert converted.tokenizer.decode(got[0, -1].argmax()) == " Mary"


def test_a_licence_that_asks_for_it_is_shown_before_anything_is_fetched(monkeypatch, tmp_path):
    import saekit.models.packaged as packaged

    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged, "package_file", lambda *a, **k: pytest.fail("fetched without consent"))
    with pytest.raises(ModelError, match=r"gemma3-270m is under the Gemma Terms of Use\..*accept_licence=True"):
        models.load_model("multilingual")


def test_parts_are_joined_in_order_and_verified(tmp_path):
    parts = [tmp_path / name for name in ("a", "b")]
    parts[0].write_bytes(b"first ")
    parts[1].write_bytes(b"second")
    whole = _in_one_piece(parts, hashlib.sha256(b"first second").hexdigest(), tmp_path / "whole")
    assert whole.read_bytes() == b"first second"
    with pytest.raises(ChecksumError, match="do not belong together"):
        _in_one_piece(parts[::-1], "0" * 64, tmp_path / "whole")
