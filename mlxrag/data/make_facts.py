"""Makers by rule for what is no amount, time or person: what something needs or holds, how many kinds there are, what is the largest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mlxrag.data.amounts import asked, both, own_part
from mlxrag.data.candidate import Candidate
from mlxrag.data.corpus import Corpus, prose, told
from mlxrag.data.grammar import Clause, clauses, clear, tidy
from mlxrag.data.lexicon import BE, DETERMINERS, PREPOSITIONS, QUANTITY, THIRD
from mlxrag.data.make_rules import candidate
from mlxrag.rag.document import Passage

TAKING = frozenset(
    "need require contain include cover exclude use offer supply sell replace cause store show win receive borrow carry build make repair "
    "approve reject propose choose recommend order produce invent found buy lease teach speak prove lack hold wear drink eat own".split()
)
"""Verbs whose object answers `what`."""
_THING = r"(?:(?:the|a|an|all|both|its|their|\d+|[A-Z][\w-]*|[a-z-]+)\b)(?: (?!(?:and|or|but|because|since|while|when|if|that|which|who|so|until|before|after|at|on|in|by|for|from|to|with|without|within|during|than|as|per|is|are|was|were|has|have|can|may|must)\b)[\w'’-]+){0,5}"
_JOINED = rf"{_THING}(?:, {_THING}){{0,4}}(?:,? (?:and|or) {_THING})?"
_SUPERLATIVE = re.compile(r"\b(?:most|least|only|first|main|\w{3,}est)\b")


def thing(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask what something needs, holds, offers and the like, where the sentence's object says it."""
    for passage in passages:
        for plain, quotes in told(passage, corpus):
            for clause in clauses(plain):
                found = _object(clause)
                if found is not None:
                    said, post = found
                    yield candidate(asked(clause, corpus, "What", "", post), (said,), passage, quotes, "thing", "what")


def foremost(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask what the largest, oldest, only or most important one is, where a sentence says so."""
    for passage in passages:
        for plain, quotes in told(passage, corpus):
            for clause in list(clauses(plain))[:1]:
                subject = clause.subject
                said = re.match(rf"({_JOINED})(?=[,;:.]|$| (?:and|with|at|in|since|because|which|who)\b)", clause.rest)
                if (
                    clause.be
                    and not clause.verb
                    and said
                    and re.match(r"[Tt]he ", subject)
                    and _SUPERLATIVE.search(subject)
                    and clear(said[1])
                    and not re.search(r"ed$", said[1])
                ):
                    yield candidate(
                        asked(clause, corpus, "What", "", ""), (said[1],), passage, quotes, "foremost", "what"
                    )


def kinds(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask how many of something there are, and which, where a sentence says `There are four kinds of event: ...`."""
    shape = re.compile(
        rf"(?:([A-Z][^,;:]{{3,40}}),? )?[Tt]here (is|are|was|were) ({QUANTITY}) ((?:[a-z-]+ )?[a-z]+s?(?: of [a-z]+)?)\b((?: (?:in|at|on|for|from|between|with) [^,;:.]{{3,40}})?)(?=[,;:.]|$)(?:: ([^;.]+))?"
    )
    for passage in passages:
        for plain, raw in prose(passage):
            match = shape.match(plain.rstrip("."))
            if match is None or not clear(match[4] + match[5]) or "anything" in match[5]:
                continue
            front = f" {corpus.inside(match[1])}" if match[1] else ""
            where = f"{match[5]}{front}"
            yield candidate(
                tidy(f"How many {match[4]} {match[2]} there{where}") + "?",
                both(f"{match[3]} {match[4]}"),
                passage,
                raw,
                "kinds",
                "number",
            )
            if match[6] and len(match[6].split()) <= 20:
                yield candidate(
                    tidy(f"Which {match[4]} {match[2]} there{where}") + "?", (match[6],), passage, raw, "kinds", "what"
                )


def _object(clause: Clause) -> tuple[str, str] | None:
    """Return what a clause's verb takes, and what of the rest stays in the question; None where that is not sure."""
    base = (clause.base or clause.verb).split()[-1:] or [""]
    if clause.be or base[0] not in TAKING or (clause.auxiliary in {"is", "are", "was", "were", "has", "have"}):
        return None
    rest = own_part(clause.rest)
    match = re.match(rf"({_JOINED})(?= (?:for|from|at|in|on|to|by|during|before|after|until|with|if|when)\b|$)", rest)
    if match is None:
        return None
    parts = re.split(r",? and (?=(\w+) )", match[1])
    said = parts[0] if len(parts) > 1 and parts[1] in {*THIRD, *BE} else match[1]
    words = said.split()
    if words[0].lower() in {"no", "for", "to", "up", "down"} or not clear(said):
        return None
    if words[-1].lower() in PREPOSITIONS | DETERMINERS or (len(words) < 2 and not words[0][0].isupper()):
        return None
    post = rest[match.end() :].strip() if said == match[1] else ""
    return (said, post) if len(post.split()) <= 6 and clear(post) else None
