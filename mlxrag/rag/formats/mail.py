"""Mails (EML) -> who wrote to whom, when and about what, then the text; names of what is attached."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from email.errors import MessageError
from email.message import Message

from mlxrag.errors import BadInput
from mlxrag.rag.formats import web
from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line, shorten
from mlxrag.rag.formats.plain import paragraphs

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_DEEPEST = 10
_LONGEST_HEADER = 20_000
_FIELD = re.compile(rb"\s*(?:From [^\r\n]*\r?\n)?[A-Za-z][A-Za-z0-9-]*:")


def read_mail(raw: Raw) -> Parsed:
    """Read a mail as RFC 5322 and MIME have it, and with the faults that mails have.

    Raises:
        BadInput: encrypted, or no mail.
    """
    data = raw.data
    if not _FIELD.match(data[:2000]):
        # Some programs save mails as UTF-16.
        data = decode(data)[0].encode("utf-8", "replace")
    message = email.message_from_bytes(data.lstrip(), policy=email.policy.default)
    if not message.keys():
        raise BadInput("not a mail: it has no header")
    pieces = list(_message(message, 0))
    subject, sender = _header(message, "Subject"), _header(message, "From")
    return Parsed(subject, pieces, {"author": sender} if sender else {})


def _message(message: Message, depth: int) -> Iterator[Piece]:
    facts = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    if facts:
        yield Piece("paragraph", "\n".join(facts))
    if depth > _DEEPEST:
        raise BadInput("mails within mails, too many")
    attached: list[str] = []
    yield from _part(message, attached, depth)
    if attached:
        yield Piece("paragraph", f"Attachments: {'; '.join(attached)}")


def _part(part: Message, attached: list[str], depth: int) -> Iterator[Piece]:
    kind = part.get_content_type()
    if kind == "multipart/encrypted" or (
        kind.endswith("pkcs7-mime") and "signed" not in str(part.get("Content-Type", ""))
    ):
        raise BadInput("encrypted: save it decrypted from the mail program")
    if depth > _DEEPEST:
        raise BadInput("parts within parts, too many")
    name = _name(part)
    if kind == "message/rfc822" and part.is_multipart():
        for inner in part.get_payload():
            if isinstance(inner, Message):
                yield from _message(inner, depth + 1)
    elif part.is_multipart():
        parts = [inner for inner in part.get_payload() if isinstance(inner, Message)]
        if kind == "multipart/alternative":
            parts = _best(parts)
        for inner in parts:
            yield from _part(inner, attached, depth + 1)
    elif name or part.get_content_disposition() == "attachment":
        attached.append(name or kind)
    elif kind == "text/html":
        root = web.parse(_text(part))
        yield from web.pieces(root) if root is not None else ()
    elif kind.startswith("text/") or kind == "message/rfc822":
        found = list(paragraphs(_text(part)))
        for piece, after in zip(found, [*found[1:], None], strict=True):
            # A heading has text below it; a name in a line of its own is a signature.
            heads = piece.level and after is not None and not after.level and len(after.text) > 60
            yield Piece("heading" if heads else "paragraph", piece.text, piece.level if heads else 0)


def _best(parts: list[Message]) -> list[Message]:
    """Return the alternative that reads best: plain text if it says anything, else what comes last."""
    for part in parts:
        if part.get_content_type() == "text/plain" and len(_text(part).strip()) > 1:
            return [part]
    return parts[-1:]


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    return decode(payload, part.get_content_charset("utf-8"))[0] if payload else ""


def _header(message: Message, name: str) -> str:
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")
    if len(raw) > _LONGEST_HEADER:
        # The parser of structured headers takes a thousand times the memory of what it parses.
        return shorten(one_line(raw), 500)
    try:
        return one_line(str(message[name] or ""))
    except (MessageError, ValueError, IndexError, AttributeError, TypeError, KeyError):
        # It also fails on some that are malformed; the raw text is still there.
        return one_line(raw)


def _name(part: Message) -> str:
    try:
        return one_line(part.get_filename() or "")
    except (MessageError, ValueError, IndexError, AttributeError, TypeError, KeyError):
        return "attachment"
