"""What was measured of kernels on this machine, kept in the user's cache for the next process. Measures nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import torch

from vanbench.errors import StorageError, UserError
from vanbench.kernels.compiled import compiler
from vanbench.record.ceilings import cache_root
from vanbench.record.files import read_value, replace_file
from vanbench.record.hardware import hardware

__all__ = ["Kept"]

_Value = TypeVar("_Value")


class Kept(Generic[_Value]):
    """Values by name, of this machine, this torch, these kernels' sources and, on a CPU, this many threads."""

    def __init__(self, kind: str, value: type[_Value], device: str) -> None:
        """kind: what the values are, the file's folder. device: a type."""
        self._value = value
        self.place: Path = cache_root() / kind / f"{hardware().key}-{_digest(device)}.json"

    def find(self, name: str) -> _Value | None:
        """What was kept under that name."""
        return self._known().get(name)

    def keep(self, name: str, value: _Value) -> None:
        """Where the cache cannot be written it is measured again next time."""
        # What another process has kept meanwhile is read again; at worst an entry is lost and measured once more.
        with contextlib.suppress(OSError, UserError, StorageError):
            self.place.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.place, msgspec.json.encode({**self._known(), name: value}))

    def _known(self) -> dict[str, _Value]:
        if not self.place.exists():
            return {}
        try:
            return read_value(self.place, dict[str, self._value], f"no such file: {self.place}")  # type: ignore[name-defined]
        except UserError:
            return {}  # a file that cannot be read is measured anew, and written over


@cache
def _sources() -> bytes:
    digest = hashlib.sha256(torch.__version__.encode())
    for source in sorted(Path(__file__).parent.iterdir()):
        if source.suffix in (".c", ".cu", ".py"):
            digest.update(source.read_bytes())
    return digest.digest()


def _digest(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    # Without a compiler there was less to choose from.
    words = (os.environ.get("VANBENCH_ISA") or "native", str(compiler()), name)
    return hashlib.sha256(b"\0".join([_sources(), *map(str.encode, words)])).hexdigest()[:12]
