"""Models of a user's own, some of which go wrong for real. Named as `tests.own_models:<callable>` in sweeps."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """A little convnet with a residual depthwise branch: builds and steps in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 1000)."""
        x = self.stem(x)
        x = x + self.depthwise(self.norm(x))
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Slow(Tiny):
    """Tiny, with a sleep of known length in each step: what a step must at least take."""

    def forward(self, x: Tensor) -> Tensor:
        """As Tiny, 5 ms later."""
        time.sleep(0.005)
        return super().forward(x)


class Raises(Tiny):
    """Raises in forward once it is warm: the check passes, the timing does not."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """As Tiny, eight times: building and vetting take six, any timing takes more."""
        type(self).calls += 1
        if type(self).calls > 8:
            raise RuntimeError("enough of this")
        return super().forward(x)


class NotANumber(Tiny):
    """Gives NaN."""

    def forward(self, x: Tensor) -> Tensor:
        """NaN in the right shape."""
        return super().forward(x) * float("nan")


class Greedy(Tiny):
    """Asks torch for more memory than any machine has."""

    def forward(self, x: Tensor) -> Tensor:
        """Never returns."""
        return super().forward(x) + torch.empty(1 << 50).sum()


class Hoarder(Tiny):
    """Touches more and more memory, for the kernel to put an end to it."""

    def forward(self, x: Tensor) -> Tensor:
        """Never returns inside a small memory cgroup."""
        self.hoard = [torch.ones(1 << 24) for _ in range(64)]
        return super().forward(x)


class Crash(Tiny):
    """Dies by a signal."""

    def forward(self, x: Tensor) -> Tensor:
        """Never returns."""
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().forward(x)


class Hang(Tiny):
    """Never answers."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns after a week."""
        time.sleep(604_800)
        return super().forward(x)


class Chatter(Tiny):
    """Prints to standard output all the time, which must not garble any message."""

    def forward(self, x: Tensor) -> Tensor:
        """As Tiny."""
        print('{"type":"sample"}', flush=True)
        return super().forward(x)


class Leaver(Tiny):
    """Leaves the process."""

    def forward(self, x: Tensor) -> Tensor:
        """Never returns."""
        sys.stderr.write("leaving now\n")
        sys.stderr.flush()
        os._exit(7)


class LossyInChannelsLast(Tiny):
    """Computes something else when its input is channels_last: fast and wrong."""

    def forward(self, x: Tensor) -> Tensor:
        """As Tiny, but for the layout."""
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            x = x.flip(3)
        return super().forward(x)


class LosesLayout(Tiny):
    """Goes back to NCHW between two convs."""

    def forward(self, x: Tensor) -> Tensor:
        """As Tiny."""
        x = self.stem(x).contiguous()
        x = x + self.depthwise(self.norm(x).contiguous())
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class BreaksGraph(Tiny):
    """torch.compile cannot take it in one graph."""

    def forward(self, x: Tensor) -> Tensor:
        """As Tiny, with a print between."""
        x = self.stem(x)
        print("break")
        x = x + self.depthwise(self.norm(x))
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def not_a_module() -> int:
    """Builds no model."""
    return 3


a_number = 3
