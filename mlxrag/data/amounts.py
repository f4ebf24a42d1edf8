"""A clause -> the question for the amount in it: money, numbers, shares, lengths, durations.

The patterns stand in a table, from the surest to the weakest; the first that fits asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlxrag.data.corpus import Corpus
from mlxrag.data.grammar import Clause, clear, shortened, tidy
from mlxrag.data.lexicon import DURATION, MONEY, NUMBER_WORDS, PREPOSITIONS, QUANTITY, UNITS

Found = tuple[str, tuple[str, ...], str]
"""A question, its answers, a tag."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What an amount looks like in the rest of a clause, and how it is asked for.

    Attributes:
        shape: regular expression; the group `said` is the answer, further groups may stand in `wh`.
        wh: the question words.
        tag: of the example.
        last: what stands at the end of the question, a preposition that was parted from its noun.
        verbs: base forms of the verbs it is for; any, if empty.
        bare: whether the amount must follow the verb at once.
    """

    shape: str
    wh: str
    tag: str
    last: str = ""
    verbs: frozenset[str] = frozenset()
    bare: bool = False


_SMALL = r"(?:of|a|an|the|per|each|and|or|as|in|for|on|at|to|from|with|by|percent|more|less|extra)"
_UNIT = "|".join(UNITS)
_MOTION = frozenset("rise fall increase drop grow rose fell".split())
SHAPES: tuple[Shape, ...] = (
    Shape(rf"at (?P<said>{MONEY})", "At what price", "money"),
    Shape(rf"for (?P<said>{MONEY})(?! \w+s\b)", "How much", "money", last="for"),
    Shape(rf"to (?P<said>{MONEY}|{QUANTITY} percent)", "What", "money", last="to", verbs=_MOTION),
    Shape(rf"(?<!of )(?<!above )(?<!below )(?<!over )(?<!under )(?<!to )(?P<said>{MONEY})(?! \w+s\b)", "How much", "money"),
    Shape(
        rf"by (?P<said>(?:about |some |nearly |more than )?(?:(?:a|one|two) (?:third|quarter|half|thirds|quarters)|{QUANTITY} (?:percent|{_UNIT})))\b",
        "By how much", "number",
    ),
    Shape(rf"(?P<said>{QUANTITY} percent) (?P<more>less|more)\b", "How much {more}", "number"),
    Shape(
        rf"(?P<said>{QUANTITY} percent) of (?P<whole>(?:the |our |your )?[a-z]+(?: (?!{_SMALL}\b)[a-z]+){{0,2}})\b",
        "What percentage of {whole}", "number", bare=True,
    ),
    Shape(rf"(?P<said>every (?:{DURATION}|{QUANTITY} (?:kilometres|km|miles)))\b", "How often", "duration"),
    Shape(rf"(?P<said>within {DURATION}|in (?:under |about )?(?:{QUANTITY}|an?) (?:seconds?|minutes?))(?! of| before| after)\b", "How quickly", "duration"),
    Shape(rf"for (?P<said>{DURATION})(?! or)\b", "For how long", "duration"),
    Shape(rf"(?P<said>after {DURATION})(?! of)\b", "After how long", "duration"),
    Shape(rf"(?P<said>{DURATION})(?! of)\b", "How long", "duration", verbs=frozenset("take last run need stay wait".split()), bare=True),
    Shape(rf"at (?P<said>{QUANTITY} (?P<unit>degrees|kg|km/h|bar))\b", "At what {unit}", "number"),
    Shape(rf"to be (?P<said>{QUANTITY} years old)\b", "How old", "number", last="to be", verbs=frozenset({"have"}), bare=True),
    Shape(rf"(?P<said>{QUANTITY} (?:{_UNIT}))\b", "How much", "number", verbs=frozenset("weigh carry hold store".split()), bare=True),
    Shape(
        rf"(?P<said>{QUANTITY} (?P<noun>(?:(?!{_SMALL}\b)[a-z-]+ )?(?:[a-z]+s|people|children|pieces)))\b(?P<of>(?: of(?: (?!{_SMALL}\b)[a-z-]+){{1,3}})?)",
        "How many {noun}{of}", "number",
    ),
)  # fmt: skip
BEING: tuple[Shape, ...] = (
    Shape(rf"(?P<said>{QUANTITY} (?:years?|months?) old)\b", "How old", "number"),
    Shape(rf"(?P<said>{QUANTITY} [a-z/]+ away)\b", "How far away", "number"),
    Shape(rf"(?P<said>{QUANTITY} [a-z/]+ (?P<wide>long|wide|high|deep|tall|thick))\b", "How {wide}", "number"),
    Shape(
        rf"(?P<said>{QUANTITY} (?:cm|mm|m|km|metres|kilometres|miles)) (?P<from>(?:above|below|from) (?:the )?[a-z]+(?: [A-Z][a-z]+)*)",
        "How far {from}", "number",
    ),
    Shape(rf"(?P<said>{MONEY}) extra\b", "How much extra", "money"),
    Shape(rf"(?P<said>{MONEY})(?=(?: (?:a [a-z]+|each|per [a-z]+|for\b.*))?$)", "How much", "money"),
    Shape(rf"(?P<said>{QUANTITY} (?:percent|{_UNIT}) (?P<than>(?:more|less) [a-z]+|[a-z]+er))\b", "How much {than}", "number"),
    Shape(rf"(?P<kept>guaranteed|valid|open|closed|available) for (?P<said>{DURATION})\b", "For how long", "duration", last="{kept}"),
    Shape(rf"(?P<said>{DURATION})(?= |$)", "How long", "duration"),
)  # fmt: skip
_LASTING = re.compile(
    r"time|week|day|shift|break|period|notice|course|tour|trip|term|delivery|guarantee|deadline|delay"
)
_SPAN = frozenset("thank thanked".split())


def amounts(clause: Clause, corpus: Corpus) -> Iterator[Found]:
    """Yield the question for the amount in a clause: at most one."""
    rest = own_part(clause.rest)
    base = (clause.base or clause.verb).split()[-1] if (clause.base or clause.verb) else ""
    for shape in BEING if clause.be else SHAPES:
        if (shape.verbs and base not in shape.verbs) or (
            "{kept}" not in shape.last and shape.wh == "For how long" and base in _SPAN
        ):
            continue
        head = "" if shape.bare or clause.be else r"(?:(?!\b(?:and|or|but)\b)[\w'-]+ ){0,4}?"
        match = re.match(rf"(?P<pre>{head}){shape.shape}", rest)
        if match is None or not _fits(clause, shape, match):
            continue
        named = {k: v or "" for k, v in match.groupdict().items()}
        if "unit" in named:
            named["unit"] = UNITS[named["unit"]]
        wh = shape.wh.format(**named)
        if wh == "For how long" and not clause.auxiliary:
            wh = "How long"
        post = shortened(rest[match.end() :])
        last = shape.last.format(**named)
        # a preposition that lost its noun stands last, but before `a day`
        early = clause.be or re.match(r"(?:a|an|per|each) ", post)
        pre, post = (f"{named['pre']}{last}", post) if early else (named["pre"], f"{post} {last}")
        yield asked(clause, corpus, wh, pre, post), both(named["said"]), shape.tag
        return
    yield from _subject(clause, rest)


def _fits(clause: Clause, shape: Shape, match: re.Match[str]) -> bool:
    named = match.groupdict()
    if not whole((named["pre"] or "").strip()):
        return False
    if "noun" in named:
        noun = f"{named['noun']}{named['of'] or ''}"
        last = named["pre"].split()[-1].lower() if named["pre"].strip() else ""
        year = re.match(r"(?:19|20)\d\d ", named["said"])
        return (
            named["noun"].split()[-1] not in _NO_NOUN
            and clear(noun)
            and not year
            and last not in PREPOSITIONS | set(NUMBER_WORDS)
        )
    if clause.be and shape.wh == "How long":
        return len(clause.subject.split()) > 1 and _LASTING.search(clause.subject) is not None
    return True


def _subject(clause: Clause, rest: str) -> Iterator[Found]:
    """`420 finished frames were lost`: the subject is what is counted."""
    match = re.match(rf"({QUANTITY}) ((?:[a-z-]+ )?[a-z]+s)$", clause.subject, re.IGNORECASE)
    if match and not clause.be and match[2].split()[-1] not in _NO_NOUN and not clause.front.startswith("during"):
        verb = f"{clause.auxiliary} {clause.verb}".strip()
        yield (
            tidy(f"How many {match[2]} {verb} {shortened(rest)} {clause.front}") + "?",
            both(f"{match[1]} {match[2]}"),
            "number",
        )


def asked(clause: Clause, corpus: Corpus, wh: str, pre: str, post: str) -> str:
    """Return the question of a clause, its subject written as it stands inside a sentence."""
    front = corpus.inside(clause.front) if clause.front else ""
    return replace(clause, subject=corpus.inside(clause.subject), front=front).asked(wh, pre, post)


def whole(pre: str) -> bool:
    """Whether what stands between verb and answer can stay in the question: clear, no clause, and a whole phrase."""
    low = pre.lower().split()
    return clear(pre) and "," not in pre and not set(low) & _CLAUSE and (not low or low[-1] not in _OPEN)


def both(answer: str) -> tuple[str, ...]:
    """An amount as it is said, without `about` and the like, and without `long`, `old` and the like."""
    bare = re.sub(
        r"^(?:about|some|at least|at most|up to|more than|less than|fewer than|under|over|only|nearly|almost|around|roughly|exactly|just) ",
        "",
        answer,
    )
    return (answer, bare, re.sub(r" (?:long|wide|high|deep|tall|thick|old|away|extra)$", "", bare))


def own_part(rest: str) -> str:
    """What belongs to the clause: up to a semicolon, a bracket, or a second clause."""
    return re.split(
        r"[;()]|:(?!\d)|,? (?:whenever|wherever|whoever|whatever)\b|, (?:which|who|whose|and|but|so|because|since|as|while|where|if|unless|except|yet|though|after which|whichever|in which)\b",
        rest,
    )[0].strip()


_CLAUSE = frozenset(
    "wherever whenever whether whatever that which who were was is are has have had because if when".split()
)
_OPEN = frozenset("the a an last first next other all every each no some its their our your of and or whether".split())
_NO_NOUN = frozenset(
    "is was has does its as us this thus always sometimes less unless plus across besides apiece thirds fifths quarters halves times".split()
)
