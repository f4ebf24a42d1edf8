"""Files of tensors, written one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx

from mlxrag.errors import BadInput
from mlxrag.model.checkpoint import read_header
from mlxrag.model.tensors import write_weights

TYPES = (mx.float32, mx.float16, mx.bfloat16, mx.int32, mx.int8, mx.uint8, mx.uint32, mx.bool_)


def weights() -> dict[str, mx.array]:
    made = {f"t{i}": (mx.arange(12).reshape(3, 4) % 2).astype(kind) for i, kind in enumerate(TYPES)}
    return {**made, "scalar": mx.array(3.0), "empty": mx.zeros((0, 4)), "turned": mx.arange(12.0).reshape(3, 4).T}


@pytest.mark.parametrize("largest", [10**9, 60])
def test_what_is_written_is_read_back(largest: int, tmp_path: Path) -> None:
    """Every type and shape, in one file or several with an index; the headers are sound, the table is emptied."""
    given = weights()
    done = list(write_weights(tmp_path, given, largest=largest))
    assert given == {} and done[-1] == sum(array.nbytes for array in weights().values())
    found: dict[str, mx.array] = {}
    for file in sorted(tmp_path.glob("model*.safetensors")):
        read_header(file)
        found |= mx.load(str(file))  # type: ignore[arg-type]
    assert found.keys() == weights().keys()
    assert all(
        found[name].dtype == array.dtype and mx.array_equal(found[name], array) for name, array in weights().items()
    )
    assert (tmp_path / "model.safetensors.index.json").is_file() == (largest == 60)


def test_memory_is_one_tensor(tmp_path: Path) -> None:
    """Twenty lazy arrays of a megabyte take little more than one."""
    mx.clear_cache()
    made = {f"w{i}": mx.full((512, 512), float(i)) + 1.0 for i in range(20)}
    mx.reset_peak_memory()
    start = mx.get_active_memory()
    for _ in write_weights(tmp_path, made):
        pass
    assert mx.get_peak_memory() - start < 4 * 512 * 512 * 4


def test_types_without_a_name_are_refused(tmp_path: Path) -> None:
    """complex64 has no place in the format."""
    with pytest.raises(BadInput, match="no place"):
        list(write_weights(tmp_path, {"c": mx.array(1 + 2j)}))
