"""A real `nsqadmin` in a process of its own, like `tests.process.daemon` for `nsqd`."""

from __future__ import annotations

from pathlib import Path

import attrs

from tests.process.daemon import HOST, Daemon

__all__ = ["AdminDaemon"]


@attrs.define(eq=False)
class AdminDaemon(Daemon):
    """A console, started, killed and addressed as a `Daemon`. It has no TCP port."""

    data_path: Path = attrs.field(factory=Path)
    """Unused: a console has no files."""

    @property
    def url(self) -> str:
        """Give its address as a browser takes it, without a slash at the end."""
        return f"http://{HOST}:{self.http_port}"

    def launch(self) -> None:
        """Start the process and return at once."""
        Daemon.launch(self)
        with self._news:
            self._announced["TCP"] = self.tcp_port

    def command(self) -> list[str]:
        """Give the command line of the next start."""
        words = Daemon.command(self)
        words[words.index("nsqd")] = "nsqadmin"
        return [word for word in words if not word.startswith(("--data-path=", "--tcp-address="))]
