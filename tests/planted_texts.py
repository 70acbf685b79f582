"""Texts whose feature activations are made up, so that what a probe must find is known."""

import numpy as np

from saekit.data import labelled_texts
from saekit.probes import Hook, SAEFeatures, TextFeatures

NAME = "planted"


def planted(
    n_texts: int = 200, *, d_sae: int = 60, classes: int = 2, signal: float = 1.0, seed: int = 0, d_model: int = 6,
    keep_states: bool = False, share: float | None = None,
) -> TextFeatures:  # fmt: skip
    """Return texts of class c in which feature c fires, where ``signal`` is the chance of it; the rest is noise.

    Feature ``d_sae - 1`` is never active. Words are as good as features: "word c" stands in texts of class c.
    ``share`` is the share of class 1 if there are two classes. The second hidden dimension holds the class, weakly.
    """
    from scipy.sparse import csr_array

    generator = np.random.default_rng(seed)
    labels = np.arange(n_texts) % classes
    if share is not None:
        labels = (np.arange(n_texts) < share * n_texts).astype(np.int64)
    counts = generator.integers(2, 9, n_texts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = (generator.random((starts[-1], d_sae)) < 0.05) * generator.gamma(2, 1, (starts[-1], d_sae))
    rows[:, d_sae - 1] = 0
    rows[:, :classes] = 0
    words = []
    for i, c in enumerate(labels):
        known = generator.random() < signal
        if known:
            rows[generator.integers(starts[i], starts[i + 1]), c] = 1 + generator.random()
        words.append(f"{'word' if known else 'other'} {chr(97 + c) * 3 if known else 'xyz'} text {_name(i)}")
    data = labelled_texts(words, labels.tolist(), name="planted")
    states = generator.normal(size=(starts[-1], d_model)).astype(np.float32)
    states[:, 1] += 0.7 * np.repeat(labels, counts)
    position = np.concatenate([np.arange(n) for n in counts])
    mean = np.add.reduceat(states, starts[:-1]) / counts[:, None]
    hook = Hook("blocks.1.hook_resid_post", starts, position, states[starts[1:] - 1], mean.astype(np.float32),
                states.astype(np.float16) if keep_states else None, {})  # fmt: skip
    sae = SAEFeatures(NAME, hook, csr_array(rows.astype(np.float32)))
    ids = generator.integers(2, 50, starts[-1]).astype(np.int32)
    cut = np.zeros(n_texts, bool)
    return TextFeatures(data, np.arange(n_texts), ids, starts, {hook.name: hook}, {NAME: sae}, cut, 128, "made up")


def _name(number: int) -> str:
    """Return letters for a number, so that no two texts are the same but for digits."""
    return "".join(chr(97 + int(d)) for d in str(number))
