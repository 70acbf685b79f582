"""Features of images: the strongest images, samples, classes, and probes on them, against brute force."""

import numpy as np
import pytest
import torch

from saekit import probes, vision
from saekit.errors import VisionError
from saekit.training import train_sae
from tests.planted_images import DEAD, place_of, planted_features, planted_images


@pytest.fixture(scope="module")
def data():
    return planted_images()


@pytest.fixture(scope="module")
def features(data):
    return planted_features(data)


def test_the_top_images_of_a_patch_detector_are_the_brightest_in_order(data, features):
    patch_means = [
        [data.images[i, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for r in range(4) for c in range(4)]
        for i in range(len(data))
    ]
    brightest = sorted(range(len(data)), key=lambda i: (-max(patch_means[i]), i))
    found = features.top(0, 12)
    assert [example.image for example in found] == brightest[:12]
    for example in found:
        assert example.label == "bright"
        peak = np.unravel_index(example.activations.argmax(), (4, 4))
        assert peak == place_of(example.image)
        assert (example.activations > 0).sum() == 1
        assert example.value == pytest.approx(10 * (max(patch_means[example.image]) - 0.4), rel=1e-5)


def test_statistics_agree_with_brute_force(features):
    dense = features.events.toarray()
    assert np.array_equal(features.count, (dense > 0).sum(0))
    assert np.allclose(features.density, (dense > 0).mean(0))
    assert np.allclose(features.max, dense.max(0))
    assert features.l0 == pytest.approx((dense > 0).sum(1).mean())
    assert np.flatnonzero(features.dead).tolist() == [DEAD]
    edges, counts = features.histogram(5)
    assert counts.sum() == features.count[5]
    assert np.array_equal(counts, np.histogram(dense[dense[:, 5] > 0, 5], edges)[0])


def test_classes_say_on_which_images_a_feature_fires(data, features):
    plain, bright = features.classes(0)
    assert (plain.active, plain.images, bright.active, bright.images) == (0, 30, 30, 30)
    assert bright.share == 1
    assert [c.active for c in features.classes(4)] == [0, 1]


def test_intervals_go_from_strong_to_weak_and_hold_what_lies_in_them(features):
    peaks = features.activations(5).max((1, 2)).astype(float)
    found = features.intervals(5, n=5, per=3)
    edges = np.linspace(0, peaks.max(), 6)
    assert [(i.low, i.high) for i in found] == [tuple(pair) for pair in zip(edges[-2::-1], edges[:0:-1], strict=True)]
    assert sum(i.share for i in found) == pytest.approx(1)
    for interval in found:
        inside = np.flatnonzero((peaks > interval.low) & (peaks <= interval.high))
        assert interval.share == pytest.approx(len(inside) / (peaks > 0).sum())
        assert len(interval.examples) == min(3, len(inside))
        assert {example.image for example in interval.examples} <= set(inside.tolist())
    again = [[e.image for e in i.examples] for i in features.intervals(5, n=5, per=3)]
    assert again == [[e.image for e in i.examples] for i in found]


def test_a_dead_feature_has_no_examples(features):
    assert features.top(DEAD) == features.intervals(DEAD) == ()
    assert features.histogram(DEAD)[1].sum() == 0


def test_an_sae_on_patches_gives_the_features_of_its_own_encoder(data):
    model = vision.vision_transformer(vision.VisionConfig(d_model=16, n_heads=2, d_mlp=16))
    states = vision.patch_activations(model, data)
    sae = train_sae(states.rows, d_sae=32, k=4, batch_size=128, epochs=2)
    found = vision.image_features(sae, states, data)
    with torch.no_grad():
        expected = sae.encode(torch.from_numpy(states.rows)).numpy()
    assert np.allclose(found.events.toarray(), expected)
    assert found.activations(5)[3, 2, 1] == pytest.approx(expected.reshape(60, 16, 32)[3, 9, 5])
    with pytest.raises(VisionError, match=r"the SAE reads 16 dimensions, .* has 64"):
        vision.image_features(sae, vision.patch_activations(vision.vision_transformer(), data), data)


def test_a_probe_finds_the_planted_class_and_not_shuffled_labels(data):
    bigger = planted_images(200)
    model = vision.vision_transformer(vision.VisionConfig(d_model=16, n_heads=2, d_mlp=16))
    states = vision.patch_activations(model, bigger)
    sae = train_sae(states.rows, d_sae=48, k=4, batch_size=128, epochs=8)
    found = vision.probe_features(model, sae, bigger, controls=("random", "permuted"))
    assert list(found.saes) == ["SAE", "SAE (random)", "SAE (permuted)"]
    assert np.array_equal(found.data.labels, bigger.labels[found.index])
    assert probes.probe(found, folds=3).macro_f1.low > 0.8
    majority, mean, random = probes.baselines(found, names=["majority", "hidden-mean", "random"], folds=3)
    assert majority.macro_f1.value < 0.5 < random.macro_f1.value
    pixels = probes.probe_columns(found, "raw pixels", bigger.images.reshape(200, -1), folds=3)
    assert pixels.minus(mean).macro_f1.value == pytest.approx(pixels.macro_f1.value - mean.macro_f1.value)
    shuffled = vision.LabelledImages(
        "x", bigger.images, np.random.default_rng(0).permutation(bigger.labels), bigger.label_names, "", ""
    )
    chance = probes.probe(vision.probe_features(model, sae, shuffled), folds=3).macro_f1
    assert chance.low < 0.5 < chance.high + 0.05


def test_probes_do_not_depend_on_the_order_of_the_images_and_twins_stay_in_one_fold(data):
    model = vision.vision_transformer(vision.VisionConfig(d_model=16, n_heads=2, d_mlp=16))
    sae = train_sae(vision.patch_activations(model, data).rows, d_sae=32, k=4, batch_size=128, epochs=2)
    twice = data[np.concatenate([np.arange(60), np.arange(10)])]
    order = np.random.default_rng(0).permutation(70)
    one, other = (vision.probe_features(model, sae, d) for d in (twice, twice[order]))
    assert probes.find_duplicates(one.data).n_texts == 20
    folds = probes.make_folds(one.data, 3)
    for group in {g for g in one.data.groups if one.data.groups.count(g) == 2}:
        assert len({folds.fold[i] for i, g in enumerate(one.data.groups) if g == group}) == 1
    assert probes.probe(one, folds=3).macro_f1 == probes.probe(other, folds=3).macro_f1


def test_errors_of_features_teach(data, features):
    values = np.zeros((60, 16, 2))
    with pytest.raises(VisionError, match=r"feature must be a whole number from 0 to 5, not 6"):
        features.top(6)
    with pytest.raises(VisionError, match="not 'a'"):
        features.activations("a")
    with pytest.raises(VisionError, match=r"must be \[image, patch, feature\]"):
        vision.features_of(values[0], data)
    with pytest.raises(VisionError, match="17 patches do not fill a grid of 4 rows and 4 columns"):
        vision.features_of(np.zeros((60, 17, 2)), data)
    with pytest.raises(VisionError, match="activations of 59 images and 60 images"):
        vision.features_of(values[1:], data)
    with pytest.raises(VisionError, match="smallest is -1"):
        vision.features_of(values - 1, data)
    values[8, 0, 0] = np.inf
    with pytest.raises(VisionError, match="1 images have activations that are not finite, the first is 8"):
        vision.features_of(values, data)
    with pytest.raises(VisionError, match="controls must be 'random' or 'permuted', not 'blind'"):
        model = vision.vision_transformer()
        sae = train_sae(vision.patch_activations(model, data).rows, d_sae=96, k=4, batch_size=128)
        vision.probe_features(model, sae, data, controls=("blind",))
