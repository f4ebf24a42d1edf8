"""Memory of converting a model and of quantizing it while it loads, each step in a process of its own.

    python benchmarks/model_memory.py --megabytes 1350

A random float32 llama of that size is written in six files.  Printed are the most bytes MLX held and the most memory
of the process, beside the size of the weights, the largest file and the largest tensor.  Fails unless quantizing on
loading stays below the unquantized size + 15 %, and unquantized conversion below 1.3 x the largest file + the largest
tensor; both by what MLX held, the first by the process too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
FILES = 6


def make(folder: Path, megabytes: int) -> dict[str, int]:
    """Write the model and return the bytes of its weights, its largest file and its largest tensor."""
    import mlxrag.model  # noqa: F401  # isort: skip  # the light stand-in for mlx_lm
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from mlxrag.model.network import build

    hidden, layers = 1024, 12
    per_layer = (2 * hidden * hidden + 2 * hidden * hidden // 4) * 4
    wide = (megabytes * 10**6 - 2 * 12288 * hidden * 4 - layers * per_layer) // (layers * 3 * hidden * 4) // 64 * 64
    if wide < 64:
        raise SystemExit("this shape begins at 300 megabytes")
    config = {
        "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": wide,
        "num_attention_heads": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 12288, "tie_word_embeddings": False,
        "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 1, "rope_theta": 10000.0, "torch_dtype": "float32",
    }  # fmt: skip
    shapes = {name: array.shape for name, array in tree_flatten(build(config).parameters())}
    names = sorted(shapes)
    table, sizes, largest = {}, [], 0
    for part in range(FILES):
        file = f"model-{part + 1:05}-of-{FILES:05}.safetensors"
        weights = {name: mx.random.normal(shapes[name]) * 0.02 for name in names[part::FILES]}
        mx.save_safetensors(str(folder / file), weights, metadata={"format": "pt"})
        table |= dict.fromkeys(weights, file)
        sizes.append(sum(array.nbytes for array in weights.values()))
        largest = max(largest, *(array.nbytes for array in weights.values()))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((ROOT / "models" / "reader" / name).read_bytes())
    return {"weights": sum(sizes), "file": max(sizes), "tensor": largest}


def convert(source: str, workspace: str) -> None:
    """Convert without quantizing."""
    from mlxrag.model.convert import convert as run
    from mlxrag.settings import Quantizing
    from mlxrag.workspace import open_workspace

    run(source, open_workspace(workspace), name="plain", quantizing=Quantizing(dtype="keep"))


def quantized(source: str, workspace: str) -> None:
    """Load with `--q-bits 4`."""
    from mlxrag.model.load import load
    from mlxrag.settings import ModelSettings
    from mlxrag.workspace import open_workspace

    load(source, open_workspace(workspace), settings=ModelSettings(q_bits=4)).close()


STEPS: dict[str, Callable[[str, str], None]] = {
    "convert, unquantized": convert,
    "--q-bits 4 on loading, first time": quantized,
    "--q-bits 4 on loading, second time": quantized,
}


def main() -> None:
    """Make the model, run every step, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1350)
    parser.add_argument("--step", nargs=3, metavar=("NAME", "SOURCE", "WORKSPACE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        import mlxrag.model  # noqa: F401  # isort: skip  # loads MKL before mlx
        import mlx.core as mx

        start = time.perf_counter()
        STEPS[asked.step[0]](*asked.step[1:])
        unit = 1 if sys.platform == "darwin" else 1024
        process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        print(json.dumps([mx.get_peak_memory(), process, time.perf_counter() - start]))
        return
    with tempfile.TemporaryDirectory() as place:
        source, workspace = Path(place, "source"), Path(place, "workspace")
        source.mkdir()
        size = make(source, asked.megabytes)
        print(
            f"weights {size['weights'] / 1e6:.0f} MB, largest file {size['file'] / 1e6:.0f} MB, tensor {size['tensor'] / 1e6:.0f} MB"
        )
        print("\n| | most memory MLX held | most memory of the process | seconds |\n|---|---|---|---|")
        faults = []
        for name in STEPS:
            held, process, seconds = run(name, source, workspace)
            print(f"| {name} | {held / 1e6:.0f} MB | {process / 1e6:.0f} MB | {seconds:.1f} |", flush=True)
            if name.startswith("--q-bits") and max(held, process) > 1.15 * size["weights"]:
                faults.append(name)
            if name.startswith("convert") and held > 1.3 * size["file"] + size["tensor"]:
                faults.append(name)
    if faults:
        raise SystemExit(f"too much memory: {', '.join(faults)}")


def run(name: str, source: Path, workspace: Path) -> Any:
    """Run a step in a process of its own and return bytes held, bytes of the process, seconds."""
    command = [sys.executable, __file__, "--step", name, str(source), str(workspace)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
