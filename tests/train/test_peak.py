"""The most that MLX holds is counted on the graph of operations, without doing them."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from mlxrag.train.graph import trace
from mlxrag.train.peak import CPU, Lag, peak

AT_ONCE = Lag(0)
SIDE = 256
WHOLE = SIDE * SIDE * 4


def most(function: Callable[..., mx.array], many: int = 1, lag: Lag = AT_ONCE) -> float:
    """Peak of a function of square arrays, in arrays, the given ones included."""
    graph = trace(lambda *given: [function(*given)], [mx.zeros((SIDE, SIDE)) for _ in range(many)])
    return peak(graph, (), lag)[1] / WHOLE


@pytest.mark.parametrize(
    ("function", "many", "arrays"),
    [
        (lambda a: a.T, 1, 1),
        (lambda a: mx.exp(a), 1, 2),
        (lambda a: mx.exp(mx.sin(a)), 1, 2),
        (lambda a, b: mx.exp(a @ b), 2, 3),
        (lambda a: a.T.reshape(-1), 1, 2),
        (lambda a: (a + 1).reshape(-1), 1, 2),
        (lambda a: mx.broadcast_to(a[:1], (SIDE, SIDE)), 1, 1),
        (lambda a: mx.softmax(a.T, axis=-1), 1, 2),
        (lambda a, b: a[:, : SIDE // 2] @ b[: SIDE // 2], 2, 3.5),
        (lambda a: a.at[0].add(1.0), 1, 2),
    ],
)
def test_views_take_nothing_and_what_nobody_needs_is_written_over(
    function: Callable[..., mx.array], many: int, arrays: float
) -> None:
    """Transposing, cutting and repeating look at the same buffer; a product copies what lies wrongly."""
    assert most(function, many) == pytest.approx(arrays, abs=0.02)


def test_what_waits_is_held() -> None:
    """Two products whose operands would be gone are still there while the computing thread is behind."""

    def chain(a: mx.array) -> mx.array:
        for _ in range(6):
            a = a @ a
        return a

    assert most(chain, lag=AT_ONCE) < most(chain, lag=CPU) == pytest.approx(7)


def test_the_count_is_that_of_mlx() -> None:
    """A function large enough that MLX waits for its own thread: the same bytes, to a hundredth."""

    def long(a: mx.array) -> mx.array:
        for _ in range(120):
            a = mx.softmax(a @ a.T, axis=-1)
        return a

    given = mx.random.normal((SIDE, SIDE))
    mx.eval(given)
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(long(given))
    real = mx.get_peak_memory() - held + WHOLE
    graph = trace(lambda a: [long(a)], [given])
    assert peak(graph, (), AT_ONCE)[1] * 0.99 <= real <= peak(graph, (), CPU)[1] * 1.01


def test_a_checkpoint_is_computed_again_on_the_way_back() -> None:
    """Its operations are there twice, and MLX's own checkpoint is put back."""
    own = mx.checkpoint

    def loss(a: mx.array) -> mx.array:
        return mx.checkpoint(lambda x: mx.sin(x))(a).sum()

    graph = trace(lambda a: [loss(a), mx.grad(loss)(a)], [mx.zeros((4,))])
    kinds = [node.kind for node in graph.nodes]
    assert kinds.count("Sin") == 1 and kinds.count("Cos") == 1 and mx.checkpoint is own
