"""The rules: what is wrong with a channel, a topic, a node, or the cluster as a whole, as a snapshot shows it.

Each rule is a function that gives an alarm or None; `since` is the time of the snapshot unless the rule knows better.
The tables at the end list them. Rules in one group name the same trouble from different sides (why messages wait), and
only the first that applies counts.

What nsqadmin does not know is no alarm: original nsqds do not report the age of messages, free space, lost messages
or copies, and without a history (`--history-bytes=0`) there are no alarms about growth and shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Final

import attrs

from nsqadmin.alarms.alarm import Alarm, Kind, Subject
from nsqadmin.alarms.memory import GoneNode, Memory
from nsqadmin.cluster.history import History
from nsqadmin.cluster.snapshot import ChannelSnapshot, ClusterSnapshot, NodeSnapshot, Problem, TopicSnapshot
from nsqadmin.model import ChannelStats, TopicStats
from nsqadmin.options import AdminOptions
from nsqadmin.text import duration_text, number_text, percent, rate_text
from nsqkit.options import MILLISECOND, MINUTE, SECOND

__all__ = ["Situation", "channel_alarms", "cluster_alarms", "node_alarms", "topic_alarms"]

_LEAST_GROWTH: Final = 0.02
"""Of the depth, in the minutes that are looked at: a large backlog goes up and down without growing or shrinking."""
_SHARE_MINUTES: Final = 3
_LEAST_FAILURES: Final = 3
"""In these minutes: one time-out among two deliveries says nothing."""
_RECORD_OVERHEAD: Final = 40
"""Bytes on disk for each message besides its body, about."""
_NAMED: Final = 3
"""Nodes that a text names; the others are counted."""
_EXPIRES_SOON_S: Final = 14 * 24 * 3600
_MAX_REASON: Final = 300
"""Characters of what a daemon reported."""


@attrs.frozen(eq=False)
class Situation:
    """What the rules look at."""

    snapshot: ClusterSnapshot
    history: History
    memory: Memory
    options: AdminOptions
    _silent: frozenset[str] = attrs.field(init=False)
    """Nodes that do not answer: their figures are old, and they have no rates."""

    @_silent.default
    def _find_silent(self) -> frozenset[str]:
        nodes = self.snapshot.nodes.items()
        return frozenset(address for address, node in nodes if node.problem is not None)

    copy_holders: dict[str, str] = attrs.field(init=False)
    """Of the copies that can be adopted: the HTTP address of a node that has it, by the TCP address of its leader."""

    @copy_holders.default
    def _find_copies(self) -> dict[str, str]:
        return {
            copy.name: address
            for address, node in self.snapshot.nodes.items()
            if node.problem is None and node.copies is not None
            for copy in node.copies.held
            if copy.complete and not copy.adopted
        }

    @property
    def at(self) -> float:
        """The time, unix seconds."""
        return self.snapshot.at

    def answering(self, parts: Sequence[ChannelStats] | None) -> Iterator[ChannelStats]:
        """The parts of a sum whose nodes answer."""
        return (part for part in parts or () if part.node not in self._silent)


@attrs.frozen
class _Growth:
    since: float
    per_second: float


# Why messages of a channel wait.


def _disk_full(situation: Situation, topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    growth = _growth(situation, channel.topic, channel.name, channel.stats.depth)
    if growth is None:
        return None
    full = _first_full_disk(situation, topic, channel, growth)
    if full is None or full[1] > situation.options.alarm_disk_full_within / SECOND:
        return None
    node, seconds = full
    if channel.stats.paused:
        advice = "Unpause the channel, or empty it."
    elif not channel.stats.client_count:
        advice = "Start a consumer, or empty or delete the channel."
    else:
        advice = (
            "Add consumers, publish less, or make room on the disk: when it is full, publishes are refused."
        )
    return Alarm(
        kind=Kind.DISK_FULL,
        subject=_of(channel),
        since=growth.since,
        text=f"{_growing(channel, growth)}; the disk of {node} is full in {duration_text(seconds)} at this rate",
        advice=advice,
        figures={
            "messages": channel.stats.depth,
            "messages_per_second": growth.per_second,
            "disk_full_in_seconds": seconds,
        },
    )


def _paused(situation: Situation, _topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    if not channel.stats.paused or not channel.stats.depth:
        return None
    return Alarm(
        kind=Kind.PAUSED,
        subject=_of(channel),
        since=situation.at,
        text=f"{_messages(channel.stats.depth)} waiting in a paused channel",
        advice="Unpause the channel when its consumers may work again.",
        figures={"messages": channel.stats.depth},
    )


def _no_consumer(situation: Situation, _topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    parts = channel.stats.nodes or ()
    without = [part for part in parts if part.depth and not part.client_count]
    if not without:
        return None
    waiting = sum(part.depth for part in without)
    if channel.stats.client_count:
        where, advice = (
            f" on {_named(without)}",
            "See why consumers do not connect to it: its address, or a firewall.",
        )
    else:
        where, advice = (
            "",
            "Start a consumer, or delete the channel if nobody needs it: it keeps disk space in use.",
        )
    return Alarm(
        kind=Kind.NO_CONSUMER,
        subject=_of(channel),
        since=situation.at,
        text=f"{_messages(waiting)} waiting, no consumer{where}",
        advice=advice,
        figures={"messages": waiting},
    )


def _behind(situation: Situation, topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    growth = _growth(situation, channel.topic, channel.name, channel.stats.depth)
    if growth is None:
        return None
    full = _first_full_disk(situation, topic, channel, growth)
    disk = f"; the disk of {full[0]} is full in {duration_text(full[1])} at this rate" if full else ""
    return Alarm(
        kind=Kind.BEHIND,
        subject=_of(channel),
        since=growth.since,
        text=_growing(channel, growth) + disk,
        advice="Add consumers, make their handlers faster, or publish less.",
        figures={
            "messages": channel.stats.depth,
            "messages_per_second": growth.per_second,
            **({"disk_full_in_seconds": full[1]} if full else {}),
        },
    )


def _old(situation: Situation, _topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    age_ms = channel.oldest_unfinished_ms
    if age_ms is None or age_ms * MILLISECOND < situation.options.alarm_max_age:
        return None
    # Of messages that are only deferred, the age says nothing.
    if not channel.stats.depth and not channel.stats.in_flight_count:
        return None
    return Alarm(
        kind=Kind.OLD,
        subject=_of(channel),
        since=situation.at,
        text=f"the oldest message is {duration_text(age_ms / 1000)} old",
        advice="Look for one message that always fails, in the consumers' logs; otherwise add consumers.",
        figures={"oldest_seconds": age_ms / 1000},
    )


# What else may be wrong with a channel.


def _damaged(situation: Situation, _topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    loss = situation.memory.loss(channel.topic, channel.name)
    if loss is None or situation.at - loss.at >= situation.options.alarm_remember / SECOND:
        return None
    nodes = [part for part in channel.stats.nodes or () if part.damaged_count]
    return Alarm(
        kind=Kind.DAMAGED,
        subject=_of(channel),
        since=loss.since,
        text=f"{_messages(loss.messages)} lost to damage on the disk of {_named(nodes)}",
        advice="The log of the nsqd names file and position, and the bytes are kept beside it: replace the disk.",
        figures={"messages": loss.messages},
    )


def _stuck(situation: Situation, _topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    if not channel.stats.in_flight_count or channel.out_rate is None or channel.out_rate > 0:
        return None
    in_flight = sum(part.in_flight_count for part in situation.answering(channel.stats.nodes))
    if not in_flight:
        return None
    return Alarm(
        kind=Kind.STUCK,
        subject=_of(channel),
        since=situation.at,
        text=f"{_messages(in_flight)} in flight, and none finished",
        advice="See what the handlers wait for, and restart the consumers if they hang.",
        figures={"messages": in_flight},
    )


def _timeouts(situation: Situation, _topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    if not channel.timeouts_per_minute:
        return None
    deliveries = _deliveries(situation, channel)
    if not _is_above(deliveries.timed_out, deliveries.total, situation.options.alarm_timeout_percent):
        return None
    return Alarm(
        kind=Kind.TIMEOUTS,
        subject=_of(channel),
        since=situation.at,
        text=f"{percent(deliveries.timed_out, deliveries.total)} of the deliveries time out",
        advice="Handlers crash or take too long: TOUCH, a longer message time-out, or fewer messages in flight.",
        figures=_share(deliveries.timed_out, deliveries.total),
    )


def _requeues(situation: Situation, _topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    if not channel.requeues_per_minute:
        return None
    deliveries = _deliveries(situation, channel)
    if not _is_above(deliveries.requeued, deliveries.total, situation.options.alarm_requeue_percent):
        return None
    return Alarm(
        kind=Kind.REQUEUES,
        subject=_of(channel),
        since=situation.at,
        text=f"{percent(deliveries.requeued, deliveries.total)} of the deliveries are requeued",
        advice="Handlers fail: the consumers' logs have the reason.",
        figures=_share(deliveries.requeued, deliveries.total),
    )


def _idle(situation: Situation, _topic: TopicSnapshot, channel: ChannelSnapshot) -> Alarm | None:
    idle = [
        (part, part.idle)
        for part in situation.answering(channel.stats.nodes)
        if part.idle is not None and part.idle.alarm
    ]
    if not idle:
        return None
    first, its = min(idle, key=lambda each: each[1].ttl_ms - each[1].idle_ms)
    waiting = sum(part.depth + part.deferred_count for part, _ in idle)
    left = max(0.0, its.ttl_ms - its.idle_ms) / 1000
    action = {"delete": "deletes", "pause": "pauses"}.get(its.action, "ends")
    return Alarm(
        kind=Kind.IDLE,
        subject=_of(channel),
        since=situation.at,
        text=f"{_named([first])} {action} it in {duration_text(left)}, as it has had no consumer for "
        f"{duration_text(its.idle_ms / 1000)}; {_messages(waiting)} waiting",
        advice="Start a consumer, or raise its idle_ttl, if anybody still needs it.",
        figures={"messages": waiting, "seconds_left": left},
    )


# Topics.


def _topic_paused(situation: Situation, topic: TopicSnapshot) -> Alarm | None:
    waiting = sum(part.depth for part in topic.stats.nodes or () if part.paused)
    if not waiting:
        return None
    return Alarm(
        kind=Kind.PAUSED,
        subject=Subject(topic=topic.name),
        since=situation.at,
        text=f"{_messages(waiting)} waiting in a paused topic",
        advice="Unpause the topic when its channels may receive messages again.",
        figures={"messages": waiting},
    )


def _no_channel(situation: Situation, topic: TopicSnapshot) -> Alarm | None:
    without = [
        part for part in topic.stats.nodes or () if part.depth and not part.channels and not part.paused
    ]
    if not without:
        return None
    waiting = sum(part.depth for part in without)
    where = f" on {_named(without)}" if topic.channels else ""
    return Alarm(
        kind=Kind.NO_CHANNEL,
        subject=Subject(topic=topic.name),
        since=situation.at,
        text=f"{_messages(waiting)} waiting, no channel{where}",
        advice="Start a consumer, which creates its channel, or delete the topic if nobody needs it.",
        figures={"messages": waiting},
    )


# Nodes.


def _silent(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    problem = node.problem
    # A drain ends with the exit of the nsqd; without registries, its address stays.
    if problem is None or node.draining is not None:
        return None
    unfinished = node.depth + node.in_flight_count
    return Alarm(
        kind=Kind.SILENT,
        subject=Subject(node=node.address),
        since=problem.since,
        text=f"it does not answer ({problem.error[:_MAX_REASON]}){_out_of_reach(unfinished)}",
        advice="See on its machine whether nsqd runs, what its log says last, and whether requests get through."
        + _how_to_adopt(situation, node.node.tcp_address),
        figures={"messages": unfinished},
    )


def _refuses(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    if node.problem is not None or not node.health or node.health.startswith("OK"):
        return None
    reason = node.health.removeprefix("NOK - ")[:_MAX_REASON]
    if "space" in reason:
        advice = "Make room on its disk, or delete channels without consumers; it recovers by itself within seconds."
    elif "cut off" in reason:
        advice = "See the network between it, its followers and the nsqlookupds; with --fence=on it waits for them."
    elif "copies" in reason:
        advice = "Bring back its followers: with fewer copies than --min-copies it takes no messages."
    else:
        advice = "See the log of this nsqd and the kernel's: it could not write to its disk."
    return Alarm(
        kind=Kind.REFUSES,
        subject=Subject(node=node.address),
        since=situation.at,
        text=f"it refuses publishes ({reason})",
        advice=advice,
    )


def _damaged_files(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    return _topic_refused(situation, node) or _unmended(situation, node)


def _topic_refused(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    if node.problem is not None or not node.health.startswith("OK - topic "):
        return None
    return Alarm(
        kind=Kind.DAMAGED,
        subject=Subject(node=node.address),
        since=situation.at,
        text=node.health.removeprefix("OK - ")[:_MAX_REASON],
        advice="Put the files of the topic back where its log says that they are missing, or delete the topic.",
    )


def _unmended(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    copies = node.copies
    if node.problem is not None or copies is None or not copies.unmended:
        return None
    more = f" and {copies.more_unmended} more" if copies.more_unmended else ""
    return Alarm(
        kind=Kind.DAMAGED,
        subject=Subject(node=node.address),
        since=situation.at,
        text=f"damage that its followers' copies could not mend, in {', '.join(copies.unmended)}{more}",
        advice="Its log says where, and what is lost: replace the disk. It ends when the messages in these files are "
        "finished.",
        figures={"segments": len(copies.unmended) + copies.more_unmended},
    )


def _under_replicated(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    copies = node.copies
    if node.problem is not None or copies is None or not copies.missing:
        return None
    behind = [f"{each.address} ({each.state})" for each in copies.followers if not each.in_step]
    more = f" and {len(behind) - _NAMED} more" if len(behind) > _NAMED else ""
    which = f"; out of step: {', '.join(behind[:_NAMED])}{more}" if behind else ""
    return Alarm(
        kind=Kind.UNDER_REPLICATED,
        subject=Subject(node=node.address),
        since=situation.at,
        text=f"{copies.in_step} of {copies.wanted} copies of its messages are in step, its own included{which}",
        advice="Bring back its followers; one that catches up needs time only. Until then, fewer failures can be "
        "survived.",
        figures={"missing": copies.missing, "wanted": copies.wanted},
    )


def _not_adopted(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    copies = node.copies
    if node.problem is not None or copies is None:
        return None
    waiting = [each for each in copies.held if each.undecided and not each.adopted and not each.connected]
    if not waiting:
        return None
    more = f", and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    return Alarm(
        kind=Kind.NOT_ADOPTED,
        subject=Subject(node=node.address),
        since=situation.at,
        text=f"{waiting[0].name} is silent, and its copy here is not served: {waiting[0].undecided}{more}",
        advice="Bring it back. If it is gone for good, adopt its copy on the page of this node; but look at the "
        "network first, if several nodes are silent.",
        figures={"copies": len(waiting)},
    )


def _no_takeover(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    copies = node.copies
    if node.problem is not None or copies is None or not copies.obstacle:
        return None
    return Alarm(
        kind=Kind.NO_TAKEOVER,
        subject=Subject(node=node.address),
        since=situation.at,
        text=f"if it is lost, nobody adopts its copies by itself: {copies.obstacle}",
        advice="Run at least three nsqlookupds of this version on machines of their own, and name them to all nsqds.",
    )


def _not_audited(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    if node.problem is not None or not node.is_not_audited:
        return None
    return Alarm(
        kind=Kind.NOT_AUDITED,
        subject=Subject(node=node.address),
        since=situation.at,
        text=f"its {node.health.removeprefix('OK - ')[:_MAX_REASON]}",
        advice="Make room on that disk, or mend it: lines wait in memory, and are lost when there are too many.",
    )


def _certificate(situation: Situation, node: NodeSnapshot) -> Alarm | None:
    if node.problem is not None:
        return None
    return _expiring(situation, Subject(node=node.address), node.usage.certificate_expiry)


def _expiring(situation: Situation, subject: Subject, expiry: float | None) -> Alarm | None:
    if expiry is None or (left := expiry - situation.at) > _EXPIRES_SOON_S:
        return None
    when = f"expires in {duration_text(left)}" if left > 0 else f"has expired {duration_text(-left)} ago"
    return Alarm(
        kind=Kind.CERTIFICATE,
        subject=subject,
        since=situation.at,
        text=f"its certificate {when}",
        advice="Put a new one into its files; it is read within a second, and nothing is disconnected.",
        figures={"expires_in_seconds": left},
    )


# The cluster.


def _gone(situation: Situation, node: GoneNode) -> Alarm:
    return Alarm(
        kind=Kind.SILENT,
        subject=Subject(node=node.address),
        since=node.seen_at,
        text=f"no registry lists it any more{_out_of_reach(node.unfinished)}",
        advice="Start it again; if it was removed for good, its messages are on its disk, unless it was drained."
        + _how_to_adopt(situation, node.tcp_address),
        figures={"messages": node.unfinished},
    )


def _registry_silent(problem: Problem) -> Alarm:
    return Alarm(
        kind=Kind.SILENT,
        subject=Subject(registry=problem.address),
        since=problem.since,
        text=f"it does not answer ({problem.error[:_MAX_REASON]})",
        advice="Start it again, or remove its address everywhere: consumers find new nsqds through registries only.",
    )


_ChannelRule = Callable[[Situation, TopicSnapshot, ChannelSnapshot], Alarm | None]

_CHANNEL_RULES: Final[tuple[tuple[_ChannelRule, ...], ...]] = (
    (_damaged,),
    (_disk_full, _paused, _no_consumer, _behind, _old),
    (_stuck,),
    (_timeouts,),
    (_requeues,),
    (_idle,),
)
_TOPIC_RULES: Final = (_topic_paused, _no_channel)
_NODE_RULES: Final = (
    _silent,
    _refuses,
    _damaged_files,
    _under_replicated,
    _not_adopted,
    _no_takeover,
    _not_audited,
    _certificate,
)


def channel_alarms(situation: Situation, topic: TopicSnapshot, channel: ChannelSnapshot) -> Iterator[Alarm]:
    """What is wrong with a channel of this topic."""
    for group in _CHANNEL_RULES:
        found = (alarm for rule in group if (alarm := rule(situation, topic, channel)) is not None)
        yield from [alarm for alarm in [next(found, None)] if alarm is not None]


def topic_alarms(situation: Situation, topic: TopicSnapshot) -> Iterator[Alarm]:
    """What is wrong with a topic, besides its channels."""
    return (alarm for rule in _TOPIC_RULES if (alarm := rule(situation, topic)) is not None)


def node_alarms(situation: Situation, node: NodeSnapshot) -> Iterator[Alarm]:
    """What is wrong with a node."""
    return (alarm for rule in _NODE_RULES if (alarm := rule(situation, node)) is not None)


def cluster_alarms(situation: Situation) -> Iterator[Alarm]:
    """What is wrong with registries, and with nodes that are not in the snapshot."""
    for problem in situation.snapshot.problems:
        if problem.kind == "nsqlookupd":
            yield _registry_silent(problem)
    for address, expiry in situation.snapshot.certificates.items():
        if (alarm := _expiring(situation, Subject(registry=address), expiry)) is not None:
            yield alarm
    for node in situation.memory.gone_nodes:
        yield _gone(situation, node)


# Figures.


@attrs.frozen
class _Deliveries:
    """Of the last minutes, by how they ended."""

    finished: float
    requeued: float
    timed_out: float

    @property
    def total(self) -> float:
        return self.finished + self.requeued + self.timed_out


def _deliveries(situation: Situation, channel: ChannelSnapshot) -> _Deliveries:
    minutes = situation.history.last_minutes(channel.topic, channel.name, _SHARE_MINUTES)
    rates = [values[3:] for _, values in minutes]
    finished, requeued, timed_out = (
        (60 * sum(column) for column in zip(*rates, strict=True)) if rates else (0, 0, 0)
    )
    return _Deliveries(finished, requeued, timed_out)


def _is_above(failures: float, deliveries: float, limit_percent: int) -> bool:
    # Rates are averages: what was three time-outs may be 2.9999.
    return round(failures) >= _LEAST_FAILURES and failures * 100 > deliveries * limit_percent


def _share(failures: float, deliveries: float) -> dict[str, float]:
    return {
        "percent": round(100 * failures / deliveries, 1),
        "per_minute": round(failures / _SHARE_MINUTES, 1),
    }


def _growth(situation: Situation, topic: str, channel: str, depth: int) -> _Growth | None:
    """How a backlog grows that is large enough, and was larger in each of the last minutes than in the one before."""
    if depth < situation.options.alarm_backlog:
        return None
    count = max(2, situation.options.alarm_behind_after // MINUTE)
    minutes = situation.history.last_minutes(topic, channel, count)
    if len(minutes) < count:
        return None
    depths = [values[0] for _, values in minutes]
    if any(later <= earlier for earlier, later in pairwise([*depths, depth])):
        return None
    if depth - depths[0] < depth * _LEAST_GROWTH:
        return None
    since, last = minutes[0][0], minutes[-1][0]
    if last <= since:  # the wall clock was set back
        return None
    return _Growth(since, (depths[-1] - depths[0]) / (last - since))


def _first_full_disk(
    situation: Situation, topic: TopicSnapshot, channel: ChannelSnapshot, growth: _Growth
) -> tuple[str, float] | None:
    """The node whose disk is full first, and in how many seconds. None if no node reports its free space."""
    if not topic.stats.message_count or not channel.stats.depth:
        return None
    size = _RECORD_OVERHEAD + topic.stats.message_bytes / topic.stats.message_count
    found = []
    for part in channel.stats.nodes or ():
        node = situation.snapshot.nodes.get(part.node)
        free = node.usage.disk_free_bytes if node is not None else None
        if free is not None and 0 <= free < inf and part.depth:
            # The nodes have their shares of the growth as they have of the backlog.
            share = part.depth / channel.stats.depth
            found.append((free / (growth.per_second * share * size), part.node))
    if not found:
        return None
    seconds, address = min(found)
    return address, seconds


# Texts.


def _of(channel: ChannelSnapshot) -> Subject:
    return Subject(topic=channel.topic, channel=channel.name)


def _messages(count: float) -> str:
    return "1 message" if count == 1 else f"{number_text(count)} messages"


def _growing(channel: ChannelSnapshot, growth: _Growth) -> str:
    return f"{_messages(channel.stats.depth)} waiting, {rate_text(growth.per_second)} a second more"


def _out_of_reach(unfinished: int) -> str:
    return f", {_messages(unfinished)} out of reach" if unfinished else ""


def _how_to_adopt(situation: Situation, tcp_address: str) -> str:
    """What to add to the advice about a node that is away."""
    holder = situation.copy_holders.get(tcp_address)
    return f" If it is gone for good: {holder} has a copy, which can be adopted there." if holder else ""


def _named(parts: Iterable[ChannelStats] | Iterable[TopicStats]) -> str:
    names = [part.node for part in parts]
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
