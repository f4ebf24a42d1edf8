"""Makers by rule: a sentence -> questions about its amounts, times, reasons, people and conditions.

A maker takes passages and the corpus and yields candidates; it says nothing where it is not sure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from mlxrag.data.amounts import Found, amounts, asked, own_part, whole
from mlxrag.data.candidate import Candidate, literal
from mlxrag.data.corpus import Corpus, first_names, prose, told
from mlxrag.data.grammar import Clause, addressed, clauses, clear, is_imperative, shortened, tidy
from mlxrag.data.lexicon import DETERMINERS, PREPOSITIONS, TIME, VERBS
from mlxrag.rag.document import Passage

MAIL = (".eml", ".mbox")
"""What `you` means in a mail is not known."""


def amount(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask for the money, number, share, length or duration in a sentence."""
    yield from _by_clause(passages, corpus, amounts, "amount")


def time(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask for the date, time of day or deadline in a sentence."""
    yield from _by_clause(passages, corpus, _times, "time")


def reason(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask why, where a sentence gives the reason after `because` or `since`."""
    for passage in passages:
        for plain, raw in prose(passage):
            parts = re.split(
                r",? (?:because|since|as) (?!of\b)(?=(?:the|a|an|it|they|he|she|there|no|only|hardly|[A-Z]|[a-z]+s? )\b)",
                plain.rstrip("."),
                maxsplit=1,
            )
            if (
                len(parts) != 2
                or re.search(r" as (?:well|long|soon|far|\w+ as)\b", plain)
                or (" as " in plain and ", as " not in plain and "because" not in plain)
            ):
                continue
            cause = re.split(r"[;]| - ", parts[1])[0].strip()
            if re.match(r"(?:19|20)\d\d|[A-Z][a-z]+ \d", cause) or not re.search(
                r"\b(?:is|are|was|were|has|have|had|can|could|would|will)\b|\w+(?:s|ed)\b|\bcame\b", cause
            ):
                continue
            if not clear(re.sub(r"^(?:it|they|he|she|there)\b", "", cause)):
                continue
            last = re.split(r"[;:] ", parts[0])[-1]
            for clause in list(clauses(last[:1].upper() + last[1:]))[:1]:
                if clause.rest and not clear(clause.rest):
                    continue
                tail = clause.rest if len(clause.rest.split()) <= 12 and "," not in clause.rest else ""
                if clause.rest and not tail:
                    continue
                word = "because" if "because" in plain else "since"
                question = asked(clause, corpus, "Why", tail, "")
                yield candidate(question, (f"{word} {cause}", cause), passage, raw, "reason", "why")


def person(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask who did something, who something goes to, and who holds an office."""
    firsts = first_names(corpus.passages)
    name = r"(?:Dr\.? )?([A-Z][a-z]+ [A-Z][a-z]+)"
    for passage in passages:
        for plain, raw in told(passage, corpus):
            for clause in clauses(plain):
                who = re.fullmatch(name, clause.subject)
                if who and who[1].split()[0] in firsts and clear(clause.rest) and not clause.be:
                    verb = f"{clause.auxiliary} {clause.verb}".strip()
                    rest = re.split(
                        r",(?!\d)|:(?!\d)|;| (?:and|but|because|since|while|who|which|until) ", clause.rest
                    )[0]
                    if 2 <= len(rest.split()) <= 12 and _closed(rest):
                        yield candidate(
                            tidy(f"Who {verb} {rest} {clause.front}") + "?",
                            (clause.subject,),
                            passage,
                            raw,
                            "person",
                            "who",
                        )
                to = re.match(rf"(?:(?:[\w'-]+ ){{0,4}}?)(to|by|from|with) {name}\b(?!')", clause.rest)
                if to and to[2].split()[0] in firsts:
                    pre = clause.rest[: to.start(1)].strip()
                    if whole(pre) and (to[1] != "by" or len(pre.split()) < 4):
                        question = asked(clause, corpus, "Who", f"{pre} {to[1]}", "")
                        yield candidate(question, (to[2],), passage, raw, "person", "who")
        text = " ".join(passage.text.split())
        for match in re.finditer(
            rf"\b{name}, ((?:the |our )?(?:head of [a-z]+(?: [a-z]+)?|(?:managing|finance|safety|sales) (?:director|officer)|founder))\b(?=[.,;)]| who)",
            text,
        ):
            if match[1].split()[0] in firsts:
                yield from _office(match[1], match[2], match[0], passage)
        for match in re.finditer(
            rf"\b(?:the|our) ((?:managing|finance|safety|sales) (?:director|officer)), {name}\b", text
        ):
            if match[2].split()[0] in firsts:
                yield from _office(match[2], match[1], match[0], passage)


def condition(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask what to do, or what happens, if or when something is so."""
    for passage in passages:
        for plain, raw in prose(passage):
            match = re.match(r"(If|When|Before|After) ([^,;:]+), (?:then )?([^;:]+?)(?:;|:|$)", plain.rstrip("."))
            if not match:
                continue
            word, case, then = match[1].lower(), match[2], match[3]
            if not clear(case) or not 3 <= len(case.split()) <= 16 or not 3 <= len(then.split()) <= 25:
                continue
            if word in {"before", "after"} and not _finite_within(case):
                continue
            if is_imperative(then[:1].upper() + then[1:]):
                ask = f"What should you do {word} {case}?"
            elif word in {"if", "when"} and clear(then):
                ask = f"What happens {word} {case}?"
            else:
                continue
            answer = re.split(r", (?=so that|because|since|as|by phone)", then)[0]
            yield candidate(ask, (answer, then) if answer != then else (answer,), passage, raw, "condition", "how")
        for plain, raw in prose(passage):
            match = re.match(r"([A-Z][a-z]+ [^,;:]{5,80}?) (before|after|if|until) ([^,;:]+)$", plain.rstrip("."))
            if (
                match
                and is_imperative(match[1])
                and clear(match[3])
                and clear(match[1])
                and _finite_within(match[3])
                and match[2] != "until"
            ):
                answer = match[1][:1].lower() + match[1][1:]
                yield candidate(
                    f"What should you do {match[2]} {match[3]}?", (answer,), passage, raw, "condition", "how"
                )


def definition(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask what a named thing is, where a sentence says it is a ..."""
    for passage in passages:
        for plain, raw in prose(passage):
            for clause in list(clauses(plain))[:1]:
                said = re.match(r"((?:an?|the) [a-z][^,;:]{8,90})", clause.rest)
                name = clause.subject
                if (
                    clause.be
                    and said
                    and re.fullmatch(r"[A-Z][\w-]+(?: [A-Z\d][\w-]*)*", name)
                    and corpus.inside(name) == name
                    and clear(said[1])
                    and not re.search(r"\d|day$|January|March|April|May|June|July|August|ber$", name)
                ):
                    answer = re.split(r" (?:and|but|because|since|while|which|who) ", said[1])[0]
                    yield candidate(
                        f"What {clause.auxiliary} {name}?", (answer,), passage, raw, "definition", "definition"
                    )


def place(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask where something is or happens, where a sentence names the place."""
    where = r"((?:in|at|behind|under|beside|on|next to|opposite|to|from) (?:the |our )?(?:[a-z]+ )?(?:[A-Z][a-z]+(?: [A-Z][a-z]+)*|room \d+|the [a-z]+ (?:plate|cage|drum|shelf|hall|floor)[^,;]*))"
    verbs = r"\b(?:move|open|hang|stand|lie|meet|begin|start|end|build|make|sew|keep|store|sell|hold|place|show|rent|live|found|own|stamp|take place)"
    for passage in passages:
        for plain, raw in told(passage, corpus):
            for clause in clauses(plain):
                match = re.match(rf"((?:[\w'-]+ ){{0,3}}?){where}", clause.rest)
                action = f"{clause.base} {clause.verb}"
                if not match or not (clause.be or re.search(verbs, action)) or re.search(r"[A-Z]", match[1]):
                    continue
                if clause.be and match[1].strip():
                    continue
                if re.search(
                    r"January|February|March|April|May|June|July|August|September|October|November|December|day\b|percent|English",
                    match[2],
                ):
                    continue
                preposition = match[2].split()[0]
                if preposition == "from" or (preposition == "to" and "move" not in action):
                    continue
                answer = match[2]
                bare = answer.split(" ", 1)[1]
                post = shortened(clause.rest[match.end() :])
                yield candidate(
                    asked(clause, corpus, "Where", match[1].strip(), post),
                    (answer, bare),
                    passage,
                    raw,
                    "place",
                    "where",
                )


def _by_clause(
    passages: Sequence[Passage], corpus: Corpus, found: Callable[[Clause, Corpus], Iterator[Found]], maker: str
) -> Iterator[Candidate]:
    for passage in passages:
        for plain, raw in told(passage, corpus):
            for part in re.split(r"; |: (?=[a-z])", plain.rstrip(".")):
                whole_part = part[:1].upper() + part[1:]
                spoken = () if passage.source.endswith(MAIL) else addressed(whole_part)
                for clause in (*clauses(whole_part), *spoken):
                    for question, answers, tag in found(clause, corpus):
                        yield candidate(question, answers, passage, raw, maker, tag)
                        break  # one question for a clause; the patterns stand from the surest to the weakest


def _times(clause: Clause, corpus: Corpus) -> Iterator[Found]:
    rest = own_part(clause.rest)
    action = f"{clause.base} {clause.verb}"
    if clause.front and re.fullmatch(TIME, clause.front) and not clause.be:
        inner = replace(clause, front="")
        core = re.split(r",(?!\d)|:(?!\d)|;| (?:and|but|because|since|while|who|which|when) ", rest)[0]
        if (
            clear(core)
            and 1 <= len(core.split()) <= 10
            and _closed(core)
            and not re.search(r"\b(?:every|each)\b", core)
        ):
            yield asked(inner, corpus, _when(clause.front), core, ""), _dated(clause.front), "time"
    head = r"^((?:(?!\b(?:and|or|but|of)\b)[\w'-]+ ){0,6}?)"
    if (match := re.match(rf"{head}({TIME})(?= |,|$)", rest)) and not re.match(r"(?:every|each)", match[2]):
        pre = match[1].strip()
        said = match[2]
        enough = pre or len(clause.subject.split()) > 1 or not clause.be
        vague = said.startswith("by ") and clause.be
        if (
            whole(pre)
            and enough
            and not vague
            and not pre.endswith(tuple(f" {p}" for p in PREPOSITIONS))
            and pre not in PREPOSITIONS
        ):
            post = shortened(rest[match.end() :])
            if action.strip() or clause.be:
                if clause.verb.startswith("been ") and clause.auxiliary in {"has", "have"}:
                    clause = replace(
                        clause, auxiliary={"has": "was", "have": "were"}[clause.auxiliary], verb=clause.verb[5:]
                    )
                yield asked(clause, corpus, _when(said), pre, post), _dated(said), "time"


def _when(said: str) -> str:
    first = said.split()[0]
    clock = re.search(r"\d:\d\d|noon|midnight", said) is not None
    if first == "from" and " to " not in said and " until " not in said:
        return "From when"
    if first in {"until", "since", "before", "by"}:
        return {
            "until": "Until when",
            "since": "Since when",
            "before": "Before what time" if clock else "Before when",
            "by": "By when",
        }[first]
    if clock and first == "at":
        return "At what time"
    return "When"


def _dated(said: str) -> tuple[str, ...]:
    """Answers to a question for a time: with its preposition and without."""
    first, _, bare = said.partition(" ")
    return (said,) if first in {"from", "between", "every"} else (bare, said)


def _office(who: str, role: str, quote: str, passage: Passage) -> Iterator[Candidate]:
    role = role.removeprefix("our ").removeprefix("the ")
    yield candidate(f"Who is the {role}?", (who,), passage, quote, "person", "who")
    yield candidate(f"What is the position of {who}?", (role,), passage, quote, "person", "fact")


def candidate(
    question: str, answers: tuple[str, ...], passage: Passage, raw: str | tuple[str, ...], maker: str, tag: str
) -> Candidate:
    """Return a candidate with tidy answers and its quotes as the passage writes them."""
    kept = tuple(dict.fromkeys(tidy(a) for a in answers if tidy(a)))
    quotes = tuple(literal(quote, passage) for quote in ((raw,) if isinstance(raw, str) else raw))
    return Candidate(question[:1].upper() + question[1:], kept, (passage,), quotes, f"rule:{maker}", (tag,))


def _closed(rest: str) -> bool:
    """Whether a phrase ends where it can end."""
    return rest.split()[-1].lower() not in PREPOSITIONS | DETERMINERS | {"and", "or", "that", "to"}


def _finite_within(text: str) -> bool:
    words = text.lower().split()
    return any(w in {"is", "are", "was", "were", "has", "have", "can", "will", "must"} for w in words) or any(
        w in VERBS or w.removesuffix("s") in VERBS for w in words[1:]
    )
