"""What the words fp32, tf32, bf16, fp16, amp-bf16 and amp-fp16 mean, and which device has which.

    fp32, tf32            weights and inputs in float32; tf32 lets the matrix units round products' inputs to 10 bits
    bf16, fp16            weights and inputs converted, everything runs in that type
    amp-bf16, amp-fp16    weights and inputs in float32, autocast chooses each op's type

It converts and switches; it times nothing.
"""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from vanbench.errors import unknown

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Meaning(NamedTuple):
    """`stored`: type of weights and inputs; `autocast`: type autocast computes in, or None."""

    stored: torch.dtype
    autocast: torch.dtype | None = None

    @property
    def computed(self) -> torch.dtype:
        """The narrowest type that arithmetic is done in."""
        return self.autocast or self.stored


PRECISIONS = {
    "fp32": Meaning(torch.float32),
    "tf32": Meaning(torch.float32),
    "bf16": Meaning(torch.bfloat16),
    "fp16": Meaning(torch.float16),
    "amp-bf16": Meaning(torch.float32, torch.bfloat16),
    "amp-fp16": Meaning(torch.float32, torch.float16),
}


def meaning(precision: str) -> Meaning:
    """The row of `PRECISIONS`.

    Raises:
        UserError: for a word that is not in it.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return PRECISIONS[precision]


def cast(module: ModuleT, precision: str) -> ModuleT:
    """`module` with floating-point parameters and buffers in the precision's stored type, converted in place."""
    return module.to(meaning(precision).stored)


def input_dtype(precision: str) -> torch.dtype:
    """The type of the images that a model at this precision takes."""
    return meaning(precision).stored


def autocast(precision: str, device_type: str) -> AbstractContextManager[object]:
    """The context of forward pass and loss: torch.autocast for the amp precisions, one that does nothing else."""
    dtype = meaning(precision).autocast
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype)


def set_matmul_precision(precision: str) -> None:
    """Let float32 matrix products and convolutions use TF32 for `tf32`, and keep them in full float32 otherwise.

    For the whole process. PyTorch's own default is off for products but on for cuDNN's convolutions.
    """
    meaning(precision)  # refuses unknown words
    _allow_tf32(precision == "tf32")


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep float32 arithmetic in full float32 inside the block, then put back what was set before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see _allow_tf32
        products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _allow_tf32(False)
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions


def _allow_tf32(allow: bool) -> None:
    # The newer switches (torch.backends.cuda.matmul.fp32_precision and the like, torch 2.9) make every later reading
    # of the older ones an error, and the compiler of torch 2.9 and 2.10 reads them (pytorch issue 166387). The older
    # ones set both, in every version; the warning that some versions attach to them asks for nothing we can do.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("high" if allow else "highest")
        torch.backends.cudnn.allow_tf32 = allow


def needs_grad_scaler(precision: str, task: str) -> bool:
    """Whether the loss must be scaled: training in amp-fp16, where small gradients underflow."""
    return task == "train" and precision == "amp-fp16"


def unsupported(precision: str, device: torch.device) -> str | None:
    """Why `device` does not have `precision`, or None where it does.

    What the hardware lacks counts as lacking even where PyTorch would emulate it: an emulated type's speed says
    nothing about the type.

    Raises:
        UserError: for an unknown precision.
    """
    computed = meaning(precision).computed
    if device.type == "cpu":
        if precision == "tf32":
            return "a CPU has no TF32"
        if computed is torch.float16 and not _onednn_supports("fp16"):
            return "this CPU has no native fp16 arithmetic (AVX512_FP16 or AMX_FP16)"
        if computed is torch.bfloat16 and not _onednn_supports("bf16"):
            return "this CPU lacks what oneDNN needs for bf16 (AVX512 or newer)"
        return None
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "TF32 is NVIDIA's; PyTorch on ROCm does not switch to it here" if precision == "tf32" else None
        if precision in ("fp32", "fp16", "amp-fp16"):
            return None
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            kind = "TF32" if precision == "tf32" else "native bf16"
            return f"{kind} needs compute capability 8.0; this GPU has {major}.{minor}"
        return None
    return f"TF32 is for CUDA devices, not {device.type}" if precision == "tf32" else None


def _onednn_supports(name: str) -> bool:
    """oneDNN's own answer; without the query (it is private, and moves) what /proc/cpuinfo lists."""
    query = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    if query is not None:
        try:
            return bool(query())
        except RuntimeError:
            pass
    wanted = {"bf16": ("avx512_bf16", "amx_bf16", "avx512bw"), "fp16": ("avx512_fp16", "amx_fp16")}[name]
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        return False
    return any(flag in flags for flag in wanted)
