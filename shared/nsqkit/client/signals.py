"""Ctrl-C and SIGTERM while consumers run: the first stops them in order, the second cancels them.

Rules:

- Only signals that nobody handles are taken: with the default of Python, asyncio or trio. In the main thread only.
  A program that handles a signal itself, or ignores it, keeps that.
- All consumers that run at the time are stopped. The handlers before are back when no consumer runs any more, and
  after the second signal: a third one ends the program as if this module were not there.
- In a handler of a signal hardly anything is safe. It only asks the event loop to make the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import attrs

__all__ = ["stopped_by_signals"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_log = logging.getLogger("nsq.client.consumer")


@attrs.define(eq=False)
class _Running:
    """A consumer that runs."""

    name: str
    stop: Callable[[], None]
    cancel: Callable[[], None]
    soon: Callable[[Callable[[], None]], object]
    """Have its event loop make a call."""
    signals: int = 0


@attrs.define(eq=False)
class _Signals:
    """The signals of this process."""

    running: list[_Running] = attrs.field(factory=list)
    before: dict[int, Any] = attrs.field(factory=dict)
    """The handlers of the signals that were taken."""

    def take(self) -> None:
        for number in SIGNALS:
            if number not in self.before and _is_default(number, signal.getsignal(number)):
                self.before[number] = signal.signal(number, self.handle)

    def give_back(self) -> None:
        for number, handler in self.before.items():
            if signal.getsignal(number) == self.handle:
                signal.signal(number, handler)
        self.before.clear()

    def handle(self, number: int, _: FrameType | None) -> None:
        for consumer in list(self.running):
            consumer.signals += 1
            call = consumer.stop if consumer.signals == 1 else consumer.cancel
            with contextlib.suppress(RuntimeError):  # its event loop has ended
                consumer.soon(_logged(consumer, number, call))
        if any(consumer.signals > 1 for consumer in self.running):
            self.give_back()


_signals = _Signals()


@contextlib.contextmanager
def stopped_by_signals(name: str, stop: Callable[[], None], cancel: Callable[[], None]) -> Iterator[None]:
    """In this block the first SIGINT or SIGTERM calls `stop` in the event loop, the second one `cancel`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    consumer = _Running(name, stop, cancel, _caller_of_this_loop())
    _signals.running.append(consumer)
    _signals.take()
    try:
        yield
    finally:
        _signals.running.remove(consumer)
        if not _signals.running:
            _signals.give_back()


def _logged(consumer: _Running, number: int, call: Callable[[], None]) -> Callable[[], None]:
    how = "stopping" if call is consumer.stop else "ending at once"

    def log_and_call() -> None:
        _log.info("%s: %s: %s", consumer.name, signal.Signals(number).name, how)
        call()

    return log_and_call


def _is_default(number: int, handler: Any) -> bool:
    """Whether this is what Python, asyncio or trio have set by themselves."""
    if handler is signal.SIG_DFL or handler is signal.default_int_handler:
        return True
    if number != signal.SIGINT:
        return False
    function = getattr(handler, "func", handler)  # asyncio's is a partial
    of_asyncio = getattr(function, "__func__", None) is getattr(asyncio.Runner, "_on_sigint", False)
    return of_asyncio or str(getattr(function, "__module__", "")).startswith("trio._core.")


def _caller_of_this_loop() -> Callable[[Callable[[], None]], object]:
    if "trio" in sys.modules:
        from nsqkit.client import parking_trio

        if parking_trio.is_here():
            return parking_trio.call_soon()
    return asyncio.get_running_loop().call_soon_threadsafe
