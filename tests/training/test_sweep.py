"""Sweeps: every run with every seed, measured as one SAE alone would be, and a file that says where it comes from."""

import json

import pytest
import torch

from saekit import training
from saekit.errors import DataError, SAEError, Stopped
from saekit.evaluation import evaluate
from saekit.training import Sweep, SweptSAE, harvest, train_sweep
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
RUNS = [{"architecture": "topk", "k": 4}, {"architecture": "standard", "sparsity_coefficient": 0.5}]


@pytest.fixture(scope="module")
def activations(model, tmp_path_factory):
    return harvest(model, tiny.random_tokens(40, 24, 400), HOOK, tmp_path_factory.mktemp("acts"), progress=False)


@pytest.fixture(scope="module")
def held_out():
    return tiny.random_tokens(6, 24, 400, seed=1)


@pytest.fixture(scope="module")
def swept(model, activations, held_out):
    return train_sweep(
        model, activations, RUNS, held_out, seeds=(0, 5), d_sae=64, epochs=4, batch_size=64, progress=False
    )


def test_a_sweep_has_a_point_for_every_run_and_seed_measured_like_one_alone(model, activations, held_out, swept):
    assert [(p.architecture, p.setting, p.seed) for p in swept.points] == [
        ("topk", 4, 0), ("topk", 4, 5), ("standard", 0.5, 0), ("standard", 0.5, 5),
    ]  # fmt: skip
    alone = training.train_sae(activations, **RUNS[1], d_sae=64, epochs=4, batch_size=64, seed=5)
    want, got = evaluate(model, alone, held_out), swept.points[3]
    for name in ("l0", "fvu", "dead_share", "loss_recovered_zero", "loss_recovered_mean"):
        assert getattr(got, name) == pytest.approx(getattr(want, name), abs=1e-3), name
    assert swept.provenance["hook_name"] == HOOK
    assert swept.provenance["n_tokens"] == want.n_tokens
    assert repr(swept) == "Sweep of 4 SAEs, 2 seeds: topk, standard"


def test_a_saved_sweep_reads_back(swept, tmp_path):
    swept.save(tmp_path / "sweep.json")
    assert Sweep.load(tmp_path / "sweep.json") == swept


@pytest.mark.parametrize("interrupt", [Stopped, KeyboardInterrupt])
def test_an_interrupted_sweep_goes_on_and_has_no_point_of_half_an_sae(
    model, activations, held_out, swept, tmp_path, interrupt
):
    asked = []

    def stop():
        asked.append(1)
        if len(asked) == 130 and interrupt is KeyboardInterrupt:
            raise KeyboardInterrupt
        return len(asked) >= 130

    options = {"seeds": (0, 5), "d_sae": 64, "epochs": 4, "batch_size": 64, "progress": False}
    with pytest.raises(interrupt):
        train_sweep(model, activations, RUNS, held_out, checkpoints=tmp_path, stop=stop, **options)
    assert len(asked) == 130
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 3  # of four
    again = train_sweep(model, activations, RUNS, held_out, checkpoints=tmp_path, **options)
    assert again.points == swept.points


def test_progress_is_said_after_every_sae(model, activations, held_out):
    said = []
    options = {"seeds": (0, 1, 2), "d_sae": 64, "batch_size": 64}
    train_sweep(model, activations, RUNS[:1], held_out, progress=lambda *done: said.append(done), **options)
    assert said == [(1, 3), (2, 3), (3, 3)]


def test_files_that_are_no_sweeps_and_sweeps_of_nothing_are_explained(model, activations, held_out, tmp_path):
    for content, message in (
        ("{", "is damaged or foreign: it cannot be read"),
        ("{}", "holds nothing that saekit wrote, expected a saekit sweep"),
        (json.dumps({"format": "saekit sweep 9"}), "version 9, and this saekit reads version 1: make it again"),
        (json.dumps({"format": "saekit sweep 1", "columns": ["k"], "points": [[1]]}), "do not agree"),
        (json.dumps({"format": "saekit sweep 1"}), "do not agree"),
    ):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(DataError, match=message):
            Sweep.load(tmp_path / "x.json")
    with pytest.raises(SAEError, match="at least one run and one seed, not 0 and 3"):
        train_sweep(model, activations, [], held_out)
    with pytest.raises(SAEError, match="must say their hook point"):
        train_sweep(model, torch.zeros(9, 32), RUNS, held_out, d_sae=64)
    said = []
    with pytest.raises(SAEError, match="'standard' takes sparsity_coefficient"):  # before anything is trained
        wrong = [*RUNS, {"architecture": "standard"}]
        train_sweep(model, activations, wrong, held_out, d_sae=64, progress=lambda *done: said.append(done))
    assert not said


def test_the_sweep_that_comes_with_saekit_has_three_seeds_of_every_architecture():
    found = Sweep.load()
    assert len(found.points) == 60
    assert found.points[0] == SweptSAE("topk", 12, 0, 1152, 400000, 12.0, 0.34428, 0.09115, 0.90041, 0.8341)
    for architecture in training.ARCHITECTURES:
        points = [p for p in found.points if p.architecture == architecture]
        settings = {p.setting for p in points}
        assert len(settings) >= 2
        assert {(p.setting, p.seed) for p in points} == {(s, seed) for s in settings for seed in (0, 1, 2)}
    assert {p.samples for p in found.points} == {found.provenance["activations"]}
    assert found.provenance["hook_name"] == "blocks.18.hook_resid_post"


def test_a_shuffled_model_has_the_same_weights_in_another_order_and_leaves_the_model_alone(model):
    from saekit.models import shuffled_model

    before = {name: weight.clone() for name, weight in model.named_parameters()}
    nothing = shuffled_model(model, seed=1)
    moved = 0
    for name, weight in nothing.named_parameters():
        torch.testing.assert_close(weight.flatten().sort().values, before[name].flatten().sort().values)
        moved += weight.dim() > 1 and not torch.equal(weight, before[name])
        assert weight.dim() > 1 or torch.equal(weight, before[name])
    assert moved == sum(weight.dim() > 1 for weight in before.values())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    ids = torch.tensor([[0, 5, 9]])
    assert not torch.allclose(model(ids), nothing(ids))
    torch.testing.assert_close(nothing(ids), shuffled_model(model, seed=1)(ids))
