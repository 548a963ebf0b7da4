"""The progress of a long-running tool, in one line at the bottom of the terminal.

    nsq_to_http  12,345 messages  1,234/s  57 in flight  3 failed  0:01:22

It is shown only if stderr is a terminal; otherwise nothing is written, and `rich` is not imported. Log lines appear
above the line.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import attrs
import trio

from nsqkit.logging import LogLevel, configure

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["Figures", "Progress", "Rate"]

REFRESH_S: Final = 0.25
RATE_OVER_S: Final = 3.0


@attrs.frozen
class Figures:
    """The counts of a tool so far."""

    done: int
    """Messages that are safe at their destination."""
    in_flight: int
    """Messages that are not yet."""
    failed: int = 0
    """Failed attempts; the messages are tried again."""


@attrs.define(eq=False)
class Rate:
    """The rate of a counter over the last few seconds."""

    over_s: float = RATE_OVER_S
    _samples: deque[tuple[float, int]] = attrs.field(factory=deque)

    def update(self, now: float, count: int) -> float:
        """The rate per second, given the `count` at `now` (seconds of any clock)."""
        self._samples.append((now, count))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self.over_s:
            self._samples.popleft()
        since, before = self._samples[0]
        return (count - before) / (now - since) if now > since else 0.0


@attrs.define(eq=False)
class Progress:
    """The line of one program. It also configures the log, whose lines must appear above it.

    The program runs within `with progress:`, with `progress.run` as one of its tasks. `wanted`: False to show no line.
    """

    program: str
    figures: Callable[[], Figures]
    level: LogLevel = LogLevel.INFO
    prefix: str = ""
    wanted: bool = True
    _live: Live | None = None
    _context: AbstractContextManager[Any] = attrs.field(factory=nullcontext)

    def __enter__(self) -> Progress:
        if self.wanted and sys.stderr.isatty():
            self._start_line()
        else:
            configure(self.level, self.prefix)
        return self

    def __exit__(self, *reason: object) -> None:
        self._context.__exit__(None, None, None)
        configure(self.level, self.prefix)

    async def run(self) -> None:
        """Update the line until cancelled; returns at once without a terminal."""
        if self._live is None:
            return
        rate, began = Rate(), trio.current_time()
        while True:
            now, figures = trio.current_time(), self.figures()
            self._live.update(self._line(figures, rate.update(now, figures.done), now - began), refresh=True)
            await trio.sleep(REFRESH_S)

    def _start_line(self) -> None:
        from rich.console import Console
        from rich.file_proxy import FileProxy
        from rich.live import Live

        stream = sys.stderr
        console = Console(file=stream, highlight=False)
        # Refreshed by `run` instead of a thread. Only the log is redirected, not all of stderr.
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._context = self._live
        self._context.__enter__()
        configure(self.level, self.prefix, cast(TextIO, FileProxy(console, stream)))

    def _line(self, figures: Figures, rate: float, seconds: float) -> Any:
        from rich.text import Text

        whole = int(seconds)
        failed = f"  {figures.failed:,} failed" if figures.failed else ""
        return Text.assemble(
            (self.program, "bold"),
            f"  {figures.done:,} messages  {rate:,.0f}/s  {figures.in_flight:,} in flight",
            (failed, "bold red"),
            f"  {whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}",
            no_wrap=True,
            overflow="ellipsis",
        )
