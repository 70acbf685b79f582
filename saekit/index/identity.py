"""Of which model and which SAE an index is, and whether those at hand are the same."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saekit._base.identity import Identity
from saekit.errors import FeatureIndexError, SaekitError
from saekit.models import model_identity, other_than
from saekit.saes import sae_identity, sae_of

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index.feature_index import FeatureIndex


def made_with(manifest: Mapping[str, Any]) -> tuple[Identity, Identity]:
    """Return model and SAE of an index; an older one knows the name of the model, and the weights of the SAE."""
    model = manifest.get("model") or {"name": manifest["model_name"]}
    return Identity("model", model), sae_of(manifest) or Identity("SAE", {})


def check_belongs(
    index: "FeatureIndex",
    *,
    model: "SAETransformerBridge | None" = None,
    sae: "SAE[Any] | None" = None,
    error: type[SaekitError] = FeatureIndexError,
) -> None:
    """Refuse a model or an SAE that the index was not built with, and say in what it differs.

    Args:
        index: The index.
        model: The model; None to compare no model.
        sae: The SAE; None to compare no SAE.
        error: Class of the error.

    Warns:
        UserWarning: The model is in another dtype than the one that the index was built with.
    """
    different = {
        "SAE": [] if sae is None else index.sae_identity.difference(sae_identity(sae)),
        "model": [] if model is None else other_than(index.model_identity, model_identity(model), "the index"),
    }
    for kind, words in different.items():
        if words:
            raise error(
                f"the index is of another {kind}: {'; '.join(words)} (the index's against the one given). Pass the "
                f"{kind} that it was built with, or build an index with this one: FeatureIndex.build"
            )
