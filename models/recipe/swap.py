"""Other names, numbers and words: a text can be read many times and nothing of it be remembered.

Within a sheet a word is replaced by the same other one everywhere, in passages, questions and answers, so that what is
asked keeps its answer.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .kinds import DAYS, MONTHS
from .sheet import Piece, Sheet, Turn

WORD = re.compile(r"[A-Za-z]+|\d+")
KEPT = {*MONTHS, *DAYS}
COMMON = 300
"""So many of the most frequent words are never replaced: "which", "there", "first"."""


@dataclass(frozen=True)
class Pools:
    """What words are replaced by."""

    names: tuple[str, ...]
    """Words that are only ever written with a capital."""
    words: tuple[str, ...]
    """Words of five letters and more that are usually not."""


def pools(texts: Iterable[str]) -> Pools:
    """The names and the words of `texts`, each once, in order."""
    counts = Counter(word for text in texts for word in WORD.findall(text))
    common = {word for word, _ in counts.most_common(COMMON)}
    names = (w for w in counts if w[0].isupper() and len(w) > 2 and w not in KEPT and w.lower() not in counts)
    words = (w for w in counts if w.islower() and len(w) > 4 and w not in common)
    return Pools(tuple(sorted(names)), tuple(sorted(words)))


def _moved(text: str, other: Callable[[str], str]) -> tuple[str, dict[int, int]]:
    """Replace every word; also say where each position that is not within a word has gone."""
    parts, places, at, shift = [], dict[int, int](), 0, 0
    for match in WORD.finditer(text):
        a, b = match.span()
        word = other(match.group())
        parts += [text[at:a], word]
        places.update((i, i + shift) for i in range(at, a + 1))
        at, shift = b, shift + len(word) - (b - a)
    places.update((i, i + shift) for i in range(at, len(text) + 1))
    return "".join([*parts, text[at:]]), places


def _applied(sheet: Sheet, other: Callable[[str], str]) -> Sheet:
    """Replace every word of a sheet; conversations with an answer that begins or ends within a word are left out."""

    def text(old: str) -> str:
        return WORD.sub(lambda m: other(m.group()), old)

    moved = [_moved(piece.text, other) for piece in sheet.pieces]

    def turn(old: Turn) -> Turn | None:
        if old.piece is None:
            return replace(old, question=text(old.question))
        if old.start < 0:
            return replace(old, question=text(old.question), answer=text(old.answer))
        new, places = moved[old.piece]
        end = old.start + len(old.answer)
        if old.start not in places or end not in places:
            return None
        return Turn(text(old.question), new[places[old.start] : places[end]], old.piece, places[old.start])

    talks = [[turn(t) for t in talk] for talk in sheet.talks]
    return Sheet(
        [Piece(text(p.title), text(p.place), new) for p, (new, _) in zip(sheet.pieces, moved, strict=True)],
        [[t for t in talk if t] for talk in talks if all(talk)],
    )


def renamed(sheet: Sheet, known: Pools, r: random.Random) -> Sheet:
    """A sheet of real text with other names and numbers; a number keeps its digits' count, and four of them stay a year."""
    chosen: dict[str, str] = {}
    names = frozenset(known.names)

    def other(word: str) -> str:
        if word not in chosen:
            if word.isdigit() and int(word):
                head = str(r.randint(11, 20)) if len(word) == 4 else str(r.randint(1, 9))
                chosen[word] = head + "".join(r.choices("0123456789", k=len(word) - len(head)))
            else:
                chosen[word] = r.choice(known.names) if word in names else word
        return chosen[word]

    return _applied(sheet, other)


def reworded(sheet: Sheet, known: Pools, r: random.Random) -> Sheet:
    """A sheet with other words for some that question and passage share: they are the same word, whatever it means.

    A word that one answerable question uses and its passage does not is left: there its meaning counts.
    """
    shared, apart = set[str](), set[str]()
    told = [set(WORD.findall(piece.text)) for piece in sheet.pieces]
    for turn in (t for talk in sheet.talks for t in talk):
        if turn.piece is not None:
            asked = set(WORD.findall(turn.question))
            shared |= asked & told[turn.piece]
            apart |= asked - told[turn.piece]
    fit = sorted(w for w in shared - apart if w.islower() and len(w) > 4)
    chosen = {w: r.choice(known.words) for w in fit if r.random() < 0.5}
    return _applied(sheet, lambda word: chosen.get(word, word))
