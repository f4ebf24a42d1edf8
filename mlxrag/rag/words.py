"""Text to index terms: lower case, without stop words, stemmed by the rules of its language.

The analyzers are tantivy's (Snowball's stemmers and stop words).  Scripts that are written without
spaces are cut into pairs of characters.  Knows nothing of documents or indexes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import tantivy

from mlxrag.rag.document import mended

LANGUAGES = {
    "ar": "arabic", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish", "fi": "finnish",
    "fr": "french", "hu": "hungarian", "it": "italian", "nl": "dutch", "no": "norwegian", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
"""Languages with a stemmer, by ISO 639-1 code; text in any other is only lower-cased."""

STOPPED = ("da", "de", "en", "es", "fi", "fr", "hu", "it", "nl", "no", "pt", "ru", "sv")
"""Languages with stop words."""

SCRIPTS = {"ar": "[\u0600-\u06ff]", "el": "[\u0370-\u03ff]", "ru": "[\u0400-\u04ff]", "ta": "[\u0b80-\u0bff]"}
"""Languages known by their letters alone.  Cyrillic is read as Russian, whose stemmer harms its neighbours little."""

SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uac00-\ud7af\U00020000-\U0003ffff]+"
)
WORD = re.compile(r"[^\W_]+")


def terms(text: str, language: str = "en") -> list[str]:
    """Return the index terms of a text, in order, repetitions kept.

    Example:
        >>> terms("The leaves were falling")
        ['leav', 'were', 'fall']
    """
    text = unicodedata.normalize("NFKC", mended(text))
    if text.isascii():
        return analyzer(language).analyze(text)
    found: list[str] = []
    at = 0
    for match in SPACELESS.finditer(text):
        found += analyzer(language).analyze(text[at : match.start()])
        found += pairs(match.group())
        at = match.end()
    return found + analyzer(language).analyze(text[at:])


def question_terms(question: str, languages: Iterable[str]) -> list[str]:
    """Return the terms of a question in each of the languages that an index holds, each term once.

    Words that are stop words in one language and not in another are kept: which language a short
    question is in cannot be told reliably, and rare terms outweigh common ones anyway.
    """
    return list(dict.fromkeys(term for language in languages for term in terms(question, language)))


def matches(text: str, wanted: set[str], languages: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield the spans of `text` whose terms are among `wanted`, in order."""
    languages = tuple(languages)
    for match in WORD.finditer(text):
        spaceless = SPACELESS.search(match.group())
        if spaceless:
            for i in range(match.start(), match.end() - 1):
                if text[i : i + 2] in wanted:
                    yield i, i + 2
        elif any(term in wanted for language in languages for term in terms(match.group(), language)):
            yield match.span()


def pairs(text: str) -> list[str]:
    """Return overlapping pairs of characters; a single character stands for itself."""
    return [text[i : i + 2] for i in range(len(text) - 1)] or [text]


def language_of(text: str, among: int = 4000) -> str:
    """Return the language of a text as an ISO 639-1 code, or "" where it cannot be told.

    Strategy: by script where that decides; else the language whose stop words are most of the
    text's words, if they are at least one in ten, as they are in any running text.

    Args:
        text: the text.
        among: characters to look at, from the start.
    """
    text = mended(text[:among])
    letters = sum(c.isalpha() for c in text)
    if letters < 20:
        return ""
    for code, pattern in SCRIPTS.items():
        if len(re.findall(pattern, text)) * 2 > letters:
            return code
    if sum(len(m) for m in SPACELESS.findall(text)) * 3 > letters:
        return ""
    words = len(WORD.findall(text))
    stopped = Counter({code: words - len(stopper(code).analyze(text)) for code in STOPPED if code not in SCRIPTS})
    code, count = stopped.most_common(1)[0]
    return code if count * 10 >= words else ""


@cache
def analyzer(language: str) -> tantivy.TextAnalyzer:
    """Return the analyzer of a language; of an unknown one, plain words in lower case."""
    building = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.remove_long(64))
    building = building.filter(tantivy.Filter.lowercase())
    if language in STOPPED:
        building = building.filter(tantivy.Filter.stopword(LANGUAGES[language]))
    if language in LANGUAGES:
        building = building.filter(tantivy.Filter.stemmer(LANGUAGES[language]))
    return building.filter(tantivy.Filter.ascii_fold()).build()


@cache
def stopper(language: str) -> tantivy.TextAnalyzer:
    """Return an analyzer that only takes a language's stop words away."""
    building = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.lowercase())
    return building.filter(tantivy.Filter.stopword(LANGUAGES[language])).build()
