"""Which model, bits, context and KV precision fit this machine and this goal, and why the others do not.

Memory is predicted before anything is downloaded (`predict.py`), time from the measured bandwidth and arithmetic of
this machine: decoding reads every active weight once per token, prefill multiplies by each once per token. The shares
of the peak that real models reach (70 % and 68 %) are those of llama.cpp's published M1 Pro figures (discussion 4167).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlxrag.errors import BadInput, WontFit
from mlxrag.model.predict import Footprint, cache_bytes, network_bytes, skeleton
from mlxrag.model.sizes import work_bytes
from mlxrag.model.speed import Speed, backend, benched, remembered
from mlxrag.workspace import bundled

Goal = Literal["fastest", "balanced", "best"]
READING_SHARE, ARITHMETIC_SHARE = 0.70, 0.68
CONTEXTS = (16384, 8192, 4096)
PATIENCE = 10.0  # seconds that a person waits for a balanced answer


@dataclass(frozen=True, slots=True)
class Rung:
    """A model of the ladder at some bits.

    Attributes:
        name: family and size.
        bits: of its weights.
        hub: where it is.
        quality: known score in percent, after quantization.
        config: what predicts its memory.
    """

    name: str
    bits: int
    hub: str
    quality: float
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rung on this machine.

    Attributes:
        rung: what it is.
        context: the longest context that fits, in tokens; 0 if none does.
        kv_bits: bits of the KV cache, or None for 16.
        memory: what it would take at that context.
        prefill: tokens per second.
        decode: tokens per second.
        latency: seconds to answer a prompt of `prompt` tokens with `answer` tokens.
        local: whether it is on this machine already.
        measured: prefill and decoding were measured here (`mlxrag bench`), not predicted.
        reason: why it was rejected, or an empty string.
    """

    rung: Rung
    context: int
    kv_bits: int | None
    memory: Footprint
    prefill: float
    decode: float
    latency: float
    local: bool
    measured: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and everything that was looked at, best first."""

    chosen: Candidate
    why: str
    candidates: tuple[Candidate, ...]


def read_ladder(path: Path | None = None) -> list[Rung]:
    """Read the ladder of models.

    Raises:
        BadInput: the file is not as `configs/tiers.toml` is.
    """
    path = path or bundled("configs/tiers.toml")
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
        kept = {int(bits): float(share) for bits, share in told["kept"].items()}
        return [
            Rung(model["name"], int(bits), hub, model["quality"] * kept[int(bits)], model["config"])
            for model in told["model"]
            for bits, hub in model["hub"].items()
        ]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: is no ladder of models ({error}); see configs/tiers.toml") from error


class NothingFits(WontFit):
    """No candidate is admissible; `candidates` say why each of them is not, the smallest first."""

    def __init__(self, text: str, candidates: Sequence[Candidate]) -> None:
        super().__init__(text)
        self.candidates = tuple(candidates)


def weigh(
    rung: Rung, budget: int, speed: Speed, *, prompt: int, answer: int, metal: bool, local: bool,
    known: tuple[float, float] | None = None,
) -> Candidate:  # fmt: skip
    """Predict what a rung takes and how fast it is.

    Args:
        rung: which.
        budget: bytes there are.
        speed: of the device that will compute.
        prompt: tokens of a typical prompt.
        answer: tokens of a typical answer.
        metal: whether attention is Metal's.
        local: whether it is on this machine.
        known: prefill and decoding as measured here, tokens per second; predicted unless given.
    """
    network = skeleton(rung.config, {"bits": rung.bits, "group_size": 64})
    weights = network_bytes(network)
    whole = cache_bytes(network, CONTEXTS[0])
    fitting: tuple[int, int | None, Footprint] | None = None
    need = Footprint(weights, 0, 0)
    for context in (c for c in CONTEXTS if c >= prompt + answer):
        work = work_bytes(rung.config, context, step=512, size=2, metal=metal)
        for kv_bits in (None, 8):
            # 8 bits and a scale and a bias of 16 bits per group of 64, against 16 bits; caches grow with the context
            share = context / CONTEXTS[0] * (1.0 if kv_bits is None else (8 + 32 / 64) / 16)
            need = Footprint(weights, int(whole * share), work)
            if fitting is None and need.peak <= budget:
                fitting = (context, kv_bits, need)
    active = weights * _active_share(rung.config)
    parameters = active * 8 / (rung.bits + 32 / 64)  # a scale and a bias of 16 bits per group of 64
    decode = speed.bandwidth * READING_SHARE / active
    prefill = speed.flops * ARITHMETIC_SHARE / (2 * parameters)
    prefill, decode = known or (prefill, decode)
    latency = prompt / prefill + answer / decode
    context, kv_bits, need = fitting or (0, None, need)
    reason = "" if fitting else f"needs {need.peak / 1e9:.1f} GB of {budget / 1e9:.1f} GB"
    return Candidate(rung, context, kv_bits, need, prefill, decode, latency, local, known is not None, reason)


def choose(
    ladder: Sequence[Rung],
    budget: int,
    speed: Speed,
    *,
    goal: Goal = "balanced",
    max_latency: float | None = None,
    local: frozenset[str] = frozenset(),
    only_local: bool = False,
    prompt: int = 2000,
    answer: int = 100,
    metal: bool = True,
    known: Mapping[str, tuple[float, float]] | None = None,
) -> Choice:
    """Pick the model for a goal.

    `best`: highest quality that fits (and answers within `max_latency`, if given).  `balanced`: highest quality that
    answers within `max_latency`, 10 s unless given.  `fastest`: lowest latency among those that fit.

    Args:
        ladder: models to pick from.
        budget: bytes there are.
        speed: measured speed of the device.
        goal: what counts.
        max_latency: longest time for an answer, in seconds.
        local: hub ids that are on this machine.
        only_local: look at no others.
        prompt: tokens of a typical prompt.
        answer: tokens of a typical answer.
        metal: whether attention is Metal's.
        known: prefill and decoding as measured on this machine, tokens per second, by hub id.

    Raises:
        NothingFits: nothing is admissible; says the nearest.
    """
    limit = max_latency if max_latency is not None else (PATIENCE if goal == "balanced" else None)
    if only_local and not (ladder := [rung for rung in ladder if rung.hub in local]):
        raise WontFit("no model of the ladder is on this machine")
    weighed = []
    for rung in ladder:
        one = weigh(
            rung, budget, speed, prompt=prompt, answer=answer, metal=metal, local=rung.hub in local,
            known=(known or {}).get(rung.hub),
        )  # fmt: skip
        reason = one.reason
        if not reason and limit is not None and one.latency > limit:
            reason = f"would take {one.latency:.1f} s, over {limit:g} s"
        weighed.append(replace(one, reason=reason))
    fit = [one for one in weighed if not one.reason]
    if not fit:
        weighed.sort(key=lambda one: one.memory.peak)
        near = weighed[0]
        raise NothingFits(
            f"no model of the ladder is admissible; the smallest, {near.rung.hub}, {near.reason}; `--goal fastest` or a larger "
            "--max-latency or --memory-budget admits more, and the bundled --model reader needs little of either",
            weighed,
        )
    if goal == "fastest":
        best = min(fit, key=lambda one: (one.latency, -one.rung.quality))
        why = "the fastest that fits"
    else:
        best = max(fit, key=lambda one: (one.rung.quality, -one.latency))
        why = "the best known quality that fits" + (f" and answers within {limit:g} s" if limit is not None else "")
    rest = sorted(weighed, key=lambda one: (bool(one.reason), -one.rung.quality))
    return Choice(best, why, (best, *(one for one in rest if one is not best)))


def _active_share(config: Mapping[str, Any]) -> float:
    """Share of the weights that one token passes: all, or the chosen experts and what is common."""
    experts = config.get("num_experts")
    if not experts:
        return 1.0
    share = config["num_experts_per_tok"] / experts
    mlp = 3 * config["hidden_size"] * config["moe_intermediate_size"] * experts * config["num_hidden_layers"]
    heads = (2 * config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * config["head_dim"]
    rest = config["hidden_size"] * (heads * config["num_hidden_layers"] + 2 * config["vocab_size"])
    return float((mlp * share + rest) / (mlp + rest))


def cached(ladder: Sequence[Rung]) -> frozenset[str]:
    """Return the hub ids of the ladder that are in the hub's cache on this machine, without asking the hub."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return frozenset(r.hub for r in ladder if (cache / f"models--{r.hub.replace('/', '--')}" / "snapshots").is_dir())


def default_model(budget: Callable[[], int], reader: str) -> str:
    """Return the model that answers when none is named: the best balanced one that is here already, or the reader.

    Nothing is downloaded for it.  Takes some milliseconds where the hub's cache holds no model of the ladder.

    Args:
        budget: gives the bytes there are; asked only where there is a choice.
        reader: what to fall back to.
    """
    ladder = read_ladder()
    here = cached(ladder)
    if not here:
        return reader
    try:
        choice = choose(
            ladder,
            budget(),
            remembered().best,
            local=here,
            only_local=True,
            metal=backend() == "Metal",
            known=benched(),
        )
    except WontFit:
        return reader
    return choice.chosen.rung.hub
