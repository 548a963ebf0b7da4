"""nsq_stat: the traffic of one channel, summed over all nsqds that have it, one line per interval.

In each interval it looks up the nsqds, queries all of them at once, and adds up their figures. The first sample is only
the base of the second one. Rates are computed for each nsqd before they are added up: the counters of one that was
restarted began anew, and one that joined or left has no difference to count. A sum without one of the nsqds would look
like a drop in traffic, so any failure, even of one of them, ends the program.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias
from urllib.parse import quote_plus

import attrs
import trio

from nsqkit.discovery import DiscoveryFailed
from nsqkit.http_client import HttpFailed
from nsqkit.logging import LogLevel, configure, stamped_line
from nsqkit.options import SECOND, Duration, FilePath, OptionError, option
from nsqtools.common import (
    WHERE_FROM,
    Channel,
    Fatal,
    HostPort,
    Topic,
    access_token,
    check_names,
    check_positive,
    check_sources,
    handle_signals,
    read_flags,
    refuse,
    run,
    write_all,
)
from nsqtools.fetch import Fetcher, HttpFlags, check_http_flags, open_fetcher
from nsqtools.nsqds import combined_error, http_address, looked_up_nsqds

__all__ = ["HEADER", "Sample", "Samples", "StatFlags", "line", "main"]

PROGRAM: Final = "nsq_stat"
HEADER_INTERVAL: Final = 25  # samples
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
class StatFlags(HttpFlags):
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
    access_token_file: FilePath = option(
        "", help="File with the token to show to them. It needs the scope read."
    )


def main() -> None:
    """Show lines until `--count` or a signal: exit code 0. 1: a daemon does not respond."""
    flags = read_flags(StatFlags, program=PROGRAM, synopsis=_SYNOPSIS, example=_EXAMPLE)
    try:
        token = validate(flags)
    except OptionError as error:
        refuse(error)
    configure(LogLevel.FATAL, "")  # the one line of the error has everything that discovery would log
    run(Stat(flags, token).run, lambda text: sys.stderr.write(stamped_line(f"ERROR: {text}")))


def validate(flags: StatFlags) -> str:
    """Check the flags (`OptionError`), and return the token; empty: none."""
    if not flags.topic or not flags.channel:
        raise OptionError("--topic and --channel are required")
    check_positive(flags, "interval")
    check_http_flags(flags)
    if flags.count is not None:
        check_positive(flags, "count")
    nsqds, registries = flags.nsqd_http_addresses, flags.lookupd_http_addresses
    for name, addresses in (("nsqd-http-address", nsqds), ("lookupd-http-address", registries)):
        if any(address.startswith(("http:", "https:")) for address in addresses):
            raise OptionError(f"--{name} error - address should not contain scheme")
    check_sources(nsqds, registries, "nsqd-http-address")
    check_names("topic", [flags.topic])
    check_names("channel", [flags.channel])
    return access_token(flags.access_token_file) if flags.access_token_file else ""


# --- output -------------------------------------------------------------------------------------------------


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
        """The figures of one nsqd; missing ones are 0."""
        values = {name: channel.get(name) for name in attrs.fields_dict(cls)}
        return cls(**{name: value for name, value in values.items() if isinstance(value, int)})

    def __add__(self, other: Sample) -> Sample:
        mine, others = attrs.astuple(self), attrs.astuple(other)
        return Sample(*(a + b for a, b in zip(mine, others, strict=True)))


Samples: TypeAlias = Mapping[str, Sample]
"""By the address of the nsqd."""


def line(before: Samples, after: Samples, seconds: float) -> str:
    """The line, with its newline, for samples that are `seconds` apart."""
    traffic = [_traffic(before[address], after[address]) for address in before.keys() & after.keys()]
    ingress, egress = sum(each[0] for each in traffic), sum(each[1] for each in traffic)
    now = sum(after.values(), Sample())
    return (
        f"{int(ingress / seconds):7} {int(egress / seconds):7} | "
        f"{now.depth:7} {now.depth - now.backend_depth:7} {now.backend_depth:7} "
        f"{now.in_flight_count:5} {now.deferred_count:5} | "
        f"{now.requeue_count:7} {now.timeout_count:7} {now.message_count:12} {now.client_count:7}\n"
    )


def _traffic(before: Sample, now: Sample) -> tuple[int, int]:
    """The messages that came and left between two samples of one nsqd; never negative."""
    restarted = now.message_count < before.message_count
    ingress = now.message_count - (0 if restarted else before.message_count)
    # Messages that become ready again (deferred, in flight at a restart) are more than the depth can tell.
    return ingress, max(0, ingress - (now.depth - before.depth))


@attrs.define(eq=False)
class Stat:
    """The running program."""

    flags: StatFlags
    token: str = attrs.field(default="", repr=False)

    async def run(self) -> None:
        flags = self.flags
        async with (
            open_fetcher(flags, self.token) as fetcher,
            trio.open_nursery() as nursery,
        ):
            abort = nursery.cancel_scope.cancel
            await nursery.start(partial(handle_signals, abort, abort, abort))
            await self._show(Cluster(flags, fetcher))
            abort()

    async def _show(self, cluster: Cluster) -> None:
        """Take a sample each interval; one that takes longer than the interval delays the later ones."""
        interval_s = self.flags.interval / SECOND
        before: Samples | None = None
        taken = 0
        while True:
            due = trio.current_time() + interval_s
            now = await cluster.sample()
            if taken % HEADER_INTERVAL == 0:
                await _write(HEADER)
            if before is not None:
                await _write(line(before, now, interval_s))
            if taken == self.flags.count:
                return
            before = now
            taken += 1
            await trio.sleep_until(due)


async def _write(text: str) -> None:
    """Write in a thread, so that signals are handled while stdout is blocked (by a pager)."""
    try:
        await trio.to_thread.run_sync(write_all, _STDOUT, text.encode(), abandon_on_cancel=True)
    except OSError as error:
        raise Fatal(f"failed to write to stdout - {error.strerror or error}") from error


# --- where it comes from ------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Cluster:
    """The nsqds that have the topic, looked up for each sample."""

    flags: StatFlags
    fetcher: Fetcher

    async def sample(self) -> Samples:
        """The figures of all nsqds that have the channel. `Fatal` if one does not respond."""
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
        found = {
            address: Sample.from_json(entry)
            for address, answer in zip(addresses, answers, strict=True)
            for topic in _entries_named(answer, "topics", "topic_name", self.flags.topic)
            for entry in _entries_named(topic, "channels", "channel_name", self.flags.channel)
        }
        if not found:
            where = f"channel({self.flags.channel}) in stats metadata for topic({self.flags.topic})"
            raise Fatal(f"failed to find {where}")
        return found

    async def _producers(self) -> list[str]:
        """The HTTP addresses of the nsqds, each once."""
        if self.flags.lookupd_http_addresses:
            registries = self.flags.lookupd_http_addresses
            return await looked_up_nsqds(self.fetcher, registries, self.flags.topic)
        return await self._configured_nsqds()

    async def _configured_nsqds(self) -> list[str]:
        """The broadcast addresses of those nsqds of `--nsqd-http-address` that have the topic."""
        addresses = list(dict.fromkeys(self.flags.nsqd_http_addresses))
        answers = await self._ask_all("nsqd", addresses, self._stats)
        with_topic = [
            address
            for address, answer in zip(addresses, answers, strict=True)
            if _entries_named(answer, "topics", "topic_name", self.flags.topic)
        ]
        infos = await self._ask_all("nsqd", with_topic, lambda a: self.fetcher.object(f"http://{a}/info"))
        broadcast = (http_address(info.get("broadcast_address"), info.get("http_port")) for info in infos)
        return list(dict.fromkeys(broadcast))

    async def _stats(self, address: str, more: str = "") -> dict[str, Any]:
        question = f"format=json&topic={quote_plus(self.flags.topic)}{more}&include_clients=false"
        return await self.fetcher.object(f"http://{address}/stats?{question}")

    async def _ask_all(
        self, kind: str, addresses: Sequence[str], ask: Callable[[str], Awaitable[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """All responses, in the order of the addresses. `HttpFailed`, with all reasons, if one is missing."""
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
            raise combined_error(kind, failures.values(), all_failed=not answers)
        return [answers[address] for address in addresses]


def _entries_named(parent: dict[str, Any], key: str, name_key: str, name: str) -> list[dict[str, Any]]:
    """The entries of a list in a response that have this name."""
    entries = parent.get(key)
    listed = entries if isinstance(entries, list) else []
    return [entry for entry in listed if isinstance(entry, dict) and entry.get(name_key) == name]


if __name__ == "__main__":
    main()
