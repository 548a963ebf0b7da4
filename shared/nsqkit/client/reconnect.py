"""What consumers and producers share: staying connected to one nsqd, and finding them all."""

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
    goes_on: Callable[[], bool],
    on_failure: Callable[[NSQError], None],
) -> None:
    """Connect and `serve`, for as long as it `goes_on`.

    `serve` returns at the connection's end, and says whether the connection had worked: only then does the
    wait before the next try begin anew at `reconnect_delay`. A first failure is logged as a warning, those
    right after it as debug.
    """
    failures = 0
    while goes_on():
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
        if goes_on():
            await anyio.sleep(options.reconnect_delay_after(failures, random.random()))


def discovery_for(addresses: Sequence[str], options: ClientOptions) -> Discovery | None:
    """The registries at these addresses, asked as the options say; None for no address."""
    if not addresses:
        return None
    return Discovery(
        addresses,
        interval=options.lookupd_poll_interval,
        jitter=options.lookupd_poll_jitter,
        timeout=options.lookupd_poll_timeout,
        bearer=options.auth_secret if options.skip_lookupd_authorization else "",
    )
