"""How fast this machine is, measured once and remembered, and where the model computes.

On unified memory there is nothing to map: arrays are never copied between devices, and "device" means which stream does
the work. `auto` takes the device that was measured to be faster at what decoding does, which is reading weights.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx

from mlxrag.errors import BadInput
from mlxrag.workspace import write_json


@dataclass(frozen=True, slots=True)
class Speed:
    """What one device does.

    Attributes:
        device: `gpu` or `cpu`.
        bandwidth: bytes of weights read per second in a matrix-vector product.
        flops: floating-point operations per second in a large matrix product.
        dtype: what was multiplied.
    """

    device: str
    bandwidth: float
    flops: float
    dtype: str


@dataclass(frozen=True, slots=True)
class Record:
    """The measurement of a machine; good for as long as chip and MLX version stay the same."""

    chip: str
    mlx: str
    speeds: tuple[Speed, ...]

    @property
    def best(self) -> Speed:
        """The device that decodes fastest."""
        return max(self.speeds, key=lambda speed: speed.bandwidth)


def has_gpu() -> bool:
    """Return whether MLX has a GPU here, Metal's or CUDA's."""
    return bool(mx.metal.is_available()) or (hasattr(mx, "cuda") and bool(mx.cuda.is_available()))


def backend() -> str:
    """Return what MLX computes with: Metal, CUDA or CPU."""
    if mx.metal.is_available():
        return "Metal"
    return "CUDA" if has_gpu() else "CPU"


def gpu_name() -> str:
    """Return what the GPU that MLX computes with calls itself; empty where there is none."""
    return str(mx.device_info(mx.gpu).get("device_name", "")) if has_gpu() else ""


def chip() -> str:
    """Return what the processor calls itself."""
    if sys.platform == "darwin":
        import subprocess  # here and below: every start imports this file, few ask for this

        with suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=2, check=True
            )
            return told.stdout.strip()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure(device: str) -> Speed:
    """Time a large product and a matrix-vector product on a device; takes about a second.

    The matrix is larger than caches (64 MB), since weights are; medians of five.
    """
    where = mx.gpu if device == "gpu" else mx.cpu
    dtype = mx.float16 if device == "gpu" else mx.float32
    side = 4096 if device == "gpu" else 1024
    with mx.stream(where):
        square = mx.random.normal((side, side)).astype(dtype)
        wide = mx.random.normal((4096, 4096)).astype(dtype)
        row = mx.random.normal((1, 4096)).astype(dtype)
        mx.eval(square, wide, row)
        product = _median(lambda: mx.eval(square @ square))
        reading = _median(lambda: mx.eval(row @ wide))
    return Speed(device, wide.nbytes / reading, 2 * side**3 / product, str(dtype).rsplit(".", 1)[-1])


def remembered(refresh: bool = False) -> Record:
    """Return this machine's record; measured if it never was, or with another chip, MLX version or set of devices."""
    path = Path.home() / ".mlxrag" / "machine.json"
    from importlib import metadata

    here, version = chip(), metadata.version("mlx")
    devices = ("gpu", "cpu") if has_gpu() else ("cpu",)
    if not refresh:
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(path.read_text())
            record = Record(told["chip"], told["mlx"], tuple(Speed(**speed) for speed in told["speeds"]))
            if (record.chip, record.mlx) == (here, version) and tuple(s.device for s in record.speeds) == devices:
                return record
    record = Record(here, version, tuple(measure(d) for d in devices))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(record))
    return record


def remember_bench(model: str, prefill: float, decode: float) -> None:
    """Write down what `mlxrag bench` measured of a model here, tokens per second, for `choose`."""
    path = Path.home() / ".mlxrag" / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    models = {name: list(speeds) for name, speeds in benched().items()}
    write_json(path, {"chip": chip(), "models": {**models, model: [prefill, decode]}})


def benched() -> dict[str, tuple[float, float]]:
    """Return what was measured of models on this machine: prefill and decoding, tokens per second, by name."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((Path.home() / ".mlxrag" / "bench.json").read_text(encoding="utf-8"))
        if told["chip"] == chip():
            return {name: (float(prefill), float(decode)) for name, (prefill, decode) in told["models"].items()}
    return {}


def why(record: Record) -> str:
    """Return why `auto` takes the device it takes, with the figures that decided."""
    best = record.best
    rest = [s for s in record.speeds if s.device != best.device]
    if not rest:
        return "the only one that MLX has here"
    others = ", ".join(f"{s.bandwidth / 1e9:.0f} on the {s.device}" for s in rest)
    return (
        f"it reads {best.bandwidth / 1e9:.0f} GB of weights a second, against {others}; decoding waits for nothing else"
    )


def place(device: str) -> str:
    """Make `auto`, `gpu` or `cpu` the default device and return which it is.

    Raises:
        BadInput: `gpu` where MLX has none.
    """
    if device == "gpu" and not has_gpu():
        raise BadInput("--device gpu: MLX has no GPU on this machine; leave it out, or use --device cpu")
    chosen = device if device != "auto" else (remembered().best.device if has_gpu() else "cpu")
    mx.set_default_device(mx.gpu if chosen == "gpu" else mx.cpu)
    return chosen


def _median(work: Callable[[], None], times: int = 5) -> float:
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[times // 2]
