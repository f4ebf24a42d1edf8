"""The most bytes that MLX holds at once while it does the operations of a graph, found by doing them without arrays.

Strategy: keep account of buffers as MLX does: which operations only look at a buffer in another way, which write over an
input that nobody needs any more, which copy an input first because of how it lies in memory, and when a buffer goes
back.  The last matters most: `mx.eval` runs ahead of the thread that computes by up to ten tasks, and what these still
read is held.  Nothing here is fitted.  Sources: mlx 0.32, transforms.cpp (MAX_ACTIVE_TASKS), backend/cpu/encoder.h
(DISPATCHES_PER_TASK), backend/metal/device.cpp (operations and MB per command buffer), backend/common and backend/cpu.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from mlxrag.train.graph import Graph, Node, Value

TASKS = 10
SLACK = 16384
"""A buffer may be this much larger than what is written over it."""
SAME = frozenset({"Copy", "StopGradient", "View"})
RESHAPES = frozenset({"Reshape", "Flatten", "Unflatten"})
UPDATES = frozenset({"Scatter", "ScatterAxis", "SliceUpdate", "DynamicSliceUpdate"})
PRODUCTS = frozenset({"Matmul", "AddMM", "QuantizedMatmul", "GatherMM", "GatherQMM"})
FRESH = frozenset({
    "Reduce", "LogSumExp", "Full", "RandomBits", "ArgReduce", "Sort", "ArgSort", "Arange", "NumberOfElements", "Partition",
    "ArgPartition", "Scan", "Gather", "GatherAxis", "Quantize", "Pad", "Concatenate", "RMSNorm", "RoPE", "LayerNorm",
})  # fmt: skip
"""Operations whose result is always a buffer of its own."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far `mx.eval` runs ahead: operations, and bytes of operands, in each of ten tasks."""

    operations: int
    operands: float = math.inf


CPU, GPU = Lag(10), Lag(40, 40 << 20)


@dataclass(slots=True)
class Buffer:
    """Bytes, and how many hold them."""

    size: int
    holders: int = 1


@dataclass(frozen=True, slots=True)
class Array:
    """How an array lies in its buffer; `span` is the number of elements that it covers there."""

    shape: tuple[int, ...]
    item: int
    strides: tuple[int, ...]
    row: bool
    column: bool
    gapless: bool
    span: int
    buffer: Buffer

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


def peak(graph: Graph, loose: Collection[str], lag: Lag) -> tuple[int, int]:
    """Return the bytes before the first operation, and the most at once.

    Args:
        graph: what is done.
        loose: inputs that nobody holds but the graph; they go back with their last use.
        lag: of the device.
    """
    account = _Account(graph, loose, lag)
    before = account.active
    for node in graph.nodes:
        account.do(node)
    return before, account.most


class _Account:
    """The buffers at one moment."""

    def __init__(self, graph: Graph, loose: Collection[str], lag: Lag) -> None:
        self.lag = lag
        self.active = self.most = 0
        self.waiting: deque[list[Buffer]] = deque()
        self.operands = 0
        self.users = Counter(name for node in graph.nodes for name in node.inputs)
        self.users.update(graph.outputs)
        self.users.update(v.name for v in (*graph.inputs, *graph.constants) if v.name not in loose)
        self.arrays = {v.name: self._new(v) for v in (*graph.inputs, *graph.constants)}

    def do(self, node: Node) -> None:
        """Do one operation: results, what it still reads, and what nobody needs any more."""
        given = [self.arrays[name] for name in node.inputs]
        made, copies, kernels = self._results(node, given)
        reads = {id(a.buffer): a.buffer for a in (*given, *made[1:])} | {id(b): b for b in copies}
        reads.pop(id(made[0].buffer), None)
        for _ in range(kernels):
            self._enqueue([])
        self._enqueue(list(reads.values()))
        for buffer in copies:
            self._let_go(buffer)
        for value, array in zip(node.outputs, made, strict=True):
            self.arrays[value.name] = array
            if not self.users[value.name]:
                self._let_go(self.arrays.pop(value.name).buffer)
        self._catch_up()
        for name in node.inputs:
            self.users[name] -= 1
            if not self.users[name]:
                self._let_go(self.arrays.pop(name).buffer)

    def _results(self, node: Node, given: Sequence[Array]) -> tuple[list[Array], list[Buffer], int]:
        """Return results, copies of inputs that lie wrongly, and the number of kernels."""
        kind, values, out = node.kind, node.outputs, node.outputs[0]
        if kind in ("CustomTransforms", "Depends"):
            return [self._look(given[i]) for i in range(len(values))], [], 0
        if kind in PRODUCTS:
            copies = [self._allocate(a.size * a.item) for a in given[:2] if not _readable(a, "Q" in kind)]
            return [self._new(out)], copies, 1 + len(copies) + (kind == "AddMM")
        seen = _seen(node, given)
        if seen is not None:
            return [self._look(a) for a in seen], [], 0
        reusable = self._reusable(node, given)
        if kind in UPDATES:
            free = reusable[0] and given[0].row
            return [self._look(given[0]) if free else self._new(out)], [], 2
        if len(values) > 1 or kind in FRESH or kind in RESHAPES or not given:
            return [self._new(v) for v in values], [], len(given) if kind == "Concatenate" else 1
        if kind == "Softmax" and not (given[0].gapless and given[0].strides[-1] == 1):
            return [self._new(out)], [], 2
        return [self._elementwise(out, given, reusable)], [], 1

    def _elementwise(self, out: Value, given: Sequence[Array], reusable: Sequence[bool]) -> Array:
        """Write over an input where that is allowed, else take a buffer laid out like the largest."""
        if all(a.span == 1 for a in given):
            return replace(given[0], shape=out.shape, item=out.item, buffer=self._allocate(out.item))
        vectors = [i for i, a in enumerate(given) if a.span > 1] or [0]
        like = given[vectors[0]]
        aligned = all(given[i].row for i in vectors) or all(given[i].column for i in vectors)
        if len(given) < 3 and len(vectors) == 1:
            aligned = like.gapless
        if len(given) > 2 and len(vectors) < len(given):
            aligned = False
        for i in vectors:
            if reusable[i] and (aligned or (given[i].row and given[i].size == math.prod(out.shape))):
                return replace(self._look(given[i]), shape=out.shape, item=out.item)
        if aligned:
            return replace(like, shape=out.shape, item=out.item, buffer=self._allocate(like.span * out.item))
        return self._new(out)

    def _reusable(self, node: Node, given: Sequence[Array]) -> list[bool]:
        out = node.outputs[0]
        most = math.prod(out.shape) * out.item + SLACK
        return [
            self.users[name] == 1 and a.buffer.holders == 1 and a.item == out.item and a.buffer.size <= most
            for name, a in zip(node.inputs, given, strict=True)
        ]

    def _new(self, value: Value) -> Array:
        strides = _strides(value.shape)
        row, column = _contiguity(value.shape, strides)
        size = math.prod(value.shape)
        return Array(value.shape, value.item, strides, row, column, True, size, self._allocate(size * value.item))

    def _look(self, array: Array) -> Array:
        array.buffer.holders += 1
        return array

    def _allocate(self, size: int) -> Buffer:
        self.active += size
        self.most = max(self.most, self.active)
        return Buffer(size)

    def _let_go(self, buffer: Buffer) -> None:
        buffer.holders -= 1
        if not buffer.holders:
            self.active -= buffer.size

    def _enqueue(self, reads: list[Buffer]) -> None:
        for buffer in reads:
            buffer.holders += 1
        self.operands += sum(buffer.size for buffer in reads)
        self.waiting.append(reads)

    def _catch_up(self) -> None:
        """Let what waits longest be finished until no more waits than may.

        Where in a task an operation stands differs from step to step; the eleventh task is counted as all but complete.
        """
        operations, operands = (TASKS + 1) * self.lag.operations, (TASKS + 1) * self.lag.operands
        while self.waiting and (len(self.waiting) >= operations or self.operands > operands):
            for buffer in self.waiting.popleft():
                self.operands -= buffer.size
                self._let_go(buffer)


def _seen(node: Node, given: Sequence[Array]) -> list[Array] | None:
    """Return the results of an operation that only looks at its first input in another way; None where it does not."""
    if not given:
        return None
    a, kind, arguments, shape = given[0], node.kind, node.arguments, node.outputs[0].shape
    if kind in SAME or (kind == "Contiguous" and a.row):
        return [replace(a, shape=shape, item=node.outputs[0].item)]
    if kind == "Transpose":
        strides = tuple(a.strides[i] for i in arguments[0])
        row, column = _contiguity(shape, strides) if a.gapless and a.span == a.size else (a.row, a.column)
        return [replace(a, shape=shape, strides=strides, row=row, column=column)]
    if kind in ("Broadcast", "BroadcastAxes"):
        pad = len(shape) - len(a.shape)
        kept = (0 if n == 1 != shape[i + pad] else a.strides[i] for i, n in enumerate(a.shape))
        same = math.prod(shape) == a.size
        return [replace(a, shape=shape, strides=(*[0] * pad, *kept), row=a.row and same, column=a.column and same)]
    if kind == "ExpandDims":
        more = list(a.strides)
        for axis in arguments[0]:
            more.insert(axis, 1)
        return [replace(a, shape=shape, strides=tuple(more))]
    if kind == "Squeeze":
        return [replace(a, shape=shape, strides=tuple(s for i, s in enumerate(a.strides) if i not in arguments[0]))]
    if kind in ("Slice", "Split"):
        steps = arguments[-1] if kind == "Slice" else [1] * len(a.shape)
        return [_part(a, v.shape, tuple(s * t for s, t in zip(a.strides, steps, strict=True))) for v in node.outputs]
    if kind in RESHAPES:
        found = _reshaped(a, shape)
        if found is not None:
            column = math.prod(shape) in (1, max(shape, default=1)) if a.row else a.column
            return [replace(a, shape=shape, strides=found, column=column)]
    return None


def _part(a: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    row, column = _contiguity(shape, strides)
    span = math.prod(n for n, s in zip(shape, strides, strict=True) if s > 0)
    gapless = a.gapless and (span == a.span or row or column)
    return replace(a, shape=shape, strides=strides, row=row, column=column, span=span, gapless=gapless)


def _readable(a: Array, quantized: bool) -> bool:
    """Return whether a matrix product can read an array as it lies."""
    if quantized:
        return a.row
    rows, columns = a.shape[-2:]
    down, right = a.strides[-2:]
    return (down == columns and right == 1) or (down == 1 and right == rows)


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _contiguity(shape: Sequence[int], strides: Sequence[int]) -> tuple[bool, bool]:
    """Return whether elements follow one another by rows, and by columns."""
    row = all(n == 1 or s == math.prod(shape[i + 1 :]) for i, (n, s) in enumerate(zip(shape, strides, strict=True)))
    column = all(n == 1 or s == math.prod(shape[:i]) for i, (n, s) in enumerate(zip(shape, strides, strict=True)))
    return row, column


def _reshaped(a: Array, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return the strides under which a buffer has another shape; None where it must be copied."""
    if a.row or not a.size:
        return _strides(shape)
    lengths: list[int] = []
    strides: list[int] = []
    for n, s in zip(a.shape, a.strides, strict=True):
        if n == 1:
            continue
        if lengths and strides[-1] == s * n:
            lengths[-1] *= n
            strides[-1] = s
        else:
            lengths.append(n)
            strides.append(s)
    found: list[int] = []
    j = 0
    for n in shape:
        if j < len(lengths) and lengths[j] % n == 0:
            lengths[j] //= n
            found.append(lengths[j] * strides[j])
            j += lengths[j] == 1
        elif n == 1 and found:
            found.append(found[-1])
        else:
            return None
    return tuple(found)
