"""A topic made from its recovered state. Requeued messages are delivered at once, deferred ones at their due time.

Due times are recorded as wall time, and the wall clock may be wrong at boot. So a deferred message waits no longer than
it had to when its due time was recorded, from the start on (`ChannelState.longest`), nor longer than
`max_req_timeout`, and its due time is computed again when the clock is set (`Channel.wall_clock_moved`).
"""

from __future__ import annotations

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.log_view import LogView
from nsqd.broker.topic import Topic, TopicListener
from nsqd.broker.topic_store import LogTopicStore
from nsqd.log.recovery import Recovered
from nsqd.log.state import Change, ChannelState, Code

__all__ = ["restore_topic"]


def restore_topic(
    context: BrokerContext, listener: TopicListener, name: str, recovered: Recovered
) -> tuple[Topic, LogView]:
    """The topic, not yet registered with the broker, and its log. Changes that recovery has derived are recorded if
    possible.
    """
    state = recovered.state
    view = LogView(context, name, recovered.log)
    view.high_watermark = min(state.high_watermark, state.end)
    view.letters, view.directed = state.letters, state.directed
    view.segments_removed()
    store = LogTopicStore(view)
    topic = Topic(context, listener, name, store)
    topic.paused, topic.own_settings = state.paused, state.settings
    topic.deferred, topic.last_generation = state.deferred, state.last_generation
    topic.unavailable = state.unavailable
    for seq, (due_ns, delay_ns) in state.delayed.items():
        # As for channels: no longer than the delay, in case the wall clock is behind.
        topic.delayed[seq] = context.now + min(due_ns - context.wall_ns, delay_ns) / 1e9
    topic.forget_due()
    topic.started = not (context.options.has_registries and view.log.end > view.high_watermark == 0)
    for channel_state in state.channels.values():
        channel = Channel(context, name, channel_state.name, store.restored_backlog(channel_state))
        channel.paused, channel.own_settings = channel_state.paused, channel_state.settings
        channel.redrive = channel_state.redrive
        topic.channels[channel.name] = channel
    topic.resolve_settings()
    for channel_state in state.channels.values():
        channel = topic.channels[channel_state.name]
        _restore_waiting(channel, channel_state)
        channel.give_up_exhausted()
    # The record of the high watermark may be lost although later records prove that these messages had flowed.
    for seq in [seq for seq in topic.deferred if seq < view.high_watermark]:
        due = context.now + topic.deferred.pop(seq) / 1e9
        for channel in topic.channels.values():
            channel.backlog.enter_deferred(seq, None)
            channel.defer(seq, 0, due)
    for adopted in recovered.adopted:
        if channel_now := topic.channels.get(adopted.name):
            start = adopted.settled.end_of(0)
            topic.try_write_changes(channel_now.backlog.record(Code.CHANNEL_CREATED, adopted.name, start))
    if recovered.damage:
        lost: list[Change] = [(Code.LOST, d.first, d.end, True) for d in recovered.damage if d.end > d.first]
        topic.try_write_changes(lost)
    if topic.flowing and topic.has_backlog:
        changes = [topic.flow_change()]
        topic.flow()
        topic.try_write_changes(changes)
    return topic, view


def _restore_waiting(channel: Channel, state: ChannelState) -> None:
    context = channel.context
    waiting = state.awaiting_redelivery
    channel.restore_lost_connections({n: count for n, count in state.not_counted.items() if n in waiting})
    for seq in sorted(state.awaiting_redelivery):
        attempts, due_ns = state.awaiting_redelivery[seq]
        if due_ns == 0:
            channel.requeued.append((seq, attempts))
            continue
        longest_ns = state.longest.get(seq)
        if longest_ns is None:
            longest = context.options.max_req_timeout
        else:
            longest = min(longest_ns / 1e9, context.options.max_req_timeout)
            # A clock that has not gone back since the due time was recorded leaves no more than that.
            context.clock_behind = max(context.clock_behind, (due_ns - context.wall_ns - longest_ns) / 1e9)
        channel.restore_deferred(seq, attempts, due_ns, longest)
