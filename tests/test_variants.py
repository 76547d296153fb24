"""The models of experiments/variants.py are what their docstrings say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import vanbench.models  # noqa: F401 -- registers VAN with timm
from vanbench.models.weights import draw_weights


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return importlib.import_module("experiments.variants")


@pytest.mark.parametrize("name", ["van_b0_without_tokens", "van_b0_without_clones"])
def test_a_variant_without_copies_computes_the_same(variants: Any, name: str) -> None:
    images = torch.randn(2, 3, 64, 64)
    model = timm.create_model("van_b0")
    draw_weights(model, 0, images)
    other = getattr(variants, name)()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(images), model.eval()(images), rtol=1e-5, atol=1e-5)


def test_the_inner_shortcut_is_what_is_left_out(variants: Any) -> None:
    whole, without = variants.van_b0_without_clones(), variants.van_b0_without_shortcut()
    without.load_state_dict(whole.state_dict())
    one, other = (next(m for m in model.modules() if hasattr(m, "proj_1")) for model in (whole, without))
    x = torch.randn(1, 32, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(other(x) + x, one(x))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gates", 4 * (64 * (25 + 1) + 64 * (49 + 1) + 64 * 64 + 64)),
        ("whole_depthwise_gates", 4 * (64 * (441 + 1) + 64 * 64 + 64)),
        ("dense_gates", 4 * (64 * 64 * 441 + 64)),
        ("attention_gates", 4 * (64 * 192 + 192 + 64 * 64 + 64)),
    ],
)
def test_gates_of_each_kind_have_one_width(variants: Any, name: str, parameters: int) -> None:
    model = getattr(variants, name)()
    assert sum(each.numel() for each in model.layers.parameters()) == parameters
    assert model(torch.randn(2, 3, 14, 14)).shape == (2, 10)


def test_attention_mixes_every_pixel_with_every_other(variants: Any) -> None:
    layer = variants.attention_gates().layers[0].eval()
    x = torch.randn(1, 64, 3, 4)
    moved = x.clone()
    moved[0, :, 2, 3] += 1.0
    with torch.no_grad():
        assert bool(((layer(moved) - layer(x)).abs().amax(dim=1) > 1e-6).all())
