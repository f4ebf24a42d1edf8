"""What every reader promises, whatever it reads."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mlxrag.errors import BadInput
from mlxrag.rag.find import SourceFile
from mlxrag.rag.formats.kind import ENDINGS, format_of
from mlxrag.rag.formats.piece import Raw, assemble
from mlxrag.rag.read import READERS, read_file
from mlxrag.settings import Reading
from tests.rag.samples import samples

SAMPLES = samples()


def test_every_reader_has_a_sample_and_an_ending() -> None:
    """A reader without a sample file here is not tested, and one without an ending is never used."""
    assert set(SAMPLES) == set(READERS) == set(ENDINGS.values())


@pytest.mark.parametrize("kind", READERS)
def test_finds_its_format_by_name(kind: str) -> None:
    """The name of a sample leads to its reader."""
    assert format_of(*SAMPLES[kind]) == kind


@pytest.mark.parametrize("kind", READERS)
def test_blocks_lie_in_the_text(kind: str, tmp_path: Path) -> None:
    """Blocks are in order, do not overlap, hold no blank edges but in code, and cover all but blanks."""
    name, data = SAMPLES[kind]
    path = tmp_path / name
    path.write_bytes(data)
    document = read_file(SourceFile(path, f"docs/{name}"), Reading())
    assert document.text and document.title and document.meta["format"] == kind
    at = 0
    for block in document.blocks:
        assert at <= block.start < block.end <= len(document.text)
        assert not document.text[at : block.start].strip()
        piece = document.text[block.start : block.end]
        assert piece.strip() and (block.kind == "code" or piece == piece.strip())
        at = block.end
    assert not document.text[at:].strip()


@pytest.mark.parametrize("kind", READERS)
def test_reads_twice_alike(kind: str) -> None:
    """The same bytes give the same text and blocks, so that unchanged files keep their ids."""
    raw = Raw(*SAMPLES[kind])
    assert assemble(READERS[kind](raw)) == assemble(READERS[kind](raw))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("seed", range(4))
def test_damage_is_refused_or_read(kind: str, seed: int) -> None:
    """Bytes changed at random, cut off, or of nothing at all give a document or a reason, and no other error."""
    name, data = SAMPLES[kind]
    source = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(max(len(data) // 50, 3)):
        damaged[source.randrange(len(damaged))] = source.randrange(256)
    for broken in (bytes(damaged), data[: source.randrange(len(data))], source.randbytes(500), bytes(500)):
        try:
            text, blocks = assemble(READERS[kind](Raw(name, broken)))
        except BadInput as error:
            assert str(error) and "\n" not in str(error)
        except RecursionError:
            pytest.fail("recursion on a small file")
        else:
            assert all(text[block.start : block.end].strip() for block in blocks)
