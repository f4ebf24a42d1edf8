"""Just enough English grammar to turn a sentence into a question: verbs, clauses, phrases that answer how many and when.

Strategy: prefer silence to nonsense.  A sentence is read as [front] subject, verb group, rest; when the subject is a
pronoun, holds a relative clause, or the verb is not in the list below, there is no clause and no question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlxrag.data.lexicon import (
    ADVERBS,
    BE,
    CONJUNCTIONS,
    DETERMINERS,
    LINKING,
    MODALS,
    NUMBER_WORDS,
    PARTICIPLE,
    PAST,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVE,
    THIRD,
    TIME,
    UNCLEAR,
    VERBS,
)


@dataclass(frozen=True, slots=True)
class Clause:
    """A sentence with one subject and one verb group.

    Attributes:
        front: a phrase before the subject, such as `In winter`; empty where there is none.
        subject: the noun phrase, as it stands in the middle of a sentence.
        auxiliary: `is`, `may`, `has` or another that is inverted in a question; empty where `do` is needed.
        verb: what follows the auxiliary (adverbs, participle), or the finite verb.
        base: base form of the finite verb where `do` is needed.
        support: do, does or did, where needed.
        rest: what follows the verb group.
        be: whether the finite verb is a form of be that is no auxiliary.
    """

    front: str
    subject: str
    auxiliary: str
    verb: str
    base: str
    support: str
    rest: str
    be: bool = False

    def asked(self, wh: str, pre: str, post: str) -> str:
        """Return the question with `wh`, this clause's subject and verb, and the rest around what is asked for."""
        first = self.auxiliary or self.support
        main = self.verb if self.auxiliary else self.base
        tail = f"{post} {lower_first(self.front)}" if self.front else post
        return tidy(f"{wh} {first} {self.subject} {main} {pre} {tail}") + "?"


def clauses(sentence: str) -> Iterator[Clause]:
    """Yield the clauses of a sentence that can be asked about: its first, and a second verb after `and`."""
    text = re.sub(r"^(?:No|Yes)[.,] ", "", " ".join(sentence.split()).rstrip(".!"))
    if is_imperative(text):
        return
    front, body = _front(text)
    first = _clause(body)
    if first is None or re.search(
        r"\b(?:not|n't|never|no longer|nobody|neither|nor|hardly)\b", f"{first.verb} {first.subject}", re.IGNORECASE
    ):
        return
    yield replace(first, front=front)
    # "weighs 7.9 kg and carries 60 kg": the second verb has the first one's subject
    for match in re.finditer(r"(?:,)? and (?=(\w+) )", first.rest):
        word = match[1]
        if set(first.rest[: match.start()].lower().replace(",", " ").split()) & RELATIVE:
            break
        if word in THIRD or word in PAST or word in BE or word in MODALS:
            second = _clause(f"{first.subject} {first.rest[match.end() :]}", cut=len(first.subject.split()))
            if (
                second is not None
                and clear(first.subject)
                and bool(second.support == "did") == bool(first.support == "did")
            ):
                yield replace(second, subject=first.subject)
            break


def addressed(sentence: str) -> Iterator[Clause]:
    """Yield the clause of a sentence that tells the reader to do something, or says what `you` can, must or get.

    An order is read as `you should`; what is forbidden, and what `you` did, is left out.
    """
    text = re.sub(r"^(?:Then|Please),? (?=[a-z])", "", " ".join(sentence.split()).rstrip(".!"))
    front, body = _front(text)
    if not body or re.search(r"\b(?:not|never|no longer|n't)\b", body):
        return
    words = body.split()
    low = [w.strip(",;:").lower() for w in words]
    if low[0] == "you" and len(words) > 3:
        clause = _group("you", words[1:], low[1:])
        if clause is not None and clause.support != "did" and clause.auxiliary not in {"had", "were"}:
            yield replace(clause, front=front)
    elif is_imperative(body[:1].upper() + body[1:]) and low[0] not in {
        "be",
        "see",
        "note",
        "find",
        "thank",
        "last",
        "ask",
        "call",
    }:
        yield Clause(front, "you", "should", words[0].lower(), "", "", " ".join(words[1:]))


def _clause(text: str, cut: int | None = None) -> Clause | None:
    """Read subject, verb group and rest; `cut` says how many words the subject has where that is known."""
    words = text.split()
    low = [w.strip(",;:").lower() for w in words]
    if len(words) < 3 or (cut is None and (low[0] in PRONOUNS or low[0] in CONJUNCTIONS or low[0] in PREPOSITIONS)):
        return None
    for i in range(cut or 1, min(len(words), 14)):
        word, before = low[i], low[i - 1]
        if word in RELATIVE:
            return None  # the subject holds a clause of its own
        if words[i - 1].endswith((":", ";")):
            return None
        if cut is None and sum(w.endswith(",") for w in words[:i]) % 2:
            continue  # within an apposition
        finite = _finite(low, i)
        if not finite or before in DETERMINERS or before in PREPOSITIONS or (before in CONJUNCTIONS and cut is None):
            continue
        subject = _subject(" ".join(words[:i])) if cut is None else " ".join(words[:i])
        return None if subject is None else _group(subject, words[i:], low[i:])
    return None


def _finite(low: list[str], i: int) -> bool:
    word = low[i]
    if word in BE or word in MODALS or word in {"has", "have", "had", "does", "do", "did"}:
        return True
    after = low[i + 1] if i + 1 < len(low) else ""
    if word in THIRD:
        # a plural noun is followed by a verb or preposition `of`, a verb in -s by what it takes
        return after not in BE | MODALS | {"of", "have", "has", "had"} and low[i - 1] not in {"its", "their", "the"}
    if word in PAST:
        # "trailers returned by dealers are ...": a participle, when another finite verb follows closely
        return not any(w in BE | MODALS | {"has", "have", "had"} for w in low[i + 1 : i + 6])
    return (
        word in VERBS
        and (
            (low[i - 1].endswith("s") and not low[i - 1].endswith(("'s", "’s", "ss")))
            or low[i - 1] in {"people", "children", "staff", "women", "men"}
        )
        and after not in BE
    )


def _subject(text: str) -> str | None:
    """Return a subject as it stands inside a question, or None if it cannot."""
    plain = re.sub(r",\s.*$", "", text).strip(" ,")
    low = [w.strip(",").lower() for w in plain.split()]
    if (
        not low
        or len(low) > 10
        or low[0] in UNCLEAR
        or any(w in UNCLEAR - {"other", "such", "same", "our"} for w in low)
        or ":" in plain
    ):
        return None
    if low[-1] in ADVERBS:
        plain, low = " ".join(plain.split()[:-1]), low[:-1]
    if len(low) > 1 and low[0] in THIRD and low[1] in DETERMINERS:
        return None  # "Fits the Wren": the subject was left out
    if (
        not low
        or low[0] in ADVERBS | LINKING
        or (len(low) == 1 and (low[0] in VERBS or low[0] in THIRD or low[0] in NUMBER_WORDS))
    ):
        return None
    return plain


def _group(subject: str, words: list[str], low: list[str]) -> Clause | None:
    """Read the verb group at the start of `words`."""
    adverbs: list[str] = []
    i = 1
    while (
        i < len(words)
        and (low[i] in ADVERBS - {"once", "free", "extra", "more"} or low[i].endswith("ly"))
        and len(adverbs) < 2
    ):
        adverbs.append(words[i])
        i += 1
    if {"there", "here", "then"} & set(low[1:i]):
        return None
    adverbs = [a for a in adverbs if a.lower() != "just"]
    first = low[0]
    following = low[i] if i < len(low) else ""

    def rest(at: int) -> str:
        return " ".join(words[at:])

    if first in MODALS:
        if following == "be" and i + 1 < len(low) and low[i + 1] in PARTICIPLE:
            return Clause("", subject, first, " ".join([*adverbs, "be", words[i + 1]]), "", "", rest(i + 2))
        if following in VERBS or following == "be":
            return Clause("", subject, first, " ".join([*adverbs, words[i]]), "", "", rest(i + 1), be=following == "be")
        return None
    if first in BE:
        if following in PARTICIPLE and words[i - 1][-1] != ",":
            return Clause("", subject, first, " ".join([*adverbs, words[i]]), "", "", rest(i + 1))
        if following == "being":
            return None
        kept = [a for a in adverbs if a.lower() not in {"only", "just"}]
        return Clause("", subject, first, " ".join(kept), "", "", rest(i), be=True)
    if first in {"has", "have", "had"} and (following in PARTICIPLE or following == "been"):
        verb = [*adverbs, words[i]]
        i += 1
        if following == "been" and i < len(low) and low[i] in PARTICIPLE:
            verb.append(words[i])
            i += 1
        return Clause("", subject, first, " ".join(verb), "", "", rest(i))
    base = THIRD.get(first) or PAST.get(first) or (first if first in VERBS else None)
    if base is None:
        return None
    support = (
        "does"
        if first in THIRD
        else "did"
        if first in PAST and first not in {"cost", "cut", "put", "set", "let", "read"}
        else "do"
    )
    shown = " ".join([*adverbs, base])
    return Clause("", subject, "", words[0], shown, support, rest(i))


def _front(text: str) -> tuple[str, str]:
    """Part a phrase such as `In 2021` or `In winter,` from what follows it."""
    timed = re.match(
        rf"({TIME}),? (?=[A-Z]|(?:the|a|an|our|every|each|all|some|about|only)\b)", text[:1].lower() + text[1:]
    )
    if timed:
        return timed[1], text[timed.end() :]
    told = re.match(r"According to (?:the |our )?[\w ]+?(?:, | (?=(?:a|an|the) ))", text)
    if told:
        return "", text[told.end() :]
    first = text.split(" ", 1)[0].lower()
    if first not in PREPOSITIONS:
        return "", text
    comma = text.find(", ")
    if 0 < comma < 60 and not re.search(r"\b(?:is|are|was|were|has|have)\b", text[:comma]):
        front, body = text[:comma], text[comma + 2 :]
    else:
        match = re.match(r"((?:[\w'-]+ ){2,7}?)(?=(?:the|our|your|a|an|every|each) [a-z])", text)
        if not match or match[1].split()[-1].lower() in PREPOSITIONS | DETERMINERS | CONJUNCTIONS:
            return "", text
        front, body = match[1].strip(), text[match.end() :]
    if any(w.lower() in UNCLEAR for w in front.split()):
        return "", ""
    return front, body


def lower_first(text: str) -> str:
    """Lower the first letter of a phrase that starts with a small word (preposition, determiner)."""
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first.lower() in PREPOSITIONS | DETERMINERS | set(NUMBER_WORDS) else text


def tidy(text: str) -> str:
    """Squeeze spaces, and take stray commas and spaces before marks out."""
    plain = " ".join(text.split())
    plain = re.sub(r"\s+([,;?.])", r"\1", plain)
    return plain.strip(" ,;")


def clear(text: str) -> bool:
    """Whether a phrase can be understood by itself: it has no word that points to elsewhere."""
    return not any(w.strip(",;'’").lower() in UNCLEAR for w in text.split())


def shortened(rest: str) -> str:
    """Cut what follows the asked-for phrase at the next clause, and drop it when it is long or unclear."""
    held = re.sub(r"(between [\w'-]+(?: [\w'-]+)?) and ", r"\1 & ", f" {rest} ")
    cut = re.split(
        r",(?!\d)|:(?!\d)|[;()]| (?:and|or|but|because|since|unless|although|while|whereas|when|where|if|so that|which|who|that|as|whichever|whatever|until|before|after) ",
        held, maxsplit=1,
    )[0].replace(" & ", " and ").strip()  # fmt: skip
    words = cut.split()
    if not words or len(words) > 7 or not clear(cut) or words[-1].lower() in PREPOSITIONS | DETERMINERS:
        return ""
    return (
        cut
        if words[0].lower() in PREPOSITIONS | {"a", "an", "per", "each", "extra", "every", "altogether", "together"}
        else ""
    )


def is_imperative(sentence: str) -> bool:
    """Whether a sentence tells the reader to do something."""
    words = sentence.split()
    low = [w.strip(",").lower() for w in words[:3]]
    if low[:1] == ["please"]:
        low = low[1:]
    if low[:2] == ["do", "not"] or low[:1] == ["never"] or low[:1] == ["always"]:
        return True
    return (
        len(low) > 1
        and low[0] in VERBS
        and low[0] not in {"have", "do"}
        and low[1] not in BE | MODALS | {"of", "and"}
        and low[1] not in THIRD
    )
