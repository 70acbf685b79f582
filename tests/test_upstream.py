"""What saekit takes from upstream: names, and behaviours that no type shows.

When a release moves one of them, this file fails first, with the list, and everything else that fails is a
consequence. The traps at the end are worked around; when one is mended upstream, the work-around can go.
"""

import dataclasses
import importlib
import importlib.metadata
import inspect
import logging
import tomllib
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from saekit.data import Tokens, counted, load_corpus
from saekit.evaluation import evaluate
from saekit.models import check_hook, hidden_states, load_model, special_token_ids
from saekit.saes import load_sae
from tests import tiny

# module, name in it (dotted for attributes), parameters that we pass by name
NAMES = [
    ("sae_lens", "SAETransformerBridge.boot_transformers", ("device", "dtype")),
    ("transformer_lens.model_bridge.sources", "boot", ("device", "dtype", "tokenizer", "model_class", "hf_model")),
    ("sae_lens", "SAETransformerBridge._resolve_hook_name", ()),
    ("transformer_lens.model_bridge", "TransformerBridge.forward", ("stop_at_layer", "prepend_bos")),
    ("transformer_lens.model_bridge", "TransformerBridge.check_hooks_to_add", ()),
    ("sae_lens", "SAE.from_pretrained", ("release", "sae_id", "device")),
    ("sae_lens", "SAE.load_from_disk", ("device",)),
    ("sae_lens", "SAE.save_model", ()),
    ("sae_lens", "SAE.encode", ()),
    ("sae_lens", "SAE.decode", ()),
    ("sae_lens", "TopKSAE", ("cfg",)),
    ("sae_lens", "TopKSAEConfig", ("d_in", "d_sae", "k", "apply_b_dec_to_input", "metadata")),
    ("sae_lens", "TopKSAEConfig.architecture", ()),
    ("sae_lens.saes.sae", "SAEMetadata", ()),
    ("sae_lens.loading.pretrained_saes_directory", "get_pretrained_saes_directory", ()),
    ("sae_lens.util", "extract_stop_at_layer_from_tlens_hook_name", ()),
    ("sae_lens.util", "get_special_token_ids", ()),
    ("transformer_lens.model_bridge", "TransformerBridge.hook_dict", ()),
    ("transformer_lens.model_bridge", "TransformerBridge._collect_hook_aliases_from_registry", ()),
    ("transformer_lens.model_bridge", "TransformerBridge.W_U", ()),
    ("transformer_lens.model_bridge", "TransformerBridge.b_U", ()),
    ("sae_lens.registry", "get_sae_training_class", ()),
    ("transformer_lens.model_bridge.architecture_adapter", "ArchitectureAdapter.apply_output_logits_transform", ()),
    ("transformer_lens.model_bridge.generalized_components.block", "BlockBridge._teardown_capture_hooks", ()),
    ("transformer_lens.model_bridge", "TransformerBridge.boot_native", ()),
    ("transformer_lens.config", "TransformerBridgeConfig", ()),
    ("transformers", "AutoTokenizer.from_pretrained", ()),
    ("transformers", "AutoModelForCausalLM.from_pretrained", ()),
    ("transformers.models.auto.tokenization_auto", "get_tokenizer_config", ()),
    ("transformer_lens.model_bridge.sources", "detect_tokenizer_bos_eos", ()),
    ("transformer_lens.model_bridge.sources.transformers", "get_hf_model_class_for_architecture", ()),
    ("transformer_lens.model_bridge.sources.transformers", "determine_architecture_from_hf_config", ()),
    ("transformers.utils.logging", "is_progress_bar_enabled", ()),
    ("transformers.utils.logging", "disable_progress_bar", ()),
    ("transformers.utils.logging", "enable_progress_bar", ()),
    ("anywidget", "AnyWidget._repr_mimebundle_", ()),
    ("ipywidgets", "Widget.set_state", ("sync_data",)),
    ("ipywidgets", "Widget.hold_sync", ()),
    ("nbval.kernel", "RunningKernel.execute_cell_input", ("allow_stdin",)),
]
CFG = ("n_layers", "n_ctx", "d_model", "d_vocab", "device", "model_name", "uses_rms_norm", "eps")
LOOKUP = ("model", "saes_map", "expected_l0", "expected_var_explained", "neuronpedia_id")
HOOK = "blocks.1.hook_resid_post"
HOOK_OF_BUNDLED = "blocks.18.hook_resid_post"


def missing(module: str, name: str, parameters: tuple[str, ...]) -> str | None:
    """Return what is gone, None if the name and its parameters are there."""
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        return f"{module}.{name}: {error}"
    known = inspect.signature(found).parameters if parameters else {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return None
    gone = [parameter for parameter in parameters if parameter not in known]
    return f"{module}.{name} takes no {', '.join(gone)}" if gone else None


def test_every_name_that_we_use_is_there():
    assert [gone for name in NAMES if (gone := missing(*name))] == []


def test_installed_versions_are_in_the_ranges_of_pyproject():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name)), requirement


# --- the model ------------------------------------------------------------------------------------------------------


def test_the_bridge_has_the_settings_that_we_read(model):
    assert [name for name in CFG if not hasattr(model.cfg, name)] == []
    assert isinstance(model.hook_aliases, dict)
    assert model.W_U.shape == (model.cfg.d_model, model.cfg.d_vocab)
    assert model.ln_final.weight.shape == (model.cfg.d_model,)
    attention = model.blocks[0].attn
    assert attention.W_O.shape == (model.cfg.n_heads, model.cfg.d_head, model.cfg.d_model)


def test_hook_names_of_transformer_lens_resolve_to_keys_of_hook_dict(model):
    points = (HOOK, "blocks.0.hook_resid_pre", "blocks.2.hook_mlp_out", "blocks.0.attn.hook_z")
    for name in (*points, "ln_final.hook_in", "ln_final.hook_out", "unembed.hook_out"):
        assert model._resolve_hook_name(name) in model.hook_dict


def test_stopping_early_gives_the_same_activation_as_the_whole_run(model):
    ids = torch.tensor([[0, 5, 9, 30]])
    seen = []
    key = model._resolve_hook_name(HOOK)
    handle = model.hook_dict[key].register_forward_hook(lambda point, args, output: seen.append(output.clone()))
    for stop in (None, 2):
        model(ids, stop_at_layer=stop, prepend_bos=False)
    handle.remove()
    torch.testing.assert_close(seen[0], seen[1])
    assert seen[0].shape == (1, 4, model.cfg.d_model)


def test_a_hook_point_says_how_its_activations_are_shown_and_put_back(model):
    assert model.hook_dict[model._resolve_hook_name(HOOK)].hook_conversion is None
    shape = model.hook_dict[model._resolve_hook_name("blocks.0.attn.hook_z")].hook_conversion
    flat = torch.randn(1, 4, model.cfg.n_heads * model.cfg.d_head)
    apart = shape.convert(flat)
    assert apart.shape == (1, 4, model.cfg.n_heads, model.cfg.d_head)
    assert torch.equal(shape.revert(apart), flat)


def test_a_hook_names_the_layer_to_stop_at():
    from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name as stop_at

    hooks = ["blocks.18.hook_resid_post", "blocks.3.hook_resid_pre", "blocks.0.attn.hook_z", "ln_final.hook_normalized"]
    assert [stop_at(hook) for hook in hooks] == [19, 4, 1, None]


def test_special_tokens_in_a_text_can_be_read_as_text(model):
    from sae_lens.util import get_special_token_ids

    tokenizer = model.tokenizer
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert special <= set(get_special_token_ids(tokenizer))
    assert special & set(tokenizer("a <s> b", add_special_tokens=False)["input_ids"])
    ids = tokenizer("a <s> b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not special & set(ids)


# --- the SAE --------------------------------------------------------------------------------------------------------


def test_a_topk_sae_is_the_four_arrays_and_the_formula_that_we_write():
    sae = tiny.topk_sae(16, 40, k=4)
    assert sorted(sae.state_dict()) == ["W_dec", "W_enc", "b_dec", "b_enc"]
    with torch.no_grad():
        sae.b_dec.copy_(torch.linspace(-1, 1, 16))
        x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
        dense = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        kept = dense.topk(4)
        want = torch.zeros_like(dense).scatter(-1, kept.indices, kept.values.relu())
        torch.testing.assert_close(sae.encode(x), want)
        torch.testing.assert_close(sae.decode(want), want @ sae.W_dec + sae.b_dec)


def test_an_sae_saves_to_safetensors_and_json_and_comes_back(tmp_path):
    from sae_lens import SAE

    sae = tiny.topk_sae(16, 40)
    sae.save_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    back = SAE.load_from_disk(str(tmp_path), device="cpu")
    assert back.cfg.metadata.hook_name == sae.cfg.metadata.hook_name
    assert back.cfg.architecture() == "topk"
    for name, value in sae.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value)


def test_the_release_directory_is_read_offline_and_has_our_columns(monkeypatch):
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    monkeypatch.setattr("socket.socket.connect", None)
    directory = get_pretrained_saes_directory()
    assert sum(len(lookup.saes_map) for lookup in directory.values()) > 13_000
    lookup = next(iter(directory.values()))
    assert [name for name in LOOKUP if not hasattr(lookup, name)] == []


# --- the front-end --------------------------------------------------------------------------------------------------


def test_anywidget_takes_sources_as_text_and_gives_a_bundle_to_extend():
    import anywidget

    class Tiny(anywidget.AnyWidget):
        _esm = "export default { render() {} };"
        _css = ".saekit-tiny {}"

    widget = Tiny()
    data, _metadata = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert {"_esm", "_css", "_anywidget_id"} <= set(widget.keys)
    widget.close()


# --- traps that we work around --------------------------------------------------------------------------------------


def test_trap_an_sae_without_its_hook_point_is_skipped_without_an_error(model, caplog):
    """`check_hook` raises instead."""
    sae = tiny.topk_sae(model.cfg.d_model, 40, hook_name="blocks.7.hook_resid_post")
    ids = torch.tensor([[0, 5, 9]])
    with caplog.at_level(logging.CRITICAL):
        spliced = model.run_with_saes(ids, saes=[sae])
    torch.testing.assert_close(spliced, model(ids))


def test_trap_importing_sae_lens_warns(recwarn):
    """The exception to `filterwarnings = error` in pyproject.toml stands for this one."""
    import transformer_lens.utils

    importlib.reload(transformer_lens.utils)
    assert any("utils" in str(warning.message) for warning in recwarn.list)


def called_at(model, name):
    """Return the hook points at which a hook under a name is called, in upstream's three ways to put it there."""
    called = []
    note = partial(_note, called)
    ids = torch.tensor([[0, 5, 9]])
    with model.hooks(fwd_hooks=[(name, note)]):
        model(ids)
    model.run_with_hooks(ids, fwd_hooks=[(name, note)])
    _, cache = model.run_with_cache(ids, names_filter=[name])
    return called, sorted(cache)


def _note(called, activation, hook):
    called.append(hook.name)


@pytest.mark.parametrize("point", ["hook_resid_pre", "hook_resid_post"])
def test_trap_sae_lens_never_calls_hooks_at_a_point_under_its_other_name(model, model_folder, point):
    """They are skipped in silence. `load_model` gives hook points all their names."""
    from sae_lens import SAETransformerBridge

    name, canonical = f"blocks.2.{point}", check_hook(model, f"blocks.2.{point}")
    theirs = SAETransformerBridge.boot_transformers(str(model_folder), device="cpu")
    assert called_at(theirs, name) == ([], [])
    assert called_at(theirs, canonical) == ([canonical] * 2, [canonical])
    assert called_at(model, name) == ([canonical] * 2, sorted([canonical, name]))
    assert called_at(model, canonical) == ([canonical] * 2, [canonical])


def test_trap_sae_lens_leaves_a_hook_point_that_is_never_called_where_an_sae_has_stood(model, model_folder):
    """Its name has lost the block's. `load_model` gives it back."""
    from sae_lens import SAETransformerBridge

    sae, ids = tiny.topk_sae(model.cfg.d_model, 40), torch.tensor([[0, 5, 9]])
    theirs = SAETransformerBridge.boot_transformers(str(model_folder), device="cpu")
    canonical = check_hook(model, HOOK)
    for one, called in ((theirs, []), (model, [canonical] * 2)):
        before = set(one.hook_dict)
        one.run_with_saes(ids, saes=[sae])
        assert called_at(one, canonical)[0] == called
        assert set(one.hook_dict) == before


# --- sae-lens as a witness --------------------------------------------------------------------------------------------


def evaluated_by_sae_lens(model, sae, tokens):
    """Return the measures of sae-lens's own `run_evals` on the same rows, by name."""
    from datasets import Dataset
    from sae_lens import ActivationsStore
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    rows = Dataset.from_dict({"tokens": tokens.ids.tolist()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer rows than it would train on
        store = ActivationsStore.from_sae(
            model, sae, rows, context_size=tokens.ids.shape[1], store_batch_size_prompts=4, streaming=False
        )
        everything = get_eval_everything_config(4, len(tokens) // 4, len(tokens) // 4)
        groups, _ = run_evals(sae, store, model, ActivationScaler(), everything)
    return {name: value for group in groups.values() for name, value in group.items()}


def agree(ours, theirs):
    assert theirs["l0"] == pytest.approx(ours.l0, rel=1e-3)
    assert theirs["l2_ratio"] == pytest.approx(ours.l2_ratio, rel=1e-3)
    assert theirs["ce_loss_without_sae"] == pytest.approx(ours.loss_clean, rel=1e-4)
    assert theirs["ce_loss_with_sae"] == pytest.approx(ours.loss_spliced, rel=1e-2)
    assert theirs["kl_div_with_sae"] == pytest.approx(ours.kl_spliced, rel=0.1)


@pytest.mark.parametrize("kind", ["topk", "standard", "jumprelu", "gated"])
def test_sae_lens_measures_what_we_measure_on_a_small_model(model, kind):
    tokens = tiny.random_tokens(8, 24, 360)
    one = np.zeros_like(tokens.document)
    tokens = dataclasses.replace(tokens, ids=np.where(tokens.ids, tokens.ids, 7), document=one)  # one document a row
    tokens.ids[:, 0], tokens.document[:, 0] = 0, -1
    sae = tiny.own_sae(kind, model.cfg.d_model, 64, **({"k": 8} if kind == "topk" else {}))
    ours, theirs = evaluate(model, sae, tokens), evaluated_by_sae_lens(model, sae, tokens)
    assert ours.excluded["massive"] == 0
    agree(ours, theirs)
    assert theirs["explained_variance"] == pytest.approx(1 - ours.fvu, abs=1e-3)


@pytest.mark.slow
def test_sae_lens_measures_what_we_measure_on_the_bundled_sae_but_for_massive_activations():
    """sae-lens counts massive activations in the variance: a single one of 4,000 tokens moves it by a tenth."""
    model = load_model(progress=False)
    sae = load_sae(model=model)
    held = load_corpus("english", model=model, split="heldout", progress=False)
    whole = [i for i, row in enumerate(held.document) if (row[1:] == row[1]).all()][:32]
    rows = Tokens(held.ids[whole], held.document[whole], np.arange(len(whole)))
    states = hidden_states(model, torch.from_numpy(rows.ids).long(), HOOK_OF_BUNDLED)
    keep, _ = counted(rows, states, torch.tensor(special_token_ids(model)))
    massive = (~keep & torch.from_numpy(rows.document >= 0)).sum(1).numpy()
    assert massive.sum() == 1
    for some in (np.flatnonzero(massive == 0)[:4], np.argsort(-massive, kind="stable")[:4]):
        part = Tokens(rows.ids[some], rows.document[some], np.arange(4))
        ours, theirs = evaluate(model, sae, part), evaluated_by_sae_lens(model, sae, part)
        assert theirs["l0"] == pytest.approx(ours.l0, rel=1e-3)
        if massive[some].any():
            assert theirs["explained_variance"] < 1 - ours.fvu - 0.1
        else:
            agree(ours, theirs)
            assert theirs["explained_variance"] == pytest.approx(1 - ours.fvu, abs=0.005)
            assert theirs["ce_loss_score"] == pytest.approx(ours.loss_recovered_zero, abs=0.01)


# --- more traps -------------------------------------------------------------------------------------------------------


def test_trap_starting_at_a_layer_is_refused(model):
    """`saekit.models.logits_from` calls the blocks itself."""
    with pytest.raises(NotImplementedError, match="start_at_layer"):
        model(torch.zeros(1, 4, model.cfg.d_model), start_at_layer=1)
