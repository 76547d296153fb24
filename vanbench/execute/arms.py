"""Where an arm's code comes from, an interpreter, a source tree or a commit, and what starts it. Times nothing."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vanbench.errors import UserError, WorkerError
from vanbench.execute.starter import WORKER, Starter, UnlikeProtocol, starter
from vanbench.record.gate import ROLES
from vanbench.spec.arm import Arm

__all__ = ["Source", "nurseries", "sources"]

# The arm's tree first, then what the interpreter has installed, the current directory last: an installed package is not
# shadowed by whatever the gate happens to be started in, and a model of the user's own is found all the same.
_BOOT = """\
import os, runpy, sys
sys.path[:] = [*{paths!r}, *(path for path in sys.path if path), os.getcwd()]
runpy.run_module({module!r}, run_name="__main__")
"""


class Source(NamedTuple):
    """What starts an arm's workers. paths: put first on the import path; scratch: where its workers leave files."""

    command: tuple[str, ...]
    paths: tuple[str, ...]
    scratch: Path
    commit: str | None = None

    @property
    def tree(self) -> str | None:
        """The folder from which the arm must load something, if it names one."""
        return self.paths[-1] if self.paths else None


@contextlib.contextmanager
def sources(base: Arm, head: Arm, scratch: Path, worker: Sequence[str] = WORKER) -> Iterator[tuple[Source, Source]]:
    """The arms' sources, the same one twice where they do not differ; a commit's tree is gone afterwards.

    Raises UserError for an interpreter, a folder or a commit that is not there.
    """
    first = _source(base, scratch, "base", worker)
    same = (base.python, base.path, base.ref) == (head.python, head.path, head.ref)
    yield first, first if same else _source(head, scratch, "head", worker)


def _source(arm: Arm, scratch: Path, role: str, worker: Sequence[str]) -> Source:
    own = scratch / role
    own.mkdir()
    commit = None
    paths: tuple[str, ...] = ()
    if arm.path is not None:
        tree = Path(arm.path).expanduser().resolve()
        if not tree.is_dir():
            raise UserError(f"--{role} path={arm.path} is not a directory")
        paths = (str(tree),)
    elif arm.ref is not None:
        commit, tree = _lay_out(arm.ref, own, role)
        # A project that keeps its packages in src/ is imported from there.
        paths = (str(tree / "src"), str(tree)) if (tree / "src").is_dir() else (str(tree),)
    if tuple(worker) != WORKER:  # a worker that a test brought along needs no import path of ours
        return Source(tuple(worker), paths, own, commit)
    python = sys.executable if arm.python is None else _interpreter(arm.python, role)
    boot = _BOOT.format(paths=list(paths), module=WORKER[-1])
    return Source((python, "-c", boot), paths, own, commit)


def _interpreter(word: str, role: str) -> str:
    found = shutil.which(os.path.expanduser(word))
    if found is None:
        raise UserError(f"--{role} python={word} is no program that can be run")
    return os.path.abspath(found)


def _lay_out(ref: str, folder: Path, role: str) -> tuple[str, Path]:
    """(commit, its tree in a folder of its own). The repository, its index and its list of worktrees stay untouched."""
    top = _git(["rev-parse", "--show-toplevel"], f"--{role} ref={ref}: not in a git repository")
    commit = _git(["rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"], f"--{role} ref={ref} is no commit here")
    tree = folder / "tree"
    tree.mkdir()
    index = {**os.environ, "GIT_INDEX_FILE": str(folder / "index")}
    failed = f"--{role} ref={ref}: its tree could not be laid out"
    _git(["-C", top, "read-tree", commit], failed, index)
    _git(["-C", top, "checkout-index", "--all", f"--prefix={tree}/"], failed, index)
    return commit, tree


def _git(words: Sequence[str], failed: str, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise UserError(f"{failed} (git: {error.strerror})") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise UserError(failed + (f" ({said})" if said else ""))
    return done.stdout.strip()


@contextlib.contextmanager
def nurseries(both: tuple[Source, Source], seed: int) -> Iterator[list[Starter]]:
    """What starts base, head and twin: one nursery where the sources are the same, else a nursery each.

    The twin then has its own, as the head has: children of one nursery share an address layout, which a twin must not
    have in common with its base if the head has not.
    """
    base, head = both
    if base is head:
        with contextlib.ExitStack() as stack:
            with _named("both arms"):
                one = stack.enter_context(starter(base.scratch, base.command))
            yield [one, one, one]
        return
    made = [starter(source.scratch, source.command) for source in (base, head, base)]
    with contextlib.ExitStack() as stack:
        for each in made:
            stack.callback(each.close)
        for seat in random.Random(seed).sample(range(3), 3):
            made[seat].begin()
        for role, each in zip(ROLES, made, strict=True):
            with _named(role):
                stack.enter_context(each)
        yield made


@contextlib.contextmanager
def _named(role: str) -> Iterator[None]:
    """Says whose worker it was that could not be started."""
    try:
        yield
    except UnlikeProtocol:
        raise
    except WorkerError as error:
        hint = " (install vanbench in that interpreter)" if "No module named 'vanbench'" in str(error) else ""
        raise WorkerError(f"{role}: {error}{hint}") from None
