"""The role of a follower: leaders connect, their copies are kept, and stand-ins serve those that are adopted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from nsqd.copies.auto_adopt import AutoAdopt
from nsqd.options import NsqdOptions, stand_in_ports
from nsqd.replication.frame_stream import Identity
from nsqd.replication.from_leader import Follower
from nsqd.replication.held_copies import HeldCopies, Room
from nsqd.replication.licence import Witnesses
from nsqd.replication.other_followers import OtherFollowers
from nsqd.replication.stand_in import StandIns
from nsqd.replication.transport import Transport
from nsqd.stats.copies import HeldStats
from nsqkit.audit import AuditTrail
from nsqkit.logging import get_logger
from nsqkit.options import SECOND, TlsRequired
from nsqkit.service.listeners import accept_forever, close_listener, remote_address

__all__ = ["FollowerRole"]

log = get_logger("copies")


class FollowerRole:
    """`data_path`: has the folders of the copies. `unclean`: the last stop was not in order."""

    def __init__(
        self,
        options: NsqdOptions,
        data_path: Path,
        identity: Identity,
        transport: Transport,
        trail: AuditTrail | None,
        *,
        unclean: bool,
    ) -> None:
        self._options = options
        self._trail = trail
        self._listeners: Sequence[trio.SocketListener] = ()
        self._accepting = trio.CancelScope()
        self.held = HeldCopies(
            data_path,
            identity.life,
            Room(options.replica_max_bytes, 2 * options.min_free_space),
            unclean=unclean,
            patience=options.replica_timeout / SECOND,
        )
        self.stand_ins = StandIns(
            self.held,
            self._stand_in_command,
            stand_in_ports(options),
            _host_of(options.tcp_address),
            OtherFollowers(identity, transport.connector()),
        )
        self._follower = Follower(self.held, identity, transport)

    def listen_on(self, listeners: Sequence[trio.SocketListener]) -> None:
        self._listeners = listeners

    async def run(self, witnesses: Witnesses) -> None:
        """Serve leaders, until cancelled. After `stop` no new ones. `witnesses`: for `--adopt=auto`."""
        options = self._options
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.held.remove_forgotten)
            nursery.start_soon(self.stand_ins.run)
            if options.adopt == "auto":
                after, grace = options.adopt_after / SECOND, options.restart_grace / SECOND
                auto = AutoAdopt(self.held, self.stand_ins, witnesses, after, grace, self._trail)
                nursery.start_soon(auto.run)
            with self._accepting:
                async with trio.open_nursery() as accepting:
                    for listener in self._listeners:
                        accepting.start_soon(self._accept_from, listener, nursery)

    async def _accept_from(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        def accept(stream: trio.SocketStream) -> None:
            nursery.start_soon(self._follower.serve, stream, remote_address(stream))

        try:
            await accept_forever(listener, accept)
        except OSError as error:
            log.error("COPIES: listener failed - %s; no leader can connect until the next start", error)

    async def stop(self) -> None:
        self._accepting.cancel()
        for listener in self._listeners:
            await close_listener(listener)

    def close(self) -> None:
        self.held.close()

    def stats(self) -> list[HeldStats]:
        now, running = trio.current_time(), self.stand_ins.running
        return [
            HeldStats(
                life=copy.note.life,
                name=copy.note.name,
                complete=copy.note.complete,
                connected=copy.connected,
                bytes=copy.bytes,
                adopted=copy.seal is not None,
                undecided=copy.undecided,
                stand_in_port=ports[0] or None if (ports := running.get(copy.note.life)) else None,
                silent_seconds=None if copy.beat_at is None else round(now - copy.beat_at, 1),
                hanging_seconds=round(copy.hanging_ms / 1000, 1),
                clock_skew_seconds=None if copy.clock_skew is None else round(copy.clock_skew, 3),
            )
            for copy in self.held.copies.values()
        ]

    def _stand_in_command(self, folder: Path, tcp_port: int, http_port: int) -> list[str]:
        host = _host_of(self._options.tcp_address)
        # Where plain HTTP is closed it says at which port there is HTTPS, so any free one will do.
        https = f"{host}:0" if self._options.tls_required is TlsRequired.YES else ""
        return [
            *(sys.executable, "-m", "nsqd"),
            *sys.argv[1:],
            "--stand-in",
            "--log-prefix=[stand-in] ",
            f"--data-path={folder}",
            f"--tcp-address={host}:{tcp_port}",
            f"--http-address={host}:{http_port}",
            f"--https-address={https}",
            "--replication-address=",
            "--adopt=manual",
            "--drain-timeout=0",
            "--broadcast-tcp-port=0",
            "--broadcast-http-port=0",
        ]


def _host_of(address: str) -> str:
    """The host of a listen address, as it is written; loopback for a unix socket, which is for this machine, too."""
    return "127.0.0.1" if "/" in address else address.rpartition(":")[0]
