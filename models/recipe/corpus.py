"""What the reader is trained on: a stream of sheets from schemas and from reading-comprehension sets, in one mixture."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import compose, reading, schema, sheet, swap
from .kinds import Kind

REAL = ("squad/dev-v1.1.json.gz",)
"""Below the data folder; further ``*.json`` files in SQuAD layout in its ``reading/`` are used too."""

RENAMED, REWORDED = 0.75, 0.4
"""Shares of the sheets from real text with other names and numbers, and of the generated ones with other words."""


@dataclass(frozen=True)
class Corpus:
    """Everything a sheet is made of."""

    sections: Sequence[schema.Section]
    held_sections: Sequence[schema.Section]
    kinds: dict[str, Kind]
    articles: Sequence[list[reading.Paragraph]]
    held_articles: Sequence[list[reading.Paragraph]]
    pools: swap.Pools
    """Names and words of the articles to train on, to be put in place of others."""


def load(data: Sequence[Path]) -> Corpus:
    """Read the tables, and what there is of real text in the folders `data`."""
    sections, kinds = schema.load()
    train = [replace(s, schemas=[c for c in s.schemas if not schema.held_out(c)]) for s in sections]
    held = [replace(s, schemas=[c for c in s.schemas if schema.held_out(c)]) for s in sections]
    articles: list[list[reading.Paragraph]] = []
    kept: list[list[reading.Paragraph]] = []
    for folder in data:
        for name in REAL:
            if (folder / name).is_file():
                more, kept = reading.split_articles(reading.read(folder / name))
                articles += more
        for path in sorted((folder / "reading").glob("*.json")):
            for article in reading.read(path):
                # one "article" of unrelated texts is cut up, so that neighbours are drawn from near each other
                articles += [article[i : i + 40] for i in range(0, len(article), 40)]
    return Corpus(
        [s for s in train if s.schemas],
        [s for s in held if s.schemas],
        kinds,
        [a for a in articles if a],
        kept,
        swap.pools(reading.texts(articles)),
    )


def sheets(
    corpus: Corpus, r: random.Random, real: float, most: int, unanswerable: float = 0.1
) -> Iterator[sheet.Sheet]:
    """An endless stream.

    Args:
        corpus: what `load` read.
        r: the only source of chance.
        real: share of sheets from reading-comprehension sets, where there are any.
        most: passages in a sheet, at most.
        unanswerable: share of questions that the passages do not answer.
    """
    weights = [0.06, 0.14, 0.3, 0.33, 0.17][:most]

    def read(passages: int, questions: int) -> sheet.Sheet:
        made = reading.compose(corpus.articles, r, passages, questions, unanswerable)
        return swap.renamed(made, corpus.pools, r) if r.random() < RENAMED else made

    def written(passages: int, questions: int) -> sheet.Sheet:
        made = compose.compose(corpus.sections, corpus.kinds, r, passages, questions, unanswerable)
        return swap.reworded(made, corpus.pools, r) if corpus.pools.words and r.random() < REWORDED else made

    while True:
        passages = r.choices(range(1, len(weights) + 1), weights)[0]
        x = r.random() if corpus.articles else 1.0
        if x < real * 0.7:
            made = read(passages, 14)
        elif x < real * 1.3 and passages > 1:
            few = r.randint(1, passages - 1)
            made = sheet.join(read(few, 7), written(passages - few, 9))
            talks = list(made.talks)
            r.shuffle(talks)
            made = sheet.Sheet(made.pieces, talks)
        else:
            made = written(passages, 14)
        if made.talks:
            yield sheet.shuffle(made, r)


def held_out(corpus: Corpus, real: bool, seed: int) -> Iterator[sheet.Sheet]:
    """Sheets of what is never trained on: held-out schemas, or held-out articles."""
    r = random.Random(seed)
    while True:
        passages = r.choice([2, 3, 4])
        made = (
            reading.compose(corpus.held_articles, r, passages, 10)
            if real
            else compose.compose(corpus.held_sections, corpus.kinds, r, passages, 10)
        )
        if made.talks:
            yield sheet.shuffle(made, r)
