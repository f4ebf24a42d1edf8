"""Versions of models: in place from the hub cache, settings of their own, clean-up, and swapping while running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx

from mlxrag.errors import BadInput, Damaged, Mismatch, MlxragError, NotFound
from mlxrag.model.convert import convert
from mlxrag.model.download import intact
from mlxrag.model.keep import configure, find_version, pull, waste
from mlxrag.model.load import Model, load
from mlxrag.model.swap import exchange, moved
from mlxrag.settings import ModelSettings
from mlxrag.workspace import Workspace, artefacts, open_workspace, remove, resolve, sha256_file, use
from tests.toy_model import write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "ws")


def snapshot(folder: Path) -> Path:
    """A hub cache: blobs named by their hash, and a snapshot of links to them."""
    model = write_model(folder / "raw")
    blobs, shot = folder / "blobs", folder / "snapshots" / COMMIT
    blobs.mkdir()
    shot.mkdir(parents=True)
    for file in model.iterdir():
        blob = blobs / sha256_file(file)
        file.rename(blob)
        (shot / file.name).symlink_to(blob)
    return shot


def test_a_pulled_model_is_the_hub_cache_itself(tmp_path: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version holds links, its lineage the commit; it loads, and removing it leaves the cache alone."""
    shot = snapshot(tmp_path / "hub")
    monkeypatch.setattr("mlxrag.model.hub.fetch", lambda ref, **_: shot)
    made = pull("org/tiny@main", ws)
    assert made.name == "tiny" and made.manifest["inputs"] == [f"hub:org/tiny@{COMMIT}"]
    assert (made.path / "model.safetensors").is_symlink()
    load("tiny", ws).close()
    remove(ws, "models", "tiny")
    assert (shot / "model.safetensors").is_file()


def test_a_damaged_blob_is_noticed(tmp_path: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the cache whose content is not what its name says is refused."""
    shot = snapshot(tmp_path / "hub")
    monkeypatch.setattr("mlxrag.model.hub.fetch", lambda ref, **_: shot)
    file = (shot / "tokenizer.json").resolve()
    file.write_bytes(file.read_bytes() + b" ")
    assert not intact(shot / "tokenizer.json") and intact(shot / "config.json")
    with pytest.raises(Damaged, match=r"tokenizer.json in the hub cache"):
        pull("org/tiny", ws)
    assert artefacts(ws, "models") == []


def test_settings_of_its_own_are_a_version_with_the_same_weights(tmp_path: Path, ws: Workspace) -> None:
    """The new version's weights are the same file; its advice is read by load; the old one is as it was."""
    convert(str(write_model(tmp_path / "toy")), ws)
    made = configure("toy", {"temp": "0.3", "context": "100", "stop": "END", "template_args": '{"a": 1}'}, ws)
    assert made.ref == "models/toy@v2" and made.manifest["inputs"] == ["models/toy@v1"]
    first = resolve(ws, "models", "toy@v1").path
    assert (first / "model.safetensors").samefile(made.path / "model.safetensors")
    assert not (first / "mlxrag.json").exists()
    with load("toy@v2", ws) as model:
        assert model.context == 100 and model.advice["temp"] == 0.3 and list(model.advice["stop"]) == ["END"]
        assert model.tokenizer.template_args == {"a": 1}
    third = configure("toy@v2", {"temp": ""}, ws)
    assert "temp" not in json.loads((third.path / "mlxrag.json").read_text())


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [("tmp", "1", "did you mean 'temp'"), ("temp", "hot", "number"), ("context", "0", "number of tokens"),
     ("template_args", "3", "JSON object"), ("iters", "5", "no setting 'iters'")],
)  # fmt: skip
def test_settings_are_checked(key: str, text: str, words: str, tmp_path: Path, ws: Workspace) -> None:
    """Unknown keys name the nearest; values keep to the limits of the setting."""
    convert(str(write_model(tmp_path / "toy")), ws)
    with pytest.raises(BadInput, match=words):
        configure("toy", {key: text}, ws)
    assert len(artefacts(ws, "models", "toy")) == 1


def test_what_something_was_made_from_is_not_removed_by_mistake(tmp_path: Path, ws: Workspace) -> None:
    """remove refuses and says what depends on it; forced, it goes."""
    convert(str(write_model(tmp_path / "toy")), ws)
    configure("toy", {"temp": "0.3"}, ws)
    with pytest.raises(Mismatch, match="toy@v2 was made from"):
        remove(ws, "models", "toy@v1")
    remove(ws, "models", "toy@v1", force=True)
    with pytest.raises(NotFound, match="mlxrag model list"):
        find_version(ws, "toy@v1")


def test_a_clean_up_knows_what_can_go(tmp_path: Path, ws: Workspace) -> None:
    """What is quantized on the way can be made again; old versions go only when asked for; used ones never."""
    toy = write_model(tmp_path / "toy")
    load(toy, ws, settings=ModelSettings(q_bits=4, q_group_size=32)).close()
    convert(str(toy), ws)
    convert(str(toy), ws)
    (ws.root / "models" / "toy" / ".draft-999999999-1").mkdir()
    assert sorted(one.what for one in waste(ws)) == ["quantized on the way", "unfinished"]
    use(ws, "models", "toy@v1")
    found = [one for one in waste(ws, old=True) if one.what == "superseded"]
    assert [one.ref for one in found] == ["models/toy@v2"] and found[0].nbytes > 100_000
    configure("toy@v2", {"temp": "0.5"}, ws)
    assert all(one.ref != "models/toy@v2" for one in waste(ws, old=True))


def logits(model: Model) -> Any:
    return model.network(mx.array([[1, 20, 30]]))


def test_a_running_model_follows_its_name(tmp_path: Path, ws: Workspace) -> None:
    """After `use`, the same object computes what the new version computes; rolling back is the same."""
    convert(str(write_model(tmp_path / "a", seed=0)), ws, name="toy")
    with load("toy", ws) as model:
        first = logits(model)
        mx.eval(first)
        assert moved(model, ws) is None
        convert(str(write_model(tmp_path / "b", seed=1)), ws, name="toy")
        use(ws, "models", "toy@v2")
        assert moved(model, ws) == "toy@v2"
        exchange(model, "toy@v2", ws)
        assert model.version == "v2" and not mx.array_equal(logits(model), first)
        use(ws, "models", "toy@v1")
        ref = moved(model, ws)
        assert ref == "toy@v1"
        exchange(model, ref, ws)
        assert mx.array_equal(logits(model), first)


def test_a_model_quantized_on_the_way_follows_its_name_too(tmp_path: Path, ws: Workspace) -> None:
    """What it was asked for by is what counts; the new version is quantized likewise, and the old one comes back whole."""
    for seed in (0, 1):
        convert(str(write_model(tmp_path / f"toy{seed}", seed=seed)), ws, name="toy")
    use(ws, "models", "toy@v1")
    settings = ModelSettings(q_bits=4, q_group_size=32)
    with load("toy", ws, settings=settings) as model:
        first = logits(model)
        mx.eval(first)
        assert moved(model, ws) is None
        use(ws, "models", "toy@v2")
        assert moved(model, ws) == "toy@v2"
        with pytest.raises(NotFound):
            exchange(model, "none@v1", ws, settings=settings)
        assert mx.array_equal(logits(model), first) and moved(model, ws) == "toy@v2"
        exchange(model, "toy@v2", ws, settings=settings)
        assert model.name == "toy-4-g32" and moved(model, ws) is None and not mx.array_equal(logits(model), first)


def test_a_pinned_version_stays(tmp_path: Path, ws: Workspace) -> None:
    """Whoever asked for a version is not moved to another."""
    convert(str(write_model(tmp_path / "a")), ws, name="toy")
    with load("toy@v1", ws) as model:
        convert(str(write_model(tmp_path / "b", seed=1)), ws, name="toy")
        use(ws, "models", "toy@v2")
        assert moved(model, ws) is None


def test_the_old_model_is_gone_before_the_new_one_comes_and_back_if_it_fails(tmp_path: Path, ws: Workspace) -> None:
    """Unload before load; a new one that fails leaves the old one in place, and the error is raised."""
    convert(str(write_model(tmp_path / "a")), ws, name="toy")
    order = []

    def opener(ref: Any, *rest: Any, **options: Any) -> Model:
        order.append((str(ref), model.network is None))
        if str(ref) == "broken":
            raise NotFound("no model 'broken'")
        return load(ref, *rest, **options)

    model = load("toy", ws)
    first = logits(model)
    mx.eval(first)
    with pytest.raises(MlxragError, match="broken"):
        exchange(model, "broken", ws, opener=opener)
    assert order == [("broken", True), (str(model.path), True)]
    assert model.ref == "toy" and model.version == "v1" and mx.array_equal(logits(model), first)
    model.close()
