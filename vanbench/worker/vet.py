"""What must be known of a cell before it is timed, found in a process of its own that times nothing.

Why of its own: running the model in float64 leaves the process's heap in another state, and what is timed in it
afterwards is 2.5 % slower than in a process that did not (docs/measurement.md). Every timed process must have the same
past, in its first round as in its last.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from vanbench.analysis import blocks, cost
from vanbench.kernels.choice import Choice
from vanbench.models.load import cost_of, create
from vanbench.models.serve import fastest_depthwise
from vanbench.record.ops import Work
from vanbench.record.task import Declined, Said, Vet, Vetted
from vanbench.spec.cell import Cell
from vanbench.spec.names import AUTO
from vanbench.worker import precision
from vanbench.worker.build import (
    Built,
    NothingToChange,
    check_images,
    check_labels,
    impossible,
    reference_model,
    step_images,
    subject_model,
)
from vanbench.worker.channel import Channel
from vanbench.worker.check import inference_tolerance, training_tolerance
from vanbench.worker.choose import is_chosen, keep_choices
from vanbench.worker.decline import declining
from vanbench.worker.layout import channels_last_share
from vanbench.worker.memory import raise_the_threshold
from vanbench.worker.trace import trace_step

__all__ = ["StepCost", "Vetting", "serve", "step_cost_of", "vetting_of"]


class Vetting(msgspec.Struct, frozen=True, kw_only=True):
    """tolerances: of the check, by quantity. macs: of one image. channels_last_share: of eager execution."""

    tolerances: dict[str, float]
    macs: int | None
    channels_last_share: float | None


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """What an eager step of a cell is made of. macs: of one image, forward, all taps; the rest as in `Facts`."""

    works: tuple[Work, ...] = ()
    fused: tuple[Work, ...] = ()
    unmodelled: tuple[str, ...] = ()
    macs: int | None = None


def _file(kind: str, cell: Cell) -> Path:
    return Path(os.environ["VANBENCH_CACHE"]) / f"{cell.key}.{kind}.json"


def _layout_cell(cell: Cell) -> Cell:
    """The cells whose vetting is the same: batch size, compiling, memory and threads change none of it."""
    # What is chosen goes by batch size and threads; but each implementation keeps the layout.
    depthwise = "native" if cell.depthwise == AUTO else cell.depthwise
    return msgspec.structs.replace(
        cell, batch_size=1, compile="off", depthwise=depthwise, allocator="system", threads="auto"
    )


def _plain_cell(cell: Cell) -> Cell:
    """The same task, size and precision by native eager code, reference form, contiguous.

    What a layout or a kernel gets wrong must not widen its own tolerance.
    """
    plain = {"form": "reference", "depthwise": "native", "memory_format": "contiguous"}
    return msgspec.structs.replace(_layout_cell(cell), **plain)


def _eager_cell(cell: Cell) -> Cell:
    """The cells whose eager step is the same."""
    threads = cell.threads if cell.depthwise == AUTO else "auto"
    return msgspec.structs.replace(cell, compile="off", allocator="system", threads=threads)


def step_cost_of(cell: Cell) -> StepCost:
    """What a `Vet` task found the cell's step to be made of, in this run."""
    return msgspec.json.decode(_file("step", _eager_cell(cell)).read_bytes(), type=StepCost)


def vetting_of(cell: Cell) -> Vetting:
    """What a `Vet` task found of this cell, in this run."""
    return msgspec.json.decode(_file("vetting", _layout_cell(cell)).read_bytes(), type=Vetting)


def serve(task: Vet, channel: Channel) -> None:
    """Carry a `Vet` task out, once for all cells that share it; what it finds lies in the run's scratch folder."""
    declining(lambda: _serve(task, channel), channel)


def _serve(task: Vet, channel: Channel) -> None:
    cell, device = task.cell, torch.device(task.device)
    reason = impossible(cell, device)
    if reason is not None:
        channel.send(Declined(kind="skipped", message=reason))
        return
    if cell.depthwise == AUTO and not is_chosen(cell):
        if device.type == "cuda":
            torch.cuda.set_device(device)
        channel.send(Said(phase="choosing kernels"))
        keep_choices(cell, _choices(cell, device, task.seed))
    file = _file("vetting", _layout_cell(cell))
    if not file.exists():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        channel.send(Said(phase="vetting"))
        reference = reference_model(cell, device, task.seed)
        vetting = Vetting(
            tolerances=_tolerances(cell, reference, device, task.seed),
            macs=cost_of(cell.model, cell.image_size)[1],
            channels_last_share=_share(cell, reference, device, task.seed),
        )
        file.write_bytes(msgspec.json.encode(vetting))
    step = _file("step", _eager_cell(cell))
    if not step.exists():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        channel.send(Said(phase="counting"))
        step.write_bytes(msgspec.json.encode(_step_cost(cell, device)))
    channel.send(Vetted(loaded=_loaded_from(task.under) if task.under is not None else ()))


def _choices(cell: Cell, device: torch.device, seed: int) -> dict[str, Choice]:
    """The fastest implementation for each depthwise conv at the cell's own size, from the user's cache or timed now."""
    if isinstance(cell.threads, int):
        torch.set_num_threads(cell.threads)
    raise_the_threshold()
    plain = msgspec.structs.replace(cell, depthwise="native", compile="off")
    model = subject_model(plain, create(cell.model).to(device))
    images = step_images(cell, device, seed)
    with precision.autocast(cell.precision, device.type):
        return fastest_depthwise(model, images, precision.meaning(cell.precision).computed)


def _loaded_from(folder: str) -> tuple[str, ...]:
    """The packages of this process that lie below a folder."""
    root = Path(folder).resolve()
    return tuple(
        sorted(
            {
                name.partition(".")[0]
                for name, module in list(sys.modules.items())
                if name != "__main__" and (file := getattr(module, "__file__", None)) and _below(Path(file), root)
            }
        )
    )


def _below(file: Path, root: Path) -> bool:
    return file.resolve().is_relative_to(root)


def _step_cost(cell: Cell, device: torch.device) -> StepCost:
    """The step's operations and their cost; for a model that cannot run without memory, why there is none.

    The works are those of the cell as it is written; the bound's are of the reference form with torch's convs, since
    what a function must move and compute does not depend on how it is written.
    """
    written = _eager_cell(cell)
    plain = msgspec.structs.replace(written, form="reference", depthwise="native")
    try:
        ops = trace_step(written, subject_model(written, create(cell.model)), device)
        plain_ops = ops if plain == written else trace_step(plain, subject_model(plain, create(cell.model)), device)
    except NothingToChange:
        raise
    except Exception as error:  # someone else's forward: whatever it raises means that it cannot run so
        first = (str(error).strip().splitlines() or [""])[0]
        return StepCost(unmodelled=(f"no list of operations: {type(error).__name__}: {first}",))
    works, unknown = cost.works(ops)
    fused = blocks.fused_works(plain_ops, cell.task)
    keep = _winograd(device, cell.precision)
    return StepCost(
        works=tuple(_without_winograd(works, keep)),
        fused=tuple(_without_winograd(fused, keep)),
        unmodelled=tuple(f"{name} ({count})" for name, count in unknown.items()),
        macs=sum(cost.cost(op).macs for op in plain_ops if op.phase == "forward") // cell.batch_size,
    )


def _winograd(device: torch.device, word: str) -> bool:
    """Whether the backend has a Winograd transform for dense 3x3 convs: cuDNN but for bf16, Arm's library; not oneDNN
    on x86, whose list of implementations in torch holds none."""
    if device.type == "cuda":
        return precision.meaning(word).computed is not torch.bfloat16
    return platform.machine() in ("aarch64", "arm64")


def _without_winograd(works: list[Work], keep: bool) -> list[Work]:
    return works if keep else [msgspec.structs.replace(each, winograd_flops=0) for each in works]


def _tolerances(cell: Cell, reference: nn.Module, device: torch.device, seed: int) -> dict[str, float]:
    """The check's tolerances, from plain eager code at the cell's precision against float64, once a precision."""
    plain = _plain_cell(cell)
    file = _file("tolerances", plain)
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=dict[str, float])
    images = check_images(cell, device, seed)
    precision.set_matmul_precision(cell.precision)
    if cell.task == "infer":

        def native(x: Tensor) -> Tensor:
            subject = subject_model(plain, reference)
            with torch.no_grad(), precision.autocast(cell.precision, device.type):
                return subject(x.to(precision.input_dtype(cell.precision)))  # type: ignore[no-any-return]

        tolerances = {"logits": inference_tolerance(reference, images, native, precision=cell.precision)}
    else:

        def native_training(x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return Built(plain, subject_model(plain, reference), device, seed).gradients(x, y)

        tolerances = training_tolerance(
            reference, images, check_labels(images), native_training, precision=cell.precision
        )
    file.write_bytes(msgspec.json.encode(tolerances))
    return tolerances


def _share(cell: Cell, reference: nn.Module, device: torch.device, seed: int) -> float | None:
    subject = subject_model(_layout_cell(cell), reference).eval()
    images = check_images(cell, device, seed)
    images = images.to(
        dtype=precision.input_dtype(cell.precision),
        memory_format=torch.channels_last if cell.memory_format == "channels_last" else torch.contiguous_format,
    )
    with torch.no_grad(), precision.autocast(cell.precision, device.type):
        return channels_last_share(subject, lambda: subject(images))
