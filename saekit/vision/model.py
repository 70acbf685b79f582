"""A small vision transformer, to be read top to bottom (Dosovitskiy et al. 2021, in the pre-norm form of section 3.1).

An image becomes a sequence: square patches, each mapped to a vector, behind a class token that collects what is
needed to name the image. From there on it is the transformer that reads text, without the mask: patches look both
ways. Points of the residual stream have transformer-lens's names.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from saekit.errors import VisionError
from saekit.probes import Estimate
from saekit.vision.data import LabelledImages, checked_images


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision transformer; the defaults suit digits of 8x8 pixels."""

    image: tuple[int, int] = (8, 8)  # rows and columns of pixels
    patch: int = 2  # pixels on each side of a patch
    d_model: int = 64
    n_layers: int = 3
    n_heads: int = 4
    d_mlp: int = 128
    n_classes: int = 10

    def __post_init__(self) -> None:
        rows, columns = self.image
        if self.patch < 1 or rows % self.patch or columns % self.patch:
            raise VisionError(f"images of {rows}x{columns} pixels cannot be cut into patches of {self.patch} on a side")
        if self.d_model % self.n_heads:
            raise VisionError(f"d_model {self.d_model} must be a multiple of n_heads {self.n_heads}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Points of the residual stream that can be read."""
        return ("blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(self.n_layers)))


class Block(nn.Module):
    """Attention, then an MLP; each reads a normalised copy of the residual stream and adds to it."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads = config.n_heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, config.d_mlp), nn.Linear(config.d_mlp, d)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Return the residual stream after the block."""
        x = x + self.attention(self.ln1(x))
        return x + self.down(F.gelu(self.up(self.ln2(x))))

    def attention(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Return what the attention heads write, from a residual stream that is normalised."""
        batch, pos, d = x.shape
        qkv = self.qkv(x).view(batch, pos, 3, self.n_heads, d // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [batch, head, pos, d_head]
        mixed = F.scaled_dot_product_attention(q, k, v)  # no mask: every patch sees every other
        return self.out(mixed.transpose(1, 2).reshape(batch, pos, d))


class VisionTransformer(nn.Module):
    """Images in, class scores out; make one with `vision_transformer` or `train_vision`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.grid
        self.embed = nn.Linear(config.patch**2, config.d_model)
        self.class_token = nn.Parameter(torch.zeros(config.d_model))
        self.positions = nn.Parameter(torch.zeros(1 + rows * columns, config.d_model))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.n_classes)

    def forward(self, images: Float[Tensor, "batch row column"]) -> Float[Tensor, "batch c"]:
        """Return one score per class."""
        x = self.residual(images, self.config.hook_names[-1])  # [batch, 1 + patch, d_model]
        return self.head(self.ln(x[:, 0]))  # the class token alone is asked

    def residual(self, images: Float[Tensor, "batch row column"], hook_name: str) -> Float[Tensor, "batch pos d_model"]:
        """Return the residual stream at one point; position 0 is the class token, the patches follow row by row."""
        if hook_name not in self.config.hook_names:
            raise VisionError(f"no hook point {hook_name!r}: this model has {', '.join(self.config.hook_names)}")
        x = self.embed(self.patches(images))  # [batch, patch, d_model]
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1) + self.positions
        number = re.match(r"blocks\.(\d+)\.hook_resid_post", hook_name)
        for block in self.blocks[: int(number[1]) + 1 if number else 0]:
            x = block(x)
        return x

    def patches(self, images: Float[Tensor, "batch row column"]) -> Float[Tensor, "batch patch pixel"]:
        """Cut images into square patches, row by row."""
        if tuple(images.shape[1:]) != self.config.image:
            raise VisionError(
                f"got images of {'x'.join(map(str, images.shape[1:]))} pixels, this model reads "
                f"{'x'.join(map(str, self.config.image))}"
            )
        (rows, columns), side = self.config.grid, self.config.patch
        cut = images.reshape(len(images), rows, side, columns, side).transpose(2, 3)
        return cut.reshape(len(images), rows * columns, side * side)


def vision_transformer(config: VisionConfig | None = None, *, seed: int = 0) -> VisionTransformer:
    """Return a vision transformer with random weights that depend on the seed alone: the untrained control."""
    with torch.random.fork_rng(devices=[]):  # modules draw from the global generator when made: leave it as it was
        model = VisionTransformer(config := config or VisionConfig())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=1 / math.sqrt(3 * module.in_features), generator=generator)
                module.bias.zero_()
        # Patches and places start at about the same size: with places ten times smaller, digits end 3 points worse.
        model.embed.weight.normal_(std=1 / config.patch, generator=generator)
        model.class_token.normal_(std=0.5, generator=generator)
        model.positions.normal_(std=0.5, generator=generator)
    return model.requires_grad_(False).eval()


def train_vision(
    data: LabelledImages,
    config: VisionConfig | None = None,
    *,
    epochs: int = 15,
    batch_size: int = 64,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> VisionTransformer:
    """Train a vision transformer to name images: AdamW, the rate warmed up over a tenth and decayed to zero.

    Args:
        data: Training images; keep others back to test on (`LabelledImages.split`).
        config: Sizes of the model; by default those of `VisionConfig`, with the images' size and number of classes.
        epochs: Number of passes over the images.
        batch_size: Number of images per step; an incomplete last batch is left out.
        lr: Peak learning rate.
        weight_decay: Weight decay of AdamW.
        seed: Seed of the weights and of the order of the images.
        on_epoch: Function that is called after every epoch with its number, from 1, and its mean loss in nats.

    Raises:
        VisionError: Images that do not fit the sizes, fewer images than a batch, or a setting that makes no sense.
    """
    config = config or VisionConfig(image=data.images.shape[1:], n_classes=len(data.label_names))
    if config.n_classes != len(data.label_names):
        raise VisionError(f"the model has {config.n_classes} classes, the data {len(data.label_names)}")
    if epochs < 1 or not lr > 0:
        raise VisionError(f"epochs must be at least 1 and lr more than 0, not {epochs} and {lr}")
    if not 1 <= batch_size <= len(data):
        raise VisionError(f"batch_size must be 1 to {len(data):,}, the number of images, not {batch_size}")
    model = vision_transformer(config, seed=seed).requires_grad_(True)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    per_epoch = len(data) // batch_size
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        total = 0.0
        for i in range(per_epoch):
            share = (epoch * per_epoch + i + 1) / (epochs * per_epoch)
            optimiser.param_groups[0]["lr"] = lr * min(share / 0.1, (1 + math.cos(math.pi * share)) / 2)
            rows = order[i * batch_size : (i + 1) * batch_size]
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item()
        if not math.isfinite(total):
            raise VisionError(f"training diverged in epoch {epoch + 1}: try a learning rate lower than {lr}")
        if on_epoch is not None:
            on_epoch(epoch + 1, total / per_epoch)
    return model.requires_grad_(False).eval()


def predicted_classes(model: VisionTransformer, data: LabelledImages) -> Int[Tensor, " image"]:
    """Return the class that the model gives each image."""
    with torch.no_grad():
        return model(torch.from_numpy(checked_images(data.images))).argmax(1)


def accuracy(model: VisionTransformer, data: LabelledImages) -> Estimate:
    """Return the share of images that the model names rightly, with Wilson's 95 % interval (Wilson 1927)."""
    from scipy.stats import binomtest

    if not len(data):
        raise VisionError("got no images: an accuracy needs at least one")
    right = binomtest(int((predicted_classes(model, data) == torch.from_numpy(data.labels)).sum()), len(data))
    interval = right.proportion_ci(method="wilson")
    return Estimate(float(right.statistic), float(interval.low), float(interval.high))
