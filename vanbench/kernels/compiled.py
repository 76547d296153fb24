"""C sources of this folder as loaded libraries: compiled at first use, kept in the user's cache. Holds no kernel."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import secrets
import shutil
import subprocess
from functools import cache
from pathlib import Path

from vanbench.errors import unknown
from vanbench.record.ceilings import cache_root

__all__ = ["NoCompiler", "compiler", "load"]

_FLAGS = ("-O3", "-shared", "-fPIC", "-std=gnu11")
_X86 = platform.machine() in ("x86_64", "AMD64")
# By the words of $VANBENCH_ISA. native: what this CPU has; the others are there to be compared with it.
_ISA_FLAGS = {
    # Without the second GCC splits 64-byte vectors in two on CPUs whose tables say so.
    "native": ("-march=native", "-mprefer-vector-width=512") if _X86 else ("-march=native",),
    **({"avx2": ("-march=x86-64-v3",), "baseline": ("-march=x86-64",)} if _X86 else {"baseline": ()}),
}
_TIMEOUT_S = 120.0
_SUFFIXES = {"c": "c", "cuda": "cu"}
# Nothing that is emulated is timed: what matters is how soon it is compiled.
_LANGUAGE_FLAGS: dict[str, tuple[str, ...]] = {"c": (), "cuda": ("-x", "c", "-O1", "-lm")}


class NoCompiler(Exception):  # noqa: N818 -- a state of the machine that callers name, not a mistake
    """There is no C compiler here, or it cannot compile the source; the message says which."""


def compiler() -> str | None:
    """The C compiler's path: $CC, else cc, gcc or clang from the path; None if there is none."""
    asked = os.environ.get("CC")
    for name in (asked,) if asked else ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return found
    return None


@cache
def load(name: str, *defines: str, language: str = "c") -> ctypes.CDLL:
    """The library of `kernels/<name>.c`, compiled for this very CPU, or for the instruction set in $VANBENCH_ISA.

    language: "cuda" for `kernels/<name>.cu`, which is C if it is told so.

    defines: "NAME=VALUE" for the preprocessor; each set of them is a library of its own.

    Safe when several processes come first at once: each compiles to a name of its own and renames.

    Raises:
        NoCompiler: and says why not.
        UserError: for an unknown instruction set.
    """
    path = compiler()
    if path is None:
        raise NoCompiler("no C compiler on the path (cc, gcc, clang or $CC)")
    source = Path(__file__).with_name(f"{name}.{_SUFFIXES[language]}")
    isa = os.environ.get("VANBENCH_ISA") or "native"
    if isa not in _ISA_FLAGS:
        raise unknown("VANBENCH_ISA", isa, _ISA_FLAGS)
    flags = (*_FLAGS, *_LANGUAGE_FLAGS[language], *_ISA_FLAGS[isa], *(f"-D{each}" for each in defines))
    library = _place(name, source.read_bytes(), path, flags)
    if not library.exists():
        _compile(path, flags, source, library)
    return ctypes.CDLL(str(library))


def _place(name: str, source: bytes, path: str, flags: tuple[str, ...]) -> Path:
    """Where the library lies: named by everything it depends on, `-march=native` by what the CPU says it can do."""
    said = subprocess.run([path, "--version"], capture_output=True, timeout=_TIMEOUT_S, check=False).stdout
    parts = (source, path.encode(), said, " ".join(flags).encode(), _abilities())
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return cache_root() / "kernels" / f"{name}-{key}.so"


def _abilities() -> bytes:
    try:
        with open("/proc/cpuinfo", "rb") as file:
            lines = [line for line in file if line.startswith((b"flags", b"Features", b"model name", b"CPU part"))]
    except OSError:
        return platform.processor().encode()
    return b"".join(sorted(set(lines)))


def _compile(path: str, flags: tuple[str, ...], source: Path, library: Path) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        fresh = library.with_name(f".{library.name}.{secrets.token_hex(4)}.tmp")
        done = subprocess.run(
            [path, *flags, "-o", str(fresh), str(source)], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise NoCompiler(f"{path} cannot compile {source.name}: {first}")
        os.replace(fresh, library)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCompiler(f"{path} cannot compile {source.name}: {error}") from error
