"""Right before fast: is what a cell computes still the model?

The answer of a cell is compared with the same weights run by plain eager float32 code. How far it may be off is not
guessed but measured: three times the error that plain eager code makes at the cell's own precision, against float64.
Functions over tensors and modules; nothing here builds, times or records. Without weights under which every branch
matters (`models/weights.py`) such a comparison has no teeth.
"""

import copy
import math
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vanbench.worker.precision import full_float32, meaning

MARGIN = 3.0  # a correct kernel that sums in another order errs as much as eager code does, give or take

# No tolerance is tighter: where eager code happens to err by less, another correct algorithm (Winograd, a fused
# kernel) still may err by this much. About 500 roundings of float32, 1 to 2 of the others.
FLOOR = {"fp32": 1e-4, "tf32": 2e-3, "bf16": 1e-2, "fp16": 2e-3, "amp-bf16": 1e-2, "amp-fp16": 2e-3}

# A parameter's gradient is judged on a scale of at least this share of a typical gradient of the model; below it,
# what is compared is rounding.
SMALLEST_GRADIENT_SHARE = 1e-3

Gradients = Mapping[str, Tensor]
Native = Callable[[Tensor], Tensor]
NativeTraining = Callable[[Tensor, Tensor], tuple[Tensor, Gradients]]


class NonFinite(Exception):  # noqa: N818  (an outcome of a cell, by its name in the records)
    """An infinity or a NaN where a number belongs; `what` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not finite (an infinity or NaN)")
        self.what = what


class Check(NamedTuple):
    """One comparison: what was compared, how far off it was, how far off it may be (relative, no unit)."""

    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; a NaN is not."""
        return self.error <= self.tolerance


def check_inference(
    reference: nn.Module,
    images: Tensor,
    got: Tensor,
    native: Native | None,
    tolerance: float | None = None,
    *,
    precision: str,
) -> Check:
    """Compare a cell's logits with those of the reference.

    The error is the relative L2 distance of an image's logits from the reference's, of the worst image.

    Args:
        reference: the model in its reference form, float32; is run in eval mode and left as it was.
        images: (N, C, H, W) float32 on the reference's device.
        got: (N, classes), the cell's output for them, of any type and device.
        native: runs plain eager code at the cell's precision, with the same weights, on float32 images; unused and
            may be None where the tolerance is given.
        tolerance: from `inference_tolerance`, or from an earlier check of the same cell.
        precision: of the cell.

    Raises:
        NonFinite: for an infinity or NaN in `got` or in the reference.
        ValueError: for neither a tolerance nor native code to measure it with.
    """
    _finite(got, "logits")
    expected = _logits(reference, images)
    _finite(expected, "the float32 reference's logits")
    if tolerance is None:
        tolerance = inference_tolerance(reference, images, native, precision=precision)
    return Check("logits", _worst_image(got, expected), tolerance)


def inference_tolerance(reference: nn.Module, images: Tensor, native: Native | None, *, precision: str) -> float:
    """Three times native code's error in the logits against float64, and no less than `FLOOR[precision]`.

    Takes a float64 copy of the model while it runs. Arguments and errors as `check_inference`.
    """
    if native is None:
        raise ValueError("without a tolerance, native code is needed to measure one")
    meaning(precision)
    with torch.no_grad():
        native_logits = native(images)
    _finite(native_logits, f"native eager logits in {precision}")
    exact = _logits(copy.deepcopy(reference).double(), images.double())
    return max(FLOOR[precision], MARGIN * _worst_image(native_logits, exact))


def check_training(
    reference: nn.Module,
    images: Tensor,
    labels: Tensor,
    got_loss: Tensor,
    got_grads: Gradients,
    native: NativeTraining | None,
    tolerance: Mapping[str, float] | None = None,
    *,
    precision: str,
) -> Check:
    """Compare a cell's loss and every parameter's gradient with the reference's; gives the worst against tolerance.

    A gradient's error is the L2 distance from the reference's over the largest of three norms: the reference
    gradient's own; that which the parameter would have if its elements were as large as those of the other
    parameters of its module; and a thousandth of the same over the whole model. The second is there for gradients
    that are exactly zero, such as that of a bias before a batch norm in training mode: all that is left of it is
    rounding, in proportion to its layer's weight gradient, and nothing relative to zero.

    Args:
        reference: the model in its reference form, float32, without dropout or stochastic depth; runs in training
            mode, as a copy, so that its running statistics stay.
        images: (N, C, H, W) float32 on the reference's device.
        labels: (N,) integer classes.
        got_loss: the cell's mean cross-entropy on them.
        got_grads: the cell's gradients by the reference's parameter names, unscaled if a GradScaler is in use.
        native: runs plain eager code at the cell's precision, with the same weights; gives loss and gradients.
            May be None where the tolerance is given.
        tolerance: from `training_tolerance`, or from an earlier check of the same cell.
        precision: of the cell.

    Returns:
        A Check whose quantity is "loss" or "gradient of NAME". A missing or extra gradient has an infinite error.

    Raises:
        NonFinite: for an infinity or NaN in the cell's values or the reference's.
        ValueError: for neither a tolerance nor native code to measure it with.
    """
    _finite(got_loss, "loss")
    for name, grad in got_grads.items():
        _finite(grad, _gradient(name))
    loss, grads = _loss_and_gradients(copy.deepcopy(reference), images, labels)
    _finite(loss, "the float32 reference's loss")
    for name, grad in grads.items():
        _finite(grad, f"the float32 reference's {_gradient(name)}")
    for name in grads.keys() ^ got_grads.keys():
        return Check(_gradient(name), math.inf, 0.0)
    if tolerance is None:
        tolerance = training_tolerance(reference, images, labels, native, precision=precision)
    errors = _training_errors(got_loss, got_grads, loss, grads)
    checks = [Check(quantity, error, tolerance[quantity]) for quantity, error in errors.items()]
    return max(checks, key=lambda check: math.inf if math.isnan(check.error) else check.error / check.tolerance)


def training_tolerance(
    reference: nn.Module, images: Tensor, labels: Tensor, native: NativeTraining | None, *, precision: str
) -> dict[str, float]:
    """The tolerance of the loss and of each gradient, by `Check.quantity`.

    Three times native code's error against float64, no less than `FLOOR[precision]`, and for a gradient no less than
    three times the *median* error of all gradients: a parameter of few elements can be nearly right by luck.
    Takes a float64 copy of the model while it runs. Arguments and errors as `check_training`.
    """
    if native is None:
        raise ValueError("without a tolerance, native code is needed to measure one")
    meaning(precision)
    native_loss, native_grads = native(images, labels)
    _finite(native_loss, f"native eager loss in {precision}")
    for name, grad in native_grads.items():
        _finite(grad, f"native eager {_gradient(name)} in {precision}")
    loss, grads = _loss_and_gradients(copy.deepcopy(reference).double(), images.double(), labels)
    errors = _training_errors(native_loss, native_grads, loss, grads)
    typical = median(error for quantity, error in errors.items() if quantity != "loss")
    return {
        quantity: max(FLOOR[precision], MARGIN * (error if quantity == "loss" else max(error, typical)))
        for quantity, error in errors.items()
    }


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), full_float32():
            logits: Tensor = model(images)
    finally:
        for module, flag in flags.items():
            module.training = flag
    return logits


def _loss_and_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of `model`, which is the caller's to spoil: its running statistics move."""
    model.train()
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.enable_grad(), full_float32():
        loss = F.cross_entropy(model(images), labels)
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    by_name = {name: grad for name, grad in zip(parameters, grads, strict=True) if grad is not None}
    return loss.detach(), by_name


def _worst_image(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        raise ValueError(f"logits are of shape {tuple(got.shape)}, the reference's of {tuple(expected.shape)}")
    expected = expected.double().flatten(1)
    distance = (got.to(expected.device).double().flatten(1) - expected).norm(dim=1)
    return float((distance / expected.norm(dim=1)).max())


def _training_errors(got_loss: Tensor, got: Gradients, loss: Tensor, grads: Gradients) -> dict[str, float]:
    errors = {"loss": abs(float(got_loss) - float(loss)) / abs(float(loss))}
    squares: dict[str, float] = {}
    elements: dict[str, int] = {}
    for name, grad in grads.items():
        module = name.rpartition(".")[0]
        squares[module] = squares.get(module, 0.0) + float(grad.double().square().sum())
        elements[module] = elements.get(module, 0) + grad.numel()
    typical = math.sqrt(sum(squares.values()) / sum(elements.values()))
    for name, grad in grads.items():
        module = name.rpartition(".")[0]
        rms = max(math.sqrt(squares[module] / elements[module]), SMALLEST_GRADIENT_SHARE * typical)
        scale = max(float(grad.double().norm()), rms * math.sqrt(grad.numel()))
        distance = float((got[name].to(grad.device).double() - grad.double()).norm())
        errors[_gradient(name)] = distance / scale if scale > 0 else (0.0 if distance == 0 else math.inf)
    return errors


def _gradient(name: str) -> str:
    return f"gradient of {name}"


def _finite(tensor: Tensor, what: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise NonFinite(what)
