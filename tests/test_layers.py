"""Imports point down, the two halves never meet, and the command line is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vanbench"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each room may import of the others. `execute` writes the table after each round, so it may see `report`.
MAY = {
    "errors": set[str](),
    "units": set[str](),
    "stats": set[str](),
    "spec": {"errors", "units", "stats"},
    "record": {"spec", "errors", "units", "stats"},
    "analysis": {"record", "spec", "errors", "units", "stats"},
    "report": {"analysis", "record", "spec", "errors", "units", "stats"},
    "execute": {"report", "analysis", "record", "spec", "errors", "units", "stats"},
    "kernels": {"analysis", "record", "spec", "errors", "units", "stats"},
    "models": {"kernels", "analysis", "record", "spec", "errors", "units", "stats"},
    "worker": {"models", "kernels", "analysis", "record", "spec", "errors", "units", "stats", "__init__"},
    "cli": {"execute", "report", "analysis", "record", "spec", "errors", "units", "stats", "__init__"},
    "__init__": {"execute", "report"},
    "__main__": {"cli"},
    # An entry beside the command line, for pytest's users.
    "pytest_plugin": {"execute", "report", "analysis", "record", "spec", "errors", "units", "stats", "__init__"},
}
ONLY = {
    "torch": {"worker", "models", "kernels"},
    "timm": {"worker", "models", "kernels"},
    "triton": {"kernels"},
    "pynvml": {"worker"},
    "torchvision": {"models"},
    "matplotlib": {"report"},
    "pandas": {"report", "__init__"},
    "typer": {"cli"},
    "rich": {"cli", "report"},
}


def room(file: Path) -> str:
    relative = file.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "vanbench")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down_and_foreign_packages_stay_in_their_rooms(file: Path) -> None:
    mine = room(file)
    for name in imported(file):
        first, _, rest = name.partition(".")
        if first == "vanbench":
            other = rest.partition(".")[0] or "__init__"
            if other in MAY:
                assert other == mine or other in MAY[mine], f"{mine} imports {name}"
        elif first in ONLY:
            assert mine in ONLY[first], f"{mine} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_only_the_command_line_prints_or_exits(file: Path) -> None:
    if room(file) in ("cli", "__main__"):
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("print", "sys.exit", "exit", "quit"), f"line {node.lineno}"


@pytest.mark.parametrize("module", ["vanbench", "vanbench.cli"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "timm", "pandas", "matplotlib", "scipy", "numpy", "psutil")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_parent_half_never_loads_torch_even_while_it_runs(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    code = f"""
import sys
from vanbench.execute.run import measure
from vanbench.spec.sweep import parse_sweep
flags = dict(zip(["models", "batch-size", "rounds", "round"], ["fake:10,fake:20", "1,2", "2:2", "0.05"]))
for event in measure(parse_sweep({{}}, flags), out=__import__("pathlib").Path({str(tmp_path / "run")!r}),
                     worker={fake_worker!r}):
    pass
print(sorted(m for m in ("torch", "timm", "torchvision") if m in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
