"""The command behind the bundled SAEs: harvest once, train each, measure all on the same tokens, index each."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from saekit.errors import SAEError
from saekit.training.architectures import ARCHITECTURES
from saekit.training.config import TrainConfig
from saekit.training.harvesting import harvest_many
from saekit.training.loop import trained

if TYPE_CHECKING:
    from sae_lens import SAE


class Wanted(NamedTuple):
    """One SAE to train."""

    hook: str
    d_sae: int
    k: float

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """Read ``hook:d_sae:k``."""
        try:
            hook, d_sae, k = text.rsplit(":", 2)
            return cls(hook, int(d_sae), float(k))
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected HOOK:D_SAE:K, for example {DEFAULT}, not {text!r}") from None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.hook}.{self.d_sae}"


DEFAULT = "blocks.18.hook_resid_post:4608:46"


def main(arguments: list[str] | None = None) -> None:
    """Harvest, train, measure and index SAEs: the command behind the bundled ones.

    Writes OUT/HOOK.D_SAE/sae and .../index. Interrupted, the same command goes on where it was.
    """
    from saekit.data import load_corpus
    from saekit.models import load_model

    args = _parser().parse_args(arguments)
    wanted = args.sae or [Wanted.parse(DEFAULT)]
    if len({one.name for one in wanted}) < len(wanted):
        raise SAEError(f"each hook point and width once, not {', '.join(one.name for one in wanted)}")

    model = load_model(args.model, device=args.device, dtype=torch.bfloat16)
    tokens = load_corpus(args.corpus, model=model, max_tokens=args.max_tokens)
    store = harvest_many(model, tokens, list(dict.fromkeys(one.hook for one in wanted)), args.out / "activations")
    command = " ".join(["python -m saekit.training", *(arguments or sys.argv[1:])])
    saes, training = {}, {}
    for one in wanted:
        activations = store[one.hook]
        config = TrainConfig(architecture=args.architecture, d_sae=one.d_sae, k=one.k, epochs=args.epochs)
        where = args.out / one.name / "checkpoint"
        saes[one.name] = trained(config, activations, where, device=args.device, report_every=50, progress=True)
        training[one.name] = {
            "command": command,
            "architecture": args.architecture,
            "corpus": args.corpus,
            "sources": list(tokens.sources),
            "tokens": len(activations),
            "epochs": args.epochs,
            "excluded": activations.excluded,
        }
    publish(
        saes,
        args.model,
        args.out,
        corpus=args.corpus,
        index_corpus=args.index_corpus,
        training=training,
        index_tokens=args.index_tokens,
        index_examples=args.index_examples,
        index_per_interval=args.index_per_interval,
        held_out_tokens=args.held_out_tokens,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m saekit.training", description=main.__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument(
        "--sae", type=Wanted.parse, action="append", metavar="HOOK:D_SAE:K", help=f"may be repeated; default {DEFAULT}"
    )
    parser.add_argument(
        "--architecture",
        default="topk",
        choices=[name for name, entry in ARCHITECTURES.items() if entry.sparsity == "k"],
    )
    parser.add_argument("--corpus", default="english")
    parser.add_argument("--index-corpus", default="english-open", help="its text is shown in the index")
    parser.add_argument("--max-tokens", type=int, default=None, help="of the corpus; default: all")
    # Cards of SAEs that are older than the name "epochs" hold commands with --passes, which must go on working.
    parser.add_argument("--epochs", "--passes", type=float, default=5, help="number of times through the activations")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--index-tokens", type=int, default=1_020_000, help="0: no index")
    parser.add_argument("--index-examples", type=int, default=20, help="per feature")
    parser.add_argument("--index-per-interval", type=int, default=4, help="examples per interval of activation")
    parser.add_argument("--held-out-tokens", type=int, default=60_000, help="for the cards")
    parser.add_argument("--out", type=Path, required=True, help="folder for activations and SAEs")
    return parser


def publish(
    saes: "dict[str, SAE]",
    model_name: str,
    out: Path,
    *,
    corpus: str,
    index_corpus: str,
    training: dict[str, dict],
    index_tokens: int = 1_020_000,
    index_examples: int = 20,
    index_per_interval: int = 4,
    held_out_tokens: int = 60_000,
) -> None:
    """Write ``out/NAME/sae`` (weights and card) and ``out/NAME/index`` (bounded, compacted); scores in float32.

    Args:
        saes: The SAEs, by the name of their folder.
        model_name: The model, as `load_model` takes it.
        out: Folder to write.
        corpus: Corpus whose held-out part the SAEs are measured on.
        index_corpus: Corpus whose text is shown in the index.
        training: What the card says of the training of each SAE: command, corpus, tokens.
        index_tokens: Number of tokens of the index; 0 for none.
        index_examples: Number of examples per feature in the index.
        index_per_interval: Number of examples per interval of activation in the index.
        held_out_tokens: Number of held-out tokens for the scores.
    """
    from saekit.data import load_corpus
    from saekit.evaluation import evaluate_many
    from saekit.index import FeatureIndex
    from saekit.models import load_model
    from saekit.saes import save_sae

    model = load_model(model_name)
    saes = {name: sae.to("cpu") for name, sae in saes.items()}
    for name, sae in saes.items():  # what took longest is safe first
        save_sae(sae, out / name / "sae", card={"training": training[name]})
    held_out = load_corpus(corpus, model=model, split="heldout", max_tokens=held_out_tokens)
    measured = evaluate_many(model, list(saes.values()), held_out, progress=True)
    cards = [evaluation.as_dict() for evaluation in measured]
    shown = load_corpus(index_corpus, model=model, max_tokens=index_tokens) if index_tokens else None
    for (name, sae), card in zip(saes.items(), cards, strict=True):
        save_sae(sae, out / name / "sae", card=card | {"training": training[name]})
        if shown is not None:
            mergeable = out / name / "index-mergeable"
            index = FeatureIndex.build(model, sae, shown, path=mergeable, examples_per_feature=index_examples)
            index.compacted(out / name / "index", per=index_per_interval)
            card |= {"dead_share_of_index_tokens": float(index.dead.mean()), "index_tokens": index.n_tokens}
            save_sae(sae, out / name / "sae", card=card | {"training": training[name]})
