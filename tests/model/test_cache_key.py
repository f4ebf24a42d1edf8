"""What is kept is bound to every word of what it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlxrag.model.adapter import read_adapter
from mlxrag.model.attach import resident
from mlxrag.model.cache_key import digest_of, store_key
from mlxrag.model.load import Model, load
from mlxrag.settings import Caching, ModelSettings
from tests.toy_model import write_model
from tests.toys import write_adapter


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with load(write_model(tmp_path / "toy")) as model:
        yield model


def test_one_changed_number_anywhere_changes_the_digest() -> None:
    """The least change of any number, an exchange of two, another shape, name or type."""
    w = mx.random.normal((40, 50), key=mx.random.key(0))
    seen = {
        digest_of({"w": w}),
        digest_of({"v": w}),
        digest_of({"w": w.reshape(50, 40)}),
        digest_of({"w": w.astype(mx.float16)}),
    }
    for row, column in ((0, 1), (17, 3), (39, 49)):
        changed = mx.array(w)
        changed[row, column] = changed[row, column] * (1 + 2**-23)
        seen.add(digest_of({"w": changed}))
    swapped = mx.array(w)
    swapped[3, 4], swapped[3, 5] = w[3, 5], w[3, 4]
    seen.add(digest_of({"w": swapped}))
    assert len(seen) == 8 and digest_of({"w": mx.array(w)}) in seen


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16, mx.uint32, mx.uint8, mx.int64])
def test_every_type_of_weight_counts(dtype: mx.Dtype) -> None:
    """Quantized words, halves and bytes."""
    w = mx.arange(30).astype(dtype)
    changed = mx.array(w)
    changed[7] = 99
    assert digest_of({"w": w}) != digest_of({"w": changed})


def test_an_adapter_by_name_has_the_key_that_it_has_in_use(model: Model, tmp_path: Path) -> None:
    """A batch asks for keys of adapters that are not in use; nothing is moved by asking."""
    placed = resident(model.network)
    a = placed.add(write_adapter(tmp_path / "a", model.network, seed=1))
    base, named = store_key(model, Caching()), store_key(model, Caching(), a)
    assert placed.active is None and base != named
    placed.use(a)
    assert store_key(model, Caching()) == named and placed.active == a


def test_one_changed_number_of_an_adapter_is_another_key(model: Model, tmp_path: Path) -> None:
    """Under the same name."""
    placed = resident(model.network)
    adapter = read_adapter(write_adapter(tmp_path / "a", model.network, seed=1))
    placed.add(adapter)
    before = store_key(model, Caching(), adapter.name)
    weights = dict(adapter.weights)
    name = sorted(weights)[-1]
    changed = mx.array(weights[name])
    changed[-1, -1] = changed[-1, -1] + 1e-3
    placed.add(replace(adapter, weights={**weights, name: changed}))
    assert store_key(model, Caching(), adapter.name) != before


def test_another_precision_is_another_key(tmp_path: Path) -> None:
    """The same files, read as other numbers."""
    path = write_model(tmp_path / "toy")
    with load(path) as a, load(path, settings=ModelSettings(load_dtype="float16")) as b:
        assert store_key(a, Caching()) != store_key(b, Caching())
