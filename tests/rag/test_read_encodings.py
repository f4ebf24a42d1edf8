"""Bytes of any common encoding become the text their writer saw."""

from __future__ import annotations

import os

import pytest

from mlxrag.errors import BadInput
from mlxrag.rag.formats.encoding import decode

ENGLISH = "The trailer weighs 7.9 kg — “light”, says the owner — and costs €445."
WESTERN = [
    "Der Bürgermeister grüßte die Gäste aus Österreich und überreichte ihnen den Schlüssel.",
    "L’été dernier, nous avons mangé des crêpes à la crème près de l’hôtel « Beauséjour ».",
    "El niño comió jamón y bebió un café en la plaza de España. ¿Qué más quería?",
    "Não há informações disponíveis sobre a situação atual da estação de São João.",
    "Prisen er 3 € – smørrebrød på nærmeste café i Århus.",
]
JAPANESE = [
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "会議は来週の月曜日、午前十時から本社の三階で行います。",
]
CHINESE = ["人工智能正在改变我们的生活方式,很多公司都在使用大型语言模型。", "请在五月三十一日之前提交您的报告。"]
TRADITIONAL = [
    "人工智慧正在改變我們的生活方式，許多公司都在使用大型語言模型。",
    "臺北是中華民國的首都，人口超過兩百萬。",
]
KOREAN = ["대한민국의 수도는 서울이며 인구는 약 천만 명이다.", "회의는 다음 주 월요일 오전 열 시에 본사에서 열립니다."]
CYRILLIC = [
    "Москва является столицей Российской Федерации и крупнейшим городом страны.",
    "Совещание состоится в понедельник.",
]
THAI = ["กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทยและมีประชากรมากกว่าแปดล้านคน", "การประชุมจะจัดขึ้นในวันจันทร์หน้า เวลาสิบนาฬิกา"]
ARABIC = [
    "القاهرة هي عاصمة جمهورية مصر العربية وأكبر مدنها من حيث عدد السكان.",
    "سيعقد الاجتماع يوم الاثنين القادم في الساعة العاشرة صباحا.",
]
CZECH = ["Příliš žluťoučký kůň úpěl ďábelské ódy v pražské kavárně."]
LEGACY = {
    "cp1252": WESTERN, "shift_jis": JAPANESE, "euc_jp": JAPANESE, "iso2022_jp": JAPANESE, "gb18030": CHINESE, "gb2312": CHINESE,
    "big5": TRADITIONAL, "euc_kr": KOREAN, "cp1251": CYRILLIC, "koi8_r": CYRILLIC, "cp874": THAI, "tis-620": THAI,
    "cp1256": ARABIC, "cp1250": CZECH,
}  # fmt: skip
CASES = [(encoding, text) for encoding, texts in LEGACY.items() for text in texts]
ALL = [ENGLISH, *dict.fromkeys(text for texts in LEGACY.values() for text in texts)]


@pytest.mark.parametrize(("encoding", "text"), CASES)
def test_one_sentence_in_a_legacy_encoding(encoding: str, text: str) -> None:
    """One sentence without any mark is enough to tell the encoding."""
    assert decode(text.encode(encoding))[0] == text


@pytest.mark.parametrize(("encoding", "text"), CASES)
def test_sentence_in_an_english_page(encoding: str, text: str) -> None:
    """A sentence between English lines is told as well."""
    page = f"<p>Hello world</p>\n<p>Second line</p>\n{text}\n<p>End</p>\n"
    assert decode(page.encode(encoding))[0] == page


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_unicode_with_and_without_mark(encoding: str) -> None:
    """UTF-8, UTF-16 and UTF-32 are told in every script, byte order mark or not."""
    for text in ALL:
        assert decode(text.encode(encoding))[0] == text
        assert decode(f"{text}\n{ENGLISH}\n".encode(encoding))[0] == f"{text}\n{ENGLISH}\n"


def test_declaration_is_believed_where_it_can_be() -> None:
    """A declared encoding decides what bytes alone do not; one that cannot be is ignored."""
    assert decode("Ærø".encode("cp865"), "cp865") == ("Ærø", "cp865")
    assert decode("Größe".encode(), "iso-8859-1")[0] == "Größe"
    assert decode("“Größe”".encode("cp1252"), "ISO-8859-1")[0] == "“Größe”"
    assert decode(b"plain", "no-such-encoding")[0] == "plain"
    assert decode("Größe".encode("cp1252"), "utf-16")[0] == "Größe"


def test_a_few_damaged_bytes_do_not_cost_the_file() -> None:
    """UTF-8 in which a few bytes were damaged stays UTF-8, with a mark where they were."""
    text = "Über große Höhen führt der Weg. " * 20
    data = bytearray(text.encode())
    data[700] = 0xFF
    decoded, encoding = decode(bytes(data))
    assert encoding == "utf-8" and decoded.count("\ufffd") in (1, 2) and decoded[:300] == text[:300]


@pytest.mark.parametrize("data", [bytes(2000), bytes(range(256)) * 8, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 40])
def test_binary_is_refused(data: bytes) -> None:
    """What is no text in any encoding is refused and not turned into signs."""
    with pytest.raises(BadInput, match="not text"):
        decode(data)


def test_random_bytes_are_refused() -> None:
    """Random bytes are text in no encoding."""
    for _ in range(50):
        with pytest.raises(BadInput):
            decode(os.urandom(3000))


def test_nothing_is_text() -> None:
    """No bytes are an empty text."""
    assert decode(b"") == ("", "utf-8")
