"""A process that has imported everything and forks a child for each task. Imports no torch itself: `warm` does.

Starting a child costs a fork instead of seconds of imports. No thread may exist when it forks, which is why the
parent sets OPENBLAS_NUM_THREADS=1 and nothing here computes. Nobody outlives the parent: each process asks the
kernel to be killed when the one that made it dies (Linux), and an idle child ends at end-of-file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from vanbench.record.task import PROTOCOL, Dead, Forked, encode
from vanbench.worker.channel import Channel

__all__ = ["connect", "die_with", "main", "run"]

_PR_SET_PDEATHSIG = 1
_MESSAGE = 1 << 20


def die_with(parent: int) -> None:
    """Be killed when `parent` (a process id, the one that made this process) dies; leave now if it is dead already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # It may have died before the call above took effect.
    if os.getppid() != parent:
        os._exit(0)


def run(control: socket.socket, parent: int, warm: Callable[[], None], serve: Callable[[bytes, Channel], None]) -> None:
    """Warm up, say so with `Forked(pid=own)`, then fork a child for each task until the control socket ends.

    control: a SOCK_SEQPACKET socket; each message is a task's JSON with two descriptors, the child's channel and the
    file for what it prints. Every child's end is reported with `Dead`.
    """
    die_with(parent)
    _be_killed_before_the_parent(500)
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm()
    control.send(encode(Forked(pid=os.getpid(), protocol=PROTOCOL)))
    while True:
        readable, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            _report_the_dead(control)
        if control.fileno() in readable:
            message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE, 2)
            if not message:
                return
            own = os.getpid()
            pid = os.fork()
            if pid == 0:
                control.close()
                os.close(woken)
                _be_a_child(own, message, descriptors, serve)
            for descriptor in descriptors:
                os.close(descriptor)
            control.send(encode(Forked(pid=pid, protocol=PROTOCOL)))


def connect(port: int, warm: Callable[[], None], serve: Callable[[bytes, Channel], None]) -> None:
    """Serve one task as a process of its own, where nothing can be forked: connect back, prove who we are, read it."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"{os.environ['VANBENCH_TOKEN']}{PROTOCOL:04d}".encode())
    channel = Channel(connection)
    warm()
    task = channel.receive()
    if task is not None:
        serve(task, channel)


def main(words: list[str], warm: Callable[[], None], serve: Callable[[bytes, Channel], None]) -> None:
    """A worker's command line: `FD PARENT` for a nursery, `--connect PORT` for a single child."""
    if words[0] == "--connect":
        connect(int(words[1]), warm, serve)
    else:
        run(socket.socket(fileno=int(words[0])), int(words[1]), warm, serve)


def _report_the_dead(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        control.send(encode(Dead(pid=pid, code=os.waitstatus_to_exitcode(status))))


def _be_a_child(
    nursery: int, message: bytes, descriptors: list[int], serve: Callable[[bytes, Channel], None]
) -> NoReturn:
    """Serve one task and leave. Whatever it prints goes to its own file, so that it cannot garble the messages."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()  # Ctrl-C at the terminal reaches the parent alone
        die_with(nursery)
        _be_killed_before_the_parent(1000)
        connection, printed = descriptors
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.close(printed)
        serve(message, Channel(socket.socket(fileno=connection)))
        code = 0
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        # No interpreter shutdown: a measured model's threads and atexit hooks are of no more use.
        os._exit(code)


def _be_killed_before_the_parent(score: int) -> None:
    """Tell the kernel's OOM killer to prefer this process."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))
