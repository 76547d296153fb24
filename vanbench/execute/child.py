"""One live child: ask, close, and how it died."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from vanbench.errors import VanbenchError
from vanbench.record.task import Answer, Ask, Declined, decode_answer, encode

__all__ = ["Child", "ChildFailure", "Ending", "last_lines", "oom_kills"]

_MOST_BYTES = 64 << 20

Ending = Callable[[int], "int | None"]
"""Tells a process id's exit status, or minus the signal that killed it; None if nobody can tell."""


class ChildFailure(VanbenchError):  # noqa: N818 -- what a child did, told as a row, not an error of ours
    """A child that gave no measurement: `kind` is one of `record.Failed`'s, or "skipped"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Child:
    """One task's process. Every way it can go wrong is a `ChildFailure`; the parent sleeps while it works."""

    def __init__(
        self, name: str, pid: int, connection: socket.socket, log: Path, how_it_ended: Ending, kills: int | None
    ) -> None:
        self.name = name
        self.pid = pid
        self._socket = connection
        self._log = log
        self._how_it_ended = how_it_ended
        self._oom_kills = kills
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(connection, select.POLLIN)
        self._rest = bytearray()
        self._killed = False

    def ask(self, word: str, timeout_s: float) -> Answer:
        """Say "sample" or "close" and wait for the answer."""
        try:
            self._socket.sendall(encode(Ask(ask=word)))
        except OSError:
            self._mourn()
        return self.receive(timeout_s)

    def receive(self, timeout_s: float) -> Answer:
        """The next message; raises ChildFailure for silence, death, nonsense, or a child that declined."""
        deadline = time.monotonic() + timeout_s
        while (end := self._rest.find(b"\n")) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not self._wait(left):
                self.kill()
                raise ChildFailure("timeout", f"no answer for {timeout_s:g} s: killed (raise --timeout if it is right)")
            try:
                more = self._socket.recv(1 << 18)
            except ConnectionError:
                more = b""
            if not more:
                self._mourn()
            self._rest += more
            if len(self._rest) > _MOST_BYTES:
                self.kill()
                raise ChildFailure("protocol", "an endless message")
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        try:
            answer = decode_answer(line)
        except msgspec.DecodeError as error:
            self.kill()
            raise ChildFailure("protocol", f"unreadable message {line[:80]!r}: {error}") from None
        if isinstance(answer, Declined):
            raise ChildFailure(answer.kind, answer.message)
        return answer

    def _wait(self, seconds: float) -> bool:
        if self._poll is not None:
            return bool(self._poll.poll(seconds * 1000))
        return bool(select.select([self._socket], [], [], seconds)[0])

    def _mourn(self) -> None:
        """Say how it died."""
        code = self._how_it_ended(self.pid)
        words = last_lines(self._log)
        tail = f": {words}" if words else ""
        if code is None:
            raise ChildFailure("exit", f"its process ended, nobody knows how{tail}")
        if code == -9 and (oom_kills() or 0) > (self._oom_kills or 0):
            raise ChildFailure("out_of_memory", "the kernel's out-of-memory killer ended it")
        if code < 0:
            raise ChildFailure("signal", f"killed by {_signal_name(-code)}{tail}")
        half = " in the middle of a message" if self._rest else ""
        raise ChildFailure("exit", f"its process left with status {code}{half}{tail}")

    def kill(self) -> None:
        """End it and whatever it started; safe to call at any time."""
        if self._killed:
            return
        self._killed = True
        if sys.platform != "win32":  # there the starter kills it
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self.pid, signal.SIGKILL)
        self._socket.close()

    def leave(self) -> None:
        """Let go of a child that has said its last word: wait until its memory is free again."""
        self._how_it_ended(self.pid)
        self.kill()


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def last_lines(log: Path, count: int = 1) -> str:
    """The last non-empty lines of a log, on one line."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_bytes()[-8192:].decode(errors="replace").splitlines()]
        return " | ".join([line for line in lines if line][-count:])
    return ""


def oom_kills() -> int | None:
    """How many processes the kernel's OOM killer has ended: in this memory cgroup (version 2 or 1), else anywhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            files = []
            if controllers == "":
                files.append(Path("/sys/fs/cgroup" + path) / "memory.events")
            elif "memory" in controllers.split(","):
                files.append(Path("/sys/fs/cgroup/memory" + path) / "memory.oom_control")
            for file in files:
                count = _count_in(file)
                if count is not None:
                    return count
    return _count_in(Path("/proc/vmstat"))


def _count_in(file: Path) -> int | None:
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None
