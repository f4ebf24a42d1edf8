"""What a pass over several rows costs against one row: it decides whether checking a draft pays.

Measured once per model, device and version of MLX, and remembered in the workspace.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.model.cache_layers import can_cut, cut_back
from mlxrag.model.load import Model
from mlxrag.model.speed import chip
from mlxrag.workspace import write_json

# Time of one pass over M rows against one row, until measured: a mid-size float32 network on a CPU,
# and 4-bit affine weights on an M1 to M2 GPU, whose kernels take few rows one by one.
TYPICAL: Mapping[int, float] = {1: 1.0, 2: 1.2, 4: 1.9, 8: 2.7, 16: 3.1, 32: 4.4}
TYPICAL_AFFINE_GPU: Mapping[int, float] = {1: 1.0, 2: 1.8, 4: 3.2, 8: 6.0, 16: 6.3, 32: 6.9}
PATIENCE = 1.0  # seconds of measuring after which sizes are measured once only, or not at all


def rows_are_dear(chip: str) -> str:
    """Return what to know of a chip whose GPU takes few rows of 4- and 8-bit affine weights one by one; else nothing.

    Source: `use_qmv_wide` of MLX, backend/metal/quantized.cpp: affine weights take the wide kernel from GPU generation
    15 on (M1 is 13, M2 is 14), mxfp4, nvfp4 and mxfp8 on every generation.
    """
    if not chip.startswith(("Apple M1", "Apple M2")):
        return ""
    return (
        "On this chip several answers at once, and short drafts, gain little with affine weights; with "
        "`mlxrag model quantize MODEL --q-mode mxfp4` they do."
    )


def known_cost(model: Model, folder: Path) -> dict[int, float]:
    """Return the cost of M rows for this model on this machine; measured where it never was.

    Args:
        model: a loaded model.
        folder: where measurements are remembered, in `row-cost.json`.
    """
    from importlib import metadata  # here, since it takes as long to import as all of this package

    path = folder / "row-cost.json"
    here = f"{model.fingerprint} {mx.default_device()} {chip()} mlx {metadata.version('mlx')}"
    table: dict[str, dict[str, float]] = {}
    with suppress(OSError, ValueError):
        table = json.loads(path.read_text(encoding="utf-8"))
    if here not in table:
        table[here] = {str(rows): round(cost, 4) for rows, cost in calibrate(model.network).items()}
        with suppress(OSError):  # a full disk, a workspace of another user: measured again the next time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, table)
    return {int(rows): cost for rows, cost in table[here].items()}


def calibrate(network: nn.Module, context: int = 64, repeats: int = 3) -> dict[int, float]:
    """Measure the time of a pass over 1, 2, 4, ... 32 rows against one row, after some context.

    Cost: about `repeats` times 15 single steps, and not much more than a second: what a slow network leaves no time
    for is taken from the typical table, in proportion to the largest size that was measured.

    Args:
        network: the network.
        context: tokens in the cache before the rows.
        repeats: passes per number of rows; the quickest counts.
    """
    typical = typical_cost(network)
    cache = make_prompt_cache(network)
    network(mx.zeros((1, context), mx.int32), cache=cache)
    mx.eval([c.state for c in cache])
    if not can_cut(cache):
        return typical
    found: dict[int, float] = {}
    start = time.perf_counter()
    for rows in typical:
        times: list[float] = []
        # The first pass of a size builds what the others reuse.
        while len(times) < repeats + 1 and (len(times) < 2 or time.perf_counter() - start < PATIENCE):
            began = time.perf_counter()
            mx.eval(network(mx.zeros((1, rows), mx.int32), cache=cache))
            times.append(time.perf_counter() - began)
            cut_back(cache, rows)
        found[rows] = min(times[1:])
        if time.perf_counter() - start > PATIENCE:
            break
    last = max(found)
    # More rows never take less: where they seem to, the machine was busy with something else before.
    least = {rows: min(seconds for more, seconds in found.items() if more >= rows) for rows in found}
    cost = {rows: seconds / least[1] for rows, seconds in least.items()}
    return cost | {rows: cost[last] * typical[rows] / typical[last] for rows in typical if rows > last}


def typical_cost(network: nn.Module) -> dict[int, float]:
    """Return a table of costs to begin with, for this network on this machine."""
    affine = any(getattr(m, "mode", "") == "affine" and hasattr(m, "bits") for _, m in network.named_modules())
    return dict(TYPICAL_AFFINE_GPU if affine and mx.default_device() != mx.cpu else TYPICAL)
