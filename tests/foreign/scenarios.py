"""What every foreign client must manage with the daemon, whatever library it is written in.

Each function is one scenario and takes the command that starts the library's puppet (see `puppet`). A
test file names the library, what it can do, and calls them.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nsqkit.access import Scopes, Token, digest_of, new_secret
from nsqkit.access.token_file import add
from tests.foreign.puppet import Puppet, Report
from tests.nsqkit.certificates import Certificates
from tests.process.auth_server import AuthServer
from tests.process.checker import make_body
from tests.process.closed import Closed
from tests.process.copies import held, in_step, listening, make_follower, make_leader
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.ports import free_port
from tests.process.waiting import wait_until

__all__ = [
    "in_a_closed_cluster",
    "on_a_channel_that_seeks",
    "on_a_channel_with_dead_letters",
    "on_limited_channels",
    "publish_and_consume",
    "survive_kill",
    "through_an_adoption",
    "through_layers",
    "touch_keeps_a_message",
    "two_daemons",
    "with_a_secret",
    "with_a_token",
]

TOPIC, CHANNEL = "foreign.topic", "foreign-channel"
COUNT = 1_000
DELAY_MS = 700
EVERY_BYTE = bytes(range(256))


def publish_and_consume(command: Sequence[str], data_path: Path, flags: Sequence[str] = ()) -> None:
    """1,000 messages, single, multi and deferred, to two consumers that requeue and touch: byte for byte."""
    bodies = [make_body("foreign", number, 20 + number % 300) for number in range(COUNT - 2)]
    bodies += [EVERY_BYTE, bytes(100_000)]
    deferred = bodies[:50]
    singles, multi = bodies[len(deferred) : 400], bodies[400:]
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(data_path, flags))
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        producer = stack.enter_context(Puppet(command, [daemon.tcp_address]))
        consumers = [stack.enter_context(Puppet(command, [daemon.tcp_address])) for _ in range(2)]
        for consumer in consumers:
            consumer.consume(TOPIC, CHANNEL, requeue_every=10, touch_every=7)
        sent_at_s = time.monotonic()
        producer.publish("deferred", TOPIC, deferred, delay_ms=DELAY_MS)
        producer.publish("single", TOPIC, singles)
        producer.publish("multi", TOPIC, multi)
        _wait_until_empty(daemon, consumers)
        reports = [report for consumer in consumers for report in consumer.all_messages()]
        stats = daemon.channel_stats(TOPIC, CHANNEL)
    assert all(consumer.messages() for consumer in consumers)
    _check_messages(reports, bodies)
    late = set(deferred)
    assert all(report["at_s"] >= sent_at_s + DELAY_MS / 1000 for report in reports if report["body"] in late)
    requeues = sum(1 for report in reports if report["action"] == "requeue")
    assert requeues > 0
    assert any(report["action"] == "touch" for report in reports)
    assert (stats["requeue_count"], stats["timeout_count"]) == (requeues, 0)
    assert stats["message_count"] == COUNT


def through_layers(command: Sequence[str], data_path: Path, layers: Sequence[str]) -> None:
    """The same with each connection through TLS, a compression, or both; and the daemon says that it was so."""
    certificates = Certificates(data_path)
    tls = [f"--tls-cert={certificates.cert_file}", f"--tls-key={certificates.key_file}", "--https-address="]
    data = data_path / "data"
    data.mkdir()
    words = [*command, f"--ca={certificates.root_ca_file}", *(f"--layer={layer}" for layer in layers)]
    publish_and_consume(words, data, tls)
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(data, tls))
        daemon.start()
        client = stack.enter_context(Puppet(words, [daemon.tcp_address]))
        client.consume(TOPIC, CHANNEL)
        wait_until(partial(_is_subscribed, daemon), 5.0, "subscribed", describe=client.trouble)
        (stats,) = daemon.clients(TOPIC, CHANNEL)
        assert [layer for layer in ("tls", "snappy", "deflate") if stats[layer]] == sorted(
            layers, key="tls snappy deflate".index
        )


def with_a_secret(command: Sequence[str], data_path: Path) -> None:
    """Whoever has the right secret publishes and consumes; who has another one does neither."""
    with AuthServer({"open sesame": ["subscribe", "publish"]}) as server:
        flags = [f"--auth-http-address={server.address}"]
        publish_and_consume([*command, "--secret=open sesame"], data_path, flags)
        with contextlib.ExitStack() as stack:
            daemon = stack.enter_context(Daemon(data_path, flags))
            daemon.start()
            thief = stack.enter_context(Puppet([*command, "--secret=open barley"], [daemon.tcp_address]))
            body = base64.b64encode(b"x").decode()
            thief.order("publish", how="single", topic="other", bodies=[body], delay_ms=0)
            with contextlib.suppress(AssertionError):  # a library may say so, or try again without end
                assert thief.wait_for("published", "publish_failed", within_s=3)["report"] == "publish_failed"
            assert "other" not in [topic["topic_name"] for topic in daemon.stats()["topics"]]


def with_a_token(command: Sequence[str], data_path: Path) -> None:
    """The same with a token, which the library takes for a secret; one with another scope is of no use."""
    path = str(data_path / "tokens")
    secrets = {scope: new_secret() for scope in ("publish:foreign.*", f"consume:{TOPIC}/*")}
    for number, (scope, secret) in enumerate(secrets.items()):
        add(path, Token(f"token-{number}", digest_of(secret.encode()), Scopes.parse([scope]), time.time()))
    producing, consuming = ([*command, f"--secret={secret}"] for secret in secrets.values())
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(data_path, [f"--tokens-file={path}", "--anonymous=read,operate"]))
        daemon.start()
        producer, consumer, wrong = (
            stack.enter_context(Puppet(each, [daemon.tcp_address]))
            for each in (producing, consuming, consuming)
        )
        consumer.consume(TOPIC, CHANNEL)
        producer.publish("single", TOPIC, [b"1"])
        assert consumer.wait_for("message")["body"] == b"1"
        body = base64.b64encode(b"2").decode()
        wrong.order("publish", how="single", topic="foreign.other", bodies=[body], delay_ms=0)
        with contextlib.suppress(AssertionError):  # a library may say so, or try again without end
            assert wrong.wait_for("published", "publish_failed", within_s=1)["report"] == "publish_failed"
        assert "foreign.other" not in [topic["topic_name"] for topic in daemon.stats()["topics"]]


def in_a_closed_cluster(command: Sequence[str], data_path: Path, *, tls: bool = True) -> None:
    """Two nsqds that the consumer finds through a registry, all of it with TLS and tokens only.

    The library shows the registry its token as the password of a URL. Without `tls`, for one that has none, it is given
    the addresses of nsqds that do not require it.
    """
    closed = Closed.in_folder(data_path)
    authority = closed.certificates.root_ca_file
    trusting = ["env", f"SSL_CERT_FILE={authority}", f"NODE_EXTRA_CA_CERTS={authority}", *command]
    layers = ["--layer=tls", f"--ca={authority}"] if tls else []
    producing = closed.new_token("producer", "publish:foreign.*")
    consuming = closed.new_token("consumer", f"consume:{TOPIC}/*")
    with contextlib.ExitStack() as stack:

        def puppet(token: str, addresses: Sequence[str], registries: Sequence[str] = ()) -> Puppet:
            words = [*trusting, *layers, *([f"--secret={token}"] if token else [])]
            return stack.enter_context(Puppet(words, addresses, registries))

        registry = LookupDaemon(flags=[f"--broadcast-address={HOST}"], closed=closed)
        nsqds = []
        for name in ("a", "b"):
            (data_path / name).mkdir()
            flags = [f"--broadcast-address={HOST}", f"--lookupd-tcp-address={registry.tcp_address}"]
            flags += [] if tls else ["--tls-required=false"]
            nsqds.append(Daemon(data_path / name, flags, closed=closed))
        for daemon in (registry, *nsqds):
            stack.enter_context(daemon)
            daemon.start()
        bodies = []
        for number, nsqd in enumerate(nsqds):
            bodies.append(b"%d" % number)
            puppet(producing, [nsqd.tcp_address]).publish("single", TOPIC, bodies[-1:])
        wait_until(lambda: len(registry.producers(TOPIC)) == 2, 10.0, "both are registered")
        by_url = [f"https://:{consuming}@{HOST}:{registry.https_port}"]
        addresses = [nsqd.tcp_address for nsqd in nsqds]
        consumer = puppet(consuming, *(([], by_url) if tls else (addresses,)))
        consumer.consume(TOPIC, CHANNEL)
        wait_until(
            lambda: sorted(report["body"] for report in consumer.messages()) == bodies,
            15.0,
            "the messages of both nsqds have come",
            describe=consumer.trouble,
        )
        body = base64.b64encode(b"refused").decode()
        for token in (consuming, closed.new_token("late", "publish:other", seconds=-1.0), ""):
            thief = puppet(token, addresses[:1])
            thief.order("publish", how="single", topic="foreign.other", bodies=[body], delay_ms=0)
            with contextlib.suppress(AssertionError):  # a library may say so, or try again without end
                assert (
                    thief.wait_for("published", "publish_failed", within_s=0.5)["report"] == "publish_failed"
                )
        assert [topic["topic_name"] for topic in nsqds[0].stats()["topics"]] == [TOPIC]


def on_limited_channels(command: Sequence[str], data_path: Path) -> None:
    """A full channel refuses publishes, which the library says, until a consumer has made room; another drops."""
    config = data_path / "nsqd.toml"
    config.write_text(
        f'[[rule]]\ntopic = "{TOPIC}"\nmax_depth = 50\n'
        '[[rule]]\ntopic = "dropping"\nmax_depth = 50\npolicy = "drop_oldest"\n'
    )
    bodies = [make_body("limited", number) for number in range(200)]
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(data_path, [f"--config={config}"]))
        daemon.start()
        for topic in (TOPIC, "dropping"):
            daemon.create_channel(topic, CHANNEL)
        with Puppet(command, [daemon.tcp_address]) as producer:
            producer.publish("single", "dropping", bodies)
            producer.publish("multi", TOPIC, bodies[:50])
            body = base64.b64encode(b"too many").decode()
            producer.order("publish", how="single", topic=TOPIC, bodies=[body], delay_ms=0)
            report = producer.wait_for("published", "publish_failed")
            assert report["report"] == "publish_failed", report
            assert f"max_depth of channel {CHANNEL} is 50" in report["error"]
        for topic, expected in ((TOPIC, bodies[:50]), ("dropping", bodies[-50:])):
            with Puppet(command, [daemon.tcp_address]) as consumer:
                consumer.consume(topic, CHANNEL)
                _wait_until_empty(daemon, [consumer], topic=topic)
                _check_messages(consumer.all_messages(), expected)
        with Puppet(command, [daemon.tcp_address]) as producer:
            producer.publish("single", TOPIC, bodies[50:60])


def on_a_channel_that_seeks(command: Sequence[str], data_path: Path) -> None:
    """What was finished and is retained comes again to a connected consumer, over a kill too; and to a side channel."""
    config = data_path / "nsqd.toml"
    config.write_text('[[rule]]\nretain = ["24h", "1GB"]\n')
    flags = [f"--config={config}", "--max-bytes-per-file=20000", "--mem-queue-size=10"]
    bodies = [make_body("seek", number, 200) for number in range(400)]
    where = f"topic={TOPIC}&channel={CHANNEL}"
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(data_path, flags))
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        with Puppet(command, [daemon.tcp_address]) as client:
            client.publish("multi", TOPIC, bodies)
            client.consume(TOPIC, CHANNEL)
            _wait_until_empty(daemon, [client])
            _check_messages(client.all_messages(), bodies)
        daemon.kill()
        daemon.start()
        client = stack.enter_context(Puppet(command, [daemon.tcp_address]))
        client.consume(TOPIC, CHANNEL)
        wait_until(partial(_is_subscribed, daemon), 15.0, "subscribed", describe=client.trouble)
        assert daemon.request("POST", f"/channel/seek?{where}&to=start") == (200, b"")
        _wait_until_empty(daemon, [client])
        again = client.all_messages()
        _check_messages(again, bodies)
        middle = again[250]["id"]
        assert daemon.request("POST", f"/channel/create?topic={TOPIC}&channel=side&from={middle}") == (
            200,
            b"",
        )
        side = stack.enter_context(Puppet(command, [daemon.tcp_address]))
        side.consume(TOPIC, "side")
        wait_until(lambda: daemon.unfinished(TOPIC, "side") == 0, 15.0, "empty", describe=side.trouble)
        late = [report["body"] for report in again if report["id"] >= middle]
        _check_messages(side.all_messages(), late)
        assert len(client.all_messages()) == len(bodies)


def on_a_channel_with_dead_letters(command: Sequence[str], data_path: Path) -> None:
    """What is requeued too often is consumed from the dead topic, and again from its channel when it was put back."""
    config = data_path / "nsqd.toml"
    config.write_text(f'[[rule]]\ntopic = "{TOPIC}"\nmax_attempts = 1\n')
    bodies = [make_body("dead", number) for number in range(90)]
    dead, where = f"{TOPIC}.{CHANNEL}.dead", f"topic={TOPIC}&channel={CHANNEL}"
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(data_path, [f"--config={config}"]))
        daemon.start()
        with Puppet(command, [daemon.tcp_address]) as producer:
            producer.publish("multi", TOPIC, bodies)
        with Puppet(command, [daemon.tcp_address]) as consumer:
            consumer.consume(TOPIC, CHANNEL, requeue_every=3)
            _wait_until_empty(daemon, [consumer])
            reports = consumer.all_messages()
            requeued = [report["body"] for report in reports if report["action"] == "requeue"]
        assert len(requeued) == 30
        assert len(reports) == 90, "and none of them came again"
        with Puppet(command, [daemon.tcp_address]) as reader:
            reader.consume(dead, CHANNEL)
            _wait_until_empty(daemon, [reader], topic=dead)
            _check_messages(reader.all_messages(), requeued)
        assert daemon.request("POST", f"/channel/redrive?{where}")[0] == 200
        with Puppet(command, [daemon.tcp_address]) as consumer:
            consumer.consume(TOPIC, CHANNEL)
            wait_until(lambda: len(consumer.messages()) >= 30, 15.0, "all are back")
            _wait_until_empty(daemon, [consumer])
            _check_messages(consumer.all_messages(), requeued)


def touch_keeps_a_message(command: Sequence[str], data_path: Path) -> None:
    """A message that is touched outlives its time-out of one second: no second offer, and FIN works."""
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(data_path, ["--msg-timeout=1s"]))
        daemon.start()
        client = stack.enter_context(Puppet(command, [daemon.tcp_address]))
        client.publish("single", TOPIC, [b"worked on for long"])
        client.order("touch_for", topic=TOPIC, channel=CHANNEL, seconds=2.2)
        report = client.wait_for("message")
        assert (report["body"], report["attempts"], report["action"]) == (b"worked on for long", 1, "touch")
        _wait_until_empty(daemon, [client])
        assert daemon.channel_stats(TOPIC, CHANNEL)["timeout_count"] == 0
        assert len(client.all_messages()) == 1


def two_daemons(command: Sequence[str], data_path: Path) -> None:
    """One consumer with connections to two daemons gets the messages of both."""
    count = 200
    with contextlib.ExitStack() as stack:
        daemons = []
        for name in ("a", "b"):
            (data_path / name).mkdir()
            daemons.append(stack.enter_context(Daemon(data_path / name)))
            daemons[-1].start()
        consumer = stack.enter_context(Puppet(command, [daemon.tcp_address for daemon in daemons]))
        consumer.consume(TOPIC, CHANNEL)
        bodies = []
        for index, daemon in enumerate(daemons):
            wait_until(partial(_is_subscribed, daemon), 5.0, "subscribed", describe=consumer.trouble)
            mine = [make_body(f"daemon{index}", number) for number in range(count)]
            with Puppet(command, [daemon.tcp_address]) as producer:
                producer.publish("multi", TOPIC, mine)
            bodies += mine
        for daemon in daemons:
            _wait_until_empty(daemon, [consumer])
        _check_messages(consumer.all_messages(), bodies)


def survive_kill(command: Sequence[str], data_path: Path, *, reconnects_within_s: float | None) -> None:
    """Kill the daemon with -9 while the consumer holds messages: nothing is lost, what was held comes again.

    With None for a library that does not reconnect by itself: a new process takes over from the old one.
    """
    first = [make_body("first", number) for number in range(100)]
    second = [make_body("second", number) for number in range(100)]
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(data_path))
        daemon.start()
        consumers = [stack.enter_context(Puppet(command, [daemon.tcp_address]))]
        consumers[0].consume(TOPIC, CHANNEL, in_flight=5, hold_after=50)
        with Puppet(command, [daemon.tcp_address]) as producer:
            producer.publish("multi", TOPIC, first)
            consumers[0].wait_for("holding")
            wait_until(lambda: _is_at_rest(daemon, consumers[0], left=50), 5.0, "all in flight is held")
            producer.publish("single", TOPIC, second[:50])  # its OKs: the FINs before it are in the log
        daemon.kill()
        consumers[0].order("resume")
        consumers[0].wait_for("resumed")
        daemon.start()
        if reconnects_within_s is None:
            consumers.append(stack.enter_context(Puppet(command, [daemon.tcp_address])))
            consumers[1].consume(TOPIC, CHANNEL)
        with Puppet(command, [daemon.tcp_address]) as producer:
            producer.publish("single", TOPIC, second[50:])
        _wait_until_empty(daemon, consumers, (reconnects_within_s or 0) + 10)
        reports = [report for consumer in consumers for report in consumer.all_messages()]
    held = {report["id"] for report in reports if report["action"] == "hold"}
    finished = [report for report in reports if report["action"] == "finish"]
    assert collections.Counter(report["body"] for report in finished) == collections.Counter(first + second)
    assert held
    assert held <= {report["id"] for report in finished}


def through_an_adoption(command: Sequence[str], data_path: Path, closed: Closed | None = None) -> None:
    """The disk of an nsqd is gone, and its copy adopted by itself: a consumer finds the stand-in, and gets the rest.

    `closed`: what closes all daemons, for a library that shows registries its secret.
    """
    bodies = [make_body("before", number) for number in range(200)]
    with contextlib.ExitStack() as stack:
        named = [] if closed is None else [f"--broadcast-address={HOST}"]  # which their certificates are for
        registries = [stack.enter_context(LookupDaemon(flags=named, closed=closed)) for _ in range(3)]
        for registry in registries:
            registry.start()
        port = free_port()
        follower = stack.enter_context(make_follower(data_path, port, closed))
        leader = stack.enter_context(make_leader(data_path, port, closed))
        for daemon in (follower, leader):
            daemon.flags = (
                *daemon.flags,
                *(f"--lookupd-tcp-address={registry.tcp_address}" for registry in registries),
                f"--broadcast-address={HOST}",
                "--adopt-after=2s",
                *(("--adopt=auto",) if daemon is follower else ()),
            )
            daemon.start()
        leader.create_channel(TOPIC, CHANNEL)
        wait_until(lambda: in_step(leader), 10.0, "the copy is in step", describe=leader.log_end)
        with leader.connect() as producer:
            producer.mpub(TOPIC, bodies[:150])
            consumer = stack.enter_context(Puppet(command, [], [registries[0].lookup_address]))
            consumer.consume(TOPIC, CHANNEL, in_flight=5, hold_after=50)
            consumer.wait_for("holding")
            wait_until(lambda: _is_at_rest(leader, consumer, left=100), 5.0, "all in flight is held")
            producer.mpub(TOPIC, bodies[150:])  # its OK: the FINs before it are in the copy, too
        leader.kill()
        shutil.rmtree(leader.data_path)
        consumer.order("resume")
        consumer.wait_for("resumed")
        wait_until(lambda: held(follower)["adopted"], 20.0, "it is adopted", describe=follower.log_end)
        listening(follower)
        wait_until(
            lambda: held(follower)["stand_in_port"] is None,
            30.0,
            "the stand-in is empty, and gone",
            describe=lambda: f"{consumer.trouble()}\n{follower.log_end()}",
        )
        reports = consumer.all_messages()
    kept = {report["id"] for report in reports if report["action"] == "hold"}
    finished = [report for report in reports if report["action"] == "finish"]
    assert collections.Counter(report["body"] for report in finished) == collections.Counter(bodies)
    assert kept
    assert kept <= {report["id"] for report in finished}


def _is_at_rest(daemon: Daemon, consumer: Puppet, *, left: int) -> bool:
    held = sum(1 for report in consumer.messages() if report["action"] == "hold")
    in_flight = daemon.channel_stats(TOPIC, CHANNEL)["in_flight_count"]
    return held == in_flight and daemon.unfinished(TOPIC, CHANNEL) == left


def _check_messages(reports: Sequence[Report], bodies: Sequence[bytes]) -> None:
    """Check that each body was finished exactly once, and that attempts and ids follow from the requeues."""
    finished = [report for report in reports if report["action"] in ("finish", "touch")]
    assert collections.Counter(report["body"] for report in finished) == collections.Counter(bodies)
    requeued = {report["id"]: report for report in reports if report["action"] == "requeue"}
    assert {report["id"] for report in finished} >= set(requeued)
    for report in finished:
        again = requeued.get(report["id"])
        assert report["attempts"] == (1 if again is None else 2), report["id"]
        assert again is None or again["body"] == report["body"]


def _is_subscribed(daemon: Daemon, topic: str = TOPIC) -> bool:
    try:
        return bool(daemon.channel_stats(topic, CHANNEL)["client_count"])
    except KeyError:
        return False


def _wait_until_empty(
    daemon: Daemon, consumers: Sequence[Puppet], within_s: float = 15.0, *, topic: str = TOPIC
) -> None:
    """Wait until the channel has nothing left; the error tells what daemon and consumers said."""
    wait_until(
        lambda: _is_subscribed(daemon, topic) and daemon.unfinished(topic, CHANNEL) == 0,
        within_s,
        "the channel is empty",
        describe=lambda: "\n".join(
            [str(daemon.stats()), daemon.log_end(), *(consumer.trouble() for consumer in consumers)]
        ),
    )
