"""What a checkpoint on disk holds, read from its headers alone, and refused where it cannot be trusted.

Every fault is found before a byte of weights is mapped: Git LFS pointers, truncated files, headers
that contradict themselves, missing shards, pickles, code.  MLX's own readers are quick but trusting
(some malformed GGUF files crash the process), so nothing reaches `mx.load` that has not passed here.

This file knows nothing of arrays or networks: it deals in names, types, shapes and byte offsets.

Source: the safetensors format, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxrag.errors import BadInput, NotFound

LFS_MARK = b"version https://git-lfs.github.com/spec/"
LARGEST_HEADER = 100_000_000  # bytes; the reference implementation's limit
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: `name`, `dtype` as safetensors writes it, `shape`, and where its bytes lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.end - self.start


@dataclass(frozen=True)
class Checkpoint:
    """A directory of weights whose headers agree: `config` as written, `files` in order, `tensors` by name."""

    path: Path
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read_checkpoint(path: Path, *, trust_remote_code: bool = False) -> Checkpoint:
    """Return what the checkpoint in directory `path` holds, having checked that its files agree.

    Costs one read of each header; the weights are not touched.

    Args:
        path: a directory with config.json and safetensors files.
        trust_remote_code: allow a config that names Python code to run.

    Raises:
        NotFound: no such directory, no config.json, or no weights.
        BadInput: a file is a Git LFS pointer, truncated or inconsistent, a shard is missing, the weights
            are pickled, or code would have to run.  All faults of the directory are named at once.
    """
    config = read_config(path)
    if not trust_remote_code:
        refuse_code(path, config)
    files, mapped = weight_files(path)
    faults: list[str] = []
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            header = read_header(file)
        except BadInput as error:
            faults.append(str(error))
            continue
        if twice := sorted(tensors.keys() & header.keys()):
            faults.append(f"{file.name} holds {twice[0]} that {tensors[twice[0]].file.name} holds too")
        tensors |= header
    if not faults:
        if lost := [name for name in mapped if name not in tensors]:
            faults.append(f"the index lists {listing(lost)} that no shard holds")
        astray = [name for name, file in mapped.items() if name in tensors and tensors[name].file.name != file]
        if astray:
            faults.append(f"the index places {listing(astray)} in another shard than the files do")
    if faults:
        raise BadInput(f"{path}: {'; '.join(faults)}")
    return Checkpoint(path, config, files, tensors)


def stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of change of config.json and the weight files, to see later whether they are the same."""
    files = [path / "config.json", *weight_files(path)[0]]
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def refuse_change(path: Path, then: tuple[tuple[str, int, int], ...]) -> None:
    """Raise BadInput if the files in `path` are not those that `stamp` saw."""
    if stamp(path) != then:
        raise BadInput(
            f"{path} was changed while it was being read; what was measured is of two models, so begin again"
        )


def read_config(path: Path) -> dict[str, Any]:
    """Return config.json of directory `path`.

    Raises:
        NotFound: no such directory, or no config.json in it.
        BadInput: a Git LFS pointer, not JSON, or without a `model_type`.
    """
    if not path.is_dir():
        raise NotFound(f"{path} is not a directory; name one with config.json and *.safetensors, or a hub id")
    file = path / "config.json"
    if not file.is_file():
        raise NotFound(f"{path} has no config.json, so it is no checkpoint; name the directory that has one")
    refuse_pointer(file)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is not JSON ({error}); fetch the file again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise BadInput(f"{file} names no model_type, so nothing says which network the weights belong to")
    return config


def refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    """Raise BadInput if loading by `config` would run Python that comes with the checkpoint."""
    if isinstance(file := config.get("model_file"), str):
        raise BadInput(
            f"{path}: config.json asks to run its own code ({file}); read that file, and if you trust it "
            "pass --trust-remote-code"
        )


def weight_files(path: Path) -> tuple[tuple[Path, ...], dict[str, str]]:
    """Return the safetensors files of directory `path` in order, and the index: tensor name -> file name.

    Raises:
        NotFound: no weights of any kind.
        BadInput: the index is broken, shards are missing, or the weights are pickled.
    """
    index, mapped = path / "model.safetensors.index.json", {}
    if index.is_file():
        refuse_pointer(index)
        try:
            mapped = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{index} has no readable weight_map; fetch the file again") from error
        if strange := [name for name in mapped.values() if not isinstance(name, str) or Path(name).name != name]:
            raise BadInput(f"{index} places tensors in {strange[0]!r}, outside its directory; it is not to be trusted")
        wanted = set(mapped.values())
    else:
        wanted = {file.name for file in path.glob("model*.safetensors")} or {
            file.name for file in path.glob("weights*.safetensors")
        }
    for name in tuple(wanted):
        if part := SHARD.match(name):
            count = int(part["count"])
            wanted |= {f"{part['stem']}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, min(count, 9999) + 1)}
    if not wanted:
        refuse_pickles(path)
        others = sorted(file.name for file in path.glob("*.safetensors"))
        seen = f"; {listing(others)} is not named model*.safetensors" if others else ""
        raise NotFound(f"{path} holds no weights: no model*.safetensors in it{seen}")
    if missing := sorted(name for name in wanted if not (path / name).is_file()):
        raise BadInput(f"{path}: {listing(missing)} of {len(wanted)} weight files missing; fetch the checkpoint again")
    return tuple(path / name for name in sorted(wanted)), mapped


def refuse_pickles(path: Path) -> None:
    """Raise BadInput if the weights in directory `path` are pickled."""
    if found := sorted(file.name for file in path.iterdir() if file.suffix in PICKLES):
        raise BadInput(
            f"{path}: the weights are pickled ({listing(found)}), and reading a pickle runs whatever code is in it; "
            "save them as safetensors first (transformers: model.save_pretrained(directory))"
        )


def refuse_pointer(file: Path) -> None:
    """Raise BadInput if `file` is a Git LFS pointer and not the content it stands for."""
    with file.open("rb") as stream:
        if stream.read(len(LFS_MARK)) == LFS_MARK:
            raise BadInput(f"{file} is a Git LFS pointer, not the file itself; run `git lfs pull` in its directory")


def read_header(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one safetensors file, in the order of their bytes.

    Raises:
        BadInput: a Git LFS pointer, too short, not JSON, or offsets, types and shapes that disagree with one
            another or with the length of the file.
    """
    refuse_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            what = "is truncated" if length <= LARGEST_HEADER else "is no safetensors file"
            raise BadInput(f"{file.name} {what}: {size} bytes, and its header alone would end at {length + 8}")
        if length > LARGEST_HEADER:
            raise BadInput(f"{file.name} has a header of {length} bytes, more than the format allows")
        text = stream.read(length)
    try:
        header = json.loads(text, object_pairs_hook=refuse_twice)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadInput(f"{file.name} has an unreadable header ({error}); fetch the file again") from error
    if not isinstance(header, dict):
        raise BadInput(f"{file.name} has an unreadable header (not a table); fetch the file again")
    header.pop("__metadata__", None)
    base = 8 + length
    tensors = [read_entry(file, name, entry, base) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    check_cover(file, tensors, base, size)
    return {tensor.name: tensor for tensor in tensors}


def refuse_twice(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Build a table from JSON pairs; a key that comes twice is an error, since readers differ on which holds."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name comes twice")
    return table


def read_entry(file: Path, name: str, entry: Any, base: int) -> Tensor:
    """Return one entry of a header as a Tensor; `base` is where the data begin, in bytes.

    Raises:
        BadInput: an unknown type, a shape that is none, or offsets that do not hold the shape.
    """
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = all(type(value) is int and value >= 0 for value in (*shape, start, end)) and start <= end
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file.name}: {name} lacks a type, a shape or offsets") from error
    if not sound:
        raise BadInput(f"{file.name}: {name} has a shape or offsets that are no counts")
    if dtype not in BITS:
        raise BadInput(f"{file.name}: {name} has the type {dtype!r}, which MLX cannot read")
    if math.prod(shape) * BITS[dtype] != (end - start) * 8:
        raise BadInput(f"{file.name}: {name} of shape {list(shape)} and type {dtype} cannot fill {end - start} bytes")
    return Tensor(name, dtype, shape, file, base + start, base + end)


def check_cover(file: Path, tensors: Sequence[Tensor], base: int, size: int) -> None:
    """Raise BadInput unless the tensors fill the bytes from `base` to `size` without gap or overlap."""
    at = base
    for tensor in tensors:
        if tensor.start != at:
            what = "overlaps its neighbour" if tensor.start < at else "leaves a gap before it"
            raise BadInput(f"{file.name}: {tensor.name} {what}; the header is inconsistent")
        at = tensor.end
    if at > size:
        raise BadInput(f"{file.name} is truncated: {size} of {at} bytes are there; fetch the file again")
    if at < size:
        raise BadInput(f"{file.name} has {size - at} bytes that no tensor claims; the header is inconsistent")


def check_parameters(path: Path, wanted: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> None:
    """Raise BadInput unless the weights are exactly the parameters of the network, by name and shape.

    Args:
        path: the checkpoint, for the message.
        wanted: shape of each parameter of the network that config.json describes.
        given: shape of each tensor of the checkpoint, under the network's names.
    """
    faults = []
    if missing := sorted(wanted.keys() - given.keys()):
        faults.append(f"lacks {listing(missing)}")
    if extra := sorted(given.keys() - wanted.keys()):
        faults.append(f"holds {listing(extra)} that the network does not have")
    both = sorted(wanted.keys() & given.keys())
    if wrong := [name for name in both if tuple(wanted[name]) != tuple(given[name])]:
        name = wrong[0]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        faults.append(f"has {name} as {list(given[name])} where config.json means {list(wanted[name])}{more}")
    if faults:
        raise BadInput(
            f"{path}: the checkpoint {', and '.join(faults)}; config.json and weights do not belong together"
        )


def listing(names: Iterable[str], show: int = 3) -> str:
    """Return the first names of a list and how many more there are, for a message.

    Example:
        >>> listing(["a", "b", "c", "d"], show=2)
        'a, b and 2 more'
    """
    names = list(names)
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return ", ".join(names[:show]) + more
