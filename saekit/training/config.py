"""The settings of a training: `TrainConfig`, and the one door through which `train_sae` takes them.

Two forms, one meaning: ``train_sae(x, d_sae=1152, k=32)`` is short, for a notebook; ``train_sae(x, config)`` names a
setting that is kept, compared and varied: ``train_sae(x, config, seed=1)``. sae-lens's own configuration is of another
kind: three nested objects that also say where activations come from, what is logged and where files go.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict, TypeVar

from saekit._base.checks import finite, nearest, one_of, seed_of, whole
from saekit.errors import SAEError
from saekit.training.architectures import ARCHITECTURES

Function = TypeVar("Function", bound=Callable[..., Any])


def _option(words: str) -> Any:
    """Return a field that only some architectures take, with what it is in words for messages."""
    return field(default=None, metadata={"words": words})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that, beside the activations, decides the weights of an SAE; checked when it is made.

    Attributes:
        d_sae: Number of features.
        architecture: Name of the architecture: ``"topk"`` (Gao et al. 2024), ``"batchtopk"`` (Bussmann et al. 2024),
            ``"matryoshka_batchtopk"`` (Bussmann et al. 2025), ``"standard"`` (L1; Cunningham et al. 2023),
            ``"gated"`` (Rajamanoharan et al. 2024a) or ``"jumprelu"`` (Rajamanoharan et al. 2024b).
        k: Number of active features per token; for the batch architectures on average. For the first three.
        sparsity_coefficient: Weight of the sparsity penalty (L1 of activation times decoder norm; for JumpReLU L0),
            on the scaled activations with squared error summed over dimensions. It warms up over the first 5 %. For
            the last three.
        matryoshka_widths: Widths of the nested SAEs of a Matryoshka SAE, increasing, the last d_sae; by default
            d_sae / 16, 8, 4, 2 and 1.
        epochs: Number of times that the activations are gone through; may be a fraction.
        batch_size: Samples per step.
        lr: Peak learning rate of Adam, warmed up over 5 % and decayed linearly over the last half.
        seed: Seed of the initialisation and of the order of the data.
        dead_features: Remedy against dead features. ``"auxk"``: they learn to rebuild what the others miss (Gao et al.
            2024; default of the architectures with k). ``"resample"``: every ``dead_after`` samples they start anew
            at badly rebuilt inputs (Bricken et al. 2023; default of "standard" and "gated"). ``"none"``.
        dead_after: Number of samples without firing after which a feature counts as dead.
        encoder_init: ``"transposed"``: the encoder starts as the decoder's transpose. ``"random"``: at directions of
            its own, which makes many dead features.

    Raises:
        SAEError: A setting that cannot be used, or that the architecture does not have.
    """

    d_sae: int
    architecture: str = "topk"
    k: float | None = _option("the number of active features per token")
    sparsity_coefficient: float | None = _option("the weight of its sparsity penalty")
    matryoshka_widths: Sequence[int] | None = _option("the widths of the nested SAEs")
    epochs: float = 1
    batch_size: int = 2048
    lr: float = 1e-3
    seed: int = 0
    dead_features: str | None = None
    dead_after: int = 1_000_000
    encoder_init: str = "transposed"

    def __post_init__(self) -> None:
        self._checked()

    @classmethod
    def of(cls, config: "TrainConfig | None", settings: Mapping[str, Any]) -> "TrainConfig":
        """Return the settings of a call: ``settings`` alone, or in the place of some of ``config``.

        Raises:
            SAEError: A setting that there is not, that is lacking or that cannot be used.
        """
        known = [one.name for one in fields(cls)]
        if unknown := [name for name in settings if name not in known]:
            near = nearest(unknown[0], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise SAEError(f"training has no setting {unknown[0]!r}: {hint}")
        if config is not None:
            if not isinstance(config, TrainConfig):
                raise SAEError(
                    f"config must be a TrainConfig, not {config!r:.80}: give single settings by name, as in d_sae=1152"
                )
            return replace(config, **settings)
        if "d_sae" not in settings:
            raise SAEError("d_sae, the number of features, is lacking: give it, for example d_sae=1152, k=32")
        return cls(**settings)

    def resolved(self) -> "TrainConfig":
        """Return the same settings with what the architecture chooses in the place of None."""
        return replace(self, **self._checked())

    def _checked(self) -> dict[str, Any]:
        """Return the settings that are numbers or chosen by the architecture, each in its one form."""
        kind = self.architecture
        if "transcoder" in str(kind):
            raise SAEError(
                f"{kind!r} cannot be trained: sae-lens has classes that run transcoders and none that trains them. "
                f"Load a trained one with load_sae, or choose one of {', '.join(ARCHITECTURES)}"
            )
        architecture = ARCHITECTURES[one_of("architecture", kind, ARCHITECTURES, error=SAEError)]
        d_sae = whole("d_sae", self.d_sae, at_least=2, error=SAEError)
        options = {one.name: one.metadata["words"] for one in fields(self) if "words" in one.metadata}
        wanted = f"{architecture.sparsity}, {options[architecture.sparsity]}"
        for name in options:
            if name not in architecture.takes and getattr(self, name) is not None:
                takers = ", ".join(entry.name for entry in ARCHITECTURES.values() if name in entry.takes)
                raise SAEError(f"{name} is for {takers}, not for {kind!r}, which takes {wanted}")
        if getattr(self, architecture.sparsity) is None:
            raise SAEError(f"{kind!r} takes {wanted}: give it")
        remedies = architecture.dead_features
        remedy = remedies[0] if self.dead_features is None else self.dead_features
        one_of("encoder_init", self.encoder_init, ("transposed", "random"), error=SAEError)
        return {
            "d_sae": d_sae,
            "epochs": finite("epochs", self.epochs, above=0, error=SAEError),
            "batch_size": whole("batch_size", self.batch_size, at_least=2, error=SAEError),
            "lr": finite("lr", self.lr, above=0, error=SAEError),
            "seed": seed_of(self.seed, error=SAEError),
            "dead_features": one_of(f"dead_features of {kind!r}", remedy, remedies, error=SAEError),
            "dead_after": int(finite("dead_after", self.dead_after, at_least=1, error=SAEError)),
            **architecture.checked(self),
        }


class TrainSettings(TypedDict, total=False):
    """The fields of `TrainConfig` as keyword arguments: for editors and type checkers."""

    d_sae: int
    architecture: str
    k: float | None
    sparsity_coefficient: float | None
    matryoshka_widths: Sequence[int] | None
    epochs: float
    batch_size: int
    lr: float
    seed: int
    dead_features: str | None
    dead_after: int
    encoder_init: str


def takes_settings(function: Function) -> Function:
    """Show the fields of `TrainConfig` in the signature of a function that takes them as ``**settings``.

    `help` and Jupyter's completion read it, and so does the training view, which knows of a misspelt setting before it
    trains.
    """
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    settings = inspect.signature(TrainConfig).parameters.values()
    function.__dict__["__signature__"] = signature.replace(parameters=[*own, *settings])
    return function
