"""From a run to the points of the history, and in what two stacks or machines differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from vanbench.record.environment import Hardware
from vanbench.record.history import Point, point_id, stack_key, stack_of, state_of, whole_time
from vanbench.record.store import Run

__all__ = ["Change", "LeftOut", "differences", "hardware_differences", "points_of"]


class Change(NamedTuple):
    """One thing that is not what it was; empty where it was, or is, not there."""

    name: str
    before: str
    after: str


class LeftOut(NamedTuple):
    """A cell of a run that is no point: status is failed or skipped."""

    slug: str
    cell_key: str
    status: str
    reason: str


def points_of(
    run: Run, rows: Sequence[Mapping[str, Any]], commit: str | None, branch: str | None
) -> tuple[list[Point], list[LeftOut]]:
    """A point for each measured cell of a run, and the cells that have none.

    rows: of the run's table (`report.table.rows`), one a record and in their order, so that the history and
    results.csv have the same figures. Raises UserError if the run has no proper time.
    """
    environment = run.environment
    time = whole_time(environment.date, str(run.path / "environment.json"))
    points, left_out = [], []
    for record, row in zip(run.records, rows, strict=True):
        sampled = [each for each in record.rounds if each.seconds > 0]
        if row["status"] != "measured" or record.facts is None or not sampled:
            status = "failed" if row["status"] == "failed" else "skipped"
            left_out.append(LeftOut(record.cell.slug, record.key, status, row["reason"] or "no sample was taken"))
            continue
        stack = stack_of(environment, record.facts.threads)
        points.append(
            Point(
                id=point_id(environment.machine_key, record.key, time, record.rounds[0]),
                time=time,
                commit=commit,
                branch=branch,
                machine_key=environment.machine_key,
                machine=environment.machine,
                device_name=row["device_name"] or environment.device_name,
                stack=stack,
                stack_key=stack_key(stack),
                state=state_of(environment),
                vanbench_version=environment.software.vanbench,
                cell_key=record.key,
                cell=record.cell.asked,
                slug=record.cell.slug,
                images_per_s=row["images_per_s"],
                low=row["images_per_s_low"],
                high=row["images_per_s_high"],
                rounds=len(record.rounds),
                rates=tuple(each.images / each.seconds for each in sampled),
                ratio=row["ratio"],
                reference=row["ratio_to"] if row["ratio"] is not None else None,
                flags=tuple(str(row["flags"]).split(";")) if row["flags"] else (),
            )
        )
    return points, left_out


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What is not the same, in the order of `after`, then what is gone."""
    names = [*after, *(name for name in before if name not in after)]
    return tuple(
        Change(name, before.get(name, ""), after.get(name, ""))
        for name in names
        if before.get(name, "") != after.get(name, "")
    )


def hardware_differences(here: Hardware, known: Mapping[str, Hardware]) -> tuple[str, tuple[Change, ...]] | None:
    """The machine that is most like this one, by its key, and in what the two differ; None if none is known."""
    if not known:
        return None
    found = {key: differences(_flat(other), _flat(here)) for key, other in known.items()}
    nearest = min(found, key=lambda key: (len(found[key]), key))
    return nearest, found[nearest]


def _flat(hardware: Hardware) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in msgspec.to_builtins(hardware).items():
        if name == "gpus":
            for i, gpu in enumerate(value):
                fields.update({f"gpus.{i}.{part}": str(seen) for part, seen in gpu.items()})
        else:
            fields[name] = str(value)
    return fields
