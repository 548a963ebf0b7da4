"""Every event in every state of a message, on a real channel, as the table in the source says."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

import pytest

from nsqd.broker import Channel, NotOwner
from nsqd.broker.life import ANSWERS, LIFE, REFUSALS, MessageEvent, MessageState
from tests.nsqd.broker.harness import Consumer, Harness, conserved

TIMEOUT = 10.0


class Scene:
    """One message in a channel with two clients, `owner` and `another`, whose windows are closed.

    `on_disk`: its body is on disk only.
    """

    def __init__(self, channel: str, *, on_disk: bool = False) -> None:
        self.harness = Harness(
            max_msg_timeout=60.0, **({"mem_queue_size": 0, "mem_queue_bytes": 0} if on_disk else {})
        )
        self.name = channel
        self.another = self.harness.subscribe(channel, timeout=TIMEOUT)
        self.owner = self.harness.subscribe(channel, timeout=TIMEOUT)
        (self.id,) = self.harness.publish(b"body").ids

    @property
    def channel(self) -> Channel:
        return self.harness.channel(self.name)

    def put_into(self, state: MessageState) -> None:
        if state is MessageState.READY:
            return
        self.deliver()
        if state is MessageState.REQUEUED:
            self.harness.requeue(self.owner, self.id)
        elif state is MessageState.DEFERRED:
            self.harness.requeue(self.owner, self.id, 5.0)
        elif state is MessageState.SETTLED:
            self.harness.finish(self.owner)
        elif state is MessageState.LEAVING:
            self.harness.broker.context.refuse("test", "the dead topic cannot be written")
            self.exhaust()
        elif state is MessageState.DISCONNECTED:
            self.lose_connection()
            self.lose_connection()

    @property
    def state(self) -> MessageState:
        channel = self.channel
        places = {
            MessageState.IN_FLIGHT: sum(len(s.in_flight) for s in channel.subscriptions),
            MessageState.DISCONNECTED: sum(len(s.in_flight) for s in channel.delivery.disconnected),
            MessageState.REQUEUED: len(channel.requeued),
            MessageState.DEFERRED: len(channel.deferred),
            MessageState.LEAVING: len(channel.leaving),
            MessageState.READY: channel.backlog.ready,
        }
        found = [state for state, count in places.items() for _ in range(count)]
        assert len(found) <= 1, "in one place only"
        assert channel.depth == places[MessageState.READY] + places[MessageState.REQUEUED]
        return found[0] if found else MessageState.SETTLED

    # --- events

    def deliver(self) -> None:
        self.harness.rdy(self.owner, 1)
        self.harness.rdy(self.owner, 0)

    def sample_out(self) -> None:
        sampling = self.harness.subscribe(self.name, sample=1)
        self.harness.rdy(sampling, 1)

    def finish(self) -> None:
        self._finish(self.owner)

    def finish_by_another(self) -> None:
        self._finish(self.another)

    def _finish(self, consumer: Consumer) -> None:
        if self.harness.finish(consumer, self.id):
            raise consumer.channel.why_missing(self.id)

    def finish_elsewhere(self) -> None:
        self.channel.finish_elsewhere([(0, 1)])
        self.harness.round()

    def finish_by_operator(self) -> None:
        known = self.state is not MessageState.SETTLED
        assert self.channel.finish_message(0, self.id) is known
        self.harness.round()

    def requeue_by_operator(self) -> None:
        known = self.state is not MessageState.SETTLED
        assert self.channel.requeue_message(0, self.id) is known
        self.harness.round()

    def give_up_by_operator(self) -> None:
        known = self.state is not MessageState.SETTLED
        self.harness.broker.context.refuse("test", "the dead topic cannot be written")
        assert self.channel.dead_letter_message(0, self.id) is known
        self.harness.round()

    def exhaust(self) -> None:
        if self.state is MessageState.IN_FLIGHT:
            self.harness.broker.context.refuse("test", "the dead topic cannot be written")
            self.channel.limit_attempts(1)
            self.harness.requeue(self.owner, self.id, 0)

    def arrive(self) -> None:
        self.harness.broker.context.refuse("test", None)
        self.harness.advance(1.0)
        self.harness.advance(0.5)

    def requeue(self) -> None:
        self.harness.requeue(self.owner, self.id, 0)

    def defer(self) -> None:
        self.harness.requeue(self.owner, self.id, 5.0)

    def touch(self) -> None:
        self.harness.touch(self.owner, self.id)

    def time_out(self) -> None:
        self.harness.advance(TIMEOUT)

    def come_due(self) -> None:
        self.harness.advance(5.0)

    def disconnect(self) -> None:
        self.harness.disconnect(self.owner)

    def lose_connection(self) -> None:
        """The connection ends, and the message is delivered again where that is possible at once."""
        self.harness.disconnect(self.owner)
        self.owner = self.harness.subscribe(self.name, timeout=TIMEOUT)
        if not self.channel.in_flight_count:
            self.deliver()

    def disconnect_again(self) -> None:
        if self.state is MessageState.IN_FLIGHT:
            self.lose_connection()
        self.disconnect()

    def drop(self) -> None:
        self.channel.drop_oldest(1, "max_depth")
        self.harness.round()

    def expire(self) -> None:
        """With a limit that is short, and a clock that stands still: nothing else must become due."""
        self.harness.topic().set_channel_limits(self.name, {"max_age": 1})
        self.channel.expire(1)
        self.harness.round()

    def empty(self) -> None:
        self.harness.topic().empty_channel(self.name)
        self.harness.round()

    def lose(self) -> None:
        self.harness.corrupt(b"body")
        if self.state is MessageState.LEAVING:
            self.arrive()
        else:
            self.deliver()

    def kill(self) -> None:
        self.harness.kill()

    def restart(self) -> None:
        self.harness.restart()


PLAYED: dict[MessageEvent, Callable[[Scene], None]] = {
    MessageEvent.DELIVER: Scene.deliver,
    MessageEvent.SAMPLE_OUT: Scene.sample_out,
    MessageEvent.FINISH: Scene.finish,
    MessageEvent.FINISH_ELSEWHERE: Scene.finish_elsewhere,
    MessageEvent.FINISH_BY_OPERATOR: Scene.finish_by_operator,
    MessageEvent.REQUEUE_BY_OPERATOR: Scene.requeue_by_operator,
    MessageEvent.GIVE_UP_BY_OPERATOR: Scene.give_up_by_operator,
    MessageEvent.EXHAUST: Scene.exhaust,
    MessageEvent.ARRIVE: Scene.arrive,
    MessageEvent.REQUEUE: Scene.requeue,
    MessageEvent.DEFER: Scene.defer,
    MessageEvent.TOUCH: Scene.touch,
    MessageEvent.TIME_OUT: Scene.time_out,
    MessageEvent.COME_DUE: Scene.come_due,
    MessageEvent.DISCONNECT: Scene.disconnect,
    MessageEvent.DISCONNECT_AGAIN: Scene.disconnect_again,
    MessageEvent.DROP: Scene.drop,
    MessageEvent.EXPIRE: Scene.expire,
    MessageEvent.EMPTY: Scene.empty,
    MessageEvent.LOSE: Scene.lose,
    MessageEvent.KILL: Scene.kill,
    MessageEvent.RESTART: Scene.restart,
}
GONE = (MessageState.LEAVING, MessageState.SETTLED)
"""Not to be delivered any more."""
OF_THE_DISK = (MessageEvent.LOSE, MessageEvent.KILL, MessageEvent.RESTART)
NOT_IN_MEMORY = (*OF_THE_DISK, MessageEvent.FINISH_ELSEWHERE)
"""Nothing of an ephemeral channel is kept over a stop, and nothing of it is on the disk, or in a copy."""
ALL = [*product(MessageState, MessageEvent)]


def test_every_event_is_played() -> None:
    assert set(PLAYED) == set(MessageEvent)


def test_every_state_but_one_refuses_answers() -> None:
    assert set(REFUSALS) == set(MessageState) - {MessageState.IN_FLIGHT}
    assert not [(state, event) for state, event in LIFE if state in REFUSALS and event in ANSWERS]


def expected(state: MessageState, event: MessageEvent) -> MessageState:
    """What the table says. Time that passes for a time-out passes for what is deferred too, and the other way round."""
    if event is MessageEvent.TIME_OUT and state is MessageState.DEFERRED:
        event = MessageEvent.COME_DUE
    # While it waits to be lost, a message is looked for, and found where it is not on its way to a consumer.
    return LIFE.get((state, event), state)


@pytest.mark.parametrize(
    ("name", "state", "event"),
    [("c", state, event) for state, event in ALL]
    + [("c#ephemeral", state, event) for state, event in ALL if event not in NOT_IN_MEMORY],
    ids=str,
)
def test_the_life_of_a_message(
    name: str, state: MessageState, event: MessageEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "randrange", lambda _: 99)  # a sampling client gets none
    scene = Scene(name, on_disk=event is MessageEvent.LOSE)
    scene.put_into(state)
    assert scene.state is state
    if event in ANSWERS and state in REFUSALS:
        with pytest.raises(REFUSALS[state]):
            PLAYED[event](scene)
    else:
        PLAYED[event](scene)
    assert scene.state is expected(state, event)
    if event not in OF_THE_DISK:
        assert conserved(scene.channel)
    scene.channel.invariant()


@pytest.mark.parametrize("name", ["c", "c#ephemeral"])
def test_another_client_cannot_answer(name: str) -> None:
    scene = Scene(name)
    scene.deliver()
    with pytest.raises(NotOwner):
        scene.finish_by_another()
    assert scene.state is MessageState.IN_FLIGHT


@pytest.mark.parametrize("name", ["c", "c#ephemeral"])
@pytest.mark.parametrize("state", [state for state in MessageState if state not in GONE])
def test_a_message_that_is_not_settled_is_delivered_once_more(name: str, state: MessageState) -> None:
    scene = Scene(name)
    scene.put_into(state)
    scene.owner.new()
    scene.harness.disconnect(scene.owner)
    scene.harness.rdy(scene.another, 10)
    if not scene.another.received:
        assert scene.state in (MessageState.DEFERRED, MessageState.DISCONNECTED)
        scene.harness.advance(TIMEOUT)
    assert scene.another.bodies() == [b"body"]
    scene.harness.finish(scene.another)
    assert scene.state is MessageState.SETTLED
