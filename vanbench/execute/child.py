"""One live child and what starts it: start, ask, close, and how it died.

On Linux a nursery forks children; elsewhere each child is a new interpreter that connects back over the loopback.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from vanbench.errors import VanbenchError, WorkerError
from vanbench.record.task import Answer, Ask, Dead, Forked, Task, decode_answer, encode

__all__ = ["WORKER", "Child", "ChildFailure", "Nursery", "Spawner", "Starter", "starter"]

# The command of the real workers; the descriptor of the control socket and our process id are appended.
WORKER: tuple[str, ...] = (sys.executable, "-m", "vanbench.worker")

_NURSERY = msgspec.json.Decoder(Forked | Dead)
_START_TIMEOUT_S = 180.0
_REPORT_TIMEOUT_S = 10.0
_MOST_BYTES = 64 << 20

# What every worker's environment holds. One OpenBLAS thread: none may exist when the nursery forks. NVML's check:
# asking whether there is a GPU must not make a context that no child could use after a fork.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
}


class ChildFailure(VanbenchError):  # noqa: N818 -- what a child did, told as a row, not an error of ours
    """A child that gave no measurement: `kind` is one of `record.Failed`'s, or "skipped"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Starter(Protocol):
    """What starts children and knows how they ended. A context manager: leaving it ends every child."""

    def __enter__(self) -> Starter: ...

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None:
        """End everything that was started."""

    def fork(self, task: Task, name: str) -> Child:
        """A new child that carries out `task`. name: for messages."""

    def how_it_ended(self, pid: int) -> int | None:
        """A child's exit status, or minus the signal that killed it; None if nobody can tell."""


def starter(scratch: Path, command: Sequence[str] = WORKER) -> Starter:
    """The way of this system: a nursery on Linux, an interpreter a child elsewhere."""
    return Nursery(scratch, command) if sys.platform == "linux" else Spawner(scratch, command)


class Nursery:
    """A fresh process that has imported everything and forks children. Use it as a context manager."""

    def __init__(self, scratch: Path, command: Sequence[str] = WORKER) -> None:
        self._scratch = scratch
        self._command = command
        self._ended: dict[int, int] = {}
        self._started = 0
        self._children: list[Child] = []

    def __enter__(self) -> Nursery:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = self._scratch / f"nursery-{time.monotonic_ns()}.log"
        with theirs, open(self._log, "wb") as log:
            try:
                self._process = subprocess.Popen(
                    [*self._command, str(theirs.fileno()), str(os.getpid())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=_environment(self._scratch),
                )
            except OSError as error:
                ours.close()
                raise WorkerError(f"cannot start the worker {self._command[0]}: {error}") from None
        self._control = ours
        try:
            self._own = self._read(time.monotonic() + _START_TIMEOUT_S, lambda message: isinstance(message, Forked))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the nursery and every child of it, and wait for the nursery's end."""
        for child in self._children:
            child.kill()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # what is left of its children dies with it, by PR_SET_PDEATHSIG
        self._process.wait()
        self._control.close()

    def fork(self, task: Task, name: str) -> Child:
        """A new child that carries out `task`. name: for messages."""
        self._started += 1
        log = self._scratch / f"{self._log.stem}-{self._started}.log"
        kills = _oom_kills()
        ours, theirs = socket.socketpair()
        with theirs, open(log, "wb") as printed:
            try:
                socket.send_fds(self._control, [msgspec.json.encode(task)], [theirs.fileno(), printed.fileno()])
            except OSError:
                ours.close()
                raise WorkerError(f"the worker process ended: {self._last_words()}") from None
        forked = self._read(time.monotonic() + _REPORT_TIMEOUT_S, lambda message: isinstance(message, Forked))
        child = Child(name, forked, ours, log, self, kills)
        self._children.append(child)
        return child

    def how_it_ended(self, pid: int) -> int | None:
        """A child's exit status, or minus the signal that killed it; None if nobody can tell."""
        if pid not in self._ended:
            with contextlib.suppress(WorkerError):
                self._read(time.monotonic() + _REPORT_TIMEOUT_S, lambda _: pid in self._ended)
        return self._ended.get(pid)

    def _read(self, deadline: float, wanted: Callable[[Forked | Dead], bool]) -> int:
        """Take messages until one for which `wanted(message)` holds; returns its process id."""
        while True:
            ready, _, _ = select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))
            line = b""
            if ready:
                with contextlib.suppress(ConnectionError):
                    line = self._control.recv(65_536)
            if not line:
                raise WorkerError(f"the worker process {'ended' if ready else 'does not answer'}: {self._last_words()}")
            message: Forked | Dead = _NURSERY.decode(line)
            if isinstance(message, Dead):
                self._ended[message.pid] = message.code
            if wanted(message):
                return message.pid

    def _last_words(self) -> str:
        return last_lines(self._log) or f"it printed nothing (command: {' '.join(self._command)})"


class Spawner:
    """Starts a new interpreter for each child: slower by its imports, but it works where nothing can be forked.

    Without Linux's parent-death signal a child that is busy when the parent is killed ends only at its next message.
    """

    def __init__(self, scratch: Path, command: Sequence[str] = WORKER) -> None:
        self._scratch = scratch
        self._command = command
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._children: list[Child] = []

    def __enter__(self) -> Spawner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every child."""
        for child in self._children:
            child.kill()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def fork(self, task: Task, name: str) -> Child:
        """A new child that carries out `task`."""
        log = self._scratch / f"child-{len(self._children)}-{time.monotonic_ns()}.log"
        kills = _oom_kills()
        token = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "wb") as printed:
            environment = {**_environment(self._scratch), "VANBENCH_TOKEN": token}
            try:
                process = subprocess.Popen(
                    [*self._command, "--connect", str(listener.getsockname()[1])],
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                    start_new_session=True,
                    env=environment,
                )
            except OSError as error:
                raise WorkerError(f"cannot start the worker {self._command[0]}: {error}") from None
            self._processes[process.pid] = process
            connection = self._accept(listener, process, token, log)
        child = Child(name, process.pid, connection, log, self, kills)
        self._children.append(child)
        connection.sendall(encode(task))
        return child

    def _accept(
        self, listener: socket.socket, process: subprocess.Popen[bytes], token: str, log: Path
    ) -> socket.socket:
        """The connection of the process just started, known by its token."""
        listener.settimeout(0.5)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(5.0)
                with contextlib.suppress(OSError):
                    if connection.recv(len(token), socket.MSG_WAITALL) == token.encode():
                        connection.settimeout(None)
                        return connection
                connection.close()
        process.kill()
        raise WorkerError(f"the worker process ended: {last_lines(log) or 'it printed nothing'}")

    def how_it_ended(self, pid: int) -> int | None:
        """A child's exit status, or minus the signal that killed it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._processes[pid].wait(_REPORT_TIMEOUT_S)
        return None


def _environment(scratch: Path) -> dict[str, str]:
    return {**os.environ, **_ENVIRONMENT, "VANBENCH_CACHE": str(scratch)}


class Child:
    """One task's process. Every way it can go wrong is a `ChildFailure`; the parent sleeps while it works."""

    def __init__(
        self, name: str, pid: int, connection: socket.socket, log: Path, starter: Starter, oom_kills: int | None
    ) -> None:
        self.name = name
        self.pid = pid
        self._socket = connection
        self._log = log
        self._starter = starter
        self._oom_kills = oom_kills
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
        from vanbench.record.task import Declined

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
        code = self._starter.how_it_ended(self.pid)
        words = last_lines(self._log)
        tail = f": {words}" if words else ""
        if code is None:
            raise ChildFailure("exit", f"its process ended, nobody knows how{tail}")
        if code == -9 and (_oom_kills() or 0) > (self._oom_kills or 0):
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
        self._starter.how_it_ended(self.pid)
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


def _oom_kills() -> int | None:
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
