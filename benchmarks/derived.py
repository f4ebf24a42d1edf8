"""What the same work should take on an M1 Pro, from its bandwidth and its arithmetic: derived, not measured.

Anchors: 200 GB/s and 5.3 TFLOPS (16 GPU cores x 128 lanes x 2 x 1.296 GHz); llama.cpp's users report 36.4 tokens/s decoded and
266 tokens/s read by a 7B of 3.82 GB on that machine (discussion 4167 of its repository), which is 70 % of the one and 68 %
of the other.  The same shares are assumed here.  Several rows at once: what others measured of MLX's 4-bit kernels (mlx
issue 4265), since an M1's GPU is of generation 13 and takes few rows one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlxrag.model.row_cost import TYPICAL_AFFINE_GPU

BANDWIDTH = 200e9 * 0.70
FLOPS = 5.3e12 * 0.68
DISK = 3e9, 5e9  # bytes per second that an SSD of these machines reads


@dataclass(frozen=True)
class Sized:
    """A model: parameters, bytes of its 4-bit weights, bytes of keys and values per token in float16."""

    name: str
    parameters: float
    nbytes: float
    kv: int

    @property
    def decode(self) -> float:
        """Tokens per second of one answer: each reads all weights."""
        return BANDWIDTH / self.nbytes

    @property
    def prefill(self) -> float:
        """Prompt tokens per second: two operations per parameter."""
        return FLOPS / (2 * self.parameters)


MODELS = (
    Sized("Qwen3 0.6B, 4 bits", 0.6e9, 0.335e9, 28 * 8 * 128 * 2 * 2),
    Sized("Qwen3 4B, 4 bits", 4.0e9, 2.26e9, 36 * 8 * 128 * 2 * 2),
    Sized("Qwen3 8B, 4 bits", 8.2e9, 4.6e9, 36 * 8 * 128 * 2 * 2),
)


def tables() -> str:
    """Return the derived figures as Markdown."""
    lines = [
        "| model | decoding, tokens/s | prompt, tokens/s | 2,000-token prompt, s | its keys and values, MB | read from disk, ms |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for m in MODELS:
        size = 2000 * m.kv
        lines.append(
            f"| {m.name} | {m.decode:.0f} | {m.prefill:.0f} | {2000 / m.prefill:.1f} | {size / 1e6:.0f} | "
            f"{1000 * size / DISK[1]:.0f} to {1000 * size / DISK[0]:.0f} |"
        )
    lines += ["", "| workload | by one, s | here, s | ratio |", "|---|---:|---:|---:|"]
    for m in MODELS[:2]:
        for name, (plain, ours) in workloads(m).items():
            lines.append(f"| {name}, {m.name} | {plain:.1f} | {ours:.1f} | {plain / ours:.1f} |")
    lines += ["", "| drafts from the passages, 4-bit affine weights | words copied | ratio |", "|---|---:|---:|"]
    for chance in (0.0, 0.6, 0.8, 0.9, 0.97):
        lines.append(
            f"| best length of a draft: {best_draft(chance)[0]} | {100 * chance:.0f} % | {best_draft(chance)[1]:.2f} |"
        )
    return "\n".join(lines)


def workloads(m: Sized) -> dict[str, tuple[float, float]]:
    """Return the seconds of this project's workloads, one by one and as they run here."""
    rows = TYPICAL_AFFINE_GPU[8]
    questions = (8 * 624 / m.prefill + 8 * 24 / m.decode, (600 + 8 * 24) / m.prefill + 24 * rows / m.decode)
    first = (12 * 984 / m.prefill, (200 + 3 * 760 + 12 * 24) / m.prefill)
    adapters = (8 * (128 / m.prefill + 24 / m.decode), 8 * 128 / m.prefill + 24 * rows / m.decode)
    return {
        "8 questions on 600 tokens": questions,
        "first tokens of 3 x 4 questions": first,
        "8 adapters side by side": adapters,
    }


def best_draft(chance: float) -> tuple[int, float]:
    """Return the length that pays best where each drafted token is right with this chance, and how much; 0 is no draft."""
    found = [(0, 1.0)]
    for size in (3, 7, 15, 31):
        expected = sum(chance**i for i in range(1, size + 1))
        found.append((size, (1 + expected) / TYPICAL_AFFINE_GPU[size + 1]))
    return max(found, key=lambda one: one[1])
