"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) that pair the two halves of each head."""

import torch


class Rotary(torch.nn.Module):
    """Rotates queries and keys [..., tokens, head width] by their position.

    The angles are float32 whatever the inputs are: in bfloat16, neighboring positions beyond 256 would be equal.
    """

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotates `q` and `k`, which have the same shape."""
        tokens, width = q.shape[-2:]
        frequencies = 1.0 / 10_000.0 ** (torch.arange(0, width, 2, device=q.device).float() / width)
        angles = torch.outer(torch.arange(tokens, device=q.device).float(), frequencies)
        cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
        return _rotate(q, cos, sin), _rotate(k, cos, sin)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
