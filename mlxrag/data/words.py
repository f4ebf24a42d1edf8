"""Words of a text in any language, and the two ways answers are made comparable.

`squad_normal` is SQuAD's, for English and for figures that others publish; `normal` knows Unicode, the articles of
some languages, and scripts without spaces.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

ARTICLES: dict[str, str] = {
    "en": "a an the",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "es": "un una unos unas el la los las",
    "fr": "un une des le la les du",
    "it": "un uno una il lo la i gli le",
    "pt": "um uma uns umas o a os as",
    "nl": "een de het",
    "vi": "của là cái chiếc những",
}
# Frequent and telling: a text of a few words is placed by the list it hits most.
STOP: dict[str, str] = {
    "en": "the of and to in is that for it with as was on are be by this from at or an which have not you what who when where why how does did do",
    "de": "der die und das in ist zu den mit von nicht ein eine auf für im dem sich des auch es an werden wird",
    "fr": "le la les de des et un une est dans que qui pour pas sur au avec il ce sont par du plus",
    "es": "el la los las de y en que un una es por con para se del no al lo como su más",
    "it": "il lo la gli le di e che un una è per in con non si del della dei sono da come",
    "pt": "o a os as de e que um uma em é para com não do da no na por se mais dos",
    "nl": "de het een en van in is dat op te zijn met voor niet die aan er om ook als",
    "sv": "och att det i en som på är av för med den till inte har de om ett var",
    "ru": "и в не на я что он с как это по но из у за от же для так к",
}
SCRIPTS = (("ja", r"[\u3040-\u30ff]"), ("zh", r"[\u4e00-\u9fff]"), ("ko", r"[\uac00-\ud7af]"), ("th", r"[\u0e00-\u0e7f]"),
           ("ar", r"[\u0600-\u06ff]"), ("he", r"[\u0590-\u05ff]"), ("el", r"[\u0370-\u03ff]"), ("hi", r"[\u0900-\u097f]"))  # fmt: skip
# A character of a script without spaces is a word by itself, as in the evaluation of MLQA.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]+"
)
_PUNCTUATION = frozenset(string.punctuation)
_STOPS = {code: frozenset(text.split()) for code, text in STOP.items()}


def squad_normal(text: str) -> str:
    """Lower, drop ASCII punctuation and a/an/the, and squeeze spaces.

    Source: `normalize_answer` of SQuAD's evaluate-v2.0.py (Rajpurkar et al. 2018).
    """
    plain = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def normal(text: str, language: str = "") -> str:
    """Fold case and width, drop punctuation and articles, and part the characters of scripts without spaces.

    Args:
        text: any text.
        language: two letters; worked out from the text unless given.

    Source: the evaluation of MLQA (Lewis et al. 2020), which extends SQuAD's to languages without ASCII.
    """
    code = language or language_of(text)
    articles = set(ARTICLES.get(code, "").split())
    # A point or comma between digits is part of the number; every other mark goes.
    kept = re.sub(r"(?<=\d)[.,](?=\d)", "\u0001", unicodedata.normalize("NFKC", text).casefold())
    plain = "".join(" " if unicodedata.category(c)[0] in "PZ" and c != "%" else c for c in kept)
    found = (w.replace("\u0001", ".") for piece in plain.split() for w in _pieces(piece))
    return " ".join(w for w in found if w not in articles)


def words(text: str) -> list[str]:
    """Return the words of a text, case folded; each character of a script without spaces is one."""
    return list(_words(text))


@lru_cache(maxsize=64)  # an example's passages are looked at by many measures, one after the other
def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def content_words(text: str, language: str = "en") -> list[str]:
    """Return the words that are not stop words or question words of the language."""
    return [w for w in words(text) if w not in _STOPS.get(language, frozenset()) and w not in _ASKING]


def overlap_f1(given: Sequence[str], gold: Sequence[str]) -> float:
    """Return the F1 of two bags of words; 1.0 if both are empty, 0.0 if one is."""
    if not given or not gold:
        return float(given == gold or (not given and not gold))
    same = sum((Counter(given) & Counter(gold)).values())
    return 2 * same / (len(given) + len(gold))


@lru_cache(maxsize=64)
def language_of(text: str) -> str:
    """Return two letters for the language of a text, by script and stop words; an empty string where neither says."""
    sample = text[:2000]
    for code, letters in SCRIPTS:
        found = len(re.findall(letters, sample))
        if found > 0.2 * max(1, sum(c.isalpha() for c in sample)):
            return code
    counts = Counter(words(sample))
    scores = {code: sum(counts[w] for w in stops) for code, stops in _STOPS.items()}
    best = max(scores, key=lambda code: scores[code])
    return best if scores[best] else ""


def _pieces(piece: str) -> list[str]:
    return re.findall(
        r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]|[^\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]+",
        piece,
    )


_ASKING = frozenset(
    [
        "what",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "much",
        "many",
        "long",
        "far",
        "old",
        "often",
        "do",
        "does",
        "did",
        "can",
        "could",
        "may",
        "will",
        "would",
        "should",
        "has",
        "had",
        "were",
    ]
)
