"""What decides what an SAE makes of a state: its weights and its settings."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from saekit._base.identity import Identity
from saekit._base.weights import remembered

if TYPE_CHECKING:
    from sae_lens import SAE

_NO_NUMBERS = ("dtype", "device", "metadata")  # fields that say where and how exactly it is computed, not what
_READS = ("hook_name", "hook_name_out", "hook_head_index", "prepend_bos")  # of the metadata: what it is given to read


def sae_identity(sae: "SAE[Any]") -> Identity:
    """Return everything that decides what an SAE computes: weights, architecture, every setting, what it reads.

    The weights are taken in half precision: the identity is the same before and after saving. It takes a millisecond
    or two until one of them changes; sliders ask at every move.
    """
    cfg = sae.cfg
    facts = {"architecture": cfg.architecture()}
    facts |= {one.name: getattr(cfg, one.name) for one in fields(cfg) if one.name not in _NO_NUMBERS}
    if (
        k := getattr(sae.activation_fn, "k", None)
    ) is not None:  # what acts, whatever was written to the settings since
        facts["k"] = k
    facts |= {name: getattr(cfg.metadata, name) for name in _READS}
    weights = remembered(sae, sae.state_dict().items(), lambda: _weights(sae))
    return Identity("SAE", {**facts, "weights": weights})


def _weights(sae: "SAE[Any]") -> str:
    """Return a SHA-256 over the weights in half precision: all that the indexes of earlier saekits know of an SAE."""
    digest = hashlib.sha256(sae.cfg.architecture().encode())
    for key, value in sorted(sae.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().to(torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def sae_of(stored: Mapping[str, Any]) -> Identity | None:
    """Return the SAE of something that was stored, None where it names none.

    Args:
        stored: What was stored, with the facts of `sae_identity` under ``"sae"``. What an earlier saekit wrote knows
            the hash of the weights, ``"sae_hash"``, and the hook point only.
    """
    facts = stored.get("sae")
    if facts is None and stored.get("sae_hash"):
        facts = {"weights": stored["sae_hash"], "hook_name": stored["hook_name"]}
    return None if facts is None else Identity("SAE", facts)
