"""The rows: each is a kind of work, with a load for each protocol.

Rows are data. Adding one is adding an entry here; the runner, the table and the JSON need no change.
"""

from __future__ import annotations

import attrs

__all__ = ["FULL", "QUICK", "ROWS", "TAILS", "Row", "Scale"]


@attrs.frozen
class Scale:
    """Durations and sizes of the runs."""

    runs: int
    seconds: float
    """Seconds, for rows that publish for a time."""
    batch_messages: int
    """Messages, for rows in bulk."""
    single_messages: int
    """Messages, for rows that consume one at a time."""
    latency_samples: int
    sync_rounds: int
    drain_messages: int
    """Queued on the disk before a cold start; every broker."""
    large_drain_messages: int
    """The same, for NSQ brokers only."""
    idle_connections: int
    rest_seconds: float
    """Seconds for which the broker's CPU at rest is measured."""
    tail_seconds: float
    tail_backlog: int
    """Messages of a topic whose 16 channels are drained beside the latencies."""
    curve_messages: int
    curve_mb: int
    """Upper bound of the data published, for large messages."""
    queued_messages: int = 1_000_000
    """Messages of the memory row: the same at every scale, as the figure depends on it."""


FULL = Scale(
    runs=3,
    seconds=2.0,
    batch_messages=2_000_000,
    single_messages=200_000,
    latency_samples=2000,
    sync_rounds=200,
    drain_messages=1_000_000,
    large_drain_messages=5_000_000,
    idle_connections=10_000,
    rest_seconds=5.0,
    tail_seconds=5.0,
    tail_backlog=750_000,
    curve_messages=500_000,
    curve_mb=500,
)
QUICK = Scale(
    runs=1,
    seconds=0.5,
    batch_messages=400_000,
    single_messages=32_000,
    latency_samples=1000,
    sync_rounds=60,
    drain_messages=96_000,
    large_drain_messages=500_000,
    idle_connections=1_000,
    rest_seconds=1.0,
    tail_seconds=1.0,
    tail_backlog=300_000,
    curve_messages=50_000,
    curve_mb=50,
)


@attrs.frozen
class Row:
    """One kind of work. `loads` maps a protocol to arguments of `bench.load`, `{...}` from the scale."""

    name: str
    title: str
    measures: str
    """`rate`, `latency`, `start` (time until it listens), `memory` (RSS after the load), `rest` (RSS and CPU
    during the load), `drain` (rate, with the times until it answers and until the first message) or `tail`."""
    loads: dict[str, str]
    before: dict[str, str] = attrs.field(factory=dict)
    """Loads to run before, not measured."""
    beside: str = ""
    """A load that runs at the same time; rows that measure `tail` are first run without it."""
    cold: bool = False
    """Whether the broker is restarted after `before`, with none of its data in the page cache."""
    flags: str = ""
    """Additional flags; brokers that take no flags skip the row. The base of `tail` runs without them."""
    to_disk: bool = False
    http: bool = False


# As many set it, and as the original's own benchmark does.
IN_MEMORY = "--mem-queue-size=1000000 --mem-queue-bytes=8000000000"

ROWS = (
    Row(
        "start",
        "start: from exec until it listens",
        "start",
        {"nsq": "", "beanstalk": "", "redis": "", "nats": ""},
    ),
    Row(
        "mpub",
        "publish, batches of 200, 2 connections",
        "rate",
        {"nsq": "mpub --conns=2 --count={batch_messages}"},
    ),
    Row(
        "mpub-0",
        "the same, a topic without a channel",
        "rate",
        {"nsq": "mpub --conns=2 --channels=0 --count={batch_messages}"},
    ),
    Row(
        "mpub-4",
        "the same, a topic with 4 channels",
        "rate",
        {"nsq": "mpub --conns=2 --channels=4 --count={batch_messages}"},
    ),
    Row(
        "sub",
        "consume and finish, RDY 2500, 2 connections",
        "rate",
        {"nsq": "sub --conns=2 --rdy=2500 --count={batch_messages}"},
    ),
    Row(
        "both",
        "publish in batches and consume at once, 2 + 2 connections",
        "rate",
        {"nsq": "both --conns=2 --rdy=2500 --count={batch_messages}"},
    ),
    Row(
        "mpub-memory",
        "publish, batches of 200, 2 connections, with {queued_messages:,} messages in memory",
        "rate",
        {"nsq": "mpub --conns=2 --count={batch_messages}"},
        before={"nsq": "mpub --conns=2 --count={queued_messages}"},
        flags=IN_MEMORY,
    ),
    Row(
        "sub-memory",
        "consume and finish, RDY 2500, 2 connections, with {queued_messages:,} messages in memory",
        "rate",
        {"nsq": "sub --conns=2 --rdy=2500 --count={batch_messages} --topic=other"},
        before={"nsq": "mpub --conns=2 --count={queued_messages}"},
        flags=IN_MEMORY,
    ),
    Row(
        "pub-1",
        "publish one at a time, 1 connection",
        "rate",
        {
            "nsq": "pub --conns=1 --seconds={seconds}",
            "beanstalk": "beanstalk-put --conns=1 --seconds={seconds}",
            "redis": "redis-add --conns=1 --seconds={seconds}",
            "nats": "nats-publish --conns=1 --seconds={seconds}",
        },
    ),
    Row(
        "pub-16",
        "publish one at a time, 16 connections",
        "rate",
        {
            "nsq": "pub --conns=16 --seconds={seconds}",
            "beanstalk": "beanstalk-put --conns=16 --seconds={seconds}",
            "redis": "redis-add --conns=16 --seconds={seconds}",
            "nats": "nats-publish --conns=16 --seconds={seconds}",
        },
    ),
    Row(
        "pub-64",
        "publish one at a time, 64 connections",
        "rate",
        {"nsq": "pub --conns=64 --seconds={seconds}"},
    ),
    Row(
        "pub-pipelined",
        "publish, pipelined 100 deep, 16 connections",
        "rate",
        {
            "nsq": "pub --conns=16 --depth=100 --seconds={seconds}",
            "beanstalk": "beanstalk-put --conns=16 --depth=100 --seconds={seconds}",
            "redis": "redis-add --conns=16 --depth=100 --seconds={seconds}",
            "nats": "nats-publish --conns=16 --depth=100 --seconds={seconds}",
        },
    ),
    Row(
        "sub-1",
        "consume and finish one at a time, 16 connections",
        "rate",
        {
            "nsq": "sub --conns=16 --rdy=1 --count={single_messages}",
            "beanstalk": "beanstalk-reserve --conns=16 --count={single_messages}",
            "redis": "redis-read --conns=16 --count={single_messages}",
            "nats": "nats-pull --conns=16 --count={single_messages}",
        },
    ),
    Row(
        "sub-100",
        "consume and finish, 100 in flight, 16 connections",
        "rate",
        {
            "nsq": "sub --conns=16 --rdy=100 --count={batch_messages}",
            "beanstalk": "beanstalk-reserve --conns=16 --depth=100 --count={single_messages}",
            "redis": "redis-read --conns=16 --depth=100 --count={single_messages}",
            "nats": "nats-pull --conns=16 --depth=100 --count={single_messages}",
        },
    ),
    Row(
        "drain",
        "a backlog of {drain_messages:,} from disk after a cold start, 100 in flight, 16 connections",
        "drain",
        {
            "nsq": "sub --there --conns=16 --rdy=100 --count={drain_messages}",
            "beanstalk": "beanstalk-reserve --there --conns=16 --depth=100 --count={drain_messages}",
            "redis": "redis-read --there --conns=16 --depth=100 --count={drain_messages}",
            "nats": "nats-pull --there --conns=16 --depth=100 --count={drain_messages}",
        },
        before={
            "nsq": "mpub --conns=2 --count={drain_messages}",
            "beanstalk": "beanstalk-fill --conns=16 --depth=100 --count={drain_messages}",
            "redis": "redis-fill --conns=16 --depth=100 --count={drain_messages}",
            "nats": "nats-fill --conns=16 --depth=100 --count={drain_messages}",
        },
        cold=True,
    ),
    Row(
        "drain-large",
        "a backlog of {large_drain_messages:,} from disk after a cold start, RDY 2500, 2 connections",
        "drain",
        {"nsq": "sub --there --conns=2 --rdy=2500 --count={large_drain_messages}"},
        before={"nsq": "mpub --conns=2 --count={large_drain_messages}"},
        cold=True,
    ),
    Row(
        "requeued",
        "a backlog of {single_messages:,} that was requeued in random order, RDY 2500, 2 connections",
        "drain",
        {"nsq": "sub --there --conns=2 --rdy=2500 --count={single_messages}"},
        before={"nsq": "requeue --conns=2 --rdy=2500 --count={single_messages}"},
    ),
    Row(
        "deferred",
        "a backlog of {single_messages:,} that was deferred in random order, RDY 2500, 2 connections",
        "drain",
        {"nsq": "sub --there --conns=2 --rdy=2500 --count={single_messages}"},
        before={"nsq": "defer --count={single_messages}"},
    ),
    Row(
        "deferred-cold",
        "the same, after a cold start",
        "drain",
        {"nsq": "sub --there --conns=2 --rdy=2500 --count={single_messages}"},
        before={"nsq": "defer --count={single_messages}"},
        cold=True,
    ),
    Row(
        "http",
        "POST /pub, kept alive, 32 connections",
        "rate",
        {"nsq": "http-pub --conns=32 --seconds={seconds}"},
        http=True,
    ),
    Row(
        "latency",
        "publish to delivery, idle broker",
        "latency",
        {
            "nsq": "latency --size=100 --count={latency_samples}",
            "redis": "redis-latency --size=100 --count={latency_samples}",
            "nats": "nats-latency --size=100 --count={latency_samples}",
        },
    ),
    Row(
        "memory",
        "memory at start, and with 1,000,000 messages of 200 bytes queued",
        "memory",
        {
            "nsq": "mpub --conns=2 --count={queued_messages}",
            "beanstalk": "beanstalk-fill --conns=16 --depth=100 --count={queued_messages}",
            "redis": "redis-fill --conns=16 --depth=100 --count={queued_messages}",
            "nats": "nats-fill --conns=16 --depth=100 --count={queued_messages}",
        },
    ),
    Row(
        "memory-topics",
        "memory at start, and with 1,000 topics of one channel each",
        "memory",
        {"nsq": "topics --topics=1000"},
    ),
    Row(
        "rest-connections",
        "at rest: {idle_connections:,} consumers of one channel",
        "rest",
        {"nsq": "rest --conns={idle_connections} --seconds={rest_seconds}"},
    ),
    Row(
        "rest-channels",
        "at rest: 1,000 channels with one consumer each",
        "rest",
        {"nsq": "rest --conns=1000 --topics=1000 --seconds={rest_seconds}"},
    ),
    Row(
        "disk",
        "every answer waits for the disk: one at a time, 64 connections",
        "rate",
        {
            "nsq": "pub --conns=64 --seconds={seconds}",
            "beanstalk": "beanstalk-put --conns=64 --seconds={seconds}",
            "redis": "redis-add --conns=64 --seconds={seconds}",
            "nats": "nats-publish --conns=64 --seconds={seconds}",
        },
        to_disk=True,
    ),
)

TAIL_LOAD = {"nsq": "tail --seconds={tail_seconds}"}

TAILS = (
    Row(
        "tail-drain",
        "another topic's backlog is drained",
        "tail",
        TAIL_LOAD,
        before={"nsq": "mpub --topic=large --channels=16 --count={tail_backlog}"},
        beside="nuisance-drain --topic=large --channels=16 --count={tail_backlog}",
    ),
    Row(
        "tail-publish",
        "another topic is published to, in batches of 200 on 2 connections",
        "tail",
        TAIL_LOAD,
        beside="nuisance-publish --topic=large",
    ),
    Row(
        "tail-roll",
        "a new segment after every 64 kB",
        "tail",
        TAIL_LOAD,
        flags="--max-bytes-per-file=65536",
    ),
    Row(
        "tail-stats",
        "statistics of 1,000 channels are asked for all the time",
        "tail",
        TAIL_LOAD,
        before={"nsq": "topics --topics=1000 --topic=other"},
        beside="nuisance-stats",
        http=True,
    ),
)
