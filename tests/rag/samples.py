"""Small files of every format that readers know, made by the libraries people make them with."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from email.message import EmailMessage

MARKDOWN = """---
title: Handbook
---
# Handbook

Read this *first*.

## Leave

- thirty days a year
- ask your **manager**

| Part | Price |
|---|---|
| Wheel | $48 |

```python
def leave(days):
    return 30 - days
```
"""

RST = """
Handbook
========

Read this *first*, and :func:`mlx.grad`.

Leave
-----

* thirty days a year
* ask your **manager**

.. note:: Ask early.

.. code-block:: python

   def leave(days):
       return 30 - days

======  =====
Part    Price
======  =====
Wheel   $48
======  =====
"""

HTML = """<!doctype html><html lang="en"><head><title>Site: Handbook</title><style>p{}</style></head><body>
<nav><a href="/">Home</a></nav><h1>Handbook</h1><p>Read this <em>first</em>.<script>evil()</script></p>
<h2>Leave</h2><ul><li>thirty days a year</li><li>ask your <b>manager</b></li></ul>
<table><tr><th>Part</th><th>Price</th></tr><tr><td>Wheel</td><td>$48</td></tr></table>
<pre>def leave(days):
    return 30 - days</pre></body></html>"""

PLAIN = """HANDBOOK

Read this first.

Leave

You have thirty days a year. Ask your manager, and ask
early, because others want the same days.
"""

CSV = "part,price,fits\nWheel,$48,Wren 1\nTube,$6,\n"

NOTEBOOK = {
    "nbformat": 4,
    "cells": [
        {"cell_type": "markdown", "source": ["# Handbook\n", "\n", "Read this first.\n"]},
        {
            "cell_type": "code",
            "source": "print(30)",
            "outputs": [
                {"output_type": "stream", "text": ["30\n"]},
                {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}},
            ],
        },
    ],
}


def mail() -> bytes:
    """A mail with plain text, the same in HTML, and an attachment."""
    message = EmailMessage()
    message["From"] = "Noor Bexley <service@example.org>"
    message["To"] = "Dealers <dealers@example.org>"
    message["Subject"] = "Rückruf der Schnallen"
    message.set_content("Read this first.\n\nStop selling these trailers.\n")
    message.add_alternative("<p>Read this in HTML.</p>", subtype="html")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="notice.pdf")
    return bytes(message)


def pdf(pages: list[list[tuple[int, str]]]) -> bytes:
    """A PDF whose pages are lines of a size and a text; size 0 leaves a gap."""
    streams = []
    for lines in pages:
        height, commands = 750, []
        for size, line in lines:
            height -= (size or 14) + 4
            if size:
                safe = line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
                commands.append(f"BT /F1 {size} Tf 60 {height} Td ({safe}) Tj ET")
        streams.append("\n".join(commands).encode("latin-1"))
    return pdf_of(streams)


def pdf_of(streams: list[bytes], entries: str = "") -> bytes:
    """A PDF whose pages are these content streams, with more entries in their dictionaries, such as a filter."""
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"", b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F1 3 0 R>>>>/Contents {} 0 R>>".format
    kids = []
    for stream in streams:
        objects.append(f"<</Length {len(stream)}{entries}>>stream\n".encode() + stream + b"\nendstream")
        objects.append(page(len(objects)).encode())
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<</Type/Pages/Kids[{' '.join(kids)}]/Count {len(kids)}>>".encode()
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj".encode() + content + b"endobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    end = f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{len(body)}\n%%EOF"
    return body + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}".encode()


def docx() -> bytes:
    """A Word document with headings, a list and a table."""
    import docx as library

    document = library.Document()
    document.add_heading("Handbook", 0)
    document.add_paragraph("Read this first.")
    document.add_heading("Leave", 1)
    document.add_paragraph("thirty days a year", style="List Bullet")
    document.add_paragraph("ask your manager", style="List Bullet")
    table = document.add_table(rows=2, cols=3)
    for row, texts in zip(table.rows, (("Part", "Price", "Stock"), ("Wheel", "$48", "12")), strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    return saved(document.save)


def pptx() -> bytes:
    """A presentation with a title, points, a table and notes."""
    import pptx as library
    from pptx.util import Inches

    presentation = library.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = "Handbook"
    slide.placeholders[1].text = "Read this first.\nthirty days a year"
    slide.notes_slide.notes_text_frame.text = "Speak slowly."
    second = presentation.slides.add_slide(presentation.slide_layouts[5])
    second.shapes.title.text = "Prices"
    table = second.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for row, texts in enumerate((("Part", "Price"), ("Wheel", "$48"))):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    return saved(presentation.save)


def xlsx() -> bytes:
    """A workbook with a caption, two tables and a date; written by the library python-pptx brings."""
    import datetime

    import xlsxwriter

    stream = io.BytesIO()
    book = xlsxwriter.Workbook(stream)
    sheet = book.add_worksheet("Prices")
    sheet.write_string(0, 0, "Valid from February")
    for row, values in enumerate(
        (("part", "price", "since"), ("Wheel", 48, datetime.date(2025, 2, 1)), ("Tube", 6.5, None)), 2
    ):
        for column, value in enumerate(values):
            if isinstance(value, datetime.date):
                sheet.write_datetime(row, column, value, book.add_format({"num_format": "yyyy-mm-dd"}))
            elif value is not None:
                sheet.write(row, column, value)
    book.add_worksheet("Stock").write_row(0, 0, ("part", "shelf", "pieces"))
    book.close()
    return stream.getvalue()


def epub() -> bytes:
    """A book of two chapters, in the order of its spine, and a table of contents that is no chapter."""
    chapter = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body><h1>{0}</h1><p>{1}&nbsp;it.</p></body></html>'
    spine = '<itemref idref="n"/><itemref idref="b"/><itemref idref="a"/>'
    manifest = (
        '<item id="a" href="a.xhtml"/><item id="b" href="b%20c.xhtml"/><item id="n" href="n.xhtml" properties="nav"/>'
    )
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>Handbook</dc:title></metadata><manifest>{manifest}</manifest><spine>{spine}</spine></package>"
    )
    container = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/book.opf": package,
            "OEBPS/a.xhtml": chapter.format("Leave", "Ask for"),
            "OEBPS/b c.xhtml": chapter.format("Beginning", "Read"),
            "OEBPS/n.xhtml": chapter.format("Contents", "See"),
        }
    )


def zipped(files: dict[str, str | bytes]) -> bytes:
    """A zip package of these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in files.items():
            package.writestr(name, content)
    return stream.getvalue()


def unzipped(data: bytes) -> dict[str, str | bytes]:
    """The files of a zip package."""
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        return {name: package.read(name) for name in package.namelist()}


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    """The bytes that a library's save function writes."""
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def samples() -> dict[str, tuple[str, bytes]]:
    """One file for each format: its name and its bytes."""
    return {
        "markdown": ("handbook.md", MARKDOWN.encode()),
        "rst": ("handbook.rst", RST.encode()),
        "text": ("handbook.txt", PLAIN.encode()),
        "html": ("handbook.html", HTML.encode()),
        "pdf": (
            "handbook.pdf",
            pdf([[(24, "Handbook"), (0, ""), (12, "Read this first.")], [(12, "thirty days a year")]]),
        ),
        "docx": ("handbook.docx", docx()),
        "pptx": ("handbook.pptx", pptx()),
        "xlsx": ("prices.xlsx", xlsx()),
        "csv": ("prices.csv", CSV.encode()),
        "epub": ("handbook.epub", epub()),
        "eml": ("recall.eml", mail()),
        "ipynb": ("analysis.ipynb", json.dumps(NOTEBOOK).encode()),
        "json": ("dealers.json", json.dumps([{"dealer": "Pedal Barn", "open": {"sun": False}}]).encode()),
        "jsonl": ("dealers.jsonl", b'{"dealer": "Pedal Barn"}\n{"dealer": "Velo Quarter"}\n'),
        "code": ("leave.py", b"import os\n\n\ndef leave(days):\n    return 30 - days\n"),
    }
