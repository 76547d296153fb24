"""How long to sample, and when to stop. The stop rule is a pure function and says why it stopped."""

from __future__ import annotations

import msgspec

__all__ = ["Sampling", "stop_reason"]


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lengths are in seconds. The constants were chosen from A/A runs: see docs/measurement.md.

    settle_s: untimed steps before each sample, at least this long and at least one step: another cell's thread
    pool spins for 7 to 9 ms after its work. sample_s: aimed length of one sample. round_s: the most time one group
    spends in turns in one round. target: relative half-width of the 95 % interval of `ratio` (of images/s where
    nothing is beside the cell) at which rounds end. budget_s: for the whole run. timeout_s: the longest silence of
    a worker before it is killed.
    """

    warmup_steps: int = 3
    warmup_s: float = 0.5
    settle_s: float = 0.015
    sample_s: float = 0.05
    round_s: float = 15.0
    target: float = 0.02
    min_rounds: int = 5
    max_rounds: int = 15
    budget_s: float = 240.0
    timeout_s: float = 300.0
    seed: int = 0

    # What may change when a run is continued: it decides how long to go on, not what one sample is.
    FREE = ("target", "min_rounds", "max_rounds", "budget_s", "timeout_s")


def stop_reason(sampling: Sampling, rounds: int, half_width: float | None) -> str | None:
    """Why a group's rounds end, or None while they go on.

    rounds: finished so far. half_width: the widest relative half-width among the group's cells, None while unknown.
    The rule looks after every round from `min_rounds` on, which costs a little coverage: simulated in the tests.
    """
    if rounds >= sampling.max_rounds:
        return "max rounds"
    if rounds >= sampling.min_rounds and half_width is not None and half_width <= sampling.target:
        return "target reached"
    return None
