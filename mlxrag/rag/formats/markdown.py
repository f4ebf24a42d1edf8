"""Markdown (CommonMark with tables, front matter and MyST directives) -> pieces.

markdown-it parses and writes HTML, which web.py reads: one idea of what a list or a table becomes.
"""

from __future__ import annotations

import re
from typing import Any

from mlxrag.rag.formats import web
from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line
from mlxrag.rag.formats.plain import refuse_long_lines

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(.*?)[\"']?\s*$", re.M)
_LABELS = re.compile(r"^\([\w.:-]+\)=[ \t]*$", re.M)
_ROLES = re.compile(r"\{[\w:-]+\}`([^`\n]+?)(?: ?<[^<>`\n]+>)?`")
_DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}[ \t]*(?P<argument>[^\n]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.S | re.M,
)
_OPTIONS = re.compile(r"\A(?:[ \t]*:[\w-]+:[^\n]*\n)*")
_LISTINGS = ("code-block", "code", "sourcecode", "code-cell", "math", "literalinclude")
_UNREAD = ("toctree", "image", "figure", "include", "raw")


def read_markdown(raw: Raw) -> Parsed:
    """Read Markdown.

    Raises:
        BadInput: binary, or a line no person wrote.
    """
    text, encoding = decode(raw.data)
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

    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    text = _ROLES.sub(r"`\1`", _LABELS.sub("", _DIRECTIVE.sub(_plain_directive, text)))
    return web.parse(str(markdown.render(text)))


def _first_heading(root: Any) -> str:
    if root is None:
        return ""
    for element in root.iter("h1", "h2"):
        return one_line("".join(element.itertext()))
    return ""


def _plain_directive(found: re.Match[str]) -> str:
    """Return a MyST directive as plain Markdown: listings stay code, notes become text, machinery goes."""
    name, argument = found["name"], found["argument"].strip()
    body = _OPTIONS.sub("", found["body"], count=1)
    if name in _UNREAD:
        return ""
    if name in _LISTINGS:
        return f"```{argument}\n{body}```"
    return f"{argument}\n\n{body}\n" if argument else f"\n{body}\n"
