"""reStructuredText (with Sphinx's directives and roles) -> pieces.

docutils parses.  Nothing is executed, included or fetched: file insertion and raw output are off, and every directive
is replaced by one that only keeps its text, so that pages written for Sphinx lose nothing but machinery.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line
from mlxrag.rag.formats.plain import refuse_long_lines
from mlxrag.rag.formats.rows import table

_CODE = frozenset(
    "code code-block sourcecode parsed-literal math highlight literalinclude doctest prompt graphviz mermaid".split()
)
_UNREAD = frozenset(
    "toctree include raw csv-table-file image figure-md contents index meta currentmodule default-role".split()
)
_ADMONITIONS = frozenset(
    "note tip warning caution danger error hint important attention seealso todo versionadded versionchanged deprecated".split()
)
_BARE = frozenset("figure only ifconfig tab-set grid rst-class container class".split())
_TARGET = re.compile(r"(.*?)\s*<[^<>]+>\Z", re.S)
_LOCK = threading.Lock()


def read_rst(raw: Raw) -> Parsed:
    """Read reStructuredText.

    Raises:
        BadInput: binary, or a line no person wrote.
    """
    import docutils.core
    import docutils.nodes

    text, encoding = decode(raw.data)
    refuse_long_lines(text)
    settings = {
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "_disable_config": True,
        "halt_level": 6,
        "report_level": 6,
        "doctitle_xform": False,
        "input_encoding": "unicode",
        "syntax_highlight": "none",
        "line_length_limit": 10**7,
    }
    with _LOCK, _harmless():
        root = docutils.core.publish_doctree(text, settings_overrides=settings)
    pieces = list(_children(root, 0))
    title = next((piece.text for piece in pieces if piece.level), "")
    return Parsed(title, pieces, {"encoding": encoding})


@contextmanager
def _harmless() -> Iterator[None]:
    """Have docutils look up every directive and role here.

    Source: Sphinx replaces the same two functions in `sphinx.util.docutils.sphinx_domains`.
    """
    from docutils import nodes
    from docutils.parsers.rst import Directive, directives, roles

    class Kept(Directive):
        """Keeps what a directive says: code as code, other content as if it stood alone."""

        optional_arguments = 100
        final_argument_whitespace = True
        has_content = True
        option_spec = _AnyOption()

        def run(self) -> list[Any]:
            if self.name in _UNREAD:
                return []
            if self.name in _CODE:
                words = [] if self.name != "math" else self.arguments
                code = "\n".join([*words, *self.content])
                return [nodes.literal_block(code, code)] if code.strip() else []
            argument = " ".join(self.arguments)
            if self.name in _BARE:
                argument = self.options.get("alt", "")
            parsed, _ = self.state.inline_text(argument, self.lineno)
            inner = nodes.container()
            if self.content:
                self.state.nested_parse(self.content, self.content_offset, inner)
            if self.name == "rubric":
                return [nodes.rubric(argument, "", *parsed)]
            if not argument:
                return [inner]
            if not self.content or self.name in _ADMONITIONS:
                return [nodes.paragraph(argument, "", *parsed), inner]
            # A function, option or variable with what it does.
            return [nodes.definition_list_item("", nodes.term("", "", *parsed), nodes.definition("", inner))]

    def directive(name: str, *_: Any) -> tuple[Any, list[Any]]:
        from docutils.parsers.rst.directives import misc, tables

        known = {
            "list-table": tables.ListTable,
            "table": tables.RSTTable,
            "replace": misc.Replace,
            "unicode": misc.Unicode,
        }
        return known.get(name.lower(), Kept), []

    def role(name: str, *_: Any) -> tuple[Any, list[Any]]:
        return _role, []

    def _role(name: str, rawtext: str, text: str, *_: Any, **__: Any) -> tuple[list[Any], list[Any]]:
        found = _TARGET.match(text)
        shown = (found[1] if found else text).lstrip("~!").replace("\x00", "")
        return [nodes.inline(rawtext, shown)], []

    before = directives.directive, roles.role
    directives.directive, roles.role = directive, role
    try:
        yield
    finally:
        directives.directive, roles.role = before


class _AnyOption(dict[str, Any]):
    """An option specification that takes every option as text."""

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Any:
        return lambda value: value or ""


def _children(node: Any, depth: int) -> Iterator[Piece]:
    for child in node.children:
        yield from _piece(child, depth)


def _piece(node: Any, depth: int) -> Iterator[Piece]:
    from docutils import nodes

    if isinstance(node, nodes.section):
        yield from _children(node, depth + 1)
    elif isinstance(node, nodes.title | nodes.subtitle | nodes.rubric):
        yield Piece("heading", node.astext(), min(depth, 6) or 1)
    elif isinstance(node, nodes.literal_block | nodes.doctest_block | nodes.math_block):
        yield Piece("code", node.astext())
    elif isinstance(node, nodes.bullet_list | nodes.enumerated_list):
        yield from _list(node, depth)
    elif isinstance(node, nodes.table):
        yield from _table(node)
    elif isinstance(node, nodes.definition_list_item | nodes.field | nodes.option_list_item):
        yield from _definition(node, depth)
    elif isinstance(node, nodes.paragraph):
        yield Piece("paragraph", one_line(node.astext()))
    elif isinstance(node, nodes.line_block | nodes.term | nodes.attribution | nodes.caption):
        yield Piece("paragraph", node.astext())
    elif isinstance(node, nodes.Invisible | nodes.system_message | nodes.substitution_definition | nodes.image):
        return
    elif isinstance(node, nodes.Text):
        yield Piece("paragraph", node.astext())
    else:
        yield from _children(node, depth)


def _list(node: Any, depth: int) -> Iterator[Piece]:
    """Yield a list as one piece, unless items hold code or tables, which stand by themselves."""
    from docutils import nodes

    start = int(node.get("start", 1)) if isinstance(node, nodes.enumerated_list) else None
    items: list[str] = []
    for number, item in enumerate(node.children):
        marker = "- " if start is None else f"{start + number}. "
        for piece in _children(item, depth):
            if piece.kind in ("paragraph", "list"):
                lines = (one_line(piece.text) if piece.kind == "paragraph" else piece.text).split("\n")
                items.extend(f"{marker if not at else ' ' * len(marker)}{line}" for at, line in enumerate(lines))
                marker = " " * len(marker)
                continue
            if items:
                yield Piece("list", "\n".join(items))
                items = []
            yield piece
    if items:
        yield Piece("list", "\n".join(items))


def _definition(node: Any, depth: int) -> Iterator[Piece]:
    """Yield a term with the first paragraph of its definition, and the rest after it."""
    term = one_line(" ".join(child.astext() for child in node.children[:-1]))
    rest = list(_children(node.children[-1], depth)) if node.children else []
    if rest and rest[0].kind == "paragraph":
        yield Piece("paragraph", f"{term}: {one_line(rest[0].text)}" if term else rest[0].text)
        yield from rest[1:]
    else:
        yield Piece("paragraph", term)
        yield from rest


def _table(node: Any) -> Iterator[Piece]:
    from docutils import nodes

    for title in node.findall(nodes.title):
        yield Piece("paragraph", title.astext())
    rows: list[list[str]] = []
    headed = any(True for _ in node.findall(nodes.thead))
    for row in node.findall(nodes.row):
        cells: list[str] = []
        for entry in row.children:
            cells += [one_line(entry.astext())] * (1 + min(int(entry.get("morecols", 0)), 60))
        rows.append(cells)
    yield from table(rows, header=True if headed else None)
