"""The words for precisions: what they convert, switch and refuse."""

import contextlib
import warnings

import pytest
import torch
from torch import nn

from vanbench.errors import UserError
from vanbench.worker import precision
from vanbench.worker.precision import PRECISIONS

STORED = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "amp-bf16": torch.float32,
    "amp-fp16": torch.float32,
}


@pytest.mark.parametrize("word", STORED)
def test_weights_and_inputs_are_stored_in_the_precisions_type(word: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert precision.cast(module, word) is module
    floating = [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {STORED[word]} == {precision.input_dtype(word)}
    assert module.state_dict()["1.num_batches_tracked"].dtype is torch.int64


@pytest.mark.parametrize(("word", "expected"), [("fp32", torch.float32), ("amp-bf16", torch.bfloat16)])
def test_autocast_computes_in_the_narrow_type_for_amp_only(word: str, expected: torch.dtype) -> None:
    linear, x = nn.Linear(4, 4), torch.randn(2, 4)
    with precision.autocast(word, "cpu"):
        assert linear(x).dtype is expected
    assert linear(x).dtype is torch.float32


def test_tf32_is_on_for_its_own_word_only_and_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for word in [*PRECISIONS, "tf32", "fp32"]:
            precision.set_matmul_precision(word)
            on = word == "tf32"
            assert torch.backends.cuda.matmul.allow_tf32 is on
            assert torch.backends.cudnn.allow_tf32 is on
            assert torch.get_float32_matmul_precision() == ("high" if on else "highest")


def test_full_float32_holds_inside_the_block_and_is_undone_after_an_error() -> None:
    precision.set_matmul_precision("tf32")
    with contextlib.suppress(ZeroDivisionError), precision.full_float32():
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "high"
    precision.set_matmul_precision("fp32")


def test_only_training_in_amp_fp16_scales_the_loss() -> None:
    scaled = [(w, t) for w in PRECISIONS for t in ("infer", "train") if precision.needs_grad_scaler(w, t)]
    assert scaled == [("amp-fp16", "train")]


def test_an_unknown_word_is_refused_with_the_nearest() -> None:
    for use in (precision.input_dtype, precision.set_matmul_precision):
        with pytest.raises(UserError, match="'fp32'"):
            use("fp23")
    with pytest.raises(UserError, match="amp-bf16"):
        precision.unsupported("amp-b16", torch.device("cpu"))


def test_a_cpu_has_fp32_and_no_tf32() -> None:
    cpu = torch.device("cpu")
    assert precision.unsupported("fp32", cpu) is None
    assert "TF32" in (precision.unsupported("tf32", cpu) or "")


@pytest.mark.parametrize(("word", "flags"), [("bf16", {"avx512bw", "amx_bf16"}), ("fp16", {"avx512_fp16", "amx_fp16"})])
def test_narrow_types_follow_what_the_cpu_has(word: str, flags: set[str]) -> None:
    with open("/proc/cpuinfo") as file:
        has = {flag for line in file if line.startswith("flags") for flag in line.split()}
    if not has:
        pytest.skip("/proc/cpuinfo lists no flags here")
    for spelled in (word, f"amp-{word}"):
        reason = precision.unsupported(spelled, torch.device("cpu"))
        if flags & has:
            assert reason is None
        else:
            assert word in (reason or "")


def test_without_onednns_query_the_cpus_flags_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    with_query = {word: precision.unsupported(word, torch.device("cpu")) for word in ("bf16", "fp16")}
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert {word: precision.unsupported(word, torch.device("cpu")) for word in ("bf16", "fp16")} == with_query


@pytest.mark.parametrize(
    ("capability", "missing"), [((7, 5), {"tf32", "bf16", "amp-bf16"}), ((8, 0), set()), ((9, 0), set())]
)
def test_a_gpu_has_tf32_and_bf16_from_compute_capability_8_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], missing: set[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert {word for word in PRECISIONS if precision.unsupported(word, torch.device("cuda", 0))} == missing
