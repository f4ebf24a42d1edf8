"""Quantizing on disk and on the way, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx
from mlx_lm.utils import load_model

from mlxrag.errors import BadInput
from mlxrag.model import quick
from mlxrag.model.calibrate import Calibration, pieces
from mlxrag.model.load import load
from mlxrag.model.network import assemble
from mlxrag.model.quantize import bits_per_weight, parameters, quantize_network
from mlxrag.model.recipe import parse
from mlxrag.model.tokenizer import load_tokenizer
from mlxrag.model.write import write_model
from mlxrag.settings import ModelSettings, Quantizing
from mlxrag.workspace import Workspace, artefacts, open_workspace
from tests.toy_model import write_model as write_toy


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy", num_hidden_layers=2)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "ws")


def test_bits_per_weight_count_everything(toy: Path) -> None:
    """4 bits in groups of 32 with two float32 numbers per group are 6, and norms stay as they are."""
    found = assemble(toy)
    count = parameters(found.network)
    quantize_network(found.network, parse("4-g32"))
    assert parameters(found.network) == count
    norms = 5 * 64  # two per layer and the last
    assert bits_per_weight(found.network) == pytest.approx((6 * (count - norms) + 32 * norms) / count)


@pytest.mark.parametrize(
    ("word", "words"),
    [("4-g128", "groups of 128"), ("awq-4-g32", "needs texts"), ("awq-4-g64", "needs texts")],
)
def test_recipes_that_do_not_fit_are_refused(word: str, words: str, toy: Path) -> None:
    """No divisible layer, or no texts for a calibrated recipe."""
    with pytest.raises(BadInput, match=words):
        quantize_network(assemble(toy).network, parse(word))


def test_calibrated_methods_say_which_layer_does_not_divide(tmp_path: Path) -> None:
    """gptq names the layer whose inputs are no multiple of the group."""
    toy = write_toy(tmp_path / "toy", intermediate_size=80)
    texts = Calibration(((1, 2, 3),), Quantizing(), "llama")
    with pytest.raises(BadInput, match=r"gptq needs every layer.*down_proj has 80"):
        quantize_network(assemble(toy).network, parse("gptq-4-g64"), texts)


def test_awq_names_the_networks_it_knows(tmp_path: Path) -> None:
    """Another architecture is refused with those mlx_lm's awq was written for."""
    toy = write_toy(tmp_path / "toy", intermediate_size=128)
    with pytest.raises(BadInput, match=r"awq does not know sorcery.*llama"):
        quantize_network(assemble(toy).network, parse("awq-4-g64"), Calibration(((1, 2, 3),), Quantizing(), "sorcery"))


def test_a_quantized_model_is_not_quantized_again(toy: Path, tmp_path: Path) -> None:
    """Rounding twice is refused."""
    out = tmp_path / "out"
    out.mkdir()
    write_model(assemble(toy), toy, out, recipe=parse("8-g32"))
    with pytest.raises(BadInput, match="quantized already"):
        quantize_network(assemble(out).network, parse("4-g32"))


@pytest.mark.parametrize("word", ["8-g32", "4-g32", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("arch", ["llama", "mixtral"])
def test_a_dequantized_model_holds_the_same_rounded_numbers(word: str, arch: str, tmp_path: Path) -> None:
    """It is of one type, mlx_lm opens it, and it computes what the quantized one computes, experts included."""
    more = {"model_type": arch, "num_local_experts": 2, "num_experts_per_tok": 1} if arch == "mixtral" else {}
    toy = write_toy(tmp_path / "toy", num_hidden_layers=1, **more)
    (small, plain) = (tmp_path / "small", tmp_path / "plain")
    small.mkdir()
    plain.mkdir()
    write_model(assemble(toy), toy, small, recipe=parse(word))
    written = write_model(assemble(small), small, plain, dequantize=True)
    assert written.dtype == "float32" and written.bits_per_weight == 32 and written.quantization is None
    ids = mx.array([[1, 20, 30, 40]])
    theirs, config = load_model(plain)
    assert "quantization" not in config
    assert mx.allclose(theirs(ids), assemble(small).network(ids), atol=1e-4)
    with pytest.raises(BadInput, match="nothing to dequantize"):
        write_model(assemble(plain), plain, tmp_path / "none", dequantize=True)


@pytest.mark.parametrize("word", ["gptq-4-g32", "dwq-4-g32"])
def test_a_calibrated_recipe_leaves_the_type_of_the_model(word: str, tmp_path: Path) -> None:
    """Calibration computes in float32 on a CPU; what is written is as small as a plain recipe's."""
    toy = write_toy(tmp_path / "toy", num_hidden_layers=1)
    half, out = tmp_path / "half", tmp_path / "out"
    half.mkdir()
    out.mkdir()
    write_model(assemble(toy), toy, half, dtype=mx.float16)
    rows = tuple(tuple(range(6 + i, 30 + i)) for i in range(10))
    texts = Calibration(rows, Quantizing(dwq_batch=2), "llama")
    written = write_model(assemble(half), half, out, recipe=parse(word), calibration=texts)
    assert written.dtype == "float16" and written.bits_per_weight < 6


def test_pieces_are_of_one_length_and_spread_over_all_texts(toy: Path) -> None:
    """Texts are cut into equal pieces from beginning to end; too little text is refused."""
    tokenizer = load_tokenizer(toy)
    found = pieces(
        tokenizer, ["The ox trailer carries 80 kg. " * 30, "She said hello to the little bird. " * 30], 4, 16
    )
    assert len(found) == 4 and {len(row) for row in found} == {16}
    assert "bird" in tokenizer.decode(found[-1]) and "trailer" in tokenizer.decode(found[0])
    with pytest.raises(BadInput, match="one piece needs 999"):
        pieces(tokenizer, ["short"], 4, 999)


def test_the_second_load_finds_what_the_first_quantized(
    toy: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`q_bits` quantizes once, keeps the result under a name that says so, and loads it the next time."""
    settings = ModelSettings(q_bits=4, q_group_size=32)
    with load(toy, ws, settings=settings) as model:
        first = model.network(mx.array([[1, 20, 30]]))
        mx.eval(first)
    kept = artefacts(ws, "models")
    assert [a.name for a in kept] == ["toy-4-g32"] and kept[0].manifest["recipe"] == "4-g32"
    monkeypatch.setattr(quick, "write_model", None)  # it must not be written again
    with load(toy, ws, settings=settings) as model:
        assert model.path == kept[0].path
        assert mx.array_equal(model.network(mx.array([[1, 20, 30]])), first)


def test_other_weights_under_the_same_path_are_quantized_anew(tmp_path: Path, ws: Workspace) -> None:
    """The fingerprint notices that the files have changed."""
    settings = ModelSettings(q_bits=4, q_group_size=32)
    load(write_toy(tmp_path / "toy", seed=0), ws, settings=settings).close()
    load(write_toy(tmp_path / "toy", seed=1), ws, settings=settings).close()
    assert len(artefacts(ws, "models", "toy-4-g32")) == 2


def test_without_a_workspace_it_is_quantized_in_memory(toy: Path, ws: Workspace) -> None:
    """The numbers are the same as those that are kept on disk."""
    settings = ModelSettings(q_bits=4, q_group_size=32)
    ids = mx.array([[1, 20, 30]])
    with load(toy, settings=settings) as loose, load(toy, ws, settings=settings) as kept:
        assert mx.array_equal(loose.network(ids), kept.network(ids))


def test_the_unquantized_model_is_never_whole_in_memory(tmp_path: Path, ws: Workspace) -> None:
    """The peak of quantizing on the way stays below the unquantized size, which one layer is a fifth of."""
    toy = write_toy(tmp_path / "toy", hidden_size=256, intermediate_size=1024, num_hidden_layers=10, head_dim=64)
    whole = sum(file.stat().st_size for file in toy.glob("*.safetensors"))
    path, _, _ = quick.quantized(toy, "toy", "", parse("4-g64"), ws)
    peak = artefacts(ws, "models")[0].manifest["peak_bytes"]
    assert peak < 0.3 * whole
    assert path.is_dir()
