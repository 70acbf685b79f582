"""SAEs whose decoder is not W_dec alone, in every circuit tool, against sae-lens's own encode and decode in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saekit.attribution import attribution_patching
from saekit.circuits import (
    ERROR,
    checked_circuit,
    circuit_edges,
    faithfulness,
    feature_circuit,
    localise,
    minimality,
    task_from_pairs,
)
from saekit.errors import SAEError
from saekit.models import check_hook, hidden_states, logits_from
from saekit.saes import Dictionary, Directions, dictionary_of, ordered, random_directions
from tests import tiny

LOW, HIGH = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
KINDS = ("plain", "rescaled", "layer_norm", "constant_norm_rescale")


@pytest.fixture(scope="module")
def model(model_folder):
    from saekit.models import load_model

    loaded = load_model(str(model_folder), dtype=torch.float64)
    loaded.cfg.model_name = "tiny"
    return loaded


@pytest.fixture(scope="module")
def task(model):
    return task_from_pairs(model, tiny.PAIRS)


def made(kind: str, hook: str, seed: int):
    """An SAE with decoder rows of length 3, so that no scale goes unseen."""
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    sae = TopKSAE(
        TopKSAEConfig(
            d_in=32, d_sae=64, k=8, apply_b_dec_to_input=kind == "plain", dtype="float64",
            rescale_acts_by_decoder_norm=kind == "rescaled",
            normalize_activations=kind if "norm" in kind else "none",
            metadata=SAEMetadata(model_name="tiny", hook_name=hook, prepend_bos=True),
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(64, 32, generator=generator, dtype=torch.float64), dim=1)
    with torch.no_grad():
        sae.W_dec.copy_(3 * rows)
        sae.W_enc.copy_(rows.T)
        sae.b_dec.copy_(0.1 * rows[0])
    sae.requires_grad_(False)
    return sae.eval()


@pytest.fixture(scope="module", params=KINDS)
def saes(request):
    return [made(request.param, hook, seed) for seed, hook in enumerate((LOW, HIGH))]


def decoded(sae, states, features):
    """Decode with the scale of these states: an SAE remembers that of the last that it encoded."""
    sae.encode(states)
    return sae.decode(features)


def written(sae, states, feature):
    """What one unit of a feature adds to a state ``[d_model]``."""
    none = torch.zeros(64, dtype=torch.float64)
    unit = none.clone()
    unit[feature] = 1
    return decoded(sae, states, unit) - decoded(sae, states, none)


def pair(model, task, row, hook):
    return [hidden_states(model, ids[row][None], hook) for ids in (task.ids, task.ids_corrupted)]


def metric(model, task, row, states, hook):
    logits = logits_from(model, task.ids[row][None], states, hook)[0, -1]
    return logits[task.answers[row]] - logits[task.foils[row]]


def test_any_state_is_its_features_times_rows_and_scale_with_bias_and_error(model, task, saes):
    for sae in saes:
        states = torch.cat(pair(model, task, 0, sae.cfg.metadata.hook_name))[:, 1:]
        found = dictionary_of(model, sae)
        split = found.split(states)
        features = sae.encode(states)
        torch.testing.assert_close(split.features, features)
        torch.testing.assert_close(split.error, states - sae.decode(features))
        bias = decoded(sae, states, torch.zeros_like(features))
        torch.testing.assert_close(found.writes(split.features * split.scale) + bias + split.error, states)
        alone = found.split(states[1, 2]).scale
        expected = split.scale[1, 2] if isinstance(split.scale, torch.Tensor) else split.scale
        torch.testing.assert_close(torch.as_tensor(alone), torch.as_tensor(expected))


def test_the_effect_of_a_feature_is_that_of_what_it_writes(model, task, saes):
    found = feature_circuit(model, saes, task, steps=1)
    for layer, sae in enumerate(saes):
        hook = sae.cfg.metadata.hook_name
        expected, errors = np.zeros((2, 64)), np.zeros(2)
        for row in range(len(task)):
            clean, corrupted = pair(model, task, row, hook)
            leaf = clean.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(metric(model, task, row, leaf, hook), leaf)
            for which, where in enumerate(task.positions.values()):
                here, there, slope = (states[0, where[row]] for states in (clean, corrupted, gradient))
                change = sae.encode(here) - sae.encode(there)
                moves = torch.stack([change[i] * written(sae, here, i) for i in range(64)])
                expected[which] += (moves @ slope).numpy() / len(task)
                errors[which] += ((here - there - moves.sum(0)) @ slope).item() / len(task)
        np.testing.assert_allclose(found.features[layer], expected, atol=1e-8)
        np.testing.assert_allclose(found.errors[layer], errors, atol=1e-8)


def test_circuits_and_attribution_patching_agree(model, task, saes):
    circuit = feature_circuit(model, saes[1], task, steps=1)
    expected = np.zeros((2, 64))
    for row in range(len(task)):
        found = attribution_patching(
            model, saes[1], task.ids[row], corrupted=task.ids_corrupted[row],
            answer=int(task.answers[row]), foil=int(task.foils[row]),
        )  # fmt: skip
        for item in found.top(10**6, kinds=("feature",)):
            for which, where in enumerate(task.positions.values()):
                if item.position == where[row]:
                    expected[which, item.feature] += item.effect / len(task)
    np.testing.assert_allclose(circuit.features[0], expected, atol=1e-7)


def test_all_features_patched_are_the_target_s_reconstruction_at_the_base_s_scale(model, task, saes):
    found = localise(model, saes[1], task, counts=[3, 64])
    left, edits = [], []
    for row in range(len(task)):
        base, target = pair(model, task, row, HIGH)
        features = saes[1].encode(target)
        move = decoded(saes[1], base, features) - decoded(saes[1], base, saes[1].encode(base))
        p, q = (
            logits_from(model, ids[row][None], states, HIGH)[0, -1].detach().log_softmax(-1)
            for ids, states in ((task.ids, base + move), (task.ids_corrupted, target))
        )
        left.append((p.exp() * (p - q)).sum().item())
        edits.append(move.norm().item())
    assert found.kl_all == pytest.approx(np.mean(left), rel=1e-6)
    assert found.kl[-1] == pytest.approx(found.kl_all)
    assert found.edit[-1] == pytest.approx(np.mean(edits), rel=1e-6)


def test_an_ablated_feature_takes_its_mean_through_the_decoder(model, task, saes):
    sae = saes[1]
    circuit = feature_circuit(model, sae, task)
    kept = circuit.top(2)
    mean = []
    for where in task.positions.values():
        at = torch.stack([pair(model, task, row, HIGH)[0][0, where[row]] for row in range(len(task))])
        features = sae.encode(at)
        mean.append((features.mean(0), (at - sae.decode(features)).mean(0)))

    def run(kept):
        total = 0.0
        for row in range(len(task)):
            states = pair(model, task, row, HIGH)[0]
            for which, where in enumerate(task.positions.values()):
                here = states[0, where[row]].clone()
                features = mean[which][0].clone()
                for node in kept:
                    if node.position == which:
                        features[node.feature] = sae.encode(here)[node.feature]
                states[0, where[row]] = decoded(sae, here, features) + mean[which][1]
            total += metric(model, task, row, states, HIGH).item() / len(task)
        return total

    found = faithfulness(model, sae, task, circuit, sizes=[2, 10**6], errors="ablated")
    assert found.nothing == pytest.approx(run(()), abs=1e-8)
    share = (run(kept) - run(())) / (found.model - found.nothing)
    assert found.faithfulness[0] == pytest.approx(share, abs=1e-8)
    assert minimality(model, sae, task, circuit, size=2, errors="ablated").faithfulness == pytest.approx(share)
    with_errors = faithfulness(model, sae, task, circuit, sizes=[10**6])
    assert with_errors.faithfulness[-1] == pytest.approx(1, abs=1e-8), "everything kept is the model"


def test_an_edge_is_a_finite_difference_of_what_its_source_writes(model, task, saes):
    circuit = feature_circuit(model, saes, task)
    for edge in circuit_edges(model, saes, task, circuit, k=3)[:3]:
        total = 0.0
        at, to = (list(task.positions.values())[node.position] for node in (edge.source, edge.target))
        for row in range(len(task)):
            clean, corrupted = (states[0, at[row]] for states in pair(model, task, row, LOW))
            change = saes[0].encode(clean) - saes[0].encode(corrupted)
            if edge.source.feature == ERROR:
                moved = decoded(saes[0], clean, change) - decoded(saes[0], clean, torch.zeros_like(change))
                move = clean - corrupted - moved
            else:
                move = change[edge.source.feature] * written(saes[0], clean, edge.source.feature)

            def target(scale, move=move, row=row, to=to[row], at=at[row], feature=edge.target.feature):
                states, seen = pair(model, task, row, LOW)[0], {}
                states[0, at] += scale * move
                model.run_with_hooks(
                    task.ids[row][None],
                    fwd_hooks=[
                        (check_hook(model, LOW), lambda state, hook: states),
                        (check_hook(model, HIGH), lambda state, hook: seen.update(high=state.detach())),
                    ],
                    prepend_bos=False,
                )
                return saes[1].encode(seen["high"])[0, to, feature].item()

            high = pair(model, task, row, HIGH)[0].requires_grad_()
            (gradient,) = torch.autograd.grad(metric(model, task, row, high, HIGH), high)
            slope = gradient[0, to[row]] @ written(saes[1], high.detach()[0, to[row]], edge.target.feature)
            total += (target(1e-3) - target(-1e-3)) / 2e-3 * slope.item() / len(task)
        assert edge.weight == pytest.approx(total, rel=5e-3, abs=1e-5)


def test_the_rows_of_a_plain_sae_are_its_decoder_bit_for_bit(model):
    sae = tiny.topk_sae(32, 96, hook_name=LOW)
    assert torch.equal(dictionary_of(model, sae).rows, sae.W_dec)


def test_a_circuit_leaves_an_sae_that_can_be_copied(model, task):
    """sae-lens keeps the scale of the last input in the SAE; with a graph on it no copy could be made or saved."""
    from copy import deepcopy

    saes = [made("layer_norm", hook, seed) for seed, hook in enumerate((LOW, HIGH))]
    circuit_edges(model, saes, task, feature_circuit(model, saes, task, steps=1), k=2)
    assert torch.equal(deepcopy(saes[1]).W_dec, saes[1].W_dec)


def test_one_dictionary_needs_no_list(model, task):
    sae = made("plain", LOW, 0)
    alone, listed = feature_circuit(model, sae, task), feature_circuit(model, [sae], task)
    np.testing.assert_array_equal(alone.features[0], listed.features[0])
    assert circuit_edges(model, sae, task, alone) == ()
    one, other = (faithfulness(model, given, task, alone, sizes=[3]) for given in (sae, [sae]))
    assert one.faithfulness == other.faithfulness


def test_another_dictionary_of_the_same_shape_is_refused(model, task):
    sae, other = made("plain", LOW, 0), made("plain", LOW, 1)
    circuit = feature_circuit(model, sae, task)
    for call in (faithfulness, minimality, circuit_edges, checked_circuit):
        with pytest.raises(SAEError, match=r"of another SAE .* Pass the one that the circuit was made with"):
            call(model, other, task, circuit)
    checked_circuit(model, other, task, replace(circuit, identities=()))
    bases = [random_directions(torch.zeros(1, 32), LOW, seed=seed) for seed in (0, 0, 1)]
    bases = [replace(basis, rows=basis.rows.double(), mean=basis.mean.double()) for basis in bases]
    of_basis = feature_circuit(model, bases[0], task)
    checked_circuit(model, bases[1], task, of_basis)
    with pytest.raises(SAEError, match="of another SAE"):
        checked_circuit(model, bases[2], task, of_basis)


def test_what_writes_elsewhere_or_is_no_dictionary_is_refused(model, task):
    transcoder = tiny.topk_sae(32, 96, hook_name=LOW).double()
    transcoder.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
    for call in (feature_circuit, localise):
        with pytest.raises(SAEError, match=r"a transcoder: it reads blocks\.0\.hook_resid_post and writes blocks\.1\."):
            call(model, transcoder, task)
        narrow = Directions("narrow", LOW, torch.eye(16), torch.zeros(16), rectified=False)
        with pytest.raises(SAEError, match=r"16 components, but blocks\.0\.hook_resid_post has 32"):
            call(model, narrow, task)
        with pytest.raises(SAEError, match="expected an SAE or Directions, not str"):
            call(model, "smollm2" if call is not feature_circuit else ["smollm2"], task)
    with pytest.raises(SAEError, match="would count twice"):
        ordered(model, [made("plain", LOW, 0), made("plain", "blocks.1.hook_resid_pre", 0)])
    assert isinstance(ordered(model, made("plain", LOW, 0))[0], Dictionary)
