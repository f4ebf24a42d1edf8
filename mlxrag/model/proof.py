"""Does the network compute what the checkpoint means: its logits against a reference's, on a probe text.

The reference is what lies beside the checkpoint (`reference.npz` with `ids` `(1, n)` and float32 `logits`
`(1, n, vocabulary)`, and `reference.json` with the tokens `greedy` that follow), or is made by transformers and
torch where both are installed.  Without either nothing is proven, and the proof says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mlxrag.errors import BadInput
from mlxrag.model.likelihood import Floats, kl_divergence
from mlxrag.model.network import Assembled
from mlxrag.model.unread import exact_up_to, unread

Status = Literal["proven", "close", "differs", "not proven"]

PROVEN = 1e-3  # largest difference of any logit, where weights and arithmetic are float32 on both sides
CLOSE_KL, CLOSE_TOP1 = 1e-3, 0.98  # nats and share of positions: another activation formula, not another network
GREEDY = 16
AHEAD = 64_000_000  # bytes beyond the largest weights that one pass may take
SMALL = 100_000_000  # bytes in float32 up to which a network is also run step by step, in memory
PROBE = (
    "The sea was calm on the morning of 3 March 1821, and 27 boats left the harbour before sunrise. "
    "What did they bring home? Fish, salt and a letter: »Ne pas ouvrir avant dimanche.« "
    "def total(prices): return sum(p * 1.19 for p in prices)  # 19 % tax"
)


@dataclass(frozen=True)
class Reference:
    """What the checkpoint's own implementation computes: `ids` `(n,)`, `logits` `(n, vocabulary)`, `greedy` tokens."""

    by: str
    ids: tuple[int, ...]
    logits: Floats
    greedy: tuple[int, ...] = ()


@dataclass(frozen=True)
class Difference:
    """How far logits are from others: largest difference, share of equal first choices, KL in nats per token."""

    tokens: int
    max_difference: float
    top1: float
    kl_mean: float
    kl_p99: float


@dataclass(frozen=True)
class Proof:
    """A verdict and what it rests on.

    Attributes:
        status: proven, close, differs, or not proven.
        by: what was compared with; why nothing was, if it is not proven.
        difference: figures of the comparison.
        greedy: how many of the reference's greedy tokens came out the same, in a row from the first.
        greedy_of: how many there were to compare.
        exact_up_to: tokens beyond which mlx-lm computes something else, or None.
        unread: keys of config.json that change the mathematics and that nothing read.
        dropped: tensors of the checkpoint that the network has no use for.
    """

    status: Status
    by: str
    difference: Difference | None = None
    greedy: int = 0
    greedy_of: int = 0
    exact_up_to: int | None = None
    unread: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as a manifest records it."""
        return asdict(self)

    def sentence(self) -> str:
        """Return the verdict in words."""
        if self.difference is None:
            text = f"not proven: {self.by}"
        else:
            d = self.difference
            greedy = f", {self.greedy} of {self.greedy_of} greedy tokens equal" if self.greedy_of else ""
            text = (
                f"{self.status}: largest difference {d.max_difference:.1e} over {d.tokens} tokens, "
                f"top-1 agreement {d.top1:.2f}, KL {d.kl_mean:.1e}{greedy}, against {self.by}"
            )
        if self.exact_up_to:
            text += f"; exact up to {self.exact_up_to} tokens"
        if self.unread:
            text += f"; mlx-lm does not read {', '.join(self.unread)}"
        if self.dropped:
            text += f"; mlx-lm has no place for {self.dropped[0]}" + (
                f" and {len(self.dropped) - 1} more" if len(self.dropped) > 1 else ""
            )
        return text


def prove(found: Assembled, read: Collection[str], reference: Reference | None, why_not: str = "") -> Proof:
    """Compare a network with the reference in float32, one weight in memory at a time.

    Greedy tokens are checked by giving the network the reference's own: the first place where another token is
    likelier is where the two would part.  A small network is also run step by step with its cache.

    Args:
        found: the network; its weights are **given away**.
        read: the names that were looked at while `found` was assembled (`watched`).
        reference: what to compare with, or None; then the network is only traced, and no weight is read.
        why_not: why there is none.

    Raises:
        BadInput: mlx_lm's network cannot run what config.json describes.
    """
    network = found.network
    network.set_dtype(mx.float32)
    small = sum(array.nbytes for _, array in tree_flatten(network.parameters())) <= SMALL
    ids = reference.ids if reference else (0, 1, 2)
    after = reference.greedy if reference else ()
    mine, steps = None, after
    with watched() as more:
        try:
            if reference is None:
                network(mx.array([list(ids)]))
            else:
                steps = greedy(network, ids, len(after)) if small else steps
                mine = logits_once(network, [*ids, *after[:-1]])
        except (IndexError, ValueError, TypeError, KeyError, AttributeError) as error:
            kind = found.written.get("model_type")
            raise BadInput(f"mlx-lm's {kind} network cannot run what config.json describes ({error})") from error
    read = {*read, *more}
    limit = exact_up_to(found.config, read)
    proof = Proof("not proven", why_not, exact_up_to=limit, unread=unread(found.written, read), dropped=found.dropped)
    if reference is None or mine is None:
        return proof
    n = min(len(ids), limit or len(ids))
    difference = compare(reference.logits[:n], mine[:n])
    equal, of = 0, 0
    if after and (limit is None or len(ids) + len(after) <= limit):
        forced = tuple(int(i) for i in mine[len(ids) - 1 :].argmax(-1))
        equal, of = min(agreeing(after, forced), agreeing(after, steps)), len(after)
    status = verdict(difference, equal == of)
    return replace(proof, status=status, by=reference.by, difference=difference, greedy=equal, greedy_of=of)


def verdict(difference: Difference, greedy_equal: bool) -> Status:
    """Return what a comparison in float32 shows."""
    if difference.max_difference <= PROVEN and greedy_equal:
        return "proven"
    if difference.kl_mean <= CLOSE_KL and difference.top1 >= CLOSE_TOP1:
        return "close"
    return "differs"


def compare(reference: Floats, given: Floats) -> Difference:
    """Return how far the logits `given` `(n, v)` are from `reference` `(n, v)`.

    Vocabularies may be padded on one side; the shorter counts.  NaN anywhere makes every figure NaN or 0.
    """
    width = min(reference.shape[-1], given.shape[-1])
    p, q = reference[:, :width].astype(np.float64), given[:, :width].astype(np.float64)
    kl = kl_divergence(p, q)
    return Difference(
        tokens=len(p),
        max_difference=float(np.abs(p - q).max()),
        top1=float((p.argmax(-1) == q.argmax(-1)).mean()),
        kl_mean=float(kl.mean()),
        kl_p99=float(np.quantile(kl, 0.99)),
    )


def logits_once(network: nn.Module, ids: Sequence[int]) -> Floats:
    """Return what `network` gives for `ids`, `(n, v)` float32, and **give its weights away** while doing so.

    The graph is built while the weights are unread; then the network lets go of them, so that each is read when it is
    needed and freed after it was used.  1.35 GB of weights take 130 MB this way.
    """
    largest = max((array.nbytes for _, array in tree_flatten(network.parameters())), default=0)
    out = network(mx.array([list(ids)]))[0].astype(mx.float32)
    network.update(tree_map(lambda _: mx.array([]), network.parameters()))
    # Work is handed out faster than it is done; a limit makes MLX wait instead of allocating ahead.
    cached, held = mx.set_cache_limit(0), mx.set_memory_limit(mx.get_active_memory() + 2 * largest + AHEAD)
    try:
        mx.eval(out)
    finally:
        mx.set_cache_limit(cached)
        mx.set_memory_limit(held)
    return np.array(out)


def greedy(network: nn.Module, ids: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the `count` likeliest next tokens, one after the other, with mlx_lm's own cache."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(network)
    out, tokens = network(mx.array([list(ids)]), cache=cache), []
    for _ in range(count):
        tokens.append(int(mx.argmax(out[0, -1])))
        out = network(mx.array([[tokens[-1]]]), cache=cache)
    return tuple(tokens)


def agreeing(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many leading items are equal."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@contextmanager
def watched() -> Iterator[set[str]]:
    """Note which names of their arguments networks look at while the block runs."""
    from mlx_lm.models.base import BaseModelArgs

    read: set[str] = set()

    def look(self: object, name: str) -> Any:
        read.add(name)
        return object.__getattribute__(self, name)

    BaseModelArgs.__getattribute__ = look
    try:
        yield read
    finally:
        del BaseModelArgs.__getattribute__


def find_reference(path: Path, ids: Sequence[int], nbytes: int, available: int) -> tuple[Reference | None, str]:
    """Return a reference for the checkpoint in `path`, or None and why there is none.

    Args:
        path: the checkpoint.
        ids: the probe, used where the reference has to be computed.
        nbytes: bytes of the weights in float32.
        available: bytes of memory that are free.

    Raises:
        BadInput: reference files lie there and cannot be read.
    """
    if (path / "reference.npz").is_file():
        return read_reference(path), ""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        return None, f"{' and '.join(missing)} not installed, and no reference.npz beside the checkpoint"
    if 1.3 * nbytes > available:
        return None, f"the reference needs {nbytes / 1e9:.1f} GB in float32, and {available / 1e9:.1f} GB are free"
    return compute_reference(path, ids)


def read_reference(path: Path) -> Reference:
    """Read reference.npz and reference.json beside a checkpoint."""
    file = path / "reference.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            ids, values = arrays["ids"], arrays["logits"]
        beside = path / "reference.json"
        after = json.loads(beside.read_text(encoding="utf-8"))["greedy"] if beside.is_file() else []
        return Reference(file.name, tuple(int(i) for i in ids.reshape(-1)), values.reshape(ids.size, -1), tuple(after))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read as ids and logits ({error}); remove it or make it again") from error


def compute_reference(path: Path, ids: Sequence[int]) -> tuple[Reference | None, str]:
    """Let transformers compute logits and greedy tokens in a process of its own, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        job = {"path": str(path.resolve()), "ids": list(ids), "greedy": GREEDY, "out": folder}
        command = [sys.executable, "-m", "mlxrag.model.torch_reference"]
        environment = {**os.environ, "MLXRAG_MKL": "0", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        done = subprocess.run(
            command, input=json.dumps(job), text=True, capture_output=True, env=environment, check=False
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return None, f"transformers could not run it ({lines[-1][:200] if lines else done.returncode})"
        found = read_reference(Path(folder))
        by = json.loads(Path(folder, "by.json").read_text(encoding="utf-8"))
    return replace(found, by=by), ""
