"""The context that the handlers of the API and of the pages share: one console for one cluster."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from nsqadmin.actions import Actions
from nsqadmin.alarms.alarm import Alarm
from nsqadmin.alarms.watch import AlarmWatch
from nsqadmin.audit import client_of
from nsqadmin.auth import Identity, identity_of
from nsqadmin.auth.authentication import Authentication
from nsqadmin.cluster.consumers import ConsumerQueries
from nsqadmin.cluster.history import History
from nsqadmin.cluster.poller import ClusterPoller
from nsqadmin.cluster.queries import ClusterQueries
from nsqadmin.cluster.selection import Selections
from nsqadmin.options import AdminOptions
from nsqadmin.origins import Origins
from nsqkit.audit import AuditTrail
from nsqkit.service.http import HttpError, Request
from nsqkit.service.http.audit import HttpAudit
from nsqkit.version import VERSION

__all__ = ["Console"]


@attrs.define(eq=False, kw_only=True)
class Console:
    """What the request handlers share."""

    options: AdminOptions
    poller: ClusterPoller
    consumers: ConsumerQueries
    history: History
    queries: ClusterQueries
    """Sent for each request of the API."""
    actions: Actions
    alarms: AlarmWatch
    trail: AuditTrail = attrs.field(factory=AuditTrail)
    audit: HttpAudit = attrs.field(init=False)
    """Records what is changed here."""
    origins: Origins = attrs.field(default=attrs.Factory(lambda self: Origins(self.options), takes_self=True))
    authentication: Authentication = attrs.field(
        default=attrs.Factory(lambda self: Authentication(self.options, None), takes_self=True)
    )
    selections: Selections = attrs.field(factory=Selections, init=False)
    version: str = VERSION
    stopping: trio.Event = attrs.field(factory=trio.Event)
    """Set when nsqadmin stops, which ends the streams."""

    @audit.default
    def _audit(self) -> HttpAudit:
        return HttpAudit(self.trail, client_of)

    @property
    def base_path(self) -> str:
        """What every path begins with: empty, or for example `/adm`."""
        return self.options.base_path.rstrip("/")

    def url(self, path: str) -> str:
        """The path below the base path, for a route or a link; `path` begins with a slash."""
        return self.base_path + path if path != "/" else self.base_path or "/"

    def check_topic(self, request: Request, topic: str) -> None:
        """Raise `HttpError` 403 unless its sender may have to do with this topic, which is in the body."""
        if not identity_of(request).topics.include(topic):
            raise HttpError(403, "FORBIDDEN")

    def alarms_for(self, identity: Identity) -> Sequence[Alarm]:
        """The alarms that he sees, the worst first. Those of nodes may name any topic."""
        alarms = self.alarms.alarms
        if identity.topics.are_all:
            return alarms
        return [each for each in alarms if each.subject.topic and identity.topics.include(each.subject.topic)]

    def token_for(self, identity: Identity) -> str:
        """What his pages have to show with a change; see `origins`."""
        return identity.token or self.origins.token
