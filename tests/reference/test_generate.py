"""Our tokens and texts are mlx_lm's own, greedy and with a seed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlxrag.model.generate import Request, complete, stream
from mlxrag.model.load import Model, load
from mlxrag.model.lookup import DraftModel
from mlxrag.settings import Caching, Sampling
from tests.toy_model import write_model

PROMPT = "Every employee has 28 days of paid leave. The ox trailer costs 1,290 euro. How many days?"
SAMPLINGS: list[dict[str, Any]] = [
    {"temp": 0.8},
    {"temp": 1.0, "top_p": 0.9},
    {"temp": 0.7, "min_p": 0.05, "top_k": 20},
    {"temp": 1.2, "min_p": 0.02, "min_tokens_to_keep": 3},
    {"temp": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.02},
]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3_text", "mamba"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, Any, Any]]:
    path = write_model(tmp_path_factory.mktemp("toy") / request.param, request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlx_lm.utils import load as theirs

        network, tokenizer = theirs(str(path))
    with load(path) as model:
        yield model, network, tokenizer


def theirs_stream(network: Any, tokenizer: Any, ids: list[int], **more: Any) -> tuple[list[int], str]:
    from mlx_lm.generate import stream_generate

    found = list(stream_generate(network, tokenizer, ids, **more))
    return [r.token for r in found], "".join(r.text for r in found)


def ours(model: Model, ids: list[int], sampling: Sampling, **more: Any) -> tuple[list[int], str]:
    found = list(stream(model, ids, sampling, skip_special_tokens=False, **more))
    return [p.token for p in found], "".join(p.text for p in found)


def test_greedy(pair: tuple[Model, Any, Any]) -> None:
    """Token for token and letter for letter."""
    model, network, tokenizer = pair
    ids = model.tokenizer.prompt([{"role": "user", "content": PROMPT}])
    assert ids == tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True)
    assert ours(model, ids, Sampling(max_tokens=40)) == theirs_stream(network, tokenizer, ids, max_tokens=40)


@pytest.mark.parametrize("knobs", SAMPLINGS, ids=str)
def test_seeded_sampling(pair: tuple[Model, Any, Any], knobs: dict[str, Any]) -> None:
    """A seed gives what `mlx_lm.generate --seed` gives."""
    from mlx_lm.sample_utils import make_sampler

    model, network, tokenizer = pair
    ids = model.tokenizer.encode_prompt(PROMPT)
    special = tokenizer.encode("\n") + list(tokenizer.eos_token_ids) if "xtc_probability" in knobs else []
    mx.random.seed(11)
    sampler = make_sampler(**knobs, xtc_special_tokens=special)
    expected = theirs_stream(network, tokenizer, ids, max_tokens=30, sampler=sampler)
    assert ours(model, ids, Sampling(max_tokens=30, seed=11, **knobs)) == expected


def test_repetition_penalty(pair: tuple[Model, Any, Any]) -> None:
    """With mlx_lm's look-back of 20 tokens."""
    from mlx_lm.sample_utils import make_logits_processors

    model, network, tokenizer = pair
    ids = model.tokenizer.encode_prompt(PROMPT)
    processors = make_logits_processors(repetition_penalty=1.3)
    expected = theirs_stream(network, tokenizer, ids, max_tokens=40, logits_processors=processors)
    assert ours(model, ids, Sampling(max_tokens=40, repetition_penalty=1.3)) == expected


def test_a_window_and_quantized_keys_and_values(tmp_path: Path) -> None:
    """max_kv_size and kv_bits as in mlx_lm."""
    path = write_model(tmp_path / "toy", head_dim=32)
    from mlx_lm.utils import load as theirs

    network, tokenizer = theirs(str(path))
    with load(path) as model:
        ids = model.tokenizer.encode_prompt(PROMPT * 3)
        for knobs in ({"max_kv_size": 48}, {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 10}):
            expected = theirs_stream(network, tokenizer, ids, max_tokens=40, **knobs)
            assert ours(model, ids, Sampling(max_tokens=40), caching=Caching(**knobs)) == expected


def test_a_draft_model(tmp_path: Path) -> None:
    """Tokens do not change; more of them come per pass than the draft gets wrong."""
    path, small = write_model(tmp_path / "toy"), write_model(tmp_path / "small", num_hidden_layers=1, seed=0)
    with load(path) as model, load(small) as draft:
        ids = model.tokenizer.encode_prompt(PROMPT)
        plain = ours(model, ids, Sampling(max_tokens=40))
        drafter = DraftModel(draft.network, 4)
        assert ours(model, ids, Sampling(max_tokens=40), drafter=drafter) == plain
        twin = DraftModel(model.network, 4)
        assert ours(model, ids, Sampling(max_tokens=40), drafter=twin) == plain
        assert twin.accepted == twin.drafted > 0


def test_a_prompt_cache_file_of_mlx_lm(tmp_path: Path) -> None:
    """What `mlx_lm cache_prompt` saved goes on here."""
    from mlx_lm.models.cache import make_prompt_cache, save_prompt_cache

    from mlxrag.model.cache_layers import read_cache_file

    with load(write_model(tmp_path / "toy")) as model:
        ids = model.tokenizer.encode_prompt(PROMPT)
        cache = make_prompt_cache(model.network)
        model.network(mx.array(ids[:20])[None], cache=cache)
        save_prompt_cache(str(tmp_path / "c.safetensors"), cache, {"model": "x", "tokenizer_config": json.dumps({})})
        again, facts = read_cache_file(tmp_path / "c.safetensors")
        assert facts["model"] == "x"
        got = [p.token for p in stream(model, ids[20:], Sampling(max_tokens=20), again)]
        assert tuple(got) == complete(model, Request("", tuple(ids), 20)).tokens


def test_tiny_checkpoints_and_the_storyteller(shared_data: Path) -> None:
    """Greedy tokens of transformers' own reference, and of mlx_lm on a trained model."""
    for folder in sorted((shared_data / "tiny-hf").iterdir()):
        import numpy as np

        expected = json.loads((folder / "reference.json").read_text())["greedy"]
        ids = np.load(folder / "reference.npz")["ids"][0].tolist()
        with load(folder) as model:
            got = [p.token for p in stream(model, ids, Sampling(max_tokens=len(expected)))]
        assert got == expected[: len(got)] and len(got) == len(expected), folder.name
