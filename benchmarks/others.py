"""Benchmarks that write a table of their own -> the common form: engines with their seconds, claims with their targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.interleaved import judged

Table = Mapping[str, Any]
Target = float | tuple[float, float] | None


def adapters(told: Table) -> dict[str, Any]:
    """Read `ab_adapters`."""
    rows = {row["engine"]: row for row in told["rows"]}
    ours, over = rows["ours, one batch"], told["one batch / base batch"]
    return form(
        "8 adapters, one prompt of 128 tokens each, 24 tokens, q30 float32; seconds of the processor",
        rows,
        {
            "against load_adapters in turn": (quotient(rows["mlx_lm, load_adapters in turn"], ours), 2.0),
            "against loading for each": (quotient(rows["mlx_lm, loaded for each"], ours), 2.5),
            "time of one batch over the base's batch": (one(over), (0.0, 1.10)),
        },
    )


def shared_context(told: Table) -> dict[str, Any]:
    """Read `rag_sft`."""
    rows = {row["engine"]: row for row in told["rows"]}
    claims = {"against mlx_lm's step": (quotient(rows["mlx_lm"], rows["ours, both"]), 2.4)}
    if "PEFT on torch" in rows:
        claims["against PEFT's step"] = (quotient(rows["PEFT on torch"], rows["ours, both"]), 1.8)
    return form("a step on 4 questions that share a context of 256 tokens; seconds of the processor", rows, claims)


def epochs(told: Table) -> dict[str, Any]:
    """Read `sft_epochs`."""
    rows = {row["engine"]: row for row in told["rows"]}
    claims = {"second epoch, against mlx_lm": (quotient(rows["mlx_lm"], rows["ours, trunk kept"]), 1.25)}
    return form("a step of the last half of the layers, trunk kept; seconds of the processor", rows, claims)


def retrieval(told: Table) -> dict[str, Any]:
    """Read `retrieval_speed`."""
    rows = {row["engine"]: row for row in told["rows"]}
    ours = rows["mlxrag"]
    claims: dict[str, tuple[dict[str, float], Target]] = {"hybrid, milliseconds": (one(ours["hybrid"]), (0.0, 10.0))}
    if (lance := rows.get("LanceDB, no vector index")) is not None:
        claims["hybrid, against LanceDB without a vector index"] = (one(lance["hybrid"] / ours["hybrid"]), 20.0)
    if (bm25s := rows.get("bm25s")) is not None:
        claims["by words, time over bm25s's"] = (one(ours["lexical"] / bm25s["lexical"]), (0.0, 1.3))
    for name in ("usearch", "faiss HNSW 32, ef 64"):
        if name in rows:
            claims[f"by vectors, against {name}"] = (one(rows[name]["dense"] / ours["dense"]), None)
    engines = {
        name: {f"{kind} ms": one(row[kind]) for kind in ("dense", "lexical", "hybrid") if row[kind] is not None}
        for name, row in rows.items()
    }
    return {**form(f"{told['passages']} passages, 10 of them found", {}, claims), "engines": engines}


def embedding(told: Table) -> dict[str, Any]:
    """Read `embed`."""
    rows = {row["engine"]: row for row in told["rows"]}
    ours = rows["by token budget, 1024"]
    claims: dict[str, tuple[dict[str, float], Target]] = {
        "against batches of 32 as they come": (quotient(rows["fixed, 32 as they come"], ours), 1.5)
    }
    if (peer := rows.get("sentence-transformers, sorted, 32")) is not None:
        claims["against sentence-transformers, which sorts"] = (quotient(peer, ours), None)
    return form(f"{told['texts']} passages of the samples, all-MiniLM-L6-v2; seconds of the processor", rows, claims)


READ: dict[str, Callable[[Table], dict[str, Any]]] = {
    "ab_adapters": adapters,
    "rag_sft": shared_context,
    "sft_epochs": epochs,
    "retrieval_speed_10k": retrieval,
    "retrieval_speed_100k": retrieval,
    "embed": embedding,
}


def form(
    workload: str, rows: Mapping[str, Table], claims: Mapping[str, tuple[dict[str, float], Target]]
) -> dict[str, Any]:
    """Return the common form of a table whose rows have seconds, low and high."""
    return {
        "workload": workload,
        "engines": {
            name: {"seconds": {"median": row["seconds"], "low": row["low"], "high": row["high"]}} for name, row in rows.items()
        },
        "claims": {claim: judged(ratio, target) for claim, (ratio, target) in claims.items()},
    }  # fmt: skip


def quotient(slow: Table, quick: Table) -> dict[str, float]:
    """Return how many times quicker: of the medians, and at the worst and at the best."""
    return {
        "ratio": slow["seconds"] / quick["seconds"],
        "low": slow["low"] / quick["high"],
        "high": slow["high"] / quick["low"],
    }


def one(value: float) -> dict[str, float]:
    """Return a figure that was told without its rounds."""
    return {"ratio": value, "low": value, "high": value, "median": value}
