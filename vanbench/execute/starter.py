"""What starts children and knows how they ended: a nursery that forks them on Linux, an interpreter each elsewhere."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import msgspec

from vanbench.errors import WorkerError
from vanbench.execute.child import Child, last_lines, oom_kills
from vanbench.record.allocators import environment_of
from vanbench.record.task import PROTOCOL, Dead, Forked, Measure, ProfileStep, Task, encode

__all__ = ["WORKER", "Nurseries", "Nursery", "Spawner", "Starter", "UnlikeProtocol", "starter"]

# The command of the real workers; what says how to reach us is appended.
WORKER: tuple[str, ...] = (sys.executable, "-m", "vanbench.worker")

_NURSERY = msgspec.json.Decoder(Forked | Dead)
_START_TIMEOUT_S = 180.0
_REPORT_TIMEOUT_S = 10.0

# What every worker's environment holds. One OpenBLAS thread: none may exist when the nursery forks. NVML's check:
# asking whether there is a GPU must not make a context that no child could use after a fork.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
}


class UnlikeProtocol(WorkerError):  # noqa: N818 -- a fact of the other sources, not an error of ours
    """A worker of other sources, whose messages are of another shape."""

    def __init__(self, protocol: int, command: Sequence[str]) -> None:
        theirs = f"protocol {protocol}" if protocol else "an older protocol"
        super().__init__(
            f"the worker {command[0]} speaks {theirs}, this vanbench {PROTOCOL}: measure both arms with sources whose "
            "record/task.py agrees"
        )


class Starter(Protocol):
    """What starts children and knows how they ended. A context manager: leaving it ends every child."""

    def __enter__(self) -> Starter: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self) -> None:
        """Start what takes long and do not wait for it; entering does both."""

    def close(self) -> None:
        """End everything that was started."""

    def fork(self, task: Task, name: str) -> Child:
        """A new child that carries out `task`. name: for messages."""


def starter(scratch: Path, command: Sequence[str] = WORKER) -> Starter:
    """The way of this system: a nursery on Linux, one for each allocator; an interpreter a child elsewhere."""
    return Nurseries(scratch, command) if sys.platform == "linux" else Spawner(scratch, command)


class Nurseries:
    """A nursery, and another for each other allocator that a timed cell asks for, started when the first one does.

    An allocator serves a process from its start on, so children that differ in it cannot come from one process.
    """

    def __init__(self, scratch: Path, command: Sequence[str] = WORKER) -> None:
        self._scratch = scratch
        self._command = command
        self._usual = Nursery(scratch, command)
        self._others: dict[str, Nursery] = {}

    def begin(self) -> None:
        """Start the usual one, and do not wait for it; entering does both."""
        self._usual.begin()

    def __enter__(self) -> Nurseries:
        self._usual.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill them all and every child of theirs."""
        for each in (self._usual, *self._others.values()):
            each.close()

    def fork(self, task: Task, name: str) -> Child:
        """A new child that carries out `task`, of the nursery whose allocator its cell asks for if it is timed."""
        word = task.cell.allocator if isinstance(task, (Measure, ProfileStep)) else "system"
        if word == "system":
            return self._usual.fork(task, name)
        if word not in self._others:
            self._others[word] = Nursery(self._scratch, self._command, environment_of(word))
            self._others[word].__enter__()
        return self._others[word].fork(task, name)


class Nursery:
    """A fresh process that has imported everything and forks children. Use it as a context manager.

    environment: what it finds in its environment besides.
    """

    def __init__(
        self, scratch: Path, command: Sequence[str] = WORKER, environment: Mapping[str, str] | None = None
    ) -> None:
        self._scratch = scratch
        self._command = command
        self._environment = environment
        self._ended: dict[int, int] = {}
        self._started = 0
        self._children: list[Child] = []
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start importing, and do not wait for it; entering does both."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = self._scratch / f"nursery-{time.monotonic_ns()}.log"
        with theirs, open(self._log, "wb") as log:
            try:
                words = [str(theirs.fileno()), str(os.getpid())]
                self._process = _launch(
                    self._command, words, log, self._scratch, pass_fds=[theirs.fileno()], extra=self._environment
                )
            except WorkerError:
                ours.close()
                raise
        self._control = ours

    def __enter__(self) -> Nursery:
        if self._process is None:
            self.begin()
        try:
            self._read(time.monotonic() + _START_TIMEOUT_S, self._is_the_greeting)
        except BaseException:
            self.close()
            raise
        return self

    def _is_the_greeting(self, message: Forked | Dead) -> bool:
        if not isinstance(message, Forked):
            return False
        if message.protocol != PROTOCOL:
            raise UnlikeProtocol(message.protocol, self._command)
        return True

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the nursery and every child of it, and wait for the nursery's end."""
        for child in self._children:
            child.kill()
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # what is left of its children dies with it, by PR_SET_PDEATHSIG
        self._process.wait()
        self._control.close()

    def fork(self, task: Task, name: str) -> Child:
        """A new child that carries out `task`. name: for messages."""
        self._started += 1
        log = self._scratch / f"{self._log.stem}-{self._started}.log"
        kills = oom_kills()
        ours, theirs = socket.socketpair()
        with theirs, open(log, "wb") as printed:
            try:
                socket.send_fds(self._control, [msgspec.json.encode(task)], [theirs.fileno(), printed.fileno()])
            except OSError:
                ours.close()
                raise WorkerError(f"the worker process ended: {self._last_words()}") from None
        forked = self._read(time.monotonic() + _REPORT_TIMEOUT_S, lambda message: isinstance(message, Forked))
        child = Child(name, forked, ours, log, self.how_it_ended, kills)
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

    def begin(self) -> None:
        """Nothing is started before a child is asked for."""

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
        kills = oom_kills()
        token = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "wb") as printed:
            words = ["--connect", str(listener.getsockname()[1])]
            process = _launch(self._command, words, printed, self._scratch, extra={"VANBENCH_TOKEN": token})
            self._processes[process.pid] = process
            connection = self._accept(listener, process, token, log)
        child = Child(name, process.pid, connection, log, self.how_it_ended, kills)
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
                    words = connection.recv(len(token) + 4, socket.MSG_WAITALL).decode(errors="replace")
                    if words[: len(token)] == token:
                        if words[len(token) :] != f"{PROTOCOL:04d}":
                            process.kill()
                            raise UnlikeProtocol(int(words[len(token) :] or 0), self._command)
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


def _launch(
    command: Sequence[str],
    words: Sequence[str],
    log: IO[bytes],
    scratch: Path,
    *,
    pass_fds: Sequence[int] = (),
    extra: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """A worker's process in a session of its own, so that Ctrl-C reaches the parent alone."""
    try:
        return subprocess.Popen(
            [*command, *words],
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **_ENVIRONMENT, "VANBENCH_CACHE": str(scratch), **(extra or {})},
        )
    except OSError as error:
        raise WorkerError(f"cannot start the worker {command[0]}: {error}") from None
