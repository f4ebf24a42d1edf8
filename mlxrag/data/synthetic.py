"""Documents and questions whose truth is known: a table of facts, written out and asked about.

For tests and demonstrations: what is right, which passage says it, and what no document says follows from the table.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlxrag.data.example import Example, example
from mlxrag.errors import BadInput
from mlxrag.rag.document import Passage, document_id, passage_id


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column of the table, and how it is written and asked for.

    Attributes:
        name: of the column.
        sentence: with `{name}` (of the row) and `{value}`.
        question: with `{name}`.
        tag: of the examples.
    """

    name: str
    sentence: str
    question: str
    tag: str = "fact"


@dataclass(frozen=True, slots=True)
class Schema:
    """A table of facts.

    Attributes:
        title: of the documents, with `{name}`.
        attributes: the columns.
        rows: `{"name": ..., column: value}`; a column that is missing is what no document says.
    """

    title: str
    attributes: tuple[Attribute, ...]
    rows: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Made:
    """What a schema gives.

    Attributes:
        documents: (source, text): a Markdown file for each row.
        examples: a question for each cell, and an unanswerable one for each cell that is missing.
    """

    documents: tuple[tuple[str, str], ...]
    examples: tuple[Example, ...]


def read_schema(path: Path) -> Schema:
    """Read a schema from TOML: `title`, `[[attributes]]` and `[[rows]]`.

    Raises:
        BadInput: not TOML, or a part is missing or of another kind; all faults at once.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: no schema: {error}") from error
    faults = [f"no {part}" for part in ("title", "attributes", "rows") if not given.get(part)]
    for n, a in enumerate(given.get("attributes", ()), 1):
        faults += [
            f"attribute {n} has no {k}" for k in ("name", "sentence", "question") if not isinstance(a.get(k), str)
        ]
        faults += [
            f"attribute {n}: sentence needs {{name}} and {{value}}"
            for _ in (0,)
            if "{value}" not in str(a.get("sentence"))
        ]
    faults += [
        f"row {n} has no name" for n, row in enumerate(given.get("rows", ()), 1) if not isinstance(row.get("name"), str)
    ]
    if faults:
        raise BadInput(f"{path}: {'; '.join(faults)}")
    attributes = tuple(
        Attribute(a["name"], a["sentence"], a["question"], a.get("tag", "fact")) for a in given["attributes"]
    )
    return Schema(given["title"], attributes, tuple({k: str(v) for k, v in row.items()} for row in given["rows"]))


def write(schema: Schema, seed: int = 0, folder: str = "synthetic") -> Made:
    """Write the documents and questions of a schema; the sentences of a document stand in a drawn order.

    Args:
        schema: the facts.
        seed: of the orders.
        folder: name of the folder the documents will lie in: ingested from there, they are the same documents.
    """
    documents, examples = [], []
    for row in schema.rows:
        rng = random.Random(f"{seed} {row['name']}")
        told = [a for a in schema.attributes if row.get(a.name)]
        rng.shuffle(told)
        title = schema.title.format(name=row["name"])
        source = f"{folder}/{'-'.join(row['name'].lower().split())}.md"
        sentences = [a.sentence.format(name=row["name"], value=row[a.name]) for a in told]
        documents.append((source, f"# {title}\n\n{' '.join(sentences)}\n"))
        body = " ".join(sentences)
        # What is read from Markdown has no marks of headings.
        document, start = document_id(source, f"{title}\n\n{body}"), len(title) + 2
        passage = Passage(
            passage_id(document, start, start + len(body)), document, source, title, "", start, start + len(body), body
        )
        for a in schema.attributes:
            question = a.question.format(name=row["name"])
            if a in told:
                quote = a.sentence.format(name=row["name"], value=row[a.name])
                examples.append(
                    example(question, (row[a.name],), (passage,), "synthetic", tags=(a.tag,), evidence=(quote,))
                )
            else:
                examples.append(example(question, (), (passage,), "synthetic", tags=(a.tag, "unanswerable")))
    return Made(tuple(documents), tuple(examples))


def gadgets(count: int, seed: int = 0, missing: float = 0.1) -> Schema:
    """Draw a schema of made-up devices: names, weights, prices, makers, places and years.

    Args:
        count: rows.
        seed: of the draws.
        missing: share of cells that no document says.
    """
    rng = random.Random(seed)
    attributes = (
        Attribute("weight", "The {name} weighs {value}.", "How much does the {name} weigh?", "number"),
        Attribute("price", "The price of the {name} is {value}.", "What is the price of the {name}?", "number"),
        Attribute("maker", "The {name} is made by {value}.", "Who makes the {name}?", "who"),
        Attribute("place", "The {name} is built in {value}.", "Where is the {name} built?", "where"),
        Attribute("year", "The {name} came out in {value}.", "When did the {name} come out?", "when"),
        Attribute("colour", "The {name} is sold in {value}.", "In which colour is the {name} sold?", "fact"),
    )  # fmt: skip
    rows: list[dict[str, str]] = []
    for name in _names(rng, count):
        row = {
            "name": name, "weight": f"{rng.randint(2, 980) / 10:.1f} kg", "price": f"${rng.randint(12, 4000):,}",
            "maker": f"{rng.choice(_FIRST)} {rng.choice(_SECOND)}", "place": rng.choice(_PLACES), "year": str(rng.randint(1950, 2025)),
            "colour": rng.choice(_COLOURS),
        }  # fmt: skip
        rows.append({k: v for k, v in row.items() if k == "name" or rng.random() >= missing})
    return Schema("The {name}", attributes, tuple(rows))


def write_documents(made: Made, folder: Path) -> list[Path]:
    """Write the documents below a folder and return their paths."""
    paths = []
    for source, text in made.documents:
        path = folder / Path(source).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _names(rng: random.Random, count: int) -> Iterator[str]:
    seen: set[str] = set()
    while len(seen) < count:
        name = "".join(rng.choice(part) for part in (_ONSETS, _VOWELS, _CODAS, _VOWELS, _ENDS)).capitalize()
        name += f" {rng.randint(1, 99)}"
        if name not in seen:
            seen.add(name)
            yield name


_ONSETS, _VOWELS, _CODAS, _ENDS = (
    ("br", "k", "l", "m", "p", "r", "st", "t", "v", "z"),
    ("a", "e", "i", "o", "u"),
    ("l", "n", "r", "s", "lt", "nd"),
    ("k", "n", "r", "x", "th"),
)
_FIRST, _SECOND = (
    ("Aldo", "Brena", "Corin", "Dasha", "Edvin", "Fiora", "Goran", "Hedda"),
    ("Lunt", "Marrow", "Nettle", "Orlov", "Pask", "Quist", "Rusk", "Sorrel"),
)
_PLACES = ("Almeida", "Bexhill", "Corvara", "Dunmore", "Eskdale", "Farrow", "Garten", "Holm")
_COLOURS = ("moss green", "slate grey", "brick red", "sand yellow", "harbour blue", "off white")
