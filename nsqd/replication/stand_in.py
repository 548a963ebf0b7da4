"""Stand-ins: processes that serve the copies which were adopted here.

A stand-in is an nsqd on the copy, with the options of this one but for its addresses. It takes no publishes, and stops
when it is empty; then what it held is removed, and its seal stays for a leader that comes back. It is started again
when it ends otherwise, and it ends with this process: its standard input is a pipe. What a leader that has come back
had finished is written to it, a line of JSON for each channel.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from nsqd.replication.held_copies import CopyState, HeldCopies
from nsqd.replication.left_over import goes_further
from nsqd.replication.noted_storage import is_copied_folder
from nsqd.replication.other_followers import OtherFollowers
from nsqd.replication.seal import Seal
from nsqkit.logging import get_logger

__all__ = ["ENDS_WITH_STDIN", "CommandRefused", "StandIns", "free_ports"]

log = get_logger("copies")

ENDS_WITH_STDIN: Final = "NSQD_ENDS_WITH_STDIN"
"""The environment variable that makes a daemon stop at the end of its standard input."""
NAMED: Final = 5  # topics in a log line
SHORTEST_PAUSE: Final = 1.0  # seconds before a stand-in that has crashed is started again
LONGEST_PAUSE: Final = 60.0


class CommandRefused(Exception):
    """The text is for the operator."""


@attrs.define(eq=False)
class StandIns:
    """`command`: the command line for a copy's folder, with two free ports. `ports`: that may be used.

    `adoptions`: since the start.
    """

    _held: HeldCopies
    _command: Callable[[Path, int, int], Sequence[str]]
    _ports: Sequence[int]
    _host: str
    _others: OtherFollowers
    adoptions: int = 0
    running: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """TCP and HTTP port of each stand-in, by life."""
    _wanted: trio.Event = attrs.field(factory=trio.Event)

    @property
    def lives(self) -> Collection[str]:
        """Of which a copy is here."""
        return self._held.copies.keys()

    def name_of(self, life: str) -> str:
        """The address of the leader of a copy that is here. `KeyError`."""
        return self._held.copies[life].note.name

    async def adopt(self, life: str, *, force: bool) -> None:
        """Seal a copy, and have it served. Twice is fine. `CommandRefused`; `KeyError` without such a copy.

        The leader's other followers are asked first, unless `force` says that it does not matter what they know.
        """
        state = self._held.copies[life]
        if state.seal is None and not force:
            _refuse_or_not(state)
            for other in await self._others.ask(state.note):
                if other.found.connected:
                    raise CommandRefused(f"its leader {state.note.name} is connected to {other.address}")
                if other.found.sealed:
                    raise CommandRefused(f"{other.address} has adopted its copy of {state.note.name}")
            _refuse_or_not(state)  # the leader may have come back meanwhile
            if self._held.copies.get(life) is not state:
                raise CommandRefused(f"the copy was removed, as {state.note.name} is back")
        if state.seal is None:
            self._held.seal(state)
            self.adoptions += 1
            log.warning("COPIES: the copy of %s is adopted", state.note.name)
        self._wanted.set()

    async def adopt_left_over(self, life: str) -> bool:
        """Adopt a copy, too, that goes further than what another follower has adopted. Whether it does.

        Both stand-ins serve what both have, until one of them gives it up. `KeyError` without such a copy; `OSError`.
        """
        state = self._held.copies[life]
        if any(each.connected and each.note.name == state.note.name for each in self._held.copies.values()):
            return False  # it has come back as another life, and knows best what it has given up
        served = [other for other in await self._others.ask(state.note) if other.found.sealed and other.owned]
        for other in served:
            further = await trio.to_thread.run_sync(goes_further, state.storage, other.owned)
            if not further or state.seal is not None or self._held.copies.get(life) is not state:
                return False
            log.warning(
                "COPIES(%s): it serves the copy of %s, and could not fetch what is only here, of %s",
                other.address,
                state.note.name,
                ", ".join(further[:NAMED]) + (" and others" if len(further) > NAMED else ""),
            )
        if not served:
            return False
        await self.adopt(life, force=True)
        return True

    async def forget(self, life: str, *, force: bool) -> None:
        """Remove a copy for good. `CommandRefused`; `KeyError` without such a copy; `OSError`.

        `force`: also one that was never adopted, with the messages that may be nowhere else.
        """
        state = self._held.copies[life]
        if state.connected:
            raise CommandRefused(f"its leader {state.note.name} is connected")
        if state.served:
            raise CommandRefused("a stand-in serves it")
        if state.seal is None and not force:
            raise CommandRefused("it was not adopted, and its messages may be nowhere else")
        self._held.forget(state)

    async def run(self) -> None:
        """Keep a stand-in on each sealed copy that has not retired."""
        self._held.adopted = self._adopted
        async with trio.open_nursery() as nursery:
            while True:
                for state in self._held.copies.values():
                    if state.seal is not None and not state.seal.retired and not state.served:
                        state.served = True
                        self.running[state.note.life] = (0, 0)
                        nursery.start_soon(self._serve, state)
                await self._wanted.wait()
                self._wanted = trio.Event()

    def _adopted(self) -> None:
        """By the order of the leader itself."""
        self.adoptions += 1
        self._wanted.set()

    async def _serve(self, state: CopyState) -> None:
        life, pause = state.note.life, SHORTEST_PAUSE
        if state.connected:
            await state.idle.wait()
        await self._fetch(state)
        while True:
            began = trio.current_time()
            try:
                if not _has_retired(state):
                    code = await self._run_one(state)
                    log.log(
                        logging.INFO if _has_retired(state) else logging.ERROR,
                        "COPIES: the stand-in for %s has ended with %d",
                        state.note.name,
                        code,
                    )
                if _has_retired(state):
                    await trio.to_thread.run_sync(self._remove_messages, state)
                    break
            except OSError as error:
                log.error("COPIES: the stand-in for %s: %s", state.note.name, error)
            except Exception:  # it costs this stand-in some time, never the broker
                log.exception("COPIES: the stand-in for %s: unexpected", state.note.name)
            self.running[life] = (0, 0)
            if trio.current_time() - began > LONGEST_PAUSE:
                pause = SHORTEST_PAUSE
            log.info("COPIES: the stand-in for %s: trying again in %.0f s", state.note.name, pause)
            await trio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
        state.served = False
        del self.running[life]
        log.info("COPIES: the stand-in for %s was empty, and is gone", state.note.name)
        self._held.forget_if_ended(state)

    async def _fetch(self, state: CopyState) -> None:
        """What other followers have more, before it is served for the first time. It is served without that, too."""
        if state.seal is None or state.seal.owned is not None:
            return
        try:
            await self._others.fetch(state.note, state.storage, self._held.room.min_free)
        except OSError as error:
            log.error("COPIES: what others have more of %s cannot be noted - %s", state.note.name, error)
        except Exception:
            log.exception("COPIES: what others have more of %s: unexpected", state.note.name)

    async def _run_one(self, state: CopyState) -> int:
        taken = {port for ports in self.running.values() for port in ports}  # some may not listen yet
        tcp, http = free_ports(self._host, [port for port in self._ports if port not in taken])
        self.running[state.note.life] = (tcp, http)
        command = self._command(self._held.folder(state), tcp, http)
        # What it says to the service manager would be taken for ours.
        environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        read_end, write_end = os.pipe()
        try:
            log.info("COPIES: a stand-in for %s starts, TCP port %d", state.note.name, tcp)
            async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(write_end) as told:
                nursery.start_soon(self._tell, state, told)
                done = await trio.run_process(
                    command, stdin=read_end, check=False, env={**environment, ENDS_WITH_STDIN: "1"}
                )
                nursery.cancel_scope.cancel()
        finally:
            os.close(read_end)
        return done.returncode

    async def _tell(self, state: CopyState, told: trio.lowlevel.FdStream) -> None:
        """Pass on what the leader had finished, as it comes. What a stand-in that crashes was told may come again."""
        with contextlib.suppress(trio.BrokenResourceError):  # it has ended
            while True:
                await told.send_all(await state.finished.next())

    def _remove_messages(self, state: CopyState) -> None:
        for folder in state.storage.folders():
            if is_copied_folder(folder):
                state.storage.remove_folder(folder)
        state.bytes = 0


def _refuse_or_not(state: CopyState) -> None:
    if state.connected:
        raise CommandRefused(f"its leader {state.note.name} is connected")
    if not state.note.complete:
        raise CommandRefused("the copy is not complete")


def _has_retired(state: CopyState) -> bool:
    """Whether its seal says that everything was finished. `OSError`."""
    state.seal = Seal.read(state.storage) or Seal()
    return state.seal.retired


def free_ports(host: str, ports: Sequence[int]) -> tuple[int, int]:
    """Two of the ports that nobody listens on. `host`: an IPv6 address may be in brackets. `OSError` without two."""
    found: list[int] = []
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == 2:
            return found[0], found[1]
    raise OSError("no two of the ports in --stand-in-ports are free")
