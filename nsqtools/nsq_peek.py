"""nsq_peek: show the messages that wait in a channel, without consuming them.

It asks each nsqd for one page after the other over HTTP (`/channel/peek`): no attempt is counted, nothing is moved. The
pages follow the messages of the moment in which each is made, so that what comes and goes meanwhile may be missed.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

import attrs
import trio

from nsqkit.discovery import DiscoveryFailed
from nsqkit.http_client import HttpFailed
from nsqkit.logging import LogLevel, configure, get_logger, stamped_line
from nsqkit.options import FilePath, OptionError, check_values, option
from nsqtools.common import (
    WHERE_FROM,
    Channel,
    Fatal,
    HostPort,
    Topic,
    access_token,
    check_names,
    check_sources,
    handle_signals,
    read_flags,
    refuse,
    run,
    write_all,
)
from nsqtools.fetch import Fetcher, HttpFlags, check_http_flags, open_fetcher
from nsqtools.nsqds import looked_up_nsqds

__all__ = ["PeekFlags", "main"]

PROGRAM: Final = "nsq_peek"
STATES: Final = ("ready", "in_flight", "requeued", "deferred", "leaving")
FORMATS: Final = ("body", "json")
# The most messages that nsqd sends for one request, and that it looks at.
PAGE: Final = 1000
EXAMINED: Final = 10_000
_SYNOPSIS = "prints messages that wait in a channel, without consuming them"
_EXAMPLE = """
# the first ten messages that wait for a consumer, on one nsqd
nsq_peek --topic=orders --channel=billing --nsqd-http-address=127.0.0.1:4151
# what is in flight in the whole cluster, and who has it
nsq_peek --topic=orders --channel=billing --state=in_flight --format=json -n 0 \\
    --lookupd-http-address=127.0.0.1:4161
# where is order 42?
nsq_peek --topic=orders --channel=billing --json=/order/id=42 --nsqd-http-address=127.0.0.1:4151

Exits with code 1 if an address or nsqd does not respond, or cannot show its messages (the original's cannot).
"""
_STDOUT: Final = 1
_NO_SUCH_PATH: Final = r"\"NOT_FOUND\""  # in the quoted body of a 404

_log = get_logger(__name__)


@attrs.define(kw_only=True)
class PeekFlags(HttpFlags):
    """The flags of nsq_peek."""

    topic: Topic = option("", help="Topic to look into. Required.")
    channel: Channel = option("", help="Channel to look into. Required.")
    state: str = option("ready", choices=STATES, help="State of the messages to show.")
    n: int = option(10, minimum=0, help="Exit when this many messages have been shown. 0: show all.")
    contains: str = option("", help="Show only messages whose bodies contain this text.")
    json_values: list[str] = option(
        flag="json",
        help="Show only messages whose bodies are JSON with this value at this place: /path/to/field=value. If "
        "given several times, all must hold.",
    )
    examine: int = option(
        100_000, minimum=1, help="With --contains or --json: messages to look at on each nsqd at most."
    )
    format: str = option(
        "body",
        choices=FORMATS,
        help="What to print: bodies only, each with a newline, or a JSON object for each message, with its nsqd, "
        "id, attempts, times, consumer and body.",
    )

    SOURCE: ClassVar = WHERE_FROM

    nsqd_http_addresses: list[HostPort] = option(
        flag="nsqd-http-address", help="HTTP address of an nsqd to look into."
    )
    lookupd_http_addresses: list[HostPort] = option(
        flag="lookupd-http-address",
        help="HTTP address of an nsqlookupd, to look into all nsqds that have the topic, instead of "
        "--nsqd-http-address.",
    )
    access_token_file: FilePath = option(
        "", help="File with the token to show to them. It needs the scope consume for the channel."
    )

    @property
    def filters(self) -> dict[str, str]:
        """The conditions, as nsqd takes them."""
        pairs = [text.partition("=") for text in self.json_values]
        conditions = {f"json:{path}": value for path, _, value in pairs}
        return {**conditions, "contains": self.contains} if self.contains else conditions


def main() -> None:
    """Show messages until `-n`, the last one or a signal: exit code 0. 1: an nsqd does not respond."""
    flags = read_flags(PeekFlags, program=PROGRAM, synopsis=_SYNOPSIS, example=_EXAMPLE)
    try:
        token = validate(flags)
    except OptionError as error:
        refuse(error)
    configure(LogLevel.INFO, "")
    run(Peek(flags, token).run, lambda text: sys.stderr.write(stamped_line(f"ERROR: {text}")))


def validate(flags: PeekFlags) -> str:
    """Check the flags (`OptionError`), and return the token; empty: none."""
    if not flags.topic or not flags.channel:
        raise OptionError("--topic and --channel are required")
    check_names("topic", [flags.topic])
    check_names("channel", [flags.channel])
    check_values(flags)
    check_http_flags(flags)
    for text in flags.json_values:
        path, equals, _ = text.partition("=")
        if not equals or (path and not path.startswith("/")):
            raise OptionError(f"--json is invalid: {text!r}; an example is /order/id=42")
    check_sources(flags.nsqd_http_addresses, flags.lookupd_http_addresses, "nsqd-http-address")
    return access_token(flags.access_token_file) if flags.access_token_file else ""


@attrs.define(eq=False)
class Peek:
    """The running program."""

    flags: PeekFlags
    token: str = attrs.field(default="", repr=False)
    shown: int = 0

    async def run(self) -> None:
        flags = self.flags
        async with (
            open_fetcher(flags, self.token) as fetcher,
            trio.open_nursery() as nursery,
        ):
            abort = nursery.cancel_scope.cancel
            await nursery.start(partial(handle_signals, abort, abort))
            await self._show_all(fetcher)
            abort()

    async def _show_all(self, fetcher: Fetcher) -> None:
        flags = self.flags
        addresses = list(dict.fromkeys(flags.nsqd_http_addresses))
        if flags.lookupd_http_addresses:
            try:
                addresses = await looked_up_nsqds(fetcher, flags.lookupd_http_addresses, flags.topic)
            except (HttpFailed, DiscoveryFailed) as error:
                raise Fatal(f"failed to get topic producers - {error}") from error
        has_channel = False
        for address in addresses:
            try:
                async for messages in self._pages(fetcher, address):
                    has_channel = True
                    if messages:
                        await _write(b"".join(self._line(address, message) for message in messages))
            except HttpFailed as error:
                if "CHANNEL_NOT_FOUND" in str(error):
                    continue  # its topic has other channels
                if _NO_SUCH_PATH in str(error):
                    raise Fatal(
                        f"{address} cannot show its messages: its version of nsqd has no such request"
                    ) from error
                raise Fatal(f"failed to look into {address} - {error}") from error
            if self._is_done:
                break
        if not has_channel:
            raise Fatal(f"no nsqd has the channel {flags.channel} of topic {flags.topic}")

    @property
    def _is_done(self) -> bool:
        return self.shown == self.flags.n > 0

    async def _pages(self, fetcher: Fetcher, address: str) -> AsyncIterator[list[dict[str, Any]]]:
        flags, filters = self.flags, self.flags.filters
        start: int | None = 0
        examined = 0
        while start is not None and not self._is_done and not (filters and examined >= flags.examine):
            params = {"topic": flags.topic, "channel": flags.channel, "state": flags.state, **filters}
            limit = PAGE if flags.n == 0 else min(PAGE, flags.n - self.shown)
            params |= {"from": str(start), "limit": str(limit)}
            if filters:
                params["examine"] = str(min(EXAMINED, flags.examine - examined))
            page = await fetcher.object(f"http://{address}/channel/peek?{urlencode(params)}")
            try:
                messages, start = page["messages"], page["next"]
                examined += page["examined"]
                self.shown += len(messages)
            except (KeyError, TypeError) as error:
                raise HttpFailed(f"unexpected response: {error!r}") from error
            yield messages
        if filters:
            _log.info("%s: looked at %d of %d messages", address, examined, page["count"])

    def _line(self, address: str, message: dict[str, Any]) -> bytes:
        if self.flags.format == "json":
            return json.dumps({"nsqd": address, **message}, ensure_ascii=False).encode() + b"\n"
        return _body_of(message) + b"\n"


def _body_of(message: dict[str, Any]) -> bytes:
    body = message.get("body")
    if not isinstance(body, str):
        return b""
    if message.get("encoding") == "base64":
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error:
            return b""
    return body.encode("utf-8", "replace")


async def _write(data: bytes) -> None:
    """Write in a thread, so that signals are handled while stdout is blocked (by a pager)."""
    try:
        await trio.to_thread.run_sync(write_all, _STDOUT, data, abandon_on_cancel=True)
    except OSError as error:
        raise Fatal(f"failed to write to stdout - {error.strerror or error}") from error


if __name__ == "__main__":
    main()
