"""What every quantizer keeps to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlxrag.model.calibrate import Calibration
from mlxrag.model.network import assemble, load_network
from mlxrag.model.quantize import QUANTIZERS, bits_per_weight, leaves, quantize_network, unpack
from mlxrag.model.recipe import Recipe, parse
from mlxrag.model.write import write_model
from mlxrag.settings import Quantizing
from tests.toy_model import write_model as write_toy

RECIPES: dict[str, str] = {"plain": "4-g32", "mixed": "mixed_3_6-g32", "awq": "awq-4-g32", "gptq": "gptq-4-g32", "dwq": "dwq-3-g32",
                           "dynamic": "dynamic-3-to-6-g32@4"}  # fmt: skip
MODES = ("2-g32", "3-g32", "5-g32", "6-g32", "8-g64", "mxfp4", "nvfp4", "mxfp8")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model", "llama", num_hidden_layers=2)


def texts(recipe: Recipe) -> Calibration | None:
    rows = np.random.default_rng(0).integers(6, 300, size=(10, 24)).tolist()
    return Calibration(tuple(map(tuple, rows)), Quantizing(dwq_batch=2), "llama") if recipe.calibrated else None


def test_every_slot_has_a_case() -> None:
    """A quantizer that is added is tested here."""
    assert set(RECIPES) == set(QUANTIZERS)


@pytest.mark.parametrize("word", [*RECIPES.values(), *MODES])
def test_what_is_written_is_what_was_quantized_and_mlx_lm_opens_it(word: str, toy: Path, tmp_path: Path) -> None:
    """The directory loads by our loader and by mlx_lm's, with equal logits, smaller than before, and nothing is printed."""
    from mlx_lm.utils import load_model

    recipe = parse(word)
    found = assemble(toy)
    before = bits_per_weight(found.network)
    written = write_model(found, toy, tmp_path, recipe=recipe, calibration=texts(recipe))
    assert written.bits_per_weight < before / 2
    ids = mx.array([[1, 20, 30, 40]])
    ours, config, _ = load_network(tmp_path)
    theirs, _ = load_model(tmp_path)
    assert mx.array_equal(ours(ids), theirs(ids))
    assert config["quantization"]["group_size"] and config["quantization"]["bits"]
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == config["quantization"]


@pytest.mark.parametrize("word", RECIPES.values())
def test_quantizers_are_deterministic(word: str, toy: Path) -> None:
    """The same network, recipe and texts give the same weights."""
    recipe = parse(word)
    made = []
    for _ in range(2):
        found = assemble(toy)
        quantize_network(found.network, recipe, texts(recipe))
        made.append(dict(tree_flatten(found.network.parameters())))
    assert made[0].keys() == made[1].keys()
    assert all(mx.array_equal(array, made[1][name]) for name, array in made[0].items())


@pytest.mark.parametrize("word", ["4-g32", "mxfp4", "nvfp4", "mxfp8"])
def test_unpacking_computes_the_same(word: str, toy: Path) -> None:
    """Plain layers that hold the rounded numbers give the packed ones' logits."""
    ids = mx.array([[1, 20, 30, 40]])
    found = assemble(toy)
    quantize_network(found.network, parse(word))
    packed = found.network(ids)
    unpack(found.network)
    assert not any(hasattr(module, "bits") for _, module in leaves(found.network))
    assert mx.allclose(packed, found.network(ids), atol=1e-4)
