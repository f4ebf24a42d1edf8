"""Just enough English grammar to turn a sentence into a question: verbs, clauses, phrases that answer how many and when.

Strategy: prefer silence to nonsense.  A sentence is read as [front] subject, verb group, rest; when the subject is a
pronoun, holds a relative clause, or the verb is not in the list below, there is no clause and no question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

# base forms; regular inflection is worked out below
_REGULAR = """accept account achieve act add admit adopt advise agree aim allow announce answer appear apply appoint approve ask
assemble assign attach attack attend avoid award ban bar base bear beat begin behave belong bind bite blink block boil book borrow break bring
build burn buy calculate call calibrate cancel carry catch cause change charge check choose claim clean clear click climb close collect come
compare complain complete concern confirm connect consist contain continue control convert cook cool copy cost count cover crash create cross cut
deal debit decide declare decline deduct deliver demand depend describe design destroy detect develop die differ discontinue discover discuss
dismiss dispose divide do double draw drive drop earn eat elect employ enable enclose end enter equip establish estimate exceed exchange exclude
exist expand expect expire explain export express extend fade fail fall favour feed feel fill find finish fit fix fly fold follow forbid form
found freeze give go govern grant grow guarantee hand handle hang happen hang harden have heat help hire hold host identify impose improve include
increase inform injure insert inspect install insure introduce invent invest invite involve issue join jump keep kill know lack land lapse last
launch lead learn leave lend let lie lift limit line list live load lock lose lower maintain make manage manufacture mark mean measure meet melt mention
mix monitor mount move need note notice number observe obtain offer open operate order organize overheat owe own pack paint park pass pay perform permit
pick place plan play post pour prefer prepare present press prevent print process produce prohibit promise propose protect prove provide
publish pull pump purchase push put raise range rate reach react read receive recharge recommend record recover recycle reduce refer refund
refuse register reject release remain remind remove renew rent repair repeat replace reply report represent request require rescue reserve resign
respond rest restore result retire return reveal review revise ride ring rise roll rotate run save say search secure see seem sell send separate
serve set settle sew share shed ship show shut sign sink sit sleep slide slip slow smell sound speak spend spread stamp stand start state stay
step stop store strengthen stretch study submit suffer suggest suit supply support suspend sweep swing switch take talk tell tend test thank
think throw tie tighten tip tow train transfer transport travel treat try turn unfold update use vary visit void vote wait walk want warm wash watch
wear weigh weld widen win wipe wish withdraw work worry wrap write yield account rely rely supervise oversee chair edit host staff""".split()
# base: third person, past, participle where they are not regular
_IRREGULAR = {
    "be": ("is", "was", "been"), "have": ("has", "had", "had"), "do": ("does", "did", "done"), "go": ("goes", "went", "gone"),
    "bear": ("bears", "bore", "borne"), "beat": ("beats", "beat", "beaten"), "begin": ("begins", "began", "begun"), "bind": ("binds", "bound", "bound"),
    "bite": ("bites", "bit", "bitten"), "break": ("breaks", "broke", "broken"), "bring": ("brings", "brought", "brought"), "build": ("builds", "built", "built"),
    "buy": ("buys", "bought", "bought"), "catch": ("catches", "caught", "caught"), "choose": ("chooses", "chose", "chosen"), "come": ("comes", "came", "come"),
    "cost": ("costs", "cost", "cost"), "cut": ("cuts", "cut", "cut"), "deal": ("deals", "dealt", "dealt"), "draw": ("draws", "drew", "drawn"),
    "drive": ("drives", "drove", "driven"), "eat": ("eats", "ate", "eaten"), "fall": ("falls", "fell", "fallen"), "feed": ("feeds", "fed", "fed"),
    "feel": ("feels", "felt", "felt"), "find": ("finds", "found", "found"), "fly": ("flies", "flew", "flown"), "forbid": ("forbids", "forbade", "forbidden"),
    "freeze": ("freezes", "froze", "frozen"), "give": ("gives", "gave", "given"), "grow": ("grows", "grew", "grown"), "hang": ("hangs", "hung", "hung"),
    "hold": ("holds", "held", "held"), "keep": ("keeps", "kept", "kept"), "know": ("knows", "knew", "known"), "lead": ("leads", "led", "led"),
    "leave": ("leaves", "left", "left"), "lend": ("lends", "lent", "lent"), "let": ("lets", "let", "let"), "lie": ("lies", "lay", "lain"),
    "lose": ("loses", "lost", "lost"), "make": ("makes", "made", "made"), "mean": ("means", "meant", "meant"), "meet": ("meets", "met", "met"),
    "oversee": ("oversees", "oversaw", "overseen"), "pay": ("pays", "paid", "paid"), "put": ("puts", "put", "put"), "read": ("reads", "read", "read"),
    "ride": ("rides", "rode", "ridden"), "ring": ("rings", "rang", "rung"), "rise": ("rises", "rose", "risen"), "run": ("runs", "ran", "run"),
    "say": ("says", "said", "said"), "see": ("sees", "saw", "seen"), "sell": ("sells", "sold", "sold"), "send": ("sends", "sent", "sent"),
    "set": ("sets", "set", "set"), "sew": ("sews", "sewed", "sewn"), "show": ("shows", "showed", "shown"), "shut": ("shuts", "shut", "shut"),
    "sink": ("sinks", "sank", "sunk"), "sit": ("sits", "sat", "sat"), "sleep": ("sleeps", "slept", "slept"), "slide": ("slides", "slid", "slid"),
    "speak": ("speaks", "spoke", "spoken"), "spend": ("spends", "spent", "spent"), "spread": ("spreads", "spread", "spread"), "stand": ("stands", "stood", "stood"),
    "sweep": ("sweeps", "swept", "swept"), "swing": ("swings", "swung", "swung"), "take": ("takes", "took", "taken"), "tell": ("tells", "told", "told"),
    "think": ("thinks", "thought", "thought"), "throw": ("throws", "threw", "thrown"), "wear": ("wears", "wore", "worn"), "win": ("wins", "won", "won"),
    "withdraw": ("withdraws", "withdrew", "withdrawn"), "write": ("writes", "wrote", "written"),
}  # fmt: skip
_DOUBLING = frozenset(
    "ban bar drop fit plan pump rot ship shop slip stop step tip tie wrap bed admit permit prefer refer occur submit transfer commit equip".split()
) - {"pump", "tie"}
MODALS = frozenset("can could may might must shall should will would".split())
BE = frozenset("is are was were".split())
PRONOUNS = frozenset(
    "it they he she we you i this these those that there who whoever what which everything anything nothing one ones some both each all others".split()
)
_UNCLEAR = frozenset(
    "it its they them their he him his she her hers we us our this these those here there such same other former latter then".split()
)
DETERMINERS = frozenset(
    "the a an every each no any some our your its their his her this that these those most many all another both two".split()
)
PREPOSITIONS = frozenset(
    "about above across after against along among around at before behind below beneath beside between beyond by despite down during for from in inside into near next of off on onto opposite out outside over past per since than through throughout to toward towards under until up upon via with within without".split()
)
CONJUNCTIONS = frozenset(
    "and or but nor so yet because since although though while whereas unless if when where that which who whose as".split()
)
ADVERBS = frozenset(
    "also always already again almost altogether completely currently daily each exactly extra fully generally here immediately just kindly later mainly more mostly nearly never normally not now often once only partly probably quickly rarely really regularly separately simply slowly sometimes soon still then there together today tomorrow twice unanimously usually yesterday yet free".split()
)

_RELATIVE = frozenset(
    "that which who whose whom because if when while unless whenever wherever whoever whether until".split()
)
_LINKING = frozenset(
    "afterwards otherwise however therefore besides meanwhile instead moreover according last next only even".split()
)

NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million".split()
_NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?|(?:{'|'.join(NUMBER_WORDS)})(?:[ -](?:{'|'.join(NUMBER_WORDS)}))*(?: and a half)?)"
_ABOUT = r"(?:(?:about|some|at least|at most|up to|more than|less than|fewer than|under|over|only|nearly|almost|around|roughly|exactly|just) )?"
_DURATION = (
    r"(?:(?:working|business|calendar) )?(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|quarters?|weekends?)"
)
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DAY = r"(?:Mondays?|Tuesdays?|Wednesdays?|Thursdays?|Fridays?|Saturdays?|Sundays?)"
_DATE = rf"(?:(?:the )?\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}(?: \d{{4}})?|{_MONTH} \d{{1,2}}(?:, \d{{4}})?|{_MONTH} \d{{4}}|{_MONTH}|(?:19|20)\d\d|(?:the )?\d{{1,2}}(?:st|nd|rd|th)(?: of each month)?)"
_CLOCK = r"(?:\d{1,2}:\d{2}(?: ?[ap]m)?|\d{1,2} ?[ap]m|noon|midnight)"
_SEASON = r"(?:the )?(?:spring|summer|autumn|winter)(?: of (?:19|20)\d\d| (?:19|20)\d\d)?"
MONEY = rf"{_ABOUT}(?:[$€£]\d[\d,]*(?:\.\d+)?(?: (?:million|billion|thousand))?|\d[\d,]*(?:\.\d+)? (?:dollars|euros|pounds|cents))"
QUANTITY = rf"{_ABOUT}{_NUMBER}"
DURATION = rf"{_ABOUT}(?:{_NUMBER}(?: (?:to|or) {_NUMBER})?(?:[ -](?:and a half|half))?|an?|half an?) {_DURATION}\b(?: and {_NUMBER} {_DURATION}\b)?"
UNITS = {
    "kg": "weight", "g": "weight", "kilograms": "weight", "tonnes": "weight", "degrees": "temperature", "km/h": "speed", "bar": "pressure",
    "km": "distance", "kilometres": "distance", "metres": "distance", "m": "distance", "cm": "distance", "mm": "distance", "percent": "level",
    "W": "power", "V": "voltage", "volts": "voltage", "Wh": "capacity", "litres": "volume", "Nm": "torque",
}  # fmt: skip
TIME = (
    rf"(?:from {_CLOCK} (?:to|until) {_CLOCK}|between {_CLOCK} and {_CLOCK}|from {_DATE} (?:to|until) {_DATE}|between {_DATE} and {_DATE}"
    rf"|(?:on|in|at|by|before|until|since|from|after) (?:(?:early|late|the (?:end|beginning|middle|start) of|the night of|the evening of|every) )?(?:{_DATE}|{_CLOCK}|{_DAY}|{_SEASON})(?:,? (?:at|on) (?:{_CLOCK}|{_DATE}))?(?: on {_DAY})?"
    rf"|every (?:{_DAY}|day|week|month|year|morning|evening|night)(?: at {_CLOCK})?)"
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


def third(base: str) -> str:
    """Return the third person singular of a verb."""
    if base in _IRREGULAR:
        return _IRREGULAR[base][0]
    if re.search(r"(?:s|x|z|ch|sh)$", base):
        return base + "es"
    return base[:-1] + "ies" if re.search(r"[^aeiou]y$", base) else base + "s"


def past(base: str) -> str:
    """Return the past tense of a verb."""
    if base in _IRREGULAR:
        return _IRREGULAR[base][1]
    if base in _DOUBLING:
        return base + base[-1] + "ed"
    if base.endswith("e"):
        return base + "d"
    return base[:-1] + "ied" if re.search(r"[^aeiou]y$", base) else base + "ed"


def participle(base: str) -> str:
    """Return the past participle of a verb."""
    return _IRREGULAR[base][2] if base in _IRREGULAR else past(base)


VERBS = sorted({*_REGULAR, *_IRREGULAR})
THIRD = {third(b): b for b in VERBS}
PAST = {past(b): b for b in VERBS}
PARTICIPLE = {participle(b): b for b in VERBS}


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
        if set(first.rest[: match.start()].lower().replace(",", " ").split()) & _RELATIVE:
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


def _clause(text: str, cut: int | None = None) -> Clause | None:
    """Read subject, verb group and rest; `cut` says how many words the subject has where that is known."""
    words = text.split()
    low = [w.strip(",;:").lower() for w in words]
    if len(words) < 3 or (cut is None and (low[0] in PRONOUNS or low[0] in CONJUNCTIONS or low[0] in PREPOSITIONS)):
        return None
    for i in range(cut or 1, min(len(words), 14)):
        word, before = low[i], low[i - 1]
        if word in _RELATIVE:
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
        or low[0] in _UNCLEAR
        or any(w in _UNCLEAR - {"other", "such", "same", "our"} for w in low)
        or ":" in plain
    ):
        return None
    if low[-1] in ADVERBS:
        plain, low = " ".join(plain.split()[:-1]), low[:-1]
    if len(low) > 1 and low[0] in THIRD and low[1] in DETERMINERS:
        return None  # "Fits the Wren": the subject was left out
    if (
        not low
        or low[0] in ADVERBS | _LINKING
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
    if any(w.lower() in _UNCLEAR for w in front.split()):
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
    return not any(w.strip(",;'’").lower() in _UNCLEAR for w in text.split())


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
