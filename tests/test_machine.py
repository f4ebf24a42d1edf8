"""What a machine can give, whatever the machine; and sizes and times as people write them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlxrag import settings
from mlxrag.errors import BadInput
from mlxrag.machine import (
    GB,
    Machine,
    budget,
    cuda_memory,
    group_room,
    metal_working_set,
    parse_seconds,
    parse_size,
    this_machine,
)

GIB = 1024**3
DEFAULTS = settings.Memory()


def test_an_m1_pro_with_16_gb_gives_at_most_85_percent_of_metals_working_set() -> None:
    """2/3 of 16 GiB is 11,453 MB; the budget stays below even when more is free."""
    m1 = Machine("Darwin", 16 * GIB, 15 * GIB, metal_working_set(16 * GIB))
    assert m1.working_set is not None and round(m1.working_set / 1024**2) == 10923
    assert budget(m1, DEFAULTS) == m1.working_set * 85 // 100
    busy = Machine("Darwin", 16 * GIB, 4 * GIB, m1.working_set)
    assert budget(busy, DEFAULTS) == 4 * GIB - 1_500_000_000


def test_linux_gives_what_is_available_within_the_control_group() -> None:
    """The tighter of the two limits counts; nothing below zero."""
    assert budget(Machine("Linux", 24 * GIB, 20 * GIB), DEFAULTS) == 20 * GIB - 1_500_000_000
    assert budget(Machine("Linux", 24 * GIB, 20 * GIB, limit=2 * GIB), DEFAULTS) == 2 * GIB * 9 // 10
    assert budget(Machine("Linux", 2 * GIB, GIB), DEFAULTS) == 0


def test_a_gpu_with_memory_of_its_own_gives_nine_tenths_of_it() -> None:
    """What mlxrag holds there is not free any more and still ours; the host's memory can be the tighter one."""
    card = Machine("Linux", 128 * GIB, 120 * GIB, gpu=(80 * GIB, 70 * GIB))
    assert budget(card, DEFAULTS) == 70 * GIB * 9 // 10
    assert budget(card, DEFAULTS, held=5 * GIB) == 75 * GIB * 9 // 10
    assert budget(card, DEFAULTS, held=20 * GIB) == 80 * GIB * 9 // 10
    assert budget(Machine("Linux", 32 * GIB, 20 * GIB, gpu=(80 * GIB, 70 * GIB)), DEFAULTS) == 20 * GIB - 1_500_000_000


def test_memory_of_a_cuda_gpu_is_mlxs_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked only where MLX computes there, under the keys of its CUDA backend."""
    told = {"device_name": "NVIDIA X", "total_memory": 80, "free_memory": 70}
    core = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: True), cpu="cpu", gpu="gpu", Device=str,
        default_device=lambda: "gpu", device_info=lambda device: told if device == "gpu" else {},
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "mlx.core", core)
    assert cuda_memory() == (80, 70) and this_machine().gpu == (80, 70)
    core.default_device = lambda: "cpu"
    assert cuda_memory() is None
    monkeypatch.delitem(sys.modules, "mlx.core")
    assert cuda_memory() is None


def test_what_is_held_already_counts_as_ours() -> None:
    """Memory that mlxrag has taken is not available any more, and is not taken off the budget a second time."""
    before = budget(Machine("Linux", 24 * GIB, 20 * GIB), DEFAULTS)
    assert budget(Machine("Linux", 24 * GIB, 15 * GIB), DEFAULTS, held=5 * GIB) == before
    grouped = Machine("Linux", 24 * GIB, 20 * GIB, limit=GIB)
    assert budget(grouped, DEFAULTS, held=GIB, own=GIB) == 2 * GIB * 9 // 10
    # What others hold outside the group takes nothing of it, and is not lent to it either.
    assert budget(grouped, DEFAULTS, held=5 * GIB) == 5 * GIB + GIB * 9 // 10


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_the_control_groups_around_a_process_counts(tmp_path: Path, version: int) -> None:
    """Both versions are read, and a group without a limit is none."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    root = tmp_path / "cgroup"
    base = root / "memory" if version == 1 else root
    free = str(2**63 - 4096) if version == 1 else "max"
    for folder, limit, used in ((base, free, 700), (base / "a", "1000", 600), (base / "a" / "b", "5000", 500)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
    proc = tmp_path / "self"
    proc.write_text("3:cpu:/x\n4:memory:/a/b\n0::/\n" if version == 1 else "0::/a/b\n")
    assert group_room(proc, root) == 400
    proc.write_text("4:memory:/\n" if version == 1 else "0::/\n")
    assert group_room(proc, root) is None and group_room(tmp_path / "none", root) is None


def test_this_machine_has_memory() -> None:
    """The counters exist here."""
    here = this_machine()
    assert 0 < here.available <= here.total


@pytest.mark.parametrize(
    ("text", "size"), [("6GB", 6 * GB), ("1.5 GiB", GIB * 3 // 2), ("800mb", 800_000_000), ("12", 12)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    """Powers of 1000 for GB, of 1024 for GiB."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("5m", 300.0), ("90 s", 90.0), ("1h", 3600.0), ("0", 0.0), ("1.5m", 90.0)]
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    """Seconds unless a unit says otherwise."""
    assert parse_seconds(text) == seconds


def test_what_is_no_size_or_time_is_refused() -> None:
    """One sentence with an example."""
    with pytest.raises(BadInput, match="write it like 6GB"):
        parse_size("much")
    with pytest.raises(BadInput, match="write it like 5m"):
        parse_seconds("soon")
