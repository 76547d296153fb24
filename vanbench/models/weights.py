"""Weights under which every branch of a model matters, so that a wrong branch shows in the logits.

Freshly initialised networks hide mistakes: their layer scales are 1e-2 or 1e-6, the last norm of a residual branch
may start at zero, and a model with its depthwise convolutions zeroed gives nearly the same logits. Order-one weights
alone do not help either: a deep random network is chaotic and enlarges rounding errors as much as mistakes. The
constants below were chosen by zeroing one depthwise (or 3x3) convolution after another in bf16 and dividing the
smallest movement of the logits by bf16's own error. Nothing here is trained, and nothing is specific to one model:
types, shapes and neighbours of the modules decide.
"""

import math
import zlib

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

SCALE_RANGE = (0.5, 1.5)  # norm weights; relative, of layer scales too: of order one, no two channels alike
BIAS_STD = 0.1  # beside a weighted sum of rms 1
# Means of the biases just before an activation. On its nearly straight side an activation passes differences on;
# around zero, ReLU between batch norms enlarges them by E[f'^2]/Var(f), a factor of 1.5 in the square a layer: with
# zero means bf16's error in resnet50's logits is 33 %, with these it is 1.2 %.
NORM_BIAS_MEAN = 1.5
LAYER_BIAS_MEAN = 1.0
GROUPED_BIAS_MEAN = 0.25  # a depthwise convolution drowned by its own bias would not be missed
# Rms of a layer scale over that of the stream it adds to. A fixed share of the stream for every branch; with a fixed
# scale the last of VAN-B3's 54 branches in stage 3 has a tenth of the first one's, since VAN's inner shortcut makes
# the stream grow linearly. Shares above 0.6 turn deep VANs chaotic.
LAYER_SCALE_SHARE = 0.3
# A channel that hardly varies over the calibration images would be blown up by its norm, rounding errors included.
SMALLEST_VARIANCE_SHARE = 0.1

_LAYERS = (_ConvNd, nn.Linear)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)


def draw_weights(model: nn.Module, seed: int, images: Tensor) -> None:
    """Redraw all parameters of `model` in place and calibrate its batch norms on `images`.

    Every tensor is drawn from a generator of its own, seeded by `seed` and the parameter's name: neither the global
    random state nor the order of construction has a say. Then one forward pass, batch norms in training mode, dropout
    and stochastic depth off, scales each convolution's and linear layer's weight such that its weighted sum has rms 1
    (as the layer-sequential scheme of Mishkin & Matas, arXiv 1511.06422, but on the rms), each layer scale to a fixed
    share of the stream it works on, and sets the running statistics to those of that pass.

    Args:
        model: on any device, in float32. Its training flags are as before afterwards.
        seed: of the draw; equal seeds give equal weights.
        images: (N, C, H, W) float32 on the model's device, of the size the model will be checked at.

    Raises:
        ValueError: from a batch norm that sees one value a channel: N must exceed 1 for a 1x1 map.
    """
    flags = {module: module.training for module in model.modules()}
    model.eval()  # dropout and stochastic depth, of whatever class, are off outside training mode
    try:
        with torch.no_grad():
            before_activation = _before_activation(model, images)
            for prefix, module in model.named_modules():
                for name, parameter in module.named_parameters(recurse=False):
                    # Drawn on the CPU: the same values on every device.
                    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{prefix}.{name}".encode()))
                    parameter.copy_(_drawn(module, name, parameter, generator, module in before_activation))
            _calibrate(model, images)
    finally:
        for module, flag in flags.items():
            module.training = flag


def _before_activation(model: nn.Module, images: Tensor) -> set[nn.Module]:
    """The layers and norms that run last before an activation does."""
    found: set[nn.Module] = set()
    latest: list[nn.Module] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        latest[:] = [module]

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.update(latest)

    handles = []
    for module in model.modules():
        if isinstance(module, (*_LAYERS, *_NORMS)):
            handles.append(module.register_forward_hook(remember))
        elif isinstance(module, _ACTIVATIONS):
            handles.append(module.register_forward_pre_hook(note))
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _drawn(
    module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator, before_activation: bool
) -> Tensor:
    """New values for `parameter` of `module`, on the CPU."""
    normal = torch.randn(parameter.shape, generator=generator)
    low, high = SCALE_RANGE
    uniform = low + (high - low) * torch.rand(parameter.shape, generator=generator)
    if isinstance(module, (*_LAYERS, *_NORMS)):
        if name == "bias":
            mean = 0.0
            if before_activation:
                grouped = getattr(module, "groups", 1) > 1
                mean = GROUPED_BIAS_MEAN if grouped else LAYER_BIAS_MEAN
                mean = NORM_BIAS_MEAN if isinstance(module, _NORMS) else mean
            return mean + BIAS_STD * normal
        return normal if isinstance(module, _LAYERS) else uniform  # layers: scaled by the calibrating pass
    if parameter.numel() == max(parameter.shape, default=1):
        # One value a channel: a layer scale. Of either sign, or the shortcut inside VAN's attention, which is the
        # stream itself, would pile up.
        return LAYER_SCALE_SHARE * uniform * normal.sign()
    return normal / math.sqrt(parameter[0].numel())


def _calibrate(model: nn.Module, images: Tensor) -> None:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    scaled: set[nn.Module] = set()

    def scale_weight(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if module in scaled:  # a layer used twice keeps the scale of its first use
            return None
        scaled.add(module)
        assert isinstance(module.weight, Tensor)
        bias: Tensor | float = 0.0
        if isinstance(module.bias, Tensor):
            bias = module.bias if isinstance(module, nn.Linear) else module.bias.view(-1, *[1] * (output.ndim - 2))
        weighted_sum = output - bias
        rms = _rms(weighted_sum)
        if not 1e-12 < rms < float("inf"):  # nothing to scale: fed with zeros
            return None
        module.weight.div_(rms)
        return weighted_sum / rms + bias

    def scale_layer_scales(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module in scaled or not inputs or not isinstance(inputs[0], Tensor):
            return
        scaled.add(module)
        for parameter in module.parameters(recurse=False):
            if parameter.numel() == max(parameter.shape, default=1):
                parameter.mul_(_rms(inputs[0]))

    handles = []
    for module in model.modules():
        if isinstance(module, _LAYERS):
            handles.append(module.register_forward_hook(scale_weight))
        elif not isinstance(module, _NORMS):
            handles.append(module.register_forward_pre_hook(scale_layer_scales))
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over passes: after one pass, exactly that pass's statistics
        model(images)
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(min=float(norm.running_var.mean()) * SMALLEST_VARIANCE_SHARE)


def _rms(tensor: Tensor) -> float:
    return float(tensor.square().mean().sqrt())
