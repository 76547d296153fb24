"""Cells of other forms and kernels: checked before they are timed, skipped where there is nothing to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vanbench.kernels.compiled import compiler
from vanbench.kernels.depthwise import IMPLEMENTATIONS
from vanbench.record.task import Declined, Vet, Vetted
from vanbench.spec.cell import Cell
from vanbench.worker import measure, vet

CPU = torch.device("cpu")
Serve = Callable[..., Any]

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler: depthwise=cpu is not here")


class Ear:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, message: Any) -> None:
        self.heard.append(message)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VANBENCH_CACHE", str(tmp_path))
    return tmp_path


def cell(model: str, **fields: Any) -> Cell:
    return Cell(model=model, image_size=fields.pop("image_size", 64), **fields)


def vetted(asked: Cell) -> Any:
    ear = Ear()
    vet.serve(Vet(cell=asked, device="cpu", seed=0), ear)  # type: ignore[arg-type]
    return ear.heard[-1]


def checked(asked: Cell) -> tuple[bool, Any]:
    """Whether the cell's answer passes the main job's check, and the last word if not."""
    assert isinstance(vetted(asked), Vetted)
    ear: Any = Ear()
    ready = measure.prepared(asked, CPU, 0, ear)
    assert ready is not None
    found = measure.right_answer(*ready, 0, ear)
    return found is not None, ear.heard[-1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("form", "depthwise"),
    [
        *(("lean", "native"), ("folded", "native"), ("folded", "polyphase"), ("folded", "cpu")),
        *(("lean", "cuda"), ("folded", "cuda-pair")),  # emulated
    ],
)
def test_a_form_is_within_the_tolerance_of_each_precision(
    scratch: Path, form: str, depthwise: str, precision: str
) -> None:
    asked = cell(
        "van_b0", form=form, depthwise=depthwise, precision=precision, memory_format="channels_last", batch_size=2
    )
    assert checked(asked)[0]


@pytest.mark.parametrize("model", ["resnet18", "convnext_atto"])
def test_other_models_folded_are_within_it_too(scratch: Path, model: str) -> None:
    for precision in ("fp32", "bf16"):
        assert checked(cell(model, form="folded", precision=precision, memory_format="channels_last"))[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("depthwise", ["polyphase", "cpu", "cuda"])
def test_a_training_step_is_within_it_too(scratch: Path, depthwise: str, precision: str) -> None:
    asked = cell(
        "van_b0",
        task="train",
        form="lean",
        depthwise=depthwise,
        precision=precision,
        batch_size=2,
        memory_format="channels_last",
    )
    assert checked(asked)[0]


@pytest.mark.parametrize("place", ["forward", "forward_gelu"])
def test_a_wrong_kernel_is_refused_before_it_is_timed(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Planted: one tap's weight is a tenth too large."""
    right = IMPLEMENTATIONS["cpu"]

    def wrong(x: Any, w: Any, bias: Any, geometry: Any) -> Any:
        w = w.clone()
        w[:, :, 0, 0] *= 1.1
        return getattr(right, place)(x, w, bias, geometry)

    monkeypatch.setitem(IMPLEMENTATIONS, "cpu", right._replace(**{place: wrong}))  # type: ignore[arg-type]
    asked = cell("van_b0", form="folded", depthwise="cpu", memory_format="channels_last")
    passed, said = checked(asked)
    assert not passed
    assert isinstance(said, Declined)
    assert said.kind == "wrong_answer"


@pytest.mark.parametrize("direction", ["grad_input", "grad_weight"])
def test_a_wrong_gradient_is_refused_too(scratch: Path, direction: str) -> None:
    """Planted in the operator itself: autograd calls it past the table."""
    code = f"""
        import torch
        from tests.test_form_cells import cell, checked
        from vanbench.kernels.geometry import Geometry, native_backward
        from vanbench.kernels.operators import override
        of_input = "{direction}" == "grad_input"
        def wrong(g, *rest):
            *x, w, padding, dilation, groups = rest
            mask = [of_input, not of_input, False]
            made = native_backward(g, x[0] if x else g, w, Geometry(w.shape[-1], dilation), mask)
            return 1.01 * made[0 if of_input else 1]
        override("depthwise_cpu_{direction}", wrong, "CPU")
        print(checked(cell("van_b0", task="train", depthwise="cpu", form="lean", batch_size=2))[0])
    """
    import os
    import subprocess
    import sys
    import textwrap

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "VANBENCH_CACHE": str(scratch)},
    )
    assert done.stdout.split()[-1:] == ["False"], done.stderr


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (cell("resnet18", form="lean"), "resnet18 has nothing that form=lean changes"),
        (cell("vit_tiny_patch16_224", form="folded", image_size=224), "has nothing that form=folded changes"),
        (cell("resnet18", depthwise="cpu"), "resnet18 has no convolution that depthwise=cpu serves"),
        (cell("convnext_atto", depthwise="polyphase"), "serves: 12 depthwise 7x7 convolution(s) left to torch: "),
        (cell("van_b0", depthwise="cpu", precision="fp16"), "depthwise=cpu computes fp32, bf16 and fp64"),
        (cell("van_b0", form="folded", task="train"), "form=folded is for inference"),
    ],
    ids=lambda each: each.slug if isinstance(each, Cell) else "",
)
def test_what_would_change_nothing_is_skipped_and_says_so(scratch: Path, asked: Cell, said: str) -> None:
    answer = vetted(asked)
    assert isinstance(answer, Declined)
    assert answer.kind == "skipped"
    assert said in answer.message


def test_the_bound_is_that_of_the_function_however_it_is_written(scratch: Path) -> None:
    plain = cell("van_b0", memory_format="channels_last")
    fast = cell("van_b0", memory_format="channels_last", form="folded", depthwise="cpu")
    for each in (plain, fast):
        assert isinstance(vetted(each), Vetted)
    before, after = vet.step_cost_of(plain), vet.step_cost_of(fast)
    assert after.fused == before.fused
    assert after.macs == before.macs
    assert after.unmodelled == ()
    moved = [sum(work.bytes * work.count for work in step.works) for step in (before, after)]
    assert moved[1] < 0.85 * moved[0]
