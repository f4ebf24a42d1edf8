"""English words as the makers by rule know them: verbs and their forms, small words, amounts and times as patterns."""

from __future__ import annotations

import re

# base forms; regular inflection is worked out below
REGULAR = """accept account achieve act add admit adopt advise agree aim allow announce answer appear apply appoint approve ask
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
IRREGULAR = {
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
DOUBLING = frozenset(
    "ban bar drop fit plan pump rot ship shop slip stop step tip tie wrap bed admit permit prefer refer occur submit transfer commit equip".split()
) - {"pump", "tie"}
MODALS = frozenset("can could may might must shall should will would".split())
BE = frozenset("is are was were".split())
PRONOUNS = frozenset(
    "it they he she we you i this these those that there who whoever what which everything anything nothing one ones some both each all others".split()
)
UNCLEAR = frozenset(
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

RELATIVE = frozenset(
    "that which who whose whom because if when while unless whenever wherever whoever whether until".split()
)
LINKING = frozenset(
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


def third(base: str) -> str:
    """Return the third person singular of a verb."""
    if base in IRREGULAR:
        return IRREGULAR[base][0]
    if re.search(r"(?:s|x|z|ch|sh)$", base):
        return base + "es"
    return base[:-1] + "ies" if re.search(r"[^aeiou]y$", base) else base + "s"


def past(base: str) -> str:
    """Return the past tense of a verb."""
    if base in IRREGULAR:
        return IRREGULAR[base][1]
    if base in DOUBLING:
        return base + base[-1] + "ed"
    if base.endswith("e"):
        return base + "d"
    return base[:-1] + "ied" if re.search(r"[^aeiou]y$", base) else base + "ed"


def participle(base: str) -> str:
    """Return the past participle of a verb."""
    return IRREGULAR[base][2] if base in IRREGULAR else past(base)


VERBS = sorted({*REGULAR, *IRREGULAR})
THIRD = {third(b): b for b in VERBS}
PAST = {past(b): b for b in VERBS}
PARTICIPLE = {participle(b): b for b in VERBS}
