"""Markdown (CommonMark with tables, front matter and MyST directives) -> pieces.

markdown-it parses and writes HTML, which web.py reads: one idea of what a list or a table becomes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlxrag.rag.formats import web
from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line
from mlxrag.rag.formats.plain import refuse_long_lines

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(.*?)[\"']?\s*$", re.M)
_LABELS = re.compile(r"^\([\w.:-]+\)=[ \t]*$", re.M)
_ROLES = re.compile(r"\{[\w:-]+\}`([^`\n]+?)(?: ?<[^<>`\n]+>)?`")
_EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
_COLONS = re.compile(r"^:{3,}(?:\{[\w:-]+\}[^\n]*)?[ \t]*$", re.M)
_DIRECTIVE = re.compile(r"\{([\w:-]+)\}\s*(.*)")
_OPTIONS = re.compile(r"\A(?:[ \t]*:[\w-]+:[^\n]*\n)*")
_LISTINGS = ("code-block", "code", "sourcecode", "code-cell", "math", "literalinclude")
_UNREAD = ("toctree", "image", "figure", "include", "raw")


def read_markdown(raw: Raw) -> Parsed:
    """Read Markdown.

    Raises:
        BadInput: binary, or a line no person wrote.
    """
    text, encoding = decode(raw.data)
    text = _EMBEDDED.sub("data:", text)
    refuse_long_lines(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    front = _FRONT.match(text)
    matter = front[1] if front else ""
    root = to_html(text[front.end() :] if front else text)
    named = _FRONT_TITLE.search(matter)
    title = one_line(named[1]) if named else _first_heading(root)
    found = list(web.pieces(root)) if root is not None else []
    if matter:
        found.insert(0, Piece("paragraph", matter))
    return Parsed(title, found, {"encoding": encoding})


def to_html(text: str) -> Any:
    """Return the root of the HTML that a Markdown text means, or None where it is blank."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"maxNesting": 40}).enable(["table", "strikethrough"])
    for pattern, shown in ((_LABELS, ""), (_COLONS, ""), (_ROLES, r"`\1`")):
        text = pattern.sub(shown, text)
    tokens = _without_directives(markdown, markdown.parse(text), 0)
    return web.parse(str(markdown.renderer.render(tokens, markdown.options, {})))


def _first_heading(root: Any) -> str:
    if root is None:
        return ""
    for element in root.iter("h1", "h2"):
        return one_line("".join(element.itertext()))
    return ""


def _without_directives(markdown: MarkdownIt, tokens: Iterable[Token], depth: int) -> list[Token]:
    """Return tokens with MyST directives as what they say: listings as code, notes as text, machinery left out."""
    kept: list[Token] = []
    for token in tokens:
        found = _DIRECTIVE.match(token.info) if token.type == "fence" else None
        if found is None:
            kept.append(token)
            continue
        body = _OPTIONS.sub("", token.content, count=1)
        if found[1] in _LISTINGS or depth > 5:
            kept.append(token.copy(info="", content=body))
        elif found[1] not in _UNREAD:
            kept += _without_directives(markdown, markdown.parse(f"{found[2]}\n\n{body}"), depth + 1)
    return kept
