"""Shared by consumers and producers: reconnecting to an nsqd, and discovery as the options say."""

from __future__ import annotations

import logging
import random as _random
from collections.abc import Awaitable, Callable, Sequence

import anyio

from nsqkit.client.address import Address
from nsqkit.client.connection import Connection
from nsqkit.client.errors import NSQError
from nsqkit.client.opening import Connector, MakeMessage, open_connection
from nsqkit.client.options import ClientOptions
from nsqkit.discovery import Discovery

__all__ = ["discovery_for", "stay_connected"]

_log = logging.getLogger("nsq.client")


async def stay_connected(
    address: Address,
    options: ClientOptions,
    *,
    connector: Connector,
    make_message: MakeMessage,
    random: _random.Random,
    serve: Callable[[Connection], Awaitable[bool]],
    keep_going: Callable[[], bool],
    on_failure: Callable[[NSQError], None],
) -> None:
    """Connect and `serve` again and again, while `keep_going` returns true.

    `serve` returns at the end of the connection, and whether the connection worked: if so, the delay before the next
    attempt starts at `reconnect_delay` again. `on_failure` is called for each attempt that fails. The first failure in
    a row is logged as a warning, the others at debug level.
    """
    failures = 0
    while keep_going():
        worked = False
        try:
            connection = await open_connection(
                address, options, connector=connector, make_message=make_message
            )
        except NSQError as error:
            _log.log(logging.DEBUG if failures else logging.WARNING, "cannot connect: %s", error)
            on_failure(error)
        else:
            worked = await serve(connection)
        failures = 1 if worked else failures + 1
        if keep_going():
            await anyio.sleep(options.reconnect_delay_after(failures, random.random()))


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
    )
