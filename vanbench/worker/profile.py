"""One step of a cell, operation by operation: how long each takes, who computed it, and by which kernel.

On a CPU the time of an operation is taken around its dispatch, since nothing is pending there; on CUDA it is the
kernels' own, from CUPTI through torch.profiler. Steps without a profiler take turns with the profiled ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch._C._autograd import DeviceType as _DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

from vanbench.record.ops import Op
from vanbench.record.profile import Profile, ProfiledOp
from vanbench.record.task import Profiled, ProfileStep, Said
from vanbench.worker import precision
from vanbench.worker.build import Built
from vanbench.worker.channel import Channel
from vanbench.worker.decline import declining
from vanbench.worker.measure import prepared, right_answer
from vanbench.worker.sample import Sampler
from vanbench.worker.trace import Recorder, in_modules

__all__ = ["backend_of_kernels", "kernel_names", "onednn_log", "primitives", "serve", "standard_output_to"]

# So many profiled steps at least: their median and tenths mean little below.
_LEAST_STEPS = 5
_MOST_STEPS = 200
_WARM_STEPS = 3
# What a kernel's name says about who wrote it; the first that matches.
_CUDA_BACKENDS = (
    (re.compile(r"vanbench_"), "vanbench"),
    (re.compile(r"cudnn|xmma_fprop|xmma_dgrad|xmma_wgrad|implicit_convolve|nhwcToNchw|nchwToNhwc", re.I), "cuDNN"),
    (re.compile(r"conv_depthwise2d", re.I), "native"),
    (re.compile(r"triton", re.I), "Triton"),
    (re.compile(r"cublas|nvjet|cutlass|gemm|gemv|xmma", re.I), "cuBLAS"),
    (re.compile(r"at::native|at_cuda|void at::", re.I), "native"),
)


def serve(task: ProfileStep, channel: Channel) -> None:
    """Carry a `ProfileStep` task out."""
    declining(lambda: _serve(task, channel), channel)


def _serve(task: ProfileStep, channel: Channel) -> None:
    device = torch.device(task.device)
    ready = prepared(task.cell, device, task.seed, channel)
    if ready is None:
        return
    built, reference = ready
    if right_answer(built, reference, task.seed, channel) is None:
        return
    del reference, ready
    sampler = Sampler(built, task.sampling)
    channel.send(Said(phase="warming up"))
    sampler.warm_up(lambda: 0)
    channel.send(Said(phase="profiling"))
    ops, places = _operations(built)
    notes: list[str] = []
    look = _cuda_look if device.type == "cuda" else _cpu_look
    seconds, steps, names = look(built, sampler, places, len(ops), task.seconds, notes)
    channel.send(
        Profiled(
            profile=Profile(
                cell=task.cell,
                device=str(device),
                device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
                threads=torch.get_num_threads(),
                ops=[
                    ProfiledOp(op=op, seconds=times, backend=_backend(op, kernels, device), kernels=tuple(kernels))
                    for op, times, kernels in zip(ops, seconds, names, strict=True)
                ],
                step_s=steps,
                notes=tuple(notes),
            )
        )
    )


class _Placed(Recorder):  # type: ignore[no-untyped-call]
    """A recorder that also counts every dispatch, views too: a later step's times are matched by that count."""

    def __init__(self) -> None:
        super().__init__()
        self.count = -1
        self.places: list[int] = []

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self.count += 1
        return func(*args, **kwargs)

    def recorded(self, op: Op) -> None:
        self.places.append(self.count)


class _Around(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Wraps every dispatch in `around(place)`."""

    def __init__(self, around: Callable[[int, Callable[[], Any]], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._around = around
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        place, self.count = self.count, self.count + 1
        return self._around(place, lambda: func(*args, **(kwargs or {})))


def _operations(built: Built) -> tuple[list[Op], list[int]]:
    """The operations of one real step, and the place of each among all dispatches."""
    recorder = _Placed()
    phases = iter(("backward", "optimizer"))

    def mark() -> None:
        recorder.phase = next(phases)

    with _open_mode(built), in_modules(built.eager, recorder), recorder:
        built.step(mark)
    ops = recorder.ops
    if built.cell.task == "train":
        ops = _with_loss(ops)
    return ops, recorder.places


def _with_loss(ops: list[Op]) -> list[Op]:
    """Forward operations outside the model that follow its last are the loss's: the step marks only its end."""
    last = max((i for i, op in enumerate(ops) if op.phase == "forward" and op.module), default=-1)
    return [
        msgspec.structs.replace(op, phase="loss") if op.phase == "forward" and i > last else op
        for i, op in enumerate(ops)
    ]


@contextlib.contextmanager
def _open_mode(built: Built) -> Iterator[None]:
    """As `built.mode`, but that inference mode would show composite operators whole: the kernels are the same."""
    if built.cell.task == "infer":
        with torch.no_grad(), precision.autocast(built.cell.precision, built.device.type):
            yield
    else:
        yield


def _nothing() -> None:
    """No mark is wanted."""


def _cpu_look(
    built: Built, sampler: Sampler, places: list[int], count: int, limit_s: float, notes: list[str]
) -> tuple[list[list[float]], list[float], list[list[str]]]:
    """(times of each operation, times of steps without a profiler, primitives of each operation)."""
    where = {place: i for i, place in enumerate(places)}
    names = _primitives_of_a_step(built, where, count, notes)
    times: list[list[float]] = [[] for _ in range(count)]
    steps: list[float] = []

    def around(place: int, work: Callable[[], Any]) -> Any:
        start = perf_counter()
        returned = work()
        took = perf_counter() - start
        if place in where:
            times[where[place]].append(took)
        return returned

    for number in _turns(limit_s):
        # ABBA, so that a drift of the machine favours neither.
        for profiled in ((False, True), (True, False))[number % 2]:
            if not profiled:
                steps.append(sampler.one_step()[0])
            else:
                with _open_mode(built), _Around(around):
                    built.step(_nothing)
    return times, steps, names


def _turns(limit_s: float) -> Iterator[int]:
    end = perf_counter() + limit_s
    for number in range(_MOST_STEPS):
        if number >= _LEAST_STEPS and perf_counter() >= end:
            return
        yield number


def _primitives_of_a_step(built: Built, where: Mapping[int, int], count: int, notes: list[str]) -> list[list[str]]:
    """Which oneDNN primitives each operation ran, from oneDNN's own log, in a step that is not timed."""
    names: list[list[str]] = [[] for _ in range(count)]
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return names
    with tempfile.TemporaryFile() as file, standard_output_to(file.fileno()):

        def around(place: int, work: Callable[[], Any]) -> Any:
            before = os.fstat(file.fileno()).st_size
            returned = work()
            _flush()
            if place in where:
                size = os.fstat(file.fileno()).st_size - before
                names[where[place]] += primitives(os.pread(file.fileno(), size, before).decode(errors="replace"))
            return returned

        with onednn_log(), _open_mode(built), _Around(around):
            built.step(_nothing)
        _flush()
    if not any(names):
        notes.append("oneDNN's log told nothing: primitives are not named")
    return names


def primitives(text: str) -> list[str]:
    """`kind implementation` of each primitive that oneDNN's verbose log says was executed, in order.

    A line is `onednn_verbose,v1,primitive,exec,cpu,convolution,jit_dw:avx512_core,...`; older versions have one field
    less or more before `exec`.
    """
    found = []
    for line in text.splitlines():
        fields = line.split(",")
        if fields[0] == "onednn_verbose" and "exec" in fields:
            at = fields.index("exec")
            if len(fields) > at + 3:
                found.append(f"{fields[at + 2]} {fields[at + 3]}")
    return found


@contextlib.contextmanager
def standard_output_to(descriptor: int) -> Iterator[None]:
    """Meanwhile what C code prints goes to this file."""
    _flush()
    kept = os.dup(1)
    try:
        os.dup2(descriptor, 1)
        yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(kept)


def onednn_log() -> AbstractContextManager[object]:
    """While entered, oneDNN prints a line for each primitive it runs."""
    mkldnn: Any = torch.backends.mkldnn
    log: AbstractContextManager[object] = mkldnn.verbose(mkldnn.VERBOSE_ON)
    return log


def _flush() -> None:
    """C's own buffers: oneDNN prints through them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


def _cuda_look(
    built: Built, sampler: Sampler, places: list[int], count: int, limit_s: float, notes: list[str]
) -> tuple[list[list[float]], list[float], list[list[str]]]:
    """The same on CUDA: an operation's time is that of its kernels, which torch.profiler tells by correlation."""
    where = {place: i for i, place in enumerate(places)}
    times: list[list[float]] = [[] for _ in range(count)]
    names: list[list[str]] = [[] for _ in range(count)]
    steps: list[float] = []
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]

    def around(place: int, work: Callable[[], Any]) -> Any:
        if place not in where:
            return work()
        with torch.profiler.record_function(f"vanbench::{where[place]}"):
            return work()

    for _ in _turns(limit_s):
        steps.append(sampler.one_step()[0])
        with torch.profiler.profile(activities=activities) as profiler, _open_mode(built), _Around(around):
            built.step(_nothing)
            torch.cuda.synchronize()
        found = _kernels_by_operation(profiler.events(), count)
        for i, kernels in enumerate(found):
            times[i].append(sum(seconds for _, seconds in kernels))
            names[i] = list(dict.fromkeys(name for name, _ in kernels))
    if not any(names):
        notes.append("the profiler saw no kernel: CUPTI may lack rights here")
    return times, steps, names


def _kernels_by_operation(events: Any, count: int) -> list[list[tuple[str, float]]]:
    """(name, seconds) of the kernels that were launched within each of our marks, wherever below it."""
    found: list[list[tuple[str, float]]] = [[] for _ in range(count)]

    def collect(event: Any, into: list[tuple[str, float]]) -> None:
        into += [(kernel.name, kernel.duration * 1e-6) for kernel in event.kernels]
        for child in event.cpu_children:
            collect(child, into)

    for event in events or ():
        if event.name.startswith("vanbench::") and event.device_type == _DeviceType.CPU:
            collect(event, found[int(event.name.partition("::")[2])])
    return found


def kernel_names(call: Callable[[], Tensor]) -> tuple[Tensor, list[str]]:
    """A call's answer on CUDA and the names of the kernels that it ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        got = call()
        torch.cuda.synchronize()
    names = [event.name for event in profiler.events() or () if event.device_type == _DeviceType.CUDA]
    return got, list(dict.fromkeys(name for name in names if not name.startswith(("Memcpy", "Memset"))))


def backend_of_kernels(kernels: Sequence[str], device: torch.device) -> str:
    """Who wrote what ran: on a CPU primitives are oneDNN's; on CUDA the kernels' names tell, or nothing does."""
    if device.type != "cuda":
        return "oneDNN" if kernels else "native"
    for pattern, backend in _CUDA_BACKENDS:
        if any(pattern.search(kernel) for kernel in kernels):
            return backend
    return ""


def _backend(op: Op, kernels: Sequence[str], device: torch.device) -> str:
    if device.type != "cuda" and not kernels and op.name.split(".")[1] in ("mm", "addmm", "bmm", "baddbmm"):
        return "MKL" if torch.backends.mkl.is_available() else "BLAS"  # type: ignore[no-untyped-call]
    return backend_of_kernels(kernels, device)
