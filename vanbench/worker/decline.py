"""How a task that fails says so: its kind and one line. The tables of what is what; it measures nothing."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import torch

from vanbench.errors import UserError
from vanbench.kernels.choice import WrongKernel
from vanbench.record.task import Declined
from vanbench.worker.build import NothingToChange
from vanbench.worker.channel import Channel
from vanbench.worker.check import NonFinite

__all__ = ["declining"]


def declining(work: Callable[[], None], channel: Channel) -> None:
    """Do the work; an exception becomes the channel's last word, and its traceback goes to the process's log."""
    try:
        work()
    except NothingToChange as error:
        channel.send(Declined(kind="skipped", message=str(error)))
    except NonFinite as error:
        channel.send(Declined(kind="non_finite", message=str(error)))
    except WrongKernel as error:
        channel.send(Declined(kind="wrong_answer", message=str(error)))
    except UserError as error:
        channel.send(Declined(kind="exception", message=str(error)))
    except Exception as error:
        traceback.print_exc()
        kind = "out_of_memory" if _ran_out_of_memory(error) else "exception"
        channel.send(Declined(kind=kind, message=_told(error)))


def _ran_out_of_memory(error: Exception) -> bool:
    """Only what torch itself calls so: its own exception, or the CPU allocator's words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def _told(error: Exception) -> str:
    """An exception as one line: its type, its first line, and the innermost place it came from."""
    first = (str(error).strip().splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{place}"
