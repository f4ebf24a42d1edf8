"""A folder of files becomes documents and refusals, whatever is in the folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections import Counter
from pathlib import Path

import pytest

from mlxrag.errors import BadInput
from mlxrag.rag.document import Document, document_id
from mlxrag.rag.formats.piece import clean
from mlxrag.rag.read import Refusal, SourceFile, find_files, read_file, read_files
from mlxrag.settings import Reading
from tests.rag import samples


def read(root: Path, **settings: object) -> dict[str, Document | Refusal]:
    """Read all below a folder, by source."""
    reading = Reading(**({"read_seconds": 20.0} | settings))  # type: ignore[arg-type]
    return {found.source.removeprefix("docs/"): found for found in read_files(find_files([root], reading), reading)}


def written(root: Path, files: dict[str, bytes | str]) -> Path:
    """Write files below a folder."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def words(text: str) -> Counter[str]:
    """How often each word stands in a text."""
    return Counter(re.findall(r"\w+", text.replace("’", "'").lower()))


def test_every_format_at_once(tmp_path: Path) -> None:
    """A folder with one file of every format gives one document each, in the order of the sources."""
    found = read(written(tmp_path / "docs", dict(samples.samples().values())))
    assert list(found) == sorted(name for name, _ in samples.samples().values())
    assert all(isinstance(document, Document) and document.blocks for document in found.values())


def test_document_says_what_it_is_from(tmp_path: Path) -> None:
    """A document's ids are hashes of its source, text and bytes, and it names its format and encoding."""
    root = written(tmp_path / "docs", {"a.md": "# Größe\n\nText.".encode("cp1252")})
    document = read(root)["a.md"]
    assert isinstance(document, Document)
    assert document.source == "docs/a.md" and document.title == "Größe"
    assert document.id == document_id("docs/a.md", document.text)
    assert document.sha256 == hashlib.sha256((root / "a.md").read_bytes()).hexdigest()
    assert document.meta == {"format": "markdown", "encoding": "cp1252"}
    assert document == read_file(SourceFile(root / "a.md", "docs/a.md"), Reading())


def test_hostile_files_cost_a_row_each(tmp_path: Path) -> None:
    """Bombs, loops, floods and damage are refused with a reason, and the files between them are read."""
    word, book = samples.unzipped(samples.docx()), samples.unzipped(samples.epub())
    entities = '<!DOCTYPE a [<!ENTITY a "' + "x" * 100 + '">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 50}">' for before, name in zip("abcdef", "bcdefg", strict=True)
    )  # fmt: skip
    body = word["word/document.xml"]
    assert isinstance(body, bytes)
    laughs = body.replace(b"<w:document", f"{entities}]><w:document".encode(), 1).replace(b"Read this first.", b"&g;")
    flood = b"BT /F1 12 Tf " + b"(aaaaaaaaaaaaaaaaaaaa) Tj 0 -12 Td " * 1_500_000 + b"ET"
    archive = samples.zipped(book | {"OEBPS/a.xhtml": b" " * 123_457})
    archive = archive.replace((123_457).to_bytes(4, "little"), (600 << 20).to_bytes(4, "little"))
    found = read(
        written(
            tmp_path / "docs",
            {
                "a-good.md": "# Good",
                "archive.epub": archive,
                "damaged.pdf": samples.pdf([[(12, "text")]])[:200],
                "deep.json": "[" * 500_000,
                "flood.pdf": samples.pdf_of([zlib.compress(flood, 1)], "/Filter/FlateDecode"),
                "laughs.docx": samples.zipped(word | {"word/document.xml": laughs}),
                "line.txt": "a" * 5_000_000,
                "m-good.txt": "Good as well.",
                "nested.html": "<div>" * 200_000 + "x",
                "random.docx": os.urandom(2000),
                "zeros.txt": bytes(10_000),
                "z-good.csv": "a,b,c\n1,2,3\n",
            },
        ),
        read_memory=250,
        read_seconds=15.0,
    )
    assert [name for name, one in found.items() if isinstance(one, Document)] == [
        "a-good.md",
        "m-good.txt",
        "z-good.csv",
    ]
    reasons = {name: one.reason for name, one in found.items() if isinstance(one, Refusal)}
    assert "zip bomb" in reasons["archive.epub"]
    assert reasons["deep.json"] == "nested too deeply"
    assert reasons["line.txt"] == "line 1 has a word of over 10,000 letters: data, not text"
    assert reasons["damaged.pdf"] == "a damaged PDF"
    assert "memory" in reasons["flood.pdf"] or "longer" in reasons["flood.pdf"]
    assert "damaged" in reasons["laughs.docx"]
    assert reasons["random.docx"] == "damaged: not a whole package"
    assert reasons["zeros.txt"] == "not text: binary data"


def test_empty_files_say_why(tmp_path: Path) -> None:
    """Files that can be read but hold no text are empty, with the reason."""
    found = read(
        written(
            tmp_path / "docs",
            {
                "a.txt": "",
                "b.txt": " \n\t\n",
                "c.pdf": samples.pdf([[], []]),
                "d.ipynb": '{"nbformat": 4, "cells": []}',
            },
        )
    )
    assert {name: (one.outcome, one.reason) for name, one in found.items() if isinstance(one, Refusal)} == {
        "a.txt": ("empty", "0 bytes"),
        "b.txt": ("empty", "holds no text"),
        "c.pdf": ("empty", "no text on 2 pages"),
        "d.ipynb": ("empty", "a notebook without cells"),
    }


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    """Links to nowhere, pipes and large files are refused, and nobody waits."""
    root = written(tmp_path / "docs", {"large.txt": "x " * 700_000})
    (root / "link.md").symlink_to("link.md")
    os.mkfifo(root / "pipe.md")
    found = read(root, max_file_size=1)
    assert {name: one.reason for name, one in found.items() if isinstance(one, Refusal)} == {
        "large.txt": "1 MiB, more than --max-file-size 1",
        "link.md": "a link that leads to itself",
        "pipe.md": "not a regular file (a pipe, socket or device)",
    }
    with pytest.raises(BadInput, match="cannot be opened: no such file"):
        read_file(SourceFile(root / "gone.md", "docs/gone.md"), Reading())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    """A file that may not be read says so."""
    root = written(tmp_path / "docs", {"a.md": "# a"})
    (root / "a.md").chmod(0)
    assert read(root)["a.md"] == Refusal("docs/a.md", "refused", "cannot be opened: permission denied")


def test_names_of_any_bytes(tmp_path: Path) -> None:
    """File names in any encoding are read and shown."""
    root = tmp_path / "docs"
    root.mkdir()
    try:
        (root / os.fsdecode(b"caf\xe9.md")).write_text("# coffee")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (root / "naïve 文.md").write_text("# name")
    assert list(read(root)) == ["caf?.md", "naïve 文.md"]


def test_reading_does_not_load_the_models_packages() -> None:
    """A reading process imports neither MLX nor anything else that takes long."""
    import subprocess
    import sys

    code = "import sys, mlxrag.rag.read; print([m for m in ('mlx', 'transformers', 'pydantic', 'numpy', 'lxml', 'docx') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_real_documents(shared_data: Path) -> None:
    """Three editions of one book give its text alike, and the manuals of MLX keep headings and code."""
    book = shared_data / "documents" / "alice"
    sentence = "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do"
    plain = words((book / "11.txt").read_text())
    for name in ("11.txt", "11-h/11-h.htm", "11-pdf.pdf"):
        document = read_file(SourceFile(book / name, name), Reading())
        assert sentence in " ".join(document.text.split())
        assert "Alice’s Adventures in Wonderland".lower() in document.title.lower().replace("'", "’")
        assert (words(document.text) & plain).total() > 0.999 * plain.total()
    page = shared_data / "documents" / "mlx-docs" / "docs" / "src" / "dev" / "custom_metal_kernels.rst"
    document = read_file(SourceFile(page, "custom_metal_kernels.rst"), Reading())
    assert document.title == "Custom Metal Kernels"
    code = [document.text[block.start : block.end] for block in document.blocks if block.kind == "code"]
    poem = shared_data / "documents" / "pypdf-resources" / "resources" / "crazyones"
    expected = clean(poem.with_suffix(".txt").read_text())
    assert words(read_file(SourceFile(poem.with_suffix(".pdf"), "poem.pdf"), Reading()).text) == words(expected)
    assert any("mx.fast.metal_kernel(" in piece and "\n    name=" in piece for piece in code)


@pytest.mark.slow
def test_many_real_and_hostile_documents(shared_data: Path) -> None:
    """Some 380 real files end as a document or with a reason, encrypted ones with what to give."""
    found = read(shared_data / "documents")
    refusals = {name: one for name, one in found.items() if isinstance(one, Refusal)}
    encrypted = [name for name, one in refusals.items() if "encrypted: give its --password" in one.reason]
    assert len(found) > 330 and len(refusals) < 60
    assert len(encrypted) >= 9
    assert all(one.reason and "\n" not in one.reason and "Traceback" not in one.reason for one in refusals.values())
    opened = read(shared_data / "documents" / "pypdf-resources", password="asdfzxcv", include=("*-user-password.pdf",))
    assert sum(isinstance(one, Document) for one in opened.values()) >= 6
    assert json.dumps([one.text for one in opened.values() if isinstance(one, Document)])
