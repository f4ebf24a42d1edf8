"""Bytes -> text, whatever wrote them.

Rules, in order: a byte order mark is believed; then UTF-8, which text in another encoding almost never is by chance;
then zero bytes that betray UTF-16 or UTF-32; then what the file declares of itself; then charset-normalizer's
judgement among the encodings below, corrected where short texts mislead it.
"""

from __future__ import annotations

import codecs
import re

from mlxrag.errors import BadInput

LEGACY = (
    "cp1252", "cp1250", "cp1253", "cp1255",
    "cp932", "euc_jp", "gb18030", "big5", "cp949",
    "cp1251", "koi8_r", "cp874", "cp1256",
)  # fmt: skip
"""Encodings a file without any mark may be in."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What browsers read under these names, because that is what writers meant (WHATWG Encoding Standard, section 4.2).
_MEANT = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-11": "cp874", "tis-620": "cp874", "shift_jis": "cp932",
    "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "iso8859-9": "cp1254", "utf-7": "",
}  # fmt: skip
_WESTERN = tuple(
    frozenset(letters)
    for letters in (
        "äöüßé", "àâæçéèêëîïôœùûü", "áéíóúüñªº", "àáâãçéêíóôõúüªº", "æøåéöä", "àèéìíîòóùú", "áðéíóúýþæö", "àçéèíïóòúü·",
        "éëïöüáóè",
    )
)  # fmt: skip
"""Letters beyond ASCII of German, French, Spanish, Portuguese, Nordic, Italian, Icelandic, Catalan and Dutch."""
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_COMMON_HANGUL = re.compile(
    "[이다는의에을를은으로가고하지사기도어자인대한나서리시그해전정일수라것장주부과보제스상있니]"
)
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")


def decode(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Return the text of `data` and the name of its encoding.

    Args:
        data: bytes of a text file.
        declared: encoding the file or its envelope names, if any; not believed where it cannot be.

    Raises:
        BadInput: these bytes are no text.
    """
    if not data:
        return "", "utf-8"
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _with_replacements(data, name), name
    declared = _codec(declared)
    if declared in ("iso2022_jp", "iso2022_kr", "hz") or b"\x1b$" in data[:4096]:
        try:
            return data.decode(declared or "iso2022_jp"), declared or "iso2022_jp"
        except UnicodeDecodeError:
            pass
    if _CONTROL_BYTES.search(data):
        wide = _wide(data)
        if wide:
            return _with_replacements(data, wide), wide
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace") if _nearly_utf8(data) else ""
    if text and readable(text):
        return text, "utf-8"
    if declared and declared != "utf-8":
        try:
            text = data.decode(declared)
        except UnicodeDecodeError:
            pass
        else:
            if readable(text):
                return text, declared
    name = _legacy(data)
    text = data.decode(name, "replace")
    if not readable(text):
        raise BadInput("not text: binary data")
    return text, name


def readable(text: str) -> bool:
    """Return whether at most 1 % of the characters are controls, unassigned or replaced."""
    sample = text if len(text) <= 200_000 else text[:100_000] + text[-100_000:]
    bad = sum((character < " " and character not in "\t\n\r\f\x1b") or character == "\ufffd" for character in sample)
    return bad <= max(len(sample) // 100, 1 if len(sample) > 8 else 0)


def _codec(name: str | None) -> str | None:
    try:
        known = codecs.lookup(name.strip().strip("\"'")).name if name else None
    except (LookupError, ValueError):
        return None
    # A file that could declare UTF-16 in ASCII is not in UTF-16 (HTML Standard, section 13.2.3.2).
    return None if known is None or known.startswith(("utf-16", "utf-32")) else _MEANT.get(known, known) or None


def _with_replacements(data: bytes, name: str) -> str:
    text = data.decode(name, "replace")
    if not readable(text):
        raise BadInput(f"damaged: begins like {name.removesuffix('-sig')} but is not")
    return text


def _nearly_utf8(data: bytes) -> bool:
    """Return whether bytes beyond ASCII form UTF-8 but for a few that were damaged."""
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    good = len(text) - len(re.sub("[^\x00-\x7f\ufffd]", "", text))
    return good >= 20 * bad


def _wide(data: bytes) -> str:
    """Return the UTF-16 or UTF-32 that zero bytes or plausible characters speak for, or an empty string."""
    sample = data[: 65536 // 4 * 4]
    zeros = [sample[offset::4].count(0) / max(len(sample[offset::4]), 1) for offset in range(4)]
    if len(data) % 4 == 0 and zeros[2] > 0.95 and zeros[3] > 0.95 and zeros[0] < 0.5:
        return "utf-32-le"
    if len(data) % 4 == 0 and zeros[0] > 0.95 and zeros[1] > 0.95 and zeros[3] < 0.5:
        return "utf-32-be"
    if len(data) % 2:
        return ""
    best, name = 0.9, ""
    for candidate in ("utf-16-le", "utf-16-be"):
        text = _decoded(sample, candidate)
        # Random bytes are letters of all scripts; text keeps to the alphabets, or to kana, Han and Hangul.
        usual = sum(_usual(ord(character)) for character in text) / max(len(text), 1)
        if usual > best:
            best, name = usual, candidate
    return name


def _usual(code: int) -> bool:
    return (
        0x20 <= code < 0x0700 or code in (9, 10, 13) or 0x0900 <= code < 0x1000
        or 0x2000 <= code < 0x2070 or 0x3000 <= code < 0xD7A4 or 0xFF00 <= code < 0xFFF0
    )  # fmt: skip


def _legacy(data: bytes) -> str:
    from charset_normalizer import from_bytes

    lines = [line for line in data.splitlines() if not line.isascii()] or [data]
    sample = b"\n".join(lines)[:65536]
    western = _decoded(sample, "cp1252")
    letters = {character.lower() for character in western if character >= "\x80" and character.isalpha()}
    if western and any(letters <= alphabet for alphabet in _WESTERN) and not re.search(r"\w[¿¡³¹²¼½¾¤¦±]\w", western):
        return "cp1252"
    for match in from_bytes(sample, cp_isolation=list(LEGACY)):
        if _plausible(str(match), match.encoding):
            return str(match.encoding)
    return "cp1252"


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        return data[: error.start].decode(name) if error.start > len(data) - 4 else ""


def _plausible(text: str, name: str) -> bool:
    """Return whether the letters are what people write in this encoding: kana in Japanese, Hangul in Korean."""
    han, kana, hangul = (len(pattern.findall(text)) for pattern in (_HAN, _KANA, _HANGUL))
    if name in ("cp932", "euc_jp"):
        return kana * 8 >= han
    if name == "cp949":
        # Chinese bytes read as Korean are Hangul too, but of the rare syllables.
        return hangul >= 4 * han and 6 * len(_COMMON_HANGUL.findall(text)) >= hangul
    return True
