"""Which commit is being measured: what was said, else what the CI says, else what git says of the current directory."""

from __future__ import annotations

import os
import re
import subprocess
from typing import NamedTuple

from vanbench.errors import UserError

__all__ = ["Origin", "checked", "origin"]

_SHA = re.compile(r"[0-9a-f]{7,64}")
_PATIENCE_S = 10.0


class Origin(NamedTuple):
    """A commit (hex digits) and a branch; None where nobody says."""

    commit: str | None
    branch: str | None


def checked(commit: str) -> str:
    """The commit as hex digits; UserError if it is none."""
    word = commit.strip().lower()
    if not _SHA.fullmatch(word):
        raise UserError(f"commit {commit!r} is not 7 to 64 hex digits: git rev-parse HEAD prints such a one")
    return word


def origin(commit: str | None = None, branch: str | None = None) -> Origin:
    """commit, branch: as given on the command line; each counts before what the CI says, and that before git.

    The branch that git is on is not that of a commit given by name.
    """
    said, ref = os.environ.get("GITHUB_SHA"), os.environ.get("GITHUB_REF_NAME")
    named = commit or said
    found = checked(named) if named else _git("rev-parse", "--verify", "--quiet", "HEAD")
    here = _git("symbolic-ref", "--short", "--quiet", "HEAD") if found and not named else None
    return Origin(found, branch or ref or here)


def _git(*words: str) -> str | None:
    """What git prints; None without git, outside of a repository, or where there is no answer (a detached HEAD)."""
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
