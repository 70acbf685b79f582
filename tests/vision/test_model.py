"""The vision transformer, its patches, and SAEs on its residual stream."""

import numpy as np
import pytest
import torch

from saekit import vision
from saekit.errors import DataError, VisionError
from saekit.training import train_sae
from saekit.vision.data import checked_images
from tests.planted_images import planted_images

SMALL = vision.VisionConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32, n_classes=2)


@pytest.fixture(scope="module")
def digits():
    return vision.load_digits()


@pytest.fixture(scope="module")
def planted():
    return planted_images(200)


@pytest.fixture(scope="module")
def trained(planted):
    return vision.train_vision(planted[:128], SMALL, epochs=12, batch_size=32, lr=5e-3)


def test_the_digits_are_those_of_scikit_learn_with_their_licence(digits):
    from sklearn.datasets import load_digits

    known = load_digits()
    assert np.array_equal(digits.images, (known.images / 16).astype(np.float32))
    assert np.array_equal(digits.labels, known.target)
    assert "CC BY 4.0" in digits.licence
    assert "1,797 images of 8x8" in repr(digits)


def test_a_split_loses_nothing_shares_nothing_and_keeps_the_classes(digits):
    train, test = digits.split(0.4, seed=3)
    rows = lambda data: {(image.tobytes(), label) for image, label in zip(data.images, data.labels, strict=True)}  # noqa: E731
    assert rows(train) | rows(test) == rows(digits)
    assert len(train) + len(test) == 1797
    assert not rows(train) & rows(test)
    shares = np.bincount(test.labels) / np.bincount(digits.labels)
    assert np.abs(shares - 0.4).max() < 0.01
    assert np.array_equal(digits.split(0.4, seed=3)[1].images, test.images)
    assert not np.array_equal(digits.split(0.4, seed=4)[1].images, test.images)


def test_patches_are_the_squares_of_the_image_row_by_row():
    image = torch.arange(64.0).reshape(1, 8, 8)
    found = vision.vision_transformer(SMALL).patches(image)[0]
    for number in range(16):
        row, column = divmod(number, 4)
        expected = [image[0, 2 * row + i, 2 * column + j] for i in range(2) for j in range(2)]
        assert found[number].tolist() == [float(v) for v in expected]


def test_attention_is_softmax_of_queries_and_keys_without_a_mask():
    block = vision.vision_transformer(SMALL, seed=1).double().blocks[0]
    x = torch.randn(1, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, k, v = block.qkv(x)[0].split(16, dim=1)
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        pattern = torch.softmax(q[:, part] @ k[:, part].T / 8**0.5, dim=1)
        heads.append(pattern @ v[:, part])
    assert torch.allclose(block.attention(x)[0], block.out(torch.cat(heads, dim=1)), atol=1e-12)


def test_the_residual_stream_is_the_sum_of_what_blocks_add(trained, planted):
    images = torch.from_numpy(planted.images[:3])
    before, after = (trained.residual(images, f"blocks.{i}.hook_resid_post") for i in (0, 1))
    assert torch.equal(trained.blocks[1](before), after)
    assert torch.equal(trained.blocks[0](trained.residual(images, "blocks.0.hook_resid_pre")), before)
    assert torch.equal(trained.head(trained.ln(after[:, 0])), trained(images))


def test_training_names_planted_images_and_depends_on_the_seed_alone(trained, planted):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    again = vision.train_vision(planted[:128], SMALL, epochs=12, batch_size=32, lr=5e-3)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is not touched"
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))
    found = vision.accuracy(trained, planted[128:])
    assert found.value > 0.9
    untrained = vision.accuracy(vision.vision_transformer(SMALL), planted[128:])
    assert untrained.high < found.low


def test_the_interval_of_an_accuracy_is_wilsons(trained, planted, monkeypatch):
    from importlib import import_module

    from scipy.stats import binomtest

    _vision_model = import_module("saekit.vision.model")

    guesses = torch.from_numpy(planted.labels[:50]).clone()
    guesses[:4] = 1 - guesses[:4]
    monkeypatch.setattr(_vision_model, "predicted_classes", lambda *_: guesses)
    found = vision.accuracy(trained, planted[:50])
    known = binomtest(46, 50).proportion_ci(0.95, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((0.92, known.low, known.high), abs=1e-5)


def test_activations_leave_the_class_token_out_and_keep_every_patch(trained, planted):
    found = vision.patch_activations(trained, planted, "blocks.0.hook_resid_post")
    with torch.no_grad():
        whole = trained.residual(torch.from_numpy(planted.images), "blocks.0.hook_resid_post").numpy()
    assert found.values.shape == (200, 16, 16)
    assert np.allclose(found.values, whole[:, 1:], atol=1e-6)
    assert np.allclose(found.class_token, whole[:, 0], atol=1e-6)
    assert np.shares_memory(found.rows, found.values)


def test_reconstruction_agrees_with_numpy_and_scikit_learn(trained, planted):
    from sklearn.decomposition import PCA

    train, held_out = (vision.patch_activations(trained, part) for part in (planted[:128], planted[128:]))
    sae = train_sae(train.rows, d_sae=32, k=4, batch_size=256, epochs=4)
    found = vision.reconstruction(sae, train, held_out)
    x = held_out.rows.astype(np.float64)
    with torch.no_grad():
        rebuilt = sae(torch.from_numpy(held_out.rows)).numpy()
        features = sae.encode(torch.from_numpy(held_out.rows)).numpy()
    variance = ((x - x.mean(0)) ** 2).sum()
    assert found.fvu == pytest.approx(((x - rebuilt) ** 2).sum() / variance, rel=1e-5)
    assert found.l0 == pytest.approx((features != 0).sum(1).mean())
    assert found.dead == (features == 0).all(0).sum()
    pca = PCA(found.components).fit(train.rows.astype(np.float64))
    by_pca = pca.inverse_transform(pca.transform(x))
    assert found.pca_fvu == pytest.approx(((x - by_pca) ** 2).sum() / variance, rel=1e-5)


def test_errors_say_what_was_got_and_what_to_do(trained, planted):
    images = planted.images.copy()
    images[4, 0, 0] = np.nan
    data = lambda images, labels=planted.labels: vision.LabelledImages("x", images, labels, ("a", "b"), "", "")  # noqa: E731
    with pytest.raises(VisionError, match="1 of 200 images hold a number that is not finite, the first is image 4"):
        data(images)
    with pytest.raises(VisionError, match="divide by the largest grey value"):
        data(planted.images * 16)
    with pytest.raises(VisionError, match=r"images must be \[image, row, column\]"):
        checked_images(planted.images[0])
    with pytest.raises(VisionError, match="labels must be 0 to 1"):
        data(planted.images, planted.labels + 1)
    with pytest.raises(VisionError, match=r"no hook point 'blocks.9.hook_resid_post': this model has blocks.0"):
        vision.patch_activations(trained, planted, "blocks.9.hook_resid_post")
    with pytest.raises(VisionError, match="got images of 6x8 pixels, this model reads 8x8"):
        vision.patch_activations(trained, data(planted.images[:, :6]))
    with pytest.raises(VisionError, match="cannot be cut into patches of 3"):
        vision.VisionConfig(patch=3)
    with pytest.raises(VisionError, match="batch_size must be 1 to 10"):
        vision.train_vision(planted[:10])
    with pytest.raises(VisionError, match="the model has 10 classes, the data 2"):
        vision.train_vision(planted, vision.VisionConfig())
    with pytest.raises(DataError, match="not finite"):
        train_sae(np.full((100, 8), np.nan, np.float32), d_sae=16, k=2, batch_size=10)
