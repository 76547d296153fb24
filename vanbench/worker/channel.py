"""A worker's end of its bridge: lines of JSON over one socket. Knows nothing of what they mean."""

from __future__ import annotations

import socket
from typing import Any

from vanbench.record.task import encode

__all__ = ["Channel"]


class Channel:
    """One socket. `send` never blocks for long: messages are small and the parent reads each."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""

    def send(self, message: Any) -> None:
        """Send one message as a line."""
        self._socket.sendall(encode(message))

    def receive(self) -> bytes | None:
        """The next line without its end; sleeps until there is one. None when the parent has gone."""
        while b"\n" not in self._rest:
            more = self._socket.recv(65_536)
            if not more:
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line
