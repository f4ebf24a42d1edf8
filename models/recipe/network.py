"""The reader's network in PyTorch, for training: the Qwen3 architecture, fed with packed conversations.

The forward pass differs from the stock one only in what a conversation may see (the passages and itself); the
weights have the names and shapes that transformers and mlx-lm expect.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Size:
    """The shape of the network."""

    width: int
    layers: int
    heads: int
    head: int
    hidden: int
    vocabulary: int
    theta: float = 10000.0
    epsilon: float = 1e-6


class Layer(nn.Module):
    """Attention with normalized queries and keys, then a gated feed-forward net; both pre-normalized."""

    def __init__(self, size: Size, dropout: float) -> None:
        super().__init__()
        inner = size.heads * size.head
        self.size, self.dropout = size, nn.Dropout(dropout)
        self.input_layernorm = nn.RMSNorm(size.width, eps=size.epsilon)
        self.post_attention_layernorm = nn.RMSNorm(size.width, eps=size.epsilon)
        self.q_norm = nn.RMSNorm(size.head, eps=size.epsilon)
        self.k_norm = nn.RMSNorm(size.head, eps=size.epsilon)
        self.qkv = nn.Linear(size.width, 3 * inner, bias=False)
        self.o_proj = nn.Linear(inner, size.width, bias=False)
        self.gate_up = nn.Linear(size.width, 2 * size.hidden, bias=False)
        self.down_proj = nn.Linear(size.hidden, size.width, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, c: int, hidden_pad: Tensor, hidden_talk: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            x: `(b, c + t, width)`.
            cos: `(b, 1, c + t, head / 2)`; `sin` likewise.
            sin: see `cos`.
            c: number of passage positions.
            hidden_pad: `(b, 1, 1, c)`, large and negative on padding.
            hidden_talk: `(b, 1, t, t)`, large and negative where a token must not look.

        Returns:
            the new `x`, and the log-weights `(b, t, c)` that the first head of the conversations puts on the passages.
        """
        b, n, _ = x.shape
        h, d = self.size.heads, self.size.head
        q, k, v = self.qkv(self.input_layernorm(x)).view(b, n, 3, h, d).permute(2, 0, 3, 1, 4)
        q, k = _rotate(self.q_norm(q).to(v.dtype), cos, sin), _rotate(self.k_norm(k).to(v.dtype), cos, sin)
        seen = functional.scaled_dot_product_attention(q[:, :, :c], k[:, :, :c], v[:, :, :c], is_causal=True)
        far = (q[:, :, c:] @ k[:, :, :c].transpose(-1, -2)).float() * d**-0.5 + hidden_pad
        near = (q[:, :, c:] @ k[:, :, c:].transpose(-1, -2)).float() * d**-0.5 + hidden_talk
        top = torch.maximum(far.amax(-1, keepdim=True), near.amax(-1, keepdim=True)).detach()
        e_far, e_near = (far - top).exp(), (near - top).exp()
        total = e_far.sum(-1, keepdim=True) + e_near.sum(-1, keepdim=True)
        told = (e_far / total).to(v.dtype) @ v[:, :, :c] + (e_near / total).to(v.dtype) @ v[:, :, c:]
        x = x + self.dropout(self.o_proj(torch.cat([seen, told], 2).transpose(1, 2).reshape(b, n, h * d)))
        gate, up = self.gate_up(self.post_attention_layernorm(x)).chunk(2, -1)
        x = x + self.dropout(self.down_proj(functional.silu(gate) * up))
        return x, far[:, 0] - top[:, 0] - total[:, 0].log()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Reader(nn.Module):
    """The network with tied embeddings; `dropout` of what each block adds, while it trains."""

    def __init__(self, size: Size, dropout: float = 0.0) -> None:
        super().__init__()
        self.size, self.dropout = size, nn.Dropout(dropout)
        self.embed_tokens = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(Layer(size, dropout) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width, eps=size.epsilon)
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                nn.init.normal_(
                    weight,
                    std=size.width**-0.5 * (0.2 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0),
                )

    def states(
        self,
        passages: Tensor,
        length: Tensor,
        talks: Tensor,
        owner: Tensor,
        offset: Tensor,
        pointing: Tensor,
        pointer: Tensor,
        where: int,
    ) -> tuple[Tensor, Tensor]:
        """Final states `(b * (c + t), width)` of a `pack.Batch` and the loss of pointing at layer `where`."""
        b, c = passages.shape
        t = talks.shape[1]
        place = torch.cat(
            [torch.arange(c, device=length.device)[None].expand(b, c), length[:, None] + offset], 1
        ).float()
        half = self.size.head // 2
        angle = place[:, None, :, None] * self.size.theta ** (-torch.arange(half, device=place.device) / half)
        cos, sin = angle.cos(), angle.sin()
        pad = torch.where(torch.arange(c, device=length.device)[None] < length[:, None], 0.0, -1e4)[:, None, None]
        same = (owner[:, :, None] == owner[:, None, :]) & (
            torch.arange(t, device=length.device)[:, None] >= torch.arange(t, device=length.device)[None]
        )
        talk = torch.where(same, 0.0, -1e4)[:, None]
        x = self.dropout(self.embed_tokens(torch.cat([passages, talks], 1)))
        points = x.new_zeros(())
        for i, layer in enumerate(self.layers):
            x, looked = layer(x, cos, sin, c, pad, talk)
            if i == where:
                picked = looked.reshape(b * t, c)[pointing]
                used = (pointer >= 0).float()
                points = -(
                    picked.gather(1, pointer.clamp(min=0)[:, None])[:, 0].clamp(min=-12) * used
                ).sum() / used.sum().clamp(min=1)
        return self.norm(x).reshape(b * (c + t), -1), points

    def forward(
        self,
        passages: Tensor,
        length: Tensor,
        talks: Tensor,
        owner: Tensor,
        offset: Tensor,
        chosen: Tensor,
        target: Tensor,
        weight: Tensor,
        pointing: Tensor,
        pointer: Tensor,
        where: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of a `pack.Batch` (its fields, as tensors).

        Args:
            passages: and the following: see `pack.Batch`.
            where: the layer whose first head is taught to point at what is copied.

        Returns:
            the weighted loss of tokens, the loss of answers alone, the loss of pointing; scalars.
        """
        states, points = self.states(passages, length, talks, owner, offset, pointing, pointer, where)
        logits = (states[chosen] @ self.embed_tokens.weight.T).float()
        losses = functional.cross_entropy(logits, target, reduction="none")
        answers = (weight == 1.0).float()
        return (losses * weight).sum() / weight.sum(), (losses * answers).sum() / answers.sum().clamp(min=1), points
