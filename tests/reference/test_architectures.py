"""Checkpoints that transformers 5 saved, against the logits transformers computes (tests/golden/make_architectures.py)."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx

from mlxrag.errors import BadInput
from mlxrag.model.convert import convert
from mlxrag.model.network import assemble
from mlxrag.model.proof import compare, logits_once, prove, read_reference, watched
from mlxrag.settings import Quantizing

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "architectures.npz"
# What mlx-lm computes otherwise: another formula for activation or rope (close), or something else (differs).
CLOSE = {"starcoder2": "hidden_act", "gpt-neox": "hidden_act", "gpt-oss": "truncate"}
DIFFERS = {"llama-gelu": "hidden_act"}
EXACT_UP_TO = {
    "mistral-window": 8,
    "ministral": 8,
    "gemma2": 8,
    "gemma3-short": 64,
    "llama-longrope": 64,
    "phi3-longrope": 64,
}


@cache
def golden() -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        for key in arrays.files:
            name, _, rest = key.partition("/")
            found[name][rest] = arrays[key]
    return dict(found)


def write(name: str, path: Path) -> Path:
    """Write a checkpoint of the golden file as transformers saved it."""
    case = golden()[name]
    path.mkdir()
    (path / "config.json").write_bytes(case["config"].tobytes())
    weights = {key[2:]: mx.array(a.astype(np.float32) / 32) for key, a in case.items() if key.startswith("w/")}
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    np.savez(path / "reference.npz", ids=case["ids"], logits=case["logits"])
    return path


@pytest.mark.parametrize("name", sorted(golden()))
def test_every_architecture_computes_what_transformers_computes_or_says_that_it_does_not(
    name: str, tmp_path: Path
) -> None:
    """Logits are within 1e-3 of transformers', or the verdict names the key that mlx-lm does not read."""
    path = write(name, tmp_path / name)
    with watched() as read:
        found = assemble(path)
    proof = prove(found, read, read_reference(path))
    wanted = "close" if name in CLOSE else "differs" if name in DIFFERS else "proven"
    assert proof.status == wanted or (name in CLOSE and proof.status == "proven"), proof.sentence()
    assert proof.exact_up_to == EXACT_UP_TO.get(name)
    told = CLOSE.get(name) or DIFFERS.get(name)
    if told:
        assert any(told in key for key in proof.unread)
    elif name not in EXACT_UP_TO:
        assert proof.unread == () and proof.dropped == ()


@pytest.mark.parametrize(
    "name",
    [
        "olmo",
        "glm",
        "gpt-neox",
        "gpt2",
        "exaone4",
        "llama-yarn-attention",
        "phi3-longrope",
        "falcon-h1",
        "minimax-m2",
        "qwen3.5-moe",
    ],
)
def test_a_converted_directory_is_right_for_mlx_lm_itself(name: str, tmp_path: Path) -> None:
    """mlx_lm's own loader computes the reference's logits from what was written, though not from the checkpoint."""
    from mlx_lm.utils import load_model

    path = write(name, tmp_path / name)
    out = tmp_path / "out"
    convert(str(path), out=out, quantizing=Quantizing(accept_difference=True))
    network, _ = load_model(out)
    reference = read_reference(path)
    mine = logits_once(network, reference.ids)
    limit = 2e-3 if name in CLOSE else 1e-3
    assert compare(reference.logits, mine).max_difference <= limit


@pytest.mark.parametrize("name", sorted(DIFFERS))
def test_a_network_that_mlx_lm_cannot_compute_is_refused(name: str, tmp_path: Path) -> None:
    """The refusal says which key is not read, and leaves nothing behind."""
    path = write(name, tmp_path / name)
    with pytest.raises(BadInput, match=f"{DIFFERS[name]}.*--accept-difference"):
        convert(str(path), out=tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "home") == [name]


def test_the_six_given_checkpoints_are_proven(shared_data: Path, tmp_path: Path) -> None:
    """Each of tiny-hf converts with a difference of at most 1e-3 and 16 equal greedy tokens, by mlx_lm's loader too."""
    from mlx_lm.utils import load_model

    paths = sorted((shared_data / "tiny-hf").iterdir())
    assert len(paths) == 6
    for path in paths:
        made = convert(str(path), out=tmp_path / path.name)
        assert made.proof.status == "proven" and made.proof.greedy == 16, path.name
        network, _ = load_model(tmp_path / path.name)
        reference = read_reference(path)
        assert compare(reference.logits, logits_once(network, reference.ids)).max_difference <= 1e-3
        config = json.loads((tmp_path / path.name / "config.json").read_text())
        assert config["rope_theta"] == (1e6 if path.name == "gemma3_text" else 1e4)
