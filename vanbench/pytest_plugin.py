"""`vanbench_cell` for pytest users: a cell measured by the harness, beside pytest-benchmark's `benchmark` or alone.

    def test_van_b0(benchmark, vanbench_cell):
        vanbench_cell(model="van_b0", batch_size=8)

Times nothing itself. pytest-benchmark gets the steps that the harness timed, through a clock of its own that only moves
when a step is replayed: its table, files and comparisons then hold the harness's figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from vanbench.record.record import Record

__all__ = ["CellFigures", "pytest_itemcollected", "vanbench_cell"]

# With --benchmark-disable a test shall only show that it works.
_SMOKE: dict[str, Any] = {"rounds": "1:1", "round": 0.1, "warmup": 0.0, "warmup_steps": 1}


class CellFigures(NamedTuple):
    """What a cell came to. low, high: of the 95 % interval of images/s, None with one round."""

    images_per_s: float
    low: float | None
    high: float | None
    machine_key: str
    flags: tuple[str, ...]
    rounds: int
    samples: int
    cell: str
    key: str


class _ReplayClock:
    """A clock that stands still but for the steps that are replayed on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._steps: Iterator[float] = iter(())

    def __call__(self) -> float:
        return self.now

    def load(self, steps: Sequence[float]) -> None:
        """These are the next steps, in seconds."""
        self._steps = iter(steps)

    def step(self) -> None:
        """One step goes by."""
        self.now += next(self._steps)


CLOCK = _ReplayClock()


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Give `benchmark` the replaying clock in tests that use both fixtures."""
    names = getattr(item, "fixturenames", ())
    if "vanbench_cell" in names and "benchmark" in names:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@pytest.fixture
def vanbench_cell(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., CellFigures]:
    """Measures one cell: `vanbench_cell(model=..., batch_size=..., precision=..., budget=60, ...)`.

    Takes what `vanbench.run` takes, each with one value. Puts images/s, its interval, the machine key and flags into
    `benchmark.extra_info` where the test uses `benchmark`. A skipped cell skips the test, a failed one fails it.
    """
    benchmark: Any = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None

    def measure(*, model: str, batch_size: int = 8, **axes: Any) -> CellFigures:
        """One cell; returns its figures."""
        from vanbench.execute.run import run_quietly
        from vanbench.record.record import Failed, Skipped
        from vanbench.record.store import read_run

        smoke = _SMOKE if benchmark is not None and benchmark.disabled else {}
        defaults = {"memory_format": "contiguous", "precision": "fp32", "budget": 60}
        asked = {**defaults, **axes, **smoke, "batch_size": batch_size}
        run = read_run(run_quietly([model], out=tmp_path / "vanbench-run", **asked))
        if len(run.records) != 1:
            raise ValueError(f"one cell a call, not {len(run.records)}: give each axis one value")
        (record,) = run.records
        if isinstance(record.outcome, Skipped):
            pytest.skip(f"{record.cell.slug}: {record.outcome.reason}")
        if isinstance(record.outcome, Failed):
            pytest.fail(f"{record.cell.slug}: {record.outcome.kind}: {record.outcome.message}", pytrace=False)
        figures = _figures(record)
        if benchmark is not None:
            _hand_over(benchmark, record, figures)
        return figures

    return measure


def _figures(record: Record) -> CellFigures:
    from vanbench.analysis.flags import flags_of
    from vanbench.analysis.ratio import rate, relative_half_width

    seen = rate(record.rounds)
    assert seen is not None
    return CellFigures(
        images_per_s=seen.value,
        low=seen.low,
        high=seen.high,
        machine_key=record.stack.machine_key,
        flags=flags_of(record, half_width=relative_half_width(seen)),
        rounds=len(record.rounds),
        samples=sum(len(each.sample_s) for each in record.rounds),
        cell=record.cell.slug,
        key=record.key,
    )


def _hand_over(benchmark: Any, record: Record, figures: CellFigures) -> None:
    """Replay the steps on pytest-benchmark's clock, and say what they came to."""
    steps = [seconds for each in record.rounds for seconds in each.step_s]
    CLOCK.load(steps)
    benchmark.pedantic(CLOCK.step, rounds=len(steps), iterations=1, warmup_rounds=0)
    named = {"images_per_s": figures.images_per_s, "images_per_s_low": figures.low, "images_per_s_high": figures.high}
    benchmark.extra_info.update(
        {
            **named,
            "machine_key": figures.machine_key,
            "device_name": record.stack.device_name,
            "torch_version": record.stack.torch_version,
            "cell": figures.cell,
            "key": figures.key,
            "batch_size": record.cell.batch_size,
            "rounds": figures.rounds,
            "flags": ";".join(figures.flags),
        }
    )
