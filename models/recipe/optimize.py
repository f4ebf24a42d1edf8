"""Muon, the optimizer of the matrices."""

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonalize(g: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of `g`, `(m, n)` or `(k, m, n)`, towards 1 by a quintic Newton-Schulz iteration.

    Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    flat = x.shape[-2] > x.shape[-1]
    x = x.mT if flat else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if flat else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, matrix by matrix.

    Args:
        params: two-dimensional weights; one with `parts` in its group holds that many matrices stacked by rows.
        lr: rate; the update has root mean square about 0.2 of it, as AdamW's has.
        momentum: of the running mean.
        weight_decay: decoupled.
    """

    def __init__(
        self, params: Iterable[dict[str, object]], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": 1})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        alike: dict[tuple[int, int], list[tuple[Tensor, float, Tensor]]] = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(p)
                mean = state["mean"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(mean, group["momentum"]).view(group["parts"], -1, p.shape[-1])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                alike.setdefault((update.shape[1], update.shape[2]), []).append((p, group["lr"], update))
        # Matrices of one shape at once: a GPU would wait for the launches of single ones.
        for shape, found in alike.items():
            parts = orthogonalize(torch.cat([update for _, _, update in found]))
            pieces = parts.split([update.shape[0] for _, _, update in found])
            for (p, rate, _), piece in zip(found, pieces, strict=True):
                p.add_(piece.to(p.dtype).reshape(p.shape), alpha=-rate * 0.2 * max(shape) ** 0.5)
