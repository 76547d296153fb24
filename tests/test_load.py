"""Models by name, their checkpoints and their cost."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from vanbench.errors import UserError
from vanbench.models import load
from vanbench.models.van import SIZES

COSTS = {  # parameters, and MACs at 224 pixels in the digits that are known
    "van_b0": (4_105_800, 864_224_000, 1),
    "van_b1": (13_861_800, 2_495_262_720, 1),
    "van_b2": (26_578_472, 4_992_773_120, 1),
    "van_b3": (44_765_608, 8_925_292_032, 1),
    "van_b4": (60_283_176, 12_143_756_288, 1),
    "van_b5": (89_967_688, 17_129_123_328, 1),
    "van_b6": (199_829_416, 38_710_096_896, 1),
    "convnext_atto": (3_695_520, 547_300_000, 1e5),
    "convnext_femto": (5_217_784, 779_600_000, 1e5),
    "convnext_pico": (9_045_672, 1_367_100_000, 1e5),
    "convnext_nano": (15_593_560, 2_445_500_000, 1e5),
    "convnext_tiny": (28_589_128, 4_455_500_000, 1e5),
    "convnext_small": (50_223_688, 8_683_700_000, 1e5),
    "convnext_base": (88_591_464, 15_354_700_000, 1e5),
    "convnext_large": (197_767_336, 34_361_400_000, 1e5),
    "resnet18": (11_689_512, 1_814_100_000, 1e5),
    "resnet34": (21_797_672, 3_663_800_000, 1e5),
    "resnet50": (25_557_032, 4_089_200_000, 1e5),
    "resnet101": (44_549_160, 7_801_400_000, 1e5),
    "resnet152": (60_192_808, 11_513_600_000, 1e5),
}


@pytest.mark.parametrize("name", COSTS)
def test_cost_is_the_known_count(name: str) -> None:
    parameters, macs, digit = COSTS[name]
    counted, counted_macs = load.cost_of(name, 224)
    assert counted == parameters
    assert counted_macs == pytest.approx(macs, abs=digit / 2 + 0.01)


def test_counting_starts_no_gpu() -> None:
    load.cost_of("resnet18", 64)
    assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def test_cost_grows_with_the_image() -> None:
    small, large = load.cost_of("resnet18", 64)[1], load.cost_of("resnet18", 128)[1]
    assert small is not None
    assert large == pytest.approx(4 * small, rel=0.01)  # all but the head


def test_timm_knows_van() -> None:
    assert load.timm_names("van_b*") == list(SIZES)
    assert "resnet50" in load.timm_names()


def test_a_model_comes_by_name_with_its_arguments() -> None:
    model = load.create("resnet18", num_classes=7, in_chans=1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'van_b2'"):
        load.create("van_2")
    with pytest.raises(UserError, match="resnet50"):
        load.create("resnet_50")


def test_an_argument_the_model_does_not_take_is_named() -> None:
    with pytest.raises(UserError, match="kernel_colour"):
        load.create("van_b0", kernel_colour="red")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current directory, of a name of its own for each test."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn

            class Inner:
                @staticmethod
                def net(width=4):
                    return nn.Sequential(nn.Conv2d(3, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

            net = Inner.net
            number = 3
            instance = nn.Identity()

            def not_a_model():
                return "text"

            def fails():
                raise KeyError("weights")

            class ReadsValues(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.rate = torch.linspace(0, 1, 3)[1].item()
                    self.linear = nn.Linear(3, 2)

                def forward(self, x):
                    return self.linear(x.mean((2, 3))) if x.sum().item() else x
            """
        )
    )
    (tmp_path / f"{name}_broken.py").write_text("1 / 0\n")
    (tmp_path / f"{name}_needy.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # so that pytest takes it away again
    return name


@pytest.mark.parametrize("attribute", ["net", "Inner.net"])
def test_ones_own_callable_is_found_in_the_current_directory(own: str, attribute: str) -> None:
    assert load.create(f"{own}:{attribute}", width=6)(torch.randn(2, 3, 4, 4)).shape == (2, 6)
    assert load.cost_of(f"{own}:{attribute}", 4) == (4 * 3 + 4, 4 * 3 * 16)


def test_the_cost_of_a_model_that_reads_values_has_no_macs(own: str) -> None:
    assert load.cost_of(f"{own}:ReadsValues", 8) == (3 * 2 + 2, None)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (":nett", "'net'"),
        (":number", "int, not a callable"),
        (":instance", "Identity, not a callable"),
        (":not_a_model", "str, not a torch.nn.Module"),
        (":fails", "KeyError: 'weights'"),
        ("_absent:net", "no module 'own_.*_absent'"),
        ("_broken:net", "ZeroDivisionError"),
        ("_needy:net", "no module 'no_such_package_at_all'"),
        (":", "package.module:callable"),
        (":net:net", "package.module:callable"),
        ("/x:net", "package.module:callable"),
    ],
)
def test_what_is_wrong_with_ones_own_model_is_said(own: str, suffix: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load.create(own + suffix)


def test_a_name_of_a_hub_is_never_looked_up() -> None:
    with pytest.raises(UserError, match=r"package\.module:callable"):
        load.create("hf-hub:someone/van_b0")


def checkpoint() -> dict[str, torch.Tensor]:
    """A checkpoint of the published keys and shapes: those of van_b0, every value drawn anew."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else torch.tensor(9)
        for name, tensor in timm.create_model("van_b0").state_dict().items()
    }


def holds(model: nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "module."])
def test_a_published_checkpoint_loads_strictly(tmp_path: Path, wrapped: str) -> None:
    expected = checkpoint()
    contents: dict[str, dict[str, Any]] = {
        "plain": expected,
        "state_dict": {"epoch": 300, "state_dict": expected},
        "module.": {"state_dict": {f"module.{key}": value for key, value in expected.items()}},
    }
    content = contents[wrapped]
    file = tmp_path / "van_b0.pth.tar"
    torch.save(content, file)
    for source in (file, str(file), content):
        model = timm.create_model("van_b0")
        load.load_checkpoint(model, source)
        assert holds(model, expected)
    assert holds(timm.create_model("van_b0", checkpoint_path=str(file)), expected)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = checkpoint()
    with pytest.raises(UserError, match=r"head\.weight"):
        load.load_checkpoint(timm.create_model("van_b0", num_classes=3), state)
    with pytest.raises(UserError, match=r"extra\.weight"):
        load.load_checkpoint(timm.create_model("van_b0"), {**state, "extra.weight": torch.zeros(1)})
    del state["block3.4.layer_scale_2"]
    with pytest.raises(UserError, match=r"block3\.4\.layer_scale_2"):
        load.load_checkpoint(timm.create_model("van_b0"), state)
    with pytest.raises(UserError, match="no such file"):
        load.load_checkpoint(timm.create_model("van_b0"), tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        load.load_checkpoint(timm.create_model("van_b0"), tmp_path / "text.pth")
