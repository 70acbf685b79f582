"""A feature index made of a few sentences, with the surface of `saekit.FeatureIndex`: views need no model."""

import zlib
from types import SimpleNamespace

import numpy as np

from saekit._base.identity import Identity
from saekit.errors import FeatureIndexError, ModelError
from saekit.index import PromptReading

WORDS = [
    " the",
    " river",
    " rose",
    " after",
    " three",
    " days",
    " of",
    " rain",
    " and",
    " the",
    " town",
    " opened",
    " its",
    " old",
    " flood",
    " gates",
    " on",
    " Monday",
    " morning",
    ",",
    " while",
    " she",
    " wrote",
    " to",
    " the",
    " council",
    " that",
    " nobody",
    " had",
    " checked",
    " them",
    " since",
    " the",
    " war",
    ".",
    "\n In",
    " Paris",
    " and",
    " Berlin",
    " trains",
    " were",
    " late",
    ";",
    " in",
    " Zürich",
    " they",
    " were",
    " not",
    ".",
    "\t",
]
NASTY = [
    ' <img src=x onerror="window.hacked=1">',
    "</script>",
    " שלום",
    " عالم",
    "戦",
    "",
    "",
    " 🙂",
    "\0",
    "&amp;",
]
WINDOW = 32


class FakeIndex:
    """Deterministic nonsense in the right shapes: feature 3 is dead, feature 7 holds hostile text."""

    def __init__(self, d_sae=64, dead=(3,), neuronpedia_id=None):
        rng = np.random.default_rng(0)
        self.d_sae, self.n_tokens, self.l0 = d_sae, 1_000_000, 12.4
        self.excluded = {"bos": 7812, "special": 0, "massive": 93}
        self.model_name, self.hook_name = "tiny", "blocks.1.hook_resid_post"
        self.model_identity, self.sae_identity = Identity("model", {}), Identity("SAE", {"weights": "0" * 64})
        self.manifest = {"neuronpedia_id": neuronpedia_id} if neuronpedia_id else {}
        self.bounded = True
        self.dead = np.isin(np.arange(d_sae), dead)
        self.count = np.where(self.dead, 0, rng.integers(50, 90_000, d_sae))
        self.density = self.count / self.n_tokens
        self.max = np.where(self.dead, 0, rng.uniform(2, 25, d_sae)).astype(np.float32)
        self.mean_active = self.max * 0.3
        self.asked = []

    def _check(self, feature):
        if not 0 <= feature < self.d_sae:
            raise FeatureIndexError(f"feature must be in 0…{self.d_sae - 1}, not {feature}")

    def _example(self, feature, rank, value):
        rng = np.random.default_rng([feature, rank])
        at = int(rng.integers(0, len(WORDS)))
        tokens = [WORDS[(at + i) % len(WORDS)] for i in range(WINDOW)]
        peak = int(rng.integers(4, WINDOW - 4))
        if feature == 7:
            tokens[peak - 3 : peak - 3 + len(NASTY)] = NASTY
            tokens = tokens[:WINDOW]
        activations = np.zeros(WINDOW, np.float32)
        for offset in rng.integers(0, WINDOW, 3):
            activations[offset] = value * rng.uniform(0.1, 0.7)
        activations[peak] = value
        return SimpleNamespace(
            value=float(value), sequence_id=1000 + rank, position=40 + rank, tokens=tokens, activations=activations,
            peak=peak, duplicates=2 if rank == 1 else 0,
        )  # fmt: skip

    def top(self, feature, k=20):
        self._check(feature)
        if self.dead[feature]:
            return []
        return [self._example(feature, r, self.max[feature] * 0.97**r) for r in range(k)]

    def intervals(self, feature, n=5, per=4):
        width = self.max[feature] / n
        return [
            SimpleNamespace(
                low=float(width * i), high=float(width * (i + 1)), share=0.5 ** (i + 1),
                examples=[self._example(feature, 100 * i + r, width * (i + 0.5)) for r in range(per)],
            )
            for i in reversed(range(n))
        ]  # fmt: skip

    def histogram(self, feature):
        edges = np.linspace(0, self.max[feature], 25)
        counts = (self.count[feature] * np.exp(-np.arange(24) / 3) / 3.5).astype(int)
        counts[-1] += 1
        return SimpleNamespace(edges=edges, counts=counts)

    def logits(self, feature, k=10):
        words = [
            " Monday",
            " Tuesday",
            "day",
            "\n",
            " morning",
            " 戦",
            "<b>",
            " the",
            " عالم",
            " a-very-long-token-indeed",
        ]
        return SimpleNamespace(
            promoted=[(i, w, 1.9 - 0.13 * i) for i, w in enumerate(words[:k])],
            suppressed=[(i + 50, w, -1.2 + 0.1 * i) for i, w in enumerate(reversed(words[:k]))],
        )

    def neighbours(self, feature, by="decoder", k=10):
        start = feature + (1 if by == "decoder" else 11)
        return [SimpleNamespace(feature=(start + i) % self.d_sae, score=0.83 - 0.07 * i) for i in range(k)]

    def search(self, token=None, text=None):
        wanted = token or text
        hits = [f for f in range(4, 12) if not self.dead[f]] if wanted.strip() in "".join(WORDS) else []
        return [
            SimpleNamespace(feature=f, score=1.0 / (i + 1), example=self._example(f, 0, self.max[f]))
            for i, f in enumerate(hits)
        ]

    def _tokens(self, text):
        if not text.strip():
            raise ModelError("the text is empty: expected at least one character")
        return ["<bos>"] + [w if i == 0 else " " + w for i, w in enumerate(text.split(" "))]

    def read_prompt(self, model, sae, text):
        self.asked.append(text)
        tokens = self._tokens(text)
        rolls = [zlib.crc32(token.encode()) for token in tokens]
        features = np.array([[(roll + 7 * f) % 100 / 10 for f in range(self.d_sae)] for roll in rolls], np.float32)
        features[0] = 0
        return PromptReading(tokens, features * (features > 8), np.arange(len(tokens)) == 0)
