"""The context that the handlers of the API and of the pages share: one console for one cluster."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import trio

from nsqadmin.access import check_admin, is_admin
from nsqadmin.actions import Actions
from nsqadmin.alarms.watch import AlarmWatch
from nsqadmin.audit import client_of
from nsqadmin.cluster.consumers import ConsumerQueries
from nsqadmin.cluster.history import History
from nsqadmin.cluster.poller import ClusterPoller
from nsqadmin.cluster.queries import ClusterQueries
from nsqadmin.options import AdminOptions
from nsqadmin.origins import Origins
from nsqkit.audit import AuditTrail
from nsqkit.service.http import Request
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
    version: str = VERSION
    stopping: trio.Event = attrs.field(factory=trio.Event)
    """Set when nsqadmin stops, which ends the streams."""

    @audit.default
    def _audit(self) -> HttpAudit:
        return HttpAudit(self.trail, client_of(self.options))

    @property
    def base_path(self) -> str:
        """What every path begins with: empty, or for example `/adm`."""
        return self.options.base_path.rstrip("/")

    def url(self, path: str) -> str:
        """The path below the base path, for a route or a link; `path` begins with a slash."""
        return self.base_path + path if path != "/" else self.base_path or "/"

    def is_admin(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these headers (names in lower case) may change the cluster."""
        return is_admin(self.options, headers)

    def check_change(self, request: Request) -> None:
        """Raise `HttpError` 403 unless an administrator sent the request, and not a page of another site."""
        check_admin(self.options, request)
        self.origins.check_same_site(request)
