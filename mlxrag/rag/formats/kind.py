"""Name and first bytes of a file -> its format, or the reason why it has no reader."""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePath

from mlxrag.errors import BadInput

ENDINGS: dict[str, str] = {
    **dict.fromkeys(("md", "markdown", "mdown", "mkd", "mdx", "qmd", "rmd"), "markdown"),
    **dict.fromkeys(("rst", "rest"), "rst"),
    **dict.fromkeys(("txt", "text", "log", "adoc", "asciidoc", "asc", "org", "tex", "srt", "vtt", "nfo"), "text"),
    **dict.fromkeys(("html", "htm", "xhtml", "xht"), "html"),
    **dict.fromkeys(("csv", "tsv", "tab"), "csv"),
    **dict.fromkeys(("docx", "docm", "dotx"), "docx"),
    **dict.fromkeys(("pptx", "pptm", "ppsx"), "pptx"),
    **dict.fromkeys(("xlsx", "xlsm"), "xlsx"),
    **dict.fromkeys(("jsonl", "ndjson"), "jsonl"),
    "pdf": "pdf",
    "epub": "epub",
    "eml": "eml",
    "ipynb": "ipynb",
    "json": "json",
    **dict.fromkeys(
        "py pyi js mjs cjs ts tsx jsx java kt scala c h cc cpp cxx hpp hh m mm swift go rs rb php pl lua r jl cs fs vb sh bash"
        " zsh fish ps1 sql css scss less xml xsl svg yaml yml toml ini cfg conf properties env gradle cmake mk makefile dockerfile"
        " proto graphql tf vue svelte dart ex exs erl hs ml clj lisp el vim asm s metal cu cl glsl".split(),
        "code",
    ),
}
"""Format by the ending of a file's name, without the dot."""

_OFFICE = "save it as .docx, .xlsx or .pptx"
UNREAD: dict[str, str] = {
    **dict.fromkeys(("doc", "dot", "odt", "rtf", "pages", "wpd"), "save it as .docx or PDF"),
    **dict.fromkeys(("ppt", "pps", "odp", "key"), "save it as .pptx or PDF"),
    **dict.fromkeys(("xls", "xlsb", "ods", "numbers"), "save it as .xlsx or .csv"),
    **dict.fromkeys(("ps", "eps", "djvu", "xps", "oxps"), "convert it to PDF"),
    **dict.fromkeys(("mobi", "azw", "azw3", "fb2", "lit"), "convert it to EPUB"),
    **dict.fromkeys(("msg", "pst", "ost", "mbox"), "save the mails as .eml"),
    **dict.fromkeys("zip gz tgz bz2 xz zst 7z rar tar dmg iso jar whl".split(), "unpack it first"),
    **dict.fromkeys(
        "png jpg jpeg gif webp tif tiff bmp heic ico psd ai mp3 wav m4a flac ogg mp4 mov avi mkv webm".split(),
        "images, sound and films are not read",
    ),
    **dict.fromkeys(
        "exe dll so dylib a o pyc class bin dat db sqlite parquet arrow npy npz safetensors gguf pt pth onnx pkl pickle"
        " ttf otf woff woff2".split(),
        "data, not a document",
    ),
}
"""What to do about formats that are known but not read."""

_LFS = b"version https://git-lfs.github.com/spec/"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_AMBIGUOUS = ("dat", "bin", "key", "o", "a", "class")
_ZIPPED = ("docx", "pptx", "xlsx", "epub")


def format_of(name: str, data: bytes) -> str:
    """Return the format a file is in: by its ending, unless its first bytes say otherwise.

    Raises:
        BadInput: no reader for it; says what to do.
    """
    ending = PurePath(name).suffix.lower().lstrip(".") or name.lower()
    if data.startswith(_LFS):
        raise BadInput("a Git LFS pointer and not the file itself: run git lfs pull")
    known = ENDINGS.get(ending, "")
    if b"%PDF-" in data[:1024] and known != "pdf" and (not known or data.startswith(b"%PDF-")):
        return "pdf"
    if data.startswith(b"PK\x03\x04") and known not in _ZIPPED and (ending not in UNREAD or ending in _AMBIGUOUS):
        return _inside(data, PurePath(name).suffix.lower())
    if ending in UNREAD and not (ending in _AMBIGUOUS and _looks_like_text(data)):
        raise BadInput(f"unsupported format .{ending}: {UNREAD[ending]}")
    if data.startswith(_OLE) and known not in _ZIPPED:
        raise BadInput(f"an old Office file: {_OFFICE}")
    if known:
        return known
    if not _looks_like_text(data):
        raise BadInput(f"unsupported format .{ending}" if "." in name else "binary, in no format that is read")
    return "html" if data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")) else "text"


def _inside(data: bytes, ending: str) -> str:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise BadInput("a damaged archive") from error
    for folder, kind in (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx"), ("META-INF/container.xml", "epub")):
        if any(name.startswith(folder) for name in names):
            return kind
    raise BadInput(f"an archive{f' named {ending}' if ending else ''}: unpack it first")


def _looks_like_text(data: bytes) -> bool:
    sample = data[:8192]
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    controls = sum(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in sample)
    # Half of UTF-16 in an alphabet is zeros, and all that is no other control.
    return controls * 50 <= len(sample) or (sample.count(0) == controls and 0.3 < controls / len(sample) < 0.8)
