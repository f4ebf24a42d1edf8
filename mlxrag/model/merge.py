"""Weighted merges of several adapters of one base: linear, TIES, DARE; a function each.

A merge works on the changes `s·A·B` of each layer.  The linear one is exact: the ranks are put side by side.  The other
two change single entries of the product, which has no low rank any more; its best approximation of the wanted rank is
kept (Eckart and Young), and how much of it that is, is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlxrag.errors import BadInput, Mismatch
from mlxrag.model.adapter import CONFIG, WEIGHTS, Adapter
from mlxrag.workspace import write_json

IN_BLOCK = re.compile(r"(.*?\.\d+)\.(.+)")
Merge = Callable[[Sequence[mx.array], Sequence[float], float, int], mx.array]


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge made: its rank, and the least share of a layer's change (by squares) that this rank keeps."""

    rank: int
    kept: float


def linear(changes: Sequence[mx.array], weights: Sequence[float], density: float = 1.0, seed: int = 0) -> mx.array:
    """Return the weighted sum of changes, `(in, out)` each."""
    return mx.stack([w * c for w, c in zip(weights, changes, strict=True)]).sum(0)


def ties(changes: Sequence[mx.array], weights: Sequence[float], density: float, seed: int = 0) -> mx.array:
    """Return the TIES merge: trim each change to its largest entries, elect a sign for every entry, mean those that agree.

    Args:
        changes: `(in, out)` each.
        weights: one for each.
        density: share of entries of each change that is kept, 0 to 1.
        seed: not used.

    Source: Yadav et al., arXiv:2306.01708, algorithm 1; weights as in PEFT's `ties`.
    """
    kept = mx.stack([w * _largest(c, density) for w, c in zip(weights, changes, strict=True)])
    sign = mx.sign(kept.sum(0))
    agrees = (mx.sign(kept) == sign) & (kept != 0)
    return mx.where(agrees, kept, 0).sum(0) / mx.maximum(agrees.sum(0), 1)


def dare(changes: Sequence[mx.array], weights: Sequence[float], density: float, seed: int = 0) -> mx.array:
    """Return the DARE merge: drop entries at random, scale up the rest, and sum with weights.

    Args:
        changes: `(in, out)` each.
        weights: one for each.
        density: share of entries that is kept, above 0.
        seed: of what is dropped.

    Source: Yu et al., arXiv:2311.03099, equations 1 to 3.
    """
    keys = mx.random.split(mx.random.key(seed), len(changes))
    kept = [c * mx.random.bernoulli(density, c.shape, key=k) / density for c, k in zip(changes, keys, strict=True)]
    return linear(kept, weights)


MERGES: dict[str, Merge] = {"linear": linear, "ties": ties, "dare": dare}


def merge_adapters(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    target: Path,
    *,
    method: str = "linear",
    density: float = 0.5,
    rank: int = 0,
    seed: int = 0,
) -> Merged:
    """Write a merge of adapters as a new adapter.

    Args:
        adapters: lora adapters of one base.
        weights: one for each.
        target: directory; made if it is not there.
        method: a name of `MERGES`.
        density: see `ties` and `dare`.
        rank: of the new adapter; 0 is the largest of theirs (ties, dare), or the sum of theirs (linear, exact).
        seed: of `dare`.

    Raises:
        Mismatch: they belong to different bases. BadInput: one is no lora adapter, or there are not as many weights.
    """
    if len(adapters) != len(weights):
        raise BadInput(f"{len(adapters)} adapters and {len(weights)} weights; give one weight for each")
    for adapter in adapters:
        if adapter.kind != "lora":
            raise BadInput(f"adapter {adapter.name!r} is of kind {adapter.kind}; only lora adapters are merged")
    bases = {a.base for a in adapters if a.base}
    if len(bases) > 1:
        said = ", ".join(f"{a.name} on {a.base_name or a.base}" for a in adapters)
        raise Mismatch(f"the adapters belong to different bases: {said}")
    paths = dict.fromkeys(path for adapter in adapters for path in adapter.modules)
    exact = method == "linear" and not rank
    size = rank or (sum(a.rank for a in adapters) if exact else max(a.rank for a in adapters))
    made: dict[str, mx.array] = {}
    kept = 1.0
    for path in paths:
        pairs = [a.modules.get(path) for a in adapters]
        shape = next((p["lora_a"].shape[0], p["lora_b"].shape[-1]) for p in pairs if p is not None)
        if any(p is not None and p["lora_a"].ndim != 2 for p in pairs):
            raise BadInput(f"{path}: experts are not merged")
        if exact:
            made[f"{path}.lora_a"], made[f"{path}.lora_b"] = _side_by_side(adapters, weights, path, shape, size)
            continue
        changes = [
            mx.zeros(shape) if p is None else a.scale * (p["lora_a"] @ p["lora_b"])
            for a, p in zip(adapters, pairs, strict=True)
        ]
        low, high, share = _low_rank(MERGES[method](changes, weights, density, seed), size)
        made[f"{path}.lora_a"], made[f"{path}.lora_b"] = low, high
        kept = min(kept, share)
    _fill(made)
    first = adapters[0]
    layers = -1 if any(a.num_layers <= 0 for a in adapters) else max(a.num_layers for a in adapters)
    keys = (
        None
        if any(a.keys is None for a in adapters)
        else list(dict.fromkeys(k for a in adapters for k in a.keys or ()))
    )
    lora = {"rank": size, "scale": 1.0, "dropout": 0.0, **({} if keys is None else {"keys": keys})}
    target.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(target / WEIGHTS), made, {"format": "mlx"})
    write_json(
        target / CONFIG,
        {
            "fine_tune_type": "lora",
            "num_layers": layers,
            "lora_parameters": lora,
            "model": first.base_name,
            "base": {"name": first.base_name, "fingerprint": next(iter(bases), "")},
            "merge": {
                "method": method,
                "density": density,
                "of": {a.name: w for a, w in zip(adapters, weights, strict=True)},
            },
        },
    )
    return Merged(size, kept)


def _side_by_side(
    adapters: Sequence[Adapter], weights: Sequence[float], path: str, shape: tuple[int, int], rank: int
) -> tuple[mx.array, mx.array]:
    """Return `lora_a` and `lora_b` whose product is the weighted sum of theirs, of rank `rank`."""
    downs, ups = [], []
    for adapter, weight in zip(adapters, weights, strict=True):
        given = adapter.modules.get(path)
        if given is not None:
            downs.append(given["lora_a"])
            ups.append(given["lora_b"] * (weight * adapter.scale))
    have = sum(d.shape[1] for d in downs)
    downs.append(mx.zeros((shape[0], rank - have)))
    ups.append(mx.zeros((rank - have, shape[1])))
    return mx.concatenate(downs, axis=1), mx.concatenate(ups, axis=0)


def _fill(made: dict[str, mx.array]) -> None:
    """Add zeros where one adapter changes a layer in some blocks and another adapter changes more blocks."""
    names = {m[2]: key for key in made if (m := IN_BLOCK.fullmatch(key))}
    blocks = {m[1] for key in made if (m := IN_BLOCK.fullmatch(key))}
    for block in blocks:
        for name, example in names.items():
            if f"{block}.{name}" not in made:
                made[f"{block}.{name}"] = mx.zeros_like(made[example])


def _low_rank(change: mx.array, rank: int) -> tuple[mx.array, mx.array, float]:
    """Return the best factors `(in, rank)`, `(rank, out)` of a change, and the share of its squares they keep."""
    u, s, v = mx.linalg.svd(change.astype(mx.float32), stream=mx.cpu)
    rank_here = min(rank, s.shape[0])
    root = mx.sqrt(s[:rank_here])
    low, high = u[:, :rank_here] * root, root[:, None] * v[:rank_here]
    pad = rank - rank_here
    share = ((s[:rank_here] ** 2).sum() / mx.maximum((s**2).sum(), 1e-12)).item()
    assert isinstance(share, float)
    return mx.pad(low, [(0, 0), (0, pad)]), mx.pad(high, [(0, pad), (0, 0)]), share if s[0].item() else 1.0


def _largest(change: mx.array, density: float) -> mx.array:
    """Keep the largest share of a change's entries by magnitude."""
    count = max(1, round(density * change.size))
    least = mx.sort(mx.abs(change).reshape(-1))[-count]
    return mx.where(mx.abs(change) >= least, change, 0)
