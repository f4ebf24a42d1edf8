"""Several adapters in one batch: each row of a batch uses its own adapter, or none, over one base.

Strategy: the low-rank matrices of all adapters are stacked, `(n, in, rank)` and `(n, rank, out)`, smaller ranks padded
with zeros and the scale folded into the second, and each row takes its own two.  They are copied once for each choice of
rows where that takes no more memory than the stack, and looked up in every product (`mx.gather_mm`) where there are more
rows than adapters.  Entry 0 is zeros, for rows without an adapter.  DoRA is the same product times one stored factor per row and output.  The base may
be quantized.  Knows nothing of caches and sampling: whoever runs the batch says which row uses what.
Source: the idea of gathered low-rank products is Punica's (arXiv:2310.18547) and S-LoRA's (arXiv:2311.03285).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import Mismatch, NotFound, nearest
from mlxrag.memory import ledger
from mlxrag.model.adapter import Adapter
from mlxrag.model.attach import check, dimensions, parent_of, resident, weight_of
from mlxrag.model.generate import Request
from mlxrag.model.load import Model


class Rows:
    """Which adapter each row of the next forward pass uses."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.entries = [0]
        self.index = mx.array(self.entries, mx.uint32)

    def select(self, adapters: Sequence[str | None]) -> None:
        """Say which adapter each row uses, None for the base; one row stands for every row.

        Raises:
            NotFound: a name that was not given to `with_adapters`.
        """
        for name in adapters:
            if name is not None and name not in self.names:
                raise NotFound(f"no adapter {name!r} in this batch{nearest(name, self.names)}")
        self.entries = [0 if name is None else 1 + self.names.index(name) for name in adapters]
        self.index = mx.array(self.entries, mx.uint32)

    def of(self, rows: int) -> mx.array:
        """Return the entry of each of `rows` rows, `(rows,)` uint32.

        Raises:
            Mismatch: another number of rows was selected.
        """
        if self.index.shape[0] == rows:
            return self.index
        if self.index.shape[0] == 1:
            return mx.broadcast_to(self.index, (rows,))
        raise Mismatch(f"adapters were selected for {self.index.shape[0]} rows and the batch has {rows}")


@contextmanager
def with_adapters(network: nn.Module, adapters: Sequence[Adapter]) -> Iterator[Rows]:
    """Let each row of a batch use one of these adapters while the block runs; then the network is as it was.

    Args:
        network: a network, quantized or not; an adapter in use is put aside for the time of the block.
        adapters: lora and dora adapters of any rank, scale and layers, with different names.

    Yields:
        What `select` is called on before each forward pass whose rows are not the same as before.

    Raises:
        Mismatch: an adapter belongs to another base or does not fit, is of kind full, or changes experts or (as dora)
            embeddings, which cannot be chosen per row.
        WontFit: there is no room for the stacked weights.

    Cost: the stacked weights, `adapters + 1` times the largest rank, and at most as much again for the rows' own.

    Example:
        >>> with with_adapters(model.network, [a, b]) as rows:
        ...     rows.select(["a", "b", None])
        ...     logits = model.network(mx.array([[1, 2], [1, 2], [1, 2]]))
    """
    here = resident(network)
    before = here.active
    here.use(None)
    modules = dict(network.named_modules())
    for adapter in adapters:
        _refuse(adapter, modules, here.base, here.base_name)
        check(adapter, modules, network.layers)
    rows = Rows([adapter.name for adapter in adapters])
    given = [adapter.modules for adapter in adapters]
    paths = dict.fromkeys(path for tensors in given for path in tensors)
    old = []
    try:
        for path in paths:
            holder, key = parent_of(network, path)
            old.append((holder, key, holder[key]))
            holder[key] = _stack(modules[path], path, adapters, rows)
        # At most every adapter with zeros for the rest of the largest rank, and a copy for the rows.
        size = 2 * len(adapters) * max((adapter.nbytes for adapter in adapters), default=0)
        helps = "fewer adapters in one batch would help"
        with ledger().reserve("adapters of a batch", "adapter", size, helps=helps):
            yield rows
    finally:
        for holder, key, module in old:
            holder[key] = module
        here.use(before)


def select_adapters(model: Model, requests: Sequence[Request], stack: ExitStack) -> Rows | None:
    """Put the adapters that requests name on the network until the stack closes: one for all, or one per row.

    Returns:
        What says which row uses which; None where all rows use the same.
    """
    wanted = {r.adapter or model.adapter for r in requests}
    if wanted == {model.adapter}:
        return None
    placed = resident(model.network, model.name)
    if len(wanted) == 1:
        before = placed.active
        placed.use(next(iter(wanted)))
        stack.callback(placed.use, before)
        return None
    return stack.enter_context(with_adapters(model.network, [placed[name] for name in sorted(w for w in wanted if w)]))


class RowLinear(nn.Module):
    """A linear layer of the base plus, for each row, the product of that row's adapter."""

    def __init__(
        self, linear: nn.Module, downs: list[mx.array], ups: list[mx.array], factor: mx.array | None, rows: Rows
    ) -> None:
        super().__init__()
        self.linear = linear
        self.__dict__["downs"], self.__dict__["ups"] = downs, ups
        if factor is not None:
            self.factor = factor
        self.__dict__["rows"] = rows

    def __call__(self, x: mx.array) -> mx.array:
        """Map `(rows, length, in)` to `(rows, length, out)`."""
        y = self.linear(x)
        index = self.rows.of(x.shape[0])
        looked_up, a, b = self._matrices()
        wide = x.astype(a.dtype)
        if not looked_up and "factor" not in self and y.dtype == a.dtype:
            return mx.addmm(y, wide @ a, b)
        if looked_up:
            z = mx.gather_mm(mx.gather_mm(wide, a, rhs_indices=index), b, rhs_indices=index)
        else:
            z = wide @ a @ b
        if "factor" not in self:
            return y + z.astype(x.dtype)
        # factor (Wx + z) + bias, written so that a row whose factor is 1 keeps the base's bits.
        more = self.factor[index][:, None] - 1
        plain = y - self.linear.bias if "bias" in self.linear else y
        return y + (z + more * (plain + z)).astype(x.dtype)

    def _matrices(self) -> tuple[bool, mx.array, mx.array]:
        """The matrices of the selected rows, one after the other; or all, to be looked up, where there are more rows."""
        index, held = self.rows.index, self.__dict__
        looked_up = index.shape[0] > len(self.downs)
        if held.get("for") is not (None if looked_up else index) or "a" not in held:
            entries = range(len(self.downs)) if looked_up else self.rows.entries
            held["for"] = None if looked_up else index
            held["a"] = mx.stack([self.downs[i] for i in entries])
            held["b"] = mx.stack([self.ups[i] for i in entries])
        return looked_up, held["a"], held["b"]


class RowEmbedding(nn.Module):
    """An embedding of the base plus, for each row, the product of that row's adapter."""

    def __init__(self, embedding: nn.Module, a: mx.array, b: mx.array, rows: Rows) -> None:
        super().__init__()
        self.embedding = embedding
        self.a, self.b = a, b
        self.__dict__["rows"] = rows

    def __call__(self, x: mx.array) -> mx.array:
        """Map words `(rows, length)` to vectors `(rows, length, dims)`."""
        index = self.rows.of(x.shape[0])
        y = self.embedding(x)
        return y + mx.gather_mm(self.a[index[:, None], x], self.b, rhs_indices=index).astype(y.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """Map vectors `(rows, length, dims)` to scores of words `(rows, length, words)`."""
        index = self.rows.of(x.shape[0])
        z = mx.gather_mm(x.astype(self.a.dtype), self.b.swapaxes(-1, -2), rhs_indices=index)
        z = mx.gather_mm(z, self.a.swapaxes(-1, -2), rhs_indices=index)
        return self.embedding.as_linear(x) + z.astype(x.dtype)


def _refuse(adapter: Adapter, modules: dict[str, nn.Module], base: str, base_name: str) -> None:
    if adapter.base and adapter.base != base:
        raise Mismatch(
            f"adapter {adapter.name!r} was trained on {adapter.base_name or 'a base'} ({adapter.base}), not on "
            f"{base_name or 'this network'} ({base})"
        )
    if adapter.kind == "full":
        raise Mismatch(f"adapter {adapter.name!r} replaces whole weights, which cannot be chosen per row; use it alone")
    for path in adapter.modules:
        module = modules.get(path)
        switch = module is not None and type(module).__name__ in ("SwitchLinear", "QuantizedSwitchLinear")
        embedded = isinstance(module, nn.Embedding | nn.QuantizedEmbedding) and adapter.kind == "dora"
        if switch or embedded:
            what = "experts" if switch else "embeddings as dora"
            raise Mismatch(
                f"adapter {adapter.name!r} changes {what} ({path}), which cannot be chosen per row; use it alone"
            )


def _stack(module: nn.Module, path: str, adapters: Sequence[Adapter], rows: Rows) -> nn.Module:
    """Stack the tensors of one module over all adapters; entry 0, and adapters without that module, are zeros."""
    given = [adapter.modules.get(path) for adapter in adapters]
    rank = max(tensors["lora_b"].shape[0] for tensors in given if tensors is not None)
    out, inp = dimensions(module)
    embedded = isinstance(module, nn.Embedding | nn.QuantizedEmbedding)
    a_shape, b_shape = ((out, rank), (rank, inp)) if embedded else ((inp, rank), (rank, out))
    first, second = [mx.zeros(a_shape)], [mx.zeros(b_shape)]
    factors = [mx.ones((out,))]
    for adapter, tensors in zip(adapters, given, strict=True):
        if tensors is None:
            first.append(first[0])
            second.append(second[0])
            factors.append(factors[0])
            continue
        down, up = tensors["lora_a"], tensors["lora_b"] * adapter.scale
        factor = factors[0]
        if "m" in tensors:
            whole = weight_of(module) + up.T @ down.T
            factor = tensors["m"] / mx.linalg.norm(whole.astype(mx.float32), axis=1)
        pad = rank - down.shape[1]
        first.append(mx.pad(down, [(0, 0), (0, pad)]) if pad else down)
        second.append(mx.pad(up, [(0, pad), (0, 0)]) if pad else up)
        factors.append(factor)
    first, second = ([w.astype(mx.float32) for w in side] for side in (first, second))
    scaled = mx.stack(factors) if any(adapter.kind == "dora" for adapter in adapters) else None
    layer = (
        RowEmbedding(module, mx.stack(first), mx.stack(second), rows)
        if embedded
        else RowLinear(module, first, second, scaled, rows)
    )
    layer.freeze()
    layer.eval()
    return layer
