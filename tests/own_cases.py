"""Models, SAEs and corpora as researchers bring them, drawn by hypothesis, and what transformers and sae-lens make of
them: the states of transformers' own modules, the features of sae-lens's own encode."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import assume, event, note, strategies as st
from sae_lens import SAE
from sae_lens.util import get_special_token_ids
from torch import Tensor

from saekit.data import Tokens
from saekit.errors import SaekitError
from saekit.models import load_model
from saekit.saes import load_sae
from tests import tiny
from tests.reference import NAMES, Reference

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("llama", "qwen2", "olmo2", "gpt2", "gpt_neox", "bloom")},
    "gpt_neox in sequence": ("gpt_neox", {"use_parallel_residual": False}),
    "bloom normed": ("bloom", {"apply_residual_connection_post_layernorm": True}),
}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "BOS and EOS": {"bos": "<s>", "eos": "</s>"},
    "no BOS": {"bos": None, "eos": "<|im_end|>"},
    "BOS is EOS": {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
    "neither": {"bos": None, "eos": None},
    "says no BOS": {"bos": "<s>", "eos": "</s>", "says": False},
    "says BOS": {"bos": "<s>", "eos": "</s>", "says": True},
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
KINDS = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk", "matching_pursuit", "abstopk")
SCALED = ("expected_average_only_in", "covariance_whitening")
D_MODEL, HEADS, D_VOCAB, N_CTX = 32, 4, 400, 64


@dataclass(frozen=True)
class Choice:
    """What was drawn of a model and an SAE."""

    architecture: str
    tokenizer: str
    dtype: str
    layer: int
    point: str
    kind: str
    d_sae: int
    seed: int
    fields: tuple[tuple[str, Any], ...]
    from_folder: bool


@st.composite
def choices(
    draw,
    *,
    points: tuple[str, ...] = tuple(NAMES),
    kinds: tuple[str, ...] = KINDS,
    odd: float = 0.08,
    exact: bool = False,
) -> Choice:
    """Draw a model and an SAE, evenly (hypothesis would draw some values again and again).

    Args:
        draw: Function of hypothesis.
        points: Hook points.
        kinds: Architectures of SAEs.
        odd: Share of configurations that saekit refuses.
        exact: Whether half precision is left out.
    """
    generator = np.random.default_rng(draw(st.integers(0, 2**40)))

    def one_of(values: Sequence[Any]) -> Any:
        return values[generator.integers(len(values))]

    kind, point, d_sae = one_of(kinds), one_of(points), one_of([1, 2, 3, 9, 24, 70])
    fields: dict[str, Any] = {
        "normalize_activations": one_of(["none"] * 4 + ["layer_norm", "constant_norm_rescale"]),
        "apply_b_dec_to_input": kind not in TRANSCODERS and one_of([True, False]),
        "dtype": one_of(["float32", "float32", "float64"]),
        "prepend_bos": one_of([True, False, None]),
        "context_size": one_of([None, 4, 1000]),
    }
    if kind in ("topk", "abstopk"):
        fields["k"] = int(generator.integers(1, d_sae + 1))
        fields["rescale_acts_by_decoder_norm"] = one_of([True, False])
    if kind == "matching_pursuit":
        fields["residual_threshold"] = one_of([1e-2, 1.0])
        fields["max_iterations"] = one_of([1, 3, 8])
        fields["stop_on_duplicate_support"] = one_of([True, False])
    if point == "z" and kind not in TRANSCODERS:
        fields["reshape_activations"] = one_of(["none", "hook_z"])
    if generator.random() < odd:
        fields |= one_of([{"hook_head_index": 1}, *({"normalize_activations": scaling} for scaling in SCALED)])
    architecture, tokenizer = one_of(list(ARCHITECTURES)), one_of(list(TOKENIZERS))
    dtype, layer, seed = (
        one_of(["float64", "float64", "float32", "float32" if exact else "bfloat16"]),
        one_of(range(3)),
        one_of(range(2**16)),
    )
    drawn = tuple(sorted(fields.items(), key=lambda item: item[0]))
    found = Choice(architecture, tokenizer, dtype, layer, point, kind, d_sae, seed, drawn, one_of([True, False]))
    note(str(found))
    return found


class Models:
    """Models of all drawn kinds, each written and loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[tuple, tuple[Any, Reference, bool]] = {}

    def __call__(self, architecture: str, tokenizer: str, dtype: str) -> tuple[Any, Reference]:
        """Return a model, and the same in transformers."""
        key = architecture, tokenizer, dtype
        if key not in self._loaded:
            folder = self._written(architecture, tokenizer)
            model = load_model(folder, dtype=DTYPES[dtype], progress=False)
            self._loaded[key] = model, Reference(folder, DTYPES[dtype]), model.cfg.default_prepend_bos
        model, reference, begins = self._loaded[key]
        model.cfg.default_prepend_bos = begins  # an SAE that is loaded for it may have changed that
        return model, reference

    def scratch(self) -> Path:
        """Return an empty folder; what was in it is gone."""
        folder = self.folder / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _written(self, architecture: str, tokenizer: str) -> Path:
        folder = self.folder / f"{architecture} {tokenizer}"
        if not folder.exists():
            name, settings = ARCHITECTURES[architecture]
            words = dict(TOKENIZERS[tokenizer])
            says = words.pop("says", None)
            sizes = {"d_model": D_MODEL, "d_vocab": D_VOCAB, "n_ctx": N_CTX}
            tiny.write_own(folder, name, trained=True, settings=settings, **sizes)
            tiny.write_tokenizer(folder, d_vocab=D_VOCAB, **words)
            if says is not None:
                path = folder / "tokenizer_config.json"
                path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": says}))
        return folder


def drawn_sae(choice: Choice, d_in: int, folder: Path) -> Any:
    """Return the SAE that was drawn, as sae-lens has it."""
    fields = dict(choice.fields)
    fields["hook_name"] = f"blocks.{choice.layer}.{NAMES[choice.point]}"
    if choice.kind in TRANSCODERS:
        fields |= {"d_out": D_MODEL, "hook_name_out": f"blocks.{choice.layer}.hook_mlp_out"}
    trained = choice.kind.endswith("batchtopk")
    kind = "jumprelu" if trained else choice.kind
    try:
        sae = tiny.own_sae(kind, d_in, choice.d_sae, seed=choice.seed, **fields).to(getattr(torch, fields["dtype"]))
    except ValueError:
        assume(False)
        raise
    if trained:
        sae = _as_trained(choice, sae, folder)
    return sae.eval()


def _as_trained(choice: Choice, like: Any, folder: Path) -> Any:
    """Return the SAE of a training class that has no inference class of its own, as sae-lens saves it."""
    from sae_lens.registry import get_sae_training_class

    kind, configuration = get_sae_training_class(choice.kind)
    fields = {name: value for name, value in vars(like.cfg).items() if name in configuration.__dataclass_fields__}
    if choice.kind.startswith("matryoshka"):
        fields["matryoshka_widths"] = sorted({1, choice.d_sae})
    training = kind(configuration(**fields, k=max(1, choice.d_sae // 3)))
    weights = {name: weight for name, weight in like.state_dict().items() if name in training.state_dict()}
    training.load_state_dict(training.state_dict() | weights)
    training.topk_threshold.fill_(0.3)
    training.save_inference_model(folder)
    return SAE.load_from_disk(folder)


@dataclass
class Own:
    """A model and an SAE of one's own, with what transformers and sae-lens make of them."""

    choice: Choice
    model: Any
    reference: Reference
    sae: Any
    plain: Any  # the same SAE, which saekit never sees

    @property
    def hook(self) -> str:
        return f"blocks.{self.choice.layer}.{NAMES[self.choice.point]}"

    @property
    def fields(self) -> dict[str, Any]:
        return dict(self.choice.fields)

    @cached_property
    def special(self) -> list[int]:
        return get_special_token_ids(self.reference.tokenizer)

    @cached_property
    def bos(self) -> int | None:
        """The id that texts begin with: the model's convention, unless the SAE was loaded for it and says otherwise."""
        begins, wish = self.model.cfg.default_prepend_bos, self.fields["prepend_bos"]
        if self.choice.from_folder and wish is not None:
            begins = wish
        return self.reference.tokenizer.bos_token_id if begins else None

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """Return transformers' states ``[batch, pos, d_in]``."""
        return self.reference.run(ids, self.choice.layer)[self.choice.point]

    @torch.no_grad()
    def encode(self, states: Tensor) -> Tensor:
        """Return sae-lens's features ``[batch, pos, d_sae]``."""
        return self.plain.encode(self._apart(states).to(self.plain.dtype))

    @torch.no_grad()
    def rebuilt(self, states: Tensor, features: Tensor | None = None) -> Tensor:
        """Return sae-lens's reconstruction of states, or what it would be with other features, in float64."""
        own = self.encode(states)
        return self.plain.decode(own if features is None else features.to(own)).flatten(2).double()

    def rebuilt_row(self, feature: int) -> Tensor:
        """Return what one unit of a feature writes ``[d_in]``, of an SAE without normalisation, in float64."""
        states = torch.zeros(1, 1, self.plain.cfg.d_in)
        unit = torch.zeros(1, 1, self.plain.cfg.d_sae)
        unit[..., feature] = 1
        return (self.rebuilt(states, unit) - self.rebuilt(states, torch.zeros_like(unit)))[0, 0]

    def _apart(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (HEADS, -1)) if self.fields.get("reshape_activations") == "hook_z" else states

    def counts(self, ids: Tensor, states: Tensor, document: np.ndarray | None = None) -> np.ndarray:
        """Return which tokens count: text, not special, and no longer than 6 times the median of their row."""
        norm = np.linalg.norm(states.double().numpy(), axis=-1)
        middle = np.sort(norm, axis=1)[:, (norm.shape[1] - 1) // 2]
        keep = ~np.isin(ids.numpy(), self.special) & (norm <= 6 * middle[:, None])
        return keep if document is None else keep & (document >= 0)

    def steady(self, states: Tensor) -> bool:
        """Say whether rounding, which is another in transformers, leaves all features on their side of 0."""
        features = self.encode(states)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            noise = torch.randn(states.shape, generator=generator, dtype=states.dtype)
            moved = self.encode(states + 3e-5 * states.abs().max() * noise)
            if not torch.equal(moved != 0, features != 0) or not torch.allclose(
                moved, features, rtol=0, atol=2e-3 * features.abs().max().clamp(min=1e-3).item()
            ):
                return False
        return bool(torch.isfinite(features).all())


def own(models: Models, choice: Choice, folder: Path) -> Own | None:
    """Return what was drawn, None if saekit refuses it as it should."""
    model, reference = models(choice.architecture, choice.tokenizer, choice.dtype)
    d_in = HEADS * (D_MODEL // HEADS)
    if choice.point in ("k", "v") and getattr(reference.config, "num_key_value_heads", HEADS) != HEADS:
        d_in //= 2
    # Made twice: a deep copy of sae-lens's SAEs would keep the scales of inputs in the original.
    sae, plain = (drawn_sae(choice, d_in, folder) for _ in range(2))
    found = Own(choice, model, reference, sae, plain)
    if choice.from_folder:
        sae.save_model(folder / "saved")
        found.plain = SAE.load_from_disk(folder / "saved", dtype="float32").eval()
        bos = found.bos
        sae = attempt(found, lambda: load_sae(folder / "saved", model=model))
        if sae is None:
            return None
        found.sae = sae
        found.bos = bos
    return found


def drawn_tokens(seed: int, rows: int, pos: int) -> Tokens:
    """Return rows of any ids at all, special ones among them, in documents that begin anywhere."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, D_VOCAB, (rows, pos)).astype(np.int32)
    ids[generator.random(ids.shape) < 0.05] = 0
    new = generator.random(ids.shape) < 0.1
    document = (np.cumsum(new.ravel()).reshape(ids.shape) + np.arange(rows)[:, None]).astype(np.int32)
    document[generator.random(ids.shape) < 0.1] = -1
    numbers = np.sort(generator.choice(1000, rows, replace=False)).astype(np.int64)
    return Tokens(ids, document, numbers, name="drawn")


Reason = tuple[str, Callable[[Own], bool]]
REFUSALS: list[Reason] = [
    ("reads one attention head alone", lambda own: "hook_head_index" in own.fields),
    ("the scale is not folded into its weights", lambda own: own.fields["normalize_activations"] in SCALED),
    ("has no hook point", lambda own: not own.reference.has(own.choice.point)),
    ("does not add what its MLP writes", lambda own: own.choice.architecture == "bloom normed"),
    ("negative activations", lambda own: own.choice.kind == "abstopk"),
    ("is a transcoder", lambda own: own.choice.kind in TRANSCODERS),
    ("the SAE rescales each input", lambda own: own.fields["normalize_activations"] != "none"),
]


def attempt(own: Own, call: Callable[[], Any], *expected: str) -> Any:
    """Return what a call returns, None if it refuses for a reason that there is: one of `REFUSALS`, or expected."""
    try:
        return call()
    except SaekitError as error:
        fits = [pattern for pattern, there in REFUSALS if there(own) and re.search(pattern, str(error))]
        if fits or any(re.search(pattern, str(error)) for pattern in expected):
            event(f"refused: {str(error)[:50]}")
            return None
        raise
