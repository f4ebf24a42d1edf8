"""`mlxrag doctor`: what this machine is, what `auto` chose, and what would be faster."""

from __future__ import annotations

from typing import Any

import click

from mlxrag.cli import show


@click.command()
@click.option("--refresh", is_flag=True, help="Measure the machine again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def doctor(refresh: bool, as_json: bool) -> None:
    """Say what this machine is and what would be faster."""
    import platform
    import sys
    from importlib import metadata

    from mlxrag import device, pressure, settings
    from mlxrag import machine as book
    from mlxrag.model import pace, speed

    if refresh:
        pace.forget()
    with show.err().status("measuring the machine"):
        record = speed.remembered(refresh)
    machine, reading = book.this_machine(), pressure.read()
    budget = book.budget(machine, settings.read().memory)
    chosen, why = record.best.device, speed.why(record)
    told: dict[str, Any] = {
        "chip": record.chip,
        "system": f"{platform.system()} {platform.mac_ver()[0] or platform.release()}",
        "python": platform.python_version(),
        "mlx": record.mlx,
        "mlx_lm": metadata.version("mlx-lm"),
        "backend": speed.backend(),
        "gpu": speed.gpu_name(),
        "gpu_memory": machine.gpu,
        "memory": machine.total,
        "available": machine.available,
        "working_set": machine.working_set,
        "budget": budget,
        "pressure": reading.level.name.lower(),
        "swap": reading.swap,
        "thermal": reading.thermal,
        "power": _power(),
        "speeds": [
            {"device": s.device, "GB/s": round(s.bandwidth / 1e9, 1), "GFLOP/s": round(s.flops / 1e9), "dtype": s.dtype}
            for s in record.speeds
        ],
        "auto": chosen,
        "why": why,
        "at_once": {key: found["size"] for key, found in pace.remembered().items()},
        "advice": [],
    }
    advice = told["advice"]
    if sys.platform == "linux" and platform.machine() == "x86_64" and not device.MKL and speed.backend() == "CPU":
        advice.append("MKL was not loaded: float32 matrix products are 20 to 90 times slower without `pip install mkl`")
    if speed.backend() == "CPU":
        advice.append(
            "no GPU: take float32 models here, half precision and quantized weights are 30 to 60 times slower"
        )
    if "M1" in record.chip or "M2" in record.chip:
        advice.append("no bfloat16 in this chip: convert with --dtype float16, 14 to 34 % faster as others report")
    if reading.level is not pressure.Level.CALM:
        advice.append("memory is tight: close other programs, or give a smaller --memory-budget")
    if told["power"] is not None and not told["power"]["plugged"]:
        advice.append("on battery: measurements made now are lower than on mains")

    def draw() -> None:
        rows = [
            ["chip", record.chip],
            ["system", told["system"]],
            ["versions", f"Python {told['python']}, mlx {told['mlx']}, mlx-lm {told['mlx_lm']}"],
            ["MLX computes with", f"{told['backend']}{', ' * bool(told['gpu'])}{told['gpu']}"],
            [
                "memory",
                f"{show.size(machine.total)}, {show.size(machine.available)} available, pressure {told['pressure']}",
            ],
            ["budget", f"{show.size(budget)} for everything mlxrag holds"],
        ]
        if machine.working_set:
            rows.append(["GPU working set", show.size(machine.working_set)])
        if machine.gpu:
            rows.append(["GPU memory", f"{show.size(machine.gpu[0])}, {show.size(machine.gpu[1])} free"])
        rows += [[s["device"], f"{s['GB/s']} GB/s, {s['GFLOP/s']:,} GFLOP/s ({s['dtype']})"] for s in told["speeds"]]
        rows.append(["--device auto", f"{chosen}: {why}"])
        rows += [[f"{key}", f"{size:,} at once, found by measuring"] for key, size in told["at_once"].items()]
        show.table(["what", "is"], rows)
        for line in advice:
            show.out().print(f"• {line}", markup=False)

    show.result(told, as_json, draw)


def _power() -> dict[str, Any] | None:
    import psutil

    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if battery is None else {"plugged": bool(battery.power_plugged), "percent": round(battery.percent)}
