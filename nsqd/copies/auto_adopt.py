"""Adoption by itself (`--adopt=auto`): the task that asks the nsqlookupds, as `replication.licence` has it."""

from __future__ import annotations

import random
from typing import Final

import trio

from nsqd.replication.held_copies import CopyState, HeldCopies
from nsqd.replication.licence import FEWEST_WITNESSES, Licence, Witnesses, due_at, may_ask
from nsqd.replication.stand_in import CommandRefused, StandIns
from nsqkit.audit import NOBODY, AuditTrail, Value
from nsqkit.logging import get_logger

__all__ = ["AutoAdopt"]

log = get_logger("copies")

LOOK_INTERVAL: Final = 1.0  # seconds
SHORTEST_PAUSE: Final = (
    2.0  # seconds before the same copy is tried again; at random, so that two followers of one
)
LONGEST_PAUSE: Final = 10.0  # life do not take the grants from one another again and again


class AutoAdopt:
    """`adopt_after`, `restart_grace`: seconds. `trail`: is told, but not waited for, as messages wait for the copy."""

    def __init__(
        self,
        held: HeldCopies,
        stand_ins: StandIns,
        witnesses: Witnesses,
        adopt_after: float,
        restart_grace: float,
        trail: AuditTrail | None = None,
    ) -> None:
        self._trail = trail or AuditTrail()
        self._held, self._stand_ins, self._witnesses = held, stand_ins, witnesses
        self._adopt_after, self._restart_grace = adopt_after, restart_grace
        self._tried_until: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        self._started = trio.current_time()
        while True:
            await trio.sleep(min(LOOK_INTERVAL, self._adopt_after / 4))
            now = trio.current_time()
            self._tried_until = {life: at for life, at in self._tried_until.items() if at > now}
            for state in list(self._held.copies.values()):
                due = due_at(state, self._started, self._adopt_after, self._restart_grace)
                if due is None or due > now or state.note.life in self._tried_until:
                    continue
                if may_ask(self._held.copies.values()):
                    await self._try(state)

    async def _try(self, state: CopyState) -> None:
        life = state.note.life
        registries = state.note.registries
        asked = registries >= FEWEST_WITNESSES  # else it would be for nothing
        licence = Licence(tuple(await self._witnesses.grants(life)) if asked else (), registries)
        refusal = licence.refusal
        if refusal is None:
            log.warning(
                "COPIES: %s is silent, and %d of its %d nsqlookupds agree: its copy is adopted",
                state.note.name,
                licence.yes,
                registries,
            )
            try:
                await self._stand_ins.adopt(life, force=False)
                state.undecided = ""
                self._record(state, registries=registries, agree=licence.yes)
                return
            except KeyError:
                refusal = "it was removed"
            except (CommandRefused, OSError) as error:
                refusal = str(error)
        if asked:
            await self._witnesses.release(life)
            if await self._adopts_left_over(state):
                return
        if refusal != state.undecided:
            log.warning("COPIES: %s is silent, and its copy is not adopted - %s", state.note.name, refusal)
            state.undecided = refusal
        pause = random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
        self._tried_until[life] = trio.current_time() + pause

    async def _adopts_left_over(self, state: CopyState) -> bool:
        """Whether another follower has adopted its copy, and could not reach this one, which goes further."""
        away = trio.current_time() - (self._started if state.beat_at is None else state.beat_at)
        if away < max(self._adopt_after, self._restart_grace):
            return False  # its nsqd may come back, and have all of it
        try:
            adopted = await self._stand_ins.adopt_left_over(state.note.life)
        except KeyError:
            return False
        except OSError as error:
            log.error("COPIES: the copy of %s cannot be looked at - %s", state.note.name, error)
            return False
        if adopted:
            self._record(state)
        return adopted

    def _record(self, state: CopyState, **reasons: Value) -> None:
        on = {"of": state.note.name, "life": state.note.life}
        self._trail.record(NOBODY, "adoption", on=on, after=reasons)
