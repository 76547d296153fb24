"""The closed sets of words: axis values, model aliases, published facts. Holds tables, decides nothing."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ALIASES",
    "ALLOCATORS",
    "AUTO",
    "COMPILE",
    "CUDA_DEPTHWISE",
    "DEPTHWISE",
    "DEVICES",
    "DIRECTIONS",
    "FORMS",
    "KNOWN",
    "MEMORY_FORMATS",
    "PRECISIONS",
    "TASKS",
    "Known",
    "canonical",
]

TASKS = ("infer", "train")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "amp-bf16", "amp-fp16")
MEMORY_FORMATS = ("contiguous", "channels_last")
COMPILE = ("off", "default", "reduce-overhead", "max-autotune")
FORMS = ("reference", "lean", "folded")
# What serves depthwise convs.
DEPTHWISE = ("native", "polyphase", "cpu", "cuda", "cuda-pair", "triton", "cudnn", "aten")
# Of these what is for CUDA devices. A CPU can try the first three, emulated: right, and not to be timed.
CUDA_DEPTHWISE = ("cuda", "cuda-pair", "triton", "cudnn", "aten")
AUTO = "auto"  # of a model's, each by the fastest of them
ALLOCATORS = ("system", "keep", "tcmalloc", "jemalloc")
DIRECTIONS = ("forward", "grad_input", "grad_weight")  # the three passes of a conv
DEVICES = ("auto", "cpu", "cuda")  # and cuda:N

_VAN = "VAN, arXiv 2202.09741, table of ImageNet-1k results"
_CONVNEXT = "ConvNeXt, arXiv 2201.03545, table 1"
_TORCHVISION = "torchvision IMAGENET1K_V1 weights"
_ATTO = ""  # trained by timm's author with recipes of his own: no published figure at 224 px is claimed here


class Known(NamedTuple):
    """What is known of a model without building it; the tests check params and macs against the built one.

    params: trainable values. macs: multiply-adds of convs and linear layers for one 224 px image.
    top1: published ImageNet-1k accuracy in percent, trained on ImageNet-1k alone at 224 px, or None; source: where.
    """

    params: int
    macs: int
    top1: float | None
    source: str


KNOWN: dict[str, Known] = {
    "van_b0": Known(4_105_800, 864_224_000, 75.4, _VAN),
    "van_b1": Known(13_861_800, 2_495_262_720, 81.1, _VAN),
    "van_b2": Known(26_578_472, 4_992_773_120, 82.8, _VAN),
    "van_b3": Known(44_765_608, 8_925_292_032, 83.9, _VAN),
    "van_b4": Known(60_283_176, 12_143_756_288, 84.2, _VAN),
    "van_b5": Known(89_967_688, 17_129_123_328, None, ""),
    "van_b6": Known(199_829_416, 38_710_096_896, None, ""),
    "convnext_atto": Known(3_695_520, 547_300_000, None, _ATTO),
    "convnext_femto": Known(5_217_784, 779_600_000, None, _ATTO),
    "convnext_pico": Known(9_045_672, 1_367_100_000, None, _ATTO),
    "convnext_nano": Known(15_593_560, 2_445_500_000, None, _ATTO),
    "convnext_tiny": Known(28_589_128, 4_455_500_000, 82.1, _CONVNEXT),
    "convnext_small": Known(50_223_688, 8_683_700_000, 83.1, _CONVNEXT),
    "convnext_base": Known(88_591_464, 15_354_700_000, 83.8, _CONVNEXT),
    "convnext_large": Known(197_767_336, 34_361_400_000, 84.3, _CONVNEXT),
    "resnet18": Known(11_689_512, 1_814_100_000, 69.8, _TORCHVISION),
    "resnet34": Known(21_797_672, 3_663_800_000, 73.3, _TORCHVISION),
    "resnet50": Known(25_557_032, 4_089_200_000, 76.1, _TORCHVISION),
    "resnet101": Known(44_549_160, 7_801_400_000, 77.4, _TORCHVISION),
    "resnet152": Known(60_192_808, 11_513_600_000, 78.3, _TORCHVISION),
}

# What people type, and the registry's name that is stored and printed.
ALIASES: dict[str, str] = {
    "van_tiny": "van_b0",
    "van_small": "van_b1",
    "van_base": "van_b2",
    "van_large": "van_b3",
    "convnext_t": "convnext_tiny",
    "convnext_s": "convnext_small",
    "convnext_b": "convnext_base",
    "convnext_l": "convnext_large",
    "convnext_n": "convnext_nano",
    "convnext_p": "convnext_pico",
    "convnext_f": "convnext_femto",
    "convnext_a": "convnext_atto",
    "rn18": "resnet18",
    "rn34": "resnet34",
    "rn50": "resnet50",
    "rn101": "resnet101",
    "rn152": "resnet152",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "vit_b": "vit_base_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "deit_s": "deit_small_patch16_224",
}


def canonical(name: str) -> str:
    """The registry's name for what the user typed; a name that is no alias comes back as it is."""
    folded = name.strip().replace("-", "_").lower() if ":" not in name else name.strip()
    if folded in ALIASES:
        return ALIASES[folded]
    return folded if folded in KNOWN else name.strip()
