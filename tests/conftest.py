"""Shared fixtures: the fake worker's command, and whether the kernel lets a test cause a real disaster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# GPU kernels are tried on the CPU: Triton reads this when it is first imported, which torch may do in any test. Where
# there is a GPU (as the driver's device says, without loading torch) they are tried on it, in test_gpu.py.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
os.environ["VANBENCH_EMULATE_CUDA"] = "1"

FAKE_WORKER = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ceilings that somebody measured on this machine must not decide what a test does."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def fake_worker() -> tuple[str, ...]:
    """The command of a worker without torch, scripted by model names."""
    return FAKE_WORKER


@pytest.fixture
def in_tmp(tmp_path: Path) -> Iterator[Path]:
    """The test runs in its own folder."""
    before = os.getcwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
