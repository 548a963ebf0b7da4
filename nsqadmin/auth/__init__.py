"""Who uses the console: users, passwords, sessions, and the one place that says whose a request is.

`identity` has what handlers see, `authentication` finds it out. `command` is `nsqadmin user`.
"""

from nsqadmin.auth.identity import ALL_TOPICS, STRANGER, Identity, Means, Role, Topics, identity_of

__all__ = ["ALL_TOPICS", "STRANGER", "Identity", "Means", "Role", "Topics", "identity_of"]
