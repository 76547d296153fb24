"""Every implementation of the table computes a depthwise conv and its two gradients, whatever the map."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vanbench.kernels import cpu
from vanbench.kernels.compiled import compiler
from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry

ROOT = Path(__file__).parents[1]
# As `cuda`, emulated. Triton's interpreter takes milliseconds a statement: test_gpu_kernels.py has smaller maps for it.
OURS = ["polyphase", "cpu", "cuda"]
# Relative L2. fp32: sums of up to 49 products, and of the whole map for a weight gradient; bf16: the output's rounding.
ALLOWED = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
GEOMETRIES = [Geometry(k, d) for k in (3, 5, 7) for d in (1, 2, 3, 4)]


def tensors(shape: tuple[int, ...], geometry: Geometry, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    w = torch.randn(shape[1], 1, geometry.kernel_size, geometry.kernel_size, generator=generator)
    bias = torch.randn(shape[1], generator=generator)
    g = torch.randn(shape, generator=generator)
    return tuple(each.to(dtype) for each in (x, w, bias, g))


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def exact(x: Tensor, w: Tensor, bias: Tensor | None, g: Tensor, geometry: Geometry) -> tuple[Tensor, ...]:
    """Output and gradients by a sum over shifted maps in float64: no library's conv has a say."""
    x, w = (each.double().clone().requires_grad_() for each in (x, w))
    k, d, p = geometry.kernel_size, geometry.dilation, geometry.padding
    padded = F.pad(x, [p] * 4)
    y = torch.zeros_like(x)
    for row, column in itertools.product(range(k), range(k)):
        seen = padded[:, :, row * d : row * d + x.shape[2], column * d : column * d + x.shape[3]]
        y = y + seen * w[:, :, row, column].transpose(0, 1)[..., None, None].reshape(1, -1, 1, 1)
    if bias is not None:
        y = y + bias.double()[:, None, None]
    (y * g.double()).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert w.grad is not None
    return y.detach(), x.grad, w.grad


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected).norm() / expected.norm().clamp_min(1e-300))


def check(word: str, x: Tensor, w: Tensor, bias: Tensor | None, g: Tensor, geometry: Geometry) -> None:
    implementation = IMPLEMENTATIONS[word]
    reason = implementation.why_not("cpu", geometry, x.dtype)
    if reason is not None:
        pytest.skip(reason)
    y, grad_x, grad_w = exact(x, w, bias, g, geometry)
    allowed = ALLOWED[x.dtype]
    assert error(implementation.forward(x, w, bias, geometry), y) < allowed
    assert error(implementation.grad_input(g, x, w, geometry), grad_x) < allowed
    assert error(implementation.grad_weight(g, x, w, geometry), grad_w) < 4 * allowed


@pytest.mark.parametrize("word", OURS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_all_three_passes_are_right(word: str, geometry: Geometry, dtype: torch.dtype) -> None:
    x, w, bias, g = tensors((2, 21, 17, 22), geometry, dtype)
    check(word, channels_last(x), channels_last(w), bias, g, geometry)


@pytest.mark.parametrize("word", OURS)
@pytest.mark.parametrize(
    "shape",
    [(1, 16, 1, 1), (3, 8, 1, 9), (2, 33, 9, 1), (1, 1, 5, 5), (1, 48, 2, 3), (2, 32, 7, 7), (1, 130, 14, 13)],
    ids=str,
)
@pytest.mark.parametrize("geometry", [Geometry(3), Geometry(5), Geometry(7), Geometry(7, 3)], ids=str)
def test_small_and_odd_maps_are_right(word: str, shape: tuple[int, ...], geometry: Geometry) -> None:
    x, w, bias, g = tensors(shape, geometry, torch.float32)
    check(word, x, w, bias, g, geometry)
    check(word, channels_last(x), channels_last(w), bias, g, geometry)


@pytest.mark.parametrize("word", OURS)
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::2],
        lambda x: x[:, :, 1:, 2:],
        lambda x: x.transpose(2, 3),
        lambda x: x.to(memory_format=torch.channels_last)[:, 8:],
        lambda x: x[:, :, :1].expand(-1, -1, 12, -1),
    ],
    ids=["every other channel", "a part of the map", "turned", "some channels", "one row again and again"],
)
def test_any_strides_are_right(word: str, view: Callable[[Tensor], Tensor]) -> None:
    geometry = Geometry(7, 3)
    x = view(torch.randn(2, 40, 15, 18, generator=torch.Generator().manual_seed(1)))
    _, w, _, g = tensors(tuple(x.shape), geometry, torch.float32)
    check(word, x, w, None, g.transpose(2, 3).contiguous().transpose(2, 3), geometry)


@pytest.mark.parametrize("word", [*OURS, "triton"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_memory_format_comes_out_as_it_went_in(word: str, memory_format: torch.memory_format) -> None:
    geometry = Geometry(7, 3)
    x, w, bias, g = tensors((1, 16, 5, 6), geometry, torch.float32)
    x, g = (each.to(memory_format=memory_format) for each in (x, g))
    implementation = IMPLEMENTATIONS[word]
    assert implementation.forward(x, w, bias, geometry).is_contiguous(memory_format=memory_format)
    assert implementation.grad_input(g, x, w, geometry).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("word", [*OURS, "triton"])
def test_an_empty_batch_gives_an_empty_map(word: str) -> None:
    geometry = Geometry(7, 3)
    x, w, bias, g = tensors((0, 16, 14, 14), geometry, torch.float32)
    implementation = IMPLEMENTATIONS[word]
    assert implementation.forward(x, w, bias, geometry).shape == x.shape
    assert implementation.grad_input(g, x, w, geometry).shape == x.shape
    assert torch.equal(implementation.grad_weight(g, x, w, geometry), torch.zeros_like(w))


@pytest.mark.parametrize("word", ["polyphase", "cpu"])  # the others have no float64, and the same formulas
@pytest.mark.parametrize("geometry", [Geometry(3, 2), Geometry(7, 3)], ids=str)
def test_autograd_has_the_right_formulas(word: str, geometry: Geometry) -> None:
    given = tuple(each.requires_grad_() for each in tensors((2, 3, 5, 6), geometry, torch.float64)[:3])

    def forward(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return IMPLEMENTATIONS[word].forward(x, w, bias, geometry)

    assert torch.autograd.gradcheck(forward, given, fast_mode=True)


def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    geometry = Geometry(3)
    x, w, bias, _ = tensors((1, 16, 6, 6), geometry, torch.float32)
    cpu.forward(x, w.requires_grad_(), bias, geometry).sum().backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert x.grad is None
    assert bias.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [32, 21])
def test_gelu_follows_the_conv_if_asked(dtype: torch.dtype, channels: int) -> None:
    geometry = Geometry(3)
    x, w, bias, _ = tensors((2, channels, 9, 9), geometry, dtype)
    x = (3 * x).to(memory_format=torch.channels_last)
    expected = F.gelu(F.conv2d(x.double(), w.double(), bias.double(), padding=1, groups=channels))
    assert error(cpu.forward_gelu(x, w, bias, geometry), expected) < ALLOWED[dtype]


def test_gelu_is_exact_to_fp32_and_keeps_what_is_no_number() -> None:
    x = torch.linspace(-12, 12, 4001).repeat(16, 1).T.reshape(1, 4001, 1, 16).permute(0, 3, 1, 2).contiguous()
    w = torch.zeros(16, 1, 3, 3)
    w[:, :, 1, 1] = 1.0
    got = cpu.forward_gelu(x, w, None, Geometry(3))
    assert float((got.double() - F.gelu(x.double())).abs().max()) < 1e-6
    x[0, :, 100, 0] = float("nan")
    x[0, :, 200, 0] = float("inf")
    got = cpu.forward_gelu(x, w, None, Geometry(3))
    assert bool(got[0, :, 100, 0].isnan().all())


def test_a_nan_stays_one_in_bf16() -> None:
    x = torch.randn(1, 16, 5, 5).to(torch.bfloat16)
    x[0, 3, 2, 2] = float("nan")
    got = cpu.forward(x, torch.ones(16, 1, 3, 3, dtype=torch.bfloat16), None, Geometry(3))
    assert bool(got[0, 3, 1:4, 1:4].isnan().all())
    assert not bool(got[0, 4].isnan().any())


def test_threads_change_nothing() -> None:
    geometry = Geometry(7, 3)
    x, w, bias, g = tensors((3, 40, 15, 15), geometry, torch.float32)
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            answers.append(
                (
                    cpu.forward(x, w, bias, geometry),
                    cpu.grad_input(g, x, w, geometry),
                    cpu.grad_weight(g, x, w, geometry),
                )
            )
    finally:
        torch.set_num_threads(before)
    for answer in answers[1:]:
        assert all(torch.equal(one, other) for one, other in zip(answers[0], answer, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own code reads it
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_operators_keep_torchs_rules(memory_format: torch.memory_format) -> None:
    x, w, bias, g = tensors((2, 16, 6, 7), Geometry(3), torch.float64)
    x, g = (each.to(memory_format=memory_format) for each in (x, g))
    arguments = (1, 1, 16)
    for operator, given in (
        (torch.ops.vanbench.depthwise_cpu, (x.requires_grad_(), w.requires_grad_(), bias, *arguments)),
        (torch.ops.vanbench.depthwise_cpu_grad_input, (g, w.detach(), *arguments)),
        (torch.ops.vanbench.depthwise_cpu_grad_weight, (g, x.detach(), w.detach(), *arguments)),
    ):
        torch.library.opcheck(operator, given)


@pytest.mark.parametrize("word", OURS)
def test_a_graph_is_compiled_without_a_break(word: str) -> None:
    geometry = Geometry(7, 3)
    x, w, bias, _ = tensors((2, 16, 14, 14), geometry, torch.float32)
    x = x.to(memory_format=torch.channels_last)

    def work(x: Tensor, w: Tensor) -> Tensor:
        return F.gelu(IMPLEMENTATIONS[word].forward(x * 2, w, bias, geometry)).sum()

    w.requires_grad_()
    expected = work(x, w)
    (wanted,) = torch.autograd.grad(expected, w)
    got = torch.compile(work, fullgraph=True, backend="aot_eager")(x, w)
    assert torch.allclose(got, expected, rtol=1e-5)
    assert torch.allclose(torch.autograd.grad(got, w)[0], wanted, rtol=1e-4, atol=1e-4)


def test_there_is_one_openmp_runtime_in_the_process() -> None:
    code = """
        import torch
        from vanbench.kernels import cpu
        from vanbench.kernels.depthwise import Geometry
        cpu.forward(torch.randn(4, 64, 28, 28), torch.randn(64, 1, 7, 7), None, Geometry(7, 3))
        maps = open("/proc/self/maps").read().split()
        print(len({path for path in maps if "omp" in path.rpartition("/")[2] and ".so" in path}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["1"]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the instruction sets are x86's")
@pytest.mark.parametrize(("isa", "lanes"), [("avx2", 8), ("baseline", 4)])
def test_every_instruction_set_gives_the_same_answers(isa: str, lanes: int) -> None:
    code = f"""
        import torch
        from tests.test_depthwise_kernels import GEOMETRIES, channels_last, check, tensors
        from vanbench.kernels import cpu
        assert cpu._library(torch.float32, 3, "FORWARD").lanes() == {lanes}
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            for geometry in GEOMETRIES:
                x, w, bias, g = tensors((2, 21, 17, 22), geometry, dtype)
                check("cpu", channels_last(x), w, bias, g, geometry)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "VANBENCH_ISA": isa},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from vanbench.kernels.compiled import load; load('roofs')"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "VANBENCH_ISA": "avx"},
    )
    assert done.returncode == 1
    assert "unknown VANBENCH_ISA 'avx'; did you mean 'avx2'?" in done.stderr


@pytest.mark.parametrize(
    ("geometry", "dtype", "said"),
    [
        (Geometry(9), torch.float32, "this one has 9"),
        (Geometry(3, 1, 2), torch.float32, "stride 1"),
        (Geometry(3), torch.float16, "this is float16"),
    ],
    ids=str,
)
def test_what_it_cannot_serve_it_names(geometry: Geometry, dtype: torch.dtype, said: str) -> None:
    reason = cpu.why_not("cpu", geometry, dtype)
    assert reason is not None
    assert said in reason
    assert cpu.why_not("cuda", Geometry(3), torch.float32) == "depthwise=cpu is for the CPU"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"w": torch.zeros(8, 1, 3, 3)}, "not a depthwise conv"),
        ({"w": torch.zeros(16, 1, 9, 9)}, "no kernel for size 9"),
        ({"w": torch.zeros(16, 1, 3, 3, dtype=torch.float64)}, "no kernel for input float32"),
        ({"x": torch.zeros(16, 5, 5)}, "not a depthwise conv"),
        ({"bias": torch.zeros(8)}, "does not go with"),
        ({"g": torch.zeros(1, 16, 3, 3)}, "must be alike"),
    ],
    ids=str,
)
def test_c_code_is_never_told_what_is_not_so(wrong: dict[str, Tensor], said: str) -> None:
    x, w, bias, g = tensors((1, 16, 5, 5), Geometry(3), torch.float32)
    given = {"x": x, "w": w, "bias": bias, "g": g, **wrong}
    operator, words = torch.ops.vanbench.depthwise_cpu, ("x", "w", "bias")
    if "g" in wrong:
        operator, words = torch.ops.vanbench.depthwise_cpu_grad_weight, ("g", "x", "w")
    with pytest.raises(ValueError, match=said):
        operator(*(given[word] for word in words), 1, 1, 16)


def test_polyphase_is_for_dilated_convs() -> None:
    assert "dense" in (IMPLEMENTATIONS["polyphase"].why_not("cpu", Geometry(7), torch.float32) or "")


def test_without_a_compiler_it_says_so(tmp_path: object) -> None:
    code = """
        import torch
        from vanbench.kernels import cpu
        from vanbench.kernels.depthwise import Geometry
        print(cpu.why_not("cpu", Geometry(7, 3), torch.float32))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={"PATH": "/nowhere", "HOME": str(tmp_path)},
    )
    assert "no C compiler" in done.stdout


pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler: depthwise=cpu is not here")
