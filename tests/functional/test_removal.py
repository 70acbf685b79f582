"""Taking features out: with one feature a concept the right ones restore, and break, exactly what they should."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from saekit import functional, probes
from saekit.errors import ProbeError
from saekit.probes import Hook, SAEFeatures
from tests import tiny
from tests.planted_texts import planted

D_SAE, D_MODEL = 40, 40


def concepts(classes: int, seed: int = 0, n: int = 400):
    """Return texts, a stand-in for an SAE, and a property: features 0.. speak for classes, 30 and 31 for the property.

    The residual stream is what the features write, plus an error that the SAE does not rebuild.
    """
    generator = np.random.default_rng(seed)
    base = planted(n, classes=classes, seed=seed)
    labels = base.data.labels
    other = generator.integers(0, 2, n)
    directions = np.linalg.qr(generator.normal(size=(D_SAE, D_SAE)))[0][:, :D_MODEL].astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    starts = base.sae().hook.starts
    counts = np.diff(starts)
    rows = (generator.random((starts[-1], D_SAE)) < 0.05) * generator.random((starts[-1], D_SAE))
    rows[:, [*range(classes), 30, 31]] = 0
    on = np.repeat(np.arange(n), counts)
    rows[np.arange(len(on)), labels[on]] = 1.0
    rows[np.arange(len(on)), 30 + other[on]] = 3.0  # the louder of the two
    states = rows @ directions + 0.05 * generator.normal(size=(len(on), D_MODEL))
    mean = (np.add.reduceat(states, starts[:-1]) / counts[:, None]).astype(np.float32)
    hook = Hook("h", starts, base.sae().hook.position, mean, mean, None, {})
    sae = SAEFeatures("planted", hook, csr_array(rows.astype(np.float32)))
    return replace(base, hooks={"h": hook}, saes={"planted": sae}), writing(directions), other


def writing(directions: np.ndarray, architecture: str = "standard", **fields):
    """Return an SAE with these decoder rows."""
    made = tiny.own_sae(architecture, D_MODEL, D_SAE, **fields)
    made.W_dec.data.copy_(torch.from_numpy(directions))
    return made


def test_removing_the_spurious_features_brings_the_oracle_back():
    features, sae, other = concepts(2)
    got = functional.spurious_correlation_removal(sae, features, other, sizes=(2, 5))
    assert got.detail["oracle"] > 0.95 and got.detail["base"] < 0.9
    assert set(got.features[:2]) == {30, 31}
    assert got.score[0] > 0.8
    assert got.control[0] < 0.4
    assert "SCR" in repr(got)


def test_removing_one_classs_features_breaks_its_probe_only():
    features, sae, _ = concepts(4)
    got = functional.targeted_probe_perturbation(sae, features, sizes=(1, 2))
    assert [taken[0] for taken in got.features] == [0, 1, 2, 3]
    assert min(got.detail["accuracy"]) > 0.9
    assert got.score[0] > 0.25 > 0.1 > abs(got.control[0])
    drop = np.array(got.detail["drop"][0])
    assert (np.diag(drop) > drop.max(1, where=~np.eye(4, dtype=bool), initial=-1)).all()


def test_a_removal_comes_back_from_disk_as_it_was(tmp_path):
    two, sae, other = concepts(2, n=100)
    three, *_ = concepts(3, n=100)
    path = tmp_path / "r.safetensors"
    for found in (
        functional.spurious_correlation_removal(sae, two, other, sizes=(2, 5)),
        functional.targeted_probe_perturbation(sae, three, sizes=(1, 2)),
    ):
        found.save(path)
        assert functional.Removal.load(path) == found
    with pytest.raises(ProbeError, match="holds a 'saekit removal 1', expected a saekit curve"):
        probes.Curve.load(path)


def test_taking_a_feature_out_of_every_token_is_taking_its_mean_out_of_the_text():
    from saekit.functional.removal import _without

    features, sae, _ = concepts(2, n=50)
    read, directions = features.sae(), sae.W_dec.numpy()
    chosen = np.array([0, 30])
    got = _without(read.hook.mean, probes.pool(read, "mean"), directions, chosen, np.arange(40))
    dense, starts = read.events.toarray(), read.hook.starts
    pooled = np.add.reduceat(dense, starts[:-1]) / np.diff(starts)[:, None]
    usual = pooled[:40][:, chosen].mean(0) @ directions[chosen]
    for t in range(50):
        span = slice(starts[t], starts[t + 1])
        want = read.hook.mean[t] - (dense[span][:, chosen] @ directions[chosen]).mean(0) + usual
        np.testing.assert_allclose(got[t], want, atol=1e-5)


def test_what_cannot_be_removed_is_refused():
    features, sae, other = concepts(3, n=60)
    with pytest.raises(ProbeError, match="needs two classes, not 3"):
        functional.spurious_correlation_removal(sae, features, other)
    two, sae, other = concepts(2, n=60)
    with pytest.raises(ProbeError, match="5 rows for 60 texts"):
        functional.spurious_correlation_removal(sae, two, other[:5])
    with pytest.raises(ProbeError, match="expected 0 or 1 for each text"):
        functional.spurious_correlation_removal(sae, two, other + 1)
    with pytest.raises(ProbeError, match="too few texts"):
        functional.spurious_correlation_removal(sae, two, two.data.labels)
    with pytest.raises(ProbeError, match="at least three classes, not 2"):
        functional.targeted_probe_perturbation(sae, two)
    with pytest.raises(ProbeError, match="not this SAE's"):
        functional.targeted_probe_perturbation(tiny.own_sae("standard", 3, 3), two)


def test_an_sae_that_divides_by_the_length_of_its_rows_is_taken_as_it_writes():
    features, sae, other = concepts(2)
    lengths = np.random.default_rng(5).uniform(0.2, 5, (D_SAE, 1)).astype(np.float32)
    stretched = writing(lengths * sae.W_dec.numpy(), "topk", k=8, rescale_acts_by_decoder_norm=True)
    got, want = (
        functional.spurious_correlation_removal(one, features, other, sizes=(2, 5)) for one in (stretched, sae)
    )
    assert got.features == want.features
    np.testing.assert_allclose(got.score, want.score, atol=1e-6)


def test_an_sae_that_rescales_each_input_is_refused():
    features, sae, other = concepts(2)
    scaling = writing(sae.W_dec.numpy(), normalize_activations="layer_norm")
    with pytest.raises(ProbeError, match=r"rescales each input .'layer_norm'"):
        functional.spurious_correlation_removal(scaling, features, other)
