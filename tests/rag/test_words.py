"""Index terms: stemmed, without stop words, in the language of the text."""

import pytest

from mlxrag.rag.words import language_of, matches, question_terms, terms


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("en", "falling leaves", "fall leaf leave falls"),
        ("de", "Die Häuser", "Haus häuser"),
        ("fr", "les chevaux couraient", "chevaux courir couraient"),
        ("es", "las canciones", "canción canciones"),
        ("ru", "книги", "книга"),
        ("en", "ＦＵＬＬ width ﬁne", "full width fine"),
        ("en", "Café", "cafe"),
    ],
)
def test_forms_of_a_word_share_a_term(language, one, other):
    """Inflected forms, other cases, accents and typographic variants meet in one term."""
    assert set(terms(one, language)) & set(terms(other, language))


def test_stop_words_are_dropped():
    """Words without meaning are no terms."""
    assert terms("the and of to", "en") == []
    assert terms("der die das und", "de") == []


def test_scripts_without_spaces_become_pairs():
    """Chinese and Japanese text is cut into overlapping pairs, and mixes with words."""
    assert terms("日本語 kernel", "en") == ["日本", "本語", "kernel"]
    assert terms("本", "en") == ["本"]


def test_identifiers_are_cut_at_punctuation():
    """A dotted or underscored name is found by each of its parts."""
    assert terms("mx.fast.metal_kernel", "en") == ["mx", "fast", "metal", "kernel"]


@pytest.mark.parametrize("text", ["", "  \n", "!!! ---", "🙂"])
def test_text_without_words_has_no_terms(text):
    """Blank text, punctuation and pictures have no terms."""
    assert terms(text, "en") == []


def test_question_terms_cover_all_languages_once():
    """A question is stemmed by the rules of each language of the index; a term comes once."""
    both = question_terms("Häuser houses houses", ["en", "de"])
    assert {"haus", "hous"} <= set(both) and len(both) == len(set(both))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The employees of this company have twenty-eight days of leave in each of their years.", "en"),
        ("Die Mitarbeiter haben in jedem Jahr das Recht auf achtundzwanzig Tage Urlaub.", "de"),
        ("Les employés de la société ont droit à vingt-huit jours de congé par an.", "fr"),
        ("Сотрудники имеют право на двадцать восемь дней отпуска в году.", "ru"),
        ("يحق للموظفين الحصول على ثمانية وعشرين يوما من الإجازة", "ar"),
        ("員工每年有二十八天的帶薪假期，這是公司的規定，適用於所有人。", ""),
        ("x = 1", ""),
        ("", ""),
    ],
)
def test_language_is_told_from_the_text(text, language):
    """The language of running text is recognized; where it cannot be, nothing is claimed."""
    assert language_of(text) == language


def test_matches_are_spans_of_the_text_as_written():
    """Marked spans are the words that share a term with the question, in whatever form they stand there."""
    text = "Kernels! A kernel's code; 日本語."
    wanted = set(question_terms("kernel 日本", ["en"]))
    assert [text[a:b] for a, b in matches(text, wanted, ["en"])] == ["Kernels", "kernel", "日本"]
