"""The cost of TLS and compression in nsqd: `python -m bench.layers [--quick] [--runs N]`.

One nsqd, and for each of the layers in turn: batches of 200 messages published on two connections, the same messages
consumed and finished on two connections with RDY 2500, and single publishes on 16 connections. Bodies are 200 bytes of
JSON that differ from one another, as logs do. Prints a Markdown table: messages a second, nsqd's CPU for each, and the
bytes on the wire for each published one. The rates are those of the pair: the load generator encodes as well, and is
plain Python, so look at nsqd's CPU first. Exit code 1 if something failed.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import ssl
import statistics
import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import trustme

from bench.meter import Measurement, Meter
from bench.nsq import pub_command
from bench.server import Broker, Server, ServerError, nsqd
from nsqkit.wire.compression import Decoder, DeflateDecoder, DeflateEncoder, Encoder
from nsqkit.wire.snappy import SnappyDecoder, SnappyEncoder

LAYERS = ("plain", "snappy", "deflate", "tls", "tls+snappy", "tls+deflate")
BATCH = 200
SINGLE_CONNECTIONS = 16
OK_SIZE = 10
HEAD = 34
STALL_SECONDS = 20


class Link:
    """A blocking connection through the layers."""

    def __init__(self, port: int, layers: str, authority: Path) -> None:
        self.sent_bytes = 0
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._encoder: Encoder | None = None
        self._decoder: Decoder | None = None
        self._buffer = b""
        names = {"tls": "tls_v1"}
        asked = {names.get(layer, layer): True for layer in layers.split("+") if layer != "plain"}
        body = json.dumps({"feature_negotiation": True, **asked}).encode()
        self.send(b"  V2IDENTIFY\n" + struct.pack(">I", len(body)) + body)
        answer = json.loads(self.read(struct.unpack(">I", self.read(4))[0])[4:])
        if answer["tls_v1"]:
            context = ssl.create_default_context(cafile=str(authority))
            self._sock = context.wrap_socket(self._sock, server_hostname="127.0.0.1")
            self.read(OK_SIZE)
        if answer["snappy"]:
            self._encoder, self._decoder = SnappyEncoder(), SnappyDecoder()
        if answer["deflate"]:
            self._encoder, self._decoder = DeflateEncoder(answer["deflate_level"]), DeflateDecoder()
        if self._decoder is not None:
            early, self._buffer = self._buffer, b""  # the bytes after the response are compressed
            self._decoder.feed(early)
            self.read(OK_SIZE)
        self.sent_bytes = 0

    def send(self, data: bytes) -> None:
        if self._encoder is not None:
            data = self._encoder.encode(data)
        self.sent_bytes += len(data)
        self._sock.sendall(data)

    def read(self, size: int) -> bytes:
        """Read `size` bytes."""
        while len(self._buffer) < size:
            self._buffer += self.receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def receive(self) -> bytes:
        """Read at least one byte."""
        while True:
            if self._decoder is not None and (data := b"".join(iter(self._decode, b""))):
                return data
            raw = self._sock.recv(1 << 18)
            if not raw:
                raise ConnectionError("nsqd has closed the connection")
            if self._decoder is None:
                return raw
            self._decoder.feed(raw)

    def _decode(self) -> bytes:
        assert self._decoder is not None
        return self._decoder.decode(1 << 20)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def has_more(self) -> bool:
        """Whether bytes were read from the socket that are not returned yet."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def close(self) -> None:
        self._sock.close()


def publish_batches(links: Sequence[Link], topic: str, bodies: Sequence[bytes], meter: Meter) -> Measurement:
    """Publish with one batch in flight on each connection."""
    commands = [_batch(topic, bodies[at : at + BATCH]) for at in range(0, len(bodies), BATCH)]
    meter.start()
    for at in range(0, len(commands), len(links)):
        pairs = list(zip(links, commands[at : at + len(links)], strict=False))
        for link, command in pairs:
            link.send(command)
        for link, _ in pairs:
            link.read(OK_SIZE)
    return meter.stop(len(commands) * BATCH, {"wire": sum(link.sent_bytes for link in links) / len(bodies)})


def consume(links: Sequence[Link], topic: str, count: int, meter: Meter) -> Measurement:
    """Consume until all are finished, up to the response to a publish that follows the last FIN."""
    for link in links:
        link.send(f"SUB {topic} c\n".encode())
        link.read(OK_SIZE)
    meter.start()
    for link in links:
        link.send(b"RDY 2500\n")
    left, rests = count, dict.fromkeys(links, b"")
    while left > 0:
        for link in _readable(links):  # one of them may have had all that were left
            data = rests[link] + link.receive()
            frames, fins = len(data) // (HEAD + len(BODY_SAMPLE)), []
            for at in range(0, frames * (HEAD + len(BODY_SAMPLE)), HEAD + len(BODY_SAMPLE)):
                fins.append(b"FIN %s\n" % data[at + 18 : at + 34])
            rests[link] = data[frames * (HEAD + len(BODY_SAMPLE)) :]
            left -= frames
            if fins:
                link.send(b"".join(fins))
            if left <= 0:
                break
    for link in links:
        link.send(b"RDY 0\n" + pub_command("barrier", b"x"))
        link.read(OK_SIZE)
    return meter.stop(count)


def _readable(links: Sequence[Link]) -> list[Link]:
    """Links with input, at least one; input that TLS has already decrypted counts."""
    ready = [link for link in links if link.has_more]
    return ready or select.select(links, [], [], STALL_SECONDS)[0]


def publish_singles(links: Sequence[Link], topic: str, bodies: Sequence[bytes], meter: Meter) -> Measurement:
    commands = [pub_command(topic, body) for body in bodies]
    meter.start()
    for at in range(0, len(commands), len(links)):
        for link, command in zip(links, commands[at:], strict=False):
            link.send(command)
        for link, _ in zip(links, commands[at:], strict=False):
            link.read(OK_SIZE)
    return meter.stop(len(commands))


def _batch(topic: str, bodies: Sequence[bytes]) -> bytes:
    parts = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    return b"MPUB %s\n%s" % (topic.encode(), struct.pack(">II", len(parts) + 4, len(bodies)) + parts)


def _body(number: int) -> bytes:
    fields = {
        "at": 1_700_000_000_000 + number * 37,
        "user": number * 7919 % 100_003,
        "path": f"/item/{number:x}",
    }
    return (
        json.dumps(fields | {"agent": "Mozilla/5.0 (X11; Linux x86_64)", "status": 200}).encode().ljust(200)
    )


BODY_SAMPLE = _body(1)


@attrs.frozen
class _Certificates:
    authority: Path
    flags: str


def _certificates(folder: Path) -> _Certificates:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    flags = f" --tls-cert={folder}/cert.pem --tls-key={folder}/key.pem --https-address=127.0.0.1:0"
    return _Certificates(folder / "ca.pem", flags)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description="What the layers cost nsqd.")
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--runs", type=int, help="runs of each (default 3, with --quick 1)")
    options = parser.parse_args(argv)
    count, runs = (20_000, options.runs or 1) if options.quick else (100_000, options.runs or 3)
    with tempfile.TemporaryDirectory(prefix="bench-layers-") as folder:
        certificates = _certificates(Path(folder))
        plain = nsqd(sys.executable)
        broker: Broker = attrs.evolve(plain, command=plain.command + certificates.flags)
        try:
            with Server(broker, Path(folder)) as server:
                _report(server, certificates.authority, count, runs)
        except (ServerError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _report(server: Server, authority: Path, count: int, runs: int) -> None:
    bodies = [_body(number) for number in range(count)]
    assert {len(body) for body in bodies} == {len(BODY_SAMPLE)}
    print("| layers | publish, batches of 200 | consume | publish, one at a time | wire bytes a message |")
    print("| --- | ---: | ---: | ---: | ---: |")
    figures: dict[str, list[tuple[Measurement, ...]]] = {layers: [] for layers in LAYERS}
    for run in range(runs):
        for layers in LAYERS:
            figures[layers].append(_measure(server, layers, authority, f"t{run}", bodies))
    for layers in LAYERS:
        cells = [_cell(column) for column in zip(*figures[layers], strict=True)]
        wire = statistics.median(run[0].extra["wire"] for run in figures[layers])
        print(f"| {layers} | {' | '.join(cells)} | {wire:.0f} |", flush=True)


def _measure(
    server: Server, layers: str, authority: Path, topic: str, bodies: Sequence[bytes]
) -> tuple[Measurement, ...]:
    meter, topic = Meter(server.pids), f"{topic}-{layers.replace('+', '-')}"
    links = [Link(server.port, layers, authority) for _ in range(SINGLE_CONNECTIONS)]
    try:
        links[-1].send(f"SUB {topic} c\n".encode())
        links[-1].read(OK_SIZE)
        batches = publish_batches(links[:2], topic, bodies, meter)
        consumed = consume(links[2:4], topic, len(bodies), meter)
        singles = publish_singles(links[:-1], topic, bodies[: len(bodies) // 5], meter)
        return batches, consumed, singles
    finally:
        for link in links:
            link.close()


def _cell(runs: Sequence[Measurement]) -> str:
    rate, cpu = statistics.median(run.rate for run in runs), statistics.median(run.cpu_us for run in runs)
    return f"{rate:,.0f}/s, {cpu:.2f} us"


if __name__ == "__main__":
    sys.exit(main())
