"""From a cell to something that runs: the model as the cell asks for it, its inputs, and one step of its task."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vanbench.models.convert import use_form
from vanbench.models.load import create
from vanbench.models.serve import depthwise_convs, use_depthwise, use_fastest
from vanbench.models.weights import draw_weights
from vanbench.spec.cell import Cell
from vanbench.spec.names import AUTO
from vanbench.worker import precision
from vanbench.worker.choose import chosen

__all__ = [
    "Built",
    "NothingToChange",
    "Step",
    "build",
    "check_images",
    "check_labels",
    "impossible",
    "reference_model",
    "step_images",
    "subject_model",
]

# Inputs take turns, so that no step finds its images in a cache because the last step left them there.
BUFFERS = 4
# Small, so that random labels cannot drive the weights anywhere in a few thousand steps; the arithmetic is the same.
LEARNING_RATE = 1e-6
# fp16 gradients of two images underflow without a scale; a GradScaler starts far higher and would overflow here.
_CHECK_LOSS_SCALE = 1024.0
# Enough for batch statistics at the last stage's 7 x 7 maps.
_CALIBRATION_IMAGES = 2
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Step = Callable[[Callable[[], None]], Tensor]
"""One step. Calls its argument after forward and after backward (train); returns the logits or the loss."""


def impossible(cell: Cell, device: torch.device) -> str | None:
    """Why this device has no such cell, or None."""
    reason = precision.unsupported(cell.precision, device)
    if reason is not None:
        return reason
    if device.type == "cpu" and cell.compile == "reduce-overhead":
        return "compile=reduce-overhead is CUDA graphs: the CPU has none"
    if cell.form == "folded" and cell.task == "train":
        return "form=folded is for inference: its batch norms are part of its weights"
    return None


class NothingToChange(Exception):  # noqa: N818 -- an outcome of a cell, not a mistake
    """The model has nothing that the cell's form or depthwise could change; the message says what."""


def _images(count: int, size: int, device: torch.device, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator).to(device)


def _as_input(cell: Cell, images: Tensor) -> Tensor:
    return images.to(dtype=precision.input_dtype(cell.precision), memory_format=_FORMATS[cell.memory_format])


def step_images(cell: Cell, device: torch.device, seed: int) -> Tensor:
    """Images of a step, (batch, 3, H, W), in the cell's type and memory format."""
    return _as_input(cell, _images(cell.batch_size, cell.image_size, device, seed))


def check_images(cell: Cell, device: torch.device, seed: int) -> Tensor:
    """The two images the answer is checked on, (2, 3, H, W) fp32."""
    return _images(2, cell.image_size, device, seed + 1)


def check_labels(images: Tensor) -> Tensor:
    """Labels for `check_images`, (2,): the first classes, which every classifier has."""
    return torch.arange(len(images), device=images.device)


def reference_model(cell: Cell, device: torch.device, seed: int) -> nn.Module:
    """The model in fp32, eager, reference form, contiguous, eval mode; under its weights every branch matters."""
    torch.manual_seed(seed)
    model = create(cell.model)
    draw_weights(model, seed, _images(_CALIBRATION_IMAGES, cell.image_size, torch.device("cpu"), seed))
    return model.to(device).eval()


def subject_model(cell: Cell, reference: nn.Module) -> nn.Module:
    """A copy of the reference as the cell asks for it, but for compiling: form, precision, memory format, mode.

    Raises:
        NothingToChange: under another name it would be a cell that there is already.
    """
    model = copy.deepcopy(reference)
    # Folded before the cast: weights are rounded once.
    if cell.form != "reference" and not use_form(model, cell.form):
        raise NothingToChange(f"{cell.model} has nothing that form={cell.form} changes")
    model = precision.cast(model, cell.precision)
    if cell.depthwise == AUTO:
        if not depthwise_convs(model):
            raise NothingToChange(f"{cell.model} has no depthwise convolution that depthwise={AUTO} could choose for")
        use_fastest(model, chosen(cell))
    elif cell.depthwise != "native":
        served = use_depthwise(model, cell.depthwise, precision.meaning(cell.precision).computed)
        if not served.changes:
            why = f": {served.left[0]}" if served.left else ""
            raise NothingToChange(f"{cell.model} has no convolution that depthwise={cell.depthwise} serves{why}")
    model = model.to(memory_format=_FORMATS[cell.memory_format])
    return model.train(cell.task == "train")


class Built:
    """A model that is ready to step, its inputs (`BUFFERS` of them, in its dtype and layout) and its optimizer."""

    def __init__(self, cell: Cell, model: nn.Module, device: torch.device, seed: int) -> None:
        self.cell = cell
        self.device = device
        self.eager = model
        self.model: Callable[[Tensor], Tensor] = model
        if cell.compile != "off":
            # Static shapes: a benchmark sees one shape, and a dynamic graph would be another program.
            mode = None if cell.compile == "default" else cell.compile
            self.model = torch.compile(model, mode=mode, dynamic=False)
        self._turn = 0
        self.inputs = [
            self.as_input(_images(cell.batch_size, cell.image_size, device, seed + 10 + i)) for i in range(BUFFERS)
        ]
        generator = torch.Generator().manual_seed(seed)
        classes = getattr(model, "num_classes", None)
        classes = classes if isinstance(classes, int) else 1000
        self.labels = torch.randint(0, max(classes, 1), (cell.batch_size,), generator=generator).to(device)
        self._optimizer: torch.optim.Optimizer | None = None
        self._scaler: torch.amp.GradScaler | None = None
        if cell.task == "train":
            self._optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
            if precision.needs_grad_scaler(cell.precision, cell.task):
                self._scaler = torch.amp.GradScaler(device.type)
        self.step: Step = self._infer if cell.task == "infer" else self._train

    def as_input(self, images: Tensor) -> Tensor:
        """fp32 images as this cell takes them."""
        return _as_input(self.cell, images)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of a batch, the logits and the loss under the cell's autocast."""
        with precision.autocast(self.cell.precision, self.device.type):
            return F.cross_entropy(self.model(images), labels)

    def gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, gradient by parameter name, unscaled) of fp32 images in training mode; leaves none behind."""
        self.eager.zero_grad(set_to_none=True)
        loss = self.loss(self.as_input(images), labels)
        scale = _CHECK_LOSS_SCALE if self._scaler is not None else 1.0
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        found = {n: p.grad.float() / scale for n, p in self.eager.named_parameters() if p.grad is not None}
        self.eager.zero_grad(set_to_none=True)
        return loss.detach(), found

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """Around all steps of a sample: no gradients are recorded for inference."""
        if self.cell.task == "infer":
            with torch.inference_mode(), precision.autocast(self.cell.precision, self.device.type):
                yield
        else:
            yield

    def _next(self) -> Tensor:
        self._turn = (self._turn + 1) % BUFFERS
        return self.inputs[self._turn]

    def _infer(self, mark: Callable[[], None]) -> Tensor:
        return self.model(self._next())

    def _train(self, mark: Callable[[], None]) -> Tensor:
        assert self._optimizer is not None
        loss = self.loss(self._next(), self.labels)
        mark()
        scaler = self._scaler
        if scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            mark()
            self._optimizer.step()
        else:
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            mark()
            scaler.step(self._optimizer)
            scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def build(cell: Cell, reference: nn.Module, device: torch.device, seed: int) -> Built:
    """The cell, ready to step; `reference` is left as it is."""
    return Built(cell, subject_model(cell, reference), device, seed)
