"""A model whose speed is known: it waits for its time busily. It measures the harness, not the machine."""

from __future__ import annotations

from time import perf_counter

from torch import Tensor, nn

__all__ = ["STEP_S", "KnownRate"]

STEP_S = 0.010


class KnownRate(nn.Module):
    """A step takes `STEP_S` seconds, whatever the batch: a small conv net, and a busy wait for what is left.

    Busy, because a sleep is no oracle: it overshoots by 6 % at 2 ms. (N, 3, H, W) -> (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, 10)."""
        end = perf_counter() + STEP_S
        logits: Tensor = self.head(self.conv(x).mean((2, 3)))
        while perf_counter() < end:
            pass
        return logits
