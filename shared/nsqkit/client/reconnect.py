"""Shared by consumers and producers: reconnecting to an nsqd, what is logged of it, discovery as the options say."""

from __future__ import annotations

import logging
import random as _random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
import attrs

from nsqkit.client.address import Address
from nsqkit.client.connection import Connection
from nsqkit.client.errors import NSQError, ProtocolViolation, ServerError
from nsqkit.client.opening import Connector, MakeMessage, open_connection
from nsqkit.client.options import ClientOptions
from nsqkit.discovery import Discovery

__all__ = ["ConnectionLog", "Ending", "Reconnector", "discovery_for"]

QUIET_S: Final = 0.1
"""Connections that change within such a time share one line."""
NAMED: Final = 5
"""Addresses in one line."""

_log = logging.getLogger("nsq.client")


@attrs.frozen
class Ending:
    """How a connection ended."""

    worked: bool
    """Whether it was of use: then the delay before the next attempt starts at `reconnect_delay` again."""
    error: Exception | None = None
    """None: it ended in order."""


@attrs.define(eq=False, kw_only=True)
class Reconnector:
    """Connects to one nsqd and serves the connection, again and again, while `keep_going` returns true.

    **What goes wrong on one connection stays with it**, whatever the error: it is logged, and the others go on. A peer
    that violates the protocol, or causes an error that nobody has foreseen, is logged once and tried again after the
    longest pause, until a connection to it has ended otherwise.

    Of attempts that fail, the first in a row is logged as a warning, the others at debug level.
    """

    address: Address
    options: ClientOptions
    connector: Connector
    make_message: MakeMessage
    random: _random.Random
    serve: Callable[[Connection], Awaitable[Ending]]
    """Serves a connection to its end."""
    keep_going: Callable[[], bool]
    on_failure: Callable[[Exception], None]
    """Called for each attempt to connect that fails."""
    prefix: str = ""
    """Of the lines that say that a connection was lost."""
    pause: Callable[[float], Awaitable[None]] = anyio.sleep
    """Waits before the next attempt, for so many seconds or less."""
    _failures: int = attrs.field(default=0, init=False)
    _distrusted: bool = attrs.field(default=False, init=False)

    async def run(self) -> None:
        """Return when `keep_going` is false after a connection or a pause."""
        while self.keep_going():
            ending = await self._connect_and_serve()
            self._failures = 1 if ending.worked else self._failures + 1
            if not self.keep_going():
                break
            if self._distrusted:
                await anyio.sleep(self.options.max_reconnect_delay * (0.75 + self.random.random() / 4))
            else:
                await self.pause(self.options.reconnect_delay_after(self._failures, self.random.random()))

    async def _connect_and_serve(self) -> Ending:
        try:
            connection = await open_connection(
                self.address, self.options, connector=self.connector, make_message=self.make_message
            )
        except Exception as error:
            self._say(error, "cannot connect: ", again=self._failures > 0)
            self.on_failure(error)
            return Ending(worked=False)
        try:
            ending = await self.serve(connection)
        except Exception as error:
            ending = Ending(worked=False, error=error)
        if ending.error is None or not self.keep_going():
            self._distrusted = False
        else:
            self._say(ending.error, self.prefix, again=self._failures > 0 and not ending.worked)
        return ending

    def _say(self, error: Exception, prefix: str, *, again: bool) -> None:
        foreseen = isinstance(error, NSQError)
        violation = not foreseen or isinstance(error, ProtocolViolation)
        if violation:
            again, self._distrusted = self._distrusted, True
        else:
            self._distrusted = False
        text = str(error) if foreseen else f"unexpected error: {error!r:.500}"
        if not foreseen or isinstance(error, ServerError):
            text = f"{self.address}: {text}"
        if violation:
            text += f"; trying again every {self.options.max_reconnect_delay:g} s, not logged until it works"
        traceback = None if foreseen else error
        _log.log(logging.DEBUG if again else logging.WARNING, "%s", prefix + text, exc_info=traceback)


@attrs.define(eq=False)
class ConnectionLog:
    """Says at INFO to which nsqds a client is connected: once at the start, then after each change."""

    prefix: str
    _connected: set[str] = attrs.field(factory=set, init=False)
    _said: frozenset[str] = attrs.field(factory=frozenset, init=False)
    _changed: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def connected(self, address: str) -> None:
        """A connection is of use now."""
        self._connected.add(address)
        self._changed.set()

    def lost(self, address: str) -> None:
        """It is not any more."""
        self._connected.discard(address)
        self._changed.set()

    async def run(self) -> None:
        """Log until cancelled."""
        while True:
            await self._changed.wait()
            await anyio.sleep(QUIET_S)
            self._changed = anyio.Event()
            if self._connected != self._said:
                self._said = frozenset(self._connected)
                _log.info("%sconnected to %s", self.prefix, _listed(sorted(self._said)))


def _listed(addresses: list[str]) -> str:
    """`2 nsqds: a:4150, b:4150`."""
    if not addresses:
        return "no nsqd"
    more = f" and {len(addresses) - NAMED} more" if len(addresses) > NAMED else ""
    return f"{len(addresses)} nsqd{'s'[: len(addresses) - 1]}: {', '.join(addresses[:NAMED])}{more}"


def discovery_for(addresses: Sequence[str], options: ClientOptions) -> Discovery | None:
    """A discovery that asks these registries as the options say; None without addresses."""
    if not addresses:
        return None
    return Discovery(
        addresses,
        interval=options.lookupd_poll_interval,
        jitter=options.lookupd_poll_jitter,
        timeout=options.lookupd_poll_timeout,
        bearer=options.auth_secret if options.skip_lookupd_authorization else "",
        tls=options.tls_context,
    )
