"""Depthwise convs alone: which occur in a model, and how long each takes by each implementation, warm and cold."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from vanbench.analysis.cost import cost
from vanbench.kernels import roofs
from vanbench.kernels.compiled import NoCompiler
from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry, inputs_of, reference
from vanbench.models.load import create
from vanbench.record.profile import Case, CaseVisit, Shape
from vanbench.record.task import FindShapes, Over, Said, Shaped, TimeCases, Visited
from vanbench.spec.cell import Cell
from vanbench.spec.names import CUDA_DEPTHWISE
from vanbench.worker import precision
from vanbench.worker.channel import Channel
from vanbench.worker.clock import clock_for
from vanbench.worker.decline import declining
from vanbench.worker.memory import raise_the_threshold
from vanbench.worker.profile import backend_of_kernels, kernel_names, onednn_log, primitives, standard_output_to
from vanbench.worker.trace import trace_step

__all__ = ["serve", "shapes"]

# A visit's calls in a row last about so long, and are so many at least, and as many again before them that nobody times
# (a map of 25 MB finds its place in the caches in about four calls); a call that takes longer is a visit by itself.
_WARM_S = 0.008
_WARM_CALLS = 4
_COLD_CALLS = 3
_SAY_S = 1.0
# Without an instruction that evicts, a buffer this large is written instead: more than any cache holds.
_SWEEP_BYTES = 1 << 30
_CUDA_SWEEP_BYTES = 256 << 20
# Relative L2 against float64 on the same inputs. fp32: sums of up to 10^5 products; 16 bit: the output's rounding.
_ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def serve(task: FindShapes | TimeCases, channel: Channel) -> None:
    """Carry either task out."""
    if isinstance(task, FindShapes):
        declining(lambda: channel.send(Shaped(shapes=_all_shapes(task))), channel)
    else:
        declining(lambda: _time(task, channel), channel)


def _all_shapes(task: FindShapes) -> list[Shape]:
    return [shape for model in task.models for shape in shapes(model, task.image_size)]


def shapes(model: str, image_size: int) -> list[Shape]:
    """The depthwise convs of one forward pass, in order; square kernels with padding that keeps the map, as here."""
    cell = Cell(model=model, image_size=image_size)
    found = []
    for op in trace_step(cell, create(model).eval(), torch.device("cpu")):
        if op.name != "aten.convolution.default" or cost(op).op_class != "depthwise":
            continue
        _, channels, height, width = op.inputs["input"][0].shape
        kernel, dilation, stride, padding = (
            op.inputs["weight"][0].shape[2:],
            op.arguments["dilation"],
            op.arguments["stride"],
            op.arguments["padding"],
        )
        geometry = Geometry(kernel[0], dilation[0], stride[0])
        square = all(len(set(each)) == 1 for each in (tuple(kernel), tuple(dilation), tuple(stride), tuple(padding)))
        if square and padding[0] == geometry.padding and op.inputs["weight"][0].shape[0] == channels:
            found.append(
                Shape(
                    model=model,
                    channels=channels,
                    height=height,
                    width=width,
                    kernel_size=geometry.kernel_size,
                    dilation=geometry.dilation,
                    stride=geometry.stride,
                )
            )
    return found


def _time(task: TimeCases, channel: Channel) -> None:
    device = torch.device(task.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif isinstance(task.threads, int):
        torch.set_num_threads(task.threads)
    raise_the_threshold()
    precision.set_matmul_precision("fp32")
    generator = random.Random(task.seed)
    empty = _emptier(device)
    # What occurs in the models first: if the time is too short, the rest is what is missing.
    order = list(range(len(task.cases)))
    generator.shuffle(order)
    order.sort(key=lambda i: not task.cases[i].models)
    end, said, reached = perf_counter() + task.seconds, perf_counter(), 0
    with torch.inference_mode():
        for i in order:
            if perf_counter() >= end:
                break
            for visit in _visits(i, task, device, generator, empty):
                channel.send(Visited(visit=visit))
            reached += 1
            if perf_counter() - said > _SAY_S:
                said = perf_counter()
                channel.send(Said(phase=f"{reached} of {len(order)} cases"))
    channel.send(Over(reached=reached, threads=torch.get_num_threads() if device.type == "cpu" else 1))


_Emptier = tuple[Callable[[list[Tensor]], None], str]


def _emptier(device: torch.device) -> _Emptier:
    """What empties the caches of these tensors' memory, and how it does that, in words."""
    if device.type == "cuda":
        sweep = torch.zeros(_CUDA_SWEEP_BYTES // 4, device=device)

        def sweep_device(tensors: list[Tensor]) -> None:
            sweep.fill_(1.0)

        return sweep_device, f"{_CUDA_SWEEP_BYTES >> 20} MiB written before each call"
    try:
        if roofs.evict(torch.zeros(16)):

            def evict(tensors: list[Tensor]) -> None:
                for tensor in tensors:
                    roofs.evict(tensor)

            return evict, "operands' lines evicted before each call (clflush)"
    except NoCompiler:
        pass
    swept = torch.zeros(_SWEEP_BYTES // 4)

    def sweep_memory(tensors: list[Tensor]) -> None:
        swept.add_(1.0)

    return sweep_memory, f"{_SWEEP_BYTES >> 20} MiB written before each call"


def _visits(
    i: int, task: TimeCases, device: torch.device, generator: random.Random, empty: _Emptier
) -> list[CaseVisit]:
    """One visit of a case by each implementation, in random order, on the same tensors."""
    case = task.cases[i]
    geometry = Geometry(case.kernel_size, case.dilation, case.stride)
    why_not = precision.unsupported(case.precision, device)
    words = list(task.implementations)
    generator.shuffle(words)
    if why_not is not None:
        return [CaseVisit(case=i, depthwise=word, status="skipped", reason=why_not) for word in words]
    precision.set_matmul_precision(case.precision)
    tensors = inputs_of(
        case.batch_size,
        case.channels,
        case.height,
        case.width,
        geometry,
        precision.input_dtype(case.precision),
        _FORMATS[case.memory_format],
        device,
        task.seed,
    )
    expected = reference(case.direction, *tensors, geometry) if task.check else None
    return [_visit(i, case, word, geometry, tensors, expected, device, empty) for word in words]


def _visit(
    i: int,
    case: Case,
    word: str,
    geometry: Geometry,
    tensors: tuple[Tensor, Tensor, Tensor],
    expected: Tensor | None,
    device: torch.device,
    empty: _Emptier,
) -> CaseVisit:
    implementation = IMPLEMENTATIONS[word]
    reason = implementation.why_not(device.type, geometry, tensors[0].dtype)
    if reason is not None:
        return CaseVisit(case=i, depthwise=word, status="skipped", reason=reason)
    x, w, g = tensors
    calls: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: implementation.forward(x, w, None, geometry),
        "grad_input": lambda: implementation.grad_input(g, x, w, geometry),
        "grad_weight": lambda: implementation.grad_weight(g, x, w, geometry),
    }
    call = calls[case.direction]
    kernels: list[str] = []
    error = allowed = None
    try:
        if expected is not None:
            got, kernels = _named(call, device)
            ends = got if case.direction == "grad_weight" else got[[0, got.shape[0] - 1]]
            error = float((ends.double() - expected).norm() / expected.norm())
            allowed = _ALLOWED[x.dtype]
            if not error <= allowed:
                return CaseVisit(
                    case=i,
                    depthwise=word,
                    status="failed",
                    reason=f"wrong_answer: differs from float64 by {error:.3g} (relative L2, at most {allowed:g})",
                    error=error,
                    allowed=allowed,
                )
        warm, cold = _times(call, [x, w, g], device, empty[0])
    except torch.OutOfMemoryError as problem:
        return CaseVisit(case=i, depthwise=word, status="failed", reason=f"out_of_memory: {problem}")
    return CaseVisit(
        case=i,
        depthwise=word,
        warm_s=warm,
        cold_s=cold,
        how_cold=empty[1],
        backend=_backend(word, kernels, device) if expected is not None else "",
        kernels=tuple(kernels),
        error=error,
        allowed=allowed,
    )


def _backend(word: str, kernels: list[str], device: torch.device) -> str:
    if word in CUDA_DEPTHWISE and device.type == "cpu":
        return "emulated"
    return backend_of_kernels(kernels, device)


def _named(call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, list[str]]:
    """One call's answer, and the primitives or kernels that gave it."""
    if device.type == "cuda":
        return kernel_names(call)
    with tempfile.TemporaryFile() as file:
        with standard_output_to(file.fileno()), onednn_log():
            got = call()
        text = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
    return got, primitives(text)


def _times(
    call: Callable[[], Tensor], tensors: list[Tensor], device: torch.device, empty: Callable[[list[Tensor]], None]
) -> tuple[float, float]:
    """(seconds of a call among calls in a row, seconds of a call on empty caches)."""
    clock = clock_for(device)
    out = call()
    clock.synchronize()
    start = perf_counter()
    out = call()
    clock.synchronize()
    once = perf_counter() - start
    count = max(_WARM_CALLS if once < _WARM_S else 1, round(_WARM_S / max(once, 1e-7)))
    for _ in range(_WARM_CALLS if once < _WARM_S else 0):
        out = call()
    clock.synchronize()
    clock.start()
    for _ in range(count):
        out = call()
    clock.mark()
    clock.synchronize()
    warm = clock.spans()[0] / count
    cold = []
    for _ in range(_COLD_CALLS):
        # The output's memory too: the next call is given the same.
        empty([*tensors, out])
        del out
        clock.synchronize()
        clock.start()
        out = call()  # noqa: F841 -- emptied before the next call
        clock.mark()
        clock.synchronize()
        cold.append(clock.spans()[0])
    return warm, sorted(cold)[len(cold) // 2]
