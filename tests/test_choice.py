"""depthwise=auto: only what is faster for certain takes torch's place; measured once a machine, and checked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import timm
import torch
from test_form_cells import CPU, Ear, cell, vetted
from torch import Tensor

import vanbench.models
from vanbench.errors import UserError
from vanbench.kernels.choice import Choice, Conv, WrongKernel, decided, fastest
from vanbench.kernels.compiled import compiler
from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry
from vanbench.kernels.kept import Kept
from vanbench.models.serve import DepthwiseConv2d, depthwise_convs, depthwise_words, fastest_depthwise, use_fastest
from vanbench.record.task import Declined, Vetted
from vanbench.worker import measure
from vanbench.worker.choose import chosen

SMALL = Conv((2, 8, 14, 14), Geometry(7, 3), torch.float32, torch.channels_last)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VANBENCH_CACHE", str(tmp_path))


def laps(native: list[float], **others: list[float]) -> tuple[list[str], list[list[float]]]:
    return ["native", *others], [list(lap) for lap in zip(native, *others.values(), strict=True)]


# --- the decision -----------------------------------------------------------------------------------------------------


def test_what_is_faster_in_nearly_every_lap_is_chosen_with_its_median_ratio() -> None:
    assert decided(*laps([2.0] * 8, cpu=[1.0] * 7 + [3.0])) == Choice(word="cpu", ratio=2.0)


def test_of_two_that_are_faster_the_faster_is_chosen() -> None:
    assert decided(*laps([3.0] * 8, polyphase=[2.0] * 8, cpu=[1.0] * 8)).word == "cpu"
    assert decided(*laps([3.0] * 8, polyphase=[1.0] * 8, cpu=[2.0] * 8)).word == "polyphase"


@pytest.mark.parametrize(
    "cpu",
    [[0.99] * 8, [1.5] * 8, [0.5] * 5 + [1.5] * 3, [0.9, 1.1] * 4],
    ids=["hardly faster", "slower", "slower in three laps of eight", "now and then"],
)
def test_what_may_be_the_machines_doing_leaves_torchs_own(cpu: list[float]) -> None:
    assert decided(*laps([1.0] * 8, cpu=cpu)) == Choice(word="native", ratio=1.0)


# --- measured once ----------------------------------------------------------------------------------------------------


def test_a_choice_is_kept_for_this_machine_and_obeyed() -> None:
    first = fastest(SMALL)
    assert first.word in IMPLEMENTATIONS
    place = Kept("depthwise", Choice, "cpu").place
    assert msgspec.json.decode(place.read_bytes(), type=dict[str, Choice]) == {SMALL.slug: first}
    other = Choice(word="polyphase", ratio=123.0)
    place.write_bytes(msgspec.json.encode({SMALL.slug: other}))
    assert fastest(SMALL) == other


def test_another_number_of_threads_is_another_measurement() -> None:
    here, threads = Kept("depthwise", Choice, "cpu").place, torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert Kept("depthwise", Choice, "cpu").place != here
    finally:
        torch.set_num_threads(threads)


def test_a_file_that_cannot_be_read_is_measured_anew() -> None:
    place = Kept("depthwise", Choice, "cpu").place
    place.parent.mkdir(parents=True)
    place.write_text("{ no json")
    fastest(SMALL)
    assert SMALL.slug in msgspec.json.decode(place.read_bytes(), type=dict[str, Choice])


def test_where_nothing_else_serves_it_is_torchs_and_nothing_is_timed() -> None:
    strided = Conv((2, 8, 14, 14), Geometry(7, 1, 2), torch.float32, torch.channels_last)
    assert fastest(strided) == Choice(word="native", ratio=1.0)
    assert fastest(SMALL._replace(shape=(0, 8, 14, 14))).word == "native"


def plant(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setitem(IMPLEMENTATIONS, "polyphase", IMPLEMENTATIONS["polyphase"]._replace(**changes))


def test_a_wrong_kernel_is_named_and_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = IMPLEMENTATIONS["polyphase"].forward
    plant(monkeypatch, forward=lambda *given: 1.001 * right(*given))
    with pytest.raises(WrongKernel, match="depthwise=polyphase is wrong for 2x8x14x14 k7 d3"):
        fastest(SMALL)


def test_a_gradient_that_is_wrong_is_found_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    right = IMPLEMENTATIONS["polyphase"].forward

    def halved_gradient(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return right(x, 0.5 * w + 0.5 * w.detach(), bias, geometry)

    plant(monkeypatch, forward=halved_gradient)
    with pytest.raises(WrongKernel):
        fastest(SMALL._replace(training=True))


def test_a_slow_implementation_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = IMPLEMENTATIONS["native"].forward

    def slow(*given: Any) -> Tensor:
        time.sleep(0.01)
        return right(*given)

    for word in IMPLEMENTATIONS:
        if word != "native":
            monkeypatch.setitem(IMPLEMENTATIONS, word, IMPLEMENTATIONS[word]._replace(forward=slow))
    dense = Conv((1, 8, 7, 7), Geometry(3), torch.float32, torch.channels_last)
    assert fastest(dense).word == "native"


# --- in a model -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(compiler() is None, reason="no C compiler: depthwise=cpu is not here")
def test_convert_serves_each_conv_by_its_fastest_and_says_so() -> None:
    model = timm.create_model("van_b0").eval()
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    fast, changes = vanbench.models.convert(model, form="folded", depthwise="auto", example=images)
    with torch.inference_mode():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-3, atol=1e-4)
    words = depthwise_words(fast)
    assert sum(words.values()) == len(depthwise_convs(model))
    # Torch's dilated conv is tens of times slower: whatever the machine does, another one is chosen.
    dilated = [conv for conv in depthwise_convs(fast).values() if conv.dilation[0] == 3]
    assert all(isinstance(conv, DepthwiseConv2d) for conv in dilated)
    assert any("7x7 dilation 3 convolution(s) served by" in line and "times as fast" in line for line in changes)
    assert not any(conv._forward_pre_hooks for conv in depthwise_convs(fast).values())


def test_auto_without_an_example_is_refused() -> None:
    with pytest.raises(UserError, match="give example=images"):
        vanbench.models.convert(timm.create_model("van_b0"), depthwise="auto")


def test_looking_at_a_training_model_leaves_its_statistics_and_its_mode() -> None:
    model = timm.create_model("van_b0").train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choices = fastest_depthwise(model, torch.randn(1, 3, 32, 32), torch.float32)
    assert set(choices) == set(depthwise_convs(model))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_conv_that_the_example_does_not_reach_is_torchs() -> None:
    model = timm.create_model("van_b0").eval()
    assert use_fastest(model, {}) == ((), ())
    assert depthwise_words(model) == {"native": len(depthwise_convs(model))}


def test_a_cell_is_timed_with_what_was_chosen_for_it() -> None:
    asked = cell("van_b0", batch_size=2, depthwise="auto", memory_format="channels_last")
    assert isinstance(vetted(asked), Vetted)
    ear: Any = Ear()
    ready = measure.prepared(asked, CPU, 0, ear)
    assert ready is not None
    words = [getattr(conv, "implementation", "native") for conv in depthwise_convs(ready[0].eager).values()]
    assert words == [choice.word for choice in chosen(asked).values()]
    assert measure.right_answer(*ready, 0, ear) is not None


def test_a_model_without_depthwise_convs_is_skipped() -> None:
    last = vetted(cell("resnet18", depthwise="auto"))
    assert isinstance(last, Declined)
    assert last.kind == "skipped"
    assert "no depthwise convolution" in last.message


def test_a_wrong_kernel_is_refused_before_a_cell_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = IMPLEMENTATIONS["polyphase"].forward
    plant(monkeypatch, forward=lambda *given: 1.001 * right(*given))
    last = vetted(cell("van_b0", depthwise="auto"))
    assert isinstance(last, Declined)
    assert last.kind == "wrong_answer"
    assert "depthwise=polyphase is wrong for" in last.message


def test_what_the_cpu_emulates_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it can serve: it would be timed, and Triton's interpreter takes minutes."""
    for word in ("cuda", "triton"):
        assert IMPLEMENTATIONS[word].why_not("cpu", Geometry(3), torch.float32) is None

        def refuse(*given: object) -> torch.Tensor:
            raise AssertionError("called")

        monkeypatch.setitem(IMPLEMENTATIONS, word, IMPLEMENTATIONS[word]._replace(forward=refuse))
    conv = Conv((1, 8, 6, 6), Geometry(3), torch.float32, torch.channels_last)
    assert fastest(conv).word in ("native", "cpu")
