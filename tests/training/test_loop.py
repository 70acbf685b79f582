"""Training: what comes out is a plain sae-lens SAE, resumed runs end at the same bits, bad input is explained."""

import inspect
import json
import typing
from dataclasses import replace

import numpy as np
import pytest
import torch
from sae_lens import SAE

from saekit import training
from saekit._base.store import Format
from saekit.errors import DataError, SAEError
from saekit.saes import check_pair, load_sae
from saekit.training import TrainConfig, architectures, harvest
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
SPARSITY = {
    "topk": {"k": 6},
    "batchtopk": {"k": 6},
    "matryoshka_batchtopk": {"k": 6},
    "standard": {"sparsity_coefficient": 0.5},
    "gated": {"sparsity_coefficient": 0.5},
    "jumprelu": {"sparsity_coefficient": 0.05},
}


@pytest.fixture(scope="module")
def activations(model, tmp_path_factory):
    tokens = tiny.random_tokens(60, 24, 400)
    return harvest(model, tokens, HOOK, tmp_path_factory.mktemp("acts"), progress=False)


@pytest.fixture(scope="module")
def x(activations):
    return torch.from_numpy(activations.rows.astype(np.float32))


def fvu(sae, x):
    return ((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item()


def stop_at(step):
    def stop(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("architecture", training.ARCHITECTURES)
def test_every_architecture_learns_and_comes_out_as_a_plain_sae_lens_sae(activations, model, x, tmp_path, architecture):
    seen = []
    sae = training.train_sae(
        activations, architecture=architecture, d_sae=96, **SPARSITY[architecture], epochs=60, batch_size=128,
        on_step=seen.append, report_every=1, dead_after=5000,
    )  # fmt: skip
    assert fvu(sae, x) < 0.5 < seen[0].fvu
    assert seen[-1].step == seen[-1].steps == len(seen)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(96))
    check_pair(model, sae)
    sae.save_model(str(tmp_path / "sae"))
    plain = SAE.load_from_disk(str(tmp_path / "sae"))
    torch.testing.assert_close(plain(x), sae(x))
    assert plain.cfg.metadata.training_architecture == architecture
    assert plain.cfg.metadata.hook_name == HOOK
    assert not any(p.requires_grad for p in sae.parameters())
    l0 = (sae.encode(x) > 0).float().sum(1)
    if architecture == "topk":
        assert l0.max() <= 6
    elif "topk" in architecture:
        assert l0.mean() == pytest.approx(6, rel=0.02)  # x is the sample on which the budget is met


def test_the_weights_do_in_sae_lens_what_they_did_in_training(activations, x):
    """The scale is folded in: the returned SAE rebuilds as well as the last batches said."""
    for architecture, sparsity in SPARSITY.items():
        seen = []
        sae = training.train_sae(
            activations, architecture=architecture, d_sae=64, **sparsity, epochs=30, batch_size=256,
            on_step=seen.append, report_every=1,
        )  # fmt: skip
        assert fvu(sae, x) == pytest.approx(np.mean([p.fvu for p in seen[-5:]]), rel=0.15), architecture


def test_a_batchtopk_sae_does_not_depend_on_the_batch(activations, x):
    sae = training.train_sae(activations, architecture="batchtopk", d_sae=64, k=6, epochs=5, batch_size=128)
    torch.testing.assert_close(sae.encode(x[:1]), sae.encode(x)[:1])


def test_a_record_says_what_an_independent_count_says(activations):
    """With a learning rate of nearly nothing the weights stand still, so that batches can be encoded again."""
    seen, size = [], 128
    sae = training.train_sae(
        activations, d_sae=64, k=6, epochs=2, batch_size=size, lr=1e-12, on_step=seen.append, report_every=4, seed=2
    )
    batches = list(activations.batches(size, epochs=2, seed=2))
    assert [p.step for p in seen] == [*range(4, len(batches), 4), len(batches)]
    fired = torch.stack([(sae.encode(batch) > 0).float().sum(0) for batch in batches])
    for p in seen:
        assert p.samples == p.step * size
        assert p.l0 == pytest.approx(fired[p.step - 1].sum().item() / size, rel=0.02)
        torch.testing.assert_close(p.density, fired[: p.step].sum(0) / p.samples, atol=0.01, rtol=0.05)
        x = batches[p.step - 1]
        assert p.fvu == pytest.approx(((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item(), rel=0.02)


@pytest.mark.parametrize("architecture", training.ARCHITECTURES)
def test_a_resumed_run_ends_at_the_same_bits(activations, tmp_path, architecture):
    options = {
        "architecture": architecture, "d_sae": 64, **SPARSITY[architecture], "batch_size": 128, "epochs": 4, "seed": 1,
        "dead_after": 700, "encoder_init": "random",
    }  # fmt: skip
    whole = training.train_sae(activations, **options)
    where = {"checkpoint": tmp_path / "c", "checkpoint_every": 5}
    training.train_sae(activations, **options, **where, report_every=1, on_step=stop_at(17))
    steps = []
    resumed = training.train_sae(
        activations, **options, **where, report_every=1, on_step=lambda p: steps.append(p.step)
    )
    assert steps[0] == 18
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    again = training.train_sae(activations, **options, **where, on_step=steps.append)
    assert steps[-1] == len(steps) + 17
    assert torch.equal(again.W_dec, whole.W_dec)


def test_an_interrupt_within_a_step_leaves_the_last_whole_checkpoint(activations, tmp_path, monkeypatch):
    calls = []
    real = architectures.SparseLearner.step

    def interrupted(self, *args):
        calls.append(1)
        result = real(self, *args)
        if len(calls) == 8:  # the weights have moved, and nothing has counted it
            raise KeyboardInterrupt
        return result

    options = {"d_sae": 64, "k": 4, "batch_size": 128, "epochs": 2}
    whole = training.train_sae(activations, **options)
    options |= {"checkpoint": tmp_path / "c", "checkpoint_every": 5}
    monkeypatch.setattr(architectures.SparseLearner, "step", interrupted)
    cut = training.train_sae(activations, **options)
    assert torch.isfinite(cut.W_enc).all()
    steps = []
    resumed = training.train_sae(
        activations, **options, report_every=1, on_step=lambda record: steps.append(record.step)
    )
    assert steps[0] == 6
    assert torch.equal(resumed.W_dec, whole.W_dec)


def test_stop_ends_training_early_and_keeps_what_there_is(activations, tmp_path):
    options = {"d_sae": 64, "k": 4, "batch_size": 128, "epochs": 2}
    whole = training.train_sae(activations, **options)
    said = []
    options |= {"checkpoint": tmp_path / "c", "progress": lambda done, total: said.append((done, total))}
    total = 2 * len(activations) // 128
    half = training.train_sae(activations, **options, stop=lambda: len(said) == 6)
    assert said == [(step, total) for step in range(1, 7)]
    assert not torch.equal(half.W_dec, whole.W_dec)
    resumed = training.train_sae(activations, **options)
    assert said == [(step, total) for step in range(1, total + 1)]
    assert torch.equal(resumed.W_dec, whole.W_dec)


def test_checkpoints_that_are_damaged_foreign_or_of_other_settings_are_refused(activations, tmp_path):
    options = {"d_sae": 64, "batch_size": 128, "checkpoint": tmp_path / "c"}
    training.train_sae(activations, k=4, **options)
    with pytest.raises(SAEError, match="training checkpoint of another k 5 against 4 "):
        training.train_sae(activations, k=5, **options)
    with pytest.raises(SAEError, match=r"of another hook_name none against .*; rows [0-9a-f]{8} against none; model "):
        training.train_sae(activations.rows, k=4, **options)
    weights = tmp_path / "c/W_enc.bin"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(SAEError, match=r"W_enc.bin was altered.*delete it to start again"):
        training.train_sae(activations, k=4, **options)
    (tmp_path / "c/manifest.json").write_text("{")
    with pytest.raises(SAEError, match="is there already and is not a saekit training checkpoint: choose another path"):
        training.train_sae(activations, k=4, **options)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/state.json").write_text("{}")  # what an earlier saekit wrote
    with pytest.raises(SAEError, match="is there already and is not a saekit training checkpoint: choose another path"):
        training.train_sae(activations, k=4, **options | {"checkpoint": tmp_path / "old"})


def test_the_same_seed_gives_the_same_sae_and_leaves_the_global_generator_alone(activations):
    for architecture in ("topk", "standard"):
        before = torch.get_rng_state()
        one, two, other = (
            training.train_sae(
                activations, architecture=architecture, d_sae=64, **SPARSITY[architecture], batch_size=128, seed=seed
            )
            for seed in (0, 0, 1)
        )
        assert torch.equal(one.W_dec, two.W_dec)
        assert not torch.equal(one.W_dec, other.W_dec)
        assert torch.equal(before, torch.get_rng_state())


def test_a_plain_tensor_array_or_list_can_be_trained_on(x):
    one = training.train_sae(x, d_sae=64, k=4, batch_size=128)
    for same in (x.numpy(), x.tolist()):
        assert torch.equal(one.W_dec, training.train_sae(same, d_sae=64, k=4, batch_size=128).W_dec)
    assert one.cfg.metadata.hook_name is None


# --- dead features -----------------------------------------------------------------------------------------------


def superposed(d_in, n_features, density, n=20_000):
    """Return samples of sparse features at random directions, as many as an SAE of that size can learn."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(n_features, d_in, generator=generator), dim=1)
    active = torch.rand(n, n_features, generator=generator) < density
    return (active * torch.rand(n, n_features, generator=generator)) @ directions


@pytest.mark.parametrize(
    ("architecture", "remedy", "sparsity", "data"),
    [
        ("topk", "auxk", {"k": 8}, (64, 512, 0.015)),
        ("batchtopk", "auxk", {"k": 8}, (64, 512, 0.015)),
        ("topk", "resample", {"k": 2}, (32, 256, 0.01)),
        ("standard", "resample", {"sparsity_coefficient": 5.0}, (32, 256, 0.02)),
    ],
)
def test_a_remedy_leaves_fewer_features_dead_and_less_unexplained(architecture, remedy, sparsity, data):
    """Forced dead: encoder rows at directions of their own and a learning rate that is too high."""
    x = superposed(*data)
    dead, unexplained = {}, {}
    for chosen in ("none", remedy):
        sae = training.train_sae(
            x, architecture=architecture, d_sae=data[1], **sparsity, epochs=10, batch_size=512, lr=1e-2,
            dead_features=chosen, dead_after=5000, encoder_init="random",
        )  # fmt: skip
        dead[chosen] = (sae.encode(x) > 0).any(0).logical_not().float().mean().item()
        unexplained[chosen] = fvu(sae, x)
    assert dead["none"] > 0.05
    assert dead[remedy] < 0.8 * dead["none"]
    assert unexplained[remedy] < unexplained["none"]


@pytest.mark.parametrize("d_sae", [32, 48])  # d_in is 32: the two orientations of a square matrix must not be mixed up
@pytest.mark.parametrize("architecture", ["topk", "standard", "gated"])
def test_resampling_moves_exactly_the_dead_features_and_makes_adam_forget_them(x, architecture, d_sae):
    start = architectures.Start(32, d_sae, x, 0, "cpu", "transposed")
    sparsity = {"k": 4} if architecture == "topk" else {"sparsity_coefficient": 0.1}
    config = TrainConfig(architecture=architecture, d_sae=d_sae, **sparsity)
    learner = training.ARCHITECTURES[architecture].learner(config, start)
    for _ in range(3):
        step = learner.step(x[:128], 1e-3, 1.0, torch.zeros(d_sae, dtype=torch.bool))
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    dead = torch.zeros(d_sae, dtype=torch.bool)
    dead[[1, 7]] = True
    architectures.resample(learner, x[:128], step.error, dead, seed=0)
    after = learner.tensors()

    def by_feature(tensor, name):
        return tensor.T if name.startswith("W_enc") and learner.encoder_is_transposed else tensor

    for name in ("W_enc", "W_dec", "W_enc.mean", "W_dec.square"):
        old, new = by_feature(before[name], name), by_feature(after[name], name)
        assert torch.equal(old[~dead], new[~dead]), name
        assert (old[dead] != new[dead]).any(1).all(), name
    assert (by_feature(after["W_enc.mean"], "W_enc")[dead] == 0).all()
    assert (after["W_dec.square"][dead] == 0).all()
    encoder, decoder = learner.rows()
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(encoder[dead], decoder[dead]), torch.ones(2), atol=1e-5, rtol=0
    )
    ratio = encoder[dead].norm(dim=1) / encoder[~dead].norm(dim=1).mean()
    torch.testing.assert_close(ratio, torch.full((2,), 0.2))


def test_resampling_prefers_inputs_that_are_rebuilt_badly():
    x = torch.eye(4)
    start = architectures.Start(4, 6, torch.zeros(2, 4), 0, "cpu", "transposed")
    learner = training.ARCHITECTURES["topk"].learner(TrainConfig(d_sae=6, k=1), start)
    error = torch.zeros(4, 4)
    error[2] = 1.0
    dead = torch.tensor([True, False, True, False, False, False])
    architectures.resample(learner, x, error, dead, seed=0)
    torch.testing.assert_close(learner.rows()[1][dead], x[[2, 2]])


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 64, 100])
@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("topk", "k must be a whole number from 1 to 63, not"),
        ("batchtopk", "k must be a finite number above 0 and below 64, not"),
    ],
)
def test_an_impossible_k_is_named(x, architecture, message, k):
    with pytest.raises(SAEError, match=f"{message} {k}"):
        training.train_sae(x, architecture=architecture, d_sae=64, k=k)


L1 = {"architecture": "standard", "sparsity_coefficient": 1.0}
MATRYOSHKA = {"architecture": "matryoshka_batchtopk", "k": 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "transcoder", "k": 4}, "sae-lens has classes that run transcoders and none that trains them"),
        ({"architecture": "vanilla", "k": 4}, "architecture must be 'topk', .* or 'jumprelu', not 'vanilla'"),
        ({"architecture": "tokp", "k": 4}, "did you mean 'topk'"),
        ({"architecture": "standard", "k": 4}, "k is for topk, .*, not for 'standard', which takes sparsity_coeff"),
        ({"architecture": "standard"}, "'standard' takes sparsity_coefficient, the weight of its sparsity penalty"),
        ({"architecture": "topk", "sparsity_coefficient": 1.0}, "for standard, gated, jumprelu, not for 'topk'"),
        ({"architecture": "topk"}, "'topk' takes k, the number of active features per token: give it"),
        (L1 | {"sparsity_coefficient": -0.1}, "sparsity_coefficient must be a finite number at least 0, not -0.1"),
        (L1 | {"architecture": "gated", "sparsity_coefficient": float("nan")}, "must be a finite number at least 0"),
        ({"k": 4.5}, "k must be a whole number from 1 to 63, not 4.5"),
        ({"k": 4, "dead_features": "ghost"}, "dead_features of 'topk' must be 'auxk', 'resample' or 'none'"),
        (L1 | {"dead_features": "auxk"}, "dead_features of 'standard' must be 'resample' or 'none', not 'auxk'"),
        ({"k": 4, "matryoshka_widths": [8, 64]}, "matryoshka_widths is for matryoshka_batchtopk, not for 'topk'"),
        (MATRYOSHKA | {"matryoshka_widths": [64, 8]}, "matryoshka_widths must increase"),
        (MATRYOSHKA | {"matryoshka_widths": [8, 16]}, "to d_sae = 64"),
        ({"k": 4, "encoder_init": "zero"}, "encoder_init must be 'transposed' or 'random', not 'zero'"),
        ({"k": 4, "lr": 0}, "lr must be a finite number above 0, not 0"),
        ({"k": 4, "lr": float("inf")}, "lr must be a finite number above 0, not inf"),
        ({"k": 4, "dead_after": 0}, "dead_after must be a finite number at least 1, not 0"),
        ({"k": 4, "epochs": 0}, "epochs must be a finite number above 0, not 0"),
        ({"k": 4, "batch_size": 1}, "batch_size must be a whole number from 2 on, not 1"),
        ({"k": 4, "seed": -1}, "seed must be a whole number from 0 to"),
        ({"k": 4, "report_every": 0}, "report_every must be a whole number from 1 on, not 0"),
        ({"k": 4, "checkpoint_every": 0}, "checkpoint_every must be a whole number from 1 on, not 0"),
        ({"k": 4, "batchsize": 64}, "training has no setting 'batchsize': did you mean 'batch_size'"),
        ({"k": 4, "passes": 2}, "training has no setting 'passes': there are d_sae, architecture, k, .*, epochs"),
    ],
)
def test_arguments_that_cannot_be_used_are_explained(x, options, message):
    with pytest.raises(SAEError, match=message):
        training.train_sae(x, d_sae=64, **options)


@pytest.mark.parametrize(
    ("rows", "batch_size", "message"),
    [
        (1, 2048, "1 activations are fewer than one batch of 2048"),
        (0, 4, "0 act"),
    ],
)
def test_too_few_activations_are_explained(x, rows, batch_size, message):
    with pytest.raises(DataError, match=message):
        training.train_sae(x[:rows], d_sae=64, k=4, batch_size=batch_size)


def test_training_that_diverges_says_so_and_keeps_the_last_checkpoint(x, tmp_path):
    with pytest.raises(SAEError, match=r"training diverged at step .* Try a learning rate lower than 1e"):
        training.train_sae(
            x, architecture="standard", d_sae=64, sparsity_coefficient=0.1, batch_size=128, epochs=20, lr=1e30,
            checkpoint=tmp_path / "c", checkpoint_every=1,
        )  # fmt: skip
    saved = Format("training checkpoint", 1, SAEError, remedy="none").load(tmp_path / "c", partial=True).arrays
    assert {"W_enc", "W_dec.mean"} <= set(saved)
    assert all(np.isfinite(array).all() for array in saved.values())


# --- settings ----------------------------------------------------------------------------------------------------


def test_settings_by_name_and_as_an_object_are_one(activations):
    config = TrainConfig(d_sae=64, k=4, batch_size=128)
    one = training.train_sae(activations, config, seed=3)
    two = training.train_sae(activations, d_sae=64, k=4, batch_size=128, seed=3)
    assert torch.equal(one.W_dec, two.W_dec)
    assert config == TrainConfig(d_sae=64, k=4, batch_size=128)
    assert replace(config, architecture="batchtopk").dead_features is None  # chosen anew by each architecture
    with pytest.raises(SAEError, match="config must be a TrainConfig, not 1152: give single settings by name"):
        training.train_sae(activations, 1152)
    with pytest.raises(SAEError, match="d_sae, the number of features, is lacking"):
        training.train_sae(activations, k=4)


def test_what_an_architecture_chooses_is_said():
    chosen = {name: TrainConfig(d_sae=64, architecture=name, **SPARSITY[name]).resolved() for name in SPARSITY}
    remedies = ["auxk", "auxk", "auxk", "resample", "resample", "none"]
    assert [config.dead_features for config in chosen.values()] == remedies
    assert chosen["matryoshka_batchtopk"].matryoshka_widths == (4, 8, 16, 32, 64)
    assert chosen["topk"].matryoshka_widths is None


def test_the_settings_that_an_editor_offers_are_the_fields_of_trainconfig():
    fields = typing.get_type_hints(TrainConfig)
    assert typing.get_type_hints(training.TrainSettings) == fields
    offered = inspect.signature(training.train_sae).parameters  # what Jupyter completes
    assert set(fields) <= set(offered)
    assert offered["lr"].default == 1e-3


# --- the command -------------------------------------------------------------------------------------------------


def test_the_documented_command_makes_saes_cards_and_indexes(model_folder, tmp_path):
    from saekit.index import FeatureIndex
    from saekit.training.publishing import main

    lines = [json.dumps({"text": f"document {i}: {tiny.TEXT[i : i + 300]}"}) for i in range(300)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(lines))
    where = f"--model {model_folder} --corpus {corpus} --index-corpus {corpus} --out {tmp_path / 'out'}"
    size = f"--sae {HOOK}:64:4 --sae blocks.2.hook_resid_post:48:3 --epochs 3 --index-tokens 3000 --held-out-tokens 500"
    with pytest.warns(UserWarning, match="held-out documents nearly equal a training document"):  # so they do
        main(f"{where} {size} --index-per-interval 2 --device cpu".split())
    for name, hook in ((f"{HOOK}.64", HOOK), ("blocks.2.hook_resid_post.48", "blocks.2.hook_resid_post")):
        folder = tmp_path / "out" / name
        sae = load_sae(str(folder / "sae"))
        card = json.loads((folder / "sae/card.json").read_text())
        index = FeatureIndex.load(folder / "index", sae=sae)
        assert sae.cfg.metadata.hook_name == hook
        assert index.n_tokens >= 3000
        assert index.bounded
        assert 0 < card["fvu"] < 1.5
        assert card["held_out"] == f"{corpus} (heldout)"
        assert f"--sae {HOOK}:64:4" in card["training"]["command"]
        assert card["dead_share_of_index_tokens"] == index.dead.mean()
        busiest = int(index.count.argmax())
        assert index.top(busiest, 3)
        whole = FeatureIndex.load(folder / "index-mergeable", sae=sae)
        small = [whole.compacted(tmp_path / f"{name}-{per}", per=per) for per in (2, 4)]
        kept = [(one.path / "sampled_value.bin").stat().st_size for one in small]
        assert (folder / "index/sampled_value.bin").stat().st_size == kept[0] < kept[1]


@pytest.mark.parametrize("text", ["blocks.1.hook_resid_post", "hook:64", "hook:many:4"])
def test_an_sae_that_the_command_cannot_read_is_explained(text, capsys):
    from saekit.training.publishing import main

    with pytest.raises(SystemExit):
        main(["--out", "x", "--sae", text])
    assert "expected HOOK:D_SAE:K" in capsys.readouterr().err
