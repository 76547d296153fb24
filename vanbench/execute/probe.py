"""Short questions to a fresh worker: what this machine is, and what can be built. Measures nothing."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vanbench.errors import UserError, WorkerError
from vanbench.execute.child import ChildFailure
from vanbench.execute.starter import WORKER, Starter, starter
from vanbench.record.environment import Environment
from vanbench.record.task import FindShapes, Named, Names, Probe, Probed, Shaped

__all__ = ["ask_names", "ask_once", "check_names", "environment_of", "probe", "scratch"]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one job's logs and caches, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vanbench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def ask_once(nursery: Starter, task: Probe | Names | FindShapes) -> Probed | Named | Shaped:
    """One question, one answer. Raises UserError for what the user asked wrong, WorkerError for silence or death."""
    child = nursery.fork(task, type(task).__name__.lower())
    try:
        answer = child.receive(120.0)
    except ChildFailure as failure:
        if failure.kind == "user":
            raise UserError(str(failure)) from None
        raise WorkerError(f"the worker could not answer: {failure}") from None
    child.leave()
    assert isinstance(answer, (Probed, Named, Shaped))
    return answer


def probe(device: str = "auto", worker: Sequence[str] = WORKER) -> Environment:
    """What this machine is, asked of a fresh worker. Raises UserError for a device that is not here."""
    with scratch() as folder, starter(folder, worker) as nursery:
        return environment_of(nursery, device)


def ask_names(task: Names, worker: Sequence[str] = WORKER) -> Named:
    """Which models can be built, asked of a fresh worker."""
    with scratch() as folder, starter(folder, worker) as nursery:
        answer = ask_once(nursery, task)
        assert isinstance(answer, Named)
        return answer


def environment_of(nursery: Starter, device: str) -> Environment:
    """What this machine is, asked of a nursery's child."""
    answer = ask_once(nursery, Probe(device=device))
    assert isinstance(answer, Probed)
    return answer.environment


def check_names(nursery: Starter, models: Sequence[str]) -> None:
    """Raises UserError for the first model that cannot be built."""
    answer = ask_once(nursery, Names(models=tuple(models)))
    assert isinstance(answer, Named)
    for problem in answer.problems.values():
        raise UserError(problem)
