"""`python -m vanbench.worker FD PARENT`: the nursery of the real workers; `--connect PORT`: one of them alone."""

from __future__ import annotations

import sys

import msgspec

from vanbench.record.task import FindCeilings, FindShapes, Measure, Names, Probe, ProfileStep, TimeCases, Vet
from vanbench.worker import nursery
from vanbench.worker.channel import Channel

_TASK = msgspec.json.Decoder(Names | Probe | Vet | Measure | FindCeilings | ProfileStep | FindShapes | TimeCases)


def warm() -> None:
    """Import what every child needs, and initialise nothing: no CUDA context, no thread."""
    import timm  # noqa: F401
    import torch  # noqa: F401

    import vanbench.models
    import vanbench.worker.measure
    import vanbench.worker.names
    import vanbench.worker.probe
    import vanbench.worker.vet  # noqa: F401


def serve(message: bytes, channel: Channel) -> None:
    """Carry out one task."""
    from vanbench.worker import measure, names, probe, vet

    task = _TASK.decode(message)
    if isinstance(task, Measure):
        measure.serve(task, channel)
    elif isinstance(task, Vet):
        vet.serve(task, channel)
    elif isinstance(task, Probe):
        channel.send(probe.answer(task))
    elif isinstance(task, FindCeilings):
        from vanbench.worker import ceilings

        ceilings.serve(task, channel)
    elif isinstance(task, ProfileStep):
        from vanbench.worker import profile

        profile.serve(task, channel)
    elif isinstance(task, (FindShapes, TimeCases)):
        from vanbench.worker import depthwise

        depthwise.serve(task, channel)
    else:
        channel.send(names.answer(task))


if __name__ == "__main__":
    nursery.main(sys.argv[1:], warm, serve)
