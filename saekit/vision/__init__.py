"""From words to images: a small vision transformer, SAEs on its residual stream, probes on their features.

    train, test = load_digits().split()
    model = train_vision(train)
    activations = patch_activations(model, train)
    sae = train_sae(activations.rows, d_sae=256, k=8, batch_size=512, epochs=20)
    features = image_features(sae, patch_activations(model, test), test)      # what ImageActivations shows
    probe(probe_features(model, sae, test, controls=("random",)))

To read in order: `model`, `activations`, `features`, `probes`.
"""

from saekit.vision.activations import PatchActivations, Reconstruction, patch_activations, reconstruction
from saekit.vision.data import LabelledImages, load_digits
from saekit.vision.features import ClassShare, ImageExample, ImageFeatures, ImageInterval, features_of, image_features
from saekit.vision.model import VisionConfig, VisionTransformer, accuracy, train_vision, vision_transformer
from saekit.vision.probes import probe_features

__all__ = [
    "ClassShare",
    "ImageExample",
    "ImageFeatures",
    "ImageInterval",
    "LabelledImages",
    "PatchActivations",
    "Reconstruction",
    "VisionConfig",
    "VisionTransformer",
    "accuracy",
    "features_of",
    "image_features",
    "load_digits",
    "patch_activations",
    "probe_features",
    "reconstruction",
    "train_vision",
    "vision_transformer",
]
