"""mlx_lm as its README shows it, on a network that we loaded: the same weights, the same memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxrag.model.load import Model, load


def opened(path: Path) -> tuple[Model, Any]:
    """Return a model of ours and mlx_lm's tokenizer for it; neither stops before its length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlx_lm.utils import load_tokenizer

        theirs = load_tokenizer(path)
    theirs.eos_token_ids = set()
    model = load(path)
    model.tokenizer.eos_ids = frozenset()
    return model, theirs


def generate_one(model: Model, prompt: Sequence[int], count: int, **more: Any) -> tuple[tuple[int, ...], float]:
    """Run mlx_lm's generation loop; return the tokens and the seconds to the first."""
    import time

    import mlx.core as mx
    from mlx_lm.generate import generate_step

    began, first, out = time.perf_counter(), 0.0, []
    for token, _ in generate_step(mx.array(list(prompt)), model.network, max_tokens=count, **more):
        first = first or time.perf_counter() - began
        out.append(int(token))
    return tuple(out), first


def batch(
    model: Model, tokenizer: Any, prompts: Sequence[Sequence[int]], count: int, **more: Any
) -> list[tuple[int, ...]]:
    """Run mlx_lm's `batch_generate`."""
    from mlx_lm.generate import batch_generate

    done = batch_generate(
        model.network, tokenizer, [list(p) for p in prompts], max_tokens=count, return_token_ids=True, **more
    )
    return [tuple(tokens) for tokens in done.token_ids]
