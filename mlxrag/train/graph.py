"""The graph of a function that is never computed: which operations MLX would do, in which order, on arrays of what shape.

MLX is lazy, so a training step of any size can be built without allocating.  `mx.export_function` tells its operations;
their order here is the one in which `mx.eval` does them.  Source: mlx 0.32, transforms.cpp, eval_impl.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

WIDTH = 20
"""Operations that MLX looks at side by side before it goes down one branch (MLX_BFS_MAX_WIDTH)."""
_MARK = 1 << 20
"""Length of an array that stands at the end of the inputs of what recomputes."""


@dataclass(frozen=True, slots=True)
class Value:
    """An array: its name, its shape and the bytes of one element."""

    name: str
    shape: tuple[int, ...]
    item: int


@dataclass(frozen=True, slots=True)
class Node:
    """An operation: MLX's name and arguments of it, the arrays that go in by name, and those that come out."""

    kind: str
    arguments: Sequence[Any]
    inputs: tuple[str, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Operations in the order in which they are done.

    Attributes:
        inputs: what was given.
        constants: what the function found elsewhere.
        outputs: names of the results.
        nodes: the operations.
    """

    inputs: tuple[Value, ...]
    constants: tuple[Value, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]


@dataclass(slots=True)
class _Notes:
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def __call__(self, said: Mapping[str, Any]) -> None:
        if said["type"] != "primitive":
            self.facts[said["type"]] = said
            return
        inputs, outputs = tuple(i[0] for i in said["inputs"]), _values(said["outputs"])
        if said["name"] == "Depends" and said["inputs"][-1][1] == (_MARK,):
            inputs = inputs[len(outputs) : 2 * len(outputs)]
        self.nodes.append(Node(said["name"], said["arguments"], inputs, outputs))


def trace(function: Callable[..., Any], arrays: Sequence[mx.array]) -> Graph:
    """Return the graph of a function of arrays; nothing is computed.

    Args:
        function: takes the arrays, returns arrays.
        arrays: of which only shapes and types are looked at.

    Raises:
        NotImplementedError: MLX cannot tell one of the operations.
    """
    notes = _Notes()
    try:
        with _telling_checkpoints():
            mx.export_function(notes, function, *arrays)
    except (ValueError, RuntimeError) as error:
        if "[export_function]" not in str(error):
            raise
        raise NotImplementedError(str(error)) from error
    constants = tuple(Value(n, tuple(c.shape), c.dtype.size) for n, c in notes.facts["constants"]["constants"])
    outputs = tuple(o[0] for o in notes.facts["outputs"]["outputs"])
    nodes = _apart(notes.nodes)
    return Graph(_values(notes.facts["inputs"]["inputs"]), constants, outputs, tuple(_ordered(nodes, outputs)))


def _values(said: Sequence[tuple[str, Sequence[int], Any]]) -> tuple[Value, ...]:
    return tuple(Value(name, tuple(shape), kind.size) for name, shape, kind in said)


@contextmanager
def _telling_checkpoints() -> Iterator[None]:
    """Let `mx.checkpoint` make the same graph of operations that MLX can tell; its own is one that it cannot."""
    ours: Any = mx
    before = ours.checkpoint
    ours.checkpoint = _checkpoint
    try:
        yield
    finally:
        ours.checkpoint = before


def _checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose value is computed without gradient, and whose gradient from a second computation.

    The last operation holds both: its value is that of its later inputs, its gradient goes to its first ones, whose own
    values are asked for by nobody.  `_Notes` takes these first ones out.
    """

    def call(*given: Any) -> Any:
        flat = tree_flatten(given)
        value = function(*tree_unflatten([(k, mx.stop_gradient(a)) for k, a in flat]))
        values = list(value) if isinstance(value, tuple | list) else [value]
        later = mx.depends([a for _, a in flat], values)
        second = function(*tree_unflatten([(k, a) for (k, _), a in zip(flat, later, strict=True)]))
        seconds = list(second) if isinstance(second, tuple | list) else [second]
        out = mx.depends(seconds, [*values, mx.zeros((_MARK,), mx.bool_)])
        return tuple(out) if isinstance(value, tuple | list) else out[0]

    return call


def _apart(nodes: Sequence[Node]) -> list[Node]:
    """Give each user of a filled array its own: the export merges equal ones, `mx.eval` does not."""
    filled = {node.outputs[0].name: node for node in nodes if node.kind == "Full"}
    uses: Counter[str] = Counter()
    out = []
    for node in nodes:
        inputs = []
        for name in node.inputs:
            if name in filled:
                uses[name] += 1
                if uses[name] > 1:
                    first = filled[name]
                    copy = Value(f"{name}.{uses[name]}", first.outputs[0].shape, first.outputs[0].item)
                    out.append(Node(first.kind, first.arguments, first.inputs, (copy,)))
                    name = copy.name
            inputs.append(name)
        out.append(Node(node.kind, node.arguments, tuple(inputs), node.outputs))
    return out


def _ordered(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """Return the operations as `mx.eval` orders them: from the results breadth first up to a width, then backwards."""
    maker = {value.name: n for n, node in enumerate(nodes) for value in node.outputs}
    root = -1

    def makers(n: int) -> list[int]:
        names = outputs if n == root else nodes[n].inputs
        return [maker[name] for name in names if name in maker]

    degree: Counter[int] = Counter()
    stack = [root]
    while stack:
        for m in makers(stack.pop()):
            if m not in degree:
                stack.append(m)
            degree[m] += 1
    tape, waiting, i, left = [root], list[tuple[int, int]](), 0, len(degree)
    while left and (i < len(tape) or waiting):
        if i < len(tape):
            n, first = tape[i], 0
            i += 1
        else:
            n, first = waiting.pop()
        found = makers(n)
        for j in range(first, len(found)):
            if len(tape) - i >= WIDTH:
                waiting.append((n, j))
                break
            degree[found[j]] -= 1
            if not degree[found[j]]:
                tape.append(found[j])
                left -= 1
    return [nodes[n] for n in reversed(tape) if n != root]
