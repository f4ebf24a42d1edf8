"""The header of a GGUF file, read in Python and checked against the length of the file.

`mx.load` trusts the counts and offsets of a GGUF header and can crash the process on a malformed
file, so nothing may hand it one that has not passed `read_gguf`.

Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlxrag.errors import BadInput
from mlxrag.model.checkpoint import refuse_pointer

# type number of a metadata value -> struct format; 8 is a string and 9 an array
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# tensor type number -> (name, values in a block, bytes of a block)
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
DEEPEST = 4  # arrays of arrays


@dataclass(frozen=True)
class Gguf:
    """What a GGUF file says it holds: `version`, `metadata`, and type and shape of each tensor."""

    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]


class Reader:
    """A file position that never passes the end; every count is checked against the bytes left."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        """Read from `stream`, which holds `file`."""
        self.stream, self.file, self.size = stream, file, file.stat().st_size

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        if length > self.size - self.stream.tell():
            raise BadInput(f"{self.file}: the GGUF header is broken (it runs past the end of the file); fetch it again")
        return self.stream.read(length)

    def number(self, form: str) -> Any:
        """Return the next value of struct format `form`, little-endian."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self) -> str:
        """Return the next string."""
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """Return the next metadata value of type number `kind`."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY or depth == DEEPEST:
            raise BadInput(f"{self.file}: the GGUF header is broken (a value of unknown type {kind}); fetch it again")
        inner, count = self.number("I"), self.number("Q")
        least = struct.calcsize("<" + SCALARS[inner]) if inner in SCALARS else 8
        if count * least > self.size - self.stream.tell():
            raise BadInput(f"{self.file}: the GGUF header is broken (an array of {count} values); fetch it again")
        if inner in SCALARS:
            form = f"<{count}{SCALARS[inner]}"
            return list(struct.unpack(form, self.take(struct.calcsize(form))))
        return [self.value(inner, depth + 1) for _ in range(count)]


def read_gguf(file: Path) -> Gguf:
    """Return the header of `file`, having checked every count, offset and length against the file.

    Raises:
        BadInput: a Git LFS pointer, another format or version, or a header that is broken.
    """
    refuse_pointer(file)
    with file.open("rb") as stream:
        reader = Reader(stream, file)
        if stream.read(4) != b"GGUF":
            raise BadInput(f"{file} is no GGUF file: it does not begin with GGUF")
        version = reader.number("I")
        if version not in (2, 3):
            raise BadInput(f"{file} is GGUF version {version}; versions 2 and 3 can be read")
        count, pairs = reader.number("Q"), reader.number("Q")
        # The shortest tensor entry has 24 bytes, the shortest pair 13.
        if count * 24 + pairs * 13 > reader.size:
            raise BadInput(f"{file}: the GGUF header is broken ({count} tensors, {pairs} pairs); fetch the file again")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = reader.text()
            metadata[key] = reader.value(reader.number("I"))
        entries = [read_tensor(reader) for _ in range(count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment % 8:
            raise BadInput(f"{file}: the GGUF header is broken (alignment {alignment!r}); fetch the file again")
        base = -(-stream.tell() // alignment) * alignment
    tensors = {}
    for name, kind, shape, offset in entries:
        form, per_block, block = TYPES[kind]
        if shape and shape[0] % per_block:
            raise BadInput(f"{file}: the GGUF header is broken ({name} of {shape} as {form}); fetch the file again")
        end = base + offset + math.prod(shape) // per_block * block
        if name in tensors or offset % alignment or end > reader.size:
            raise BadInput(f"{file}: the GGUF file is truncated or broken at {name}; fetch the file again")
        tensors[name] = (form, shape)
    return Gguf(version, metadata, tensors)


def read_tensor(reader: Reader) -> tuple[str, int, tuple[int, ...], int]:
    """Return name, type number, shape (innermost first, as GGUF has it) and offset of the next tensor entry."""
    name, dims = reader.text(), reader.number("I")
    if dims > 4:
        raise BadInput(f"{reader.file}: the GGUF header is broken ({name} has {dims} dimensions); fetch the file again")
    shape = tuple(reader.number("Q") for _ in range(dims))
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in TYPES:
        raise BadInput(f"{reader.file}: the GGUF header is broken ({name} has type {kind}); fetch the file again")
    return name, kind, shape, offset
