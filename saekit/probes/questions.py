"""Does a model answer correctly? Multiple-choice questions, a model's answers to them, and what foretells its errors.

Gallifant et al. 2025 (arXiv 2502.11367) predict from a small model's features whether a larger one will be right.
The baseline that counts is how sure the answering model is of its own answer.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from saekit.data import LabelledItems
from saekit.errors import ProbeError
from saekit.models import Edit, batches_of_one_length, bos_token_id, encode_whole, forward, hooked, token_ids
from saekit.probes.features import TextFeatures, as_extracted
from saekit.probes.pooling import Pooling, pool

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Question:
    """A prompt with several continuations, of which ``choices[answer]`` is right."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Answers:
    """What a model answered.

    Attributes:
        questions: In the order that was given.
        log_probs: Log-probability of each choice after the prompt, summed over its tokens, in nats
            ``[question, choice]``; ``-inf`` where a question has fewer choices.
        n_tokens: Tokens of each choice; 1 where there is none.
        model_name: Who answered.
        per_token: Whether choices are ranked by log-probability per token instead of the sum, which favours short ones.
    """

    questions: tuple[Question, ...]
    log_probs: Float[np.ndarray, "question choice"]
    n_tokens: Int[np.ndarray, "question choice"]
    model_name: str
    per_token: bool = False

    @property
    def ranked(self) -> Float[np.ndarray, "question choice"]:
        """What the choices are ranked by."""
        return self.log_probs / self.n_tokens if self.per_token else self.log_probs

    @property
    def chosen(self) -> Int[np.ndarray, " question"]:
        """The choice with the highest rank; the first of equal ones."""
        return self.ranked.argmax(1)

    @property
    def right(self) -> np.ndarray:
        """Whether each answer is right ``[question]``."""
        return self.chosen == np.array([question.answer for question in self.questions])

    @property
    def confidence(self) -> Float[np.ndarray, "question 3"]:
        """How sure the model is: probability of its choice among all choices, lead over the second, and entropy."""
        shares = np.exp(self.ranked - self.ranked.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        best = np.sort(shares, axis=1)[:, ::-1]
        entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(1)
        return np.stack([best[:, 0], best[:, 0] - best[:, 1], entropy], 1)

    def labelled(self) -> LabelledItems:
        """Return the prompts as a data set whose label says whether the answer was right."""
        name, own = f"answers of {self.model_name}", "the questions'"
        texts = tuple(question.prompt for question in self.questions)
        return LabelledItems(name, texts, self.right.astype(np.int64), ("wrong", "right"), own, own)

    def __repr__(self) -> str:
        by_sum, by_mean = (replace(self, per_token=per_token).right.mean() for per_token in (False, True))
        return (
            f"Answers of {self.model_name} to {len(self.questions):,} questions: right {by_sum:.3f} by the "
            f"sum of log-probabilities, {by_mean:.3f} by their mean; ranked by the "
            f"{'mean' if self.per_token else 'sum'}"
        )


def cloze(texts: Sequence[str], *, n_choices: int = 4, least_words: int = 4, seed: int = 0) -> tuple[Question, ...]:
    """Make questions of sentences: which word comes last?

    The wrong choices are last words of other sentences, those nearest in how often they end one, so that a rare
    word does not give itself away. Where the right choice stands is drawn at random.

    Args:
        texts: Sentences. Those with fewer words, or that do not end in a word, are left out.
        n_choices: Choices a question.
        least_words: Words of a sentence, the last one included.
        seed: Seed of the draws.

    Raises:
        ProbeError: Fewer different last words than choices.
    """
    kept = []
    for text in dict.fromkeys(texts):
        bare = re.sub(r"\W+$", "", text)
        words = bare.split(" ")
        if len(words) >= least_words and WORD.fullmatch(words[-1]) and words[-1].islower() and len(words[-1]) > 2:
            kept.append((" ".join(words[:-1]), words[-1]))
    counts = Counter(word for _, word in kept)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    if len(ranked) < n_choices:
        raise ProbeError(f"{len(ranked)} different last words: a question with {n_choices} choices needs as many")
    place = {word: i for i, word in enumerate(ranked)}
    generator = np.random.default_rng(seed)
    reach = 5 * n_choices  # neighbours among whom wrong choices are drawn
    questions = []
    for prompt, word in kept:
        start = min(max(0, place[word] - reach), max(0, len(ranked) - 2 * reach - 1))
        near = [other for other in ranked[start : start + 2 * reach + 1] if other != word]
        wrong = [near[i] for i in generator.permutation(len(near))[: n_choices - 1]]
        answer = int(generator.integers(n_choices))
        choices = [*wrong[:answer], word, *wrong[answer:]]
        questions.append(Question(prompt, tuple(f" {choice}" for choice in choices), answer))
    return tuple(questions)


@torch.no_grad()
def answer_questions(
    model: "SAETransformerBridge",
    questions: Sequence[Question],
    *,
    per_token: bool = False,
    skip_blocks: Sequence[int] = (),
    batch_size: int = 32,
) -> Answers:
    """Let a model choose: for every choice the log-probability of its tokens after the prompt.

    Choices of one token cost a single pass a question.

    Args:
        model: Who answers.
        questions: The questions.
        per_token: Whether choices are ranked by log-probability per token instead of the sum, which favours short ones.
        skip_blocks: Blocks that are left out: the state passes them as it is. A damaged twin of the model, to have
            another model where there is only one.
        batch_size: Sequences a forward pass.

    Raises:
        ProbeError: No question, or one with an answer that is not among its choices.
    """
    if not questions:
        raise ProbeError("no question to answer")
    for i, question in enumerate(questions):
        if not 0 <= question.answer < len(question.choices):
            raise ProbeError(f"question {i}: answer {question.answer} is not among {len(question.choices)} choices")
    width = max(len(question.choices) for question in questions)
    log_probs = np.full((len(questions), width), -np.inf)
    n_tokens = np.ones((len(questions), width), np.int64)
    wanted: dict[tuple[int, ...], list[tuple[int, int, tuple[int, ...]]]] = {}  # what is read: who asks for which ids
    for i, question in enumerate(questions):
        bos = bos_token_id(model)
        if question.prompt:
            prompt = encode_whole(model, question.prompt, name=f"question {i}", error=ProbeError).tolist()
        elif bos is None:
            raise ProbeError(f"question {i} has no prompt, and this model no BOS token in its place: expected a prompt")
        else:
            prompt = [bos]
        for c, ids in enumerate(map(tuple, token_ids(model, question.choices, error=ProbeError))):
            n_tokens[i, c] = len(ids)
            wanted.setdefault((*prompt, *ids[:-1]), []).append((i, c, ids))
    rows = sorted(wanted)
    skipped: dict[str, Edit] = {}
    for block in skip_blocks:
        skipped |= _skipped(block)
    for numbers in batches_of_one_length(rows, batch_size):
        batch = [rows[number] for number in numbers.tolist()]
        with hooked(model, skipped):
            logits = forward(model, torch.tensor(batch))
        for row, scores in zip(batch, logits.float().log_softmax(-1).cpu(), strict=True):
            for i, c, ids in wanted[row]:
                log_probs[i, c] = float(scores[range(len(row) - len(ids), len(row)), list(ids)].sum())
    left_out = f" without blocks {', '.join(map(str, skip_blocks))}" if skip_blocks else ""
    return Answers(tuple(questions), log_probs, n_tokens, f"{model.cfg.model_name}{left_out}", per_token)


def _skipped(block: int) -> dict[str, Edit]:
    """Return hooks that put the state before a block in the place of the state after it."""
    held: dict[str, torch.Tensor] = {}

    def keep(state):
        held["state"] = state

    def pass_on(state):
        return held["state"]

    return {f"blocks.{block}.hook_resid_pre": keep, f"blocks.{block}.hook_resid_post": pass_on}


def word_frequency(texts: Sequence[str], corpus: Sequence[str]) -> Float[np.ndarray, "text 2"]:
    """Return the mean and the lowest log count of each text's words in a corpus (0 for a text without words)."""
    counts = Counter(word for text in corpus for word in WORD.findall(text.lower()))
    logs = [[np.log1p(counts[word]) for word in WORD.findall(text.lower())] or [0.0] for text in texts]
    return np.array([[np.mean(row), min(row)] for row in logs])


def beside_features(
    features: TextFeatures, columns: np.ndarray, *, sae: str | None = None, pooling: "str | Pooling" = "max"
) -> Float[np.ndarray, "text column"]:
    """Return columns of your own with the pooled features beside them, in the order of the data: for `probe_columns`.

    Do features say more than, for example, the confidence alone? Compare the two probes, with ``classifier=
    "logistic-l1"``: a penalty on squares would drown a few good columns among thousands of others.

    Args:
        features: Extraction of the texts.
        columns: Numbers ``[text]`` or ``[text, column]``, in the order of the data that was extracted.
        sae: Name of the SAE; the first one if None.
        pooling: Pooling of the features; see `probe`.
    """
    own = np.asarray(columns, np.float64).reshape(len(columns), -1)
    as_extracted(features, "beside_features", own)  # refuses columns that are not one row for each text
    pooled = np.zeros((len(own), features.sae(sae).d_sae))
    pooled[features.index] = pool(features.sae(sae), pooling).toarray()
    return np.hstack([own, pooled])
