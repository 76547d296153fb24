"""Profiles of a sweep's cells, one fresh process each, one after the other. Yields what happens."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vanbench.errors import UserError
from vanbench.execute.ceilings import book_for
from vanbench.execute.child import ChildFailure
from vanbench.execute.probe import check_names, environment_of, scratch
from vanbench.execute.round import Phase
from vanbench.execute.run import default_place
from vanbench.execute.starter import WORKER, Starter, starter
from vanbench.record.environment import Environment
from vanbench.record.folder import make_folder, save_profiles
from vanbench.record.profile import Profile
from vanbench.record.task import Profiled, ProfileStep, Said, Vet, Vetted
from vanbench.spec.cell import Cell
from vanbench.spec.sweep import Sweep

__all__ = ["Begun", "Kept", "Missed", "profile_cells"]


class Begun(NamedTuple):
    """The folder is there. has_ceilings: whether figures can be held against roofs."""

    path: Path
    environment: Environment
    cells: int
    has_ceilings: bool


class Kept(NamedTuple):
    """A cell's profile is on disk."""

    profile: Profile


class Missed(NamedTuple):
    """A cell could not be profiled; the others go on."""

    cell: Cell
    kind: str
    message: str


def profile_cells(
    sweep: Sweep,
    *,
    out: Path | None = None,
    ceilings: Path | None = None,
    seconds: float = 15.0,
    worker: Sequence[str] = WORKER,
) -> Iterator[Begun | Phase | Kept | Missed]:
    """Profile every cell of the sweep for `seconds`, into a new folder; each is on disk before the next begins.

    Raises UserError for compiled cells: their operations are not the model's any more.
    """
    if any(cell.compile != "off" for cell in sweep.cells()):
        raise UserError("profile takes eager cells alone (--compile off): a compiled step has no operations to name")
    with scratch() as folder:
        with starter(folder, worker) as nursery:
            environment = environment_of(nursery, sweep.device)
            check_names(nursery, [str(model) for model in sweep.axes["models"]])
        book = book_for(environment, ceilings)
        path = out or default_place(environment.machine, sweep.name)
        make_folder(path, environment, book)
        cells = sweep.cells()
        yield Begun(path, environment, len(cells), bool(book.entries))
        profiles: list[Profile] = []
        failed: list[tuple[str, str]] = []
        for cell in cells:
            reason = environment.why_not(cell)
            if reason is not None:
                missed = Missed(cell, "skipped", reason)
            else:
                with starter(folder, worker) as nursery:
                    try:
                        profile = yield from _profile(nursery, environment, cell, sweep, seconds)
                    except ChildFailure as failure:
                        missed = Missed(cell, failure.kind, str(failure))
                    else:
                        profiles.append(profile)
                        save_profiles(path, profiles, failed)
                        yield Kept(profile)
                        continue
            failed.append((cell.slug, f"{missed.kind}: {missed.message}"))
            save_profiles(path, profiles, failed)
            yield missed


def _profile(
    nursery: Starter, environment: Environment, cell: Cell, sweep: Sweep, seconds: float
) -> Generator[Phase, None, Profile]:
    """Vet the cell, then profile it in a process of its own; the generator returns the profile."""
    sampling = sweep.plan
    tasks: tuple[Vet | ProfileStep, ...] = (
        Vet(cell=cell, device=environment.device, seed=sampling.seed),
        ProfileStep(cell=cell, device=environment.device, seed=sampling.seed, sampling=sampling, seconds=seconds),
    )
    for task, expected in zip(tasks, (Vetted, Profiled), strict=True):
        child = nursery.fork(task, cell.slug)
        try:
            while isinstance(answer := child.receive(sampling.timeout_s), Said):
                yield Phase(cell, answer.phase)
            if not isinstance(answer, expected):
                raise ChildFailure("protocol", f"expected {expected.__name__}, got {type(answer).__name__}")
        except BaseException:
            child.kill()
            raise
        child.leave()
    assert isinstance(answer, Profiled)
    return answer.profile
