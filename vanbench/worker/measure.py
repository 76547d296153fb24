"""One cell in one process: build, check the answer, compile, warm up, then a sample whenever the parent asks."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from vanbench.models.serve import depthwise_words
from vanbench.record.measurement import Answer, Facts
from vanbench.record.task import Ask, Closed, Declined, Measure, Ready, Said, Taken
from vanbench.spec.cell import Cell
from vanbench.worker import precision
from vanbench.worker.build import Built, build, check_images, check_labels, impossible, reference_model
from vanbench.worker.channel import Channel
from vanbench.worker.check import Check, NonFinite, check_inference, check_training
from vanbench.worker.decline import declining
from vanbench.worker.disturbance import Watch
from vanbench.worker.gpu import nvml_for
from vanbench.worker.memory import PeakMemory, allocator_in_use, free_bytes, raise_the_threshold, resident_bytes
from vanbench.worker.sample import Sampler, finite
from vanbench.worker.vet import Vetting, step_cost_of, vetting_of

__all__ = ["Checked", "prepared", "right_answer", "serve"]

# The counter moves about ten times a second (facts: NVML), so a window of 5 s is known to 2 %.
ENERGY_WINDOW_S = 5.0
_ASK = msgspec.json.Decoder(Ask)


def serve(task: Measure, channel: Channel) -> None:
    """Carry a `Measure` task through to its last word; every failure becomes a `Declined` with its kind."""
    declining(lambda: _serve(task, channel), channel)


def prepared(cell: Cell, device: torch.device, seed: int, channel: Channel) -> tuple[Built, nn.Module] | None:
    """The cell ready to step, and its fp32 reference; None once the channel was told why it cannot be here."""
    reason = impossible(cell, device)
    if reason is not None:
        channel.send(Declined(kind="skipped", message=reason))
        return None
    if cell.allocator not in ("system", allocator_in_use()):
        message = f"this process was started for allocator={cell.allocator}, and {allocator_in_use()} serves it"
        channel.send(Declined(kind="exception", message=message))
        return None
    if isinstance(cell.threads, int):
        torch.set_num_threads(cell.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    raise_the_threshold()
    channel.send(Said(phase="building"))
    reference = reference_model(cell, device, seed)
    precision.set_matmul_precision(cell.precision)
    return build(cell, reference, device, seed), reference


class Checked(NamedTuple):
    """An answer that passed, and how far off it was."""

    check: Check
    answer: Answer


def right_answer(built: Built, reference: nn.Module, seed: int, channel: Channel) -> Checked | None:
    """What the check against the fp32 reference found; None once the channel was told that the answer is wrong."""
    channel.send(Said(phase="checking"))
    checked = _check(built, reference, seed, vetting_of(built.cell))
    if checked.check.passed:
        return checked
    quantity, error, tolerance = checked.check
    message = (
        f"{quantity} differs from the fp32 reference by {error:.3g} (relative L2, at most {tolerance:.3g} allowed)"
    )
    channel.send(Declined(kind="wrong_answer", message=message))
    return None


def _serve(task: Measure, channel: Channel) -> None:
    cell, device = task.cell, torch.device(task.device)
    ready = prepared(cell, device, task.seed, channel)
    if ready is None:
        return
    built, reference = ready
    sampler = Sampler(built, task.sampling, task.slowdown)
    first_call = None
    if cell.compile != "off":
        channel.send(Said(phase="compiling"))
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(os.environ["VANBENCH_CACHE"], cell.key)
        first_call, _ = sampler.one_step()
        if cell.task == "train":
            # The step has moved the weights that the check compares.
            built.eager.load_state_dict(reference.state_dict())
    checked = right_answer(built, reference, task.seed, channel)
    if checked is None:
        return
    facts = _facts(task, reference, device, checked.check, vetting_of(cell))
    facts = msgspec.structs.replace(facts, depthwise_convs=depthwise_words(built.eager))
    del ready
    del reference
    breaks = _compiled().graph_breaks
    if cell.compile != "off" and cell.task == "train":
        # The check compiled a graph for its two images. Start over, so that the timed function guards one shape;
        # the graph itself comes back from the cache that the first call filled.
        torch._dynamo.reset()
    memory = PeakMemory(device)
    memory.reset()
    channel.send(Said(phase="warming up"))
    warmup, output = sampler.warm_up(lambda: _compiled().graphs)
    if not finite(output):
        raise NonFinite("the loss" if cell.task == "train" else "the output")
    at_start = _compiled()
    steady = statistics.median(warmup[len(warmup) // 2 :])
    channel.send(
        Ready(
            facts=facts,
            warmup_sample_s=warmup,
            steps=sampler.steps,
            held_bytes=_held(device),
            free_bytes=free_bytes(device),
            compile_s=None if first_call is None else max(0.0, first_call - steady),
            compile_cold=task.first,
            graph_breaks=breaks,
            enqueue_share=sampler.enqueue_share,
            answer=checked.answer if task.answer else None,
        )
    )
    watch = Watch(nvml_for(device))
    while True:
        line = channel.receive()
        if line is None:
            return  # the parent has gone
        if _ASK.decode(line).ask == "close":
            break
        sampler.settle()
        watch.before()
        sample = sampler.take()
        watch.after(len(sample.step_s))
        channel.send(Taken(sample=sample))
    peak, reserved = memory.read()
    energy = _energy(task, sampler, device)
    after = _compiled()
    channel.send(
        Closed(
            disturbance=watch.seen,
            recompiles=after.graphs - at_start.graphs,
            graph_breaks=breaks,
            peak_bytes=peak,
            peak_reserved_bytes=reserved,
            energy_j=energy[0] if energy else None,
            energy_images=energy[1] if energy else None,
        )
    )


def _check(built: Built, reference: nn.Module, seed: int, known: Vetting) -> Checked:
    """Compare two images' answers with the fp32 reference, before anything is timed."""
    cell = built.cell
    images = check_images(cell, built.device, seed)
    word = cell.precision
    if cell.task == "infer":
        got = _answers(built, images)
        tolerance = known.tolerances["logits"]
        check = check_inference(reference, images, got, None, tolerance, precision=word)
        answer = Answer(quantity="logits", rows=got.float().tolist(), tolerances=[tolerance] * len(got))
    else:
        labels = check_labels(images)
        loss, gradients = built.gradients(images, labels)
        check = check_training(reference, images, labels, loss, gradients, None, known.tolerances, precision=word)
        answer = _training_answer(loss, gradients, known.tolerances)
    precision.set_matmul_precision(word)
    return Checked(check, answer)


def _training_answer(loss: Tensor, gradients: Mapping[str, Tensor], tolerances: Mapping[str, float]) -> Answer:
    """The loss and the norm over all gradients. That each gradient is right, the check against the reference says."""
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in gradients.values()))
    of_gradients = [tolerance for quantity, tolerance in tolerances.items() if quantity != "loss"]
    return Answer(
        quantity="loss and gradients",
        rows=[[float(loss)], [norm]],
        tolerances=[tolerances["loss"], statistics.median(of_gradients) if of_gradients else tolerances["loss"]],
    )


def _answers(built: Built, images: Tensor) -> Tensor:
    """The logits (2, classes) of two images, computed at the cell's own batch size, so by the timed program."""
    batch = built.cell.batch_size
    with built.mode():
        if batch == 1:
            return torch.cat([built.model(built.as_input(image[None])) for image in images])
        # The two images stand first and last; a kernel that is wrong at the end of a batch is found too.
        order = [0] * (batch - 1) + [1]
        return built.model(built.as_input(images[order]))[[0, batch - 1]]


def _facts(task: Measure, reference: nn.Module, device: torch.device, checked: Check, known: Vetting) -> Facts:
    step = step_cost_of(task.cell)
    return Facts(
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        threads=torch.get_num_threads(),
        params=sum(p.numel() for p in reference.parameters()),
        macs=step.macs if step.macs is not None else known.macs,
        check_quantity=checked.quantity,
        check_error=checked.error,
        check_tolerance=checked.tolerance,
        channels_last_share=known.channels_last_share if task.cell.compile == "off" else None,
        works=step.works,
        fused=step.fused,
        unmodelled=step.unmodelled,
    )


def _held(device: torch.device) -> int:
    """Memory this process keeps on the device while it idles."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return resident_bytes() or 0


def _energy(task: Measure, sampler: Sampler, device: torch.device) -> tuple[float, int] | None:
    """(joules, images) over an uninterrupted window, where it is wanted and NVML has the counter."""
    nvml = nvml_for(device) if task.energy else None
    before = nvml.energy_j() if nvml else None
    if nvml is None or before is None:
        return None
    images = sampler.run_for(ENERGY_WINDOW_S)
    after = nvml.energy_j()
    return None if after is None else (after - before, images)


class _Counts(NamedTuple):
    graphs: int
    graph_breaks: int


def _compiled() -> _Counts:
    """How many graphs torch.compile has made in this process, and how often it broke one."""
    from torch._dynamo.utils import counters

    return _Counts(int(counters["stats"]["unique_graphs"]), sum(counters["graph_break"].values()))
