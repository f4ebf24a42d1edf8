"""Makers from what stands in tables and lists: one cell, two rows compared, a key and its value, a gap; and cloze.

The question for a cell follows from its header: a price is asked for by how much, a town by where.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from mlxrag.data.candidate import Candidate
from mlxrag.data.corpus import Corpus, Fact, first_names, prose
from mlxrag.data.lexicon import MONEY, QUANTITY
from mlxrag.data.words import words
from mlxrag.rag.document import Passage

# (pattern of the key, pattern of the value, question with {e} the entity, {k} the key, {h} the header of the row)
CELLS: tuple[tuple[str, str, str], ...] = (
    (r"(?:list |retail )?price|cost", r"[$€£]?\d", "How much does {e} cost?"),
    (r"price (?:in )?(\d{4})", r"[$€£]?\d", "What was the price of {e} in {1}?"),
    (r"dealer price (?:in )?(\d{4})", r"[$€£]?\d", "What was the dealer price of {e} in {1}?"),
    (r"price from (\d.*)", r"[$€£]?\d", "What is the price of {e} from {1}?"),
    (r"dealer price from (\d+ pieces)", r"[$€£]?\d", "What is the dealer price of {e} from {1}?"),
    (r"article(?: number)?", r"[A-Z]{1,4}-?\w*\d", "What is the article number of {e}?"),
    (r"part number", r"[A-Z]{1,4}-?\w*\d", "Which number does {e} have?"),
    (r"torque", r"\d", "With what torque is {e} tightened?"),
    (r"children", r"\d$", "How many children does {e} take?"),
    (r"where", r"[A-Z]", "Where is {e} done?"),
    (r"load on the drawbar", r"\d", "What is the load on the drawbar of {e}?"),
    (r"speed (straight ahead|in bends)", r"\d", "How fast may one go {1} with {e}?"),
    (r"for dogs up to", r"\d", "Up to what weight is {e} for dogs?"),
    (r"(?:own |net )?weight", r"\d", "How much does {e} weigh?"),
    (r"(?:maximum|max\.?|total) load|payload", r"\d", "How much can {e} carry?"),
    (r"range", r"\d", "How far does {e} go?"),
    (r"charging time", r"\d", "How long does charging {e} take?"),
    (r"width", r"\d", "How wide is {e}?"),
    (r"height", r"\d", "How high is {e}?"),
    (r"length", r"\d", "How long is {e}?"),
    (r"duration", r"\d", "How long does {e} take?"),
    (r"seats", r"\d", "How many seats does {e} have?"),
    (r"phone|telephone", r"[\d+]", "What is the phone number of {e}?"),
    (r"e-?mail", r"\S+@", "What is the e-mail address of {e}?"),
    (r"address", r"", "What is the address of {e}?"),
    (r"town|city|location|place", r"[A-Z]", "In which {k} is {e}?"),
    (r"contact(?: person)?", r"[A-Z][a-z]+ [A-Z]", "Who is the contact at {e}?"),
    (r"supplier", r"[A-Z]", "Who supplies {e}?"),
    (r"(?:head|manager|director|author|editor|owner)", r"[A-Z][a-z]+ [A-Z]", "Who is the {k} of {e}?"),
    (r"since", r"(?:19|20)\d\d$", "Since when has {e} been a {h}?"),
    (r"closed on", r"", "On which days is {e} closed?"),
    (r"made in|produced in|built in", r"[A-Z]", "Where is {e} made?"),
    (r"services", r"", "Which services does {e} offer?"),
    (r"certificates", r"", "Which certificates does {e} have?"),
    (r"fits", r"", "Which models does {e} fit?"),
    (r"tyre pressure", r"\d", "What tyre pressure does {e} need?"),
    (r"lead time|delivery time", r"\d", "How long is the {k} for {e}?"),
    (r"shelf", r"", "On which shelf is {e} kept?"),
    (r"stock in ([A-Z][\w ]+)", r"\d+$", "How many pieces of {e} are in stock in {1}?"),
    (r"carton|package", r"\d", "How large is the {k} of {e}?"),
    (r"folded size", r"\d", "How large is {e} when it is folded?"),
    (r"inside", r"\d", "What are the inside dimensions of {e}?"),
    (r"dimensions|size", r"\d", "What are the dimensions of {e}?"),
    (r"battery|motor|charger", r"", "What kind of {k} does {e} have?"),
    (r"(?:gross weight|protection class|dealer price)", r"", "What is the {k} of {e}?"),
)  # fmt: skip
# (word in the title or heading, pattern of the key, pattern of the value, question with {n} the name as it is written)
UNDER: tuple[tuple[str, str, str, str], ...] = (
    (r"rent", r"(one|two|three) (day|week|month)s?|weekend", r"[$€£]\d", "What does renting {n} for {k} cost?"),
    (r"guarantee|warranty", r"(?:private|commercial|business) customers", r"\d+ (?:months?|years?)", "How long is the guarantee on {n} for {k}?"),
)  # fmt: skip
# key -> (question about the larger, question about the smaller)
COMPARED: dict[str, tuple[str, str]] = {
    "price": ("Which costs more, {a} or {b}?", "Which is cheaper, {a} or {b}?"),
    "weight": ("Which is heavier, {a} or {b}?", "Which is lighter, {a} or {b}?"),
    "own weight": ("Which is heavier, {a} or {b}?", "Which is lighter, {a} or {b}?"),
    "gross weight": ("Which weighs more when packed, {a} or {b}?", "Which weighs less when packed, {a} or {b}?"),
    "maximum load": ("Which can carry more, {a} or {b}?", "Which can carry less, {a} or {b}?"),
    "width": ("Which is wider, {a} or {b}?", "Which is narrower, {a} or {b}?"),
    "lead time": ("Which has the longer lead time, {a} or {b}?", "Which has the shorter lead time, {a} or {b}?"),
    "duration": ("Which takes longer, {a} or {b}?", "Which takes less time, {a} or {b}?"),
    "tyre pressure": ("Which needs the higher tyre pressure, {a} or {b}?", "Which needs the lower tyre pressure, {a} or {b}?"),
    "dealer price": ("Which has the higher dealer price, {a} or {b}?", "Which has the lower dealer price, {a} or {b}?"),
}  # fmt: skip


def table(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask for cells of tables: at most five of a row, another choice in every row."""
    for passage in passages:
        rows: dict[tuple[str, str], list[tuple[Fact, str]]] = defaultdict(list)
        for fact in corpus.facts.get(passage.id, ()):
            question = cell_question(fact, corpus)
            if question:
                rows[fact.line, fact.entity].append((fact, question))
        for asked in rows.values():
            asked.sort(key=lambda a: hashlib.sha256(f"{a[0].key} {a[0].entity}".encode()).digest())
            for fact, question in asked[:5]:
                bare = _bare_price(fact)
                if bare and "$" not in _document(passage, corpus):
                    continue  # what the number is in is not known
                answers = (f"${fact.value}",) if bare else ()
                tag = "who" if question.startswith("Who") else "number" if re.match(r"[$€£]?\d", fact.value) else "fact"
                yield Candidate(
                    question, (*answers, fact.value), (passage,), (fact.line,), "rule:table", (tag, "table")
                )


def _bare_price(fact: Fact) -> bool:
    """Whether a cell is a price without its currency."""
    return (
        re.match(r"(?:dealer )?price", fact.key, re.IGNORECASE) is not None
        and re.fullmatch(r"[\d.,]+", fact.value) is not None
    )


def _document(passage: Passage, corpus: Corpus) -> str:
    """Return all passages of a document as one text."""
    texts = corpus.derived.setdefault("documents", {})
    if passage.source not in texts:
        texts[passage.source] = "\n".join(p.text for p in corpus.passages if p.source == passage.source)
    return str(texts[passage.source])


def comparison(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask which of two has more of something, where two passages (or two rows) state it in the same unit."""
    groups: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for found in corpus.facts.values():
        for fact in found:
            key = fact.key.lower()
            spoken = corpus.named(fact.entity)
            if key in COMPARED and spoken and "“" not in spoken and _measured(fact.value):
                groups[fact.kind, key].append(fact)
    wanted = {p.id for p in passages}
    for (_, key), facts in groups.items():
        made: Counter[str] = Counter()
        for i, first in enumerate(facts):
            if first.passage.id not in wanted or made[first.passage.id] >= 1:
                continue
            others = [
                f
                for f in facts[i + 1 :]
                if f.entity != first.entity
                and _unit(f) == _unit(first)
                and _number(f) != _number(first)
                and _alike(f, first, corpus)
            ]
            others.sort(
                key=lambda f: (
                    f.passage.id == first.passage.id,
                    hashlib.sha256(f"{first.entity}{f.entity}".encode()).digest(),
                )
            )
            for second in others[:1]:
                a, b = corpus.named(first.entity, first.kind), corpus.named(second.entity, second.kind)
                made[first.passage.id] += 1
                flip = hashlib.sha256(f"{key}{a}{b}".encode()).digest()[0]
                more = (_number(first) > _number(second)) is bool(flip % 2)
                question = COMPARED[key][0 if flip % 2 else 1].format(a=a, b=b)
                right = first if more else second
                named = (a if more else b) or right.entity
                passages_ = (
                    (first.passage, second.passage) if first.passage.id != second.passage.id else (first.passage,)
                )
                answers = tuple(dict.fromkeys((named, right.entity)))
                yield Candidate(
                    question,
                    answers,
                    passages_,
                    tuple(dict.fromkeys((first.line, second.line))),
                    "rule:comparison",
                    ("comparison",),
                )


def keyvalue(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask for what a line `Editor: Priya Hallam` says of its document."""
    firsts = first_names(corpus.passages)
    roles = {"chair": "Who chaired {t}?", "minutes": "Who took the minutes of {t}?", "author": "Who wrote {t}?", "editor": "Who is the editor of {t}?",
             "product manager": "Who is the product manager of {t}?", "excused": "Who was excused from {t}?"}  # fmt: skip
    for passage in passages:
        title = document_name(passage, corpus)
        for match in re.finditer(
            r"(?:^|(?<=\. )|(?<=\n))([A-Z][a-z]+(?: [a-z]+)?): ([A-Z][a-z]+ [A-Z][a-z]+)\b", passage.text
        ):
            key, value = match[1].lower(), match[2]
            if title and key in roles and value.split()[0] in firsts:
                yield Candidate(
                    roles[key].format(t=title), (value,), (passage,), (match[0],), "rule:keyvalue", ("who",)
                )


def document_name(passage: Passage, corpus: Corpus) -> str:
    """Return how a document is spoken of in a question, such as `the management meeting of 14 January 2025`, or nothing."""
    title = passage.title.split(":", 1)[0].strip()
    meeting = re.match(r"(?:Minutes of )?(?:the )?([A-Z][a-z]+ [a-z]+ of \d.*)", title)
    if meeting:
        return f"the {meeting[1][:1].lower()}{meeting[1][1:]}"
    if re.fullmatch(r"(?:[A-Z][a-z]+ )?[A-Z]?[a-z]+(?: [a-z]+)*(?: in \d{4})?", title) and len(title.split()) in (
        2,
        3,
        4,
        5,
    ):
        return f"the {corpus.inside(title)}" if " in " not in title else f"“{title}”"
    return ""


def cloze(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask to fill the gap that a number, date or name leaves in a sentence; the last resort, and the only maker for any language."""
    gap = re.compile(
        rf"(?<![\w$.,])(?:{MONEY}|{QUANTITY} (?!in\b|to\b|of\b|at\b|by\b|and\b|or\b|for\b)[a-z]+s)\b|(?<=[a-z] )[A-Z][a-z]+(?: [A-Z][a-z]+)*\b(?! \d)"
    )
    for passage in passages:
        for plain, raw in prose(passage):
            match = gap.search(plain, 8)
            if match and len(plain.split()) >= 8 and re.search(r"[A-Z]", plain[1:]) is not None:
                blank = plain[: match.start()] + "___" + plain[match.end() :]
                yield Candidate(f"Fill the gap: {blank}", (match[0],), (passage,), (raw,), "rule:cloze", ("cloze",))
                break


def _alike(a: Fact, b: Fact, corpus: Corpus) -> bool:
    """Whether two things are of a kind that people compare: both have names of their own, or their names share a word."""
    shared = {w for w in words(a.entity) if len(w) > 2} & {w for w in words(b.entity) if len(w) > 2}
    return bool(shared) or (is_name(a.entity, corpus) and is_name(b.entity, corpus))


def is_name(entity: str, corpus: Corpus) -> bool:
    """Whether something has a name of its own: capitals or numbers all through, and never written small."""
    parts = entity.split()
    return all(w[:1].isupper() or w[:1].isdigit() or w == "&" for w in parts) and not corpus.lower[parts[0].lower()]


def cell_question(fact: Fact, corpus: Corpus) -> str | None:
    """Return the question for a cell, or None when its header or its row's name makes none."""
    about = f"{fact.passage.title} {fact.passage.place}"
    for word, key, value, question in UNDER:
        if (
            re.search(rf"\b{word}", about, re.IGNORECASE)
            and re.fullmatch(key, fact.key, re.IGNORECASE)
            and re.match(value, fact.value)
        ):
            name = corpus.inside(fact.entity)
            article = "the " if name[:1].islower() else "an " if name[:1] in "AEIOU" else "a "
            return question.format(
                n=article + name, k=("a weekend" if fact.key.lower() == "weekend" else fact.key.lower())
            )
    entity = corpus.named(fact.entity, fact.kind)
    if entity is None or fact.value.lower() in {"", "none", "-", "free", "discontinued"} or len(fact.value) > 80:
        return None
    for key, value, question in CELLS:
        match = re.fullmatch(key, fact.key, re.IGNORECASE)
        if match and re.match(value, fact.value):
            if "{h}" in question and not fact.kind:
                return None
            key_shown = fact.key[:1].lower() + fact.key[1:]
            return question.format(fact.key, *match.groups(), e=entity, k=key_shown, h=fact.kind)
    return None


def _measured(value: str) -> bool:
    return re.fullmatch(r"[$€£]?\d[\d.,]*(?: ?[A-Za-z%/]+)?", value) is not None


def _number(fact: Fact) -> float:
    match = re.search(r"\d[\d.,]*", fact.value)
    return float(match[0].rstrip(".,").replace(",", "")) if match else 0.0


def _unit(fact: Fact) -> str:
    return re.sub(r"[\d.,\s]", "", fact.value).removesuffix("s")
