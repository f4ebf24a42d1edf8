"""Books (EPUB) -> their chapters in reading order, each an XHTML page."""

from __future__ import annotations

import html
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from mlxrag.errors import BadInput
from mlxrag.rag.formats import web
from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.package import fault, opened, xml
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line

_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)(?:\w+|#\d+|#x[0-9a-fA-F]+);")
_FONT_SCRAMBLING = (b"http://www.idpf.org/2008/embedding", b"http://ns.adobe.com/pdf/enc#RC")


def read_epub(raw: Raw) -> Parsed:
    """Read a book.

    Raises:
        BadInput: protected (DRM), damaged, or a zip bomb.
    """
    try:
        with zipfile.ZipFile(opened(raw)) as package:
            _refuse_protected(package)
            folder, root = _package_document(package)
            pages = [package.read(name) for name in _spine(root, folder, set(package.namelist()))]
    except (KeyError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError, zlib.error) as error:
        raise BadInput(f"a damaged book: {fault(error)}") from error
    pieces = [piece for page in pages for piece in _page(page)]
    return Parsed(
        _fact(root, "title"), pieces, {key: value for key in ("creator", "language") if (value := _fact(root, key))}
    )


def _refuse_protected(package: zipfile.ZipFile) -> None:
    names = package.namelist()
    if "META-INF/rights.xml" in names:
        raise BadInput("protected against copying (DRM)")
    if "META-INF/encryption.xml" in names:
        methods = re.findall(
            rb"EncryptionMethod[^>]*Algorithm\s*=\s*[\"']([^\"']+)", package.read("META-INF/encryption.xml")
        )
        if any(method not in _FONT_SCRAMBLING for method in methods):
            raise BadInput("protected against copying (DRM)")


def _package_document(package: zipfile.ZipFile) -> tuple[str, Any]:
    container = xml(package.read("META-INF/container.xml"))
    entry = next(container.iter("{*}rootfile"), None) if container is not None else None
    path = entry.get("full-path") if entry is not None else None
    root = xml(package.read(path)) if path else None
    if path is None or root is None:
        raise BadInput("a damaged book: it names no package document")
    return posixpath.dirname(path), root


def _spine(root: Any, folder: str, names: set[str]) -> Iterator[str]:
    """Yield the names of the pages in reading order, but not the table of contents."""
    items = {item.get("id"): item for item in root.iter("{*}item")}
    for reference in root.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "nav" in (item.get("properties") or "").split():
            continue
        name = posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or "").split("#")[0]))
        if name in names:
            yield name


def _page(data: bytes) -> Iterator[Piece]:
    # XML knows five entities; books use those of HTML.
    text = _ENTITY.sub(lambda found: html.unescape(found[0]), decode(data)[0])
    root = xml(re.sub(r"\A\s*<\?xml[^>]*\?>", "", text).encode("utf-8", "replace"))
    if root is not None:
        body = next(root.iter("{*}body"), None)
        yield from web.pieces(body if body is not None else root)


def _fact(root: Any, name: str) -> str:
    for element in root.iter(f"{{http://purl.org/dc/elements/1.1/}}{name}"):
        return one_line("".join(element.itertext()))
    return ""
