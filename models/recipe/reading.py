"""Sheets from reading-comprehension sets in the SQuAD layout: real prose, questions that people wrote."""

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .sheet import Piece, Sheet, Turn, casual

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
HELD_OUT = 10
"""Articles of SQuAD's development set that are never trained on: every fourth or so, by position."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of an article and what was asked about it: (question, answer, start)."""

    title: str
    text: str
    questions: tuple[tuple[str, str, int], ...]


def read(path: Path) -> list[list[Paragraph]]:
    """The articles of a file in SQuAD layout (plain or gzip); of several gold answers the most frequent, then shortest."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    articles = []
    for i, article in enumerate(json.loads(raw)["data"]):
        paragraphs = []
        for paragraph in article["paragraphs"]:
            text, asked = paragraph["context"], []
            for qa in paragraph["qas"]:
                golds = Counter(
                    (a["text"], a["answer_start"])
                    for a in qa["answers"]
                    if text[a["answer_start"] :].startswith(a["text"])
                )
                if golds and not qa.get("is_impossible"):
                    best = min(golds, key=lambda g: (-golds[g], len(g[0])))
                    if len(best[0]) <= 120 and best[0].strip():
                        asked.append((" ".join(qa["question"].split()), best[0], best[1]))
            paragraphs.append(Paragraph(article.get("title", f"article {i}").replace("_", " "), text, tuple(asked)))
        articles.append(paragraphs)
    return articles


def split_articles(articles: Sequence[list[Paragraph]]) -> tuple[list[list[Paragraph]], list[list[Paragraph]]]:
    """Articles to train on and articles held out (`HELD_OUT` of them, evenly over the file)."""
    step = len(articles) / HELD_OUT
    held = {int(i * step) for i in range(HELD_OUT)}
    return [a for i, a in enumerate(articles) if i not in held], [a for i, a in enumerate(articles) if i in held]


def window(paragraph: Paragraph, r: random.Random, words: int) -> tuple[str, int]:
    """Some sentences in a row of the paragraph, about `words` words: the text and where it starts."""
    cuts = [0, *(m.end() for m in SENTENCE.finditer(paragraph.text)), len(paragraph.text)]
    a = r.randrange(len(cuts) - 1) if len(paragraph.text.split()) > words else 0
    b = a + 1
    while b < len(cuts) - 1 and len(paragraph.text[cuts[a] : cuts[b]].split()) < words:
        b += 1
    while a > 0 and len(paragraph.text[cuts[a] : cuts[b]].split()) < words * 0.7:
        a -= 1
    return paragraph.text[cuts[a] : cuts[b]].rstrip(), cuts[a]


def compose(
    articles: Sequence[Sequence[Paragraph]], r: random.Random, passages: int, questions: int, unanswerable: float = 0.08
) -> Sheet:
    """A sheet of windows, from one article or several, with the questions about them.

    Questions whose answer was cut off, or which belong to a paragraph that is not shown, are the unanswerable ones.
    """
    near = r.random() < 0.6
    article = r.choice(articles)
    chosen = (
        r.sample(list(article), min(len(article), passages))
        if near
        else [r.choice(r.choice(articles)) for _ in range(passages)]
    )
    pieces, open_questions, talks = [], [], []
    for paragraph in chosen:
        text, start = window(paragraph, r, r.choice([15, 25, 35, 50, 60, 80, 110]))
        title = (
            paragraph.title if r.random() < 0.8 else r.choice(["Notes", "Article", "Overview", "Report", "Background"])
        )
        pieces.append(
            Piece(title, r.choice(["", "", f"page {r.randint(1, 40)}", "Introduction", "History", "Details"]), text)
        )
        for question, answer, at in paragraph.questions:
            if start <= at and at + len(answer) <= start + len(text):
                talks.append([Turn(casual(question, r), answer, len(pieces) - 1, at - start)])
            elif answer.lower() not in text.lower():
                open_questions.append((question, answer))
    r.shuffle(talks)
    talks = talks[:questions]
    strangers = [
        (q, a)
        for p in (article if r.random() < 0.7 else r.choice(articles))
        if p not in chosen
        for q, a, _ in p.questions
    ]
    open_questions = r.sample(open_questions, min(len(open_questions), 2)) + r.sample(strangers, min(len(strangers), 3))
    shown = " ".join(p.text for p in pieces).lower()
    fit = [q for q, a in open_questions if a.lower() not in shown]
    count = min(len(fit), max(1 if r.random() < 0.3 else 0, round(len(talks) * unanswerable / (1 - unanswerable))))
    talks += [[Turn(casual(q, r))] for q in r.sample(fit, count)]
    r.shuffle(talks)
    return Sheet(pieces, talks)


def texts(articles: Iterable[Sequence[Paragraph]]) -> Iterable[str]:
    """Every paragraph and question, for the tokenizer."""
    for article in articles:
        for paragraph in article:
            yield paragraph.text
            yield " ".join(q for q, _, _ in paragraph.questions)
