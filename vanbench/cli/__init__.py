"""The command line: a file a verb. The only place that prints or exits; it imports nothing heavy until it must."""

from __future__ import annotations

from vanbench.cli.app import main

__all__ = ["main"]
