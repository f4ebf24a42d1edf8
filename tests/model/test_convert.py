"""Conversion: proof, types, memory, whole or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput
from mlxrag.model import convert as module
from mlxrag.model.convert import convert
from mlxrag.model.halve import choose_dtype, half_fault
from mlxrag.model.load import load
from mlxrag.model.network import assemble, load_network
from mlxrag.model.proof import PROVEN, greedy, logits_once
from mlxrag.model.tensors import write_weights
from mlxrag.settings import ModelSettings, Quantizing
from mlxrag.workspace import Workspace, artefacts, leftovers, lineage, open_workspace, verify
from tests.toy_model import write_model


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "ws")


def add_reference(folder: Path, shift: float = 0.0) -> Path:
    """Write the model's own logits beside it, moved by `shift`."""
    ids = list(range(3, 30))
    network, _, _ = load_network(folder)
    after = greedy(network, ids, 16)
    values = np.array(network(mx.array([ids])))
    values[..., 7] += shift
    np.savez(folder / "reference.npz", ids=np.array([ids]), logits=values)
    (folder / "reference.json").write_text(json.dumps({"greedy": list(after)}))
    return folder


def test_a_version_carries_its_proof_and_where_it_came_from(tmp_path: Path, ws: Workspace) -> None:
    """The manifest has the verdict with its figures, the notes and the source; every file hashes as written."""
    toy = add_reference(write_model(tmp_path / "toy"))
    made = convert(str(toy), ws)
    assert made.artefact is not None and made.artefact.ref == "models/toy@v1"
    manifest = made.artefact.manifest
    assert manifest["proof"]["status"] == "proven" and manifest["proof"]["greedy"] == 16
    assert manifest["proof"]["difference"]["max_difference"] <= PROVEN
    assert manifest["inputs"] == [f"directory:{toy}"] and manifest["companions"]["chat_template"] == "renders"
    verify(made.artefact)
    with load("toy", ws) as model:
        assert model.version == "v1" and model.tokenizer.eos_ids == {1}


def test_without_a_reference_nothing_is_proven(tmp_path: Path, ws: Workspace) -> None:
    """The verdict says so and why."""
    proof = convert(str(write_model(tmp_path / "toy")), ws).proof
    assert proof.status == "not proven" and "reference.npz" in proof.by


def test_a_difference_is_refused_unless_it_is_accepted(tmp_path: Path, ws: Workspace) -> None:
    """Wrong logits stop the conversion, which leaves nothing; the flag keeps the model and the verdict."""
    toy = add_reference(write_model(tmp_path / "toy"), shift=9.0)
    with pytest.raises(BadInput, match="differs: largest difference 9"):
        convert(str(toy), ws)
    assert artefacts(ws, "models") == [] and leftovers(ws) == []
    made = convert(str(toy), ws, quantizing=Quantizing(accept_difference=True))
    assert made.facts["proof"]["status"] == "differs"


def test_what_is_made_of_a_proven_version_says_whose_proof_it_is(tmp_path: Path, ws: Workspace) -> None:
    """A quantized version inherits the verdict, and its own loss is measured against the original."""
    convert(str(add_reference(write_model(tmp_path / "toy"))), ws)
    made = convert("toy", ws, name="small", model=ModelSettings(q_bits=8, q_group_size=32))
    assert made.artefact is not None
    assert made.facts["proof"]["status"] == "proven" and "toy@v1" in made.facts["proof"]["by"]
    assert 0 < made.facts["difference"]["kl_mean"] < 0.01
    assert [a.ref for a in lineage(ws, made.artefact)] == ["models/toy@v1"]


def test_an_existing_directory_is_left_alone(tmp_path: Path) -> None:
    """`--mlx-path` to what exists is refused before anything is read."""
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadInput, match="exists already"):
        convert(str(write_model(tmp_path / "toy")), out=out)
    assert list(out.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, ws: Workspace) -> None:
    """Stopped half-way, neither the workspace nor the directory has anything of it."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    toy = write_model(tmp_path / "toy")
    for place in ({"workspace": ws}, {"out": tmp_path / "out"}):
        with pytest.raises(KeyboardInterrupt):
            convert(str(toy), tell=stop, **place)  # type: ignore[arg-type]
    assert artefacts(ws, "models") == [] and not list(tmp_path.glob("*out*"))
    assert not list(ws.root.glob("models/*/*"))


def test_a_source_that_is_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    """What is written must be what was proven."""
    toy = write_model(tmp_path / "toy", seed=0)
    with pytest.raises(BadInput, match="was changed while"):
        convert(str(toy), out=tmp_path / "out", tell=lambda done, total: write_model(toy, seed=1) and None)
    assert not (tmp_path / "out").exists()


def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path) -> None:
    """Converting four times the memory of its largest tensor takes about one and a half of that tensor."""
    toy = write_model(tmp_path / "toy", hidden_size=256, intermediate_size=1024, num_hidden_layers=8, head_dim=64)
    found = assemble(toy)
    sizes = [array.nbytes for _, array in tree_flatten(found.network.parameters())]
    before = mx.get_active_memory()  # what earlier tests left alive
    made = convert(str(toy), out=tmp_path / "out")
    assert sum(sizes) > 20 * max(sizes)
    assert made.facts["peak_bytes"] - before < 2.1 * max(sizes)


def test_a_pass_with_weights_given_away_gives_the_same_logits(tmp_path: Path) -> None:
    """Reading each weight when it is needed and letting it go changes no number."""
    toy = write_model(tmp_path / "toy")
    network, _, _ = load_network(toy)
    ids = list(range(3, 20))
    assert np.array_equal(np.array(network(mx.array([ids])))[0], logits_once(assemble(toy).network, ids))


def test_the_type_follows_the_chip() -> None:
    """float16 on M1 and M2, the checkpoint's own elsewhere, and what was asked for anywhere."""
    assert choose_dtype("auto", "Apple M1 Pro")[0] == choose_dtype("auto", "Apple M2")[0] == mx.float16
    assert choose_dtype("auto", "Apple M3 Max")[0] is None and choose_dtype("keep", "Apple M1")[0] is None
    assert choose_dtype("bfloat16", "Apple M1")[0] == mx.bfloat16


def test_float16_is_taken_on_an_m1_where_it_is_safe(tmp_path: Path, ws: Workspace) -> None:
    """The weights are float16, the manifest says why, and the loss is small."""
    made = convert(str(write_model(tmp_path / "toy", num_hidden_layers=1)), ws, chip="Apple M1 Pro")
    assert made.facts["dtype"] == "float16" and "no native bfloat16" in made.facts["dtype_reason"]
    assert made.facts["difference"]["kl_mean"] < 1e-4


def overflowing(folder: Path) -> Path:
    """A model with a weight that float16 cannot hold."""
    toy = write_model(folder, num_hidden_layers=1)
    loaded: Any = mx.load(str(toy / "model.safetensors"))
    weights = dict(loaded)
    weights["model.norm.weight"] = mx.full(weights["model.norm.weight"].shape, 1e5)
    mx.eval(weights)
    list(write_weights(toy, weights))
    return toy


def test_float16_that_overflows_falls_back_or_is_refused(tmp_path: Path, ws: Workspace) -> None:
    """`auto` goes back to the checkpoint's own type and says so; asked for by name it is refused."""
    toy = overflowing(tmp_path / "toy")
    made = convert(str(toy), ws, chip="Apple M1")
    assert made.facts["dtype"] == "float32" and "overflows in model.norm.weight" in made.facts["dtype_reason"]
    with pytest.raises(BadInput, match=r"model.norm.weight does not fit into float16.*bfloat16"):
        convert(str(toy), ws, quantizing=Quantizing(dtype="float16"))


def test_an_activation_that_overflows_is_found(tmp_path: Path) -> None:
    """Weights that fit can still give infinite activations; the check runs them."""
    toy = write_model(tmp_path / "toy", num_hidden_layers=1)
    loaded: Any = mx.load(str(toy / "model.safetensors"))
    weights = {name: (array * 3e5 if "up_proj" in name else array) for name, array in dict(loaded).items()}
    mx.eval(weights)
    out = tmp_path / "half"
    out.mkdir()
    (out / "config.json").write_text((toy / "config.json").read_text())
    list(write_weights(out, {name: array.astype(mx.float16) for name, array in weights.items()}))
    fault = half_fault(out, list(range(3, 20)))
    assert fault is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generation_config.json": {"eos_token_id": 9999}}, "stop token 9999 does not exist"),
        ({"config.json": {"vocab_size": 40}}, "contradict|belong together"),
        ({"chat_template.jinja": "{{ raise_exception('no') }}"}, "template|no"),
        ({"chat_template.jinja": "hello"}, "leaves out what the user says"),
        ({"chat_template.jinja": "{% if %}"}, "not valid jinja"),
    ],
)
def test_companions_that_do_not_fit_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A stop token that is none, other vocabulary, or a template that fails: nothing is written."""
    toy = write_model(tmp_path / "toy")
    for name, value in change.items():
        file = toy / name
        if isinstance(value, dict):
            old = json.loads(file.read_text()) if file.is_file() else {}
            file.write_text(json.dumps({**old, **value}))
        else:
            file.write_text(value)
    with pytest.raises(BadInput, match=words):
        convert(str(toy), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_tokenizer_converts_and_says_so(tmp_path: Path) -> None:
    """Bare weights are converted; the facts say that the tokenizer is absent."""
    toy = write_model(tmp_path / "toy")
    (toy / "tokenizer.json").unlink()
    assert convert(str(toy), out=tmp_path / "out").facts["companions"]["tokenizer"] == "absent"


def test_a_hub_snapshot_is_named_by_its_commit(tmp_path: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lineage of a hub model is its id and the commit that was found."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = write_model(tmp_path / commit)
    monkeypatch.setattr("mlxrag.model.hub.fetch", lambda ref, **_: snapshot)
    made = convert("org/tiny", ws, revision="main")
    assert made.artefact is not None and made.artefact.name == "tiny"
    assert made.artefact.manifest["inputs"] == [f"hub:org/tiny@{commit}"]


def test_an_m1_is_asked_for_by_its_name() -> None:
    """The chip's name comes from MLX or the system, never empty where either knows it."""
    assert isinstance(module.this_chip(), str)
