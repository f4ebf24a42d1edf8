"""Zip packages (Office files, EPUB): refuse bombs, open encrypted ones, and parse their XML without entities."""

from __future__ import annotations

import io
import zipfile
from typing import Any

from mlxrag.errors import BadInput
from mlxrag.rag.formats.piece import Raw, one_line, shorten

MOST_UNPACKED = 512 << 20
"""Bytes a package may unpack to."""
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def opened(raw: Raw) -> io.BytesIO:
    """Return the bytes of a package, decrypted where it is an encrypted Office file.

    Raises:
        BadInput: encrypted and no or a wrong password, no package at all, or one that unpacks beyond MOST_UNPACKED.
    """
    data = _decrypted(raw) if raw.data.startswith(_OLE) else raw.data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            entries = package.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise BadInput("damaged: not a whole package") from error
    size = sum(entry.file_size for entry in entries)
    if size > MOST_UNPACKED:
        raise BadInput(f"would unpack to {size >> 20:,} MiB: a zip bomb, or data")
    if any(entry.flag_bits & 1 for entry in entries):
        raise BadInput("encrypted entries in its package: save it without")
    return io.BytesIO(data)


def xml(data: bytes) -> Any:
    """Return the root of an XML text, or None where there is none; entities are not resolved and nothing is fetched."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, recover=True, huge_tree=True)
    return etree.fromstring(data, parser) if data.strip() else None


def fault(error: Exception) -> str:
    """Return what a library says of a damaged package, short and without quotes around it."""
    return shorten(one_line(str(error)).strip("\"'"), 120)


def _decrypted(raw: Raw) -> bytes:
    import msoffcrypto
    from msoffcrypto.exceptions import DecryptionError, FileFormatError, InvalidKeyError, ParseError

    plain = io.BytesIO()
    try:
        office = msoffcrypto.OfficeFile(io.BytesIO(raw.data))
        if not office.is_encrypted():
            raise BadInput("an old Office file under a new name: save it as .docx, .xlsx or .pptx")
        if not raw.password:
            raise BadInput("encrypted: give its --password")
        office.load_key(password=raw.password, verify_password=True)
        office.decrypt(plain)
    except InvalidKeyError as error:
        raise BadInput("encrypted, and --password does not open it") from error
    except (DecryptionError, FileFormatError, ParseError, OSError, ValueError, IndexError, KeyError) as error:
        raise BadInput("a damaged or old Office file: save it as .docx, .xlsx or .pptx") from error
    return plain.getvalue()
