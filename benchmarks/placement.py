"""Whether an encoder can work on the CPU's stream while the thread that began it goes on with a model.

    python -m benchmarks.placement

An encoder of MiniLM's shape with random weights gets 1, 4 and 16 questions of 45 tokens on a stream of its own, by
`mx.async_eval`, with MLX's own operations throughout, as on a Mac.  What counts is the share of the work after which the call returns: until then its thread can give the
model nothing to do.  A call that only hands over would return after a hundredth.  Takes half a minute.
"""

import statistics
import tempfile
import time
from pathlib import Path

import mlxrag.model  # noqa: F401  # isort: skip  # MLX's products on Linux
import mlx.core as mx

from mlxrag.model import elementwise
from mlxrag.model.encode import load_encoder
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder

SHAPE = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
TOKENS = 45


def held(network, count: int) -> tuple[float, float]:
    """Begin one batch; return the seconds until the call returns, and until the batch is there."""
    ids = mx.zeros((count, TOKENS), mx.int32)
    mx.eval(ids)
    start = time.perf_counter()
    with mx.stream(mx.new_stream(mx.cpu)):
        states = network(ids, None)
        built = time.perf_counter()
        mx.async_eval(states)
    returned = time.perf_counter()
    mx.eval(states)
    return returned - built, time.perf_counter() - start - (built - start)


def main() -> None:
    """Print a table."""
    elementwise.without_kernels = lambda x: False  # what stands in for them on Linux computes at once
    with tempfile.TemporaryDirectory() as folder:
        path = write_encoder(Path(folder) / "encoder", **SHAPE, max_position_embeddings=512)
        network = load_encoder(str(path), open_workspace(Path(folder) / "workspace")).hidden.get()
        print("| questions | whole, s | the call holds its thread, s | share |\n|---:|---:|---:|---:|")
        for count in (1, 4, 16):
            held(network, count)
            runs = [held(network, count) for _ in range(9)]
            call, whole = (statistics.median(run[i] for run in runs) for i in (0, 1))
            share = statistics.median(a / b for a, b in runs)
            print(f"| {count} | {whole:.3f} | {call:.3f} | {share:.2f} |")


if __name__ == "__main__":
    main()
