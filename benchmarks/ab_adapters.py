"""Eight adapters, one prompt each, 24 tokens: one batch, against one adapter after the other.

    MKL_NUM_THREADS=1 python -m benchmarks.ab_adapters

The network of `rag_sft.py`, adapters of rank 8 on every linear layer, prompts of 128 tokens, greedy.  The rivals are
mlx_lm's `load_model` and `load_adapters` for each adapter, and `remove_lora_layers` and `load_adapters` in turn on a
resident base.  The same decoding loop drives all of them.  Fails if a row's tokens differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlxrag.model  # noqa: F401  # loads MKL before mlx

import mlx.core as mx  # isort: skip
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from benchmarks.rag_sft import SHAPE, clock, network
from mlxrag.model.adapter import read_adapter
from mlxrag.model.attach import Adapters, adapter_layers, resident
from mlxrag.model.rows import with_adapters

KEYS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]  # fmt: skip


def decode(net: nn.Module, prompts: mx.array, many: int) -> list[list[int]]:
    """Greedy tokens of a batch of prompts of one length."""
    cache = make_prompt_cache(net)
    token = mx.argmax(net(prompts, cache=cache)[:, -1], -1)
    out = []
    for _ in range(many):
        out.append(token)
        token = mx.argmax(net(token[:, None], cache=cache)[:, -1], -1)
        mx.eval(token)
    return mx.stack(out, 1).tolist()


def write(root: Path, net: nn.Module, many: int) -> list[Path]:
    """The network as a model directory, and adapters beside it."""
    root.joinpath("base").mkdir()
    mx.save_safetensors(
        str(root / "base" / "model.safetensors"), dict(tree_flatten(net.parameters())), {"format": "mlx"}
    )
    (root / "base" / "config.json").write_text(json.dumps(SHAPE))
    modules = dict(net.named_modules())
    paths = []
    for n in range(many):
        folder = root / f"adapter-{n}"
        folder.mkdir()
        mx.random.seed(n + 1)
        weights = {}
        for path, module in modules.items():
            if any(path.endswith(k) for k in KEYS):
                out, inp = module.weight.shape
                weights[f"{path}.lora_a"] = mx.random.normal((inp, 8)) * 0.02
                weights[f"{path}.lora_b"] = mx.random.normal((8, out)) * 0.02
        mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
        lora = {"rank": 8, "scale": 2.0, "dropout": 0.0, "keys": KEYS}
        (folder / "adapter_config.json").write_text(json.dumps({"num_layers": -1, "lora_parameters": lora}))
        paths.append(folder)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.quick:
        SHAPE.update(hidden_size=64, num_hidden_layers=2, intermediate_size=96, head_dim=16, vocab_size=512)
    adapter_layers()
    from mlx_lm.tuner.utils import load_adapters, remove_lora_layers
    from mlx_lm.utils import load_model

    root = Path(tempfile.mkdtemp())
    net = network()
    paths = write(root, net, asked.adapters)
    rng = np.random.default_rng(0)
    prompts = mx.array(rng.integers(3, SHAPE["vocab_size"], (asked.adapters, 128)))
    theirs, _ = load_model(root / "base")
    loaded = [read_adapter(path) for path in paths]

    def reload_each() -> list[list[int]]:
        found = []
        for n, path in enumerate(paths):
            fresh, _ = load_model(root / "base")
            found += decode(load_adapters(fresh, str(path)), prompts[n : n + 1], asked.tokens)
        return found

    def in_turn() -> list[list[int]]:
        found = []
        for n, path in enumerate(paths):
            load_adapters(remove_lora_layers(theirs), str(path))
            found += decode(theirs, prompts[n : n + 1], asked.tokens)
        remove_lora_layers(theirs)
        return found

    swapped = Adapters(net)
    for adapter in loaded:
        swapped.add(adapter)

    def swap() -> list[list[int]]:
        found = []
        for n, adapter in enumerate(loaded):
            swapped.use(adapter.name)
            found += decode(net, prompts[n : n + 1], asked.tokens)
        swapped.use(None)
        return found

    def one_batch() -> list[list[int]]:
        with with_adapters(net, loaded) as rows:
            rows.select([a.name for a in loaded])
            return decode(net, prompts, asked.tokens)

    def base_batch() -> list[list[int]]:
        return decode(net, prompts, asked.tokens)

    engines: dict[str, Callable[[], Any]] = {
        "mlx_lm, loaded for each": reload_each,
        "mlx_lm, load_adapters in turn": in_turn,
        "ours, swapped in turn": swap,
        "ours, one batch": one_batch,
        "base alone, one batch": base_batch,
    }
    resident(net)
    said = {name: go() for name, go in engines.items()}
    for name in list(engines)[:-1]:
        assert said[name] == said["ours, one batch"], name
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(asked.repeats):
        for name, go in engines.items():
            began = clock()
            go()
            times[name].append(clock() - began)
    ours = statistics.median(times["ours, one batch"])
    rows = [
        {"engine": name, "seconds": round(statistics.median(t), 4), "low": round(min(t), 4), "high": round(max(t), 4),
         "one_batch_is_faster": round(statistics.median(t) / ours, 2)}
        for name, t in times.items()
    ]  # fmt: skip
    names = [a.name for a in loaded]
    swaps = []
    for n in range(200):
        began = clock()
        swapped.use(names[n % len(names)])
        swaps.append(clock() - began)
    swapped.use(None)
    for row in rows:
        print(json.dumps(row))
    cost = ours / statistics.median(times["base alone, one batch"])
    more = {"one batch / base batch": round(cost, 3), "swap, milliseconds": round(statistics.median(swaps) * 1e3, 4)}
    print(json.dumps(more))
    if asked.out:
        asked.out.write_text(
            json.dumps({"shape": SHAPE, "load": os.getloadavg(), "rows": rows, **more}, indent=1) + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
