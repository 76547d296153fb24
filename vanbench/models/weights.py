"""Weights under which every branch of a model matters, so that a wrong branch shows in the logits.

Freshly initialised networks hide mistakes: their layer scales are 1e-2 or 1e-6, the last norm of a residual branch
may start at zero, and a model with its depthwise convolutions zeroed gives nearly the same logits. Nothing here is
trained, and nothing here is specific to one model: types and shapes of the modules decide.
"""

import zlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

SCALE_RANGE = (0.5, 1.5)  # norm weights and layer scales: of order one, no two channels alike
BIAS_STD = 0.1  # of a convolution or linear layer, whose weighted sum has rms 1
# A channel that hardly varies over the calibration images would be blown up by its norm, rounding errors included.
SMALLEST_VARIANCE_SHARE = 0.1


def draw_weights(model: nn.Module, seed: int, images: Tensor) -> None:
    """Redraw all parameters of `model` in place and calibrate its batch norms on `images`.

    First every tensor is drawn from a generator of its own, seeded by `seed` and the parameter's name: neither the
    global random state nor the order of construction has a say. Then one forward pass in training mode, dropout and
    stochastic depth off, scales each convolution's and linear layer's weight such that its output has rms 1 (the
    layer-sequential scheme of Mishkin & Matas, arXiv 1511.06422), and sets batch norms' running statistics to those
    of that pass. A residual branch, which a scale near 1 ends, then adds to the stream as much as any other branch:
    in a stream of L branches each has a share near 1/sqrt(L) of its rms, the largest that all can have at once.

    Args:
        model: on any device, in float32. Its training flags are as before afterwards.
        seed: of the draw; equal seeds give equal weights.
        images: (N, C, H, W) float32 on the model's device; N > 1 where a batch norm sees a single position.
    """
    with torch.no_grad():
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                parameter.copy_(_drawn(module, name, parameter, seed, f"{prefix}.{name}"))
        _calibrate(model, images)


def _drawn(module: nn.Module, name: str, parameter: Tensor, seed: int, path: str) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{path}".encode()))
    layer = isinstance(module, (_ConvNd, nn.Linear))
    normal = torch.randn(parameter.shape, generator=generator)
    if layer and name == "bias":
        return BIAS_STD * normal
    if _is_norm(module) and name == "bias":
        return BIAS_STD * normal
    if parameter.numel() == max(parameter.shape, default=1):
        # A norm's weight, a layer scale, or any other one value a channel. Signs stay positive: a mixed sign would
        # make branches cancel each other rather than add up.
        low, high = SCALE_RANGE
        return low + (high - low) * torch.rand(parameter.shape, generator=generator)
    fan_in = parameter[0].numel()
    return normal / fan_in**0.5


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm))


def _calibrate(model: nn.Module, images: Tensor) -> None:
    flags = {module: module.training for module in model.modules()}
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    scaled: set[nn.Module] = set()

    def scale(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if module in scaled:  # a layer used twice keeps the scale of its first use
            return None
        scaled.add(module)
        bias = module.bias
        shift: Tensor | float = 0.0
        if isinstance(bias, Tensor):
            shift = bias if isinstance(module, nn.Linear) else bias.view(-1, *[1] * (output.ndim - 2))
        plain = output - shift
        rms = float(plain.square().mean().sqrt())
        if not 1e-12 < rms < float("inf"):
            return None
        assert isinstance(module.weight, Tensor)
        module.weight.div_(rms)
        return plain / rms + shift

    handles = [
        module.register_forward_hook(scale) for module in model.modules() if isinstance(module, (_ConvNd, nn.Linear))
    ]
    try:
        model.eval()  # dropout and stochastic depth, of whatever class, are off outside training mode
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
        for module, flag in flags.items():
            module.training = flag
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(min=float(norm.running_var.mean()) * SMALLEST_VARIANCE_SHARE)


_Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]
