"""The witness: its rules one by one, and all of them together against a model of everything that was said."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nsqlookupd.registry import ProducerInfo
from nsqlookupd.witness import MAX_STEP_S, TICK_S, Answer, Member, Refusal, Terms, Witness

LEADER, FOLLOWER, OTHER, STAND_IN = ("1" * 32, "2" * 32, "3" * 32, "4" * 32)
TERMS = Terms(followers=(FOLLOWER, OTHER), adopt_after=10.0, restart_grace=30.0)


def node_of(life: str) -> str:
    return f"n{int(life, 16) % 1000}"


def info(life: str = "", node: str = "", incarnation: int = 1, stands_in_for: str = "") -> ProducerInfo:
    return ProducerInfo(
        remote_address="10.0.0.1:5000",
        broadcast_address=node or node_of(life),
        tcp_port=4150,
        http_port=4151,
        version="1.4.0",
        life=life,
        incarnation=incarnation,
        stands_in_for=stands_in_for,
    )


@attrs.define(eq=False)
class Setting:
    """A witness that has run for a minute, on a clock that only `wait` and `stall` move."""

    witness: Witness = attrs.field(factory=Witness)
    now: float = 1000.0

    def wait(self, seconds: float) -> None:
        """The process runs."""
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            self.witness.advance(self.now)

    def stall(self, seconds: float) -> None:
        """The process does not run: nothing comes in, and its clock is not asked."""
        self.now += seconds

    def connect(self, life: str, terms: Terms | None = None, **changes: Any) -> Member:
        member = self.witness.connected(info(life, **changes), self.now)
        if terms is not None:
            self.witness.announce(member, terms, self.now)
        return member

    def hear(self, *members: Member) -> None:
        for member in members:
            self.witness.heard(member, self.now)

    def leave(self, member: Member, *, for_good: bool) -> None:
        self.witness.heard(member, self.now)
        self.witness.leave(member, self.now, for_good=for_good)
        self.witness.disconnected(member)

    def ask(self, follower: Member, life: str = LEADER) -> Answer:
        self.witness.heard(follower, self.now)
        return self.witness.grant(follower, life, self.now)


def running_for(seconds: float) -> Setting:
    setting = Setting()
    setting.witness.advance(setting.now)
    setting.wait(seconds)
    return setting


@pytest.fixture
def s() -> Setting:
    return running_for(60)


def lost(s: Setting, terms: Terms = TERMS) -> tuple[Member, Member]:
    """The followers of a leader whose machine is gone for `adopt_after`."""
    leader, follower, other = s.connect(LEADER, terms), s.connect(FOLLOWER), s.connect(OTHER)
    s.witness.disconnected(leader)
    for _ in range(round(terms.adopt_after)):
        s.wait(1)
        s.hear(follower, other)
    return follower, other


class TestRules:
    def test_a_lost_leader(self, s: Setting) -> None:
        follower, _ = lost(s)
        answer = s.ask(follower)
        assert (answer.granted, answer.reason) == (True, "silent for 10.0 s")
        assert s.ask(follower).granted, "when it asks again"

    def test_1_a_young_witness(self) -> None:
        s = running_for(59.5)
        follower = s.connect(FOLLOWER)
        assert s.ask(follower).reason == "this nsqlookupd has watched for 59.5 s, of 60 s"
        s.wait(0.5)
        assert s.ask(follower).refusal is Refusal.UNKNOWN

    def test_2_an_unknown_life(self, s: Setting) -> None:
        answer = s.ask(s.connect(FOLLOWER))
        assert answer.reason == "it has not announced itself here since this nsqlookupd was started"

    @pytest.mark.parametrize("listed", [(), (OTHER,), (LEADER,)])
    def test_2_a_follower_that_is_not_listed(self, s: Setting, listed: tuple[str, ...]) -> None:
        follower, _ = lost(s, attrs.evolve(TERMS, followers=listed))
        assert s.ask(follower).reason == "it did not announce this follower"

    def test_2_the_last_list_counts(self, s: Setting) -> None:
        leader, follower, other = s.connect(LEADER, TERMS), s.connect(FOLLOWER), s.connect(OTHER)
        s.witness.announce(leader, attrs.evolve(TERMS, followers=(OTHER,)), s.now)
        s.wait(10)
        assert s.ask(follower).refusal is Refusal.NOT_LISTED
        s.hear(other)
        assert s.ask(other).granted

    def test_3_a_leader_that_was_heard(self, s: Setting) -> None:
        leader, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        s.wait(9)
        s.hear(leader)
        s.wait(9.5)
        assert s.ask(follower).reason == "heard 9.5 s ago, of 10 s"
        s.wait(0.5)
        assert s.ask(follower).granted, "it is connected, but frozen"

    def test_3_the_end_of_a_connection_is_no_sign_of_life(self, s: Setting) -> None:
        leader, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        s.wait(10)
        s.witness.disconnected(leader)
        assert s.ask(follower).granted

    def test_3_a_leader_that_is_started_again(self, s: Setting) -> None:
        leader, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        s.leave(leader, for_good=False)
        s.wait(29.5)
        assert s.ask(follower).reason == "stopped, to be started again, 29.5 s ago, of 30 s"
        s.wait(0.5)
        assert s.ask(follower).granted

    def test_3_the_grace_ends_with_the_start(self, s: Setting) -> None:
        leader, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        s.leave(leader, for_good=False)
        s.wait(5)
        again = s.connect(LEADER, incarnation=2)
        s.witness.disconnected(again)
        s.wait(10)
        assert s.ask(follower).granted

    def test_3_a_grace_that_is_shorter_than_the_silence(self, s: Setting) -> None:
        leader, follower = s.connect(LEADER, attrs.evolve(TERMS, restart_grace=1.0)), s.connect(FOLLOWER)
        s.leave(leader, for_good=False)
        s.wait(9.5)
        assert not s.ask(follower).granted
        s.wait(0.5)
        assert s.ask(follower).granted

    def test_3_a_leader_that_left_for_good(self, s: Setting) -> None:
        leader, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        s.leave(leader, for_good=True)
        s.wait(100)
        assert s.ask(follower).refusal is Refusal.UNKNOWN

    def test_4_copies_that_were_switched_off(self, s: Setting) -> None:
        """The data path lives on without copies: its registries hear nothing of the life any more."""
        follower, _ = lost(s)
        first, second = s.connect("", node=node_of(LEADER)), s.connect("", node=node_of(LEADER))
        assert s.ask(follower).reason == f"{node_of(LEADER)}:4151 is connected, and has copies switched off"
        s.witness.disconnected(first)
        assert s.ask(follower).refusal is Refusal.COPIES_OFF
        s.witness.disconnected(second)
        assert s.ask(follower).granted

    def test_5_a_life_that_a_stand_in_serves(self, s: Setting) -> None:
        follower, other = lost(s)
        assert s.ask(follower).granted
        stand_in = s.connect(STAND_IN, stands_in_for=LEADER)
        assert s.ask(other).reason == f"{STAND_IN} stands in for it"
        s.witness.disconnected(stand_in)
        s.wait(100)
        assert s.ask(other).refusal is Refusal.SERVED, (
            "its messages are on that machine, and in copies of its own"
        )

    def test_5_a_life_whose_stand_in_has_ended(self, s: Setting) -> None:
        follower, _ = lost(s)
        s.leave(s.connect(STAND_IN, stands_in_for=LEADER), for_good=True)
        assert s.ask(follower).refusal is Refusal.UNKNOWN, "there is nothing left to adopt"
        assert s.witness.life_count == 2

    def test_5_a_life_whose_stand_in_has_ended_before_its_connection_has(self, s: Setting) -> None:
        """The connection of a machine without power ends when the kernel has noticed that; its node is not silent."""
        leader, follower, other = s.connect(LEADER, TERMS), s.connect(FOLLOWER), s.connect(OTHER, TERMS)
        for _ in range(10):
            s.wait(1)
            s.hear(follower, other)
        assert s.ask(follower).granted
        s.leave(s.connect(STAND_IN, stands_in_for=LEADER), for_good=True)
        assert s.ask(follower).refusal is Refusal.UNKNOWN
        assert s.witness.silent_count == 0
        s.witness.disconnected(leader)
        assert s.witness.life_count == 2

    def test_5_a_life_that_is_heard_again_after_its_stand_in_has_ended(self, s: Setting) -> None:
        """It was stopped, and is as before: its followers may adopt it once more."""
        leader, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        s.wait(10)
        s.leave(s.connect(STAND_IN, stands_in_for=LEADER), for_good=True)
        s.hear(leader)
        assert s.ask(follower).refusal is Refusal.HEARD
        s.wait(10)
        assert s.ask(follower).granted

    def test_5_a_life_that_is_back_outlives_its_stand_in(self, s: Setting) -> None:
        lost(s)
        stand_in = s.connect(STAND_IN, stands_in_for=LEADER)
        s.connect(LEADER)
        s.leave(stand_in, for_good=True)
        assert s.witness.life_count == 3

    def test_5_a_grant_is_for_one(self, s: Setting) -> None:
        follower, other = lost(s)
        assert s.ask(follower).granted
        assert s.ask(other).reason == f"granted to {FOLLOWER}"
        s.wait(100)
        assert s.ask(other).refusal is Refusal.GRANTED, (
            "the first one is connected, and may be about to adopt it"
        )

    def test_5_a_connection_that_flaps_frees_nothing(self, s: Setting) -> None:
        follower, other = lost(s)
        assert s.ask(follower).granted
        s.witness.disconnected(follower)
        s.wait(9.5)
        assert s.ask(other).refusal is Refusal.GRANTED
        s.connect(FOLLOWER)
        s.wait(100)
        assert s.ask(other).refusal is Refusal.GRANTED

    def test_5_a_follower_that_is_lost_too(self, s: Setting) -> None:
        for number in range(5, 9):  # two silent nodes of seven
            s.connect(str(number) * 32)
        follower, other = lost(s)
        assert s.ask(follower).granted
        s.witness.disconnected(follower)
        for _ in range(10):
            s.wait(1)
            s.hear(other)
        assert s.ask(other).granted

    def test_5_followers_of_which_none_has_enough_give_back_what_they_have(self, s: Setting) -> None:
        follower, other = lost(s)
        assert s.ask(follower).granted
        s.witness.give_back(other, LEADER, s.now)
        assert s.ask(other).refusal is Refusal.GRANTED, "it was not his"
        s.witness.give_back(follower, LEADER, s.now)
        assert s.ask(other).granted

    def test_5_a_life_that_is_heard_voids_the_grant(self, s: Setting) -> None:
        follower, other = lost(s)
        assert s.ask(follower).granted
        leader = s.connect(LEADER)
        s.witness.disconnected(leader)
        s.wait(10)
        s.hear(follower, other)
        assert s.ask(other).granted
        assert s.ask(follower).refusal is Refusal.GRANTED


class TestStanding:
    """What a leader with a fence is told."""

    def test_a_life_that_nobody_may_serve(self, s: Setting) -> None:
        follower, _ = lost(s)
        assert not s.witness.may_be_adopted(s.connect(LEADER), s.now)
        assert not s.witness.may_be_adopted(follower, s.now)

    def test_r6_a_grant_may_have_been_acted_on_though_it_is_void(self, s: Setting) -> None:
        follower, other = lost(s)
        assert s.ask(follower).granted
        leader = s.connect(LEADER)
        assert s.witness.may_be_adopted(leader, s.now)
        s.witness.give_back(other, LEADER, s.now)  # it was not his
        assert s.witness.may_be_adopted(leader, s.now)
        s.wait(10)
        assert not s.witness.may_be_adopted(leader, s.now)

    def test_one_that_was_given_back_was_not(self, s: Setting) -> None:
        follower, _ = lost(s)
        assert s.ask(follower).granted
        leader = s.connect(LEADER)
        s.witness.give_back(follower, LEADER, s.now)
        assert not s.witness.may_be_adopted(leader, s.now)

    def test_r6_a_life_with_a_stand_in_is_adopted_for_good(self, s: Setting) -> None:
        leader = s.connect(LEADER)
        s.connect(STAND_IN, stands_in_for=LEADER)
        s.wait(1000)
        assert s.witness.may_be_adopted(leader, s.now)

    def test_r6_also_when_its_stand_in_has_ended(self, s: Setting) -> None:
        """All that it had was delivered, and its follower may be away when the leader is back."""
        lost(s)
        s.leave(s.connect(STAND_IN, stands_in_for=LEADER), for_good=True)
        leader = s.connect(LEADER)
        assert s.witness.may_be_adopted(leader, s.now)
        assert not s.witness.may_be_adopted(s.connect("7" * 32), s.now), "it has another life by now"

    def test_r6_until_an_operator_has_it_forgotten(self, s: Setting) -> None:
        leader = s.connect(LEADER)
        s.connect(STAND_IN, stands_in_for=LEADER)
        s.witness.disconnected(leader)
        assert s.witness.forget(LEADER)
        assert not s.witness.may_be_adopted(s.connect(LEADER), s.now)

    def test_as_many_are_remembered_as_lives(self) -> None:
        s = Setting(Witness(max_lives=3))
        for number in range(5):
            s.leave(s.connect(f"{number:032x}", stands_in_for=f"{number + 10:032x}"), for_good=True)
        lives = [s.connect(f"{number + 10:032x}") for number in range(5)]
        assert [s.witness.may_be_adopted(life, s.now) for life in lives] == [False] * 2 + [True] * 3


class TestBrake:
    """Rule 6: not too many nodes are silent."""

    def cluster(self, s: Setting, alive: int, silent: int) -> Member:
        """One follower of one of the silent leaders, both of which count, and more nodes of both kinds."""
        for number in range(silent):
            s.connect(f"{number:032x}", TERMS)
        s.wait(10)
        follower = s.connect(FOLLOWER)
        for number in range(1, alive):
            s.connect(f"{number + 100:032x}")
        return follower

    @pytest.mark.parametrize(
        ("alive", "silent", "granted"),
        [(1, 1, True), (1, 2, False), (4, 1, True), (3, 2, False), (4, 2, True), (5, 3, False), (6, 3, True)],
    )
    def test_one_or_a_third(self, s: Setting, alive: int, silent: int, granted: bool) -> None:
        answer = s.ask(self.cluster(s, alive, silent), f"{0:032x}")
        assert answer.granted == granted
        assert (
            granted or answer.reason == f"{silent} of {alive + silent} nodes are silent: not one lost machine"
        )

    def test_nodes_that_are_started_again_count(self, s: Setting) -> None:
        follower = self.cluster(s, 3, 1)
        s.leave(s.connect(OTHER, TERMS), for_good=False)
        s.wait(10)
        assert s.ask(follower, f"{0:032x}").refusal is Refusal.TOO_MANY

    def test_nodes_that_left_for_good_do_not(self, s: Setting) -> None:
        follower = self.cluster(s, 1, 1)
        s.leave(s.connect(OTHER, TERMS), for_good=True)
        s.wait(10)
        assert s.ask(follower, f"{0:032x}").granted

    def test_nodes_whose_messages_a_stand_in_serves_do_not(self, s: Setting) -> None:
        follower = self.cluster(s, 4, 2)
        s.connect(STAND_IN, stands_in_for=f"{1:032x}")
        assert s.witness.silent_count == 1
        assert s.ask(follower, f"{0:032x}").granted

    def test_a_stand_in_is_no_node(self, s: Setting) -> None:
        follower = self.cluster(s, 1, 1)
        stand_in = s.connect(STAND_IN, stands_in_for="5" * 32)
        s.witness.disconnected(stand_in)
        s.wait(100)
        s.hear(follower)
        assert s.ask(follower, f"{0:032x}").granted

    def test_a_machine_that_has_a_new_disk_is_not_silent(self, s: Setting) -> None:
        follower = self.cluster(s, 1, 2)
        s.connect("9" * 32, node=node_of(f"{1:032x}"))
        assert s.ask(follower, f"{0:032x}").granted, "the life of before can be adopted all the same"

    def test_a_machine_that_was_given_up_is_forgotten_by_command(self, s: Setting) -> None:
        gone = s.connect(OTHER, node="gone")
        s.wait(60)
        follower = self.cluster(s, 1, 1)
        assert s.ask(follower, f"{0:032x}").refusal is Refusal.TOO_MANY
        assert not s.witness.forget(OTHER), "it is connected"
        s.witness.disconnected(gone)
        assert s.witness.forget(OTHER)
        assert s.ask(follower, f"{0:032x}").granted
        with pytest.raises(KeyError):
            s.witness.forget(OTHER)


class TestTime:
    """Only the time counts in which the process ran: signs of life wait in its sockets meanwhile."""

    def test_a_witness_that_was_stopped(self, s: Setting) -> None:
        leader, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        s.wait(5)
        s.stall(3600)
        answer = s.ask(follower)  # is read first
        assert answer.reason == f"heard {5 + MAX_STEP_S:.1f} s ago, of 10 s"
        s.hear(leader)

    def test_a_witness_that_is_starved(self, s: Setting) -> None:
        s.connect(LEADER, TERMS)
        follower = s.connect(FOLLOWER)
        for _ in range(9):
            s.stall(3)
            assert not s.ask(follower).granted
        s.stall(3)
        assert s.ask(follower).granted

    def test_a_clock_that_goes_back(self, s: Setting) -> None:
        watched = s.witness.watched_seconds
        s.stall(-100)
        s.witness.advance(s.now)
        assert s.witness.watched_seconds == watched


class TestIncarnations:
    def test_last_words_that_come_late(self, s: Setting) -> None:
        old, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        new = s.connect(LEADER, incarnation=2)
        s.witness.announce(old, attrs.evolve(TERMS, followers=()), s.now)
        s.leave(old, for_good=True)
        assert s.witness.terms_of(LEADER) == TERMS
        s.witness.disconnected(new)
        s.wait(10)
        assert s.ask(follower).granted, "and there is no grace"

    def test_the_list_outlives_a_restart(self, s: Setting) -> None:
        leader, follower = s.connect(LEADER, TERMS), s.connect(FOLLOWER)
        s.leave(leader, for_good=False)
        s.connect(LEADER, incarnation=2)
        s.wait(10)
        assert s.ask(follower).granted

    def test_a_life_that_left_for_good_and_is_back(self, s: Setting) -> None:
        old = s.connect(LEADER, TERMS)
        s.leave(old, for_good=True)
        s.hear(old)
        assert s.witness.life_count == 0
        s.connect(LEADER, incarnation=2)
        s.witness.announce(old, TERMS, s.now)
        assert s.witness.terms_of(LEADER) == Terms(), "it announces its followers anew"

    def test_a_life_that_was_forgotten_while_it_was_cut_off(self, s: Setting) -> None:
        leader = s.connect(LEADER, TERMS)
        s.witness.disconnected(leader)
        assert s.witness.forget(LEADER)
        assert s.witness.life_count == 0
        s.connect(LEADER)
        assert s.witness.life_count == 1


class TestBounds:
    def test_the_longest_silent_life_goes_first(self) -> None:
        s = Setting(Witness(max_lives=3))
        members = [s.connect(f"{number:032x}") for number in range(3)]
        s.hear(members[0])
        s.witness.disconnected(members[0])
        s.witness.disconnected(members[2])
        s.connect(f"{3:032x}")
        assert [shown.info.life[-1] for shown in s.witness.shown()] == ["1", "0", "3"]
        s.connect(f"{4:032x}")
        assert [shown.info.life[-1] for shown in s.witness.shown()] == ["1", "3", "4"]
        s.connect(f"{5:032x}")
        assert [shown.info.life[-1] for shown in s.witness.shown()] == ["3", "4", "5"], "all are connected"
        s.hear(members[1])
        assert [shown.info.life[-1] for shown in s.witness.shown()] == ["4", "5", "1"]

    def test_memory(self) -> None:
        """Any number of lives and questions leave a bounded number of entries."""
        s = Setting(Witness(max_lives=50))
        follower = s.connect(FOLLOWER)
        for number in range(5_000):
            life = f"{number:032x}"
            stand_in = s.connect(f"{number + 10_000:032x}", stands_in_for=f"{number + 20_000:032x}")
            s.leave(stand_in, for_good=True)
            member = s.connect(life, attrs.evolve(TERMS, followers=(FOLLOWER,)))
            s.ask(follower, life)
            s.witness.disconnected(member)
            s.witness.disconnected(s.connect("", node=f"plain{number}"))
        tables = [value for value in vars(s.witness).values() if isinstance(value, dict)]
        assert sorted(map(len, tables)) == [0, 2, 50, 50, 1_000]
        assert all(sys.getsizeof(table) < 1 << 17 for table in tables)


def test_what_is_shown(s: Setting) -> None:
    leader, follower = s.connect(LEADER, TERMS, incarnation=7), s.connect(FOLLOWER)
    s.connect(OTHER)
    s.witness.disconnected(leader)
    s.wait(10)
    assert s.ask(follower).granted
    s.connect(STAND_IN, stands_in_for=LEADER)
    first, *_, last = s.witness.shown()
    assert (first.info.incarnation, first.heard_seconds, first.connections) == (7, 10.0, 0)
    assert (first.terms, first.silent, first.stopped) == (TERMS, True, False)
    assert (first.granted_to, first.served_by) == (FOLLOWER, STAND_IN)
    assert (last.info.life, last.silent, last.served_by) == (STAND_IN, False, "")


def test_answers_that_are_news(s: Setting) -> None:
    follower, other = lost(s)
    answers = [s.ask(follower), s.ask(follower), s.ask(other), s.ask(other)]
    s.witness.disconnected(s.connect(LEADER))
    answers += [s.ask(follower), s.ask(follower)]
    assert [answer.changed for answer in answers] == [True, False, True, False, True, False]
    assert s.witness.answers == {"granted": 2, "refused": 4}


def test_the_id_is_another_one_for_each() -> None:
    assert len({Witness().id for _ in range(100)}) == 100


# --- the model: what every connection has said, and a predicate for each rule, written down a second time

LIVES = [str(number) * 32 for number in range(1, 7)]
STAND_INS = {LIVES[5]: LIVES[0]}
NODES = {life: f"n{number % 4}" for number, life in enumerate(LIVES[:5])} | {LIVES[5]: "s"}  # two lives at n0
MODEL_TERMS = st.builds(
    Terms,
    followers=st.lists(st.sampled_from(LIVES), max_size=3, unique=True).map(tuple),
    adopt_after=st.sampled_from([4.0, 8.0]),
    restart_grace=st.sampled_from([2.0, 20.0]),
)


@attrs.define(eq=False)
class Known:
    """What is true of one life."""

    incarnation: int
    heard: float
    terms: Terms = attrs.field(factory=Terms)
    stopped: bool = False
    grantees: set[str] = attrs.field(factory=set)
    """That were told yes, and have neither given it back nor ended."""


@attrs.define(eq=False)
class Spoken:
    """One connection. `mute`: its life has ended with what it said. `counts`: its life was not forgotten since."""

    member: Member
    life: str
    incarnation: int
    node: str
    mute: bool = False
    counts: bool = True


class WitnessMachine(RuleBasedStateMachine):
    """Any order of events; a yes must be one by every rule, and a no must have a reason."""

    @initialize(minutes=st.integers(0, 2), terms=st.lists(MODEL_TERMS, max_size=5))
    def start(self, minutes: int, terms: list[Terms]) -> None:
        self.s, self.ran = running_for(0), 0.0
        self.known: dict[str, Known] = {}
        self.forgotten: dict[str, Known] = {}
        self.connections: list[Spoken] = []
        self.run(120 * minutes)
        for life, announced in zip(LIVES, terms, strict=False):
            self.connect(life, 0)
            self.announce(-1, announced)

    # --- helpers

    def pick(self, pick: int, *, with_life: bool = True) -> Spoken | None:
        found = [each for each in self.connections if each.life or not with_life]
        return found[pick % len(found)] if found else None

    def connected(self, life: str) -> bool:
        return any(each.life == life and each.counts and not each.mute for each in self.connections)

    def hears(self, spoken: Spoken) -> None:
        self.s.hear(spoken.member)
        if not spoken.mute:
            self.is_heard(spoken.life, spoken.incarnation)

    def is_heard(self, life: str, incarnation: int) -> None:
        kept = self.forgotten.pop(life, None) or Known(incarnation, self.ran)
        known = self.known.setdefault(life, kept)
        known.heard, known.stopped = self.ran, False
        known.grantees.clear()

    def forgets(self, life: str) -> None:
        self.known.pop(life, None)
        for known in self.known.values():
            known.grantees.discard(life)

    # --- events

    @rule(ticks=st.sampled_from([1, 4, 8, 16, 40]))
    def run(self, ticks: int) -> None:
        self.s.wait(ticks * TICK_S)
        self.ran += ticks * TICK_S

    @rule(seconds=st.sampled_from([0.5, 3.0, 1000.0]))
    def stall(self, seconds: float) -> None:
        self.s.stall(seconds)
        self.s.witness.advance(self.s.now)
        self.ran += min(seconds, MAX_STEP_S)

    @rule(life=st.sampled_from(LIVES), later=st.sampled_from([-1, 0, 0, 1]))
    def connect(self, life: str, later: int) -> None:
        incarnation = max(1, (self.known[life].incarnation if life in self.known else 1) + later)
        member = self.s.connect(
            life, node=NODES[life], incarnation=incarnation, stands_in_for=STAND_INS.get(life, "")
        )
        if self.forgotten.pop(life, None) is not None:  # it begins anew
            for each in self.connections:
                each.counts = each.counts and each.life != life
        self.is_heard(life, incarnation)
        self.known[life].incarnation = max(incarnation, self.known[life].incarnation)
        self.connections.append(Spoken(member, life, incarnation, NODES[life]))

    @rule(life=st.sampled_from(LIVES[:2]))
    def connect_without_a_life(self, life: str) -> None:
        self.connections.append(Spoken(self.s.connect("", node=NODES[life]), "", 0, NODES[life]))

    @rule(pick=st.integers(0, 20))
    def disconnect(self, pick: int) -> None:
        if (spoken := self.pick(pick, with_life=False)) is not None:
            self.s.witness.disconnected(spoken.member)
            self.connections.remove(spoken)

    @rule(pick=st.integers(0, 20))
    def ping(self, pick: int) -> None:
        if (spoken := self.pick(pick)) is not None:
            self.hears(spoken)

    @rule(pick=st.integers(0, 20), terms=MODEL_TERMS)
    def announce(self, pick: int, terms: Terms) -> None:
        if (spoken := self.pick(pick)) is not None:
            self.hears(spoken)
            self.s.witness.announce(spoken.member, terms, self.s.now)
            if not spoken.mute and spoken.incarnation >= self.known[spoken.life].incarnation:
                self.known[spoken.life].terms = terms

    @rule(pick=st.integers(0, 20), for_good=st.booleans())
    def leave(self, pick: int, for_good: bool) -> None:
        if (spoken := self.pick(pick)) is None:
            return
        self.hears(spoken)
        self.s.witness.leave(spoken.member, self.s.now, for_good=for_good)
        if spoken.mute or spoken.incarnation < self.known[spoken.life].incarnation:
            return
        if not for_good:
            self.known[spoken.life].stopped = True
            return
        for each in self.connections:
            each.mute = each.mute or each.life == spoken.life
        self.forgets(spoken.life)
        owner = STAND_INS.get(spoken.life, "")
        if (known := self.known.get(owner)) is None:
            return
        silent = self.ran >= known.heard + known.terms.adopt_after
        if silent and self.connected(owner):
            self.forgotten[owner] = known  # it is as before when it is heard again
        if silent or not self.connected(owner):
            self.forgets(owner)

    @rule(life=st.sampled_from(LIVES))
    def forget(self, life: str) -> None:
        if life not in self.known:
            with pytest.raises(KeyError):
                self.s.witness.forget(life)
            return
        connected = self.connected(life)
        assert self.s.witness.forget(life) != connected
        if not connected:
            self.forgets(life)

    @precondition(lambda self: self.known)
    @rule(
        life=st.sampled_from(LIVES),
        silence=st.sampled_from([0, 8, 16, 40]),
        before=st.sampled_from(["", "", "stop", "stand-in", "copies off"]),
        gives_back=st.booleans(),
    )
    def silent(self, life: str, silence: int, before: str, gives_back: bool) -> None:
        """All say that they are there, but for one, whose followers ask then; some give back what they did not get."""
        if before == "stop":
            for index, each in enumerate([each for each in self.connections if each.life]):
                if each.life == life:
                    self.leave(index, False)
        self.run(silence)
        if before == "stand-in" and life in STAND_INS.values():
            self.connect(next(iter(STAND_INS)), 0)
        if before == "copies off" and life in LIVES[:2]:
            self.connect_without_a_life(life)
        for each in self.connections:
            if each.life not in ("", life):
                self.hears(each)
        if life not in self.known:
            return
        followers = self.known[life].terms.followers
        for index, each in enumerate([each for each in self.connections if each.life]):
            if each.life in followers:
                self.ask(index, life)
                if gives_back and each.life not in self.known[life].grantees:
                    self.give_back(index, life)

    @precondition(lambda self: self.known)
    @rule(pick=st.integers(0, 20), life=st.sampled_from(LIVES))
    def ask(self, pick: int, life: str) -> None:
        if (spoken := self.pick(pick)) is None:
            return
        self.hears(spoken)
        broken = self.broken_rules(spoken.life, life)
        answer = self.s.witness.grant(spoken.member, life, self.s.now)
        assert answer.granted == (not broken), (answer, broken)
        assert answer.refusal is None or answer.refusal in broken
        if answer.granted:
            self.known[life].grantees.add(spoken.life)

    @rule(pick=st.integers(0, 20), life=st.sampled_from(LIVES))
    def give_back(self, pick: int, life: str) -> None:
        if (spoken := self.pick(pick)) is not None:
            self.hears(spoken)
            self.s.witness.give_back(spoken.member, life, self.s.now)
            if life in self.known:
                self.known[life].grantees.discard(spoken.life)

    # --- the rules

    def broken_rules(self, follower: str, life: str) -> set[Refusal]:
        known, broken = self.known.get(life), set()
        if self.ran < (known.terms.adopt_after if known else 60.0):
            broken.add(Refusal.YOUNG)
        if known is None:
            return broken | {Refusal.UNKNOWN}
        if follower not in known.terms.followers:
            broken.add(Refusal.NOT_LISTED)
        grace = known.terms.restart_grace if known.stopped else 0.0
        if self.ran < known.heard + known.terms.adopt_after or self.ran < known.heard + grace:
            broken.add(Refusal.HEARD)
        if any(not each.life and each.node == NODES[life] for each in self.connections):
            broken.add(Refusal.COPIES_OFF)
        if any(STAND_INS.get(each) == life for each in self.known):
            broken.add(Refusal.SERVED)
        if any(self.may_act(each, known) for each in known.grantees - {follower}):
            broken.add(Refusal.GRANTED)
        silent, nodes = self.nodes()
        if silent > 1 and 3 * silent > nodes:
            broken.add(Refusal.TOO_MANY)
        return broken

    def may_act(self, grantee: str, known: Known) -> bool:
        follower = self.known.get(grantee)
        if follower is None:
            return False
        return self.connected(grantee) or self.ran < follower.heard + known.terms.adopt_after

    def nodes(self) -> tuple[int, int]:
        silent = count = 0
        for node in set(NODES.values()):
            lives = [life for life in self.known if NODES[life] == node and life not in STAND_INS]
            # Of two that were heard at the same moment, either may be the last.
            latest = max((self.known[life].heard for life in lives), default=0.0)
            last = [life for life in lives if self.known[life].heard == latest]
            if not lives:
                continue
            order = [shown.info.life for shown in self.s.witness.shown()]
            life = max(last, key=order.index)
            if any(STAND_INS.get(each) == life for each in self.known):
                continue
            count += 1
            plain = any(not each.life and each.node == node for each in self.connections)
            silent += not plain and self.ran >= latest + self.known[life].terms.adopt_after
        return silent, count

    @invariant()
    def a_life_has_one_grantee_at_most(self) -> None:
        for known in self.known.values():
            assert sum(self.may_act(each, known) for each in known.grantees) <= 1

    @invariant()
    def what_is_shown_is_what_is_true(self) -> None:
        shown = {each.info.life: each for each in self.s.witness.shown()}
        assert shown.keys() == self.known.keys()
        assert self.s.witness.watched_seconds == self.ran
        for life, known in self.known.items():
            seen = shown[life]
            assert (seen.terms, seen.stopped) == (known.terms, known.stopped)
            assert seen.heard_seconds == self.ran - known.heard
            assert (seen.connections > 0) == self.connected(life)
            assert {seen.granted_to} - {""} == {each for each in known.grantees if self.may_act(each, known)}
        assert self.s.witness.silent_count == self.nodes()[0]


WitnessMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWitnessMachine = WitnessMachine.TestCase
