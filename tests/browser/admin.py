"""A real `nsqadmin` in a process of its own, like `tests.process.daemon` for `nsqd`."""

from __future__ import annotations

import http.client
from pathlib import Path

import attrs

from tests.process.daemon import HOST, Daemon

__all__ = ["AdminDaemon"]


@attrs.define(eq=False)
class AdminDaemon(Daemon):
    """A console, started, killed and addressed as a `Daemon`. It has no TCP port."""

    data_path: Path = attrs.field(factory=Path)
    """Unused: a console has no files."""

    def __attrs_post_init__(self) -> None:
        """It has one port, which is for HTTPS when it is closed."""

    @property
    def url(self) -> str:
        """Give its address as a browser takes it, without a slash at the end."""
        return f"http://{HOST}:{self.http_port}"

    def closing_flags(self) -> list[str]:
        """Give what closes it; nothing for one that is open."""
        return self.closed.console_flags() if self.closed is not None else []

    def http_client(self, timeout_s: float) -> tuple[http.client.HTTPConnection, dict[str, str]]:
        """Give a connection, not open yet, and the headers for its requests."""
        if self.closed is None:
            return Daemon.http_client(self, timeout_s)
        context = self.closed.context
        secure = http.client.HTTPSConnection(HOST, self.http_port, timeout=timeout_s, context=context)
        return secure, self.closed.console_headers

    @property
    def _listeners(self) -> set[str]:
        return {"HTTP"} if self.closed is None else {"HTTPS"}

    def command(self) -> list[str]:
        """Give the command line of the next start."""
        words = Daemon.command(self)
        words[words.index("nsqd")] = "nsqadmin"
        return [word for word in words if not word.startswith(("--data-path=", "--tcp-address="))]
