"""Arrays from and to safetensors files, one tensor in memory at a time.

`mx.save_safetensors` evaluates all arrays of a file before it writes the first byte.  Here the header is
written from names, types and shapes, which lazy arrays know, and then each array is evaluated, written and
let go: the peak is one tensor and what it is computed from, however large the file.

Source: the safetensors format, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import mlx.core as mx

from mlxrag.errors import BadInput
from mlxrag.memory import ledger

# Types as safetensors names them, and a type of the same width that numpy can hold.
NAMES: dict[mx.Dtype, str] = {
    mx.bool_: "BOOL", mx.uint8: "U8", mx.int8: "I8", mx.uint16: "U16", mx.int16: "I16", mx.float16: "F16",
    mx.bfloat16: "BF16", mx.uint32: "U32", mx.int32: "I32", mx.float32: "F32", mx.uint64: "U64", mx.int64: "I64",
}  # fmt: skip
LARGEST_FILE = 4_000_000_000  # bytes of one file; more go into a second, with an index


def read_in(arrays: Iterable[mx.array]) -> None:
    """Compute arrays in turn, so that what one is converted from is gone before the next; a safe point between them.

    Raises:
        WontFit: the budget has fallen below what is held meanwhile.
    """
    for array in arrays:
        ledger().look()
        mx.eval(array)


def write_weights(folder: Path, weights: dict[str, mx.array], *, largest: int = LARGEST_FILE) -> Iterator[int]:
    """Write model.safetensors into `folder`, or numbered files and an index where it would be too large.

    Args:
        folder: exists.
        weights: arrays by name, evaluated or not; **emptied** while they are written, so that memory is given back.
        largest: bytes after which a new file is begun.

    Yields:
        bytes written so far, after each tensor.

    Raises:
        BadInput: an array of a type the format does not have.
    """
    total = sum(array.nbytes for array in weights.values())
    files: list[list[str]] = [[]]
    size = 0
    for name in sorted(weights):
        if files[-1] and size + weights[name].nbytes > largest:
            files.append([])
            size = 0
        files[-1].append(name)
        size += weights[name].nbytes
    index: dict[str, str] = {}
    done = 0
    for number, names in enumerate(files, 1):
        file = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        index |= dict.fromkeys(names, file)
        for count in write_file(folder / file, names, weights):
            done += count
            yield done
    if len(files) > 1:
        table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


def write_file(path: Path, names: list[str], weights: dict[str, mx.array]) -> Iterator[int]:
    """Write the named arrays into one file, taking each out of `weights`; yield the bytes of each."""
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name in names:
        array = weights[name]
        if array.dtype not in NAMES:
            raise BadInput(f"{name}: MLX's {array.dtype} has no place in a safetensors file")
        end = at + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in names:
            yield write_array(stream.write, weights.pop(name))
        stream.flush()
        os.fsync(stream.fileno())


def write_array(write: Callable[[memoryview], object], array: mx.array) -> int:
    """Evaluate one array, hand its bytes to `write`, and return how many there were."""
    count = array.nbytes
    if count == 0:
        return 0
    flat = mx.contiguous(array).reshape(-1).view(mx.uint8)
    mx.eval(flat)
    write(memoryview(flat))  # type: ignore[arg-type]  # arrays speak the buffer protocol; their stubs do not say so
    del flat, array
    mx.clear_cache()
    return count
