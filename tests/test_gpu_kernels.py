"""Kernels for CUDA, tried without one: `cuda` by a C compiler, `triton` by Triton's interpreter; and for real devices
both are compiled, which needs none."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_depthwise_kernels import ALLOWED, channels_last, check, error, exact, tensors
from torch import Tensor
from torch.nn import functional as F

from vanbench.kernels import cuda, triton, tuning
from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry
from vanbench.kernels.nvrtc import CannotCompile, compile_image
from vanbench.kernels.torch_paths import why_no_aten, why_no_cudnn

pytestmark = pytest.mark.skipif(
    not (triton.interpreted() and cuda.emulated()), reason="a GPU is here: test_gpu.py tries the kernels on it"
)
MODULES = {"cuda": cuda, "triton": triton}
GEOMETRIES = [Geometry(3), Geometry(3, 2), Geometry(5), Geometry(7), Geometry(7, 3)]
# Small, as the interpreter takes milliseconds for each load of a program: (N, C, H, W).
SHAPES = [(1, 16, 1, 1), (2, 8, 1, 9), (1, 33, 9, 1), (1, 2, 5, 5), (1, 20, 7, 11)]


@pytest.fixture(params=MODULES)
def word(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_all_three_passes_are_right(word: str, geometry: Geometry, shape: tuple[int, ...]) -> None:
    x, w, bias, g = tensors(shape, geometry, torch.float32)
    check(word, channels_last(x), w, bias, channels_last(g), geometry)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("geometry", [Geometry(3), Geometry(7, 3)], ids=str)
def test_halves_are_summed_in_fp32(word: str, geometry: Geometry, dtype: torch.dtype) -> None:
    """With sums in 16 bits the error would be some times the output's rounding, which is what is allowed."""
    x, w, bias, g = tensors((2, 12, 6, 7), geometry, dtype)
    check(word, channels_last(x), w, bias, g, geometry)


@pytest.mark.parametrize("channels", [1, 3, 31, 66])
def test_any_number_of_channels_is_right(word: str, channels: int) -> None:
    geometry = Geometry(3)
    x, w, bias, g = tensors((1, channels, 4, 5), geometry, torch.bfloat16)
    check(word, x, w, bias, g, geometry)


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        *(("cuda", setting) for setting in cuda._STENCIL),
        *(("triton", setting) for setting in triton._STENCIL),
    ],
    ids=str,
)
def test_every_setting_of_a_search_is_right(
    word: str, setting: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_STENCIL", "_STENCIL_ODD", "_INTERPRETED_STENCIL"):
        if hasattr(MODULES[word], name):
            monkeypatch.setattr(MODULES[word], name, (setting,))
    geometry = Geometry(7, 3) if word == "cuda" else Geometry(3, 2)
    x, w, bias, g = tensors((1, 68, 9, 10), geometry, torch.float32)
    expected = exact(x, w, bias, g, geometry)
    implementation = IMPLEMENTATIONS[word]
    assert error(implementation.forward(channels_last(x), w, bias, geometry), expected[0]) < ALLOWED[torch.float32]
    assert error(implementation.grad_input(channels_last(g), x, w, geometry), expected[1]) < ALLOWED[torch.float32]


@pytest.mark.parametrize("columns", [8, 16])
@pytest.mark.parametrize("channels", [4, 6, 5])
def test_every_setting_of_the_weights_gradient_is_right(
    word: str, channels: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if word == "triton":
        monkeypatch.setattr(triton, "_WEIGHT_SUMS", ((columns, 32, 1),))
    else:
        monkeypatch.setattr(cuda, "_WEIGHT_SUMS", ((4,), (1,)) if columns == 8 else ((2,), (1,)))
    geometry = Geometry(5, 2)
    x, w, bias, g = tensors((2, channels, 7, 9), geometry, torch.float32)
    assert error(IMPLEMENTATIONS[word].grad_weight(g, x, w, geometry), exact(x, w, bias, g, geometry)[2]) < 4e-6


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::2],
        lambda x: x[:, :, 1:, 2:],
        lambda x: x.to(memory_format=torch.channels_last)[:, 3:],
        lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
    ],
    ids=["every other channel", "a part of the map", "some channels", "one row again and again"],
)
def test_any_strides_are_right(word: str, view: Callable[[Tensor], Tensor]) -> None:
    geometry = Geometry(3)
    x = view(torch.randn(1, 10, 6, 8, generator=torch.Generator().manual_seed(1)))
    _, w, _, g = tensors(tuple(x.shape), geometry, torch.float32)
    check(word, x, w, None, g.transpose(2, 3).contiguous().transpose(2, 3), geometry)


def test_a_view_that_begins_within_a_vector_is_right(word: str) -> None:
    """A thread reads its channels at once, which memory allows at multiples of their length only."""
    geometry = Geometry(3)
    flat = torch.randn(1 + 6 * 4 * 5)
    x = flat[1:].view(1, 4, 5, 6).permute(0, 3, 1, 2)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.data_ptr() % 16
    _, w, bias, g = tensors(tuple(x.shape), geometry, torch.float32)
    check(word, x, w, bias, g, geometry)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gelu_follows_the_conv_if_asked(word: str, dtype: torch.dtype) -> None:
    geometry = Geometry(3)
    x, w, bias, _ = tensors((1, 10, 4, 5), geometry, dtype)
    x = channels_last(3 * x)
    fused = IMPLEMENTATIONS[word].forward_gelu
    assert fused is not None
    expected = F.gelu(F.conv2d(x.double(), w.double(), bias.double(), padding=1, groups=10))
    assert error(fused(x, w, bias, geometry), expected) < ALLOWED[dtype]
    with pytest.raises(RuntimeError, match="for inference"):
        fused(x, w.clone().requires_grad_(), bias, geometry).sum().backward()  # type: ignore[no-untyped-call]


def test_what_is_no_number_stays_none(word: str) -> None:
    x = torch.randn(1, 4, 5, 5).to(torch.bfloat16)
    x[0, 3, 2, 2] = float("nan")
    got = IMPLEMENTATIONS[word].forward(x, torch.ones(4, 1, 3, 3, dtype=torch.bfloat16), None, Geometry(3))
    assert bool(got[0, 3, 1:4, 1:4].isnan().all())
    assert not bool(got[0, :3].isnan().any())


def test_two_runs_give_the_same_bits(word: str) -> None:
    geometry = Geometry(3)
    x, w, _, g = tensors((3, 8, 6, 5), geometry, torch.float32)
    once, again = (IMPLEMENTATIONS[word].grad_weight(g, x, w, geometry) for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own code reads it
def test_the_operators_keep_torchs_rules(word: str) -> None:
    x, w, bias, g = tensors((1, 6, 4, 3), Geometry(3), torch.float32)
    x, arguments, library = channels_last(x), (1, 1, 6), torch.ops.vanbench
    for name, given in (
        (f"depthwise_{word}", (x.requires_grad_(), w.requires_grad_(), bias, *arguments)),
        (f"depthwise_{word}_grad_input", (g, w.detach(), *arguments)),
        (f"depthwise_{word}_grad_weight", (g, x.detach(), w.detach(), *arguments)),
    ):
        torch.library.opcheck(getattr(library, name), given)


def test_torch_compile_takes_it_whole(word: str) -> None:
    geometry = Geometry(3)
    x, w, bias, _ = tensors((1, 6, 4, 3), geometry, torch.float32)

    def step(x: Tensor, w: Tensor) -> Tensor:
        return F.gelu(IMPLEMENTATIONS[word].forward(x * 2, w, bias, geometry))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, w), step(x, w))


@pytest.mark.parametrize(
    ("dtype", "geometry", "said"),
    [
        (torch.float64, Geometry(3), "computes fp32, bf16 and fp16: this is float64"),
        (torch.float32, Geometry(9), "has kernels of 3, 5 and 7: this one has 9"),
        (torch.float32, Geometry(3, 1, 2), "is for stride 1: this one has 2"),
    ],
)
def test_it_says_what_it_has_no_kernel_for(word: str, dtype: torch.dtype, geometry: Geometry, said: str) -> None:
    assert said in (IMPLEMENTATIONS[word].why_not("cuda", geometry, dtype) or "")


def test_without_being_told_the_cpu_does_not_stand_in(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.delenv("VANBENCH_EMULATE_CUDA")
    assert "is for CUDA devices" in (IMPLEMENTATIONS[word].why_not("cpu", Geometry(3), torch.float32) or "")


@pytest.mark.parametrize("asked", [why_no_aten, why_no_cudnn])
def test_torchs_own_paths_are_for_cuda(asked: Callable[..., str | None]) -> None:
    assert "is for CUDA devices" in (asked("cpu", Geometry(3), torch.float32) or "")
    assert "stride 1" in (asked("cuda", Geometry(3, 1, 2), torch.float32) or "")


def test_cudnn_has_no_float64() -> None:
    assert "float64" in (why_no_cudnn("cuda", Geometry(3), torch.float64) or "")
    assert why_no_aten("cuda", Geometry(3), torch.float64) is None


# --- the search


def test_without_a_device_nothing_is_timed(word: str) -> None:
    def call(setting: tuple[int, ...]) -> None:
        raise AssertionError("timed")

    assert tuning.tuned(("a name",), ((1, 2), (3, 4)), call, torch.device("cpu")) == (1, 2)


def test_the_fastest_setting_is_found_and_every_one_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: dict[tuple[int, ...], float] = {(1,): 3.0, (2,): 1.0, (3,): 2.0}
    called: list[tuple[int, ...]] = []

    def timed(call: Callable[[], object]) -> float:
        call()
        return seconds[called[-1]]

    monkeypatch.setattr(tuning, "_seconds", timed)
    assert tuning._fastest(tuple(seconds), called.append) == (2,)
    assert called[:3] == list(seconds)


# --- for real devices, without one


def resources(image: bytes, path: Path) -> dict[str, int]:
    """Registers and local memory of the one kernel of an image, as the CUDA toolkit that Triton brings says."""
    import triton as package

    path.write_bytes(image)
    tool = Path(package.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    said = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}


PAIR_SHAPES = [(2, 20, 9, 11), (1, 66, 7, 7), (2, 5, 2, 14), (1, 64, 28, 28), (1, 8, 1, 1), (1, 8, 90, 100)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", PAIR_SHAPES, ids=str)
def test_the_pair_is_one_conv_after_the_other(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Also where a map does not fit into shared memory, and two kernels serve."""
    x, w, bias, _ = tensors(shape, Geometry(5), dtype)
    _, w2, bias2, _ = tensors(shape, Geometry(7, 3), dtype, seed=1)
    between = exact(x, w, bias, x, Geometry(5))[0].to(dtype)
    expected = exact(between, w2, bias2, x, Geometry(7, 3))[0]
    got = cuda.forward_pair(channels_last(x), w, bias, w2, bias2)
    # The map between is rounded in both, and now and then to another side.
    assert error(got, expected) < 2 * ALLOWED[dtype]


def test_every_setting_of_the_pair_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in (*cuda._PAIR, *cuda._PAIR_ODD):
        monkeypatch.setattr(cuda, "_pair_settings", lambda *given, setting=setting: (setting,))
        x, w, _, _ = tensors((1, 36, 10, 8), Geometry(5), torch.float32)
        _, w2, _, _ = tensors((1, 36, 10, 8), Geometry(7, 3), torch.float32)
        between = exact(x, w, None, x, Geometry(5))[0]
        expected = exact(between, w2, None, x, Geometry(7, 3))[0]
        assert error(cuda.forward_pair(x, w, None, w2, None), expected) < 2e-6, setting


def test_the_pair_keeps_torchs_rules_and_refuses_what_is_none() -> None:
    x, w, bias, _ = tensors((1, 6, 4, 3), Geometry(5), torch.float32)
    _, w2, bias2, _ = tensors((1, 6, 4, 3), Geometry(7, 3), torch.float32)
    torch.library.opcheck(torch.ops.vanbench.depthwise_cuda_pair, (channels_last(x), w, bias, w2, bias2))
    with pytest.raises(ValueError, match="not a 7x7 depthwise conv"):
        cuda.forward_pair(x, w, bias, w, bias2)
    with pytest.raises(RuntimeError, match="for inference"):
        cuda.forward_pair(x, w.requires_grad_(), bias, w2, bias2).sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.skipif(sys.platform != "linux", reason="NVRTC comes with torch for CUDA")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_cuda_kernels_compile_and_keep_their_tiles_in_registers(
    dtype: torch.dtype, architecture: str, tmp_path: Path
) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    for vector, rows, columns, threads in cuda._STENCIL[:: 1 if architecture == "sm_90" else 4]:
        defines = cuda._defines(dtype, 7, 64, 3, vector)
        more = (f"ROWS={rows}", f"COLUMNS={columns}", f"THREADS={threads}", "GELU=0")
        used = resources(compile_image(architecture, *defines, *more), tmp_path / "image")
        assert used["LOCAL"] == used["STACK"] == 0
        assert used["REG"] * threads <= 65536
    for vector, rows, columns, threads, lanes in cuda._PAIR:
        defines = cuda._defines(dtype, 7, 64, 3, vector, lanes)
        more = (f"ROWS={rows}", f"COLUMNS={columns}", f"THREADS={threads}", "GELU=0")
        used = resources(compile_image(architecture, *defines, *more, "PAIR=1"), tmp_path / "image")
        assert used["LOCAL"] == used["STACK"] == 0
        assert used["REG"] * threads <= 65536
    for (vector,) in cuda._WEIGHT_SUMS:
        image = compile_image(architecture, *cuda._defines(dtype, 7, 64, 3, vector))
        assert resources(image, tmp_path / "image")["LOCAL"] == 0


def test_what_nvrtc_refuses_is_said() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    with pytest.raises(CannotCompile, match=r"refuses depthwise\.cu for sm_10"):
        compile_image("sm_10", "KIND=FP32")


def test_the_triton_kernels_compile_for_hopper(tmp_path: Path) -> None:
    """The interpreter takes what the compiler refuses. In a process that does not interpret."""
    code = """
        import warnings
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile
        import triton
        from vanbench.kernels import depthwise_triton as kernels

        def compiled(kernel, pointers, numbers, constants, warps):
            signature = {**pointers, **dict.fromkeys(numbers, "i32"), **dict.fromkeys(constants, "constexpr")}
            signature = {name: signature[name] for name in kernel.arg_names}
            source = ASTSource(kernel, signature=signature, constexprs=constants)
            return compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})

        sizes = ["height", "width", "channels", "dilation"]
        for dtype in ("fp32", "bf16", "fp16"):
            for gelu in (False, True):
                image = compiled(
                    kernels.triton_depthwise,
                    {"x": "*" + dtype, "taps": "*fp32", "bias": "*" + dtype, "y": "*" + dtype},
                    [*sizes, "row_tiles", "column_tiles"],
                    dict(KERNEL=3, TURNED=gelu, BIAS=gelu, GELU=gelu, ROWS=4, COLUMNS=16, CHANNELS=32, WHOLE=not gelu),
                    4,
                )
            image = compiled(
                kernels.triton_depthwise_weight_sums,
                {"x": "*" + dtype, "g": "*" + dtype, "parts": "*fp32"},
                [*sizes, "lines", "lines_each"],
                dict(KERNEL=7, COLUMNS=8, CHANNELS=64, WHOLE=True),
                4,
            )
        print(len(image.asm["cubin"]) > 0)
    """
    import os
    import textwrap

    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.stdout.strip() == "True", done.stderr
