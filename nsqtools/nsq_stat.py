"""nsq_stat: the traffic of one channel over all nsqds that have it, a line an interval.

How it works: each interval it finds the nsqds anew, asks all of them at once, and adds up. The first sample is only
what the second one is compared with. A figure that lacks one nsqd would look like a drop in traffic, so any failure,
a partial one as well, is the end.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Final
from urllib.parse import quote_plus

import attrs
import trio

from nsqkit.discovery import Discovery, DiscoveryFailed
from nsqkit.http_client import HttpFailed
from nsqkit.logging import LogLevel, configure, stamped_line
from nsqkit.options import SECOND, Duration, OptionError, option
from nsqtools.common import (
    WHERE_FROM,
    Channel,
    Fatal,
    HostPort,
    Topic,
    check_names,
    check_positive,
    check_sources,
    handle_signals,
    read_flags,
    refuse,
    run,
    write_all,
)
from nsqtools.fetch import Fetcher, open_fetcher

__all__ = ["HEADER", "Sample", "StatFlags", "line", "main"]

PROGRAM: Final = "nsq_stat"
HEADER_EVERY: Final = 25  # samples
HEADER: Final = (
    "------rate------+----------------depth----------------+--------------metadata---------------\n"
    "ingress  egress |   total     mem    disk inflt   def |     req     t-o         msgs clients\n"
)
_SYNOPSIS = "shows the traffic of a channel, summed over all nsqds, one line per interval"
_EXAMPLE = """
# every 2 seconds, over all nsqds of the cluster that have the topic
nsq_stat --topic=orders --channel=billing --lookupd-http-address=127.0.0.1:4161
# five lines, each over 10 seconds, of two nsqds
nsq_stat --topic=orders --channel=billing --interval=10s --count=5 \\
    --nsqd-http-address=10.0.0.1:4151 --nsqd-http-address=10.0.0.2:4151

Columns: messages published to and finished by the channel per second; ready messages (in total, in memory, on
disk only), in flight, deferred; requeued, timed out, published since the nsqds started; consumers.
Exits with code 1 as soon as one of the addresses or nsqds does not respond.
"""
_STDOUT: Final = 1


@attrs.define(kw_only=True)
class StatFlags:
    """The flags of nsq_stat."""

    topic: Topic = option("", help="Topic to show. Required.")
    channel: Channel = option("", help="Channel to show. Required.")
    interval: Duration = option(2 * SECOND, help="Time between two lines, over which rates are computed.")
    count: int | None = option(
        None,
        help="Lines to show. If not given: until a signal. (The program exits after the last line; the "
        "original's nsq_stat waits one more interval.)",
    )

    SOURCE: ClassVar = WHERE_FROM

    nsqd_http_addresses: list[HostPort] = option(
        flag="nsqd-http-address", help="HTTP address of an nsqd to ask."
    )
    lookupd_http_addresses: list[HostPort] = option(
        flag="lookupd-http-address",
        help="HTTP address of an nsqlookupd, to ask all nsqds that have the topic, instead of "
        "--nsqd-http-address.",
    )
    http_client_connect_timeout: Duration = option(
        2 * SECOND, help="Time to connect to an nsqd or nsqlookupd."
    )
    http_client_request_timeout: Duration = option(
        5 * SECOND, help="Time for a whole request to one of them."
    )


def main() -> None:
    """Show lines until enough were shown or a signal comes: exit code 0. 1: something could not be asked."""
    flags = read_flags(StatFlags, program=PROGRAM, synopsis=_SYNOPSIS, example=_EXAMPLE)
    try:
        validate(flags)
    except OptionError as error:
        refuse(error)
    configure(LogLevel.FATAL, "")  # what discovery would say is in the one line of the error
    run(Stat(flags).run, lambda text: sys.stderr.write(stamped_line(f"ERROR: {text}")))


def validate(flags: StatFlags) -> None:
    """Refuse (`OptionError`) what cannot work."""
    if not flags.topic or not flags.channel:
        raise OptionError("--topic and --channel are required")
    check_positive(flags, "interval", "http-client-connect-timeout", "http-client-request-timeout")
    if flags.count is not None:
        check_positive(flags, "count")
    nsqds, registries = flags.nsqd_http_addresses, flags.lookupd_http_addresses
    for name, addresses in (("nsqd-http-address", nsqds), ("lookupd-http-address", registries)):
        if any(address.startswith(("http:", "https:")) for address in addresses):
            raise OptionError(f"--{name} error - address should not contain scheme")
    check_sources(nsqds, registries, "nsqd-http-address")
    check_names("topic", [flags.topic])
    check_names("channel", [flags.channel])


# --- what is shown ------------------------------------------------------------------------------------------


@attrs.frozen
class Sample:
    """The figures of the channel at one time, by nsqd's names for them."""

    depth: int = 0
    backend_depth: int = 0
    in_flight_count: int = 0
    deferred_count: int = 0
    requeue_count: int = 0
    timeout_count: int = 0
    message_count: int = 0
    client_count: int = 0

    @classmethod
    def from_json(cls, channel: dict[str, Any]) -> Sample:
        """Of one nsqd; what it does not say counts as 0."""
        values = {name: channel.get(name) for name in attrs.fields_dict(cls)}
        return cls(**{name: value for name, value in values.items() if isinstance(value, int)})

    def __add__(self, other: Sample) -> Sample:
        mine, others = attrs.astuple(self), attrs.astuple(other)
        return Sample(*(a + b for a, b in zip(mine, others, strict=True)))


def line(before: Sample, now: Sample, seconds: float) -> str:
    """The line, with its newline, for two samples that lie so far apart."""
    came = now.message_count - before.message_count
    went = came - (now.depth - before.depth)
    return (
        f"{int(came / seconds):7} {int(went / seconds):7} | "
        f"{now.depth:7} {now.depth - now.backend_depth:7} {now.backend_depth:7} "
        f"{now.in_flight_count:5} {now.deferred_count:5} | "
        f"{now.requeue_count:7} {now.timeout_count:7} {now.message_count:12} {now.client_count:7}\n"
    )


@attrs.define(eq=False)
class Stat:
    """The running program."""

    flags: StatFlags

    async def run(self) -> None:
        flags = self.flags
        async with (
            open_fetcher(
                flags.http_client_connect_timeout / SECOND, flags.http_client_request_timeout / SECOND
            ) as fetcher,
            trio.open_nursery() as nursery,
        ):
            leave = nursery.cancel_scope.cancel
            await nursery.start(partial(handle_signals, leave, leave, leave))
            await self._show(Cluster(flags, fetcher))
            leave()

    async def _show(self, cluster: Cluster) -> None:
        """Sample at even times; a sample that takes longer than an interval moves the later ones."""
        interval_s = self.flags.interval / SECOND
        before: Sample | None = None
        taken = 0
        while True:
            due = trio.current_time() + interval_s
            now = await cluster.sample()
            if taken % HEADER_EVERY == 0:
                await _write(HEADER)
            if before is not None:
                await _write(line(before, now, interval_s))
            if taken == self.flags.count:
                return
            before = now
            taken += 1
            await trio.sleep_until(due)


async def _write(text: str) -> None:
    """In a thread, so that a reader who sleeps (a pager) does not keep signals from it."""
    try:
        await trio.to_thread.run_sync(write_all, _STDOUT, text.encode(), abandon_on_cancel=True)
    except OSError as error:
        raise Fatal(f"failed to write to stdout - {error.strerror or error}") from error


# --- where it comes from ------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Cluster:
    """The nsqds that have the topic, found anew for each sample."""

    flags: StatFlags
    fetcher: Fetcher

    async def sample(self) -> Sample:
        """The sum over all of them. Raises `Fatal`."""
        channel = quote_plus(self.flags.channel)
        try:
            addresses = await self._producers()
        except (HttpFailed, DiscoveryFailed) as error:
            raise Fatal(f"failed to get topic producers - {error}") from error
        try:
            if not addresses:
                raise HttpFailed("failed to query any nsqd: ")
            answers = await self._ask_all("nsqd", addresses, partial(self._stats, more=f"&channel={channel}"))
        except HttpFailed as error:
            raise Fatal(f"failed to get nsqd stats - {error}") from error
        found = [
            Sample.from_json(entry)
            for answer in answers
            for topic in _named(answer, "topics", "topic_name", self.flags.topic)
            for entry in _named(topic, "channels", "channel_name", self.flags.channel)
        ]
        if not found:
            where = f"channel({self.flags.channel}) in stats metadata for topic({self.flags.topic})"
            raise Fatal(f"failed to find {where}")
        return sum(found, Sample())

    async def _producers(self) -> list[str]:
        """The HTTP addresses of the nsqds, each once."""
        if self.flags.lookupd_http_addresses:
            return await self._registered()
        return await self._given()

    async def _registered(self) -> list[str]:
        # A new one each time: it shall not fall back on what it knows.
        discovery = Discovery(
            self.flags.lookupd_http_addresses, timeout=self.fetcher.timeout_s, fetch=self.fetcher.fetch
        )
        try:
            nodes = await discovery.lookup(self.flags.topic)
        except DiscoveryFailed:
            nodes = None
        if discovery.failures:
            raise _joined("nsqlookupd", discovery.failures.values(), all_failed=nodes is None)
        return [_address(node.broadcast_address, node.http_port) for node in nodes or ()]

    async def _given(self) -> list[str]:
        """Those of `--nsqd-http-address` that have the topic, at the addresses that they say they have."""
        addresses = list(dict.fromkeys(self.flags.nsqd_http_addresses))
        answers = await self._ask_all("nsqd", addresses, self._stats)
        with_topic = [
            address
            for address, answer in zip(addresses, answers, strict=True)
            if _named(answer, "topics", "topic_name", self.flags.topic)
        ]
        infos = await self._ask_all("nsqd", with_topic, lambda a: self.fetcher.object(f"http://{a}/info"))
        broadcast = (_address(info.get("broadcast_address"), info.get("http_port")) for info in infos)
        return list(dict.fromkeys(broadcast))

    async def _stats(self, address: str, more: str = "") -> dict[str, Any]:
        question = f"format=json&topic={quote_plus(self.flags.topic)}{more}&include_clients=false"
        return await self.fetcher.object(f"http://{address}/stats?{question}")

    async def _ask_all(
        self, kind: str, addresses: Sequence[str], ask: Callable[[str], Awaitable[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Their answers, in the order of the addresses. `HttpFailed` with all reasons if one has none."""
        answers: dict[str, dict[str, Any]] = {}
        failures: dict[str, str] = {}

        async def ask_one(address: str) -> None:
            try:
                answers[address] = await ask(address)
            except HttpFailed as error:
                failures[address] = str(error)

        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(ask_one, address)
        if failures:
            raise _joined(kind, failures.values(), all_failed=not answers)
        return [answers[address] for address in addresses]


def _joined(kind: str, reasons: Iterable[str], *, all_failed: bool) -> HttpFailed:
    text = "; ".join(reasons)
    return HttpFailed(f"failed to query any {kind}: {text}" if all_failed else text)


def _named(parent: dict[str, Any], key: str, name_key: str, name: str) -> list[dict[str, Any]]:
    """Those of a list in an answer that have this name."""
    entries = parent.get(key)
    listed = entries if isinstance(entries, list) else []
    return [entry for entry in listed if isinstance(entry, dict) and entry.get(name_key) == name]


def _address(host: Any, port: Any) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


if __name__ == "__main__":
    main()
