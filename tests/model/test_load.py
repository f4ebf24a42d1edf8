"""A reference becomes a model, or one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput, NotFound
from mlxrag.model.load import load, locate
from mlxrag.settings import ModelSettings
from mlxrag.workspace import create, open_workspace
from tests.toy_model import write_model
from tests.toys import write_adapter


def test_a_directory_is_loaded_and_closed(tmp_path: Path) -> None:
    """Name, context, stop tokens; the memory is given back."""
    path = write_model(tmp_path / "toy", advice={"num_passages": 2, "context": 300})
    with load(path) as model:
        assert (model.name, model.version, model.context) == ("toy", "", 300)
        assert model.tokenizer.eos_ids == {1} and model.advice["num_passages"] == 2
        assert model.network(mx.array([[5, 6]])).shape == (1, 2, model.tokenizer.vocab_size)
    assert model.network is None


def test_generation_config_says_what_ends_an_answer(tmp_path: Path) -> None:
    """It wins over config.json and may list several."""
    path = write_model(tmp_path / "toy")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3]}))
    assert load(path).tokenizer.eos_ids == {1, 2, 3}


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_quantized_weights_are_loaded_as_they_are(bits: int, tmp_path: Path) -> None:
    """The packed layers come back bit by bit, exceptions by path included."""
    path = write_model(tmp_path / "toy", hidden_size=64)
    with load(path) as model:
        network, config = model.network, dict(model.config)
        spared = "model.layers.0.mlp.up_proj"
        table = {"group_size": 32, "bits": bits, spared: {"group_size": 32, "bits": 8}}
        nn.quantize(network, 32, bits, class_predicate=lambda p, m: table.get(p, hasattr(m, "to_quantized")))
        ids = mx.array([[5, 9, 2]])
        expected = network(ids)
        mx.eval(expected)
        other = tmp_path / "quantized"
        other.mkdir()
        mx.save_safetensors(str(other / "model.safetensors"), dict(tree_flatten(network.parameters())))
    (other / "config.json").write_text(json.dumps({**config, "quantization": table}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_text((path / name).read_text())
    with load(other) as again:
        assert again.network.model.layers[0].mlp.up_proj.bits == 8
        assert mx.array_equal(again.network(ids), expected)


def test_half_precision_is_computed_in_float32_on_a_cpu_unless_told_otherwise(tmp_path: Path) -> None:
    """It is 30 to 60 times slower there, and what was changed is said."""
    path = write_model(tmp_path / "toy")
    weights = {k: v.astype(mx.float16) for k, v in mx.load(str(path / "model.safetensors")).items()}
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    with load(path) as model:
        assert model.network.model.norm.weight.dtype == mx.float32 and any("float32" in n for n in model.notes)
    with load(path, settings=ModelSettings(load_dtype="keep")) as model:
        assert model.network.model.norm.weight.dtype == mx.float16


def test_names_of_the_workspace_and_their_versions(tmp_path: Path) -> None:
    """The current version of a name, or the one that is asked for."""
    ws = open_workspace(tmp_path / "ws")
    for seed in (1, 2):
        with create(ws, "models", "toy") as draft:
            write_model(draft.path, seed=seed)
    assert locate("toy", ws)[1:] == ("toy", "v2")
    with load("toy@v1", ws) as one, load("toy", ws) as two:
        assert one.fingerprint != two.fingerprint and one.version == "v1"


def test_equal_weights_have_equal_fingerprints_and_an_adapter_does_not_change_them(tmp_path: Path) -> None:
    """The fingerprint is the base's."""
    path = write_model(tmp_path / "toy")
    with load(path) as a, load(write_model(tmp_path / "copy")) as b, load(write_model(tmp_path / "o", seed=9)) as c:
        assert a.fingerprint == b.fingerprint != c.fingerprint
        folder = write_adapter(tmp_path / "adapter", a.network)
    with load(path, adapter=folder) as adapted:
        assert adapted.adapter == "adapter" and adapted.fingerprint == a_print(path)


def a_print(path: Path) -> str:
    with load(path) as model:
        return model.fingerprint


def test_what_cannot_be_found_is_said_with_the_nearest_name(tmp_path: Path) -> None:
    """No traceback, no request to the network."""
    ws = open_workspace(tmp_path / "ws")
    with create(ws, "models", "handbook-4bit") as draft:
        write_model(draft.path)
    with pytest.raises(NotFound, match="did you mean 'handbook-4bit'"):
        load("handbok-4bit", ws)
    with pytest.raises(NotFound, match=r"no config\.json"):
        load(tmp_path / "ws")
    with pytest.raises(BadInput, match="is a file"):
        load(Path(__file__))


def test_the_hub_without_network_is_one_sentence_that_says_what_to_do() -> None:
    """The real huggingface_hub code, offline."""
    with pytest.raises(NotFound, match="not in the local hub cache and the hub cannot be reached; run `hf download"):
        load("mlx-community/no-such-model-4bit")


def test_a_snapshot_in_the_hub_cache_is_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline first: no request where the cache is whole."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--toy"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = write_model(repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    path, name, _ = locate("org/toy")
    assert path == snapshot and name == "toy"


def break_pointer(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")


def break_length(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def break_shape(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))


def break_type(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_type": "no_such_network"}))


def break_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (break_pointer, "Git LFS pointer"),
        (break_length, "truncated"),
        (break_shape, "do not belong together"),
        (break_type, "not one that mlx_lm can run"),
        (break_weights, "holds no weights"),
    ],
)
def test_a_broken_directory_is_refused_in_one_sentence(harm: object, words: str, tmp_path: Path) -> None:
    """What, where and what to do, before anything is computed."""
    path = write_model(tmp_path / "toy")
    assert callable(harm)
    harm(path)
    with pytest.raises((BadInput, NotFound), match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)
