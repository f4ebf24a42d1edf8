"""Every kind of bad checkpoint is refused in one sentence, before a weight is read."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxrag.errors import BadInput, MlxragError, NotFound
from mlxrag.model.checkpoint import check_parameters, read_checkpoint, read_header
from mlxrag.model.convert import convert
from mlxrag.model.gguf import read_gguf
from mlxrag.model.network import load_network
from mlxrag.settings import ModelSettings
from tests.toy_model import write_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def header(path: Path) -> tuple[dict, bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def rewrite(path: Path, table: dict, data: bytes) -> None:
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        table, data = header(folder / "model.safetensors")
        change(table)
        rewrite(folder / "model.safetensors", table, data)

    return apply


def set_config(**values: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return apply


def lose_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def lose_indexed_shard(folder: Path) -> None:
    table, _ = header(folder / "model.safetensors")
    names = dict.fromkeys(table, "model.safetensors") | {"extra": "model-9.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def index_lies(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"ghost": "model.safetensors"}}))


def index_escapes(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(count: int) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:count])

    return apply


def append(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"x" * 8)


def first(table: dict) -> dict:
    return next(entry for name, entry in table.items() if name != "__metadata__")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "lfs weights": (lambda d: (d / "model.safetensors").write_text(POINTER), "Git LFS pointer.*git lfs pull"),
    "lfs config": (lambda d: (d / "config.json").write_text(POINTER), "Git LFS pointer"),
    "truncated data": (cut(-100), "truncated"),
    "truncated header": (cut(20), "truncated"),
    "no header": (cut(3), "truncated"),
    "not safetensors": (lambda d: (d / "model.safetensors").write_bytes(b"\x80\x04" * 100), "no safetensors file"),
    "header not json": (lambda d: (d / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"}}}}"), "unreadable header"),
    "extra bytes": (append, "no tensor claims"),
    "wrong size": (edit(lambda t: first(t).update(shape=[1])), "cannot fill"),
    "negative shape": (edit(lambda t: first(t).update(shape=[-1])), "no counts"),
    "unknown type": (edit(lambda t: first(t).update(dtype="F3")), "MLX cannot read"),
    "no offsets": (edit(lambda t: first(t).pop("data_offsets")), "lacks"),
    "shard missing": (lose_shard, "missing; fetch"),
    "indexed shard missing": (lose_indexed_shard, "model-9.safetensors.*missing"),
    "index names a ghost": (index_lies, "ghost that no shard holds"),
    "index escapes": (index_escapes, "outside its directory"),
    "pickled": (pickled, "pickled.*runs whatever code.*safetensors"),
    "own code": (set_config(model_file="evil.py"), "own code.*--trust-remote-code"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "no model_type"),
    "config is not json": (lambda d: (d / "config.json").write_text("{"), "not JSON"),
    "shapes contradict": (set_config(hidden_size=32), "do(es)? not|contradict"),
    "layers missing": (set_config(num_hidden_layers=9), "lacks model.layers"),
    "layers too many": (set_config(num_hidden_layers=1), "does not have"),
    "unknown network": (set_config(model_type="sorcery"), "not one that mlx_lm can run"),
    "path as network": (set_config(model_type="../../x"), "no name of a network"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_checkpoints_are_refused_in_one_sentence(fault: str, tmp_path: Path) -> None:
    """Loading and converting raise BadInput with what is wrong, and conversion leaves nothing behind."""
    folder = write_model(tmp_path / "model")
    spoil, words = BAD[fault]
    spoil(folder)
    with pytest.raises(BadInput, match=words) as caught:
        load_network(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(MlxragError):
        convert(str(folder), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_missing_config_or_weights_are_not_found(tmp_path: Path) -> None:
    """A directory without config.json, and one without weights, are named as such."""
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFound, match="holds no weights"):
        read_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(NotFound, match=r"no config\.json"):
        read_checkpoint(folder)


def test_all_faults_of_a_directory_are_named_at_once(tmp_path: Path) -> None:
    """Two broken shards give one error that names both."""
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    for number in (1, 2):
        (folder / f"model-{number:05d}-of-00002.safetensors").write_text(POINTER)
    with pytest.raises(BadInput) as caught:
        read_checkpoint(folder)
    assert "00001-of" in str(caught.value) and "00002-of" in str(caught.value)


def test_code_is_allowed_only_when_asked_for(tmp_path: Path) -> None:
    """auto_map is refused by convert, and accepted with the flag; the code itself is not run."""
    folder = write_model(tmp_path / "model")
    set_config(auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})(folder)
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BadInput, match=r"modeling_evil.*--trust-remote-code"):
        convert(str(folder), out=tmp_path / "out")
    made = convert(str(folder), out=tmp_path / "out", model=ModelSettings(trust_remote_code=True))
    assert (made.path / "model.safetensors").is_file() and not (made.path / "modeling_evil.py").exists()


def test_a_checkpoint_and_a_network_are_compared_by_name_and_shape() -> None:
    """What is missing, what is too much and what has another shape stand in one sentence."""
    with pytest.raises(BadInput, match=r"lacks a, and holds c.*, and has b as \[2\] where config.json means \[1\]"):
        check_parameters(Path("m"), {"a": (1,), "b": (1,)}, {"b": (2,), "c": (1,)})


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader_of_headers(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """Any bytes are read as tensors or refused with BadInput."""
    file = tmp_path_factory.mktemp("x") / "model.safetensors"
    file.write_bytes(raw)
    with contextlib.suppress(BadInput):
        read_header(file)


def gguf(
    pairs: bytes = b"", n_pairs: int = 0, tensors: bytes = b"", n_tensors: int = 0, data: bytes = b"", version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + pairs + tensors
    return head + b"\0" * (-len(head) % 32) + data


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


GOOD = gguf(
    text("general.architecture") + struct.pack("<I", 8) + text("llama"), 1, entry("w", (32, 2), 0, 0), 1, b"\0" * 256
)
BROKEN: dict[str, tuple[bytes, str]] = {
    "other magic": (b"GGML" + GOOD[4:], "no GGUF file"),
    "old version": (gguf(version=1), "version 1"),
    "too many tensors": (gguf(n_tensors=2**60), "broken"),
    "too many pairs": (gguf(n_pairs=2**63), "broken"),
    "string past the end": (gguf(struct.pack("<Q", 2**40), 1), "broken"),
    "unknown value": (gguf(text("a") + struct.pack("<I", 99), 1, data=b"\0" * 64), "unknown type 99"),
    "endless array": (gguf(text("a") + struct.pack("<IIQ", 9, 4, 2**50), 1, data=b"\0" * 64), "broken"),
    "nested arrays": (gguf(text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 40, 1, data=b"\0" * 999), "broken"),
    "tensor past the end": (gguf(tensors=entry("w", (64, 64), 0, 0), n_tensors=1, data=b"\0" * 64), "truncated or broken"),
    "offset past the end": (gguf(tensors=entry("w", (1,), 0, 2**62), n_tensors=1, data=b"\0" * 64), "truncated or broken"),
    "huge shape": (gguf(tensors=entry("w", (2**63, 2**63), 0, 0), n_tensors=1, data=b"\0" * 64), "truncated or broken"),
    "too many dimensions": (gguf(tensors=text("w") + struct.pack("<I", 4000), n_tensors=1, data=b"\0" * 64), "dimensions"),
    "unknown tensor type": (gguf(tensors=entry("w", (1,), 77, 0), n_tensors=1, data=b"\0" * 64), "type 77"),
    "block not filled": (gguf(tensors=entry("w", (33,), 2, 0), n_tensors=1, data=b"\0" * 64), "Q4_0"),
    "cut": (GOOD[:100], "broken"),
    "pointer": (POINTER.encode(), "Git LFS pointer"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_gguf_headers_are_refused_in_python(fault: str, tmp_path: Path) -> None:
    """mx.load is never handed a GGUF file whose header does not hold; it can crash the process on some."""
    file = tmp_path / "model.gguf"
    raw, words = BROKEN[fault]
    file.write_bytes(raw)
    with pytest.raises(BadInput, match=words):
        convert(str(file), out=tmp_path / "out")


def test_a_sound_gguf_is_read_and_sent_back_to_its_source(tmp_path: Path) -> None:
    """The header of a good file is understood; conversion says what to convert instead."""
    file = tmp_path / "model.gguf"
    file.write_bytes(GOOD)
    found = read_gguf(file)
    assert found.metadata["general.architecture"] == "llama" and found.tensors == {"w": ("F32", (32, 2))}
    with pytest.raises(BadInput, match=r"llama, 1 tensors.*safetensors checkpoint"):
        convert(str(file), out=tmp_path / "out")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_no_changed_byte_crashes_the_reader_of_gguf(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    """A sound file with any one byte changed is read or refused with BadInput."""
    file = tmp_path_factory.mktemp("x") / "model.gguf"
    file.write_bytes(GOOD[:at] + bytes([value]) + GOOD[at + 1 :])
    with contextlib.suppress(BadInput):
        read_gguf(file)


def test_a_reference_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A reference.npz without the arrays is named."""
    folder = write_model(tmp_path / "model")
    np.savez(folder / "reference.npz", other=np.zeros(3))
    with pytest.raises(BadInput, match=r"reference.npz cannot be read"):
        convert(str(folder), out=tmp_path / "out")
