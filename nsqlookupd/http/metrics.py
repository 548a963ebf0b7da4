"""GET /metrics: the page for Prometheus. The number of series does not depend on the registrations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from nsqkit.audit import AuditTrail
from nsqkit.certificates import TlsFiles
from nsqkit.service.exposition import (
    Family,
    certificates,
    counter,
    gauge,
    label_set,
    of_audit,
    program,
    render,
)
from nsqkit.service.http import Request, Response, query
from nsqlookupd.registry import Registry
from nsqlookupd.traffic import Traffic
from nsqlookupd.witness import Witness

__all__ = ["Metrics", "metrics_page"]


class Metrics:
    """The handler, for one registry and its clock."""

    def __init__(
        self,
        registry: Registry,
        clock: Callable[[], float],
        traffic: Traffic,
        witness: Witness,
        trail: AuditTrail,
        tls_files: Collection[TlsFiles] = (),
    ) -> None:
        self._trail = trail
        self._registry = registry
        self._clock = clock
        self._traffic = traffic
        self._witness = witness
        self._tls_files = tls_files

    async def get(self, request: Request) -> Response:
        query(request)  # a malformed query string is refused here too
        return await metrics_page(
            self._registry, self._clock(), self._traffic, self._witness, self._trail, self._tls_files
        )


async def metrics_page(
    registry: Registry,
    now: float,
    traffic: Traffic,
    witness: Witness,
    trail: AuditTrail,
    tls_files: Collection[TlsFiles] = (),
) -> Response:
    """The response. `now`: by the registry's clock."""
    witness.advance(now)
    return await render(
        [
            *_of_the_registry(registry, now),
            *_of_the_witness(witness),
            *certificates("nsqlookupd", tls_files),
            *_of_the_daemon(traffic),
            *of_audit("nsqlookupd", trail),
            *program("nsqlookupd"),
        ]
    )


def _of_the_registry(registry: Registry, now: float) -> Iterator[Family]:
    yield gauge("nsqlookupd_topics", "Topics, with producers or without.", registry.topic_count)
    yield gauge(
        "nsqlookupd_channels", "Channels of all topics, with producers or without.", registry.channel_count
    )
    yield gauge(
        "nsqlookupd_registrations",
        "Pairs of a producer and a topic or channel that it has.",
        registry.registration_count,
    )
    yield gauge("nsqlookupd_producers", "Connected nsqds.", len(registry.producers()))
    yield gauge(
        "nsqlookupd_nodes",
        "Of these, those that were heard of lately: what /nodes shows.",
        len(registry.nodes(now)),
    )
    yield gauge(
        "nsqlookupd_tombstones", "Producers that are hidden in a topic.", registry.tombstone_count(now)
    )


def _of_the_witness(witness: Witness) -> Iterator[Family]:
    yield gauge("nsqlookupd_lives", "Data paths with copies that are known.", witness.life_count)
    yield gauge("nsqlookupd_lives_silent", "Nodes with copies that are silent.", witness.silent_count)
    answers = [(label_set({"answer": name}), count) for name, count in sorted(witness.answers.items())]
    yield counter(
        "nsqlookupd_grants_total", "Answers to followers that wanted to adopt a copy by themselves.", answers
    )


def _of_the_daemon(traffic: Traffic) -> Iterator[Family]:
    yield gauge("nsqlookupd_connections", "Open TCP connections.", traffic.connections)
    yield counter(
        "nsqlookupd_connections_total", "TCP connections since the start.", traffic.connections_total
    )
    commands = [(label_set({"command": name}), count) for name, count in sorted(traffic.commands.items())]
    yield counter("nsqlookupd_commands_total", "Commands of nsqds, by name.", commands)
    requests = [(label_set({"code": str(code)}), count) for code, count in sorted(traffic.requests.items())]
    yield counter("nsqlookupd_http_requests_total", "HTTP requests, by the status of the answer.", requests)
