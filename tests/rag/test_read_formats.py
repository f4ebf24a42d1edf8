"""What each reader makes of a file: text, headings, rows, code, and where they are."""

from __future__ import annotations

import io
import json

import pytest

from mlxrag.errors import BadInput
from mlxrag.rag.formats.kind import format_of
from mlxrag.rag.formats.piece import Raw, assemble, clean
from mlxrag.rag.read import READERS
from tests.rag import samples

Row = tuple[str, str, str]


def read(kind: str, data: bytes | str, name: str = "file", password: str = "") -> tuple[str, list[Row]]:
    """The title a reader finds, and its blocks as kind, place and text."""
    parsed = READERS[kind](Raw(name, data.encode() if isinstance(data, str) else data, password))
    text, blocks = assemble(parsed)
    return parsed.title, [(block.kind, block.place, text[block.start : block.end]) for block in blocks]


def texts(kind: str, data: bytes | str, name: str = "file") -> list[str]:
    """The texts of the blocks that a reader finds."""
    return [text for _, _, text in read(kind, data, name)[1]]


HANDBOOK = [
    ("heading", "", "Handbook"),
    ("paragraph", "", "Read this first."),
    ("heading", "Leave", "Leave"),
    ("list", "Leave", "- thirty days a year\n- ask your manager"),
    ("row", "Leave", "Part: Wheel; Price: $48"),
    ("code", "Leave", "def leave(days):\n    return 30 - days"),
]


def test_markdown() -> None:
    """Markdown loses its marks and keeps headings, lists, rows and code; front matter stays as text."""
    title, blocks = read("markdown", samples.MARKDOWN)
    assert title == "Handbook"
    assert blocks == [("paragraph", "", "title: Handbook"), *HANDBOOK]


def test_markdown_of_sphinx() -> None:
    """MyST directives and roles keep what they say; labels and tables of contents go."""
    source = "(label)=\n# Title\n\nSee {ref}`the other page <other>`.\n\n```{note}\nTake *care*.\n```\n\n```{toctree}\na\nb\n```\n"
    assert texts("markdown", source + "\n```{code-block} python\n:linenos:\nx = 1\n```\n") == [
        "Title", "See the other page.", "Take care.", "x = 1",
    ]  # fmt: skip


def test_html() -> None:
    """HTML reads like the Markdown it might have come from, without navigation, scripts and styles."""
    title, blocks = read("html", samples.HTML)
    assert title == "Handbook"
    assert sorted(blocks) == sorted(HANDBOOK)


def test_html_tables() -> None:
    """Cells that span rows or columns are repeated, header rows join, and layout tables are no tables."""
    head = "<table><tr><th rowspan=2>Part</th><th colspan=2>Price</th></tr><tr><th>own</th><th>dealer</th></tr>"
    body = "<tr><td rowspan=2>Wheel</td><td>48</td><td>30</td></tr><tr><td>49</td><td>31</td></tr></table>"
    assert texts("html", head + body) == [
        "Part: Wheel; Price own: 48; Price dealer: 30",
        "Part: Wheel; Price own: 49; Price dealer: 31",
    ]
    assert texts("html", "<table><tr><th>Weight</th><td>12 kg</td></tr><tr><th>Load</th><td>60 kg</td></tr></table>") == [
        "Weight: 12 kg", "Load: 60 kg",
    ]  # fmt: skip
    layout = "<table><tr><td><h2>Left</h2><p>one</p><table><tr><td>in</td><td>ner</td></tr></table></td><td>right</td></tr></table>"
    assert texts("html", layout) == ["Left", "one", "in: ner", "right"]
    assert texts("html", "<table><tr><td colspan=99999999 rowspan=99999999>a</td></tr><tr><td>b</td></tr></table>")


def test_html_lists_and_breaks() -> None:
    """Lists nest and count, code in a list stands apart, and line breaks stay."""
    source = "<ol start=3><li>one<ul><li>inner</li></ul></li><li>two<pre>x = 1</pre>more</li></ol><p>a<br>b</p><dl><dt>T</dt><dd>D</dd></dl>"
    assert texts("html", source) == ["3. one\n  - inner\n4. two", "x = 1", "  more".strip(), "a\nb", "T\n  D"]


def test_html_hides_what_is_hidden() -> None:
    """Hidden elements are not read; text after comments is."""
    assert texts(
        "html", "<p hidden>a</p><p style='display: none'>b</p><p>c<!-- d -->e<span aria-hidden=true>f</span></p>"
    ) == ["ce"]


def test_restructured_text() -> None:
    """reStructuredText reads like Markdown; notes, roles and options of Sphinx keep their text."""
    title, blocks = read("rst", samples.RST)
    assert title == "Handbook"
    assert blocks == [
        ("heading", "", "Handbook"),
        ("paragraph", "", "Read this first, and mlx.grad."),
        ("heading", "Leave", "Leave"),
        ("list", "Leave", "- thirty days a year\n- ask your manager"),
        ("paragraph", "Leave", "Ask early."),
        ("code", "Leave", "def leave(days):\n    return 30 - days"),
        ("row", "Leave", "Part: Wheel; Price: $48"),
    ]


def test_restructured_text_of_sphinx() -> None:
    """Directives nobody knows keep argument and content, machinery goes, and terms stay with what they mean."""
    source = (
        ".. envvar:: MLX_RANK\n\n   The rank of the *process*.\n\n.. toctree::\n\n   a\n   b\n\n.. autosummary::\n\n   grad\n   vmap\n\n"
        ".. list-table::\n   :header-rows: 1\n\n   * - Type\n     - Bytes\n     - Note\n   * - int8\n     - 1\n     - small\n\n"
        "term\n   What it means.\n\n:Author: Vale\n\n.. |x| replace:: y\n\n.. comment\n\n:doc:`The guide <guide>` |x|\n"
    )
    assert texts("rst", source) == [
        "MLX_RANK: The rank of the process.", "grad vmap", "Type: int8; Bytes: 1; Note: small", "term: What it means.",
        "Author: Vale", "The guide y",
    ]  # fmt: skip


def test_restructured_text_reads_no_other_file(tmp_path: object) -> None:
    """Directives that would read or run something do neither."""
    secret = f"{tmp_path}/secret.txt"
    with open(secret, "w") as file:
        file.write("part,price\nsecret,1\n")
    source = (
        "".join(
            f".. {directive}\n   :file: {secret}\n\n" for directive in ("csv-table:: t", "raw:: html", "list-table::")
        )
        + f".. include:: {secret}\n\n.. literalinclude:: {secret}\n\nend\n"
    )
    assert "secret,1" not in "".join(texts("rst", source))
    assert texts("rst", source)[-1] == "end"


def test_plain_text() -> None:
    """Plain text keeps its lines and their numbers; short lines alone are headings."""
    title, blocks = read("text", samples.PLAIN)
    assert title == "HANDBOOK"
    assert [(kind, place) for kind, place, _ in blocks] == [
        ("heading", "line 1"), ("paragraph", "line 3"), ("heading", "Leave, line 5"), ("paragraph", "Leave, line 7"),
    ]  # fmt: skip
    assert blocks[-1][2].count("\n") == 1


@pytest.mark.parametrize(
    ("line", "is_heading"),
    [
        ("CHAPTER I. Down the Rabbit-Hole", True),
        ("2.1 Summer closure", True),
        ("Fire drill", True),
        ("第一章 開始", True),
        ("Dear Mr Drexel,", False),
        ("It was late.", False),
        ("a short line", False),
        ("5", False),
        ("Title: A book", False),
    ],
)
def test_headings_of_plain_text(line: str, is_heading: bool) -> None:
    """Lines alone are headings if they look like titles, and text if they look like sentences."""
    _, blocks = read("text", f"Intro.\n\n{line}\n\nSome text follows here.\n")
    assert (blocks[1][0] == "heading") is is_heading


def test_asciidoc_and_underlines() -> None:
    """AsciiDoc's and underlined headings are headings."""
    assert read("text", "= Book\n:toc:\n\n== Part\n\nText.\n", "a.adoc")[1][1] == ("heading", "Part, line 4", "Part")
    assert read("text", "Title\n=====\nText.\n\nPart\n----\n\nMore.\n")[1] == [
        ("heading", "line 1", "Title"), ("paragraph", "line 3", "Text."), ("heading", "Part, line 5", "Part"),
        ("paragraph", "Part, line 8", "More."),
    ]  # fmt: skip


def test_delimited_values() -> None:
    """Rows carry their headers and their numbers in the file, whatever delimits them."""
    rows = [("row", "row 2", "part: Wheel; price: $48; fits: Wren 1"), ("row", "row 3", "part: Tube; price: $6")]
    for delimiter in ",;\t|":
        assert read("csv", samples.CSV.replace(",", delimiter), "p.csv")[1] == rows
    assert texts("csv", 'a,b,c\n"1,5","x\ny",3\n') == ["a: 1,5; b: x y; c: 3"]
    assert texts("csv", "sep=;\na;b;c\n1;2;3\n") == ["a: 1; b: 2; c: 3"]
    assert texts("csv", "1,2,3\n4,5,6\n") == ["1 | 2 | 3", "4 | 5 | 6"]
    assert texts("csv", "") == []


def test_pdf() -> None:
    """A PDF gives paragraphs with page numbers; larger lines are headings, and lines of a paragraph flow together."""
    long = "This line goes all the way to the right margin of the page, and the sentence goes"
    pages = [
        [(24, "Handbook"), (0, ""), (12, long), (12, "on in the next one.")],
        [(18, "Leave"), (0, ""), (12, "Thirty days (a year).")],
    ]
    title, blocks = read("pdf", samples.pdf(pages))
    assert title == "Handbook"
    assert blocks == [
        ("heading", "page 1", "Handbook"),
        ("paragraph", "page 1", f"{long} on in the next one."),
        ("heading", "Leave, page 2", "Leave"),
        ("paragraph", "Leave, page 2", "Thirty days (a year)."),
    ]


def test_pdf_without_running_heads() -> None:
    """Lines that stand at the edge of every page, page numbers among them, are left out."""
    pages = [
        [(9, f"Manual, edition 11 Page {n}"), *((12, f"Line {k} of page {word}.") for k in "abcdefg"), (9, str(n))]
        for n, word in enumerate(("one", "two", "three"), 1)
    ]
    found = " ".join(texts("pdf", samples.pdf(pages)))
    assert "edition" not in found and "3" not in found and "Line g of page three." in found


def test_pdf_without_text_says_so() -> None:
    """Pages without text are no error but a reason."""
    assert READERS["pdf"](Raw("a.pdf", samples.pdf([[]]))).note == "no text on 1 page"


def test_word() -> None:
    """A Word document gives headings, lists and rows; its title is the paragraph in the title's style."""
    title, blocks = read("docx", samples.docx())
    assert title == "Handbook"
    assert blocks == [
        ("heading", "", "Handbook"),
        ("paragraph", "", "Read this first."),
        ("heading", "Leave", "Leave"),
        ("list", "Leave", "- thirty days a year\n- ask your manager"),
        ("row", "Leave", "Part: Wheel; Price: $48; Stock: 12"),
    ]


def test_word_reads_what_libraries_skip() -> None:
    """Text boxes, content controls, tracked insertions and bold headings are read; deletions are not."""
    files = samples.unzipped(samples.docx())
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    run = "<w:r><w:t>{}</w:t></w:r>".format
    body = (
        f"<w:sdt><w:sdtContent><w:p>{run('controlled')}</w:p></w:sdtContent></w:sdt>"
        f"<w:p><w:ins>{run('inserted ')}</w:ins><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>{run('kept')}</w:p>"
        f"<w:p><w:r><w:rPr><w:b/></w:rPr><w:t>Bold heading</w:t></w:r></w:p>"
        f"<w:p>{run('around')}<w:r><w:pict><w:txbxContent><w:p>{run('boxed')}</w:p></w:txbxContent></w:pict></w:r></w:p>"
        f"<w:p><w:pPr><w:outlineLvl w:val='1'/></w:pPr>{run('Outlined')}</w:p>"
    )
    files["word/document.xml"] = f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>'
    assert [(kind, text) for kind, _, text in read("docx", samples.zipped(files))[1]] == [
        ("paragraph", "controlled"), ("paragraph", "inserted kept"), ("heading", "Bold heading"), ("paragraph", "around"),
        ("paragraph", "boxed"), ("heading", "Outlined"),
    ]  # fmt: skip


def test_slides() -> None:
    """A presentation gives titles, points, rows and notes with the number of their slide."""
    title, blocks = read("pptx", samples.pptx())
    assert title == "Handbook"
    assert blocks == [
        ("heading", "slide 1", "Handbook"),
        ("list", "slide 1", "- Read this first.\n- thirty days a year"),
        ("paragraph", "slide 1", "Notes: Speak slowly."),
        ("heading", "Prices, slide 2", "Prices"),
        ("row", "Prices, slide 2", "Part: Wheel; Price: $48"),
    ]


def test_workbook() -> None:
    """A workbook gives captions and rows under their sheet; numbers and dates read as a person writes them."""
    assert read("xlsx", samples.xlsx())[1] == [
        ("heading", "Prices", "Prices"),
        ("paragraph", "Prices, row 1", "Valid from February"),
        ("row", "Prices, row 4", "part: Wheel; price: 48; since: 2025-02-01"),
        ("row", "Prices, row 5", "part: Tube; price: 6.5"),
        ("heading", "Stock", "Stock"),
        ("row", "Stock, row 1", "part | shelf | pieces"),
    ]


def test_book() -> None:
    """A book gives its chapters in reading order, entities and all, without its table of contents."""
    title, blocks = read("epub", samples.epub())
    assert title == "Handbook"
    assert blocks == [
        ("heading", "Beginning", "Beginning"), ("paragraph", "Beginning", "Read it."),
        ("heading", "Leave", "Leave"), ("paragraph", "Leave", "Ask for it."),
    ]  # fmt: skip


def test_mail() -> None:
    """A mail gives who, when and what, its plain text rather than its HTML, and the names of attachments."""
    title, blocks = read("eml", samples.mail())
    assert title == "Rückruf der Schnallen"
    assert [text for _, _, text in blocks] == [
        "From: Noor Bexley <service@example.org>\nTo: Dealers <dealers@example.org>\nSubject: Rückruf der Schnallen",
        "Read this first.", "Stop selling these trailers.", "Attachments: notice.pdf",
    ]  # fmt: skip


def test_mail_in_html_and_in_utf16() -> None:
    """A mail of HTML alone is read as HTML; one that was saved as UTF-16 is read as well."""
    body = "From: a@example.org\nSubject: Hello\nContent-Type: text/html\n\n<h1>Big</h1><p>Small</p>\n"
    assert texts("eml", body)[1:] == ["Big", "Small"]
    assert texts("eml", body.encode("utf-16"))[1:] == ["Big", "Small"]


def test_notebook() -> None:
    """A notebook gives Markdown, code and printed output with the number of the cell; pictures say nothing."""
    title, blocks = read("ipynb", json.dumps(samples.NOTEBOOK))
    assert title == "Handbook"
    assert blocks == [
        ("heading", "cell 1", "Handbook"),
        ("paragraph", "cell 1", "Read this first."),
        ("code", "cell 2", "print(30)"),
        ("cell", "cell 2", "Output:\n30"),
    ]
    old = {"nbformat": 2, "worksheets": [{"cells": [{"cell_type": "code", "input": ["a = 1", "b = 2"]}]}]}
    assert texts("ipynb", json.dumps(old)) == ["a = 1\nb = 2"]


def test_json() -> None:
    """JSON gives one row for each record, with keys; what nests reads under its path."""
    value = {
        "catalogue": "for dealers", "version": 2, "empty": None,
        "products": [{"name": "Ox", "size": {"w": 1, "h": 2}, "tags": ["a", "b"]}, {"name": "Wren"}],
        "contact": {"mail": "x@example.org", "hours": {"mon": "8-18"}},
    }  # fmt: skip
    assert read("json", json.dumps(value))[1] == [
        ("row", "", "catalogue: for dealers; version: 2"),
        ("heading", "products", "products"),
        ("row", "products, item 1", "name: Ox; size.w: 1; size.h: 2; tags: a, b"),
        ("row", "products, item 2", "name: Wren"),
        ("heading", "contact", "contact"),
        ("row", "contact", "mail: x@example.org"),
        ("heading", "contact > hours", "hours"),
        ("row", "contact > hours", "mon: 8-18"),
    ]
    assert texts("json", '"one"') == ["one"]
    assert texts("json", "[1, true, null, 2.5]") == ["1", "true", "2.5"]


def test_json_lines() -> None:
    """JSON Lines give a row for each line with its number; a broken line stays as text."""
    assert read("jsonl", '{"a": 1}\n\n{"a": 2\n{"a": 3}\n')[1] == [
        ("row", "line 1", "a: 1"), ("row", "line 3", '{"a": 2'), ("row", "line 4", "a: 3"),
    ]  # fmt: skip
    assert texts("json", '{"a": 1}\n{"a": 2}\n') == ["a: 1", "a: 2"]
    for kind in ("json", "jsonl"):
        with pytest.raises(BadInput, match="not JSON"):
            read(kind, "nothing of the kind")
    with pytest.raises(BadInput, match="nested too deeply"):
        read("json", "[" * 200 + "]" * 200)


def test_source_code() -> None:
    """Code is cut where definitions begin, and says their names and lines."""
    source = (
        "import os\n\n\nclass Trailer:\n    load = 60\n\n    def pull(self):\n        pass\n\n\ndef main():\n    pass\n"
    )
    assert [place for _, place, _ in read("code", source, "a.py")[1]] == ["line 1", "Trailer, line 4", "main, line 11"]
    assert [place for _, place, _ in read("code", '[tool]\na = 1\n\n[tool.b]\nc = "d"\n', "a.toml")[1]] == [
        "tool, line 1",
        "tool.b, line 4",
    ]


@pytest.mark.parametrize(
    ("kind", "data"), [("docx", samples.docx()), ("pptx", samples.pptx()), ("xlsx", samples.xlsx())]
)
def test_encrypted_office_files(kind: str, data: bytes) -> None:
    """Encrypted Office files ask for the password, say when it is wrong, and open with the right one."""
    from msoffcrypto.format.ooxml import OOXMLFile

    stream = io.BytesIO()
    OOXMLFile(io.BytesIO(data)).encrypt("secret", stream)
    with pytest.raises(BadInput, match="encrypted: give its --password"):
        read(kind, stream.getvalue())
    with pytest.raises(BadInput, match="--password does not open it"):
        read(kind, stream.getvalue(), password="wrong")
    assert read(kind, stream.getvalue(), password="secret") == read(kind, data)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.odt", b"PK\x03\x04", "unsupported format .odt: save it as .docx or PDF"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "unsupported format .doc: save it as .docx or PDF"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "unsupported format .xls: save it as .xlsx or .csv"),
        ("a.zip", b"PK\x03\x04", "unsupported format .zip: unpack it first"),
        ("a.png", b"\x89PNG", "unsupported format .png: images, sound and films are not read"),
        ("a.ps", b"%!PS", "unsupported format .ps: convert it to PDF"),
        ("a.xyz", bytes(100), "unsupported format .xyz"),
        ("noname", b"\x7fELF" + bytes(100), "binary, in no format that is read"),
        ("a.md", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    ],
)
def test_unread_formats_are_named(name: str, data: bytes, reason: str) -> None:
    """A format without a reader is named, with what to do."""
    with pytest.raises(BadInput) as caught:
        format_of(name, data)
    assert str(caught.value).endswith(reason)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("LICENSE", b"Permission is granted", "text"),
        ("Makefile", b"all:\n", "code"),
        ("page", b"<!DOCTYPE html><p>", "html"),
        ("report.bin", b"%PDF-1.4\n", "pdf"),
        ("report.txt", b"%PDF-1.4\n", "pdf"),
        ("letter.txt", samples.docx(), "docx"),
        ("notes.unknown", "Zürich".encode("utf-16"), "text"),
        ("A.MD", b"# x", "markdown"),
    ],
)
def test_format_of_other_names(name: str, data: bytes, kind: str) -> None:
    """Files without a known ending, or with the wrong one, are known by their first bytes."""
    assert format_of(name, data) == kind


def test_lines_no_person_wrote_are_refused() -> None:
    """A line of 200,000 characters and more is data, in every format of lines."""
    for kind in ("text", "markdown", "rst", "code", "csv"):
        with pytest.raises(BadInput, match="characters"):
            read(kind, f"short\n{'a ' * 150_000}\n")
    for kind in ("text", "markdown", "rst", "code"):
        with pytest.raises(BadInput, match="line 2 has a word of over 10,000 letters"):
            read(kind, f"short\n{'9f' * 10_000}\n")
    assert texts("markdown", f"![a picture](data:image/png;base64,{'iVBO' * 100_000})\n\nText.\n")[-1] == "Text."


def test_clean() -> None:
    """Text is composed, with plain line ends and without what nobody sees; indentation and joiners stay."""
    assert (
        clean("A\u030angstro\u0308m\r\nline\rof\u00a0text\u00ad\ufeff\x00\x07 \n\n\n\n\n\n\tend\t")
        == "Ångström\nline\nof text\n\n\n\tend"
    )
    assert clean("👩\u200d🔬 نمی\u200cخواهم \ud800") == "👩\u200d🔬 نمی\u200cخواهم \ufffd"
